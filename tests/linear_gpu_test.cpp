// The linear layer's GPU kernels against the cpu's in f64.
#include <cmath>
#include <optional>

#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/linear.h"
#include "kernels/common/linear_plan.h"
#include "kernels/linear.h"
#include "tests/support/gpu.h"

namespace weft {
namespace {

using test::back;
using test::in_every_order;
using test::on;
using test::output;
using test::relative_error;
using test::values;

namespace plan = kernels::linear_plan;

constexpr Dtype kDtypes[] = {Dtype::f32, Dtype::bf16, Dtype::f16, Dtype::f64};

// The kernel's sums have k terms of order 1 and random errors: sqrt(k) roundings in f32 (f64 for f64) relative to the
// result, with some room. What is stored is rounded once: by at most half a unit in the last place of each element.
double tolerance(Dtype dtype, std::int64_t k) {
  const double sum = dtype == Dtype::f64 ? 0x1p-53 : 0x1p-24;
  const double stored = dtype == Dtype::bf16 ? 0x1p-8 : dtype == Dtype::f16 ? 0x1p-11 : 0;
  return sum * (2 + std::sqrt(static_cast<double>(k))) + stored;
}

struct Problem {
  std::int64_t rows, in, out;
};
std::ostream& operator<<(std::ostream& stream, const Problem& p) {
  return stream << "R " << p.rows << " K " << p.in << " N " << p.out;
}

// How the operands lie in memory: as allocated, or one element further, where no 16-byte access is possible.
enum class Base : std::uint8_t { aligned, odd };

Tensor placed(const Tensor& x, Base base, Device device) {
  if (base == Base::aligned) return on(device, x);
  const Tensor shifted = Tensor::empty({x.numel() + 1}, x.dtype());
  shifted.slice(0, 1, x.numel() + 1).copy_bytes_from(x.reshape({x.numel()}));
  return on(device, shifted).slice(0, 1, x.numel() + 1).reshape(x.shape());
}

// Exactly as large as the op asks for, so that a workspace that is too small is a fault.
struct Workspace {
  Workspace(std::int64_t bytes, Device device)
      : memory(bytes > 0 ? Tensor::empty({bytes}, Dtype::u8, device) : Tensor()) {}
  void* data() const { return memory.defined() ? memory.raw_data() : nullptr; }
  Tensor memory;
};

void* data_or_null(const Tensor& x) { return x.defined() ? x.raw_data() : nullptr; }

// One linear layer's inputs in a dtype and on the device, and in f64 on the cpu as they were stored.
struct Layer {
  Layer(Device device, Dtype dtype, const Problem& p, Base base = Base::aligned)
      : device(device), dtype(dtype), p(p), base(base) {
    const auto make = [&](const Shape& shape, std::uint64_t seed, Tensor& here, Tensor& exact) {
      const Tensor stored = cast(randn(shape, seed), dtype);
      here = placed(stored, base, device);
      exact = cast(stored, Dtype::f64);
    };
    make({p.rows, p.in}, 1, x, exact_x);
    make({p.out, p.in}, 2, weight, exact_weight);
    make({p.out}, 3, bias, exact_bias);
    make({p.rows, p.out}, 4, dz, exact_dz);
    make({p.out, p.in}, 5, old_weight, exact_old_weight);
    make({p.out}, 6, old_bias, exact_old_bias);
  }
  /// Memory for a result: NaN, or a copy of `old` to add to.
  Tensor result(const Shape& shape, const Tensor& old, Accumulate mode) const {
    if (mode == Accumulate::add) return placed(back(old), base, device);
    const Tensor out = output(device, {shape.numel() + 1}, dtype);
    const std::int64_t start = base == Base::odd ? 1 : 0;
    return out.slice(0, start, start + shape.numel()).reshape(shape);
  }

