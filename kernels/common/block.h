#pragma once
// Sums and maxima over the lanes of a warp and the threads of a block, always in the same order.
#include "kernels/common/device.h"

namespace weft::kernels::WEFT_BACKEND {

/// Position within the warp and number of the warp, for one-dimensional blocks.
WEFT_DEVICE int lane_index() { return static_cast<int>(threadIdx.x) % kWarpSize; }
WEFT_DEVICE int warp_index() { return static_cast<int>(threadIdx.x) / kWarpSize; }

/// Sum over groups of `kLanes` neighbouring lanes (a power of two up to 32); every lane gets its group's. All 32 lanes of
/// the warp call it.
template <int kLanes = kWarpSize, class T>
WEFT_DEVICE T warp_sum(T value WEFT_SITE) {
  WEFT_UNROLL
  for (int step = kLanes / 2; step > 0; step /= 2)
    value += __shfl_xor_sync(kFullWarp, value, step, kWarpSize WEFT_PASS_SITE);
  return value;
}

/// Largest over groups of `kLanes` neighbouring lanes; NaN is ignored unless all are.
template <int kLanes = kWarpSize, class T>
WEFT_DEVICE T warp_max(T value WEFT_SITE) {
  WEFT_UNROLL
  for (int step = kLanes / 2; step > 0; step /= 2)
    value = larger(value, __shfl_xor_sync(kFullWarp, value, step, kWarpSize WEFT_PASS_SITE));
  return value;
}

/// Sum over a one-dimensional block of kThreads; every thread gets it. `scratch` holds kThreads / 32 elements; it may be used again
/// after the next __syncthreads().
template <int kThreads, class T>
WEFT_DEVICE T block_sum(T value, Shared<T> scratch WEFT_SITE) {
  static_assert(kThreads % kWarpSize == 0 && kThreads <= 1024);
  value = warp_sum(value WEFT_PASS_SITE);
  if constexpr (kThreads == kWarpSize) {
    return value;
  } else {
    if (lane_index() == 0) scratch[warp_index()] = value;
#if defined(__CUDACC__)
    __syncthreads();
#else
    __syncthreads(site);
#endif
    T total = scratch[0];
    WEFT_UNROLL
    for (int warp = 1; warp < kThreads / kWarpSize; ++warp) total += scratch[warp];
    return total;
  }
}

/// The sums of N values over groups of kThreads threads, through one barrier: a part of a warp, a warp, or the whole
/// one-dimensional block. `scratch` holds N * kThreads / 32 elements (unused up to one warp) and may be used again as
/// above.
template <int kThreads, int N, class T>
WEFT_DEVICE void block_sums(T (&values)[N], Shared<T> scratch WEFT_SITE) {
  static_assert(kThreads <= kWarpSize || (kThreads % kWarpSize == 0 && kThreads <= 1024));
  constexpr int kLanes = kThreads < kWarpSize ? kThreads : kWarpSize;
  WEFT_UNROLL
  for (int n = 0; n < N; ++n) values[n] = warp_sum<kLanes>(values[n] WEFT_PASS_SITE);
  if constexpr (kThreads > kWarpSize) {
    constexpr int kWarps = kThreads / kWarpSize;
    if (lane_index() == 0) {
      WEFT_UNROLL
      for (int n = 0; n < N; ++n) scratch[n * kWarps + warp_index()] = values[n];
    }
#if defined(__CUDACC__)
    __syncthreads();
#else
    __syncthreads(site);
#endif
    WEFT_UNROLL
    for (int n = 0; n < N; ++n) {
      if constexpr (kWarps <= 8) {
        values[n] = scratch[n * kWarps];
        WEFT_UNROLL
        for (int warp = 1; warp < kWarps; ++warp) values[n] += scratch[n * kWarps + warp];
      } else {  // so many loads would take registers from the caller
        values[n] = warp_sum<kWarps>(T(scratch[n * kWarps + lane_index() % kWarps]) WEFT_PASS_SITE);
      }
    }
  }
}

}  // namespace weft::kernels::WEFT_BACKEND
