#include "tensor/dtype.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

namespace weft {
namespace {

// IEEE binary16 by definition: sign, exponent, fraction, computed in double.
double half_value(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

double bfloat_value(std::uint16_t bits) {
  const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof(value));
  return value;
}

template <class T>
void all_values_survive(double (*value_of)(std::uint16_t)) {
  for (int i = 0; i < 65536; ++i) {
    T stored;
    stored.bits = static_cast<std::uint16_t>(i);
    const double expected = value_of(stored.bits);
    const float decoded = static_cast<float>(stored);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(decoded)) << i;
      ASSERT_TRUE(std::isnan(static_cast<float>(T(decoded)))) << i;
    } else {
      ASSERT_EQ(decoded, expected) << i;
      ASSERT_EQ(T(decoded).bits, stored.bits) << i;
    }
  }
}

// Between two neighbours a value goes to the nearer one, and half way to the one with an even last bit.
template <class T>
void rounds_to_nearest_even(double (*value_of)(std::uint16_t), std::uint16_t largest_finite) {
  for (std::uint16_t bits = 0; bits < largest_finite; ++bits) {
    const double low = value_of(bits), high = value_of(static_cast<std::uint16_t>(bits + 1)), middle = (low + high) / 2;
    const auto even = static_cast<std::uint16_t>(bits % 2 == 0 ? bits : bits + 1);
    const float half_way = static_cast<float>(middle);
    if (half_way == middle) {  // exactly representable: all but the smallest bf16 subnormals
      ASSERT_EQ(T(half_way).bits, even) << bits;
      ASSERT_EQ(T(-half_way).bits, even | 0x8000) << bits;
      ASSERT_EQ(T(std::nextafter(half_way, 0.0f)).bits, bits) << bits;
      ASSERT_EQ(T(std::nextafter(half_way, INFINITY)).bits, bits + 1) << bits;
    }
  }
}

TEST(Dtype, EveryHalfAndBfloatSurvivesAFloatRoundTrip) {
  all_values_survive<float16>(half_value);
  all_values_survive<bfloat16>(bfloat_value);
}

TEST(Dtype, SixteenBitFloatsRoundToNearestEven) {
  rounds_to_nearest_even<float16>(half_value, 0x7bff);
  rounds_to_nearest_even<bfloat16>(bfloat_value, 0x7f7f);
}

TEST(Dtype, SixteenBitFloatsOverflowToInfinity) {
  EXPECT_EQ(float16(65519.0f).bits, 0x7bff);  // largest finite 65504; half way to the next would be 65520
  EXPECT_EQ(float16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(float16(-1e30f).bits, 0xfc00);
  EXPECT_EQ(bfloat16(3.4e38f).bits, 0x7f80);
  EXPECT_EQ(float16(0x1p-25f).bits, 0);  // half of the smallest subnormal: to even, 0
  EXPECT_EQ(float16(0x1.8p-25f).bits, 1);
}

TEST(Dtype, PromotionIsSymmetricAndFollowsTheTable) {
  EXPECT_EQ(promote(Dtype::f16, Dtype::bf16), Dtype::f32);
  EXPECT_EQ(promote(Dtype::f16, Dtype::i64), Dtype::f16);
  EXPECT_EQ(promote(Dtype::f32, Dtype::f64), Dtype::f64);
  EXPECT_EQ(promote(Dtype::boolean, Dtype::u8), Dtype::u8);
  EXPECT_EQ(promote(Dtype::u8, Dtype::i32), Dtype::i32);
  constexpr Dtype all[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16,
                           Dtype::i64, Dtype::i32, Dtype::u8,  Dtype::boolean};
  for (Dtype a : all)
    for (Dtype b : all) EXPECT_EQ(promote(a, b), promote(b, a));
}

}  // namespace
}  // namespace weft
