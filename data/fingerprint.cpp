#include "data/fingerprint.h"

#include <array>
#include <bit>
#include <cstddef>
#include <cstring>
#include <vector>

#include "tensor/parallel.h"

namespace weft::data {
namespace {

constexpr std::uint64_t kOdd1 = 0x9E3779B97F4A7C15u, kOdd2 = 0xC2B2AE3D27D4EB4Fu;

std::uint64_t hash_chunk(const std::byte* bytes, std::int64_t count) {
  // Four lanes, because one multiplication waits for the one before it in its lane.
  std::array<std::uint64_t, 4> lanes{1, 2, 3, 4};
  std::array<std::uint64_t, 4> words;
  const auto absorb = [&] {
    for (std::size_t i = 0; i < 4; ++i) lanes[i] = std::rotl(lanes[i] ^ (words[i] * kOdd2), 31) * kOdd1;
  };
  std::int64_t at = 0;
  for (; at + 32 <= count; at += 32) {
    std::memcpy(words.data(), bytes + at, 32);
    absorb();
  }
  if (at < count) {
    words = {};
    std::memcpy(words.data(), bytes + at, static_cast<std::size_t>(count - at));
    absorb();
  }
  std::uint64_t hash = static_cast<std::uint64_t>(count);
  for (const std::uint64_t lane : lanes) hash = hash_combine(hash, lane);
  return hash;
}

}  // namespace

std::uint64_t hash_combine(std::uint64_t before, std::uint64_t value) {
  std::uint64_t z = (std::rotl(before, 23) ^ value) * kOdd1 + kOdd2;
  z = (z ^ (z >> 32)) * kOdd2;
  return z ^ (z >> 29);
}

std::uint64_t hash_bytes(std::string_view bytes) {
  return hash_chunk(reinterpret_cast<const std::byte*>(bytes.data()), static_cast<std::int64_t>(bytes.size()));
}

std::uint64_t hash_tensor(const Tensor& x) {
  require<DeviceError>(x.device().kind == DeviceKind::cpu, "hash_tensor", "needs a tensor on the cpu but it is on {}",
                       x.device());
  require<ShapeError>(x.is_contiguous(), "hash_tensor", "needs a contiguous tensor but its strides are {}",
                      x.strides());
  std::uint64_t hash = hash_combine(static_cast<std::uint64_t>(x.dtype()), static_cast<std::uint64_t>(x.rank()));
  for (const std::int64_t extent : x.shape()) hash = hash_combine(hash, static_cast<std::uint64_t>(extent));

  constexpr std::int64_t kChunkBytes = 1 << 20;
  std::vector<std::uint64_t> chunks(static_cast<std::size_t>((x.nbytes() + kChunkBytes - 1) / kChunkBytes));
  parallel_ranges(x.nbytes(), kChunkBytes, [&](std::int64_t begin, std::int64_t end) {
    chunks[static_cast<std::size_t>(begin / kChunkBytes)] = hash_chunk(x.raw_data() + begin, end - begin);
  });
  for (const std::uint64_t chunk : chunks) hash = hash_combine(hash, chunk);
  return hash;
}

}  // namespace weft::data
