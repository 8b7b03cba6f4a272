#include "autograd/elementwise.h"

#include <cmath>
#include <functional>
#include <limits>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/gradcheck.h"
#include "autograd/layout.h"
#include "nn/activation.h"
#include "support/compare.h"
#include "support/threads.h"

namespace weft {
namespace {

using test::message_of;
using test::values;

double apply(char op, double a, double b) { return op == '+' ? a + b : op == '-' ? a - b : op == '*' ? a * b : a / b; }
Tensor apply(char op, const Tensor& a, const Tensor& b) {
  return op == '+' ? a + b : op == '-' ? a - b : op == '*' ? a * b : a / b;
}

// The result by plain indexing with NumPy's broadcasting rule.
std::vector<double> reference(char op, const Tensor& a, const Tensor& b) {
  const Shape shape = broadcast_shapes(a.shape(), b.shape(), "test");
  const std::vector<double> x = values(a.expand(shape)), y = values(b.expand(shape));
  std::vector<double> out(x.size());
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = apply(op, x[i], y[i]);
  return out;
}

TEST(Elementwise, EveryDtypeAndBroadcastAgainstPlainIndexing) {
  const std::vector<std::pair<Shape, Shape>> shapes = {{{}, {}},
                                                       {{1}, {1}},
                                                       {{17}, {17}},
                                                       {{33}, {}},
                                                       {{5, 33}, {33}},
                                                       {{5, 33}, {5, 1}},
                                                       {{5, 1}, {1, 33}},
                                                       {{2, 3, 4}, {3, 1}},
                                                       {{2, 1, 4}, {1, 3, 1}},
                                                       {{0, 3}, {3}},
                                                       {{3, 1, 2, 1, 2}, {4, 1, 5, 1}}};
  for (Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16})
    for (const auto& [a_shape, b_shape] : shapes)
      for (char op : {'+', '-', '*', '/'}) {
        const Tensor a = randn(a_shape, 1, dtype), b = rand(b_shape, 2, dtype) + scalar(0.5, dtype);
        const Tensor y = apply(op, a, b);
        EXPECT_EQ(y.dtype(), dtype);
        // One rounding of the storage type per element.
        const double tolerance = dtype == Dtype::f64   ? 1e-15
                                 : dtype == Dtype::f32 ? 1e-7
                                 : dtype == Dtype::f16 ? 1e-3
                                                       : 8e-3;
        EXPECT_LE(test::relative_error(values(y), reference(op, a, b)), tolerance)
            << to_string(dtype) << a_shape.str() << op << b_shape.str();
      }
}

TEST(Elementwise, TransposedSlicedAndExpandedOperands) {
  const Tensor base = randn({6, 10}, 3);
  for (const Tensor& a : {base.t(), base.slice(1, 1, 9, 2).t(), base[0].unsqueeze(1).expand({10, 6})}) {
    const Tensor b = randn(a.shape(), 4);
    EXPECT_LE(test::relative_error(values(a * b), reference('*', a, b)), 1e-7);
    EXPECT_LE(test::relative_error(values(b - a), reference('-', b, a)), 1e-7);
  }
}

TEST(Elementwise, IntegersPromoteWrapAndDivideAsFloats) {
  const Tensor small = Tensor::from_vector<std::uint8_t>({200, 100}, {2}),
               wide = Tensor::from_vector<std::int64_t>({1000, -1}, {2});
  EXPECT_EQ((small + small).to_vector<std::uint8_t>(), (std::vector<std::uint8_t>{144, 200}));
  EXPECT_EQ((small + wide).to_vector<std::int64_t>(), (std::vector<std::int64_t>{1200, 99}));
  EXPECT_EQ((wide * wide).to_vector<std::int64_t>(), (std::vector<std::int64_t>{1000000, 1}));
  EXPECT_EQ((wide / small).dtype(), Dtype::f32);
  EXPECT_EQ((wide / small).to_vector<float>()[0], 5.0f);
  const Tensor highest = Tensor::from_vector<std::int32_t>({2147483647}, {1});
  EXPECT_EQ((highest + highest).to_vector<std::int32_t>()[0], -2);
  const Tensor flags = Tensor::from_vector<bool>({true, true, false}, {3});
  EXPECT_EQ((flags + flags).to_vector<std::int64_t>(), (std::vector<std::int64_t>{2, 2, 0}));
}

TEST(Elementwise, ReluKeepsNanAndHasNoGradientAtZero) {
  const Tensor x = set_requires_grad(Tensor::from_vector<float>({-2, -0.0f, 0, 3, std::nanf("")}, {5}));
  const Tensor y = relu(x);
  EXPECT_EQ(y[0].item<float>(), 0);
  EXPECT_EQ(y[3].item<float>(), 3);
  EXPECT_TRUE(std::isnan(y[4].item<float>()));
  backward(y, ones({5}));
  EXPECT_EQ(grad(x).to_vector<float>(), (std::vector<float>{0, 0, 0, 1, 0}));
}

TEST(Elementwise, GradientsMatchCentralDifferences) {
  const Tensor a = randn({3, 4}, 5, Dtype::f64), b = rand({4}, 6, Dtype::f64) + scalar(0.5, Dtype::f64);
  for (char op : {'+', '-', '*', '/'}) {
    const auto result = gradcheck([op](const std::vector<Tensor>& x) { return apply(op, x[0], x[1]); }, {a, b});
    EXPECT_TRUE(result.passed) << op << ": " << result.message;
  }
  const auto chain = gradcheck([](const std::vector<Tensor>& x) { return relu(x[0]) * 3.0 - x[0] / 2.0; }, {a});
  EXPECT_TRUE(chain.passed) << chain.message;
}

TEST(Elementwise, MixedDtypesGiveGradientsInTheirOwnDtype) {
  const Tensor a = set_requires_grad(ones({3}, Dtype::f32)), b = set_requires_grad(full({3}, 2, Dtype::f64));
  const Tensor y = a * b;
  EXPECT_EQ(y.dtype(), Dtype::f64);
  backward(y, ones({3}, Dtype::f64));
  EXPECT_EQ(grad(a).dtype(), Dtype::f32);
  EXPECT_EQ(grad(a).to_vector<float>(), (std::vector<float>{2, 2, 2}));
  EXPECT_EQ(grad(b).to_vector<double>(), (std::vector<double>{1, 1, 1}));
}

TEST(Elementwise, BitwiseEqualForAnyThreadCount) {
  const Tensor a = randn({700, 77}, 8), b = randn({77}, 9);
  Tensor first;
  for (int threads : {1, 2, 7}) {
    const test::Threads setting(threads);
    const Tensor y = relu(a * b + a / 3.0) - b;
    if (!first.defined()) first = y;
    EXPECT_TRUE(test::bitwise_equal(first, y)) << threads;
  }
}

constexpr double kInf = std::numeric_limits<double>::infinity(), kNan = std::numeric_limits<double>::quiet_NaN();

// y and dx for dy = 1 at some numbers, in f64.
std::pair<std::vector<double>, std::vector<double>> at(const std::vector<double>& x,
                                                       const std::function<Tensor(const Tensor&)>& f) {
  const Tensor leaf = set_requires_grad(Tensor::from_vector(x, {static_cast<std::int64_t>(x.size())}));
  const Tensor y = f(leaf);
  backward(y, ones(y.shape(), Dtype::f64));
  return {values(y), values(grad(leaf))};
}

TEST(Elementwise, GradientsAtKinksAreThoseOfPyTorch) {
  const auto gradient = [](const std::vector<double>& x, const std::function<Tensor(const Tensor&)>& f) {
    return at(x, f).second;
  };
  using Numbers = std::vector<double>;
  EXPECT_EQ(gradient({-2, 0, -0.0, 3}, [](const Tensor& x) { return abs(x); }), (Numbers{-1, 0, 0, 1}));
  EXPECT_EQ(gradient({-2, -1, 0, 1, 2}, [](const Tensor& x) { return clamp(x, -1, 1); }), (Numbers{0, 1, 1, 1, 0}));
  EXPECT_EQ(gradient({-2, 0, 3}, [](const Tensor& x) { return leaky_relu(x, 0.5); }), (Numbers{0.5, 0.5, 1}));
  EXPECT_EQ(gradient({0, 2}, [](const Tensor& x) { return pow(x, 0); }), (Numbers{0, 0}));
  EXPECT_EQ(gradient({0, 3}, [](const Tensor& x) { return pow(x, 2); }), (Numbers{0, 6}));
  EXPECT_EQ(gradient({0, 1}, [](const Tensor& x) { return sqrt(x); }), (Numbers{kInf, 0.5}));
  const Tensor other = Tensor::from_vector<double>({1, 2, 3}, {3});
  EXPECT_EQ(gradient({1, 3, 2}, [&](const Tensor& x) { return maximum(x, other); }), (Numbers{0.5, 1, 0}));
  EXPECT_EQ(gradient({1, 3, 2}, [&](const Tensor& x) { return minimum(other, x); }), (Numbers{0.5, 0, 1}));
}

TEST(Elementwise, ClampTakesTheUpperEndWhereTheEndsCross) {
  EXPECT_EQ(values(clamp(Tensor::from_vector<float>({-5, 0, 5}, {3}), 2, 1)), (std::vector<double>{1, 1, 1}));
}

TEST(Elementwise, ActivationsNeitherOverflowNorLoseNan) {
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
    SCOPED_TRACE(to_string(dtype));
    const Tensor x = set_requires_grad(full({3}, 0, dtype));
    {
      const NoGrad guard;
      fill_(x.slice(0, 0, 1), 9984);  // a number of every dtype
      fill_(x.slice(0, 1, 2), -9984);
      fill_(x.slice(0, 2, 3), kNan);
    }
    struct Expected {
      Tensor y;
      double high, low, slope_high, slope_low;
    };
    for (const auto& [y, high, low, slope_high, slope_low] :
         {Expected{sigmoid(x), 1, 0, 0, 0}, Expected{tanh(x), 1, -1, 0, 0}, Expected{silu(x), 9984, 0, 1, 0},
          Expected{softplus(x), 9984, 0, 1, 0}, Expected{gelu(x), 9984, 0, 1, 0},
          Expected{gelu(x, Gelu::tanh), 9984, 0, 1, 0}}) {
      const std::vector<double> result = values(y);
      EXPECT_EQ(result[0], high);
      EXPECT_EQ(result[1], low);
      EXPECT_TRUE(std::isnan(result[2]));
      zero_grad(x);
      backward(y, ones({3}, dtype));
      const std::vector<double> gradient = values(grad(x));
      EXPECT_EQ(gradient[0], slope_high);
      EXPECT_EQ(gradient[1], slope_low);
      EXPECT_TRUE(std::isnan(gradient[2]));
    }
  }
}

