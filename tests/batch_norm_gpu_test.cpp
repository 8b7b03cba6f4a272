// BatchNorm's GPU kernels, every variant, against the cpu's in f64.
#include <cmath>

#include "autograd/batch_norm.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "kernels/batch_norm.h"
#include "support/gpu.h"
#include "support/guarded.h"
#include "support/variants.h"

namespace weft {
namespace {

using kernels::BatchNormBackward;
using kernels::BatchNormForward;
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
constexpr BatchNormMode kModes[] = {BatchNormMode::train, BatchNormMode::eval};
constexpr double kEps = 1e-5, kMomentum = 0.3;

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

struct Case {
  std::int64_t rows, channels;
  Dtype dtype = Dtype::f32;
  BatchNormMode mode = BatchNormMode::train;
  Base base = Base::aligned;
  bool gamma = true, beta = true;
  double mean = 1000;  // of every column: a one-pass variance shows at once
  double spread = 1;
};

std::string describe(const Case& c) {
  return fmt::format("R={} C={} {} {} {} gamma={} beta={} mean={}", c.rows, c.channels, to_string(c.dtype),
                     c.mode == BatchNormMode::train ? "train" : "eval", c.base == Base::odd ? "odd" : "aligned",
                     c.gamma, c.beta, c.mean);
}

// A case's inputs on the device, in `dtype`; its results in f64 from the cpu kernels, for the inputs as they were
// stored.
struct Layer {
  Layer(Device device, const Case& c) : c(c), device(device) {
    const Dtype s = statistics(c.dtype);
    const Tensor host_x = around(c.mean, c.spread, {c.rows, c.channels}, 1, c.dtype);
    const Tensor host_dy = randn({c.rows, c.channels}, 2, c.dtype);
    const Tensor host_gamma = around(1, 0.5, {c.channels}, 3, c.dtype), host_beta = randn({c.channels}, 4, c.dtype);
    old_mean = around(c.mean, 1, {c.channels}, 5, s);
    old_var = rand({c.channels}, 6, s) + scalar(0.5, s);
    x = placed(host_x, c.base, device);
    dy = placed(host_dy, c.base, device);
    if (c.gamma) gamma = placed(host_gamma, c.base, device);
    if (c.beta) beta = placed(host_beta, c.base, device);

    const auto exact = [](const Tensor& t) { return cast(t, Dtype::f64); };
    const auto empty = [](const Shape& shape) { return Tensor::empty(shape, Dtype::f64); };
    const Tensor x64 = exact(host_x), dy64 = exact(host_dy), gamma64 = exact(host_gamma), beta64 = exact(host_beta);
    running_mean64 = clone(exact(old_mean));
    running_var64 = clone(exact(old_var));
    y64 = empty({c.rows, c.channels});
    dx64 = empty({c.rows, c.channels});
    mean64 = empty({c.channels});
    rstd64 = empty({c.channels});
    dgamma64 = empty({c.channels});
    dbeta64 = empty({c.channels});
    const Tensor partials = empty({kernels::batch_norm_partials(c.rows, c.channels, {})});
    const void* const weight = c.gamma ? gamma64.raw_data() : nullptr;
    kernels::batch_norm_forward(
        {}, {Dtype::f64, c.mode, c.rows, c.channels, kEps, kMomentum, x64.raw_data(), weight,
             c.beta ? beta64.raw_data() : nullptr, y64.raw_data(), running_mean64.raw_data(), running_var64.raw_data(),
             mean64.raw_data(), rstd64.raw_data(), partials.raw_data()});
    kernels::batch_norm_backward(
        {}, {Dtype::f64, c.mode, c.rows, c.channels, x64.raw_data(), weight, dy64.raw_data(), mean64.raw_data(),
             rstd64.raw_data(), dx64.raw_data(), dgamma64.raw_data(), dbeta64.raw_data(), Accumulate::overwrite,
             Accumulate::overwrite, partials.raw_data()});
    // dx is a difference of terms gamma rstd dy, dgamma a sum of terms dy xhat: their rounding is what the errors are
    // made of.
    const std::vector<double> g = values(dy64), weights = values(gamma64), scale = values(rstd64), xs = values(x64),
                              means = values(mean64);
    for (std::size_t i = 0; i < g.size(); ++i) {
      const std::size_t column = i % static_cast<std::size_t>(c.channels);
      dx_scale += std::pow(scale[column] * g[i] * (c.gamma ? weights[column] : 1.0), 2);
      dgamma_scale += std::pow(g[i] * (xs[i] - means[column]) * scale[column], 2);
    }
    dx_scale = std::sqrt(dx_scale);
    dgamma_scale = std::sqrt(dgamma_scale);
  }
  Tensor partials() const {  // exactly as large as the op asks for: beyond it is a fault
    return output(device, {kernels::batch_norm_partials(c.rows, c.channels, device)}, statistics(c.dtype));
  }
  Tensor matrix() const { return place({c.rows, c.channels}, c.dtype, c.base, device); }
  Tensor vector() const { return place({c.channels}, c.dtype, c.base, device); }
  Tensor numbers() const { return place({c.channels}, statistics(c.dtype), c.base, device); }

