#pragma once
// tensor/philox.h on the device: the same numbers for the same key and counter.
#include "kernels/common/device.h"
#include "tensor/philox.h"

namespace weft::kernels::WEFT_BACKEND {

/// Four independent 32-bit numbers for a 64-bit key and a 128-bit counter.
WEFT_DEVICE Vec<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_low, std::uint64_t counter_high) {
  const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
  const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
  std::uint32_t k0 = low(key), k1 = high(key);
  Vec<std::uint32_t, 4> c{{low(counter_low), high(counter_low), low(counter_high), high(counter_high)}};
  WEFT_UNROLL
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const std::uint64_t p0 = std::uint64_t{kPhiloxM0} * c[0], p1 = std::uint64_t{kPhiloxM1} * c[2];
    c = {{high(p1) ^ c[1] ^ k0, low(p1), high(p0) ^ c[3] ^ k1, low(p0)}};
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  return c;
}

}  // namespace weft::kernels::WEFT_BACKEND