TEST(Elementwise, SmallResultsKeepTheirDigits) {
  // Where 1 + erf(x), 1 + tanh(x) and ln(1 + e^x) by their definitions would be 0.
  const double gelu_at = -8 * 0.5 * std::erfc(8 / std::sqrt(2.0));
  EXPECT_NEAR(gelu(full({}, -8)).item<double>() / gelu_at, 1, 1e-5);
  EXPECT_NEAR(softplus(full({}, -20)).item<double>() / std::log1p(std::exp(-20.0)), 1, 1e-6);
  EXPECT_GT(-gelu(full({}, -5), Gelu::tanh).item<double>(), 1e-8);
}

TEST(Elementwise, NumbersBesideTensors) {
  const Tensor x = Tensor::from_vector<float>({1, 2, 4}, {3});
  using Numbers = std::vector<double>;
  EXPECT_EQ(values(x + 1.0), (Numbers{2, 3, 5}));
  EXPECT_EQ(values(1.0 + x), (Numbers{2, 3, 5}));
  EXPECT_EQ(values(x - 1.0), (Numbers{0, 1, 3}));
  EXPECT_EQ(values(1.0 - x), (Numbers{0, -1, -3}));
  EXPECT_EQ(values(2.0 / x), (Numbers{2, 1, 0.5}));
  EXPECT_EQ(values(-x), (Numbers{-1, -2, -4}));
  EXPECT_EQ((arange(3) + 0.5).dtype(), Dtype::f32);
  EXPECT_EQ(neg(arange(3)).to_vector<std::int64_t>(), (std::vector<std::int64_t>{0, -1, -2}));
  EXPECT_EQ(abs(neg(arange(3))).to_vector<std::int64_t>(), (std::vector<std::int64_t>{0, 1, 2}));
}

