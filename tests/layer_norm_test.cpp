#include "autograd/layer_norm.h"

#include <cmath>
#include <cstdlib>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/gradcheck.h"
#include "autograd/layout.h"
#include "kernels/layer_norm.h"
#include "nn/layer_norm.h"
#include "support/compare.h"
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

struct Case {
  std::int64_t rows, channels;
  Dtype dtype;
  bool gamma = true, beta = true;
  double mean = 1000;  // of every row: a padded lane or a one-pass variance shows at once
  double spread = 1;
};

std::string describe(const Case& c) {
  return fmt::format("R={} C={} {} gamma={} beta={} mean={}", c.rows, c.channels, to_string(c.dtype), c.gamma, c.beta,
                     c.mean);
}

Tensor around(double mean, double spread, const Shape& shape, std::uint64_t seed, Dtype dtype) {
  return cast(randn(shape, seed, Dtype::f64) * spread + scalar(mean, Dtype::f64), dtype);
}

struct Reference {
  std::vector<double> y, dx, dgamma, dbeta;
  double dx_scale = 0;  // norm of rstd * g: dx is a difference of terms of that size
};

// Plain loops over the values as stored, in long double: they judge f64 as well.
Reference reference(const Tensor& x_, const Tensor& gamma_, const Tensor& beta_, const Tensor& dy_, std::int64_t rows,
                    std::int64_t channels, double eps) {
  const std::vector<double> x = values(x_), dy = values(dy_);
  const auto R = static_cast<std::size_t>(rows), C = static_cast<std::size_t>(channels);
  const std::vector<double> gamma = gamma_.defined() ? values(gamma_) : std::vector<double>(C, 1.0);
  const std::vector<double> beta = beta_.defined() ? values(beta_) : std::vector<double>(C, 0.0);
  Reference ref{std::vector<double>(R * C), std::vector<double>(R * C), std::vector<double>(C), std::vector<double>(C)};
  for (std::size_t r = 0; r < R; ++r) {
    long double mean = 0, variance = 0, mean_g = 0, mean_gx = 0;
    for (std::size_t c = 0; c < C; ++c) mean += x[r * C + c];
    mean /= static_cast<long double>(C);
    for (std::size_t c = 0; c < C; ++c) variance += (x[r * C + c] - mean) * (x[r * C + c] - mean);
    const long double rstd = 1 / std::sqrt(variance / static_cast<long double>(C) + eps);
    for (std::size_t c = 0; c < C; ++c) {
      const long double xhat = (x[r * C + c] - mean) * rstd, g = static_cast<long double>(dy[r * C + c]) * gamma[c];
      mean_g += g / static_cast<long double>(C);
      mean_gx += g * xhat / static_cast<long double>(C);
      ref.y[r * C + c] = static_cast<double>(xhat * gamma[c] + beta[c]);
      ref.dgamma[c] += static_cast<double>(dy[r * C + c] * xhat);
      ref.dbeta[c] += dy[r * C + c];
      ref.dx_scale += static_cast<double>(rstd * g * rstd * g);
    }
    for (std::size_t c = 0; c < C; ++c) {
      const long double xhat = (x[r * C + c] - mean) * rstd, g = static_cast<long double>(dy[r * C + c]) * gamma[c];
      ref.dx[r * C + c] = static_cast<double>(rstd * (g - mean_g - xhat * mean_gx));
    }
  }
  ref.dx_scale = std::sqrt(ref.dx_scale);
  return ref;
}

double scaled_error(const Tensor& got, const std::vector<double>& want, double scale) {
  double norm = 0;
  for (double v : want) norm += v * v;
  norm = std::sqrt(norm);
  const double error = relative_error(values(got), want) * (norm > 0 ? norm : 1.0);
  return scale > 0 ? error / scale : error;
}

