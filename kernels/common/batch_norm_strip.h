#pragma once
// How the batch_norm kernels cut an [R, C] matrix: a block takes a strip of columns, 64 bytes wide, and keeps hundreds
// of its rows in registers.
#include "kernels/batch_norm.h"
#include "kernels/common/block.h"
#include "kernels/common/launch.h"
#include "kernels/common/wide_vector.h"

namespace weft::kernels::WEFT_BACKEND {

/// Vectors of four elements, two of f64: with the eight halves of 16 bytes the columns' sums would not leave registers
/// for the rows.
template <class T>
inline constexpr int kStripWidth = sizeof(T) == 8 ? 2 : 4;

/// 64 bytes side by side; with single elements 16 columns (8 of f64).
template <class T, int kWidth, int kThreads>
struct Strip {
  using C = compute_t<T>;
  static_assert(kWidth == 1 || kWidth == kStripWidth<T>);
  static constexpr int kLanes = kWidth > 1 ? 64 / static_cast<int>(sizeof(T) * kWidth) : sizeof(T) == 8 ? 8 : 16;
  static constexpr int kColumns = kLanes * kWidth;
  static constexpr int kRowLanes = kThreads / kLanes;
  static constexpr int kWarps = kThreads / kWarpSize;
  /// Rows per thread that make up kBlockRows<kRows>, the same for every type and width, in four bytes and more per
  /// register.
  template <int kRows>
  static constexpr int kPerThread = kRows*(kLanes / 4);
  template <int kRows>
  static constexpr int kBlockRows = kThreads / 4 * kRows;
  template <int kCount>
  static constexpr int kScratch = kCount* kWarps* kColumns;

  static WEFT_DEVICE int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  static WEFT_DEVICE int row_lane() { return static_cast<int>(threadIdx.x) / kLanes; }

  /// The sums over all threads of the block that hold the same columns, of kCount numbers per column; through one
  /// barrier. `scratch` holds kScratch<kCount> elements.
  template <int kCount>
  static WEFT_DEVICE void sums(Vec<C, kWidth> (&values)[kCount], Shared<C> scratch) {
    WEFT_UNROLL
    for (int n = 0; n < kCount; ++n) {
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) {
        WEFT_UNROLL
        for (int step = kWarpSize / 2; step >= kLanes; step /= 2)
          values[n][i] += __shfl_xor_sync(kFullWarp, values[n][i], step);
      }
    }
    constexpr int kP = kPiece<C, kWidth>;
    const auto at = [](int n, int warp) { return (n * kWarps + warp) * kColumns + lane() * kP; };
    if (lane_index() < kLanes) {
      WEFT_UNROLL
      for (int n = 0; n < kCount; ++n) store_shared_wide<C>(scratch, at(n, warp_index()), kLanes * kP, values[n]);
    }
    __syncthreads();
    WEFT_UNROLL
    for (int n = 0; n < kCount; ++n) {
      values[n] = {};
      WEFT_NO_UNROLL
      for (int some = 0; some < kWarps; some += 4) {  // all loads at once would take the rows' registers
        WEFT_UNROLL
        for (int warp = some; warp < some + 4; ++warp) {
          const Vec<C, kWidth> of_warp = load_shared_wide<kWidth, C>(scratch, at(n, warp), kLanes * kP);
          WEFT_UNROLL
          for (int i = 0; i < kWidth; ++i) values[n][i] += of_warp[i];
        }
      }
    }
  }
};

/// gamma[c, c + kWidth) in compute type, or `value` where there is none.
template <class T, int kWidth>
WEFT_DEVICE Vec<compute_t<T>, kWidth> load_or(const void* from, std::int64_t c, compute_t<T> value) {
  if (from != nullptr) return widen(load<kWidth, Cache::readonly>(static_cast<const T*>(from) + c));
  Vec<compute_t<T>, kWidth> all;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) all[i] = value;
  return all;
}

/// The workspace: three numbers per column for the last kernel, then three for every chunk of rows.
template <class C>
WEFT_DEVICE C* chunk_numbers(void* partials, std::int64_t channels, std::int64_t chunk, int which) {
  return static_cast<C*>(partials) + ((chunk + 1) * 3 + which) * channels;
}
template <class C>
WEFT_DEVICE C* column_factors(void* partials, std::int64_t channels, int which) {
  return static_cast<C*>(partials) + which * channels;
}

inline constexpr std::int64_t kChunkRows = kBatchNormChunkRows;
/// Threads of a block that works on kChunkRows rows, and rows per thread by Strip's count. Single elements take a whole
/// register each, and so more threads.
template <int kWidth>
inline constexpr int kChunkThreads = kWidth == 1 ? 512 : 256;
template <int kWidth>
inline constexpr int kChunkThreadRows = static_cast<int>(kChunkRows) / (kChunkThreads<kWidth> / 4);

// The kernels that combine the chunks: 32 columns per block, a warp for each of 16 parts of the chunks.
inline constexpr int kMergeColumns = kWarpSize;
inline constexpr int kMergeGroups = 16;

/// How the last kernel, which goes over the whole matrix, lays its blocks: `lanes` vectors side by side, a power of
/// two, and 256 / lanes rows at a time.
struct Sheet {
  static constexpr int kThreads = 256;
  /// Of one thread, all on their way at once.
  template <int kWidth>
  static constexpr int kRowsPerThread = kWidth == 8 ? 4 : 8;
  template <int kWidth>
  Sheet(std::integral_constant<int, kWidth>, std::int64_t rows, std::int64_t channels) {
    while (lanes < kWarpSize && lanes * kWidth < channels) lanes *= 2;
    across = ceil_div<std::int64_t>(channels, lanes * kWidth);
    down = ceil_div<std::int64_t>(rows, kThreads / lanes * kRowsPerThread<kWidth>);
  }
  int lanes = 1;
  std::int64_t across, down;  // blocks
};

/// Calls f(std::type_identity<T>{}, strip width, sheet width): single elements, or vectors of kStripWidth and of 16
/// bytes.
template <class F>
void dispatch_widths(Dtype dtype, bool in_vectors, F&& f) {
  dispatch_float(dtype, "batch_norm", [&]<class T>(std::type_identity<T> type) {
    if (in_vectors)
      f(type, std::integral_constant<int, kStripWidth<T>>{}, std::integral_constant<int, kVectorWidth<T>>{});
    else
      f(type, std::integral_constant<int, 1>{}, std::integral_constant<int, 1>{});
  });
}

}  // namespace weft::kernels::WEFT_BACKEND
