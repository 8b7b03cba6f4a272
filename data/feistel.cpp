#include "data/feistel.h"

#include <algorithm>

#include "tensor/philox.h"

namespace weft::data {

FeistelPermutation::FeistelPermutation(std::int64_t size, std::uint64_t seed, std::uint64_t stream)
    : size_(static_cast<std::uint64_t>(size)) {
  require<ShapeError>(size >= 1, "feistel", "the size must be at least 1 but is {}", size);
  constexpr int kLeastBits = 6;
  const int bits = std::max(kLeastBits, static_cast<int>(std::bit_width(size_ - 1)));
  right_bits_ = bits / 2;
  right_mask_ = (std::uint64_t{1} << right_bits_) - 1;
  left_mask_ = (std::uint64_t{1} << (bits - right_bits_)) - 1;
  constexpr auto kUse = static_cast<std::uint64_t>(RandomUse::shuffle) << 32;
  for (std::size_t round = 0; round < kRounds; round += 2) {
    const PhiloxBlock block = philox4x32(seed, stream, kUse | round);
    keys_[round] = static_cast<std::uint64_t>(block[0]) << 32 | block[1];
    keys_[round + 1] = static_cast<std::uint64_t>(block[2]) << 32 | block[3];
  }
  swap_ = size_ > 1 ? philox4x32(seed, stream, kUse | kRounds)[0] & 1 : 0;
}

}  // namespace weft::data
