#pragma once
// Philox4x32-10: a counter-based generator. The i-th number is a pure function of (key, counter), so that every device,
// thread and resume point draws the same ones.
// Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"; checked against Random123's
// known answers in tests/philox_test.cpp.
#include <array>
#include <cmath>
#include <cstdint>

namespace weft {

/// Four numbers of 32 bits: what one call gives.
using PhiloxBlock = std::array<std::uint32_t, 4>;

/// The generator's constants: rounds, multipliers, and what is added to the key after each round.
inline constexpr int kPhiloxRounds = 10;
inline constexpr std::uint32_t kPhiloxM0 = 0xD2511F53u;
inline constexpr std::uint32_t kPhiloxM1 = 0xCD9E8D57u;
inline constexpr std::uint32_t kPhiloxW0 = 0x9E3779B9u;
inline constexpr std::uint32_t kPhiloxW1 = 0xBB67AE85u;

/// Four independent 32-bit numbers for a 64-bit key and a 128-bit counter.
constexpr PhiloxBlock philox4x32(std::uint64_t key, std::uint64_t counter_low, std::uint64_t counter_high) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  PhiloxBlock c{static_cast<std::uint32_t>(counter_low), static_cast<std::uint32_t>(counter_low >> 32),
                static_cast<std::uint32_t>(counter_high), static_cast<std::uint32_t>(counter_high >> 32)};
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const std::uint64_t p0 = std::uint64_t{kPhiloxM0} * c[0];
    const std::uint64_t p1 = std::uint64_t{kPhiloxM1} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  return c;
}

/// What a stream of random numbers is for; part of the counter, so that two uses never share numbers.
enum class RandomUse : std::uint32_t {
  initialisation = 1,
  shuffle = 2,
  data = 3,
  user = 4,
  gradcheck = 5,
  dropout = 6
};

/// 32 random bits -> a float in [0, 1), all 24-bit multiples of 2^-24.
constexpr float uniform_float(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }
/// 64 random bits -> a double in [0, 1), all 53-bit multiples of 2^-53.
constexpr double uniform_double(std::uint32_t high, std::uint32_t low) {
  return static_cast<double>((static_cast<std::uint64_t>(high) << 21) ^ (low >> 11)) * 0x1p-53;
}

/// A sequence of random numbers: (seed, use, stream) name it, drawing advances a counter.
class Philox {
 public:
  explicit Philox(std::uint64_t seed, RandomUse use = RandomUse::user, std::uint32_t stream = 0)
      : key_(seed), high_((static_cast<std::uint64_t>(use) << 32) | stream) {}

  std::uint32_t next_u32() {
    if (used_ == 4) {
      block_ = philox4x32(key_, counter_++, high_);
      used_ = 0;
    }
    return block_[used_++];
  }
  std::uint64_t next_u64() {
    const std::uint64_t high = next_u32();
    return (high << 32) | next_u32();
  }
  /// [0, 1)
  double uniform() {
    const std::uint32_t high = next_u32();
    return uniform_double(high, next_u32());
  }
  /// Standard normal (Box-Muller, one of the pair per call, so that the n-th number does not depend on call grouping).
  double normal() {
    const double u = 1.0 - uniform();  // (0, 1]: the logarithm stays finite
    const double v = uniform();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
  }

 private:
  std::uint64_t key_;
  std::uint64_t high_;
  std::uint64_t counter_ = 0;
  PhiloxBlock block_{};
  std::size_t used_ = 4;
};

}  // namespace weft
