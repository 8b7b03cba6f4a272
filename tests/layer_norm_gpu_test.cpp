// LayerNorm's GPU kernels, every variant, against the cpu's in f64.
#include <cmath>

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layer_norm.h"
#include "kernels/common/row_norm_plan.h"
#include "kernels/layer_norm.h"
#include "support/gpu.h"
#include "support/guarded.h"
#include "support/variants.h"

namespace weft {
namespace {

using kernels::LayerNormBackward;
using kernels::LayerNormForward;
using test::back;
using test::bitwise_equal;
using test::for_each_variant;
using test::in_every_order;
using test::on;
using test::output;
using test::relative_error;
using test::rounding;
using test::values;

constexpr Dtype kDtypes[] = {Dtype::f32, Dtype::bf16, Dtype::f16, Dtype::f64};
constexpr double kEps = 1e-5;

Dtype statistics(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }
void* data_or_null(const Tensor& x) { return x.defined() ? x.raw_data() : nullptr; }

// How the operands lie in memory: as allocated, or one element further, where no 16-byte access is possible.
enum class Base : std::uint8_t { aligned, odd };

Tensor placed(const Tensor& x, Base base, Device device) {
  if (base == Base::aligned) return on(device, x);
  const Tensor shifted = Tensor::empty({x.numel() + 1}, x.dtype());
  shifted.slice(0, 1, x.numel() + 1).copy_bytes_from(x.reshape({x.numel()}));
  return on(device, shifted).slice(0, 1, x.numel() + 1).reshape(x.shape());
}
Tensor place(const Shape& shape, Dtype dtype, Base base, Device device) {
  if (base == Base::aligned) return output(device, shape, dtype);
  return output(device, {shape.numel() + 1}, dtype).slice(0, 1, shape.numel() + 1).reshape(shape);
}

Tensor around(double mean, double spread, const Shape& shape, std::uint64_t seed, Dtype dtype) {
  return cast(randn(shape, seed, Dtype::f64) * spread + scalar(mean, Dtype::f64), dtype);
}

struct Case {
  std::int64_t rows, channels;
  Dtype dtype = Dtype::f32;
  Base base = Base::aligned;
  bool gamma = true, beta = true;
  double mean = 1000;  // of every row: a padded lane or a one-pass variance shows at once
  double spread = 1;
};

std::string describe(const Case& c) {
  return fmt::format("R={} C={} {} {} gamma={} beta={} mean={}", c.rows, c.channels, to_string(c.dtype),
                     c.base == Base::odd ? "odd" : "aligned", c.gamma, c.beta, c.mean);
}

// A case's inputs on the device, in `dtype`; its results in f64 from the cpu kernels, for the inputs as they were
// stored.
struct Layer {
  Layer(Device device, const Case& c) : c(c), device(device) {
    const Tensor host_x = around(c.mean, c.spread, {c.rows, c.channels}, 1, c.dtype);
    const Tensor host_dy = randn({c.rows, c.channels}, 2, c.dtype);
    const Tensor host_gamma = around(1, 0.5, {c.channels}, 3, c.dtype), host_beta = randn({c.channels}, 4, c.dtype);
    x = placed(host_x, c.base, device);
    dy = placed(host_dy, c.base, device);
    if (c.gamma) gamma = placed(host_gamma, c.base, device);
    if (c.beta) beta = placed(host_beta, c.base, device);

    const auto exact = [](const Tensor& t) { return cast(t, Dtype::f64); };
    const auto empty = [](const Shape& shape) { return Tensor::empty(shape, Dtype::f64); };
    const Tensor x64 = exact(host_x), dy64 = exact(host_dy), gamma64 = exact(host_gamma), beta64 = exact(host_beta);
    y64 = empty({c.rows, c.channels});
    dx64 = empty({c.rows, c.channels});
    mean64 = empty({c.rows});
    rstd64 = empty({c.rows});
    dgamma64 = empty({c.channels});
    dbeta64 = empty({c.channels});
    const Tensor partials = empty({kernels::layer_norm_partials(c.rows, c.channels, {})});
    const void* const weight = c.gamma ? gamma64.raw_data() : nullptr;
    kernels::layer_norm_forward(
        {}, {Dtype::f64, c.rows, c.channels, kEps, x64.raw_data(), weight, c.beta ? beta64.raw_data() : nullptr,
             y64.raw_data(), mean64.raw_data(), rstd64.raw_data()});
    kernels::layer_norm_backward(
        {}, {Dtype::f64, c.rows, c.channels, x64.raw_data(), weight, dy64.raw_data(), mean64.raw_data(),
             rstd64.raw_data(), dx64.raw_data(), dgamma64.raw_data(), dbeta64.raw_data(), Accumulate::overwrite,
             Accumulate::overwrite, partials.raw_data()});
    // dx is a difference of terms rstd g, dgamma a sum of terms dy xhat: their rounding is what the errors are made of.
    const std::vector<double> g = values(dy64), weights = values(gamma64), scale = values(rstd64), xs = values(x64),
                              means = values(mean64);
    for (std::size_t i = 0; i < g.size(); ++i) {
      const std::size_t row = i / static_cast<std::size_t>(c.channels),
                        column = i % static_cast<std::size_t>(c.channels);
      dx_scale += std::pow(scale[row] * g[i] * (c.gamma ? weights[column] : 1.0), 2);
      dgamma_scale += std::pow(g[i] * (xs[i] - means[row]) * scale[row], 2);
    }
    dx_scale = std::sqrt(dx_scale);
    dgamma_scale = std::sqrt(dgamma_scale);
  }
  LayerNormForward forward(const Tensor& y, const Tensor& mean, const Tensor& rstd) const {
    return {c.dtype,
            c.rows,
            c.channels,
            kEps,
            x.raw_data(),
            data_or_null(gamma),
            data_or_null(beta),
            data_or_null(y),
            data_or_null(mean),
            data_or_null(rstd)};
  }
  LayerNormBackward backward(const Tensor& mean, const Tensor& rstd, const Tensor& dx, const Tensor& dgamma,
                             const Tensor& dbeta, const Tensor& partials,
                             Accumulate mode = Accumulate::overwrite) const {
    return {c.dtype,
            c.rows,
            c.channels,
            x.raw_data(),
            data_or_null(gamma),
            dy.raw_data(),
            mean.raw_data(),
            rstd.raw_data(),
            data_or_null(dx),
            data_or_null(dgamma),
            data_or_null(dbeta),
            mode,
            mode,
            data_or_null(partials)};
  }
  Tensor partials() const {  // exactly as large as the op asks for: beyond it is a fault
    return output(device, {kernels::layer_norm_partials(c.rows, c.channels, device)}, statistics(c.dtype));
  }
  Tensor matrix() const { return place({c.rows, c.channels}, c.dtype, c.base, device); }
  Tensor vector() const { return place({c.channels}, c.dtype, c.base, device); }
  Tensor row_numbers() const { return output(device, {c.rows}, statistics(c.dtype)); }

