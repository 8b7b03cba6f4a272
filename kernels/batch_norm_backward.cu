// BatchNorm backward: three sums per column, then dx. Strips of columns with their rows in registers, as in forward.
//   resident  up to 1024 rows (512 where they do not start on 16 bytes): one block has whole columns of x and dy, and
//             goes on to write dx: 3·R·C, the floor.
//   streamed  any size: blocks for chunks of 512 rows leave the sums of each, a second kernel adds these in order, a
//             third reads x and dy again, from the end, which the L2 still has: 5·R·C, the floor where the columns do
//             not stay on chip. In evaluation dx does not need the sums: the first kernel writes it, 3·R·C (2·R·C when
//             only dx is wanted).
//   Shared memory: the warps' sums, at most 6 KiB. Vectors (of 16 bytes in the third kernel) where all rows start on 16
//   bytes, else one element at a time.
#include "kernels/common/batch_norm_strip.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

/// dx = scale dy + slope (x - mean) + offset; in evaluation scale dy.
template <class C, int kWidth>
struct Columns {
  Vec<C, kWidth> scale, slope, offset;
};

/// to[0, kWidth) (=|+=) sums.
template <class T, int kWidth>
WEFT_DEVICE void write_gradient(void* to, std::int64_t c, Vec<compute_t<T>, kWidth> sums, Accumulate mode) {
  if (to == nullptr) return;
  T* const out = static_cast<T*>(to) + c;
  if (mode == Accumulate::add) {
    const Vec<compute_t<T>, kWidth> old = widen(load_wide<kWidth>(out));
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) sums[i] += old[i];
  }
  store_wide(out, narrow<T>(sums));
}

/// From the sums of dy, of dy (x - mean), and of x - mean of kWidth columns; the last finds what the saved mean lost by
/// rounding. `owner`: the one thread that writes these columns' results.
template <class T, int kWidth, class C = compute_t<T>>
WEFT_DEVICE Columns<C, kWidth> finish_columns(const BatchNormBackward& args, std::int64_t c,
                                              const Vec<C, kWidth> (&sums)[3], bool owner) {
  const Vec<C, kWidth> rstd = load_wide<kWidth>(static_cast<const C*>(args.rstd) + c);
  const Vec<C, kWidth> gamma = load_or<T, kWidth>(args.gamma, c, C(1));
  const C inverse = C(1) / static_cast<C>(args.rows);
  Columns<C, kWidth> of;
  Vec<C, kWidth> dgamma;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) {
    const C rest = args.mode == BatchNormMode::train ? sums[2][i] * inverse : C(0);
    dgamma[i] = (sums[1][i] - rest * sums[0][i]) * rstd[i];
    of.scale[i] = rstd[i] * gamma[i];
    of.slope[i] = -of.scale[i] * rstd[i] * dgamma[i] * inverse;
    of.offset[i] = -of.scale[i] * sums[0][i] * inverse - of.slope[i] * rest;
  }
  if (owner) {
    write_gradient<T>(args.dgamma, c, dgamma, args.dgamma_mode);
    write_gradient<T>(args.dbeta, c, sums[0], args.dbeta_mode);
  }
  return of;
}