// Runs both kernels into fenced NaN-filled buffers and compares everything with f64.
void check(const Case& c) {
  SCOPED_TRACE(describe(c));
  const double eps = 1e-5;
  const Dtype statistics = c.dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  const Tensor x = around(c.mean, c.spread, {c.rows, c.channels}, 1, c.dtype);
  const Tensor dy = randn({c.rows, c.channels}, 2, c.dtype);
  const Tensor gamma = c.gamma ? around(1, 0.5, {c.channels}, 3, c.dtype) : Tensor();
  const Tensor beta = c.beta ? randn({c.channels}, 4, c.dtype) : Tensor();
  Guarded y({c.rows, c.channels}, c.dtype), mean({c.rows}, statistics), rstd({c.rows}, statistics);
  Guarded dx({c.rows, c.channels}, c.dtype), dgamma({c.channels}, c.dtype), dbeta({c.channels}, c.dtype);
  Guarded partials({kernels::layer_norm_partials(c.rows, c.channels, {})}, statistics);
  const void* gamma_data = c.gamma ? gamma.raw_data() : nullptr;
  kernels::layer_norm_forward({}, {c.dtype, c.rows, c.channels, eps, x.raw_data(), gamma_data,
                                   c.beta ? beta.raw_data() : nullptr, y.data(), mean.data(), rstd.data()});
  kernels::layer_norm_backward(
      {}, {c.dtype, c.rows, c.channels, x.raw_data(), gamma_data, dy.raw_data(), mean.data(), rstd.data(), dx.data(),
           dgamma.data(), dbeta.data(), Accumulate::overwrite, Accumulate::overwrite, partials.data()});
  for (const Guarded* buffer : {&y, &mean, &rstd, &dx, &dgamma, &dbeta, &partials}) EXPECT_TRUE(buffer->intact());

  const Reference ref = reference(x, gamma, beta, dy, c.rows, c.channels, eps);
  // f32 and f64: sums of C/16 terms per lane, errors random, a handful of further roundings of the same size. 16-bit:
  // computed in f32, one rounding of the result. A sum over R rows of order 1 has errors ~ sqrt(R).
  const bool wide = c.dtype == Dtype::f64 || c.dtype == Dtype::f32;
  const double step = rounding(c.dtype);
  const double row_tolerance = wide ? step * (8 + std::sqrt(static_cast<double>(c.channels) / 8)) : step;
  const double column_tolerance = wide ? step * (8 + std::sqrt(static_cast<double>(c.rows))) : step;
  EXPECT_LE(relative_error(values(y.tensor()), ref.y), row_tolerance);
  EXPECT_LE(scaled_error(dx.tensor(), ref.dx, ref.dx_scale), row_tolerance);
  if (c.channels > 2) {  // of one or two channels xhat is 0 or +-1: nothing but rounding is left of dgamma
    EXPECT_LE(relative_error(values(dgamma.tensor()), ref.dgamma), column_tolerance);
  }
  EXPECT_LE(relative_error(values(dbeta.tensor()), ref.dbeta), column_tolerance);
}

TEST(LayerNorm, OddSizesWithALargeMean) {
  for (std::int64_t channels : {1, 2, 31, 33, 257, 769, 1023})
    for (std::int64_t rows : {1, 2, 3, 5, 38})
      for (Dtype dtype : kDtypes) check({rows, channels, dtype});
}

TEST(LayerNorm, GammaAndBetaCombinations) {
  for (bool gamma : {false, true})
    for (bool beta : {false, true})
      for (Dtype dtype : kDtypes) check({7, 65, dtype, gamma, beta, 0});
}

TEST(LayerNorm, WideRows) {
  for (std::int64_t channels : {8192, 8193, 16384, 20001}) check({6, channels, Dtype::f32});
}