TEST(Elementwise, ComparisonsPromoteAndTakeNumbers) {
  using Flags = std::vector<bool>;
  const Tensor x = Tensor::from_vector<float>({-1, 0, 1, std::nanf("")}, {4});
  EXPECT_EQ(lt(x, 0.0).to_vector<bool>(), (Flags{true, false, false, false}));
  EXPECT_EQ(ne(x, 0.0).to_vector<bool>(), (Flags{true, false, true, true}));
  EXPECT_EQ(eq(x, x).to_vector<bool>(), (Flags{true, true, true, false}));
  EXPECT_EQ(ge(x, scalar(0)).to_vector<bool>(), (Flags{false, true, true, false}));
  EXPECT_EQ(gt(arange(3), 0.5).to_vector<bool>(), (Flags{false, true, true}));  // not rounded to an integer
  EXPECT_EQ(le(arange(3), kInf).to_vector<bool>(), (Flags{true, true, true}));
  EXPECT_EQ(eq(cast(arange(3), Dtype::u8), -1).to_vector<bool>(), (Flags{false, false, false}));
  EXPECT_EQ(eq(arange(3), Tensor::from_vector<float>({0, 1.5, 2}, {3})).to_vector<bool>(), (Flags{true, false, true}));
  EXPECT_EQ(logical_and(x, Tensor::from_vector<bool>({true, true, false, true}, {4})).to_vector<bool>(),
            (Flags{true, false, false, true}));
  EXPECT_FALSE(requires_grad(gt(set_requires_grad(ones({2})), 0.0)));
}