  Device device;
  Dtype dtype;
  Problem p;
  Base base;
  Tensor x, weight, bias, dz, old_weight, old_bias;
  Tensor exact_x, exact_weight, exact_bias, exact_dz, exact_old_weight, exact_old_bias;
};

// The f64 results, by the cpu's kernels.
Tensor exact_forward(const Layer& l, bool bias, kernels::LinearActivation activation) {
  Tensor y = Tensor::empty({l.p.rows, l.p.out}, Dtype::f64);
  kernels::linear_forward(
      {}, {Dtype::f64, l.exact_x.raw_data(), l.exact_weight.raw_data(), bias ? l.exact_bias.raw_data() : nullptr,
           y.raw_data(), l.p.rows, l.p.in, l.p.out, activation, nullptr});
  return y;
}
Tensor exact_backward_input(const Layer& l) {
  Tensor dx = Tensor::empty({l.p.rows, l.p.in}, Dtype::f64);
  kernels::linear_backward_input({}, {Dtype::f64, l.exact_dz.raw_data(), l.exact_weight.raw_data(), dx.raw_data(),
                                      l.p.rows, l.p.in, l.p.out, nullptr});
  return dx;
}
std::pair<Tensor, Tensor> exact_backward_weight(const Layer& l, Accumulate mode, Accumulate bias_mode) {
  const Tensor dweight = Tensor::from_vector(values(l.exact_old_weight), {l.p.out, l.p.in});
  const Tensor dbias = Tensor::from_vector(values(l.exact_old_bias), {l.p.out});
  kernels::linear_backward_weight({}, {Dtype::f64, l.exact_dz.raw_data(), l.exact_x.raw_data(), dweight.raw_data(),
                                       l.p.rows, l.p.in, l.p.out, mode, dbias.raw_data(), bias_mode, nullptr});
  return {dweight, dbias};
}

// The variants of an op on the device. A build without cuda skips its tests before they get here.
#if defined(WEFT_CUDA)
#define WEFT_VARIANTS(op, device) ((device).kind == DeviceKind::cuda ? kernels::cuda::op : kernels::simt::op)()
#else
#define WEFT_VARIANTS(op, device) kernels::simt::op()
#endif

class LinearGpu : public test::GpuTest {
 protected:
  // Every variant that takes the problem, with and without bias and activation by turns.
  void forward(const Layer& l, bool bias, kernels::LinearActivation activation) {
    const Tensor want = exact_forward(l, bias, activation);
    const Workspace workspace(kernels::linear_forward_workspace(device(), l.dtype, l.p.rows, l.p.in, l.p.out),
                              device());
    kernels::LinearForward args{
        l.dtype, l.x.raw_data(), l.weight.raw_data(), bias ? l.bias.raw_data() : nullptr, nullptr, l.p.rows, l.p.in,
        l.p.out, activation,     workspace.data()};
    for (const auto& variant : WEFT_VARIANTS(linear_forward_variants, device())) {
      if (!variant.supports(args)) continue;
      const Tensor y = l.result({l.p.rows, l.p.out}, {}, Accumulate::overwrite);
      args.y = y.raw_data();
      variant.run(current_stream(device()), args);
      EXPECT_LE(relative_error(back(y), back(cast(want, Dtype::f64))), tolerance(l.dtype, l.p.in))
          << variant.name << ", " << l.p << ", " << to_string(l.dtype);
    }
  }
  void backward_input(const Layer& l) {
    const Tensor want = exact_backward_input(l);
    const Workspace workspace(kernels::linear_backward_input_workspace(device(), l.dtype, l.p.rows, l.p.in, l.p.out),
                              device());
    kernels::LinearBackwardInput args{l.dtype, l.dz.raw_data(), l.weight.raw_data(), nullptr, l.p.rows,
                                      l.p.in,  l.p.out,         workspace.data()};
    for (const auto& variant : WEFT_VARIANTS(linear_backward_input_variants, device())) {
      if (!variant.supports(args)) continue;
      const Tensor dx = l.result({l.p.rows, l.p.in}, {}, Accumulate::overwrite);
      args.dx = dx.raw_data();
      variant.run(current_stream(device()), args);
      EXPECT_LE(relative_error(back(dx), want), tolerance(l.dtype, l.p.out))
          << variant.name << ", " << l.p << ", " << to_string(l.dtype);
    }
  }
  void backward_weight(const Layer& l, Accumulate mode, std::optional<Accumulate> bias_mode) {
    const auto [want_weight, want_bias] = exact_backward_weight(l, mode, bias_mode.value_or(Accumulate::overwrite));
    const Workspace workspace(kernels::linear_backward_weight_workspace(device(), l.dtype, l.p.rows, l.p.in, l.p.out),
                              device());
    kernels::LinearBackwardWeight args{
        l.dtype,         l.dz.raw_data(), l.x.raw_data(), nullptr, l.p.rows,
        l.p.in,          l.p.out,         mode,           nullptr, bias_mode.value_or(Accumulate::overwrite),
        workspace.data()};
    for (const auto& variant : WEFT_VARIANTS(linear_backward_weight_variants, device())) {
      if (!variant.supports(args)) continue;
      const Tensor dweight = l.result({l.p.out, l.p.in}, l.old_weight, mode);
      Tensor dbias;
      if (bias_mode) dbias = l.result({l.p.out}, l.old_bias, *bias_mode);
      args.dweight = dweight.raw_data();
      args.dbias = data_or_null(dbias);
      variant.run(current_stream(device()), args);
      EXPECT_LE(relative_error(back(dweight), want_weight), tolerance(l.dtype, l.p.rows))
          << variant.name << ", " << l.p << ", " << to_string(l.dtype);
      if (bias_mode) {
        EXPECT_LE(relative_error(back(dbias), want_bias), tolerance(l.dtype, l.p.rows))
            << variant.name << ", " << l.p << ", " << to_string(l.dtype);
      }
    }
  }
  void backward_bias(const Layer& l, Accumulate mode) {
    const Tensor want = exact_backward_weight(l, Accumulate::overwrite, mode).second;
    const Workspace workspace(kernels::linear_backward_bias_workspace(device(), l.dtype, l.p.rows, l.p.out), device());
    const Tensor dbias = l.result({l.p.out}, l.old_bias, mode);
    kernels::linear_backward_bias(
        device(), {l.dtype, l.dz.raw_data(), dbias.raw_data(), l.p.rows, l.p.out, mode, workspace.data()});
    EXPECT_LE(relative_error(back(dbias), want), tolerance(l.dtype, l.p.rows)) << l.p << ", " << to_string(l.dtype);
  }
};
WEFT_GPU_SUITE(LinearGpu);

// Below, at and above the vectors' widths, the tiles' depths (8, 16), and the tiles (16, 64, 128); single rows and
// columns; few rows; a classifier's ten outputs. Sums short enough for one chunk.
const std::vector<Problem> kShapes = {{1, 1, 1},    {1, 40, 33},   {2, 7, 3},     {3, 16, 17},   {4, 129, 18},
                                      {5, 8, 10},   {16, 17, 16},  {63, 9, 65},   {64, 16, 64},  {65, 24, 63},
                                      {70, 33, 10}, {127, 10, 20}, {129, 15, 36}, {20, 130, 128}};

TEST_P(LinearGpu, ForwardAgainstF64) {
  std::size_t turn = 0;
  for (const Problem& p : kShapes)
    for (Dtype dtype : kDtypes)
      for (Base base : {Base::aligned, Base::odd}) {
        forward(Layer(device(), dtype, p, base), turn % 3 != 0,
                turn % 2 == 0 ? kernels::LinearActivation::relu : kernels::LinearActivation::none);
        ++turn;
      }
}

TEST_P(LinearGpu, BackwardInputAgainstF64) {
  for (const Problem& p : kShapes)
    for (Dtype dtype : kDtypes)
      for (Base base : {Base::aligned, Base::odd}) backward_input(Layer(device(), dtype, p, base));
}

TEST_P(LinearGpu, BackwardWeightAndBiasAgainstF64) {
  std::size_t turn = 0;
  const std::optional<Accumulate> bias_modes[] = {Accumulate::overwrite, std::nullopt, Accumulate::add};
  for (const Problem& p : kShapes)
    for (Dtype dtype : kDtypes)
      for (Base base : {Base::aligned, Base::odd}) {
        const Layer layer(device(), dtype, p, base);
        backward_weight(layer, turn % 2 == 0 ? Accumulate::overwrite : Accumulate::add, bias_modes[turn % 3]);
        backward_bias(layer, turn % 2 == 0 ? Accumulate::add : Accumulate::overwrite);
        ++turn;
      }
}

// Sums long enough to be cut into chunks, a few (one group of threads adds them up) and many (eight groups share them),
// the last one shorter than the others.
TEST_P(LinearGpu, SumsInChunksAgainstF64) {
  for (Dtype dtype : kDtypes) {
    // The other types take the same paths: the small problems only.
    const bool all = dtype == Dtype::f32;
    for (const Problem& p : {Problem{5, 300, 20}, {3, 2100, 9}, {70, 530, 66}}) {
      if (p.in > 300 && !all) continue;
      const Layer layer(device(), dtype, p);
      forward(layer, true, kernels::LinearActivation::relu);
      if (p.rows < 10) forward(layer, false, kernels::LinearActivation::none);
    }
    for (const Problem& p : {Problem{6, 20, 300}, {3, 33, 2100}, {2, 300, 150}}) {
      if (p.out > 300 && !all) continue;
      backward_input(Layer(device(), dtype, p));
    }
    for (const Problem& p : {Problem{300, 20, 70}, {2100, 9, 5}, {530, 130, 16}})
      for (Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
        if (p.rows > 300 && !all) continue;
        const Layer layer(device(), dtype, p, mode == Accumulate::add ? Base::odd : Base::aligned);
        backward_weight(layer, mode, mode);
        if (p.rows == 300) backward_weight(layer, mode, std::nullopt);
        backward_bias(layer, mode);
      }
  }
}

// llm.c #428: sums over thousands of rows kept in 16 bits lose most of their digits.
TEST_P(LinearGpu, ManyRowsIn16BitsKeepTheirDigits) {
  for (Dtype dtype : {Dtype::bf16, Dtype::f16}) {
    const Layer layer(device(), dtype, {4096, 3, 4});
    backward_weight(layer, Accumulate::overwrite, Accumulate::overwrite);
    backward_bias(layer, Accumulate::overwrite);
  }
}

TEST_P(LinearGpu, EmptyDimensions) {
  for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    // No rows: nothing to write but gradients of zero.
    const Layer no_rows(device(), dtype, {0, 12, 20});
    forward(no_rows, true, kernels::LinearActivation::none);
    backward_input(no_rows);
    backward_weight(no_rows, Accumulate::overwrite, Accumulate::overwrite);
    backward_weight(no_rows, Accumulate::add, Accumulate::add);
    backward_bias(no_rows, Accumulate::overwrite);
    // No inputs: y is the bias; dweight is empty, dbias is not.
    for (const Problem& p : {Problem{3, 0, 20}, {70, 0, 5}, {300, 0, 70}}) {
      const Layer no_inputs(device(), dtype, p);
      forward(no_inputs, true, kernels::LinearActivation::relu);
      forward(no_inputs, false, kernels::LinearActivation::none);
      backward_input(no_inputs);
      backward_weight(no_inputs, Accumulate::overwrite, Accumulate::add);
    }
    // No outputs: dx is 0.
    for (const Problem& p : {Problem{3, 20, 0}, {70, 5, 0}}) {
      const Layer no_outputs(device(), dtype, p);
      forward(no_outputs, true, kernels::LinearActivation::none);
      backward_input(no_outputs);
      backward_weight(no_outputs, Accumulate::overwrite, Accumulate::overwrite);
      backward_bias(no_outputs, Accumulate::overwrite);
    }
  }
}

// What the ops themselves choose, through autograd: forward, fused relu and all gradients, in three thread orders.
TEST_P(LinearGpu, AutogradInEveryOrder) {
  for (const Problem& p : {Problem{1, 40, 33}, {70, 260, 10}, {6, 300, 40}, {600, 20, 17}})
    for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      const auto run = [&](Device where, Dtype type) {
        const auto leaf = [&](const Shape& shape, std::uint64_t seed) {
          return set_requires_grad(on(where, cast(cast(randn(shape, seed), dtype), type)));
        };
        const Tensor x = leaf({p.rows, p.in}, 1), w = leaf({p.out, p.in}, 2), b = leaf({p.out}, 3);
        const Tensor y = linear(x, w, b, Activation::relu);
        backward(y, on(where, cast(cast(randn({p.rows, p.out}, 4), dtype), type)));
        return std::vector<Tensor>{back(y), back(grad(x)), back(grad(w)), back(grad(b))};
      };
      const std::vector<Tensor> got = in_every_order(device(), [&] { return run(device(), dtype); });
      const std::vector<Tensor> want = run(Device{}, Dtype::f64);
      // With these seeds no sum lies within rounding of 0, where the relu could let it pass in one precision only.
      const std::int64_t terms[] = {p.in, p.out, p.rows, p.rows};
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_LE(relative_error(got[i], want[i]), tolerance(dtype, terms[i])) << p << ", result " << i;
    }
}

