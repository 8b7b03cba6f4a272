// What the case of rms_norm (tests/cases/rms_norm_cases.cpp) cannot say: special values, every variant of the GPU's
// kernels, aliasing, errors.
#include "autograd/rms_norm.h"

#include <cmath>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "kernels/rms_norm.h"
#include "nn/rms_norm.h"
#include "support/gpu.h"
#include "support/guarded.h"
#include "support/variants.h"

namespace weft {
namespace {

using test::back;
using test::bitwise_equal;
using test::message_of;
using test::on;
using test::output;
using test::relative_error;
using test::rounding;
using test::values;

constexpr Dtype kDtypes[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};

struct Results {
  std::vector<double> y, dx, dgamma;
};

// Plain loops in f64.
Results reference(const Tensor& x_, const Tensor& gamma_, const Tensor& dy_, std::int64_t channels, double eps) {
  const std::vector<double> x = values(x_), dy = values(dy_), gamma = values(gamma_);
  const auto C = static_cast<std::size_t>(channels), R = x.size() / C;
  Results all{std::vector<double>(R * C), std::vector<double>(R * C), std::vector<double>(C)};
  for (std::size_t r = 0; r < R; ++r) {
    double squares = 0, mean_gx = 0;
    for (std::size_t c = 0; c < C; ++c) squares += x[r * C + c] * x[r * C + c];
    const double rrms = 1 / std::sqrt(squares / static_cast<double>(C) + eps);
    for (std::size_t c = 0; c < C; ++c)
      mean_gx += dy[r * C + c] * gamma[c] * x[r * C + c] * rrms / static_cast<double>(C);
    for (std::size_t c = 0; c < C; ++c) {
      const std::size_t i = r * C + c;
      all.y[i] = x[i] * rrms * gamma[c];
      all.dx[i] = rrms * (dy[i] * gamma[c] - x[i] * rrms * mean_gx);
      all.dgamma[c] += dy[i] * x[i] * rrms;
    }
  }
  return all;
}

Tensor around(double mean, const Shape& shape, std::uint64_t seed, Dtype dtype) {
  return cast(randn(shape, seed, Dtype::f64) + scalar(mean, Dtype::f64), dtype);
}

class RmsNormAnywhere : public ::testing::TestWithParam<DeviceKind> {
 protected:
  void SetUp() override {
    if (GetParam() == DeviceKind::cuda && !cuda_status().usable) GTEST_SKIP() << cuda_status().reason;
  }
  Device device() const { return {GetParam(), 0}; }
};

// Each length belongs to another team, or another variant of the kernels.
TEST_P(RmsNormAnywhere, RowsOfEveryLength) {
  for (std::int64_t channels : {1, 2, 31, 64, 65, 260, 769, 2047, 2049, 8193, 8196, 24577})
    for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      SCOPED_TRACE(fmt::format("C={} {}", channels, to_string(dtype)));
      const std::int64_t rows = channels > 2000 ? 3 : 19;
      const Tensor x = around(3, {rows, channels}, 1, dtype), gamma = around(1, {channels}, 2, dtype),
                   dy = randn({rows, channels}, 3, dtype);
      const Tensor on_x = set_requires_grad(on(device(), x)), on_gamma = set_requires_grad(on(device(), gamma));
      const Tensor y = rms_norm(on_x, on_gamma, 1e-5);
      backward(y, on(device(), dy));
      const Results want = reference(x, gamma, dy, channels, 1e-5);
      // Sums of C / 8 terms one after the other at the most, errors random; then what is stored.
      const double allowed = rounding(Dtype::f32) * (8 + std::sqrt(static_cast<double>(channels) / 8)) +
                             (dtype == Dtype::f32 ? 0 : rounding(dtype));
      EXPECT_LE(relative_error(values(back(y)), want.y), allowed);
      if (channels > 1) {  // of one element dx is the difference of two equal terms
        EXPECT_LE(relative_error(values(back(grad(on_x))), want.dx), 2 * allowed);
      }
      EXPECT_LE(relative_error(values(back(grad(on_gamma))), want.dgamma), 2 * allowed);
    }
}

TEST_P(RmsNormAnywhere, SpecialRows) {
  constexpr std::int64_t kColumns = 20;
  std::vector<float> data(6 * kColumns, 2.0f);
  for (std::size_t i = 0; i < kColumns; ++i) data[kColumns + i] = 0;  // row 1: zeros
  data[2 * kColumns + 3] = INFINITY;
  data[3 * kColumns + 3] = std::nanf("");
  data[4 * kColumns + 7] = -1e30f;  // its square overflows
  const std::vector<double> y =
      values(back(rms_norm(on(device(), Tensor::from_vector(data, {6, kColumns})), {}, 1e-12)));
  for (std::size_t c = 0; c < kColumns; ++c) {
    EXPECT_NEAR(y[c], 1, 1e-6) << c;  // a constant row
    EXPECT_EQ(y[kColumns + c], 0) << c;
    EXPECT_EQ(std::isnan(y[2 * kColumns + c]), c == 3) << c;
    if (c != 3) { EXPECT_EQ(y[2 * kColumns + c], 0) << c; }
    EXPECT_TRUE(std::isnan(y[3 * kColumns + c])) << c;
    EXPECT_EQ(y[4 * kColumns + c], 0) << c;
    EXPECT_NEAR(y[5 * kColumns + c], 1, 1e-6) << c;
  }
  // Of zeros rrms is 1 / sqrt(eps): dx = rrms dy.
  const Tensor zero = set_requires_grad(on(device(), zeros({1, 5})));
  backward(rms_norm(zero, {}, 1e-4), on(device(), ones({1, 5})));
  for (const double v : values(back(grad(zero)))) EXPECT_NEAR(v, 100, 1e-3);
}

TEST_P(RmsNormAnywhere, WithoutEpsItIsTheMachineEpsilonOfTheDtype) {
  const double epsilon[] = {0x1p-52, 0x1p-23, 0x1p-10, 0x1p-7};
  for (int i = 0; i < 4; ++i) {
    // Of x = 0.01 the mean square is 1e-4, which an epsilon of 2^-10 or 2^-7 outweighs.
    const Tensor x = on(device(), full({2, 8}, 0.01, kDtypes[i]));
    EXPECT_TRUE(bitwise_equal(back(rms_norm(x)), back(rms_norm(x, {}, epsilon[i])))) << to_string(kDtypes[i]);
    EXPECT_FALSE(bitwise_equal(back(rms_norm(x)), back(rms_norm(x, {}, 1.0)))) << to_string(kDtypes[i]);
  }
}

TEST_P(RmsNormAnywhere, InPlaceAndAddingToGradients) {
  const std::int64_t rows = 37, channels = 769;
  const Tensor x = randn({rows, channels}, 1), dy = randn({rows, channels}, 2), gamma = randn({channels}, 3);
  const Tensor on_x = on(device(), x), on_dy = on(device(), dy), on_gamma = on(device(), gamma);
  const Tensor y = output(device(), {rows, channels}, Dtype::f32), rrms = output(device(), {rows}, Dtype::f32),
               dx = output(device(), {rows, channels}, Dtype::f32), dgamma = output(device(), {channels}, Dtype::f32);
  const Tensor partials = output(device(), {kernels::rms_norm_partials(rows, channels, device())}, Dtype::f32);
  kernels::rms_norm_forward(device(), {Dtype::f32, rows, channels, 1e-5, on_x.raw_data(), on_gamma.raw_data(),
                                       y.raw_data(), rrms.raw_data()});
  const auto run = [&](const Tensor& from, const Tensor& to, Accumulate mode) {
    kernels::rms_norm_backward(
        device(), {Dtype::f32, rows, channels, on_x.raw_data(), on_gamma.raw_data(), from.raw_data(), rrms.raw_data(),
                   to.raw_data(), dgamma.raw_data(), mode, partials.raw_data()});
  };
  run(on_dy, dx, Accumulate::overwrite);
  const std::vector<double> once = values(back(dgamma));
  run(on_dy, on_dy, Accumulate::add);  // dx over dy
  EXPECT_TRUE(bitwise_equal(back(on_dy), back(dx)));
  const std::vector<double> twice = values(back(dgamma));
  for (std::size_t c = 0; c < once.size(); ++c) EXPECT_EQ(twice[c], 2 * once[c]) << c;
  const Tensor wanted = clone(back(y)), copy = on(device(), x);
  kernels::rms_norm_forward(
      device(), {Dtype::f32, rows, channels, 1e-5, copy.raw_data(), on_gamma.raw_data(), copy.raw_data(), nullptr});
  EXPECT_TRUE(bitwise_equal(back(copy), wanted));
}

std::string name_of(const ::testing::TestParamInfo<DeviceKind>& info) { return Device{info.param, 0}.str(); }
#if defined(WEFT_CUDA)
constexpr DeviceKind kDevices[] = {DeviceKind::cpu, DeviceKind::simt, DeviceKind::cuda};
#else
constexpr DeviceKind kDevices[] = {DeviceKind::cpu, DeviceKind::simt};
#endif
INSTANTIATE_TEST_SUITE_P(Everywhere, RmsNormAnywhere, ::testing::ValuesIn(kDevices), name_of);

class RmsNormGpu : public test::GpuTest {};

// Every variant that supports a shape, not only the first, gives what the cpu gives.
TEST_P(RmsNormGpu, EveryVariant) {
  const double eps = 1e-5;
  for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::f64})
    for (const std::int64_t channels : {33, 768, 4104}) {
      SCOPED_TRACE(fmt::format("C={} {}", channels, to_string(dtype)));
      const std::int64_t rows = 5;
      const Dtype sums = dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
      const Tensor host_x = around(2, {rows, channels}, 1, dtype), host_dy = randn({rows, channels}, 2, dtype),
                   host_gamma = around(1, {channels}, 3, dtype);
      const Results want = reference(host_x, host_gamma, host_dy, channels, eps);
      const Tensor x = on(device(), host_x), dy = on(device(), host_dy), gamma = on(device(), host_gamma);
      const Tensor y = output(device(), {rows, channels}, dtype), rrms = output(device(), {rows}, sums),
                   dx = output(device(), {rows, channels}, dtype), dgamma = output(device(), {channels}, dtype);
      const Tensor partials = output(device(), {kernels::rms_norm_partials(rows, channels, device())}, sums);
      const double allowed =
          rounding(sums) * (8 + std::sqrt(static_cast<double>(channels) / 8)) + (sums == dtype ? 0 : rounding(dtype));
      const kernels::RmsNormForward forward{dtype,        rows,           channels, eps, x.raw_data(), gamma.raw_data(),
                                            y.raw_data(), rrms.raw_data()};
      const int forwards =
          test::for_each_variant(WEFT_VARIANTS(rms_norm_forward, device()), forward, [&](const auto& variant) {
            variant.run(current_stream(device()), forward);
            EXPECT_LE(relative_error(values(back(y)), want.y), allowed);
          });
      EXPECT_GE(forwards, 2);
      const kernels::RmsNormBackward backward{
          dtype,           rows,          channels,          x.raw_data(),          gamma.raw_data(),   dy.raw_data(),
          rrms.raw_data(), dx.raw_data(), dgamma.raw_data(), Accumulate::overwrite, partials.raw_data()};
      const int backwards =
          test::for_each_variant(WEFT_VARIANTS(rms_norm_backward, device()), backward, [&](const auto& variant) {
            variant.run(current_stream(device()), backward);
            EXPECT_LE(relative_error(values(back(dx)), want.dx), 2 * allowed);
            EXPECT_LE(relative_error(values(back(dgamma)), want.dgamma), 2 * allowed);
          });
      EXPECT_GE(backwards, 2);
    }
}