TEST(LayerNorm, ManyRows) {
  check({8192, 33, Dtype::bf16});  // dgamma summed in 16 bits would be off by far
  check({8192, 33, Dtype::f32});
  check({100'001, 3, Dtype::f32});  // workspace for many chunks; rows are no multiple of a block
}

// The error does not grow with the mean: inputs near 1e6 are multiples of 1/16, their exact statistics are well
// defined.
TEST(LayerNorm, HugeMean) {
  for (double mean : {1e4, 1e6, -1e7}) check({9, 768, Dtype::f32, true, true, mean, 10});
}

TEST(LayerNorm, ConstantRowsGiveBeta) {
  for (double value : {0.0, 3.7e5, -1.1e30}) {
    const Tensor x = full({3, 77}, value), gamma = randn({77}, 1), beta = randn({77}, 2);
    const Tensor y = layer_norm(x, gamma, beta);
    for (std::int64_t r = 0; r < 3; ++r) EXPECT_TRUE(bitwise_equal(y[r], beta)) << value;
  }
}

TEST(LayerNorm, TheComparisonNoticesSmallErrors) {
  const Tensor x = around(1000, 1, {5, 33}, 1, Dtype::f32);
  const Reference ref = reference(x, {}, {}, x, 5, 33, 1e-5);
  std::vector<double> wrong = ref.y;
  wrong[40] += 1e-4;  // one element off by 1e-4 of a typical value
  EXPECT_GT(relative_error(wrong, ref.y), 0x1p-24 * (8 + std::sqrt(33.0 / 8)));
  wrong[40] = std::nan("");
  EXPECT_FALSE(relative_error(wrong, ref.y) < 1e9);
}

TEST(LayerNorm, RanksOneToFour) {
  const Tensor flat = randn({24, 10}, 1), gamma = randn({10}, 2), beta = randn({10}, 3), dflat = randn({24, 10}, 4);
  const auto run = [&](const Shape& shape) {
    const Tensor x = set_requires_grad(flat.slice(0, 0, shape.numel() / 10).reshape(shape).alias());
    const Tensor g = set_requires_grad(gamma.alias()), b = set_requires_grad(beta.alias());
    const Tensor y = layer_norm(x, g, b);
    EXPECT_EQ(y.shape(), shape);
    backward(y, dflat.slice(0, 0, shape.numel() / 10).reshape(shape).alias());
    EXPECT_EQ(grad(x).shape(), shape);
    EXPECT_EQ(grad(g).shape(), gamma.shape());
    EXPECT_EQ(grad(b).shape(), beta.shape());
    return std::vector<Tensor>{y.alias().reshape({shape.numel() / 10, 10}), grad(x).reshape({shape.numel() / 10, 10}),
                               grad(g), grad(b)};
  };
  const std::vector<Tensor> expected = run({24, 10});
  for (const Shape& shape : {Shape{4, 6, 10}, Shape{2, 3, 4, 10}}) {
    const std::vector<Tensor> got = run(shape);
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(bitwise_equal(got[i], expected[i])) << shape.str() << i;
  }
  const std::vector<Tensor> vector = run({10});
  EXPECT_TRUE(bitwise_equal(vector[0][0], expected[0][0]));
  EXPECT_TRUE(bitwise_equal(vector[1][0], expected[1][0]));
}

TEST(LayerNorm, NoRows) {
  const Tensor x = set_requires_grad(zeros({0, 5})), gamma = set_requires_grad(ones({5})),
               beta = set_requires_grad(ones({5}));
  const Tensor y = layer_norm(x, gamma, beta);
  EXPECT_EQ(y.shape(), (Shape{0, 5}));
  backward(y, zeros({0, 5}));
  EXPECT_EQ(grad(x).shape(), (Shape{0, 5}));
  EXPECT_EQ(values(grad(gamma)), std::vector<double>(5, 0.0));
  EXPECT_EQ(values(grad(beta)), std::vector<double>(5, 0.0));
}

TEST(LayerNorm, StridedInputs) {
  const Tensor base = randn({40, 24}, 1), gamma = randn({48}, 2), dbase = randn({20, 24}, 3);
  const auto compare = [&](const Tensor& view, const Tensor& g, const Tensor& dy) {
    const Tensor x1 = set_requires_grad(view.alias()), x2 = set_requires_grad(clone(view.alias()));
    const Tensor y1 = layer_norm(x1, g), y2 = layer_norm(x2, clone(g));
    EXPECT_TRUE(bitwise_equal(y1, y2));
    backward(y1, dy);
    backward(y2, clone(dy));
    EXPECT_TRUE(bitwise_equal(contiguous(grad(x1)), grad(x2)));
  };
  compare(base.slice(0, 0, 40, 2), gamma.slice(0, 0, 48, 2), dbase);
  compare(base.slice(1, 3, 17), gamma.slice(0, 0, 14), randn({14, 40}, 4).t());
  compare(base.t(), gamma.slice(0, 8, 48), randn({24, 40}, 5));
}

TEST(LayerNorm, GradientMayOverwriteItsSource) {
  const std::int64_t rows = 37, channels = 769;
  const Tensor x = randn({rows, channels}, 1), dy = randn({rows, channels}, 2), gamma = randn({channels}, 3);
  const Tensor y = Tensor::empty({rows, channels}), mean = Tensor::empty({rows}), rstd = Tensor::empty({rows});
  kernels::layer_norm_forward({}, {Dtype::f32, rows, channels, 1e-5, x.raw_data(), gamma.raw_data(), nullptr,
                                   y.raw_data(), mean.raw_data(), rstd.raw_data()});
  const Tensor expected = Tensor::empty({rows, channels});
  const auto backward_into = [&](const Tensor& from, const Tensor& to) {
    kernels::layer_norm_backward(
        {}, {Dtype::f32, rows, channels, x.raw_data(), gamma.raw_data(), from.raw_data(), mean.raw_data(),
             rstd.raw_data(), to.raw_data(), nullptr, nullptr, Accumulate::overwrite, Accumulate::overwrite, nullptr});
  };
  backward_into(dy, expected);
  for (int repeat = 0; repeat < 100; ++repeat) {
    const Tensor both = clone(dy);
    backward_into(both, both);
    ASSERT_TRUE(bitwise_equal(both, expected));
  }
  const Tensor in_place = clone(x);
  kernels::layer_norm_forward({}, {Dtype::f32, rows, channels, 1e-5, in_place.raw_data(), gamma.raw_data(), nullptr,
                                   in_place.raw_data(), nullptr, nullptr});
  EXPECT_TRUE(bitwise_equal(in_place, y));
}

TEST(LayerNorm, Gradcheck) {
  const std::vector<Tensor> all = {around(3, 1, {2, 3, 5}, 11, Dtype::f64), randn({5}, 12, Dtype::f64),
                                   randn({5}, 13, Dtype::f64)};
  for (int subset : {0, 1, 2, 3}) {
    std::vector<Tensor> inputs = {all[0]};
    if (subset & 1) inputs.push_back(all[1]);
    if (subset & 2) inputs.push_back(all[2]);
    const auto f = [&](const std::vector<Tensor>& in) {
      return layer_norm(in[0], subset & 1 ? in[1] : Tensor(), subset & 2 ? in.back() : Tensor());
    };
    const GradcheckResult result = gradcheck(f, inputs);
    EXPECT_TRUE(result.passed) << subset << ": " << result.message;
  }
}

TEST(LayerNorm, EqualsItsComposite) {
  const auto run = [](auto&& f) {
    const Tensor x = set_requires_grad(around(5, 2, {6, 19}, 1, Dtype::f64));
    const Tensor gamma = set_requires_grad(randn({19}, 2, Dtype::f64)),
                 beta = set_requires_grad(randn({19}, 3, Dtype::f64));
    const Tensor y = f(x, gamma, beta, 1e-3);
    backward(y, randn({6, 19}, 4, Dtype::f64));
    return std::vector<Tensor>{y, grad(x), grad(gamma), grad(beta)};
  };
  const std::vector<Tensor> fused = run([](const auto&... in) { return layer_norm(in...); }),
                            composite = run([](const auto&... in) { return layer_norm_composite(in...); });
  for (std::size_t i = 0; i < fused.size(); ++i)
    EXPECT_LE(relative_error(fused[i], composite[i]), 1e-13) << i;  // a few hundred roundings of 2^-53
}

TEST(LayerNorm, BitwiseEqualForAnyThreadCount) {
  for (const Shape& shape : {Shape{128, 512}, Shape{1001, 257}, Shape{3, 20001}}) {
    std::vector<Tensor> expected;
    for (int threads : {1, 2, 7}) {
      const test::Threads guard(threads);
      const Tensor x = set_requires_grad(randn(shape, 1)), gamma = set_requires_grad(randn({shape[1]}, 2));
      const Tensor beta = set_requires_grad(randn({shape[1]}, 3));
      const Tensor y = layer_norm(x, gamma, beta);
      backward(y, randn(shape, 4));
      const std::vector<Tensor> got = {y, grad(x), grad(gamma), grad(beta)};
      if (threads == 1) expected = got;
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_TRUE(bitwise_equal(got[i], expected[i])) << threads << " " << i;
    }
  }
}

TEST(LayerNorm, ParameterGradientsAddUpOverMicroBatches) {
  const Tensor gamma = set_requires_grad(ones({17})), beta = set_requires_grad(zeros({17}));
  const Tensor x = randn({12, 17}, 1), dy = randn({12, 17}, 2);
  backward(layer_norm(x, gamma, beta), dy);
  const Tensor whole_gamma = clone(grad(gamma)), whole_beta = clone(grad(beta));
  zero_grad(gamma);
  zero_grad(beta);
  for (int part : {0, 1, 2})
    backward(layer_norm(x.slice(0, part * 4, part * 4 + 4), gamma, beta), dy.slice(0, part * 4, part * 4 + 4));
  EXPECT_LE(relative_error(grad(gamma), whole_gamma), 1e-6);  // another order of 12 f32 additions
  EXPECT_LE(relative_error(grad(beta), whole_beta), 1e-6);
}

TEST(LayerNorm, FrozenInputOrParameters) {
  const Tensor x = randn({4, 9}, 1), dy = randn({4, 9}, 2);
  const Tensor wanted = set_requires_grad(x.alias());
  backward(layer_norm(wanted, ones({9}), zeros({9})), dy);
  const Tensor all = set_requires_grad(x.alias()), gamma = set_requires_grad(ones({9})),
               beta = set_requires_grad(zeros({9}));
  backward(layer_norm(all, gamma, beta), dy);
  EXPECT_TRUE(bitwise_equal(grad(wanted), grad(all)));
  const Tensor only_beta = set_requires_grad(zeros({9}));
  backward(layer_norm(x, ones({9}), only_beta), dy);
  EXPECT_TRUE(bitwise_equal(grad(only_beta), grad(beta)));
}

TEST(LayerNorm, NonFiniteStaysInItsRow) {
  std::vector<float> data(5 * 20, 1.0f);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i % 7);
  data[20 + 3] = std::nanf("");
  data[60 + 5] = INFINITY;
  const Tensor y = layer_norm(Tensor::from_vector(data, {5, 20}));
  for (std::int64_t r = 0; r < 5; ++r)
    for (double v : values(y[r])) EXPECT_EQ(std::isfinite(v), r != 1 && r != 3) << r;
}

TEST(LayerNorm, Errors) {
  const Tensor x = randn({2, 768}, 1);
  EXPECT_EQ(message_of<ShapeError>([&] { layer_norm(x, ones({512})); }),
            "[layer_norm] gamma must have shape [C]=[768] but has [512]");
  EXPECT_EQ(message_of<ShapeError>([&] {
              layer_norm(x, {}, ones({768, 1}));
            }),
            "[layer_norm] beta must have shape [C]=[768] but has [768, 1]");
  EXPECT_EQ(message_of<DtypeError>([&] { layer_norm(x, ones({768}, Dtype::f64)); }),
            "[layer_norm] gamma must be f32 to go with x but is f64");
  EXPECT_EQ(message_of<DtypeError>([&] { layer_norm(arange(4)); }),
            "[layer_norm] x must be f64, f32, f16 or bf16 but is i64");
  EXPECT_EQ(message_of<OptionError>([&] { layer_norm(x, {}, {}, 0); }), "[layer_norm] eps must be positive but is 0");
  EXPECT_EQ(message_of<ShapeError>([&] { layer_norm(scalar(1)); }),
            "[layer_norm] x must have shape [..., C] with C >= 1 but has []");
#if !defined(WEFT_CUDA)
  EXPECT_EQ(message_of<DeviceError>([&] { kernels::layer_norm_forward({DeviceKind::cuda}, {}); }),
            "[layer_norm] built without cuda");
#endif
}

// The shape only says how many axes make a row: the numbers are those of the flattened rows, to the bit.
TEST(LayerNorm, NormalizedShapeIsTheFlattenedRow) {
  const Tensor x = randn({5, 3, 4, 7}, 1), gamma = randn({4, 7}, 2), beta = randn({4, 7}, 3),
               dy = randn({5, 3, 4, 7}, 4);
  const auto run = [&](const Shape& shape, const Shape& normalized) {
    const Tensor leaf = set_requires_grad(clone(x.reshape(shape))),
                 g = set_requires_grad(clone(gamma.reshape(normalized))),
                 b = set_requires_grad(clone(beta.reshape(normalized)));
    const Tensor y = layer_norm(leaf, normalized, g, b);
    backward(y, dy.reshape(shape));
    EXPECT_EQ(grad(g).shape(), normalized);
    return std::vector<Tensor>{y.alias().reshape({15, 28}), grad(leaf).reshape({15, 28}), grad(g).reshape({28}),
                               grad(b).reshape({28})};
  };
  const std::vector<Tensor> want = run({15, 28}, {28});
  for (const Shape& shape : {Shape{5, 3, 4, 7}, Shape{15, 4, 7}}) {
    const std::vector<Tensor> got = run(shape, {4, 7});
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(bitwise_equal(got[i], want[i])) << i;
  }
  EXPECT_EQ(message_of<ShapeError>([&] {
              layer_norm(x, Shape{4, 5});
            }),
            "[layer_norm] x must end in normalized_shape [4, 5] but has [5, 3, 4, 7]");
  EXPECT_EQ(message_of<ShapeError>([&] {
              layer_norm(x, Shape{4, 7}, ones({28}));
            }),
            "[layer_norm] gamma must have shape [4, 7] but has [28]");
  EXPECT_EQ(message_of<ShapeError>([&] {
              layer_norm(x, Shape{4, 0});
            }),
            "[layer_norm] normalized_shape must have extents of at least 1 but is [4, 0]");
}

TEST(LayerNorm, ModuleOverAShape) {
  nn::LayerNorm norm{Shape{3, 2}};
  EXPECT_EQ(norm.weight.shape(), (Shape{3, 2}));
  const Tensor x = randn({4, 3, 2}, 1);
  EXPECT_TRUE(bitwise_equal(norm(x), layer_norm(x, Shape{3, 2}, norm.weight, norm.bias)));
  EXPECT_EQ(message_of<ShapeError>([] {
              nn::LayerNorm{Shape{4, 0}};
            }),
            "[layer_norm] normalized_shape must have extents of at least 1 but is [4, 0]");
}

TEST(LayerNorm, Module) {
  nn::LayerNorm norm{6};
  EXPECT_EQ(values(norm.weight), std::vector<double>(6, 1.0));
  EXPECT_EQ(values(norm.bias), std::vector<double>(6, 0.0));
  EXPECT_EQ(nn::named_parameters(norm)[1].first, "bias");
  EXPECT_FALSE(nn::uses_batch_statistics(norm));
  const Tensor x = randn({4, 6}, 1);
  EXPECT_TRUE(bitwise_equal(norm(x), layer_norm(x, norm.weight, norm.bias)));
  nn::LayerNorm plain{6, {.eps = 0.5, .affine = false}};
  EXPECT_TRUE(nn::parameters(plain).empty());
  EXPECT_TRUE(bitwise_equal(plain(x), layer_norm(x, {}, {}, 0.5)));
  EXPECT_EQ(message_of<ShapeError>([] { nn::LayerNorm{0}; }), "[layer_norm] needs at least one channel but has 0");
}

// 32-bit index arithmetic breaks beyond 2^31 elements; in place in bf16, this takes 4.3 GB.
TEST(LayerNorm, MoreThanTwoToThe31Elements) {
  if (std::getenv("WEFT_BIG_TESTS") == nullptr) GTEST_SKIP() << "needs 4.3 GB: set WEFT_BIG_TESTS=1 to run it";
  const std::int64_t rows = (std::int64_t{1} << 23) + 3, channels = 257;
  const Tensor x = Tensor::empty({rows, channels}, Dtype::bf16);
  auto* data = x.data<bfloat16>();
  for (std::int64_t i = 0; i < x.numel(); ++i) data[i] = bfloat16(static_cast<float>(i % 13));
  const Tensor last = clone(x.slice(0, rows - 2, rows));
  kernels::layer_norm_forward({}, {Dtype::bf16, rows, channels, 1e-5, data, nullptr, nullptr, data, nullptr, nullptr});
  EXPECT_TRUE(bitwise_equal(clone(x.slice(0, rows - 2, rows)), layer_norm(last)));
}

}  // namespace
}  // namespace weft
