#include "autograd/batch_norm.h"

#include <cmath>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/gradcheck.h"
#include "autograd/layout.h"
#include "nn/batch_norm.h"
#include "nn/layer_norm.h"
#include "nn/sequential.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/guarded.h"
#include "support/threads.h"

namespace weft {
namespace {

using test::bitwise_equal;
using test::Guarded;
using test::message_of;
using test::relative_error;
using test::rounding;
using test::values;

constexpr Dtype kDtypes[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};
constexpr BatchNormMode kModes[] = {BatchNormMode::train, BatchNormMode::eval};

struct Case {
  std::int64_t rows, channels;
  Dtype dtype;
  BatchNormMode mode = BatchNormMode::train;
  bool gamma = true, beta = true;
  double mean = 1000;  // of every column: a one-pass variance shows at once
  double spread = 1;
};

std::string describe(const Case& c) {
  return fmt::format("R={} C={} {} {} gamma={} beta={} mean={}", c.rows, c.channels, to_string(c.dtype),
                     c.mode == BatchNormMode::train ? "train" : "eval", c.gamma, c.beta, c.mean);
}

Tensor around(double mean, double spread, const Shape& shape, std::uint64_t seed, Dtype dtype) {
  return cast(randn(shape, seed, Dtype::f64) * spread + scalar(mean, Dtype::f64), dtype);
}

double norm(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v * v;
  return std::sqrt(sum);
}

struct Reference {
  std::vector<double> y, dx, dgamma, dbeta, mean, unbiased;
  double dx_scale = 0;      // norm of gamma * rstd * dy: dx is a difference of terms of that size
  double dgamma_scale = 0;  // norm of dy * xhat, which dgamma sums and which may cancel
};

// Plain loops over the values as stored, in long double: they judge f64 as well.
Reference reference(const Case& c, const Tensor& x_, const Tensor& gamma_, const Tensor& beta_, const Tensor& dy_,
                    const std::vector<double>& running_mean, const std::vector<double>& running_var, double eps) {
  const std::vector<double> x = values(x_), dy = values(dy_);
  const auto R = static_cast<std::size_t>(c.rows), C = static_cast<std::size_t>(c.channels);
  const std::vector<double> gamma = c.gamma ? values(gamma_) : std::vector<double>(C, 1.0);
  const std::vector<double> beta = c.beta ? values(beta_) : std::vector<double>(C, 0.0);
  const auto count = static_cast<long double>(R);
  const bool train = c.mode == BatchNormMode::train;
  Reference ref{std::vector<double>(R * C), std::vector<double>(R * C), std::vector<double>(C),
                std::vector<double>(C),     std::vector<double>(C),     std::vector<double>(C)};
  for (std::size_t j = 0; j < C; ++j) {
    long double mean = 0, squares = 0, dgamma = 0, dbeta = 0;
    for (std::size_t r = 0; r < R; ++r) mean += x[r * C + j];
    mean /= count;
    for (std::size_t r = 0; r < R; ++r) squares += (x[r * C + j] - mean) * (x[r * C + j] - mean);
    ref.mean[j] = static_cast<double>(mean);
    ref.unbiased[j] = static_cast<double>(squares / (count - 1));
    long double variance = squares / count;
    if (!train) {
      mean = running_mean[j];
      variance = running_var[j];
    }
    const long double rstd = 1 / std::sqrt(variance + eps);
    for (std::size_t r = 0; r < R; ++r) {
      const long double xhat = (x[r * C + j] - mean) * rstd;
      ref.y[r * C + j] = static_cast<double>(xhat * gamma[j] + beta[j]);
      dgamma += dy[r * C + j] * xhat;
      ref.dgamma_scale += static_cast<double>(dy[r * C + j] * xhat * dy[r * C + j] * xhat);
      dbeta += dy[r * C + j];
      ref.dx_scale += static_cast<double>(gamma[j] * rstd * dy[r * C + j] * gamma[j] * rstd * dy[r * C + j]);
    }
    for (std::size_t r = 0; r < R; ++r) {
      const long double xhat = (x[r * C + j] - mean) * rstd;
      const long double inner = train ? dy[r * C + j] - dbeta / count - xhat * dgamma / count : dy[r * C + j];
      ref.dx[r * C + j] = static_cast<double>(gamma[j] * rstd * inner);
    }
    ref.dgamma[j] = static_cast<double>(dgamma);
    ref.dbeta[j] = static_cast<double>(dbeta);
  }
  ref.dx_scale = std::sqrt(ref.dx_scale);
  ref.dgamma_scale = std::sqrt(ref.dgamma_scale);
  return ref;
}

// Runs both kernels into fenced NaN-filled buffers and compares everything with the reference.
void check(const Case& c) {
  SCOPED_TRACE(describe(c));
  const double eps = 1e-5, momentum = 0.3;
  const Dtype statistics = c.dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  const Tensor x = around(c.mean, c.spread, {c.rows, c.channels}, 1, c.dtype);
  const Tensor dy = randn({c.rows, c.channels}, 2, c.dtype);
  const Tensor gamma = around(1, 0.5, {c.channels}, 3, c.dtype), beta = randn({c.channels}, 4, c.dtype);
  const Tensor old_mean = around(c.mean, 1, {c.channels}, 5, statistics);
  const Tensor old_var = rand({c.channels}, 6, statistics) + scalar(0.5, statistics);
  Guarded running_mean({c.channels}, statistics), running_var({c.channels}, statistics);
  running_mean.tensor().copy_bytes_from(old_mean);
  running_var.tensor().copy_bytes_from(old_var);
  Guarded y({c.rows, c.channels}, c.dtype), mean({c.channels}, statistics), rstd({c.channels}, statistics);
  Guarded dx({c.rows, c.channels}, c.dtype), dgamma({c.channels}, c.dtype), dbeta({c.channels}, c.dtype);
  Guarded forward_partials({kernels::batch_norm_partials(c.rows, c.channels, {})}, statistics);
  Guarded backward_partials({kernels::batch_norm_partials(c.rows, c.channels, {})}, statistics);
  const void* gamma_data = c.gamma ? gamma.raw_data() : nullptr;
  kernels::batch_norm_forward({}, {c.dtype, c.mode, c.rows, c.channels, eps, momentum, x.raw_data(), gamma_data,
                                   c.beta ? beta.raw_data() : nullptr, y.data(), running_mean.data(),
                                   running_var.data(), mean.data(), rstd.data(), forward_partials.data()});
  kernels::batch_norm_backward({}, {c.dtype, c.mode, c.rows, c.channels, x.raw_data(), gamma_data, dy.raw_data(),
                                    mean.data(), rstd.data(), dx.data(), dgamma.data(), dbeta.data(),
                                    Accumulate::overwrite, Accumulate::overwrite, backward_partials.data()});
  for (const Guarded* buffer :
       {&y, &mean, &rstd, &dx, &dgamma, &dbeta, &running_mean, &running_var, &forward_partials, &backward_partials})
    EXPECT_TRUE(buffer->intact());

  const Reference ref = reference(c, x, gamma, beta, dy, values(old_mean), values(old_var), eps);
  // f32 and f64: chunks of 64 rows summed one after the other, then R/64 of them, errors random, a handful of further
  // roundings of the same size. 16-bit: computed in f32, one rounding of the result.
  const bool wide = c.dtype == Dtype::f64 || c.dtype == Dtype::f32;
  const double step = rounding(c.dtype), sum_step = rounding(statistics);
  const double length = 8 + std::sqrt(static_cast<double>(c.rows));
  const double tolerance = wide ? step * length : step;
  EXPECT_LE(relative_error(values(y.tensor()), ref.y), tolerance);
  EXPECT_LE(relative_error(values(dx.tensor()), ref.dx) * norm(ref.dx) / ref.dx_scale, tolerance);
  const double dgamma_norm = norm(ref.dgamma);
  EXPECT_LE(relative_error(values(dgamma.tensor()), ref.dgamma) * (dgamma_norm > 0 ? dgamma_norm : 1.0),
            (wide ? 0 : step) * dgamma_norm + sum_step * length * ref.dgamma_scale);
  EXPECT_LE(relative_error(values(dbeta.tensor()), ref.dbeta), tolerance);
  if (c.mode == BatchNormMode::eval) {
    EXPECT_TRUE(bitwise_equal(running_mean.tensor(), old_mean));
    EXPECT_TRUE(bitwise_equal(running_var.tensor(), old_var));
    return;
  }
  std::vector<double> new_mean = values(old_mean), new_var = values(old_var);
  for (std::size_t j = 0; j < new_mean.size(); ++j) {
    new_mean[j] = (1 - momentum) * new_mean[j] + momentum * ref.mean[j];
    new_var[j] = (1 - momentum) * new_var[j] + momentum * ref.unbiased[j];
  }
  EXPECT_LE(relative_error(values(running_mean.tensor()), new_mean), 4 * sum_step);
  EXPECT_LE(relative_error(values(running_var.tensor()), new_var), length * sum_step);
}

TEST(BatchNorm, OddSizesWithALargeMean) {
  for (std::int64_t channels : {1, 2, 31, 33, 64, 100, 257})
    for (std::int64_t rows : {2, 3, 63, 64, 65, 130})
      for (Dtype dtype : kDtypes)
        for (BatchNormMode mode : kModes) check({rows, channels, dtype, mode});
}

TEST(BatchNorm, GammaAndBetaCombinations) {
  for (bool gamma : {false, true})
    for (bool beta : {false, true})
      for (BatchNormMode mode : kModes) check({70, 65, Dtype::f32, mode, gamma, beta, 0});
}

TEST(BatchNorm, LargerThanTheCache) {
  for (BatchNormMode mode : kModes)
    for (Dtype dtype : kDtypes) {
      check({4097, 129, dtype, mode});
      check({100'003, 3, dtype, mode});  // many chunks per task
      check({20, 20'011, dtype, mode});
    }
}

TEST(BatchNorm, HugeMean) {
  for (double mean : {1e4, 1e6, -1e7})
    for (std::int64_t rows : {100, 5000}) check({rows, 67, Dtype::f32, BatchNormMode::train, true, true, mean, 10});
}

TEST(BatchNorm, ConstantColumnsGiveBeta) {
  for (std::int64_t rows : {5, 300})
    for (double value : {0.0, 3.7e5, -1.1e30}) {
      const Tensor beta = randn({40}, 2), mean = zeros({40}), var = ones({40});
      const Tensor y = batch_norm(full({rows, 40}, value), randn({40}, 1), beta, mean, var, {.momentum = 1.0});
      for (std::int64_t r = 0; r < rows; ++r) ASSERT_TRUE(bitwise_equal(y[r], beta)) << value;
      EXPECT_EQ(values(mean), values(full({40}, value)));
      EXPECT_EQ(values(var), std::vector<double>(40, 0.0));
    }
}

TEST(BatchNorm, RunningVarianceIsTheUnbiasedOne) {
  const Tensor mean = zeros({1}), var = ones({1});
  batch_norm(Tensor::from_vector(std::vector<float>{1, 3}, {2, 1}), {}, {}, mean, var);
  EXPECT_FLOAT_EQ(mean.item<float>(), 0.1f * 2);           // momentum 0.1 is the weight of the new value
  EXPECT_FLOAT_EQ(var.item<float>(), 0.9f + 0.1f * 2.0f);  // ((1-2)² + (3-2)²) / (2 - 1), not / 2
}

TEST(BatchNorm, OneRowIsRefusedBeforeAnythingChanges) {
  const Tensor mean = full({512}, 3), var = full({512}, 2);
  const std::string message = message_of<ShapeError>([&] { batch_norm(randn({1, 512}, 1), {}, {}, mean, var); });
  EXPECT_EQ(message,
            "[batch_norm] training needs at least 2 rows per channel but the input has shape [1, 512]: use a larger "
            "batch, or "
            "eval mode");
  EXPECT_EQ(values(mean), std::vector<double>(512, 3.0));
  EXPECT_EQ(values(var), std::vector<double>(512, 2.0));
  EXPECT_EQ(mean.version(), 0u);
  EXPECT_NO_THROW(batch_norm(randn({1, 512}, 1), {}, {}, mean, var, {.mode = BatchNormMode::eval}));
}

TEST(BatchNorm, NoRowsInEvaluation) {
  const Tensor x = set_requires_grad(zeros({0, 5})), gamma = set_requires_grad(ones({5}));
  const Tensor y = batch_norm(x, gamma, {}, zeros({5}), ones({5}), {.mode = BatchNormMode::eval});
  EXPECT_EQ(y.shape(), (Shape{0, 5}));
  backward(y, zeros({0, 5}));
  EXPECT_EQ(values(grad(gamma)), std::vector<double>(5, 0.0));
}

TEST(BatchNorm, Gradcheck) {
  const std::vector<Tensor> inputs = {around(3, 1, {7, 3}, 11, Dtype::f64), randn({3}, 12, Dtype::f64),
                                      randn({3}, 13, Dtype::f64)};
  const Tensor mean = randn({3}, 14, Dtype::f64), var = rand({3}, 15, Dtype::f64) + scalar(0.5, Dtype::f64);
  for (BatchNormMode mode : kModes) {
    const auto f = [&](const std::vector<Tensor>& in) {
      return batch_norm(in[0], in[1], in[2], clone(mean), clone(var), {.mode = mode});
    };
    const GradcheckResult result = gradcheck(f, inputs);
    EXPECT_TRUE(result.passed) << result.message;
  }
}

TEST(BatchNorm, EqualsItsComposite) {
  const Tensor mean = randn({19}, 5, Dtype::f64), var = rand({19}, 6, Dtype::f64) + scalar(0.5, Dtype::f64);
  for (BatchNormMode mode : kModes) {
    const auto run = [&](auto&& f) {
      const Tensor x = set_requires_grad(around(5, 2, {71, 19}, 1, Dtype::f64));
      const Tensor gamma = set_requires_grad(randn({19}, 2, Dtype::f64)),
                   beta = set_requires_grad(randn({19}, 3, Dtype::f64));
      const Tensor y = f(x, gamma, beta, clone(mean), clone(var), BatchNormOptions{.mode = mode, .eps = 1e-3});
      backward(y, randn({71, 19}, 4, Dtype::f64));
      return std::vector<Tensor>{y, grad(x), grad(gamma), grad(beta)};
    };
    const std::vector<Tensor> fused = run(batch_norm), composite = run(batch_norm_composite);
    for (std::size_t i = 0; i < fused.size(); ++i)
      EXPECT_LE(relative_error(fused[i], composite[i]), 1e-13) << i;  // a few hundred roundings of 2^-53
  }
}

// What eval saw at forward is what its backward uses, also when a training batch moves the running statistics in
// between.
TEST(BatchNorm, EvalBackwardKeepsTheStatisticsOfItsForward) {
  const Tensor x = set_requires_grad(randn({6, 4}, 1)), mean = zeros({4}), var = ones({4});
  const Tensor y = batch_norm(x, {}, {}, mean, var, {.mode = BatchNormMode::eval});
  batch_norm(randn({6, 4}, 2), {}, {}, mean, var);
  backward(y, ones({6, 4}));
  for (double v : values(grad(x))) EXPECT_NEAR(v, 1 / std::sqrt(1 + 1e-5), 1e-6);
}

TEST(BatchNorm, BitwiseEqualForAnyThreadCount) {
  for (const Shape& shape : {Shape{128, 512}, Shape{1001, 257}, Shape{50'000, 5}}) {
    std::vector<Tensor> expected;
    for (int threads : {1, 2, 7}) {
      const test::Threads guard(threads);
      const Tensor x = set_requires_grad(randn(shape, 1)), gamma = set_requires_grad(randn({shape[1]}, 2));
      const Tensor beta = set_requires_grad(randn({shape[1]}, 3)), mean = zeros({shape[1]}), var = ones({shape[1]});
      const Tensor y = batch_norm(x, gamma, beta, mean, var);
      backward(y, randn(shape, 4));
      const std::vector<Tensor> got = {y, grad(x), grad(gamma), grad(beta), mean, var};
      if (threads == 1) expected = got;
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_TRUE(bitwise_equal(got[i], expected[i])) << threads << " " << i;
    }
  }
}

TEST(BatchNorm, ParameterGradientsAddUp) {
  const Tensor gamma = set_requires_grad(ones({17})), beta = set_requires_grad(zeros({17}));
  const Tensor x = randn({12, 17}, 1), dy = randn({12, 17}, 2);
  backward(batch_norm(x, gamma, beta), dy);
  const Tensor once_gamma = clone(grad(gamma)), once_beta = clone(grad(beta));
  backward(batch_norm(x, gamma, beta), dy);
  EXPECT_TRUE(bitwise_equal(grad(gamma), once_gamma + once_gamma));
  EXPECT_TRUE(bitwise_equal(grad(beta), once_beta + once_beta));
}

TEST(BatchNorm, StridedInputs) {
  const Tensor base = randn({24, 40}, 1), dy = randn({40, 24}, 2);
  const Tensor x1 = set_requires_grad(base.t().alias()), x2 = set_requires_grad(clone(base.t()));
  const Tensor y1 = batch_norm(x1), y2 = batch_norm(x2);
  EXPECT_TRUE(bitwise_equal(y1, y2));
  backward(y1, dy);
  backward(y2, dy);
  EXPECT_TRUE(bitwise_equal(contiguous(grad(x1)), grad(x2)));
}

TEST(BatchNorm, NonFiniteStaysInItsColumn) {
  const Tensor x = randn({90, 20}, 1);
  x.data<float>()[70 * 20 + 3] = std::nanf("");
  x.data<float>()[5] = INFINITY;
  const Tensor y = batch_norm(x);
  for (std::int64_t c = 0; c < 20; ++c)
    for (double v : values(y.slice(1, c, c + 1))) EXPECT_EQ(std::isfinite(v), c != 3 && c != 5) << c;
}

TEST(BatchNorm, Errors) {
  const Tensor x = randn({4, 6}, 1);
  EXPECT_EQ(message_of<ShapeError>([&] { batch_norm(randn({6}, 1)); }),
            "[batch_norm] x must have shape [R, C] or [N, C, ...] of up to 5 dimensions, all but the first at least 1, "
            "but has [6]");
  EXPECT_EQ(message_of<ShapeError>([&] { batch_norm(x, ones({5})); }),
            "[batch_norm] gamma must have shape [C]=[6] but has [5]");
  EXPECT_EQ(message_of<DtypeError>([&] { batch_norm(cast(x, Dtype::f16), {}, {}, zeros({6}, Dtype::f16), ones({6})); }),
            "[batch_norm] running_mean must be f32 to go with x but is f16");
  EXPECT_EQ(message_of<OptionError>([&] { batch_norm(x, {}, {}, {}, {}, {.mode = BatchNormMode::eval}); }),
            "[batch_norm] eval mode needs running_mean and running_var");
  EXPECT_EQ(message_of<OptionError>([&] { batch_norm(x, {}, {}, zeros({6})); }),
            "[batch_norm] running_mean and running_var must be given together or not at all");
  EXPECT_EQ(message_of<OptionError>([&] { batch_norm(x, {}, {}, {}, {}, {.momentum = 1.5}); }),
            "[batch_norm] momentum must be in [0, 1] but is 1.5");
  EXPECT_EQ(message_of<OptionError>([&] { batch_norm(x, {}, {}, {}, {}, {.eps = -1}); }),
            "[batch_norm] eps must be positive but is -1");
}

TEST(BatchNorm, Module) {
  nn::Sequential model{nn::BatchNorm1d{6}};
  EXPECT_TRUE(nn::uses_batch_statistics(model));
  nn::Sequential other{nn::LayerNorm{6}};
  EXPECT_FALSE(nn::uses_batch_statistics(other));

  nn::BatchNorm1d norm{6};
  const nn::NamedTensors state = nn::state_dict(norm);
  ASSERT_EQ(state.size(), 4u);
  EXPECT_EQ(state[2].first, "running_mean");
  EXPECT_EQ(state[3].first, "running_var");
  EXPECT_EQ(values(state[3].second), std::vector<double>(6, 1.0));
  EXPECT_EQ(nn::parameters(norm).size(), 2u);

  const Tensor x = randn({40, 6}, 1);
  norm(x);
  EXPECT_NE(values(norm.running_mean), std::vector<double>(6, 0.0));
  const Tensor after = clone(norm.running_mean);
  nn::eval(norm);
  const Tensor y = norm(x);
  EXPECT_TRUE(bitwise_equal(norm.running_mean, after));
  EXPECT_TRUE(bitwise_equal(
      y, batch_norm(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, {.mode = BatchNormMode::eval})));
  nn::train(norm);
  EXPECT_FALSE(bitwise_equal(norm(x), y));
}

// --- planes ----------------------------------------------------------------------------------------------------------

// [N, C, ...] as rows of channels, and back.
Tensor as_rows(const Tensor& x) {
  const std::int64_t planes = x.size(0) > 0 ? x.numel() / x.size(0) / x.size(1) : 1;
  const Tensor flat = x.reshape({x.size(0), x.size(1), planes});
  return clone(flat.transpose(1, 2)).reshape({x.size(0) * planes, x.size(1)});
}
Tensor channels_last(const Tensor& x) { return clone(x.permute({0, 2, 3, 1})).permute({0, 3, 1, 2}); }

class BatchNormPlanesOn : public test::DeviceTest {};

// Everything, running statistics included, against the rows in f64.
TEST_P(BatchNormPlanesOn, EqualTheRowsOfTheSameData) {
  const Shape shapes[] = {{2, 3, 4, 4}, {1, 5, 1, 2}, {2, 4, 1, 1}, {9, 2, 7, 9}, {4, 3, 28, 28}, {2, 2, 47, 49}};
  for (const Shape& shape : shapes)
    for (const bool last : {false, true})
      for (const double mean : {3.0, 1e6}) {
        SCOPED_TRACE(shape.str() + (last ? " channels last " : " ") + std::to_string(mean));
        const std::int64_t channels = shape[1];
        const Tensor plain = around(mean, 1, shape, 1, Dtype::f32), dy = randn(shape, 2);
        const Tensor gamma = around(1, 0.5, {channels}, 3, Dtype::f32), beta = randn({channels}, 4);
        const auto run = [&](const Tensor& x, const Tensor& gradient, Device on, Dtype dtype) {
          const auto there = [&](const Tensor& t) { return cast(to(t.alias(), on), dtype); };
          const Tensor leaf = set_requires_grad(x.alias()), g = set_requires_grad(there(gamma)),
                       b = set_requires_grad(there(beta)), old_mean = there(full({channels}, mean + 1)),
                       old_var = there(full({channels}, 2));
          const Tensor y = batch_norm(leaf, g, b, old_mean, old_var, {.momentum = 0.3});
          backward(y, gradient);
          return std::vector<Tensor>{y, grad(leaf), grad(g), grad(b), old_mean, old_var};
        };
        Tensor x = here(plain);
        if (last) x = channels_last(x);
        const std::vector<Tensor> got = run(x, here(dy), device(), Dtype::f32);
        const std::vector<Tensor> want =
            run(cast(as_rows(plain), Dtype::f64), cast(as_rows(dy), Dtype::f64), {}, Dtype::f64);
        const auto values_of = [&](std::size_t i) {
          const Tensor t = clone(test::back(got[i]));
          return values(i < 2 ? as_rows(t) : t);
        };
        const double step = rounding(Dtype::f32);
        // Sums of up to a few thousand terms, errors random. Of two values nothing but rounding is left of dx.
        EXPECT_LE(relative_error(values_of(0), values(want[0])), 32 * step);
        if (plain.numel() / channels > 2) { EXPECT_LE(relative_error(values_of(1), values(want[1])), 128 * step); }
        for (const std::size_t i : {2, 3, 5}) EXPECT_LE(relative_error(values_of(i), values(want[i])), 128 * step) << i;
        EXPECT_LE(relative_error(values_of(4), values(want[4])), 4 * step);
      }
}

TEST_P(BatchNormPlanesOn, ChannelsLastStays) {
  const Tensor x = set_requires_grad(channels_last(here(randn({2, 3, 4, 5}, 1))));
  Strides dx;  // as it comes; a leaf keeps a dense copy
  add_grad_hook(x, [&](const Tensor& gradient) {
    dx = gradient.strides();
    return gradient;
  });
  for (const BatchNormMode mode : kModes) {
    const Tensor y = batch_norm(x, {}, {}, here(zeros({3})), here(ones({3})), {.mode = mode});
    EXPECT_EQ(y.shape(), x.shape());
    EXPECT_EQ(y.strides(), x.strides());
    for (const bool dy_last : {false, true}) {  // dy lies as it likes
      zero_grad(x);
      const Tensor dy = here(randn({2, 3, 4, 5}, 2));
      backward(batch_norm(x, {}, {}, here(zeros({3})), here(ones({3})), {.mode = mode}),
               dy_last ? channels_last(dy) : dy);
      EXPECT_EQ(dx, x.strides()) << dy_last;
    }
  }
}

TEST_P(BatchNormPlanesOn, ConstantChannelsGiveBeta) {
  for (const std::int64_t side : {3, 4, 50})
    for (const double value : {0.0, 3.7e5, -1.1e30}) {
      const Tensor mean = here(zeros({3})), var = here(ones({3})), beta = randn({3}, 2);
      const Tensor y = test::back(batch_norm(here(full({2, 3, side, side}, value)), here(randn({3}, 1)), here(beta),
                                             mean, var, {.momentum = 1.0}));
      for (std::int64_t c = 0; c < 3; ++c)
        for (const double v : values(clone(y.slice(1, c, c + 1))))
          ASSERT_EQ(v, values(beta)[static_cast<std::size_t>(c)]);
      EXPECT_EQ(values(test::back(mean)), values(full({3}, value)));
      EXPECT_EQ(values(test::back(var)), std::vector<double>(3, 0.0));
    }
}

TEST_P(BatchNormPlanesOn, NonFiniteStaysInItsChannel) {
  for (const std::int64_t side : {5, 8, 52})
    for (const BatchNormMode mode : kModes)
      for (const float bad : {INFINITY, std::nanf("")}) {
        const Tensor x = randn({2, 4, side, side}, 1);
        x.data<float>()[5 * side * side + side] = bad;  // sample 1, channel 1
        const Tensor leaf = set_requires_grad(here(x));
        const Tensor y = batch_norm(leaf, {}, {}, here(zeros({4})), here(ones({4})), {.mode = mode});
        backward(y, here(ones({2, 4, side, side})));
        const Tensor on_cpu = test::back(y.alias()), dx = test::back(grad(leaf));
        for (std::int64_t c = 0; c < 4; ++c) {
          const bool train = mode == BatchNormMode::train;
          int odd = 0;
          for (const double v : values(clone(on_cpu.slice(1, c, c + 1)))) odd += std::isfinite(v) ? 0 : 1;
          EXPECT_EQ(odd, c != 1 ? 0 : train ? 2 * side * side : 1) << c;
          for (const double v : values(clone(dx.slice(1, c, c + 1))))
            ASSERT_EQ(std::isfinite(v), c != 1 || !train) << c;
        }
      }
}

// Off every vector's grid, over its own input, and onto gradients that are there.
TEST_P(BatchNormPlanesOn, MisalignedInPlaceAndAdding) {
  for (const Shape& shape : {Shape{3, 2, 28, 28}, Shape{2, 2, 68, 64}, Shape{5, 3, 3, 3}}) {
    const std::int64_t count = shape.numel(), channels = shape[1], spatial = shape[2] * shape[3];
    const auto shifted = [&](const Tensor& x) {
      Tensor view = here(zeros({count + 1})).slice(0, 1, count + 1).reshape(shape);
      copy_(view, here(x));
      return view;
    };
    const auto vector = [&](std::int64_t n) { return here(zeros({n})); };
    const Tensor x = randn(shape, 1), dy = randn(shape, 2), gamma = here(randn({channels}, 3));
    const auto run = [&](const Tensor& in_x, const Tensor& y, const Tensor& in_dy, const Tensor& dx, bool twice) {
      const Tensor mean = vector(channels), rstd = vector(channels), dgamma = vector(channels),
                   dbeta = vector(channels),
                   partials = vector(kernels::batch_norm_nchw_partials(shape[0], channels, spatial));
      const Tensor kept = clone(in_x);
      kernels::batch_norm_nchw_forward(
          device(),
          {Dtype::f32, BatchNormMode::train, shape[0], channels, spatial, 1e-5, 0.1, in_x.raw_data(), gamma.raw_data(),
           nullptr, y.raw_data(), nullptr, nullptr, mean.raw_data(), rstd.raw_data(), partials.raw_data()});
      kernels::BatchNormNchwBackward args{Dtype::f32,
                                          BatchNormMode::train,
                                          shape[0],
                                          channels,
                                          spatial,
                                          kept.raw_data(),
                                          gamma.raw_data(),
                                          in_dy.raw_data(),
                                          mean.raw_data(),
                                          rstd.raw_data(),
                                          nullptr,
                                          dgamma.raw_data(),
                                          dbeta.raw_data(),
                                          Accumulate::overwrite,
                                          Accumulate::overwrite,
                                          partials.raw_data()};
      if (twice) {
        kernels::batch_norm_nchw_backward(device(), args);
        args.dgamma_mode = args.dbeta_mode = Accumulate::add;
      }
      args.dx = dx.raw_data();
      kernels::batch_norm_nchw_backward(device(), args);
      return std::vector<Tensor>{test::back(clone(y)), test::back(clone(dx)), test::back(dgamma), test::back(dbeta)};
    };
    const std::vector<Tensor> want = run(here(x), here(zeros(shape)), here(dy), here(zeros(shape)), false);
    const Tensor x_over = here(clone(x)), dy_over = here(clone(dy));
    const std::vector<Tensor> over = run(x_over, x_over, dy_over, dy_over, true);
    EXPECT_TRUE(bitwise_equal(over[0], want[0]));
    EXPECT_TRUE(bitwise_equal(over[1], want[1]));
    for (const std::size_t i : {2, 3}) EXPECT_TRUE(bitwise_equal(over[i], want[i] + want[i])) << i;
    const std::vector<Tensor> off = run(shifted(x), shifted(zeros(shape)), shifted(dy), shifted(zeros(shape)), false);
    for (std::size_t i = 0; i < off.size(); ++i)  // single elements are added in another order
      EXPECT_LE(relative_error(values(off[i]), values(want[i])), 64 * rounding(Dtype::f32)) << i;
  }
}

WEFT_DEVICE_SUITE(BatchNormPlanesOn);

TEST(BatchNorm, OneValuePerChannelIsRefusedBeforeAnythingChanges) {
  const Tensor mean = full({3}, 3), var = full({3}, 2);
  EXPECT_EQ(message_of<ShapeError>([&] {
              batch_norm(randn({1, 3, 1, 1}, 1), {}, {}, mean, var);
            }),
            "[batch_norm] training needs at least 2 values per channel but the input has shape [1, 3, 1, 1]: use a "
            "larger batch, or eval mode");
  EXPECT_EQ(values(mean), std::vector<double>(3, 3.0));
  EXPECT_EQ(values(var), std::vector<double>(3, 2.0));
  EXPECT_NO_THROW(batch_norm(randn({1, 3, 1, 2}, 1), {}, {}, mean, var));
}

TEST(BatchNorm, PlanesAreBitwiseEqualForAnyThreadCount) {
  // Channels that fit the cache, and larger ones, whose chunks are worked on in the order of memory.
  for (const Shape& shape : {Shape{8, 20, 28, 28}, Shape{40, 2, 50, 51}}) {
    std::vector<Tensor> expected;
    for (int threads : {1, 2, 7}) {
      const test::Threads guard(threads);
      const Tensor x = set_requires_grad(randn(shape, 1)), gamma = set_requires_grad(randn({shape[1]}, 2));
      const Tensor beta = set_requires_grad(randn({shape[1]}, 3)), mean = zeros({shape[1]}), var = ones({shape[1]});
      const Tensor y = batch_norm(x, gamma, beta, mean, var);
      backward(y, randn(shape, 4));
      const std::vector<Tensor> got = {y, grad(x), grad(gamma), grad(beta), mean, var};
      if (threads == 1) expected = got;
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_TRUE(bitwise_equal(got[i], expected[i])) << threads << " " << i;
    }
  }
}

TEST(BatchNorm, Modules2dAnd1d) {
  nn::BatchNorm2d norm{6};
  EXPECT_TRUE(nn::uses_batch_statistics(norm));
  ASSERT_EQ(nn::state_dict(norm).size(), 4u);
  EXPECT_EQ(nn::parameters(norm).size(), 2u);
  EXPECT_EQ(norm.eps, 1e-5);
  EXPECT_EQ(norm.momentum, 0.1);
  const Tensor x = randn({3, 6, 4, 4}, 1), mean = zeros({6}), var = ones({6});
  EXPECT_TRUE(bitwise_equal(norm(x), batch_norm(x, norm.weight, norm.bias, mean, var)));
  EXPECT_TRUE(bitwise_equal(norm.running_var, var));
  nn::eval(norm);
  norm(x);
  EXPECT_TRUE(bitwise_equal(norm.running_mean, mean));
  EXPECT_EQ(message_of<ShapeError>([&] {
              norm(randn({3, 6}, 1));
            }),
            "[batch_norm] BatchNorm2d takes x of shape [N, C, H, W] but x has [3, 6]");
  EXPECT_EQ(message_of<ShapeError>([] { nn::BatchNorm2d(0); }), "[batch_norm] needs at least one channel but has 0");
  nn::BatchNorm1d flat{6};
  EXPECT_EQ(flat(randn({3, 6, 4}, 1)).shape(), (Shape{3, 6, 4}));
  EXPECT_EQ(message_of<ShapeError>([&] { flat(x); }),
            "[batch_norm] BatchNorm1d takes x of shape [N, C] or [N, C, L] but x has [3, 6, 4, 4]");
}

}  // namespace
}  // namespace weft