TEST_P(LinearGpu, EveryVariantInEveryOrder) {
  const Layer l(device(), Dtype::f32, {4, 300, 16});
  const Workspace workspace(std::max(kernels::linear_forward_workspace(device(), l.dtype, l.p.rows, l.p.in, l.p.out),
                                     kernels::linear_backward_weight_workspace(device(), l.dtype, 300, 4, 16)),
                            device());
  kernels::LinearForward args{l.dtype,
                              l.x.raw_data(),
                              l.weight.raw_data(),
                              l.bias.raw_data(),
                              nullptr,
                              l.p.rows,
                              l.p.in,
                              l.p.out,
                              kernels::LinearActivation::none,
                              workspace.data()};
  for (const auto& variant : WEFT_VARIANTS(linear_forward_variants, device())) {
    if (!variant.supports(args)) continue;
    in_every_order(device(), [&] {
      const Tensor y = output(device(), {l.p.rows, l.p.out}, l.dtype);
      args.y = y.raw_data();
      variant.run(current_stream(device()), args);
      return std::vector<Tensor>{back(y)};
    });
  }
  // 300 rows of 16 outputs and 4 inputs.
  const Layer t(device(), Dtype::f32, {300, 4, 16});
  kernels::LinearBackwardWeight weight_args{
      t.dtype, t.dz.raw_data(),       t.x.raw_data(),  nullptr, t.p.rows, t.p.in, t.p.out, Accumulate::overwrite,
      nullptr, Accumulate::overwrite, workspace.data()};
  for (const auto& variant : WEFT_VARIANTS(linear_backward_weight_variants, device())) {
    if (!variant.supports(weight_args)) continue;
    in_every_order(device(), [&] {
      const Tensor dweight = output(device(), {t.p.out, t.p.in}, t.dtype), dbias = output(device(), {t.p.out}, t.dtype);
      weight_args.dweight = dweight.raw_data();
      weight_args.dbias = dbias.raw_data();
      variant.run(current_stream(device()), weight_args);
      return std::vector<Tensor>{back(dweight), back(dbias)};
    });
  }
}

