// BatchNorm forward. A block takes a strip of columns 64 bytes wide (batch_norm_strip.h) and keeps its rows in
// registers, so that mean and variance are two passes over numbers that were read once.
//   resident  training, up to 2048 rows (1024 of f64, and where rows do not start on 16 bytes): one block has whole
//             columns, and goes on to write y. One kernel; x is read once and y written once: 2·R·C, the floor.
//   streamed  any size: blocks for chunks of 512 rows leave mean and squares of each, a second kernel combines these in
//             order, a third reads x again: 3·R·C, the floor where the columns do not stay on chip. It takes the rows
//             from the end, whose x the first one has left in the L2. Evaluation has only the third kernel: 2·R·C.
//   Shared memory: the warps' sums, at most 6 KiB. Vectors (of 16 bytes in the third kernel) where all rows start on 16
//   bytes, else one element at a time. Passes subtract before they add (first the strip's first row, then the mean),
//   and the combination works on means relative to the first chunk's: the error depends on the spread of a column, not
//   on its mean.
//   Where it comes from: Chan, Golub, LeVeque 1979 for the combination.
#include "kernels/common/batch_norm_strip.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

/// What the numbers of kWidth columns come to: the true mean is mean + rest.
template <class C, int kWidth>
struct Columns {
  Vec<C, kWidth> mean, rest, rstd;
};

/// From the mean as base + relative, and the sum of squared differences from it. `owner`: the one thread that writes
/// these columns' results.
template <class C, int kWidth>
WEFT_DEVICE Columns<C, kWidth> finish_columns(const BatchNormForward& args, std::int64_t c, const Vec<C, kWidth>& base,
                                              const Vec<C, kWidth>& relative, Vec<C, kWidth> squares, bool owner) {
  const auto rows = static_cast<C>(args.rows), eps = static_cast<C>(args.eps);
  Columns<C, kWidth> of;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) {
    if (squares[i] < C(0)) squares[i] = C(0);  // rounding may go below 0; a NaN stays
    of.mean[i] = base[i] + relative[i];
    of.rest[i] = relative[i] - (of.mean[i] - base[i]);
    of.rstd[i] = C(1) / square_root(squares[i] / rows + eps);
  }
  if (!owner) return of;
  if (args.running_mean != nullptr) {
    C* const running_mean = static_cast<C*>(args.running_mean) + c;
    C* const running_var = static_cast<C*>(args.running_var) + c;
    const C fresh = static_cast<C>(args.momentum), kept = C(1) - fresh;
    Vec<C, kWidth> mean = load_wide<kWidth>(running_mean), variance = load_wide<kWidth>(running_var);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) {
      mean[i] = fused(fresh, of.mean[i], kept * mean[i]);
      variance[i] = fused(fresh, squares[i] / (rows - C(1)), kept * variance[i]);
    }
    store_wide(running_mean, mean);
    store_wide(running_var, variance);
  }
  if (args.mean != nullptr) store_wide(static_cast<C*>(args.mean) + c, of.mean);
  if (args.rstd != nullptr) store_wide(static_cast<C*>(args.rstd) + c, of.rstd);
  return of;
}

