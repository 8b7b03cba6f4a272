#pragma once
// A pseudo-random order of [0, size) that is computed, not stored: any place of any epoch's shuffle in O(1).
#include <array>
#include <bit>
#include <cstdint>

#include "tensor/error.h"

namespace weft::data {

/// A bijection on [0, size) named by (seed, stream): i -> the sample at place i; inverse: the place of a sample.
///   A Feistel network permutes the next power of two (64 at least): halves l and r of the index's bits, in turn l ^= F(r),
///   r ^= F(l), with round keys from Philox. What falls beyond `size` is sent through again until it lands inside (cycle
///   walking: fewer than 2 trips on average, 64/size for small ones), which keeps it a bijection.
///   Every round is an even permutation, so that on a whole power of two half of all orders could never come up: the images
///   0 and 1 therefore change places for every other key.
/// Errors:   ShapeError for size < 1 or an index outside [0, size).
/// Cost:     O(1) memory; 8 rounds per trip: enough for all orders of few elements to be equally likely on a domain of 64,
///           not on one of 16 or fewer (tests/feistel_test.cpp counts them).
/// Source:   Luby, Rackoff 1988, "How to construct pseudorandom permutations"; Black, Rogaway 2002, "Ciphers with arbitrary
///           finite domains", section "Cycle-walking".
class FeistelPermutation {
 public:
  FeistelPermutation(std::int64_t size, std::uint64_t seed, std::uint64_t stream);

  std::int64_t size() const { return static_cast<std::int64_t>(size_); }

  std::int64_t operator()(std::int64_t index) const {
    check(index);
    auto value = static_cast<std::uint64_t>(index);
    do value = encrypt(value);
    while (value >= size_);
    return static_cast<std::int64_t>(swap(value));
  }
  std::int64_t inverse(std::int64_t index) const {
    check(index);
    std::uint64_t value = swap(static_cast<std::uint64_t>(index));
    do value = decrypt(value);
    while (value >= size_);
    return static_cast<std::int64_t>(value);
  }

 private:
  static constexpr std::size_t kRounds = 8;  // even: the halves take turns

  void check(std::int64_t index) const {
    require<ShapeError>(index >= 0 && static_cast<std::uint64_t>(index) < size_, "feistel",
                        "the index must be in [0, {}) but is {}", size_, index);
  }
  std::uint64_t swap(std::uint64_t value) const { return value < 2 ? value ^ swap_ : value; }
  /// A well-mixed function of a half and a round key; it need not be invertible.
  static std::uint64_t mix(std::uint64_t half, std::uint64_t key) {
    std::uint64_t z = (half ^ key) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 32)) * 0xC2B2AE3D27D4EB4Fu;
    return z ^ (z >> 32);
  }
  std::uint64_t encrypt(std::uint64_t value) const {
    std::uint64_t left = value >> right_bits_, right = value & right_mask_;
    for (std::size_t round = 0; round < kRounds; round += 2) {
      left ^= mix(right, keys_[round]) & left_mask_;
      right ^= mix(left, keys_[round + 1]) & right_mask_;
    }
    return left << right_bits_ | right;
  }
  std::uint64_t decrypt(std::uint64_t value) const {
    std::uint64_t left = value >> right_bits_, right = value & right_mask_;
    for (std::size_t round = kRounds; round > 0; round -= 2) {
      right ^= mix(left, keys_[round - 1]) & right_mask_;
      left ^= mix(right, keys_[round - 2]) & left_mask_;
    }
    return left << right_bits_ | right;
  }

  std::uint64_t size_;
  int right_bits_;
  std::uint64_t left_mask_, right_mask_;
  std::uint64_t swap_;  // 1 when 0 and 1 change places
  std::array<std::uint64_t, kRounds> keys_;
};

}  // namespace weft::data