  Case c;
  Device device;
  Tensor x, dy, gamma, beta, old_mean, old_var;
  Tensor y64, mean64, rstd64, running_mean64, running_var64, dx64, dgamma64, dbeta64;
  double dx_scale = 0, dgamma_scale = 0;
};

// Everything that forward writes.
struct ForwardResult {
  explicit ForwardResult(const Layer& of)
      : y(of.matrix()),
        mean(of.numbers()),
        rstd(of.numbers()),
        running_mean(placed(of.old_mean, of.c.base, of.device)),
        running_var(placed(of.old_var, of.c.base, of.device)),
        partials(of.partials()) {}
  BatchNormForward args(const Layer& of) const {
    return {.dtype = of.c.dtype,
            .mode = of.c.mode,
            .rows = of.c.rows,
            .channels = of.c.channels,
            .eps = kEps,
            .momentum = kMomentum,
            .x = data_or_null(of.x),
            .gamma = data_or_null(of.gamma),
            .beta = data_or_null(of.beta),
            .y = data_or_null(y),
            .running_mean = running_mean.raw_data(),
            .running_var = running_var.raw_data(),
            .mean = mean.raw_data(),
            .rstd = rstd.raw_data(),
            .partials = partials.raw_data()};
  }
  std::vector<Tensor> on_cpu() const {
    return {back(y), back(mean), back(rstd), back(running_mean), back(running_var)};
  }
  Tensor y, mean, rstd, running_mean, running_var, partials;
};

struct BackwardResult {
  explicit BackwardResult(const Layer& of)
      : dx(of.matrix()), dgamma(of.vector()), dbeta(of.vector()), partials(of.partials()) {}
  BatchNormBackward args(const Layer& of, const ForwardResult& forward, Accumulate mode = Accumulate::overwrite) const {
    return {.dtype = of.c.dtype,
            .mode = of.c.mode,
            .rows = of.c.rows,
            .channels = of.c.channels,
            .x = data_or_null(of.x),
            .gamma = data_or_null(of.gamma),
            .dy = data_or_null(of.dy),
            .mean = forward.mean.raw_data(),
            .rstd = forward.rstd.raw_data(),
            .dx = data_or_null(dx),
            .dgamma = data_or_null(dgamma),
            .dbeta = data_or_null(dbeta),
            .dgamma_mode = mode,
            .dbeta_mode = mode,
            .partials = partials.raw_data()};
  }
  std::vector<Tensor> on_cpu() const { return {back(dx), back(dgamma), back(dbeta)}; }
  Tensor dx, dgamma, dbeta, partials;
};

class BatchNormGpu : public test::GpuTest {
 protected:
  enum class Variants : std::uint8_t { all, chosen };