// Bytes: the floor times how often a tile must be read again, plus the partial sums where there are several chunks.
TEST_P(LinearGpu, TrafficAtTheFloor) {
  struct Case {
    Dtype dtype;
    Problem p;
    const char* variant;
    double x_reads, weight_reads;
  };
  const Case cases[] = {
      {Dtype::f32, {64, 128, 64}, "tile_64", 1, 1},    {Dtype::f32, {128, 64, 192}, "tile_64", 3, 2},
      {Dtype::bf16, {128, 96, 64}, "tile_64", 1, 2},   {Dtype::f64, {64, 64, 64}, "tile_64", 1, 1},
      {Dtype::f32, {128, 200, 128}, "tile_128", 1, 1}, {Dtype::bf16, {256, 64, 128}, "tile_128", 1, 2},
      {Dtype::f32, {256, 96, 16}, "narrow", 1, 2},     {Dtype::f16, {512, 64, 16}, "narrow", 1, 4},
      {Dtype::f32, {1, 512, 64}, "rows", 1, 1},        {Dtype::bf16, {4, 784, 64}, "rows", 1, 1},
  };
  for (const Case& c : cases) {
    const std::int64_t rows = c.p.rows, in = c.p.in, out = c.p.out;
    const Layer l(device(), c.dtype, c.p);
    const auto size = static_cast<double>(element_bytes(c.dtype));
    const Tensor y = output(device(), {rows, out}, c.dtype);
    const double result = static_cast<double>(rows * out) * size;
    const double floor = static_cast<double>(rows * in) * size * c.x_reads +
                         static_cast<double>(in * out) * size * c.weight_reads + result +
                         static_cast<double>(out) * size;
    SCOPED_TRACE(fmt::format("{} {} x {} x {} {}", c.variant, rows, in, out, to_string(c.dtype)));
    const Workspace workspace(kernels::linear_forward_workspace(device(), c.dtype, rows, in, out), device());
    for (const auto& variant : WEFT_VARIANTS(linear_forward_variants, device()))
      if (std::string_view(variant.name) == c.variant)
        test::expect_traffic(device(), floor, [&] {
          variant.run(current_stream(device()),
                      {c.dtype, l.x.raw_data(), l.weight.raw_data(), l.bias.raw_data(), y.raw_data(), rows, in, out,
                       kernels::LinearActivation::relu, workspace.data()});
        });
  }
}

