#include "nn/init.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/factories.h"
#include "nn/linear.h"
#include "support/compare.h"

namespace weft::nn {
namespace {

using test::message_of;
using test::values;

struct Moments {
  double mean = 0, std = 0, low = 0, high = 0;
};
Moments moments(const Tensor& tensor) {
  const std::vector<double> x = values(tensor);
  Moments m{.low = *std::min_element(x.begin(), x.end()), .high = *std::max_element(x.begin(), x.end())};
  for (const double v : x) m.mean += v / static_cast<double>(x.size());
  for (const double v : x) m.std += (v - m.mean) * (v - m.mean) / static_cast<double>(x.size());
  m.std = std::sqrt(m.std);
  return m;
}

// 120 000 numbers: the mean of a distribution of deviation s is known to s / 346, its deviation to about s / 490; five times
// that is allowed.
constexpr double kFive = 5.0 / 346;
Tensor weight() { return Tensor::empty({300, 20, 4, 5}, Dtype::f64); }

TEST(Init, DistributionsHaveTheirMomentsAndBounds) {
  manual_seed(1);
  const Tensor w = weight();
  const auto expect = [&](const char* what, double mean, double std) {
    const Moments m = moments(w);
    EXPECT_NEAR(m.mean, mean, kFive * std) << what;
    EXPECT_NEAR(m.std, std, kFive * std) << what;
  };
  init::uniform_(w, 2, 5);
  expect("uniform", 3.5, 3 / std::sqrt(12.0));
  EXPECT_GE(moments(w).low, 2);
  EXPECT_LT(moments(w).high, 5);
  init::normal_(w, -1, 0.5);
  expect("normal", -1, 0.5);
  // fan_in 20 * 20 = 400, fan_out 300 * 20 = 6000.
  init::xavier_uniform_(w, 2);
  expect("xavier uniform", 0, 2 * std::sqrt(2.0 / 6400));
  EXPECT_LE(moments(w).high, 2 * std::sqrt(6.0 / 6400));
  init::xavier_normal_(w);
  expect("xavier normal", 0, std::sqrt(2.0 / 6400));
  init::kaiming_uniform_(w, {.a = std::sqrt(5.0)});
  expect("kaiming uniform", 0, std::sqrt(2.0 / 6 / 400));
  EXPECT_LE(moments(w).high, 1.0 / 20);  // the default of Linear and of convolutions: 1 / sqrt(fan_in)
  init::kaiming_normal_(w, {.mode = init::FanMode::fan_out, .nonlinearity = init::Nonlinearity::relu});
  expect("kaiming normal", 0, std::sqrt(2.0 / 6000));
  init::constant_(w, 3);
  EXPECT_EQ(moments(w).low, 3);
  EXPECT_EQ(moments(w).high, 3);
}

TEST(Init, TruncatedNormalIsCutAndKeepsItsShape) {
  manual_seed(2);
  const Tensor w = weight();
  init::trunc_normal_(w);
  // Of the standard normal cut at ±2: variance 1 - 2·2·φ(2) / (Φ(2) - Φ(-2)).
  const double phi = std::exp(-2.0) / std::sqrt(2 * 3.141592653589793), inside = std::erf(std::sqrt(2.0));
  const Moments m = moments(w);
  EXPECT_NEAR(m.mean, 0, kFive);
  EXPECT_NEAR(m.std, std::sqrt(1 - 4 * phi / inside), kFive);
  EXPECT_GE(m.low, -2);
  EXPECT_LE(m.high, 2);
  EXPECT_LT(m.low, -1.99);
  EXPECT_GT(m.high, 1.99);
  // Far in a tail: the cut keeps what lies there.
  init::trunc_normal_(w, 0, 1, 3, 4);
  EXPECT_GE(moments(w).low, 3);
  EXPECT_LE(moments(w).high, 4);
  // E[x | 3 < x < 4] = (φ(3) - φ(4)) / (Φ(4) - Φ(3))
  const auto density = [](double x) { return std::exp(-x * x / 2) / std::sqrt(2 * 3.141592653589793); };
  const double share = (std::erfc(3 / std::sqrt(2.0)) - std::erfc(4 / std::sqrt(2.0))) / 2;
  EXPECT_NEAR(moments(w).mean, (density(3) - density(4)) / share, kFive);
}

TEST(Init, OrthogonalRowsOrColumns) {
  for (const Shape& shape : {Shape{20, 50}, Shape{50, 20}, Shape{30, 30}, Shape{8, 3, 2, 2}}) {
    manual_seed(3);
    const Tensor w = Tensor::empty(shape, Dtype::f64);
    init::orthogonal_(w, 2);
    const std::int64_t rows = w.size(0), columns = w.numel() / rows, count = std::min(rows, columns);
    const std::vector<double> x = values(w);
    const auto at = [&](std::int64_t v, std::int64_t i) {  // element i of vector v
      return x[static_cast<std::size_t>(rows <= columns ? v * columns + i : i * columns + v)];
    };
    for (std::int64_t a = 0; a < count; ++a)
      for (std::int64_t b = 0; b < count; ++b) {
        double product = 0;
        for (std::int64_t i = 0; i < std::max(rows, columns); ++i) product += at(a, i) * at(b, i);
        EXPECT_NEAR(product, a == b ? 4 : 0, 1e-13) << shape.str() << a << " " << b;
      }
  }
}

TEST(Init, SeedsRepeatAndCallsDiffer) {
  const auto drawn = [](std::uint64_t seed) {
    manual_seed(seed);
    const Tensor a = Tensor::empty({100}), b = Tensor::empty({100});
    init::normal_(a);
    init::normal_(b);
    return std::pair{a, b};
  };
  const auto [a, b] = drawn(7);
  const auto [c, d] = drawn(7);
  EXPECT_TRUE(test::bitwise_equal(a, c));
  EXPECT_TRUE(test::bitwise_equal(b, d));
  EXPECT_FALSE(test::bitwise_equal(a, b));
  EXPECT_FALSE(test::bitwise_equal(a, drawn(8).first));
  manual_seed(9);
  const Tensor on_simt = Tensor::empty({100}, Dtype::f32, Device{DeviceKind::simt, 0});
  init::normal_(on_simt);
  manual_seed(9);
  init::normal_(a);
  EXPECT_TRUE(test::bitwise_equal(to(on_simt, Device{}), a));
}

TEST(Init, GainsAndErrors) {
  EXPECT_DOUBLE_EQ(init::calculate_gain(init::Nonlinearity::relu), std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(init::calculate_gain(init::Nonlinearity::tanh), 5.0 / 3);
  EXPECT_DOUBLE_EQ(init::calculate_gain(init::Nonlinearity::leaky_relu, 1), 1);
  EXPECT_EQ(message_of<ShapeError>([] { init::xavier_uniform_(zeros({5})); }),
            "[fans] needs a weight of at least 2 dimensions [out, in, ...] but has shape [5]");
  EXPECT_EQ(message_of<ShapeError>([] { init::uniform_(zeros({2, 3}).t()); }), "[uniform_] needs a contiguous tensor");
  EXPECT_EQ(message_of<DtypeError>([] { init::normal_(arange(3)); }),
            "[normal_] needs f64, f32, f16 or bf16 but has i64");
  EXPECT_EQ(message_of<OptionError>([] { init::trunc_normal_(zeros({3}), 0, 1, 2, -2); }),
            "[trunc_normal_] needs std > 0 and low < high but has 1, 2 and -2");
}

}  // namespace
}  // namespace weft::nn
