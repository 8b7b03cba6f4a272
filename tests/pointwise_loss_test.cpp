// The cpu's arithmetic; what holds on every device is in pointwise_loss_gpu_test.cpp, the rest in the cases.
#include "autograd/pointwise_loss.h"

#include <cmath>

#include <gtest/gtest.h>

#include "autograd/factories.h"
#include "support/compare.h"
#include "support/threads.h"

namespace weft {
namespace {

// log(1 + e^-|x|) of the cpu's vectors, over the whole range of f32.
TEST(PointwiseLoss, BinaryCrossEntropyIsAccurateInF32) {
  for (double x = -90; x < 90; x += 0.01) {
    const float rounded = static_cast<float>(x);
    const double exact = rounded > 0 ? std::log1p(std::exp(-static_cast<double>(rounded))) + rounded
                                     : std::log1p(std::exp(static_cast<double>(rounded)));
    const Loss loss = binary_cross_entropy_with_logits(full({1}, rounded), zeros({1}));
    ASSERT_NEAR(loss.sum.item<double>(), exact, 5 * 0x1p-24 * exact + 0x1p-147)
        << x;  // and a few of the smallest numbers
  }
}

// Chunks that end anywhere.
TEST(PointwiseLoss, BitwiseEqualForAnyThreadCount) {
  for (const std::int64_t count : {16384, 16385, 100'003}) {
    const Tensor x = randn({count}, 1), y = randn({count}, 2), weight = rand({count}, 3);
    Tensor first;
    for (const int threads : {1, 2, 7}) {
      const test::Threads guard(threads);
      const Loss loss = huber_loss(x, y, 0.5, {.weight = weight});
      if (!first.defined()) first = loss.sum;
      EXPECT_TRUE(test::bitwise_equal(loss.sum, first)) << count << " " << threads;
    }
  }
}

}  // namespace
}  // namespace weft