TEST_P(LinearGpu, BackwardTrafficAtTheFloor) {
  for (Dtype dtype : kDtypes) {
    SCOPED_TRACE(to_string(dtype));
    const auto size = static_cast<double>(element_bytes(dtype));
    // One tile and one chunk: every operand once, dbias included.
    for (const char* name : {"tile_64", "tile_128", "narrow"}) {
      SCOPED_TRACE(name);
      const bool narrow = std::string_view(name) == "narrow", large = std::string_view(name) == "tile_128";
      if (large && dtype == Dtype::f64) continue;
      const Problem p = narrow ? Problem{96, 128, 16} : large ? Problem{96, 128, 128} : Problem{96, 64, 64};
      const Layer l(device(), dtype, p);
      const Tensor dweight = output(device(), {p.out, p.in}, dtype), dbias = output(device(), {p.out}, dtype);
      const Tensor dx = output(device(), {p.rows, p.in}, dtype);
      const double floor = static_cast<double>(p.rows * p.in + p.rows * p.out + p.in * p.out) * size;
      for (const auto& variant : WEFT_VARIANTS(linear_backward_weight_variants, device()))
        if (std::string_view(variant.name) == name)
          test::expect_traffic(device(), floor + static_cast<double>(p.out) * size, [&] {
            variant.run(current_stream(device()),
                        {dtype, l.dz.raw_data(), l.x.raw_data(), dweight.raw_data(), p.rows, p.in, p.out,
                         Accumulate::overwrite, dbias.raw_data(), Accumulate::overwrite, nullptr});
          });
      const double weight_reads = large ? 1 : 2;  // 96 rows: two tiles of 64
      for (const auto& variant : WEFT_VARIANTS(linear_backward_input_variants, device()))
        if (std::string_view(variant.name) == name)
          test::expect_traffic(device(), floor + static_cast<double>(p.in * p.out) * size * (weight_reads - 1), [&] {
            variant.run(current_stream(device()),
                        {dtype, l.dz.raw_data(), l.weight.raw_data(), dx.raw_data(), p.rows, p.in, p.out, nullptr});
          });
    }
    // Few rows: W once, and the partial sums of the chunks written and read.
    const Problem few{2, 512, 128};
    const Layer l(device(), dtype, few);
    const Tensor dx = output(device(), {few.rows, few.in}, dtype);
    const Workspace workspace(kernels::linear_backward_input_workspace(device(), dtype, few.rows, few.in, few.out),
                              device());
    const double partial = static_cast<double>(plan::columns_bytes(dtype, few.rows, few.out, few.in));
    const double bytes = static_cast<double>(few.in * few.out + few.rows * (few.in + few.out)) * size + 2 * partial;
    test::expect_traffic(device(), bytes, [&] {
      kernels::linear_backward_input(device(), {dtype, l.dz.raw_data(), l.weight.raw_data(), dx.raw_data(), few.rows,
                                                few.in, few.out, workspace.data()});
    });
  }
}

