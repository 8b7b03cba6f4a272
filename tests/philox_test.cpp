#include "tensor/philox.h"

#include <cmath>

#include <gtest/gtest.h>

#include "autograd/factories.h"

namespace weft {
namespace {

// Random123's kat_vectors, philox4x32 with 10 rounds: counter, key -> output.
TEST(Philox, GivesRandom123sKnownAnswers) {
  EXPECT_EQ(philox4x32(0, 0, 0), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32(~0ull, ~0ull, ~0ull), (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, StreamsAndUsesDiffer) {
  EXPECT_NE(Philox(1).next_u64(), Philox(2).next_u64());
  EXPECT_NE(Philox(1, RandomUse::shuffle).next_u64(), Philox(1, RandomUse::data).next_u64());
  EXPECT_NE(Philox(1, RandomUse::data, 0).next_u64(), Philox(1, RandomUse::data, 1).next_u64());
}

TEST(Philox, UniformAndNormalHaveTheRightMoments) {
  constexpr int kCount = 200000;
  Philox random(7);
  double uniform_sum = 0, normal_sum = 0, normal_squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const double u = random.uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    uniform_sum += u;
    const double z = random.normal();
    normal_sum += z;
    normal_squares += z * z;
  }
  // Five standard errors: 1/sqrt(12 n), 1/sqrt(n), sqrt(2/n).
  EXPECT_NEAR(uniform_sum / kCount, 0.5, 5 / std::sqrt(12.0 * kCount));
  EXPECT_NEAR(normal_sum / kCount, 0.0, 5 / std::sqrt(1.0 * kCount));
  EXPECT_NEAR(normal_squares / kCount, 1.0, 5 * std::sqrt(2.0 / kCount));
}

TEST(Philox, ElementsOfATensorDependOnTheSeedAndIndexOnly) {
  const auto small = randn({5}, 3, Dtype::f64).to_vector<double>(),
             large = randn({50}, 3, Dtype::f64).to_vector<double>();
  for (std::size_t i = 0; i < small.size(); ++i) EXPECT_EQ(small[i], large[i]);
  EXPECT_LT(uniform_float(0xffffffffu), 1.0f);
  EXPECT_LT(uniform_double(0xffffffffu, 0xffffffffu), 1.0);
}

}  // namespace
}  // namespace weft
