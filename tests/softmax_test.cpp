// What tests/cases/softmax_cases.cpp cannot say: errors, special values, aliasing.
#include "autograd/softmax.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "autograd/factories.h"
#include "autograd/reduce.h"
#include "kernels/softmax.h"
#include "nn/softmax.h"
#include "support/gpu.h"

namespace weft {
namespace {

using test::back;
using test::bitwise_equal;
using test::message_of;
using test::on;
using test::values;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Softmax, Errors) {
  EXPECT_EQ("[softmax] there is nothing to normalise in shape [3, 0]", message_of<ShapeError>([] {
              softmax(zeros({3, 0}));
            }));
  EXPECT_EQ("[log_softmax] x must be f64, f32, f16 or bf16 but is i64", message_of<DtypeError>([] {
              log_softmax(zeros({3, 2}, Dtype::i64));
            }));
}

TEST(Softmax, Modules) {
  const Tensor x = randn({3, 5}, 1);
  EXPECT_TRUE(bitwise_equal(softmax(x, 0), nn::Softmax(0)(x)));
  EXPECT_TRUE(bitwise_equal(log_softmax(x), nn::LogSoftmax()(x)));
}

struct SoftmaxDevice : test::GpuTest {};

// Rows of every length class: in registers, in shared memory, read again.
void special_values(Device device) {
  for (std::int64_t channels : {4, 40, 3000, 40000}) {
    Tensor x = zeros({5, channels});
    float* const data = x.data<float>();
    data[0] = -kInfinity;
    for (std::int64_t c = 0; c < channels; ++c) data[channels + c] = -kInfinity;
    data[2 * channels + 1] = std::nanf("");
    data[3 * channels + 1] = kInfinity;
    for (std::int64_t c = 0; c < channels; ++c) data[4 * channels + c] = c == channels - 1 ? 1e4f : -1e4f;
    const std::vector<double> y = values(back(softmax(on(device, x))));
    const std::vector<double> log_y = values(back(log_softmax(on(device, x))));
    const auto n = static_cast<std::size_t>(channels);
    EXPECT_EQ(0, y[0]) << channels;
    EXPECT_EQ(-kInfinity, log_y[0]) << channels;
    EXPECT_NEAR(1.0 / static_cast<double>(channels - 1), y[1], 1e-6) << channels;
    for (std::size_t i = n; i < 4 * n; ++i) {
      ASSERT_TRUE(std::isnan(y[i])) << channels << " element " << i;
      ASSERT_TRUE(std::isnan(log_y[i])) << channels << " element " << i;
    }
    EXPECT_EQ(1, y[5 * n - 1]);
    EXPECT_EQ(0, y[4 * n]);
    EXPECT_EQ(0, log_y[5 * n - 1]);
    EXPECT_EQ(-2e4, log_y[4 * n]);
  }
}

TEST(Softmax, SpecialValues) { special_values(Device{}); }
TEST_P(SoftmaxDevice, SpecialValues) { special_values(device()); }

void in_place(Device device) {
  for (std::int64_t channels : {33, 3000})
    for (bool logarithm : {false, true}) {
      const Tensor x = on(device, randn({5, channels}, 1));
      const Tensor want = logarithm ? log_softmax(x) : softmax(x);
      kernels::softmax_forward(device, {Dtype::f32, 5, channels, logarithm, x.raw_data(), x.raw_data()});
      EXPECT_TRUE(bitwise_equal(back(want), back(x))) << channels;
    }
}

TEST(Softmax, InPlace) { in_place(Device{}); }
TEST_P(SoftmaxDevice, InPlace) { in_place(device()); }

WEFT_GPU_SUITE(SoftmaxDevice);

}  // namespace
}  // namespace weft