/// kWhole: the block has all rows of its columns. Else it has a chunk of them, and leaves its sums.
template <class T, int kWidth, int kThreads, int kRows, bool kWhole>
WEFT_KERNEL __launch_bounds__(kThreads, 512 / kThreads)
    columns_kernel(const BatchNormBackward args, std::int64_t strips) {
  using C = compute_t<T>;
  using S = Strip<T, kWidth, kThreads>;
  constexpr int kPerThread = S::template kPerThread<kRows>;
  constexpr std::int64_t kBlockRows = S::template kBlockRows<kRows>;
  WEFT_SHARED(C, scratch, S::template kScratch<3>);

  const std::int64_t channels = args.channels;
  const std::int64_t chunk = kWhole ? 0 : blockIdx.x / strips;
  const std::int64_t begin = chunk * kBlockRows;
  const std::int64_t c = (kWhole ? blockIdx.x : blockIdx.x % strips) * S::kColumns + S::lane() * kWidth;
  const bool train = args.mode == BatchNormMode::train;
  const bool sums_wanted = train || args.dgamma != nullptr || args.dbeta != nullptr;
  // A thread past the last column has no rows, but takes part in its warp's shuffles.
  const int rows = c < channels ? static_cast<int>(smaller<std::int64_t>(args.rows - begin, kBlockRows)) : 0;
  const auto row = [](int k) { return k * S::kRowLanes + S::row_lane(); };
  const std::int64_t start = (begin + S::row_lane()) * channels + c, step = S::kRowLanes * channels;

  Vec<T, kWidth> x[kPerThread] = {}, dy[kPerThread] = {};
  std::int64_t at = start;
  WEFT_UNROLL
  for (int k = 0; k < kPerThread; ++k, at += step) {
    if (row(k) >= rows) continue;
    if (sums_wanted) x[k] = load<kWidth>(static_cast<const T*>(args.x) + at);
    dy[k] = load<kWidth>(static_cast<const T*>(args.dy) + at);
  }

  Vec<C, kWidth> mean{}, sums[3] = {};
  if (sums_wanted) {
    if (c < channels) mean = load_wide<kWidth>(static_cast<const C*>(args.mean) + c);
    WEFT_UNROLL
    for (int k = 0; k < kPerThread; ++k) {
      if (row(k) >= rows) continue;  // a row past the end must not enter the sums
      const Vec<C, kWidth> value = widen(x[k]), gradient = widen(dy[k]);
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) {
        const C difference = value[i] - mean[i];
        sums[0][i] += gradient[i];
        sums[1][i] = fused(gradient[i], difference, sums[1][i]);
        sums[2][i] += difference;
      }
    }
    S::sums(sums, scratch);
  }
  if (c >= channels) return;

  const bool owner = S::row_lane() == 0;
  if constexpr (!kWhole) {
    if (sums_wanted && owner) {
      WEFT_UNROLL
      for (int n = 0; n < 3; ++n) store_wide(chunk_numbers<C>(args.partials, channels, chunk, n) + c, sums[n]);
    }
    if (train) return;
  }
  Columns<C, kWidth> of{};
  if constexpr (kWhole) {
    of = finish_columns<T>(args, c, sums, owner);
  } else {
    of.scale = load_wide<kWidth>(static_cast<const C*>(args.rstd) + c);
    const Vec<C, kWidth> gamma = load_or<T, kWidth>(args.gamma, c, C(1));
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) of.scale[i] *= gamma[i];
  }
  if (args.dx == nullptr) return;
  at = start;
  WEFT_UNROLL
  for (int k = 0; k < kPerThread; ++k, at += step) {
    if (row(k) >= rows) continue;
    Vec<C, kWidth> dx = widen(dy[k]);
    const Vec<C, kWidth> value = widen(x[k]);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i)
      dx[i] =
          train ? fused(of.scale[i], dx[i], fused(of.slope[i], value[i] - mean[i], of.offset[i])) : of.scale[i] * dx[i];
    store(static_cast<T*>(args.dx) + at, narrow<T>(dx));
  }
}

/// Each warp adds its part of the chunks, the first one then the parts; in order. Leaves scale, slope and offset.
template <class T>
WEFT_KERNEL __launch_bounds__(kMergeColumns* kMergeGroups)
    merge_kernel(const BatchNormBackward args, std::int64_t chunks) {
  using C = compute_t<T>;
  constexpr int kStride = kMergeGroups * kMergeColumns;
  WEFT_SHARED(C, sums_of, 3 * kStride);
  const std::int64_t channels = args.channels;
  const int group = warp_index();
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kMergeColumns + lane_index();
  const std::int64_t per_group = ceil_div<std::int64_t>(chunks, kMergeGroups);
  const std::int64_t begin = group * per_group, end = smaller(chunks, begin + per_group);
  Vec<C, 1> sums[3] = {};
  if (c < channels) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      WEFT_UNROLL
      for (int n = 0; n < 3; ++n) sums[n][0] += load_one(chunk_numbers<C>(args.partials, channels, chunk, n) + c);
    }
  }
  WEFT_UNROLL
  for (int n = 0; n < 3; ++n) sums_of[n * kStride + group * kMergeColumns + lane_index()] = sums[n][0];
  __syncthreads();
  if (group > 0 || c >= channels) return;
  WEFT_UNROLL
  for (int n = 0; n < 3; ++n) {
    WEFT_NO_UNROLL
    for (int g = 1; g < kMergeGroups; ++g) sums[n][0] += sums_of[n * kStride + g * kMergeColumns + lane_index()];
  }
  const Columns<C, 1> of = finish_columns<T>(args, c, sums, true);
  store_one(column_factors<C>(args.partials, channels, 0) + c, of.scale[0]);
  store_one(column_factors<C>(args.partials, channels, 1) + c, of.slope[0]);
  store_one(column_factors<C>(args.partials, channels, 2) + c, of.offset[0]);
}

