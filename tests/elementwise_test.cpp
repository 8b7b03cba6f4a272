#include "autograd/elementwise.h"

#include <cmath>

#include <gtest/gtest.h>

#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/gradcheck.h"
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

TEST(Elementwise, ErrorsNameShapes) {
  EXPECT_EQ(message_of<ShapeError>([] {
              add(zeros({2, 3}), zeros({4}));
            }),
            "[add] shapes [2, 3] and [4] do not broadcast: dimension 1 is 3 against 4");
  EXPECT_EQ(message_of<DtypeError>([] { relu(arange(3)); }), "[relu] needs f64, f32, f16 or bf16 but has i64");
}

}  // namespace
}  // namespace weft
