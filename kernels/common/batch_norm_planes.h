#pragma once
// What the kernels of batch_norm_nchw share: a block of 256 threads holds a chunk of a channel in its registers.
#include "kernels/batch_norm.h"
#include "kernels/common/block.h"
#include "kernels/common/launch.h"

namespace weft::kernels::WEFT_BACKEND {

inline constexpr int kPlaneThreads = 256;
/// Vectors of a chunk per thread.
template <int kWidth>
inline constexpr int kPlaneVectors = static_cast<int>(BatchNormPlanes::kElems) / (kPlaneThreads * kWidth);

/// The chunk of this block. Blocks follow the order of memory: sample by sample, channel by channel, piece by piece.
struct PlaneChunk {
  std::int64_t channel, begin, stride;  // stride: from a sample's run to the next one's
  std::int64_t index;                   // in its channel
  int length, count;                    // of a run, of all of them
  WEFT_DEVICE explicit PlaneChunk(const BatchNormPlanes& planes) : stride(planes.channels * planes.spatial) {
    const std::int64_t block = blockIdx.x, plane = block / planes.pieces, piece = block % planes.pieces;
    const std::int64_t sample = plane / planes.channels * planes.samples, at = piece * BatchNormPlanes::kElems;
    channel = plane % planes.channels;
    index = plane / planes.channels * planes.pieces + piece;
    begin = (sample * planes.channels + channel) * planes.spatial + at;
    length = static_cast<int>(smaller(planes.spatial - at, BatchNormPlanes::kElems));
    count = static_cast<int>(smaller(planes.batch - sample, planes.samples)) * length;
  }
  template <int kWidth>
  static WEFT_DEVICE int element(int v) {
    return (v * kPlaneThreads + static_cast<int>(threadIdx.x)) * kWidth;
  }
  /// Where element i of the chunk lies; vectors do not straddle runs.
  WEFT_DEVICE std::int64_t at(int i) const {
    const unsigned run = static_cast<unsigned>(i) / static_cast<unsigned>(length);
    return begin + run * stride + (i - static_cast<int>(run) * length);
  }
};

/// Elements of chunk k of a channel.
WEFT_DEVICE std::int64_t plane_chunk_count(const BatchNormPlanes& planes, std::int64_t k) {
  const std::int64_t sample = k / planes.pieces * planes.samples, at = k % planes.pieces * BatchNormPlanes::kElems;
  return smaller(planes.batch - sample, planes.samples) * smaller(planes.spatial - at, BatchNormPlanes::kElems);
}

/// The workspace: three numbers for every channel, then three for every chunk, each kind side by side.
template <class C>
WEFT_DEVICE C* plane_factors(void* partials, const BatchNormPlanes& planes, int which) {
  return static_cast<C*>(partials) + which * planes.channels;
}
template <class C>
WEFT_DEVICE C* plane_numbers(void* partials, const BatchNormPlanes& planes, int which, std::int64_t channel) {
  return static_cast<C*>(partials) + 3 * planes.channels + (which * planes.channels + channel) * planes.chunks;
}

template <class T>
WEFT_DEVICE compute_t<T> channel_or(const void* from, std::int64_t channel, compute_t<T> value) {
  return from != nullptr ? widen(load_one<Cache::readonly>(static_cast<const T*>(from) + channel)) : value;
}

/// Calls f(std::type_identity<T>{}, width): 16 bytes where every plane starts on 16 bytes, else one element.
template <class F>
void dispatch_planes(Dtype dtype, bool in_vectors, F&& f) {
  dispatch_float(dtype, "batch_norm", [&]<class T>(std::type_identity<T> type) {
    if (in_vectors)
      f(type, std::integral_constant<int, kVectorWidth<T>>{});
    else
      f(type, std::integral_constant<int, 1>{});
  });
}

}  // namespace weft::kernels::WEFT_BACKEND