  // Forward and backward, by every variant that supports the case; in f32 in every thread order.
  void check(const Case& c, Variants which = Variants::all) {
    SCOPED_TRACE(describe(c));
    const Layer layer(device(), c);
    const Stream& stream = current_stream(device());
    const Dtype s = statistics(c.dtype);
    // A column's sums: at most 64 terms per thread one after the other, then a tree of three levels, 16 warps, and the
    // chunks of 512 rows; errors random, a handful of further roundings of the same size. 16-bit: computed in f32, then
    // the result rounded once.
    const double sum_error = rounding(s) * (12 + std::sqrt(static_cast<double>(c.rows) / 512));
    const double stored = s == c.dtype ? 0 : rounding(c.dtype);
    const auto run = [&](auto&& f) { return c.dtype == Dtype::f32 ? in_every_order(device(), f) : f(); };

    const ForwardResult probe(layer);
    const auto forwards = WEFT_VARIANTS(batch_norm_forward, device());
    const std::string first = test::chosen(forwards, probe.args(layer));
    const auto check_forward = [&](const auto& variant) {
      if (which == Variants::chosen && variant.name != first) return;
      const std::vector<Tensor> out = run([&] {
        const ForwardResult result(layer);
        variant.run(stream, result.args(layer));
        return result.on_cpu();
      });
      EXPECT_LE(relative_error(out[0], layer.y64), stored + sum_error);
      const double columns = std::sqrt(static_cast<double>(c.channels));
      EXPECT_LE(error(out[1], layer.mean64), rounding(s) * (norm(values(layer.mean64)) + c.spread * columns));
      EXPECT_LE(relative_error(out[2], layer.rstd64), sum_error);
      if (c.mode == BatchNormMode::eval) {
        EXPECT_TRUE(bitwise_equal(out[1], layer.old_mean));
        EXPECT_TRUE(bitwise_equal(out[3], layer.old_mean));
        EXPECT_TRUE(bitwise_equal(out[4], layer.old_var));
      } else {
        EXPECT_LE(error(out[3], layer.running_mean64),
                  rounding(s) * (3 * norm(values(layer.mean64)) + c.spread * columns));
        EXPECT_LE(relative_error(out[4], layer.running_var64), sum_error);
      }
    };
    EXPECT_GE(for_each_variant(forwards, probe.args(layer), check_forward), 1);

    const ForwardResult saved(layer);
    kernels::batch_norm_forward(device(), saved.args(layer));
    const BackwardResult gradients(layer);
    const auto backwards = WEFT_VARIANTS(batch_norm_backward, device());
    const std::string shipped = test::chosen(backwards, gradients.args(layer, saved));
    const auto check_backward = [&](const auto& variant) {
      if (which == Variants::chosen && variant.name != shipped) return;
      const std::vector<Tensor> out = run([&] {
        const BackwardResult result(layer);
        variant.run(stream, result.args(layer, saved));
        return result.on_cpu();
      });
      EXPECT_LE(error(out[0], layer.dx64), (stored + 2 * sum_error) * layer.dx_scale);
      EXPECT_LE(error(out[1], layer.dgamma64),
                stored * norm(values(layer.dgamma64)) + 2 * sum_error * layer.dgamma_scale);
      EXPECT_LE(relative_error(out[2], layer.dbeta64), stored + sum_error);
    };
    EXPECT_GE(for_each_variant(backwards, gradients.args(layer, saved), check_backward), 1);
  }
};

TEST_P(BatchNormGpu, OddSizesWithALargeMean) {
  for (std::int64_t channels : {1, 3, 15, 17, 33})
    for (std::int64_t rows : {2, 3, 31, 130})
      for (BatchNormMode mode : kModes) check({rows, channels, Dtype::f32, mode});
  for (Dtype dtype : kDtypes)
    for (BatchNormMode mode : kModes) check({77, 37, dtype, mode});
}

// Whole vectors: below, at and above a strip's 64 bytes, and a sheet's 32 lanes of 16 bytes.
TEST_P(BatchNormGpu, VectorSizes) {
  for (std::int64_t vectors : {1, 3, 4, 5, 31, 32, 33})
    for (Dtype dtype : kDtypes)
      check({9, vectors * 16 / element_bytes(dtype), dtype}, dtype == Dtype::f32 ? Variants::all : Variants::chosen);
}

// Below, at and above the rows of each resident kernel (128, 512, 1024, 2048), of a chunk (512), and of a sheet.
TEST_P(BatchNormGpu, RowCounts) {
  for (std::int64_t rows : {127, 128, 129, 511, 512, 513, 1024, 1025})
    for (std::int64_t channels : {4, 5}) check({rows, channels}, Variants::chosen);
  for (std::int64_t rows : {2048, 2049}) check({rows, 8}, Variants::chosen);
  for (Dtype dtype : {Dtype::bf16, Dtype::f16, Dtype::f64})
    for (std::int64_t rows : {512, 1025}) check({rows, 16, dtype}, rows == 512 ? Variants::all : Variants::chosen);
  check({600, 24});
  check({8190, 3}, Variants::chosen);  // 16 chunks, one for each of the groups that combine them
  check({9000, 3}, Variants::chosen);  // 18: two for each of nine
  for (BatchNormMode mode : kModes) check({1100, 4, Dtype::f32, mode}, Variants::chosen);
}

TEST_P(BatchNormGpu, AnyBase) {
  for (Dtype dtype : kDtypes)
    for (BatchNormMode mode : kModes) check({40, 32, dtype, mode, Base::odd});
}

TEST_P(BatchNormGpu, GammaAndBetaCombinations) {
  for (bool gamma : {false, true})
    for (bool beta : {false, true})
      for (BatchNormMode mode : kModes)
        for (std::int64_t channels : {20, 21}) check({30, channels, Dtype::bf16, mode, Base::aligned, gamma, beta, 0});
}

TEST_P(BatchNormGpu, HugeMean) {
  for (double mean : {1e4, 1e6, -1e7})
    for (std::int64_t rows : {100, 1300})
      check({rows, 12, Dtype::f32, BatchNormMode::train, Base::aligned, true, true, mean, 10});
}

TEST_P(BatchNormGpu, ConstantColumnsGiveBeta) {
  for (std::int64_t rows : {5, 600})
    for (double value : {0.0, 3.7e5, -1.1e30}) {
      Layer layer(device(), {rows, 20});
      layer.x = on(device(), full({rows, 20}, value));
      const ForwardResult probe(layer);
      for_each_variant(WEFT_VARIANTS(batch_norm_forward, device()), probe.args(layer), [&](const auto& variant) {
        const ForwardResult result(layer);
        BatchNormForward args = result.args(layer);
        args.momentum = 1;
        variant.run(current_stream(device()), args);
        const Tensor y = back(result.y), beta = back(layer.beta);
        for (std::int64_t r = 0; r < rows; ++r) ASSERT_TRUE(bitwise_equal(y[r], beta)) << value;
        EXPECT_EQ(values(back(result.running_mean)), values(full({20}, value)));
        EXPECT_EQ(values(back(result.running_var)), std::vector<double>(20, 0.0));
      });
    }
}

TEST_P(BatchNormGpu, RunningVarianceIsTheUnbiasedOne) {
  const Tensor x = on(device(), Tensor::from_vector(std::vector<float>{1, 3}, {2, 1}));
  const Tensor mean = on(device(), zeros({1})), var = on(device(), ones({1}));
  batch_norm(x, {}, {}, mean, var);
  EXPECT_FLOAT_EQ(back(mean).item<float>(), 0.1f * 2);           // momentum 0.1 is the weight of the new value
  EXPECT_FLOAT_EQ(back(var).item<float>(), 0.9f + 0.1f * 2.0f);  // ((1-2)² + (3-2)²) / (2 - 1), not / 2
}

TEST_P(BatchNormGpu, NonFiniteStaysInItsColumn) {
  Layer layer(device(), {600, 20});
  const Tensor host = randn({600, 20}, 1);
  host.data<float>()[570 * 20 + 3] = std::nanf("");
  host.data<float>()[5] = INFINITY;
  layer.x = on(device(), host);
  const ForwardResult probe(layer);
  for_each_variant(WEFT_VARIANTS(batch_norm_forward, device()), probe.args(layer), [&](const auto& variant) {
    const ForwardResult result(layer);
    variant.run(current_stream(device()), result.args(layer));
    const std::vector<double> y = values(back(result.y));
    for (std::size_t i = 0; i < y.size(); ++i) ASSERT_EQ(std::isfinite(y[i]), i % 20 != 3 && i % 20 != 5) << i;
  });
}

TEST_P(BatchNormGpu, InPlace) {
  for (BatchNormMode mode : kModes)
    for (const Case& c : {Case{70, 12}, Case{600, 5}}) {
      Case run = c;
      run.mode = mode;
      const Layer layer(device(), run);
      const Stream& stream = current_stream(device());
      const ForwardResult apart(layer);
      for_each_variant(WEFT_VARIANTS(batch_norm_forward, device()), apart.args(layer), [&](const auto& variant) {
        variant.run(stream, apart.args(layer));
        const ForwardResult result(layer);
        const Tensor both = on(device(), back(layer.x));
        BatchNormForward args = result.args(layer);
        args.x = args.y = both.raw_data();
        args.mean = args.rstd = nullptr;
        if (mode == BatchNormMode::train) args.running_mean = args.running_var = nullptr;
        variant.run(stream, args);
        EXPECT_TRUE(bitwise_equal(back(both), back(apart.y)));
      });
      const BackwardResult gradients(layer);
      for_each_variant(WEFT_VARIANTS(batch_norm_backward, device()), gradients.args(layer, apart),
                       [&](const auto& variant) {
                         variant.run(stream, gradients.args(layer, apart));
                         const BackwardResult result(layer);
                         const Tensor both = on(device(), back(layer.dy));
                         BatchNormBackward args = result.args(layer, apart);
                         args.dy = args.dx = both.raw_data();
                         variant.run(stream, args);
                         EXPECT_TRUE(bitwise_equal(back(both), back(gradients.dx)));
                         EXPECT_TRUE(bitwise_equal(back(result.dgamma), back(gradients.dgamma)));
                         EXPECT_TRUE(bitwise_equal(back(result.dbeta), back(gradients.dbeta)));
                       });
    }
}

TEST_P(BatchNormGpu, AccumulatesAndLeavesOutWhatIsNotWanted) {
  for (BatchNormMode mode : kModes)
    for (const Case& c : {Case{70, 12}, Case{600, 5}}) {
      Case run = c;
      run.mode = mode;
      const Layer layer(device(), run);
      const Stream& stream = current_stream(device());
      const ForwardResult saved(layer);
      kernels::batch_norm_forward(device(), saved.args(layer));
      const BackwardResult all(layer);
      for_each_variant(WEFT_VARIANTS(batch_norm_backward, device()), all.args(layer, saved), [&](const auto& variant) {
        variant.run(stream, all.args(layer, saved));
        BackwardResult more(layer);
        const Tensor old_gamma = randn({c.channels}, 11), old_beta = randn({c.channels}, 12);
        more.dgamma = on(device(), old_gamma);
        more.dbeta = on(device(), old_beta);
        variant.run(stream, more.args(layer, saved, Accumulate::add));
        EXPECT_TRUE(bitwise_equal(back(more.dgamma), back(all.dgamma) + old_gamma));
        EXPECT_TRUE(bitwise_equal(back(more.dbeta), back(all.dbeta) + old_beta));
        for (int only = 0; only < 3; ++only) {
          const BackwardResult one(layer);
          BatchNormBackward args = one.args(layer, saved);
          if (only != 0) args.dx = nullptr;
          if (only != 1) args.dgamma = nullptr;
          if (only != 2) args.dbeta = nullptr;
          variant.run(stream, args);
          EXPECT_TRUE(
              bitwise_equal(one.on_cpu()[static_cast<std::size_t>(only)], all.on_cpu()[static_cast<std::size_t>(only)]))
              << only;
        }
      });
    }
}

TEST_P(BatchNormGpu, NoRowsInEvaluation) {
  const Layer layer(device(), {0, 40, Dtype::f32, BatchNormMode::eval});
  const ForwardResult probe(layer);
  for_each_variant(WEFT_VARIANTS(batch_norm_forward, device()), probe.args(layer), [&](const auto& variant) {
    const ForwardResult result(layer);
    variant.run(current_stream(device()), result.args(layer));
    EXPECT_TRUE(bitwise_equal(back(result.mean), layer.old_mean));  // which statistics were used is said all the same
    EXPECT_LE(relative_error(back(result.rstd), layer.rstd64), 4 * rounding(Dtype::f32));  // a root and a division
    for_each_variant(WEFT_VARIANTS(batch_norm_backward, device()), BackwardResult(layer).args(layer, result),
                     [&](const auto& backward) {
                       const BackwardResult gradients(layer);
                       backward.run(current_stream(device()), gradients.args(layer, result));
                       EXPECT_EQ(values(back(gradients.dgamma)), std::vector<double>(40, 0.0));
                       EXPECT_EQ(values(back(gradients.dbeta)), std::vector<double>(40, 0.0));
                     });
  });
}

// The op through autograd: its checks, its workspace, and what it saves.
TEST_P(BatchNormGpu, Autograd) {
  for (BatchNormMode mode : kModes)
    for (const Shape& shape : {Shape{48, 24}, Shape{1500, 5}}) {
      const auto run = [&](Device on_device) {
        const Tensor x = set_requires_grad(on(on_device, randn(shape, 1)));
        const Tensor gamma = set_requires_grad(on(on_device, randn({shape[1]}, 2)));
        const Tensor beta = set_requires_grad(on(on_device, randn({shape[1]}, 3)));
        const Tensor mean = on(on_device, zeros({shape[1]})), var = on(on_device, ones({shape[1]}));
        const Tensor y = batch_norm(x, gamma, beta, mean, var, {.mode = mode});
        backward(y, on(on_device, randn(shape, 4)));
        return std::vector<Tensor>{back(y), back(grad(x)), back(grad(gamma)), back(grad(beta)), back(mean), back(var)};
      };
      const std::vector<Tensor> here = run(device()), cpu = run({});
      for (std::size_t i = 0; i < here.size(); ++i)
        EXPECT_LE(relative_error(here[i], cpu[i]), 4e-6) << i;  // two f32 results, each within a few dozen roundings
    }
}

// 2·R·C and 3·R·C elements where the columns stay in registers, else 3·R·C and 5·R·C; and what the chunks leave,
// written and read.
TEST_P(BatchNormGpu, MovesWhatItSays) {
  const auto moved = [&](const Case& c, double forward, double backward) {
    SCOPED_TRACE(describe(c));
    const Layer layer(device(), c);
    const ForwardResult saved(layer);
    const BackwardResult gradients(layer);
    const auto matrix = static_cast<double>(layer.x.nbytes()), numbers = static_cast<double>(saved.mean.nbytes());
    const bool streamed = c.mode == BatchNormMode::train && c.rows > 1024;
    const double chunks = streamed ? 2 * static_cast<double>(saved.partials.nbytes()) : 0;
    test::expect_traffic(device(), forward * matrix + 8 * numbers + chunks,
                         [&] { kernels::batch_norm_forward(device(), saved.args(layer)); });
    test::expect_traffic(device(), backward * matrix + 5 * numbers + chunks,
                         [&] { kernels::batch_norm_backward(device(), gradients.args(layer, saved)); });
  };
  moved({512, 64}, 2, 3);
  moved({512, 64, Dtype::bf16}, 2, 3);
  moved({1024, 32}, 2, 3);
  moved({2100, 32}, 3, 5);
  moved({2100, 32, Dtype::bf16}, 3, 5);
  moved({512, 64, Dtype::f32, BatchNormMode::eval}, 2, 3);
}

// Rows that start on 16 bytes move whole vectors, all of it in operands that the launches name.
TEST_P(BatchNormGpu, MovesVectors) {
  if (!emulated()) GTEST_SKIP() << "counts accesses, which only the emulator does";
  const Layer layer(device(), {1100, 16, Dtype::bf16});
  const ForwardResult saved(layer);
  const BackwardResult gradients(layer);
  const simt::TrafficScope scope;
  kernels::batch_norm_forward(device(), saved.args(layer));
  kernels::batch_norm_backward(device(), gradients.args(layer, saved));
  ASSERT_EQ(scope.launches().size(), 4u);  // one, then chunks, merge and dx
  EXPECT_EQ(scope.launches()[0].find("x")->widest_access_bytes, 8);
  EXPECT_EQ(scope.launches()[1].find("dy")->widest_access_bytes, 8);
  for (const char* name : {"x", "dy", "dx"}) EXPECT_EQ(scope.launches()[3].find(name)->widest_access_bytes, 16) << name;
  for (const simt::KernelTraffic& launch : scope.launches())
    EXPECT_EQ(launch.find("(other)"), nullptr) << launch.kernel;
}

WEFT_GPU_SUITE(BatchNormGpu);

}  // namespace
}  // namespace weft