/// kWhole: the block has all rows of its columns. Else it has a chunk of them, and leaves for it: the shift (its mean,
/// up to rounding), what is missing to the true mean, and the sum of squared differences from the mean.
template <class T, int kWidth, int kThreads, int kRows, bool kWhole>
WEFT_KERNEL __launch_bounds__(kThreads, 512 / kThreads)
    columns_kernel(const BatchNormForward args, std::int64_t strips) {
  using C = compute_t<T>;
  using S = Strip<T, kWidth, kThreads>;
  constexpr int kPerThread = S::template kPerThread<kRows>;
  constexpr std::int64_t kBlockRows = S::template kBlockRows<kRows>;
  WEFT_SHARED(C, first_scratch, S::template kScratch<1>);
  WEFT_SHARED(C, second_scratch, S::template kScratch<2>);

  const std::int64_t channels = args.channels;
  const std::int64_t chunk = kWhole ? 0 : blockIdx.x / strips;
  const std::int64_t begin = chunk * kBlockRows;
  const std::int64_t c = (kWhole ? blockIdx.x : blockIdx.x % strips) * S::kColumns + S::lane() * kWidth;
  // A thread past the last column has no rows, but takes part in its warp's shuffles.
  const int rows = static_cast<int>(smaller<std::int64_t>(args.rows - begin, kBlockRows));
  const int own_rows = c < channels ? rows : 0;
  const auto row = [](int k) { return k * S::kRowLanes + S::row_lane(); };
  const std::int64_t start = (begin + S::row_lane()) * channels + c, step = S::kRowLanes * channels;
  const T* const from = static_cast<const T*>(args.x);

  Vec<T, kWidth> x[kPerThread] = {};
  std::int64_t at = start;
  WEFT_UNROLL
  for (int k = 0; k < kPerThread; ++k, at += step)
    if (row(k) < own_rows) x[k] = load<kWidth>(from + at);
  Vec<C, kWidth> shift{};
  if (c < channels) shift = widen(load<kWidth>(from + begin * channels + c));

  const C count = static_cast<C>(rows);
  Vec<C, kWidth> first[1] = {};
  WEFT_UNROLL
  for (int k = 0; k < kPerThread; ++k) {
    if (row(k) >= own_rows) continue;
    const Vec<C, kWidth> value = widen(x[k]);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) first[0][i] += value[i] - shift[i];
  }
  S::sums(first, first_scratch);
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) shift[i] += first[0][i] / count;

  Vec<C, kWidth> second[2] = {};
  WEFT_UNROLL
  for (int k = 0; k < kPerThread; ++k) {
    if (row(k) >= own_rows) continue;
    const Vec<C, kWidth> value = widen(x[k]);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) {
      const C difference = value[i] - shift[i];
      second[0][i] += difference;
      second[1][i] = fused(difference, difference, second[1][i]);
    }
  }
  S::sums(second, second_scratch);
  if (c >= channels) return;
  Vec<C, kWidth> rest, squares;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) {
    rest[i] = second[0][i] / count;
    squares[i] = second[1][i] - second[0][i] * rest[i];
  }

  const bool owner = S::row_lane() == 0;
  if constexpr (!kWhole) {
    if (!owner) return;
    store_wide(chunk_numbers<C>(args.partials, channels, chunk, 0) + c, shift);
    store_wide(chunk_numbers<C>(args.partials, channels, chunk, 1) + c, rest);
    store_wide(chunk_numbers<C>(args.partials, channels, chunk, 2) + c, squares);
  } else {
    const Columns<C, kWidth> of = finish_columns(args, c, shift, rest, squares, owner);
    Vec<C, kWidth> scale = load_or<T, kWidth>(args.gamma, c, C(1)), offset = load_or<T, kWidth>(args.beta, c, C(0));
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) {
      scale[i] *= of.rstd[i];
      offset[i] -= of.rest[i] * scale[i];
    }
    at = start;
    WEFT_UNROLL
    for (int k = 0; k < kPerThread; ++k, at += step) {
      if (row(k) >= own_rows) continue;
      Vec<C, kWidth> y = widen(x[k]);
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) y[i] = fused(y[i] - of.mean[i], scale[i], offset[i]);
      store(static_cast<T*>(args.y) + at, narrow<T>(y));
    }
  }
}

/// Some rows of a column: how many, their mean relative to the first chunk's shift, their squared differences from it.
template <class C>
struct Moments {
  C rows, relative, squares;
};

template <class C>
WEFT_DEVICE void merge(Moments<C>& into, const Moments<C>& more) {
  if (more.rows == C(0)) return;
  if (into.rows == C(0)) {
    into = more;
    return;
  }
  const C rows = into.rows + more.rows, weight = more.rows / rows;
  const C delta = more.relative - into.relative;
  into.squares += more.squares + delta * delta * (weight * into.rows);
  into.relative = fused(delta, weight, into.relative);
  into.rows = rows;
}

