#include "autograd/reduce.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/gradcheck.h"
#include "support/compare.h"
#include "support/threads.h"

namespace weft {
namespace {

using test::message_of;
using test::values;

// Sum over `dim` by plain indexing in double.
std::vector<double> reference_sum(const Tensor& x, int dim) {
  std::int64_t outer = 1, inner = 1;
  for (int d = 0; d < dim; ++d) outer *= x.size(d);
  for (int d = dim + 1; d < x.rank(); ++d) inner *= x.size(d);
  const std::vector<double> in = values(x);
  std::vector<double> out(static_cast<std::size_t>(outer * inner));
  for (std::int64_t a = 0; a < outer; ++a)
    for (std::int64_t r = 0; r < x.size(dim); ++r)
      for (std::int64_t b = 0; b < inner; ++b)
        out[static_cast<std::size_t>(a * inner + b)] += in[static_cast<std::size_t>((a * x.size(dim) + r) * inner + b)];
  return out;
}

TEST(Reduce, SumOverEachDimensionOfManyShapes) {
  for (const Shape& shape : {Shape{1}, Shape{17}, Shape{100000}, Shape{3, 40000}, Shape{40000, 3}, Shape{130, 70},
                             Shape{7, 1, 65}, Shape{2, 600, 5}, Shape{4, 0, 3}, Shape{0, 3}})
    for (int dim = 0; dim < shape.rank(); ++dim)
      for (Dtype dtype : {Dtype::f64, Dtype::f32}) {
        const Tensor x = randn(shape, 1, dtype);
        // f32: lanes sum at most 2048 terms each before f64 takes over; the error grows like the root of that.
        EXPECT_LE(test::relative_error(values(sum(x, dim)), reference_sum(x, dim)), dtype == Dtype::f64 ? 1e-13 : 5e-6)
            << shape.str() << " over " << dim << to_string(dtype);
      }
}

TEST(Reduce, SumOfEverythingAndOfIntegers) {
  EXPECT_EQ(sum(ones({1000, 1000})).item<float>(), 1e6f);
  EXPECT_EQ(sum(zeros({0})).item<float>(), 0.0f);
  EXPECT_EQ(sum(arange(100000)).item<std::int64_t>(), 4999950000);
  EXPECT_EQ(sum(full({300}, 255, Dtype::u8)).item<std::int64_t>(), 76500);
  EXPECT_EQ(sum(Tensor::from_vector<bool>({true, false, true}, {3})).item<std::int64_t>(), 2);
  EXPECT_EQ(sum(full({3, 2}, 255, Dtype::u8), 0).to_vector<std::int64_t>(), (std::vector<std::int64_t>{765, 765}));
}

TEST(Reduce, SumsOf16BitFloatsAccumulateInF32) {
  const Tensor x = full({100000}, 1.0, Dtype::bf16);  // in bf16 the sum would stall at 256
  EXPECT_EQ(sum(cast(x, Dtype::f32)).item<float>(), 100000.0f);
  EXPECT_EQ(sum(full({30000}, 1.0, Dtype::f16)).item<float>(), 30000.0f);
}

TEST(Reduce, MeanAndItsErrors) {
  EXPECT_EQ(mean(arange(5, Dtype::f32)).item<float>(), 2.0f);
  EXPECT_EQ(mean(randn({4, 6}, 1), 0, KeepDim::yes).shape(), (Shape{1, 6}));
  EXPECT_EQ(message_of<DtypeError>([] { mean(arange(5)); }), "[mean] needs a floating dtype but has i64: cast first");
  EXPECT_EQ(message_of<ShapeError>([] { mean(zeros({0, 2})); }), "[mean] there is nothing to average in shape [0, 2]");
}

TEST(Reduce, ArgmaxTakesTheFirstAndCountsNanAsLargest) {
  const Tensor x = Tensor::from_vector<float>({1, 5, 5, 0, std::nanf(""), 9, -1, -1, -1}, {3, 3});
  EXPECT_EQ(argmax(x).to_vector<std::int64_t>(), (std::vector<std::int64_t>{1, 1, 0}));
  EXPECT_EQ(argmax(x, 0).to_vector<std::int64_t>(), (std::vector<std::int64_t>{0, 1, 1}));
  EXPECT_EQ(argmax(arange(7), 0).item<std::int64_t>(), 6);
  EXPECT_EQ(argmax(x, 1, KeepDim::yes).shape(), (Shape{3, 1}));
  EXPECT_EQ(message_of<ShapeError>([] { argmax(zeros({2, 0})); }), "[argmax] dimension 1 of shape [2, 0] is empty");
}

TEST(Reduce, GradientsMatchCentralDifferences) {
  const Tensor x = randn({3, 4, 2}, 5, Dtype::f64);
  for (int dim = 0; dim < 3; ++dim) {
    const auto result =
        gradcheck([dim](const std::vector<Tensor>& in) { return sum(in[0] * in[0], dim) * mean(in[0]); }, {x});
    EXPECT_TRUE(result.passed) << result.message;
  }
}

TEST(Reduce, SumToUndoesABroadcast) {
  const Tensor x = randn({4, 3, 5}, 6, Dtype::f64);
  EXPECT_EQ(sum_to(x, {4, 3, 5}).shape(), (Shape{4, 3, 5}));
  EXPECT_LE(test::relative_error(values(sum_to(x, {5})), values(sum(sum(x, 0), 0))), 1e-14);
  EXPECT_LE(test::relative_error(values(sum_to(x, {4, 1, 5})), values(sum(x, 1))), 1e-14);
  EXPECT_LE(test::relative_error(values(sum_to(x, {1, 3, 1})), values(sum(sum(x, 2), 0))), 1e-14);
  EXPECT_LE(test::relative_error(values(sum_to(x, {})), values(sum(x))), 1e-14);
  EXPECT_THROW(sum_to(x, {4, 3, 2}), ShapeError);
}

TEST(Reduce, BitwiseEqualForAnyThreadCount) {
  const Tensor x = randn({1000, 333}, 7);
  std::vector<Tensor> first;
  for (int threads : {1, 2, 7}) {
    const test::Threads setting(threads);
    const std::vector<Tensor> now = {sum(x), sum(x, 0), sum(x, 1), cast(argmax(x, 0), Dtype::f32)};
    if (first.empty()) first = now;
    for (std::size_t i = 0; i < now.size(); ++i)
      EXPECT_TRUE(test::bitwise_equal(first[i], now[i])) << threads << " " << i;
  }
}

TEST(Reduce, ExtremesAndTheirSpecialValues) {
  const float nan = std::nanf("");
  const auto of = [](std::vector<float> v) {
    Tensor x = zeros({static_cast<std::int64_t>(v.size())});
    std::copy(v.begin(), v.end(), x.data<float>());
    return x;
  };
  for (Device device : {Device{}, Device{DeviceKind::simt, 0}}) {
    const auto value = [&](const Tensor& y) { return to(y, Device{}).to_vector<float>().at(0); };
    const auto at = [&](std::vector<float> v) { return to(of(std::move(v)), device); };
    EXPECT_EQ(3, value(max(at({1, 3, -2}))));
    EXPECT_EQ(-2, value(min(at({1, 3, -2}))));
    EXPECT_TRUE(std::isnan(value(max(at({1, nan, 3})))));
    EXPECT_TRUE(std::isnan(value(min(at({1, nan, 3})))));
    EXPECT_EQ(1, to(argmin(at({1, nan, 3})), Device{}).to_vector<std::int64_t>().at(0));
    EXPECT_EQ(2, to(argmin(at({4, 3, 1, 1})), Device{}).to_vector<std::int64_t>().at(0));
    EXPECT_TRUE(std::isnan(value(var(at({5})))));
    EXPECT_EQ(0, value(var(at({5}), 0.0)));
    const float inf = std::numeric_limits<float>::infinity();
    EXPECT_EQ(-inf, value(logsumexp(at({-inf, -inf}))));
    EXPECT_EQ(inf, value(logsumexp(at({inf, 1}))));
    EXPECT_TRUE(std::isnan(value(logsumexp(at({nan, 1})))));
    EXPECT_FLOAT_EQ(1e4f, value(logsumexp(at({1e4f, -1e4f}))));
    Tensor ties = at({2, 1, 2, 2});
    set_requires_grad(ties);
    backward(max(ties) * 3.0);
    EXPECT_EQ((std::vector<float>{1, 0, 1, 1}), to(grad(ties), Device{}).to_vector<float>());
  }
  EXPECT_THROW(max(zeros({3, 0}), 1), ShapeError);
  EXPECT_THROW(sum(zeros({3, 2}), {1, -1}), ShapeError);
}

}  // namespace
}  // namespace weft
