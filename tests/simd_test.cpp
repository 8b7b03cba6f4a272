#include "kernels/common/simd.h"

#include <algorithm>
#include <limits>

#include <gtest/gtest.h>

namespace weft::simd {
namespace {

TEST(Simd, ExpIsWithinTwoUlpOverTheWholeRange) {
  double worst = 0;
  float worst_at = 0;
  for (std::uint64_t bits = 0; bits < 0x100000000ull; bits += 2003) {  // 2.1 million floats, every exponent
    const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (x != x || x > 88.72f || x < -103.9f) continue;
    const double exact = std::exp(static_cast<double>(x));
    int exponent;
    std::frexp(exact, &exponent);
    const double ulp = std::max(std::ldexp(1.0, exponent - 24), std::numeric_limits<float>::denorm_min() * 1.0);
    const double error = std::fabs(static_cast<double>(exp(broadcast(x))[5]) - exact) / ulp;
    if (!(error <= worst)) {
      worst = error;
      worst_at = x;
    }
  }
  EXPECT_LE(worst, 2.0) << "at " << worst_at;
  RecordProperty("worst_ulp", std::to_string(worst));
}

TEST(Simd, ExpKeepsNanAndReachesTheEnds) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isnan(exp(broadcast(std::nanf("")))[0]));
  EXPECT_EQ(exp(broadcast(infinity))[0], infinity);
  EXPECT_EQ(exp(broadcast(89.0f))[0], infinity);
  EXPECT_EQ(exp(broadcast(-infinity))[0], 0.0f);
  EXPECT_EQ(exp(broadcast(-105.0f))[0], 0.0f);
  EXPECT_EQ(exp(broadcast(0.0f))[0], 1.0f);
}

TEST(Simd, OverRootIsWithinFourUlpOverTheWholeRange) {
  double worst = 0;
  float worst_v = 0, worst_c = 0;
  for (const float c : {0.0f, 1e-30f, 1e-8f, 1.0f, 1e6f})
    for (std::uint64_t bits = 0; bits < 0x7f800000ull; bits += 9973) {  // every exponent, subnormals too
      const auto v = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
      const double exact = 3.0 / (std::sqrt(static_cast<double>(v)) + static_cast<double>(c));
      const float got = over_root(broadcast(3.0f), broadcast(v), broadcast(c))[7];
      if (!(exact < 3e38)) {
        ASSERT_EQ(got, std::numeric_limits<float>::infinity()) << v << " " << c;
        continue;
      }
      int exponent;
      std::frexp(exact, &exponent);
      const double error =
          std::fabs(static_cast<double>(got) - exact) / std::max(std::ldexp(1.0, exponent - 24), 0x1p-149);
      if (!(error <= worst)) {
        worst = error;
        worst_v = v;
        worst_c = c;
      }
    }
  EXPECT_LE(worst, 4.0) << "at v = " << worst_v << ", c = " << worst_c;
  EXPECT_TRUE(std::isnan(over_root(broadcast(0.0f), broadcast(0.0f), broadcast(0.0f))[0]));  // as 0 / 0
  RecordProperty("worst_ulp", std::to_string(worst));
}

TEST(Simd, TailsReadAndWriteOnlyTheirLanes) {
  for (int count = 0; count <= kLanes<float>; ++count) {
    float in[kLanes<float>], out[kLanes<float>];
    for (int i = 0; i < kLanes<float>; ++i) {
      in[i] = static_cast<float>(i + 1);
      out[i] = -1.0f;
    }
    const Vec<float> v = load_tail<float>(in, count, 7.0f);
    for (int i = 0; i < kLanes<float>; ++i) EXPECT_EQ(v[i], i < count ? in[i] : 7.0f);
    store_tail<float>(out, v, count);
    for (int i = 0; i < kLanes<float>; ++i) EXPECT_EQ(out[i], i < count ? in[i] : -1.0f);
  }
}

TEST(Simd, SixteenBitLanesConvertLikeTheScalars) {
  bfloat16 bf[16];
  float16 half[16];
  for (int i = 0; i < 16; ++i) {
    bf[i] = bfloat16(1.5f * static_cast<float>(i) - 3.25f);
    half[i] = float16(1.5f * static_cast<float>(i) - 3.25f);
  }
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(load<bfloat16>(bf)[i], static_cast<float>(bf[i]));
    EXPECT_EQ(load<float16>(half)[i], static_cast<float>(half[i]));
  }
}

TEST(Simd, MaximumAndSumOfLanes) {
  Vec<float> v;
  for (int i = 0; i < 16; ++i) v[i] = static_cast<float>((i * 7) % 16);
  EXPECT_EQ(horizontal_max<float>(v), 15.0f);
  EXPECT_EQ(horizontal_sum<float>(v), 120.0f);
  v[3] = std::nanf("");
  EXPECT_TRUE(std::isnan(horizontal_max<float>(v)));
  EXPECT_TRUE(std::isnan(max<float>(broadcast(1.0f), v)[3]));
  EXPECT_TRUE(std::isnan(max<float>(v, broadcast(1.0f))[3]));
  EXPECT_EQ(broadcast(-0.0f)[2], 0.0f);
  EXPECT_TRUE(std::signbit(broadcast(-0.0f)[2]));
}

}  // namespace
}  // namespace weft::simd