/// Each warp combines its part of the chunks, the first one then the parts; in order. Leaves mean, scale and offset.
template <class T>
WEFT_KERNEL __launch_bounds__(kMergeColumns* kMergeGroups)
    merge_kernel(const BatchNormForward args, std::int64_t chunks) {
  using C = compute_t<T>;
  WEFT_SHARED(C, rows_of, kMergeGroups * kMergeColumns);
  WEFT_SHARED(C, relative_of, kMergeGroups * kMergeColumns);
  WEFT_SHARED(C, squares_of, kMergeGroups * kMergeColumns);
  const std::int64_t channels = args.channels;
  const int group = warp_index();
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kMergeColumns + lane_index();
  const std::int64_t per_group = ceil_div<std::int64_t>(chunks, kMergeGroups);
  const std::int64_t begin = group * per_group, end = smaller(chunks, begin + per_group);
  C base = C(0);
  Moments<C> sum{C(0), C(0), C(0)};
  if (c < channels) {
    base = load_one(chunk_numbers<C>(args.partials, channels, 0, 0) + c);
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const auto number = [&](int which) {
        return load_one(chunk_numbers<C>(args.partials, channels, chunk, which) + c);
      };
      const auto rows = static_cast<C>(smaller(args.rows - chunk * kChunkRows, kChunkRows));
      merge(sum, Moments<C>{rows, number(0) - base + number(1), number(2)});
    }
  }
  const int at = group * kMergeColumns + lane_index();
  rows_of[at] = sum.rows;
  relative_of[at] = sum.relative;
  squares_of[at] = sum.squares;
  __syncthreads();
  if (group > 0 || c >= channels) return;
  WEFT_NO_UNROLL
  for (int g = 1; g < kMergeGroups; ++g) {
    const int other = g * kMergeColumns + lane_index();
    merge(sum, Moments<C>{rows_of[other], relative_of[other], squares_of[other]});
  }
  const Columns<C, 1> of = finish_columns<C, 1>(args, c, {{base}}, {{sum.relative}}, {{sum.squares}}, true);
  const C scale = of.rstd[0] * load_or<T, 1>(args.gamma, c, C(1))[0];
  store_one(column_factors<C>(args.partials, channels, 0) + c, of.mean[0]);
  store_one(column_factors<C>(args.partials, channels, 1) + c, scale);
  store_one(column_factors<C>(args.partials, channels, 2) + c,
            load_or<T, 1>(args.beta, c, C(0))[0] - of.rest[0] * scale);
}