// Chunks cover the sum exactly; the choice follows from the shape.
TEST(LinearPlan, ChunksCoverTheSum) {
  for (std::int64_t k : {0, 1, 31, 32, 127, 128, 255, 256, 784, 1000, 60000, 1000000})
    for (std::int64_t m : {1, 10, 64, 500, 9000})
      for (std::int64_t n : {1, 64, 784, 9000})
        for (const kernels::MatmulPlan& plan :
             {plan::tile_64_plan(m, n, k), plan::tile_128_plan(m, n, k), plan::narrow_n_plan(m, n, k),
              plan::narrow_m_plan(m, n, k), plan::columns_plan(Dtype::f32, k, n)}) {
          EXPECT_EQ(0, plan.chunk % kernels::kMatmulChunkUnit);
          EXPECT_GE(plan.chunks * plan.chunk, k);
          EXPECT_LT((plan.chunks - 1) * plan.chunk, std::max<std::int64_t>(k, 1));
          EXPECT_LE(plan.chunks, kernels::kMatmulMostChunks);
        }
}

TEST(LinearPlan, ChoosesByShape) {
  EXPECT_EQ("rows", plan::forward_variant(Dtype::f32, 1, 784, 512));
  EXPECT_EQ("narrow", plan::forward_variant(Dtype::f32, 128, 256, 10));
  EXPECT_EQ("tile_64", plan::forward_variant(Dtype::f32, 128, 784, 512));
  EXPECT_EQ("tile_128", plan::forward_variant(Dtype::bf16, 8192, 4096, 4096));
  EXPECT_EQ("tile_64", plan::forward_variant(Dtype::f64, 8192, 4096, 4096));
  EXPECT_EQ("tile_64", plan::forward_variant(Dtype::f32, 8192, 4096, 64));  // half of each 128-wide tile would be waste
  EXPECT_EQ("rows", plan::backward_input_variant(Dtype::f32, 4, 784, 512));
  EXPECT_EQ("narrow", plan::backward_weight_variant(Dtype::f32, 60000, 256, 10));
  EXPECT_EQ("tile_128", plan::backward_weight_variant(Dtype::f32, 60000, 784, 512));
}

}  // namespace
}  // namespace weft