/// dx in training, over a Sheet.
template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(Sheet::kThreads) input_gradient_kernel(const BatchNormBackward args, Sheet sheet) {
  using C = compute_t<T>;
  constexpr int kInFlight = Sheet::kRowsPerThread<kWidth> / 2;  // of x and of dy
  const std::int64_t channels = args.channels;
  const int lane = static_cast<int>(threadIdx.x) & (sheet.lanes - 1);
  const int row_lane = static_cast<int>(threadIdx.x) / sheet.lanes, row_lanes = Sheet::kThreads / sheet.lanes;
  const std::int64_t c = (blockIdx.x % sheet.across * sheet.lanes + lane) * kWidth;
  if (c >= channels) return;
  const std::int64_t down = sheet.down - 1 - blockIdx.x / sheet.across;  // from the end
  const std::int64_t begin = down * row_lanes * 2 * kInFlight + row_lane;

  const Vec<C, kWidth> mean = load_wide<kWidth>(static_cast<const C*>(args.mean) + c);
  const Vec<C, kWidth> scale = load_wide<kWidth>(column_factors<C>(args.partials, channels, 0) + c);
  const Vec<C, kWidth> slope = load_wide<kWidth>(column_factors<C>(args.partials, channels, 1) + c);
  const Vec<C, kWidth> offset = load_wide<kWidth>(column_factors<C>(args.partials, channels, 2) + c);
  WEFT_NO_UNROLL
  for (int half = 0; half < 2; ++half) {
    const std::int64_t first = begin + half * kInFlight * row_lanes;
    Vec<T, kWidth> x[kInFlight] = {}, dy[kInFlight] = {};
    WEFT_UNROLL
    for (int k = 0; k < kInFlight; ++k) {
      const std::int64_t row = first + k * row_lanes;
      if (row >= args.rows) continue;
      x[k] = load<kWidth, Cache::streaming>(static_cast<const T*>(args.x) + row * channels + c);
      dy[k] = load<kWidth, Cache::streaming>(static_cast<const T*>(args.dy) + row * channels + c);
    }
    WEFT_UNROLL
    for (int k = 0; k < kInFlight; ++k) {
      const std::int64_t row = first + k * row_lanes;
      if (row >= args.rows) continue;
      Vec<C, kWidth> dx = widen(dy[k]);
      const Vec<C, kWidth> value = widen(x[k]);
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) dx[i] = fused(scale[i], dx[i], fused(slope[i], value[i] - mean[i], offset[i]));
      store(static_cast<T*>(args.dx) + row * channels + c, narrow<T>(dx));
    }
  }
}

// --- choosing --------------------------------------------------------------------------------------------------------

/// Whether every row of x, dy and dx, and every vector over the columns, can be cut into vectors of 16 bytes.
bool in_vectors(const BatchNormBackward& args) {
  if (args.channels * element_bytes(args.dtype) % 16 != 0) return false;
  for (const void* address : {args.x, args.gamma, args.dy, args.mean, args.rstd, static_cast<const void*>(args.dx),
                              static_cast<const void*>(args.dgamma), static_cast<const void*>(args.dbeta)})
    if (!is_aligned(address, 16)) return false;
  return true;
}

bool nothing_wanted(const BatchNormBackward& args) {
  return args.dx == nullptr && args.dgamma == nullptr && args.dbeta == nullptr;
}

struct Sizes {
  template <class T>
  Sizes(std::type_identity<T>, const BatchNormBackward& args)
      : vector(args.channels * static_cast<std::int64_t>(sizeof(T))),
        matrix(args.rows * vector),
        statistics(args.channels * static_cast<std::int64_t>(sizeof(compute_t<T>))),
        chunks(ceil_div(args.rows, kChunkRows)),
        partials(3 * (chunks + 1) * statistics) {}
  std::int64_t vector, matrix, statistics, chunks, partials;  // in bytes, but for chunks
};