/// y = (x - mean) scale + offset, over a Sheet. In evaluation the factors come from the running statistics.
template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(Sheet::kThreads) normalise_kernel(const BatchNormForward args, Sheet sheet) {
  using C = compute_t<T>;
  constexpr int kSheetRows = Sheet::kRowsPerThread<kWidth>;
  const std::int64_t channels = args.channels;
  const int lane = static_cast<int>(threadIdx.x) & (sheet.lanes - 1);
  const int row_lane = static_cast<int>(threadIdx.x) / sheet.lanes, row_lanes = Sheet::kThreads / sheet.lanes;
  const std::int64_t c = (blockIdx.x % sheet.across * sheet.lanes + lane) * kWidth;
  if (c >= channels) return;
  const std::int64_t down = sheet.down - 1 - blockIdx.x / sheet.across;  // from the end
  const std::int64_t first = down * row_lanes * kSheetRows + row_lane;

  const T* const from = static_cast<const T*>(args.x) + c;
  Vec<T, kWidth> x[kSheetRows] = {};
  WEFT_UNROLL
  for (int k = 0; k < kSheetRows; ++k) {
    const std::int64_t row = first + k * row_lanes;
    if (row < args.rows) x[k] = load<kWidth, Cache::streaming>(from + row * channels);
  }

  Vec<C, kWidth> mean, scale, offset;
  if (args.mode == BatchNormMode::train) {
    mean = load_wide<kWidth>(column_factors<C>(args.partials, channels, 0) + c);
    scale = load_wide<kWidth>(column_factors<C>(args.partials, channels, 1) + c);
    offset = load_wide<kWidth>(column_factors<C>(args.partials, channels, 2) + c);
  } else {
    mean = load_wide<kWidth>(static_cast<const C*>(args.running_mean) + c);
    const Vec<C, kWidth> variance = load_wide<kWidth>(static_cast<const C*>(args.running_var) + c);
    const Vec<C, kWidth> gamma = load_or<T, kWidth>(args.gamma, c, C(1));
    offset = load_or<T, kWidth>(args.beta, c, C(0));
    Vec<C, kWidth> rstd;
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) {
      rstd[i] = C(1) / square_root(variance[i] + static_cast<C>(args.eps));
      scale[i] = rstd[i] * gamma[i];
    }
    if (down == 0 && row_lane == 0) {
      if (args.mean != nullptr) store_wide(static_cast<C*>(args.mean) + c, mean);
      if (args.rstd != nullptr) store_wide(static_cast<C*>(args.rstd) + c, rstd);
    }
  }

  WEFT_UNROLL
  for (int k = 0; k < kSheetRows; ++k) {
    const std::int64_t row = first + k * row_lanes;
    if (row >= args.rows) continue;
    Vec<C, kWidth> y = widen(x[k]);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) y[i] = fused(y[i] - mean[i], scale[i], offset[i]);
    store(static_cast<T*>(args.y) + row * channels + c, narrow<T>(y));
  }
}

// --- choosing --------------------------------------------------------------------------------------------------------

/// Whether every row of x and y, and every vector over the columns, can be cut into vectors of 16 bytes.
bool in_vectors(const BatchNormForward& args) {
  if (args.channels * element_bytes(args.dtype) % 16 != 0) return false;
  for (const void* address : {args.x, args.gamma, args.beta, static_cast<const void*>(args.y),
                              static_cast<const void*>(args.running_mean), static_cast<const void*>(args.running_var),
                              static_cast<const void*>(args.mean), static_cast<const void*>(args.rstd)})
    if (!is_aligned(address, 16)) return false;
  return true;
}

/// Most rows of a block of 512 threads: what fits 64 registers of each, and half of that where the columns' sums (of
/// f64) or the rows (single elements) take more of them.
std::int64_t resident_rows(const BatchNormForward& args) {
  return in_vectors(args) && args.dtype != Dtype::f64 ? 2048 : 1024;
}

struct Sizes {
  template <class T>
  Sizes(std::type_identity<T>, const BatchNormForward& args)
      : vector(args.channels * static_cast<std::int64_t>(sizeof(T))),
        matrix(args.rows * vector),
        statistics(args.channels * static_cast<std::int64_t>(sizeof(compute_t<T>))),
        chunks(ceil_div(args.rows, kChunkRows)),
        partials(3 * (chunks + 1) * statistics) {}
  std::int64_t vector, matrix, statistics, chunks, partials;  // in bytes, but for chunks
};

template <class T, int kWidth, int kThreads, int kRows, bool kWhole>
void start_columns(const Stream& stream, const BatchNormForward& args) {
  const Sizes bytes(std::type_identity<T>{}, args);
  const std::int64_t strips = ceil_div<std::int64_t>(args.channels, Strip<T, kWidth, kThreads>::kColumns);
  launch(stream,
         {.name = kWhole ? "batch_norm_forward" : "batch_norm_forward_chunks",
          .grid = {kWhole ? strips : strips * bytes.chunks},
          .block = {kThreads},
          .operands = {{"x", args.x, bytes.matrix},
                       {"gamma", args.gamma, bytes.vector, OperandKind::broadcast},
                       {"beta", args.beta, bytes.vector, OperandKind::broadcast},
                       {"y", args.y, bytes.matrix},
                       {"running_mean", args.running_mean, bytes.statistics},
                       {"running_var", args.running_var, bytes.statistics},
                       {"mean", args.mean, bytes.statistics},
                       {"rstd", args.rstd, bytes.statistics},
                       {"partials", args.partials, bytes.partials, OperandKind::workspace}}},
         columns_kernel<T, kWidth, kThreads, kRows, kWhole>, args, strips);
}