TEST(Elementwise, WherePromotesAndSelectsWithoutTouchingTheOther) {
  const Tensor condition = Tensor::from_vector<bool>({true, false}, {2});
  const Tensor a = set_requires_grad(Tensor::from_vector<float>({1, std::nanf("")}, {2}));
  const Tensor y = where(condition, a, 0.5);
  EXPECT_EQ(values(y), (std::vector<double>{1, 0.5}));
  backward(y, ones({2}));
  EXPECT_EQ(values(grad(a)), (std::vector<double>{1, 0}));
  EXPECT_EQ(where(condition, arange(2), zeros({2}, Dtype::f64)).dtype(), Dtype::f64);
  EXPECT_EQ(where(condition, 1.0, arange(2)).to_vector<std::int64_t>(), (std::vector<std::int64_t>{1, 1}));
  EXPECT_EQ(message_of<DtypeError>([&] { where(ones({2}), a, a); }),
            "[where] the condition must be bool but is f32: compare it with 0");
  EXPECT_EQ(message_of<ShapeError>([&] { where(condition, zeros({3}), 0.0); }),
            "[where] shapes [2] and [3] do not broadcast: dimension 0 is 2 against 3");
}

TEST(Elementwise, ModulesHaveTheDefaultsOfPyTorch) {
  const Tensor x = randn({33}, 11) * 3.0;
  EXPECT_TRUE(test::bitwise_equal(nn::LeakyReLU{}(x), leaky_relu(x, 0.01)));
  EXPECT_TRUE(test::bitwise_equal(nn::GELU{}(x), gelu(x)));
  EXPECT_TRUE(test::bitwise_equal(nn::GELU{Gelu::tanh}(x), gelu(x, Gelu::tanh)));
  EXPECT_FALSE(test::bitwise_equal(nn::GELU{}(x), nn::GELU{Gelu::tanh}(x)));
  EXPECT_TRUE(test::bitwise_equal(nn::Softplus{}(x), softplus(x, 1, 20)));
  EXPECT_TRUE(test::bitwise_equal(nn::SiLU{}(x), silu(x)));
  EXPECT_TRUE(test::bitwise_equal(nn::Sigmoid{}(x), sigmoid(x)));
  EXPECT_TRUE(test::bitwise_equal(nn::Tanh{}(x), tanh(x)));
  EXPECT_TRUE(nn::Identity{}(x).is_same(x));
}

TEST(Elementwise, ErrorsNameShapes) {
  EXPECT_EQ(message_of<ShapeError>([] {
              add(zeros({2, 3}), zeros({4}));
            }),
            "[add] shapes [2, 3] and [4] do not broadcast: dimension 1 is 3 against 4");
  EXPECT_EQ(message_of<DtypeError>([] { relu(arange(3)); }), "[relu] needs f64, f32, f16 or bf16 but has i64");
}

}  // namespace
}  // namespace weft