WEFT_GPU_SUITE(RmsNormGpu);

TEST(RmsNorm, Errors) {
  const Tensor x = randn({2, 4, 6}, 1);
  EXPECT_EQ(message_of<ShapeError>([&] { rms_norm(x, ones({5})); }),
            "[rms_norm] gamma must have shape [C]=[6] but has [5]");
  EXPECT_EQ(message_of<ShapeError>([&] {
              rms_norm(x, Shape{4, 5});
            }),
            "[rms_norm] x must end in normalized_shape [4, 5] but has [2, 4, 6]");
  EXPECT_EQ(message_of<ShapeError>([&] {
              rms_norm(x, Shape{4, 6}, ones({24}));
            }),
            "[rms_norm] gamma must have shape [4, 6] but has [24]");
  EXPECT_EQ(message_of<ShapeError>([&] { rms_norm(x, Shape{0}); }),
            "[rms_norm] normalized_shape must have extents of at least 1 but is [0]");
  EXPECT_EQ(message_of<DtypeError>([&] { rms_norm(x, ones({6}, Dtype::f64)); }),
            "[rms_norm] gamma must be f32 to go with x but is f64");
  EXPECT_EQ(message_of<DtypeError>([&] { rms_norm(arange(4)); }),
            "[rms_norm] x must be f64, f32, f16 or bf16 but is i64");
  EXPECT_EQ(message_of<OptionError>([&] { rms_norm(x, {}, 0.0); }), "[rms_norm] eps must be positive but is 0");
  EXPECT_EQ(message_of<ShapeError>([&] { rms_norm(scalar(1)); }),
            "[rms_norm] x must have shape [..., C] with C >= 1 but has []");
}

TEST(RmsNorm, Module) {
  nn::RmsNorm norm{Shape{2, 3}};
  EXPECT_EQ(norm.weight.shape(), (Shape{2, 3}));
  const Tensor x = randn({4, 2, 3}, 1);
  EXPECT_TRUE(bitwise_equal(norm(x), rms_norm(x, Shape{2, 3}, norm.weight)));
  nn::RmsNorm plain{3, {.eps = 0.5, .affine = false}};
  EXPECT_TRUE(nn::parameters(plain).empty());
  EXPECT_TRUE(bitwise_equal(plain(x), rms_norm(x, {}, 0.5)));
  EXPECT_EQ(message_of<ShapeError>([] { nn::RmsNorm{0}; }),
            "[rms_norm] normalized_shape must have extents of at least 1 but is [0]");
}

}  // namespace
}  // namespace weft