template <class T, int kWidth>
void run_resident(const Stream& stream, const BatchNormForward& args) {
  if (args.rows <= 128) return start_columns<T, kWidth, 256, 2, true>(stream, args);
  if (args.rows <= kChunkRows)
    return start_columns<T, kWidth, kChunkThreads<kWidth>, kChunkThreadRows<kWidth>, true>(stream, args);
  return start_columns < T, kWidth, 512, kWidth == 4 ? 16 : 8, true > (stream, args);
}

template <class T, int kWidth, int kSheetWidth>
void run_streamed(const Stream& stream, const BatchNormForward& args) {
  const Sizes bytes(std::type_identity<T>{}, args);
  if (args.mode == BatchNormMode::train) {
    start_columns<T, kWidth, kChunkThreads<kWidth>, kChunkThreadRows<kWidth>, false>(stream, args);
    launch(stream,
           {.name = "batch_norm_forward_merge",
            .grid = {ceil_div<std::int64_t>(args.channels, kMergeColumns)},
            .block = {kMergeColumns * kMergeGroups},
            .operands = {{"partials", args.partials, bytes.partials, OperandKind::workspace},
                         {"gamma", args.gamma, bytes.vector},
                         {"beta", args.beta, bytes.vector},
                         {"running_mean", args.running_mean, bytes.statistics},
                         {"running_var", args.running_var, bytes.statistics},
                         {"mean", args.mean, bytes.statistics},
                         {"rstd", args.rstd, bytes.statistics}}},
           merge_kernel<T>, args, bytes.chunks);
  }
  Sheet sheet(std::integral_constant<int, kSheetWidth>{}, args.rows, args.channels);
  if (sheet.down == 0) sheet.down = 1;  // evaluation without rows still says which statistics it used
  launch(stream,
         {.name = "batch_norm_forward_normalise",
          .grid = {sheet.across * sheet.down},
          .block = {Sheet::kThreads},
          .operands = {{"x", args.x, bytes.matrix},
                       {"y", args.y, bytes.matrix},
                       {"partials", args.partials, bytes.partials, OperandKind::broadcast},
                       {"gamma", args.gamma, bytes.vector, OperandKind::broadcast},
                       {"beta", args.beta, bytes.vector, OperandKind::broadcast},
                       {"running_mean", args.running_mean, bytes.statistics, OperandKind::broadcast},
                       {"running_var", args.running_var, bytes.statistics, OperandKind::broadcast},
                       {"mean", args.mean, bytes.statistics},
                       {"rstd", args.rstd, bytes.statistics}}},
         normalise_kernel<T, kSheetWidth>, args, sheet);
}

const Variant<BatchNormForward> kVariants[] = {
    {"resident", "whole columns in registers: one kernel",
     [](const BatchNormForward& args) { return args.mode == BatchNormMode::train && args.rows <= resident_rows(args); },
     [](const Stream& stream, const BatchNormForward& args) {
       dispatch_widths(args.dtype, in_vectors(args), [&](auto type, auto strip, auto) {
         run_resident<typename decltype(type)::type, strip>(stream, args);
       });
     }},
    {"streamed", "chunks of rows, combined, then x once more", [](const BatchNormForward&) { return true; },
     [](const Stream& stream, const BatchNormForward& args) {
       dispatch_widths(args.dtype, in_vectors(args), [&](auto type, auto strip, auto sheet) {
         run_streamed<typename decltype(type)::type, strip, sheet>(stream, args);
       });
     }},
};

}  // namespace

std::span<const Variant<BatchNormForward>> batch_norm_forward_variants() { return kVariants; }

void batch_norm_forward(const Stream& stream, const BatchNormForward& args) {
  run_variant("batch_norm", batch_norm_forward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