template <class T, int kWidth, int kThreads, int kRows, bool kWhole>
void start_columns(const Stream& stream, const BatchNormBackward& args) {
  const Sizes bytes(std::type_identity<T>{}, args);
  const std::int64_t strips = ceil_div<std::int64_t>(args.channels, Strip<T, kWidth, kThreads>::kColumns);
  launch(stream,
         {.name = kWhole ? "batch_norm_backward" : "batch_norm_backward_chunks",
          .grid = {kWhole ? strips : strips * bytes.chunks},
          .block = {kThreads},
          .operands = {{"x", args.x, bytes.matrix},
                       {"gamma", args.gamma, bytes.vector, OperandKind::broadcast},
                       {"dy", args.dy, bytes.matrix},
                       {"mean", args.mean, bytes.statistics, OperandKind::broadcast},
                       {"rstd", args.rstd, bytes.statistics, OperandKind::broadcast},
                       {"dx", args.dx, bytes.matrix},
                       {"dgamma", args.dgamma, bytes.vector},
                       {"dbeta", args.dbeta, bytes.vector},
                       {"partials", args.partials, bytes.partials, OperandKind::workspace}}},
         columns_kernel<T, kWidth, kThreads, kRows, kWhole>, args, strips);
}

template <class T, int kWidth>
void run_resident(const Stream& stream, const BatchNormBackward& args) {
  if (nothing_wanted(args)) return;
  if (args.rows <= 128) return start_columns<T, kWidth, 256, 2, true>(stream, args);
  if (kWidth == 1 || args.rows <= kChunkRows)
    return start_columns<T, kWidth, kChunkThreads<kWidth>, kChunkThreadRows<kWidth>, true>(stream, args);
  if constexpr (kWidth > 1) start_columns<T, kWidth, 512, 8, true>(stream, args);
}

template <class T, int kWidth, int kSheetWidth>
void run_streamed(const Stream& stream, const BatchNormBackward& args) {
  if (nothing_wanted(args)) return;
  const Sizes bytes(std::type_identity<T>{}, args);
  const bool train = args.mode == BatchNormMode::train;
  start_columns<T, kWidth, kChunkThreads<kWidth>, kChunkThreadRows<kWidth>, false>(stream, args);
  if (train || args.dgamma != nullptr || args.dbeta != nullptr)
    launch(stream,
           {.name = "batch_norm_backward_merge",
            .grid = {ceil_div<std::int64_t>(args.channels, kMergeColumns)},
            .block = {kMergeColumns * kMergeGroups},
            .operands = {{"partials", args.partials, bytes.partials, OperandKind::workspace},
                         {"gamma", args.gamma, bytes.vector},
                         {"rstd", args.rstd, bytes.statistics},
                         {"dgamma", args.dgamma, bytes.vector},
                         {"dbeta", args.dbeta, bytes.vector}}},
           merge_kernel<T>, args, bytes.chunks);
  if (!train || args.dx == nullptr) return;
  const Sheet sheet(std::integral_constant<int, kSheetWidth>{}, args.rows, args.channels);
  launch(stream,
         {.name = "batch_norm_backward_dx",
          .grid = {sheet.across * sheet.down},
          .block = {Sheet::kThreads},
          .operands = {{"x", args.x, bytes.matrix},
                       {"dy", args.dy, bytes.matrix},
                       {"mean", args.mean, bytes.statistics, OperandKind::broadcast},
                       {"partials", args.partials, bytes.partials, OperandKind::broadcast},
                       {"dx", args.dx, bytes.matrix}}},
         input_gradient_kernel<T, kSheetWidth>, args, sheet);
}

const Variant<BatchNormBackward> kVariants[] = {
    {"resident", "whole columns in registers: one kernel",
     [](const BatchNormBackward& args) { return args.rows <= (in_vectors(args) ? 1024 : kChunkRows); },
     [](const Stream& stream, const BatchNormBackward& args) {
       dispatch_widths(args.dtype, in_vectors(args), [&](auto type, auto strip, auto) {
         run_resident<typename decltype(type)::type, strip>(stream, args);
       });
     }},
    {"streamed", "chunks of rows, their sums, then x and dy once more", [](const BatchNormBackward&) { return true; },
     [](const Stream& stream, const BatchNormBackward& args) {
       dispatch_widths(args.dtype, in_vectors(args), [&](auto type, auto strip, auto sheet) {
         run_streamed<typename decltype(type)::type, strip, sheet>(stream, args);
       });
     }},
};

}  // namespace

std::span<const Variant<BatchNormBackward>> batch_norm_backward_variants() { return kVariants; }

void batch_norm_backward(const Stream& stream, const BatchNormBackward& args) {
  run_variant("batch_norm", batch_norm_backward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