  Case c;
  Device device;
  Tensor x, dy, gamma, beta;
  Tensor y64, mean64, rstd64, dx64, dgamma64, dbeta64;
  double dx_scale = 0, dgamma_scale = 0;
};

double norm(const std::vector<double>& of) {
  double sum = 0;
  for (double v : of) sum += v * v;
  return std::sqrt(sum);
}
// ||got - want||, infinite when something is not finite.
double error(const Tensor& got, const Tensor& want) {
  const double scale = norm(values(want));
  return relative_error(values(got), values(want)) * (scale > 0 ? scale : 1.0);
}

class LayerNormGpu : public test::GpuTest {
 protected:
  enum class Variants : std::uint8_t { all, chosen };

  // Forward and backward, by every variant that supports the case; in f32 in every thread order.
  void check(const Case& c, Variants which = Variants::all) {
    SCOPED_TRACE(describe(c));
    const Layer layer(device(), c);
    const Stream& stream = current_stream(device());
    const Dtype s = statistics(c.dtype);
    // A row's sums: at most 32 terms per thread one after the other (C / 128 beyond the registers), then a tree of ten
    // levels; errors random; a handful of further roundings of the same size. 16-bit: computed in f32, then the result
    // rounded once.
    const double row_error = rounding(s) * (8 + std::sqrt(static_cast<double>(c.channels) / 128));
    const double stored = s == c.dtype ? 0 : rounding(c.dtype);
    const auto run = [&](auto&& f) { return c.dtype == Dtype::f32 ? in_every_order(device(), f) : f(); };
    Tensor mean, rstd;
    const Tensor probe = layer.matrix(), probes = layer.vector();

    const LayerNormForward forward = layer.forward(probe, {}, {});
    const auto forwards = WEFT_VARIANTS(layer_norm_forward, device());
    const std::string first = test::chosen(forwards, forward);
    const auto check_forward = [&](const auto& variant) {
      if (which == Variants::chosen && variant.name != first) return;
      const std::vector<Tensor> out = run([&] {
        const Tensor y = layer.matrix();
        mean = layer.row_numbers();
        rstd = layer.row_numbers();
        variant.run(stream, layer.forward(y, mean, rstd));
        return std::vector<Tensor>{back(y), back(mean), back(rstd)};
      });
      EXPECT_LE(relative_error(out[0], layer.y64), stored + row_error);
      EXPECT_LE(error(out[1], layer.mean64),
                rounding(s) * (norm(values(layer.mean64)) + c.spread * std::sqrt(static_cast<double>(c.rows))));
      EXPECT_LE(relative_error(out[2], layer.rstd64), row_error);
    };
    EXPECT_GE(for_each_variant(forwards, forward, check_forward), 1);

    // R/P terms one after the other, then P/8, then 8; errors random. What xhat lacks goes into every term of dgamma.
    const double sum_error = rounding(s) * (8 + std::sqrt(static_cast<double>(c.rows)));
    const LayerNormBackward backward = layer.backward(mean, rstd, probe, probes, probes, probes);
    const auto backwards = WEFT_VARIANTS(layer_norm_backward, device());
    const std::string shipped = test::chosen(backwards, backward);
    const auto check_backward = [&](const auto& variant) {
      if (which == Variants::chosen && variant.name != shipped) return;
      const std::vector<Tensor> out = run([&] {
        const Tensor dx = layer.matrix(), dgamma = layer.vector(), dbeta = layer.vector();
        const Tensor partials = layer.partials();
        variant.run(stream, layer.backward(mean, rstd, dx, dgamma, dbeta, partials));
        return std::vector<Tensor>{back(dx), back(dgamma), back(dbeta)};
      });
      EXPECT_LE(error(out[0], layer.dx64), (stored + row_error) * layer.dx_scale);
      EXPECT_LE(error(out[1], layer.dgamma64),
                stored * norm(values(layer.dgamma64)) + (sum_error + row_error) * layer.dgamma_scale);
      EXPECT_LE(relative_error(out[2], layer.dbeta64), stored + sum_error);
    };
    EXPECT_GE(for_each_variant(backwards, backward, check_backward), 1);
  }
};

TEST_P(LayerNormGpu, OddSizesWithALargeMean) {
  for (std::int64_t channels : {1, 2, 31, 33, 63, 65, 257, 769, 1023})
    for (Dtype dtype : kDtypes) check({5, channels, dtype});
  for (std::int64_t rows : {1, 18}) check({rows, 33});
}

// Whole vectors of 16 bytes: below, at and above what each team and number of vectors holds.
TEST_P(LayerNormGpu, VectorSizes) {
  for (std::int64_t vectors : {1, 7, 8, 9, 31, 32, 33, 64, 65, 129, 256, 257}) {
    check({3, vectors * 4});
    check({3, vectors * 8, Dtype::bf16});
    check({3, vectors * 8, Dtype::f16}, Variants::chosen);
    check({3, vectors * 2, Dtype::f64}, Variants::chosen);
  }
  for (std::int64_t rows : {1, 4, 7, 16, 17, 33}) check({rows, 32}, Variants::chosen);
}

TEST_P(LayerNormGpu, AnyBase) {
  for (std::int64_t channels : {8, 64, 512, 2048})
    for (Dtype dtype : kDtypes)
      check({5, channels, dtype, Base::odd}, channels == 64 ? Variants::all : Variants::chosen);
}

TEST_P(LayerNormGpu, GammaAndBetaCombinations) {
  for (bool gamma : {false, true})
    for (bool beta : {false, true})
      for (Dtype dtype : kDtypes)
        for (std::int64_t channels : {65, 264})
          check({3, channels, dtype, Base::aligned, gamma, beta, 0},
                dtype == Dtype::bf16 ? Variants::all : Variants::chosen);
}

// Across the ends of the register variants (elements one by one: 2048 forward, 4096 backward; vectors: 8192 floats
// forward), of 512 threads (8192), of shared memory (backward 16384; forward 24576 floats, 49152 halves).
TEST_P(LayerNormGpu, WideRows) {
  for (std::int64_t channels : {2049, 4096, 4097, 4100, 8192, 8193, 8196, 16384, 16388})
    check({5, channels}, Variants::chosen);
  check({5, 24577}, Variants::chosen);
  check({5, 4104});
  for (std::int64_t channels : {4104, 16392, 49160}) check({3, channels, Dtype::bf16}, Variants::chosen);
  check({3, 8200, Dtype::f64}, Variants::chosen);
}

TEST_P(LayerNormGpu, ManyRows) {
  check({8192, 33, Dtype::bf16}, Variants::chosen);  // dgamma summed in 16 bits would be off by far
  check({1100, 9}, Variants::chosen);                // blocks of 16 teams
  check({70, 264}, Variants::chosen);                // blocks of one team, of four rows each
}

TEST_P(LayerNormGpu, HugeMean) {
  for (double mean : {1e4, 1e6, -1e7})
    for (std::int64_t channels : {60, 768, 1027}) check({3, channels, Dtype::f32, Base::aligned, true, true, mean, 10});
}

TEST_P(LayerNormGpu, ConstantRowsGiveBeta) {
  for (std::int64_t channels : {7, 77, 512, 2052})
    for (double value : {0.0, 3.7e5, -1.1e30}) {
      const Tensor x = on(device(), full({3, channels}, value)), gamma = on(device(), randn({channels}, 1));
      const Tensor host_beta = randn({channels}, 2), beta = on(device(), host_beta);
      const LayerNormForward args{Dtype::f32,      3,       channels, kEps,   x.raw_data(), gamma.raw_data(),
                                  beta.raw_data(), nullptr, nullptr,  nullptr};
      for_each_variant(WEFT_VARIANTS(layer_norm_forward, device()), args, [&](const auto& variant) {
        const Tensor y = output(device(), {3, channels}, Dtype::f32);
        LayerNormForward run = args;
        run.y = y.raw_data();
        variant.run(current_stream(device()), run);
        for (std::int64_t r = 0; r < 3; ++r) EXPECT_TRUE(bitwise_equal(back(y)[r], host_beta)) << value;
      });
    }
}

TEST_P(LayerNormGpu, NonFiniteStaysInItsRow) {
  for (std::int64_t channels : {20, 130, 1032}) {
    const Tensor host = randn({9, channels}, 1);
    host.data<float>()[3 * channels + 5] = std::nanf("");
    host.data<float>()[6 * channels] = INFINITY;
    const Tensor x = on(device(), host);
    const LayerNormForward args{Dtype::f32, 9,       channels, kEps,    x.raw_data(),
                                nullptr,    nullptr, nullptr,  nullptr, nullptr};
    for_each_variant(WEFT_VARIANTS(layer_norm_forward, device()), args, [&](const auto& variant) {
      const Tensor y = output(device(), {9, channels}, Dtype::f32);
      LayerNormForward run = args;
      run.y = y.raw_data();
      variant.run(current_stream(device()), run);
      for (std::int64_t r = 0; r < 9; ++r)
        for (double v : values(back(y)[r])) EXPECT_EQ(std::isfinite(v), r != 3 && r != 6) << r;
    });
  }
}

// Every GPU gets the same bits, also one without the shared memory that the wider variants take.
TEST_P(LayerNormGpu, RowsInSharedMemoryAndReadAgainAgree) {
  for (const Case& c : {Case{5, 8196}, Case{5, 8191}, Case{5, 5000, Dtype::bf16}, Case{5, 5000, Dtype::f64}}) {
    SCOPED_TRACE(describe(c));
    const Layer layer(device(), c);
    const Tensor mean = layer.row_numbers(), rstd = layer.row_numbers(), y = layer.matrix();
    const Stream& stream = current_stream(device());
    std::vector<std::vector<Tensor>> results;
    for_each_variant(WEFT_VARIANTS(layer_norm_forward, device()), layer.forward(y, mean, rstd),
                     [&](const auto& variant) {
                       const std::string name = variant.name;
                       if (name != "shared" && name != "reread") return;
                       variant.run(stream, layer.forward(y, mean, rstd));
                       results.push_back({back(y), back(mean), back(rstd)});
                     });
    ASSERT_EQ(results.size(), 2u);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(bitwise_equal(results[0][i], results[1][i])) << i;

    results.clear();
    const Tensor dx = layer.matrix(), dgamma = layer.vector(), dbeta = layer.vector(), partials = layer.partials();
    const LayerNormBackward args = layer.backward(mean, rstd, dx, dgamma, dbeta, partials);
    for_each_variant(WEFT_VARIANTS(layer_norm_backward, device()), args, [&](const auto& variant) {
      if (variant.name == std::string("registers")) return;
      variant.run(stream, args);
      results.push_back({back(dx), back(dgamma), back(dbeta)});
    });
    ASSERT_EQ(results.size(), 2u);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(bitwise_equal(results[0][i], results[1][i])) << i;
  }
}

TEST_P(LayerNormGpu, InPlace) {
  for (std::int64_t channels : {24, 257, 1032}) {
    const Layer layer(device(), {9, channels});
    const Tensor mean = layer.row_numbers(), rstd = layer.row_numbers(), y = layer.matrix();
    const Stream& stream = current_stream(device());
    for_each_variant(WEFT_VARIANTS(layer_norm_forward, device()), layer.forward(y, {}, {}), [&](const auto& variant) {
      variant.run(stream, layer.forward(y, mean, rstd));
      const Tensor both = on(device(), back(layer.x));
      LayerNormForward args = layer.forward(both, {}, {});
      args.x = both.raw_data();
      variant.run(stream, args);
      EXPECT_TRUE(bitwise_equal(back(both), back(y)));
    });
    const Tensor dx = layer.matrix(), dgamma = layer.vector(), dbeta = layer.vector(), partials = layer.partials();
    const LayerNormBackward apart = layer.backward(mean, rstd, dx, dgamma, dbeta, partials);
    for_each_variant(WEFT_VARIANTS(layer_norm_backward, device()), apart, [&](const auto& variant) {
      variant.run(stream, apart);
      const std::vector<Tensor> expected = {back(dx), back(dgamma), back(dbeta)};
      const Tensor both = on(device(), back(layer.dy)), dgamma2 = layer.vector(), dbeta2 = layer.vector();
      LayerNormBackward args = layer.backward(mean, rstd, both, dgamma2, dbeta2, partials);
      args.dy = both.raw_data();
      variant.run(stream, args);
      EXPECT_TRUE(bitwise_equal(back(both), expected[0]));
      EXPECT_TRUE(bitwise_equal(back(dgamma2), expected[1]));
      EXPECT_TRUE(bitwise_equal(back(dbeta2), expected[2]));
    });
  }
}

TEST_P(LayerNormGpu, AccumulatesAndLeavesOutWhatIsNotWanted) {
  for (std::int64_t channels : {24, 257, 1032}) {
    const Layer layer(device(), {9, channels});
    const Tensor mean = layer.row_numbers(), rstd = layer.row_numbers(), y = layer.matrix();
    const Stream& stream = current_stream(device());
    kernels::layer_norm_forward(device(), layer.forward(y, mean, rstd));
    const Tensor old_gamma = randn({channels}, 11), old_beta = randn({channels}, 12);
    const Tensor probe = layer.vector();
    for_each_variant(
        WEFT_VARIANTS(layer_norm_backward, device()), layer.backward(mean, rstd, y, probe, probe, probe),
        [&](const auto& variant) {
          const Tensor dx = layer.matrix(), dgamma = layer.vector(), dbeta = layer.vector(),
                       partials = layer.partials();
          variant.run(stream, layer.backward(mean, rstd, dx, dgamma, dbeta, partials));
          // Added last, in the statistics type.
          const Tensor more_gamma = on(device(), old_gamma), more_beta = on(device(), old_beta), again = layer.matrix();
          variant.run(stream, layer.backward(mean, rstd, again, more_gamma, more_beta, partials, Accumulate::add));
          EXPECT_TRUE(bitwise_equal(back(more_gamma), back(dgamma) + old_gamma));
          EXPECT_TRUE(bitwise_equal(back(more_beta), back(dbeta) + old_beta));
          // Each output alone.
          const Tensor only_dx = layer.matrix(), only_dgamma = layer.vector(), only_dbeta = layer.vector();
          variant.run(stream, layer.backward(mean, rstd, only_dx, {}, {}, partials));
          variant.run(stream, layer.backward(mean, rstd, {}, only_dgamma, {}, partials));
          variant.run(stream, layer.backward(mean, rstd, {}, {}, only_dbeta, partials));
          EXPECT_TRUE(bitwise_equal(back(only_dx), back(dx)));
          EXPECT_TRUE(bitwise_equal(back(only_dgamma), back(dgamma)));
          EXPECT_TRUE(bitwise_equal(back(only_dbeta), back(dbeta)));
        });
  }
}

TEST_P(LayerNormGpu, NoRows) {
  const Case c{0, 40};
  const Layer layer(device(), c);
  for_each_variant(WEFT_VARIANTS(layer_norm_forward, device()), layer.forward({}, {}, {}),
                   [&](const auto& variant) { variant.run(current_stream(device()), layer.forward({}, {}, {})); });
  const Tensor none = layer.row_numbers();
  for (Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
    const Tensor old = randn({40}, 1);
    for_each_variant(WEFT_VARIANTS(layer_norm_backward, device()), layer.backward(none, none, {}, {}, {}, {}),
                     [&](const auto& variant) {
                       const Tensor dgamma = on(device(), old), dbeta = on(device(), old);
                       variant.run(current_stream(device()), layer.backward(none, none, {}, dgamma, dbeta, {}, mode));
                       const Tensor expected = mode == Accumulate::add ? old : zeros({40});
                       EXPECT_TRUE(bitwise_equal(back(dgamma), expected));
                       EXPECT_TRUE(bitwise_equal(back(dbeta), expected));
                     });
  }
}

// The op through autograd: its checks, its workspace, and what it saves.
TEST_P(LayerNormGpu, Autograd) {
  for (const Shape& shape : {Shape{24}, Shape{4, 6, 10}, Shape{3, 16400}}) {
    const Tensor dy = randn(shape, 4);
    const auto run = [&](Device on_device) {
      const Tensor x = set_requires_grad(on(on_device, randn(shape, 1)));
      const Tensor gamma = set_requires_grad(on(on_device, randn({shape[shape.rank() - 1]}, 2)));
      const Tensor beta = set_requires_grad(on(on_device, randn({shape[shape.rank() - 1]}, 3)));
      const Tensor y = layer_norm(x, gamma, beta);
      backward(y, on(on_device, dy));
      const Tensor frozen = set_requires_grad(on(on_device, randn(shape, 1)));  // nothing but dx wanted
      backward(layer_norm(frozen), on(on_device, dy));
      return std::vector<Tensor>{back(y), back(grad(x)), back(grad(gamma)), back(grad(beta)), back(grad(frozen))};
    };
    const std::vector<Tensor> here = run(device()), cpu = run({});
    for (std::size_t i = 0; i < here.size(); ++i) {
      EXPECT_EQ(here[i].shape(), cpu[i].shape());
      EXPECT_LE(relative_error(here[i], cpu[i]), 4e-6) << i;  // two f32 results, each within a few dozen roundings
    }
  }
}

// 2·R·C and 3·R·C elements, two numbers per row, the vectors over C, and the sums of each block written and read.
TEST_P(LayerNormGpu, ReadsAndWritesOnce) {
  for (const Case& c :
       {Case{96, 768}, Case{96, 1024, Dtype::bf16}, Case{33, 8192}, Case{17, 16384}, Case{64, 256, Dtype::f64}}) {
    SCOPED_TRACE(describe(c));
    const Layer layer(device(), c);
    const Tensor y = layer.matrix(), mean = layer.row_numbers(), rstd = layer.row_numbers();
    const Tensor dx = layer.matrix(), dgamma = layer.vector(), dbeta = layer.vector(), partials = layer.partials();
    const auto matrix = static_cast<double>(layer.x.nbytes()), vector = static_cast<double>(layer.gamma.nbytes());
    const auto rows = static_cast<double>(2 * mean.nbytes());
    const auto blocks = static_cast<double>(kernels::row_norm_backward_plan(c.rows, c.channels).blocks);
    const double sums = 2 * blocks * 2 * static_cast<double>(c.channels * element_bytes(statistics(c.dtype)));
    test::expect_traffic(device(), 2 * matrix + rows + 2 * vector,
                         [&] { kernels::layer_norm_forward(device(), layer.forward(y, mean, rstd)); });
    test::expect_traffic(device(), 3 * matrix + rows + 3 * vector + sums, [&] {
      kernels::layer_norm_backward(device(), layer.backward(mean, rstd, dx, dgamma, dbeta, partials));
    });
  }
}

// Rows that start on 16 bytes move 16 bytes per access, all of it in operands that the launches name.
TEST_P(LayerNormGpu, MovesVectors) {
  if (!emulated()) GTEST_SKIP() << "counts accesses, which only the emulator does";
  const Layer layer(device(), {8, 512, Dtype::bf16});
  const Tensor y = layer.matrix(), mean = layer.row_numbers(), rstd = layer.row_numbers();
  const Tensor dx = layer.matrix(), dgamma = layer.vector(), dbeta = layer.vector(), partials = layer.partials();
  const simt::TrafficScope scope;
  kernels::layer_norm_forward(device(), layer.forward(y, mean, rstd));
  kernels::layer_norm_backward(device(), layer.backward(mean, rstd, dx, dgamma, dbeta, partials));
  for (const char* name : {"x", "y", "gamma", "beta"})
    EXPECT_EQ(scope.launches()[0].find(name)->widest_access_bytes, 16) << name;
  for (const char* name : {"x", "dy", "dx", "gamma", "partials"})
    EXPECT_EQ(scope.launches()[1].find(name)->widest_access_bytes, 16) << name;
  for (const simt::KernelTraffic& launch : scope.launches())
    EXPECT_EQ(launch.find("(other)"), nullptr) << launch.kernel;
}

WEFT_GPU_SUITE(LayerNormGpu);

}  // namespace
}  // namespace weft
