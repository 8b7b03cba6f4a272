// CPU kernels. A window's places are neighbours in memory: a row of the result is zeros, then one copy.
#include "kernels/causal_window.h"

#include <algorithm>
#include <cstring>

#include "kernels/common/simd.h"
#include "tensor/parallel.h"

namespace weft::kernels {
namespace {

constexpr std::int64_t kChunkElems = 16384;  // work of one chunk, a few microseconds

std::int64_t places_per_chunk(std::int64_t channels, std::int64_t width) {
  return std::max<std::int64_t>(1, kChunkElems / std::max<std::int64_t>(channels * width, 1));
}

// Calls f(n, begin, end) for places [first, last) with the bounds of each place's segment.
template <class F>
void for_each_place(const std::int32_t* cu_seqlens, const std::int32_t* ids, std::int64_t first, std::int64_t last,
                    F&& f) {
  for (std::int64_t n = first; n < last;) {
    const std::int64_t begin = cu_seqlens[ids[n]], end = cu_seqlens[ids[n] + 1];
    for (const std::int64_t stop = std::min(end, last); n < stop; ++n) f(n, begin, end);
  }
}

}  // namespace

void causal_window_forward(Device device, const CausalWindowForward& args) {
  if (WEFT_ON_GPU("causal_window_forward", causal_window_forward, device, args)) return;
  const auto bytes = static_cast<std::size_t>(args.channels * element_bytes(args.dtype));  // of a place
  if (bytes == 0) return;
  const auto* const in = static_cast<const std::byte*>(args.in);
  auto* const out = static_cast<std::byte*>(args.out);
  parallel_ranges(args.places, places_per_chunk(args.channels, args.width), [&](std::int64_t first, std::int64_t last) {
    for_each_place(args.cu_seqlens, args.ids, first, last, [&](std::int64_t n, std::int64_t begin, std::int64_t) {
      const auto seen = static_cast<std::size_t>(std::min(args.width, n - begin + 1));  // places of the window
      const std::size_t row = static_cast<std::size_t>(args.width) * bytes, zeros = row - seen * bytes;
      std::byte* const to = out + static_cast<std::size_t>(n) * row;
      std::memset(to, 0, zeros);
      std::memcpy(to + zeros, in + (static_cast<std::size_t>(n) + 1 - seen) * bytes, seen * bytes);
    });
  });
}

namespace {

template <class S>
void add_windows(const CausalWindowBackward& args) {
  using C = compute_t<S>;
  const std::int64_t channels = args.channels, row = args.width * channels, step = row - channels;
  const S* const dy = static_cast<const S*>(args.dy);
  S* const dx = static_cast<S*>(args.dx);
  const bool adds = args.mode == Accumulate::add;
  parallel_ranges(args.places, places_per_chunk(channels, args.width), [&](std::int64_t first, std::int64_t last) {
    for_each_place(args.cu_seqlens, args.ids, first, last, [&](std::int64_t m, std::int64_t, std::int64_t end) {
      const std::int64_t seen = std::min(args.width, end - m);  // places whose window holds m
      const S* const from = dy + m * row + step;
      simd::for_each_vector<C>(channels, [&](std::int64_t i, auto lanes) {
        auto total = simd::load_width<S>(from + i, lanes);
        for (std::int64_t j = 1; j < seen; ++j) total += simd::load_width<S>(from + j * step + i, lanes);
        S* const to = dx + m * channels + i;
        if (adds) total = simd::load_width<S>(to, lanes) + total;
        simd::store_width<S>(to, total, lanes);
      });
    });
  });
}

}  // namespace

void causal_window_backward(Device device, const CausalWindowBackward& args) {
  if (WEFT_ON_GPU("causal_window_backward", causal_window_backward, device, args)) return;
  if (args.channels == 0) return;
  dispatch_float(args.dtype, "causal_window", [&]<class S>(std::type_identity<S>) { add_windows<S>(args); });
}

}  // namespace weft::kernels
