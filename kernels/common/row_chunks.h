#pragma once
// How the cpu kernels of layer_norm and rms_norm cut their rows, and how they add the chunks' partial sums.
#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>

#include "kernels/common/contract.h"
#include "kernels/common/simd.h"
#include "tensor/parallel.h"

namespace weft::kernels {

inline constexpr std::int64_t kChunkElems = 16384;  // work of one chunk: a few microseconds
inline constexpr std::int64_t kMaxBlockChannels =
    16384;  // wider rows go one at a time, so that a block stays in the L2
inline constexpr int kBlockRows = 4;

inline std::int64_t forward_rows_per_chunk(std::int64_t channels) {
  return std::max<std::int64_t>(1, kChunkElems / channels);
}

/// Each chunk leaves a row or two of partial sums: at most 64 chunks, so that they are few beside the data, but at most 512
/// rows, so that a sum in f32 does not get too long.
inline std::int64_t backward_rows_per_chunk(std::int64_t rows, std::int64_t channels) {
  return std::max(forward_rows_per_chunk(channels), std::min<std::int64_t>(512, (rows + 63) / 64));
}

/// Calls body(std::integral_constant<int, N>, row) for blocks of N rows.
template <class F>
void for_each_block(std::int64_t begin, std::int64_t end, std::int64_t channels, F&& body) {
  std::int64_t row = begin;
  if (channels <= kMaxBlockChannels)
    for (; row + kBlockRows <= end; row += kBlockRows) body(std::integral_constant<int, kBlockRows>{}, row);
  for (; row < end; ++row) body(std::integral_constant<int, 1>{}, row);
}

/// out (=|+=) the sum over the chunks of their row of partial sums, `step` apart, in chunk order, for channels
/// [begin, end).
template <class S>
void sum_partials(const compute_t<S>* partials, std::int64_t chunks, std::int64_t step, std::int64_t begin,
                  std::int64_t end, S* out, Accumulate mode) {
  using C = compute_t<S>;
  if (out == nullptr) return;
  simd::for_each_vector<C>(end - begin, [&](std::int64_t offset, auto width) {
    const std::int64_t i = begin + offset;
    simd::Vec<C> sum{};
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk)
      sum += simd::load_width<C>(partials + chunk * step + i, width);
    if (mode == Accumulate::add) sum += simd::load_width<S>(out + i, width);
    simd::store_width<S>(out + i, sum, width);
  });
}

/// The sums of N rows per chunk, one after the other, into N outputs that may be null.
template <class S, std::size_t N>
void sum_chunks(const compute_t<S>* partials, std::int64_t chunks, std::int64_t channels, std::array<S*, N> out,
                std::array<Accumulate, N> mode) {
  if (std::all_of(out.begin(), out.end(), [](const S* some) { return some == nullptr; })) return;
  const std::int64_t columns = std::max<std::int64_t>(64, kChunkElems / (chunks + 1) / 64 * 64);
  const auto step = static_cast<std::int64_t>(N) * channels;
  parallel_ranges(channels, columns, [&](std::int64_t begin, std::int64_t end) {
    for (std::size_t n = 0; n < N; ++n) {
      // null without rows: nothing to read
      const compute_t<S>* const from =
          partials != nullptr ? partials + static_cast<std::int64_t>(n) * channels : nullptr;
      sum_partials<S>(from, chunks, step, begin, end, out[n], mode[n]);
    }
  });
}

}  // namespace weft::kernels
