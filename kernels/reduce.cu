// Sums and positions of maxima of [A, R, B] over R.
//   Idea:    read the input once, densely, in 16-byte vectors where it allows, and keep the order of additions fixed.
//            rows (B = 1): the lanes of a group stride along a row and meet by shuffles. A group has 1 to 32 lanes, so
//              that short rows fill a warp together, or is a whole block for rows of more than 8 vectors per lane.
//            columns (B > 1): neighbouring threads hold neighbouring columns; what is left of the block holds further
//              rows of r, then further a, and the rows meet in shared memory, halving.
//   Mapping: blocks of 256 threads. A long R of few outputs is cut into pieces (sum_plan), whose partial sums a second
//            launch adds up in f64, always in the same order.
//   Shared:  rows 64 to 128 bytes; columns one partial sum per thread and column: 2 to 8 KiB, 32 KiB for u8 and bool.
//   Precision: a thread sums at most about 1024 terms in a lane of f32 (f64 for f64, i64 for integers).
#include "kernels/reduce.h"

#include <algorithm>
#include <bit>

#include "kernels/common/block.h"
#include "kernels/common/launch.h"
#include "kernels/common/wide_vector.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // loads in flight per thread

// What a thread sums in, what the last step sums in, what is stored.
template <class T>
using lane_t = std::conditional_t<std::is_integral_v<T>, std::int64_t, compute_t<T>>;
template <class T>
using total_t = std::conditional_t<std::is_integral_v<T>, std::int64_t, double>;
template <class T>
using sum_t = std::conditional_t<std::is_integral_v<T>, std::int64_t, T>;

template <class Acc, class T>
WEFT_DEVICE Acc widen_to(T value) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<Acc>(value);
  else
    return static_cast<Acc>(widen(value));
}

// What goes to memory for a total: *at = total, or *at + total; floats are added in f64, so that adding rounds once.
template <class Out, class Acc>
WEFT_DEVICE Out finished(Acc total, Out before, Accumulate mode) {
  total_t<Out> value = static_cast<total_t<Out>>(total);
  if (mode == Accumulate::add) value += widen_to<total_t<Out>>(before);
  if constexpr (std::is_integral_v<Out>)
    return value;
  else
    return narrow<Out>(static_cast<compute_t<Out>>(value));
}

// Lanes (rows) or the block's tile (columns), R and how it is cut.
struct Geometry {
  std::int64_t slots;    // A * pieces
  std::int64_t reduced;  // R
  std::int64_t inner;    // B
  std::int64_t rows;     // r per piece
  std::int64_t pieces;   // per a
  int lanes = 1;         // rows: threads per slot, a power of two up to 32, or kThreads
  int tile_columns = 1;  // columns: threads side by side
  int tile_rows = 1;     // columns: threads along r
  int tile_slots = 1;    // columns: slots per block
  int column_tiles = 1;  // columns: blocks side by side
};

// The part of R that belongs to a slot.
struct Span {
  std::int64_t outer;  // a
  std::int64_t first;  // r
  int count;
};
WEFT_DEVICE Span span_of(const Geometry& geometry, std::int64_t slot) {
  if (slot >= geometry.slots) return {0, 0, 0};
  if (geometry.pieces == 1) return {slot, 0, static_cast<int>(geometry.reduced)};
  const std::int64_t outer = slot / geometry.pieces, first = (slot - outer * geometry.pieces) * geometry.rows;
  return {outer, first, static_cast<int>(smaller(geometry.rows, geometry.reduced - first))};
}

// --- sum of rows ---------------------------------------------------------------------------------------------------

template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kThreads)
    sum_rows_kernel(const T* in, sum_t<T>* out, lane_t<T>* partial, Geometry geometry, Accumulate mode) {
  using Acc = lane_t<T>;
  WEFT_SHARED(Acc, warps, kThreads / kWarpSize);
  const int lanes = geometry.lanes, lane = static_cast<int>(threadIdx.x) % lanes;
  const std::int64_t slot =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / lanes) + static_cast<int>(threadIdx.x) / lanes;
  const Span span = span_of(geometry, slot);
  const T* const from = in + span.outer * geometry.reduced + span.first;

  Acc sums[kWidth] = {};
  const int vectors = span.count / kWidth;
  int v = lane;
  for (; v + (kUnroll - 1) * lanes < vectors; v += kUnroll * lanes) {
    Vec<T, kWidth> x[kUnroll];
    WEFT_UNROLL
    for (int k = 0; k < kUnroll; ++k) x[k] = load<kWidth>(from + (v + k * lanes) * kWidth);
    WEFT_UNROLL
    for (int k = 0; k < kUnroll; ++k) WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) sums[i] += widen_to<Acc>(x[k][i]);
  }
  for (; v < vectors; v += lanes) {
    const Vec<T, kWidth> x = load<kWidth>(from + v * kWidth);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) sums[i] += widen_to<Acc>(x[i]);
  }
  for (int r = vectors * kWidth + lane; r < span.count; r += lanes) sums[0] += widen_to<Acc>(load_one(from + r));

  Acc total = sums[0];
  WEFT_UNROLL
  for (int i = 1; i < kWidth; ++i) total += sums[i];
  // All lanes of the warp take part, those of other slots and of none too.
  for (int step = smaller(lanes, kWarpSize) / 2; step > 0; step /= 2) total += __shfl_xor_sync(kFullWarp, total, step);
  if (lanes == kThreads) {
    if (lane_index() == 0) warps[warp_index()] = total;
    __syncthreads();
    if (threadIdx.x > 0) return;
    total = warps[0];
    for (int warp = 1; warp < kThreads / kWarpSize; ++warp) total += warps[warp];
  }
  if (lane > 0 || slot >= geometry.slots) return;
  if (geometry.pieces > 1)
    store_one(partial + slot, total);
  else
    store_one(out + slot, finished<sum_t<T>>(total, mode == Accumulate::add ? load_one(out + slot) : sum_t<T>(), mode));
}

// --- sum of columns ------------------------------------------------------------------------------------------------

// Acc: what a thread sums in; Out: what is stored when R is one piece, else Acc is.
template <class T, class Acc, class Out, int kWidth>
WEFT_KERNEL __launch_bounds__(kThreads, 3)
    sum_columns_kernel(const T* in, Out* out, Acc* partial, Geometry geometry, Accumulate mode) {
  WEFT_SHARED(Acc, sums_of_rows, kThreads * kWidth);
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % geometry.tile_columns, rest = thread / geometry.tile_columns;
  const int row = rest % geometry.tile_rows, group = rest / geometry.tile_rows;
  const std::int64_t tile = blockIdx.x / geometry.column_tiles, side = blockIdx.x - tile * geometry.column_tiles;
  const std::int64_t slot = tile * geometry.tile_slots + group;
  const std::int64_t b = (side * geometry.tile_columns + column) * kWidth;  // [0, B) or past the end
  const bool active = group < geometry.tile_slots && slot < geometry.slots && b < geometry.inner;
  const Span span = span_of(geometry, slot);
  const T* const from = in + (span.outer * geometry.reduced + span.first) * geometry.inner + b;

  Acc sums[kWidth] = {};
  if (active) {
    const T* at = from + row * geometry.inner;
    const std::int64_t step = geometry.tile_rows * geometry.inner;
    int r = row;
    for (; r + (kUnroll - 1) * geometry.tile_rows < span.count; r += kUnroll * geometry.tile_rows) {
      Vec<T, kWidth> x[kUnroll];
      WEFT_UNROLL
      for (int k = 0; k < kUnroll; ++k) x[k] = load<kWidth>(at + k * step);
      at += kUnroll * step;
      WEFT_UNROLL
      for (int k = 0; k < kUnroll; ++k) WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) sums[i] += widen_to<Acc>(x[k][i]);
    }
    for (; r < span.count; r += geometry.tile_rows, at += step) {
      const Vec<T, kWidth> x = load<kWidth>(at);
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) sums[i] += widen_to<Acc>(x[i]);
    }
  }

  if (geometry.tile_rows > 1) {
    // [kWidth][threads], so that neighbouring threads lie in different banks.
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) sums_of_rows[i * kThreads + thread] = sums[i];
    for (int rows = geometry.tile_rows; rows > 1;) {
      const int half = (rows + 1) / 2;
      __syncthreads();
      if (row + half < rows && group < geometry.tile_slots) {
        WEFT_UNROLL
        for (int i = 0; i < kWidth; ++i) {
          sums[i] += sums_of_rows[i * kThreads + thread + half * geometry.tile_columns];
          sums_of_rows[i * kThreads + thread] = sums[i];
        }
      }
      rows = half;
    }
  }
  if (row > 0 || !active) return;
  const std::int64_t at = slot * geometry.inner + b;
  if (geometry.pieces > 1) {
    Vec<Acc, kWidth> values;
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) values[i] = sums[i];
    store_wide(partial + at, values);
  } else {
    Vec<Out, kWidth> values;
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) {
      const Out before = mode == Accumulate::add ? load_one(out + at + i) : Out();
      values[i] = finished<Out>(sums[i], before, mode);
    }
    store_wide(out + at, values);
  }
}

// --- argmax --------------------------------------------------------------------------------------------------------

template <class T>
using order_t = std::conditional_t<!std::is_integral_v<T>, compute_t<T>,
                                   std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>>;

template <class C>
struct Best {
  C value = 0;
  std::int64_t index = -1;  // none yet

  // A NaN is larger than any number, and the first among equals stays: the order of the offers does not matter.
  WEFT_DEVICE void offer(C other, std::int64_t at) {
    if (at < 0) return;
    const bool is_nan = value != value, other_is_nan = other != other;
    const bool larger = other_is_nan ? !is_nan : other > value;
    const bool equal = other_is_nan ? is_nan : other == value;
    if (index < 0 || larger || (equal && at < index)) {
      value = other;
      index = at;
    }
  }
};

/// What Best compares: the element, or for a minimum its mirror image. An involution.
template <class C>
WEFT_DEVICE C mirrored(C value, bool smallest) {
  if constexpr (std::is_integral_v<C>)
    return smallest ? ~value : value;  // -value would overflow for the least
  else
    return smallest ? -value : value;
}

template <class T>
WEFT_DEVICE void store_best(const Best<order_t<T>>& best, std::int64_t at, std::int64_t* out, T* values,
                            bool smallest) {
  if (out != nullptr) store_one(out + at, best.index);
  if (values == nullptr) return;
  const order_t<T> value = mirrored(best.value, smallest);
  if constexpr (std::is_integral_v<T>)
    store_one(values + at, static_cast<T>(value));
  else
    store_one(values + at, narrow<T>(value));
}

template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kThreads)
    argmax_rows_kernel(const T* in, std::int64_t* out, T* best_values, Geometry geometry, bool smallest) {
  using C = order_t<T>;
  WEFT_SHARED(C, values, kThreads / kWarpSize);
  WEFT_SHARED(std::int64_t, indices, kThreads / kWarpSize);
  const int lanes = geometry.lanes, lane = static_cast<int>(threadIdx.x) % lanes;
  const std::int64_t slot =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / lanes) + static_cast<int>(threadIdx.x) / lanes;
  const std::int64_t count = slot < geometry.slots ? geometry.reduced : 0;
  const T* const from = in + slot * geometry.reduced;

  Best<C> best;
  const std::int64_t vectors = count / kWidth;
  WEFT_NO_UNROLL
  for (std::int64_t v = lane; v < vectors; v += lanes) {
    const Vec<T, kWidth> x = load<kWidth>(from + v * kWidth);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) best.offer(mirrored(widen_to<C>(x[i]), smallest), v * kWidth + i);
  }
  for (std::int64_t r = vectors * kWidth + lane; r < count; r += lanes)
    best.offer(mirrored(widen_to<C>(load_one(from + r)), smallest), r);

  for (int step = smaller(lanes, kWarpSize) / 2; step > 0; step /= 2) {
    const C value = __shfl_xor_sync(kFullWarp, best.value, step);
    best.offer(value, __shfl_xor_sync(kFullWarp, best.index, step));
  }
  if (lanes == kThreads) {
    if (lane_index() == 0) {
      values[warp_index()] = best.value;
      indices[warp_index()] = best.index;
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int warp = 1; warp < kThreads / kWarpSize; ++warp) best.offer(values[warp], indices[warp]);
  }
  if (lane == 0 && slot < geometry.slots) store_best<T>(best, slot, out, best_values, smallest);
}

template <class T>
WEFT_KERNEL __launch_bounds__(kThreads)
    argmax_columns_kernel(const T* in, std::int64_t* out, T* best_values, Geometry geometry, bool smallest) {
  using C = order_t<T>;
  WEFT_SHARED(C, values, kThreads);
  WEFT_SHARED(std::int64_t, indices, kThreads);
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % geometry.tile_columns, rest = thread / geometry.tile_columns;
  const int row = rest % geometry.tile_rows, group = rest / geometry.tile_rows;
  const std::int64_t tile = blockIdx.x / geometry.column_tiles, side = blockIdx.x - tile * geometry.column_tiles;
  const std::int64_t slot = tile * geometry.tile_slots + group, b = side * geometry.tile_columns + column;
  const bool active = group < geometry.tile_slots && slot < geometry.slots && b < geometry.inner;

  Best<C> best;
  if (active) {
    const T* const from = in + slot * geometry.reduced * geometry.inner + b;
    for (std::int64_t r = row; r < geometry.reduced; r += geometry.tile_rows)
      best.offer(mirrored(widen_to<C>(load_one(from + r * geometry.inner)), smallest), r);
  }
  if (geometry.tile_rows > 1) {
    values[thread] = best.value;
    indices[thread] = best.index;
    for (int rows = geometry.tile_rows; rows > 1;) {
      const int half = (rows + 1) / 2;
      __syncthreads();
      if (row + half < rows && group < geometry.tile_slots) {
        const int other = thread + half * geometry.tile_columns;
        best.offer(values[other], indices[other]);
        values[thread] = best.value;
        indices[thread] = best.index;
      }
      rows = half;
    }
  }
  if (row == 0 && active) store_best<T>(best, slot * geometry.inner + b, out, best_values, smallest);
}

// --- who equals it -------------------------------------------------------------------------------------------------

template <class T>
WEFT_KERNEL __launch_bounds__(kThreads) equal_mask_kernel(const EqualMask args) {
  using C = compute_t<T>;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.outer * args.reduced * args.inner) return;
  const std::int64_t row = i / args.inner;
  const C x = widen(load_one(static_cast<const T*>(args.in) + i));
  const C y =
      widen(load_one(static_cast<const T*>(args.value) + row / args.reduced * args.inner + i - row * args.inner));
  store_one(static_cast<T*>(args.mask) + i, narrow<T>(x == y || (x != x && y != y) ? C(1) : C(0)));
}

// --- launching -----------------------------------------------------------------------------------------------------

// bool is summed and compared as the 0 or 1 that it is stored as.
template <class F>
void with_type(Dtype dtype, const char* op, F&& f) {
  if (dtype == Dtype::boolean) return f(std::type_identity<std::uint8_t>{});
  dispatch_all(dtype, op, [&]<class T>(std::type_identity<T> type) {
    if constexpr (!std::is_same_v<T, bool>) f(type);
  });
}

Geometry row_geometry(std::int64_t slots, std::int64_t reduced, const SumPlan& plan, int width) {
  const std::int64_t vectors = std::max<std::int64_t>(plan.rows / width, 1);
  const auto lanes = vectors > 8 * kWarpSize ? kThreads
                     : vectors > kWarpSize   ? kWarpSize
                                             : static_cast<int>(std::bit_ceil(static_cast<unsigned>(vectors)));
  return {.slots = slots, .reduced = reduced, .inner = 1, .rows = plan.rows, .pieces = plan.pieces, .lanes = lanes};
}
std::int64_t row_blocks(const Geometry& geometry) {
  return ceil_div<std::int64_t>(geometry.slots, kThreads / geometry.lanes);
}

Geometry column_geometry(std::int64_t slots, std::int64_t reduced, std::int64_t inner, const SumPlan& plan, int width) {
  const std::int64_t across = inner / width;
  Geometry geometry{.slots = slots, .reduced = reduced, .inner = inner, .rows = plan.rows, .pieces = plan.pieces};
  // Whole rows of up to 64 threads, which are dense in memory together; else 32 columns, that is 512 bytes of vectors.
  geometry.tile_columns = across <= 64 ? static_cast<int>(across) : 32;
  geometry.column_tiles = static_cast<int>(ceil_div<std::int64_t>(across, geometry.tile_columns));
  // At least four rows per thread before a row gets more threads.
  geometry.tile_rows =
      static_cast<int>(std::clamp<std::int64_t>(plan.rows / kUnroll, 1, kThreads / geometry.tile_columns));
  geometry.tile_slots = kThreads / (geometry.tile_columns * geometry.tile_rows);
  return geometry;
}
std::int64_t column_blocks(const Geometry& geometry) {
  return ceil_div<std::int64_t>(geometry.slots, geometry.tile_slots) * geometry.column_tiles;
}

std::int64_t input_bytes(const auto& args) {
  return args.outer * args.reduced * args.inner * element_bytes(args.dtype);
}

// Adds up the partial sums, [A, pieces, B] -> [A, B].
template <class T>
void finish_sum(const Stream& stream, const Sum& args, std::int64_t pieces, Operand partial) {
  const Geometry geometry = column_geometry(args.outer, pieces, args.inner, {1, pieces}, 1);
  launch(
      stream,
      {.name = "sum_finish",
       .grid = {column_blocks(geometry)},
       .block = {kThreads},
       .operands = {partial, {"out", args.out, args.outer * args.inner * static_cast<std::int64_t>(sizeof(sum_t<T>))}}},
      sum_columns_kernel<lane_t<T>, total_t<T>, sum_t<T>, 1>, static_cast<const lane_t<T>*>(args.workspace),
      static_cast<sum_t<T>*>(args.out), static_cast<total_t<T>*>(nullptr), geometry, args.mode);
}

template <bool kRows, bool kVectorised>
void sum_run(const Stream& stream, const Sum& args) {
  if (args.outer == 0 || args.inner == 0) return;
  with_type(args.dtype, "sum", [&]<class T>(std::type_identity<T>) {
    constexpr int kWidth = kVectorised ? kVectorWidth<T> : 1;
    const SumPlan plan = sum_plan(args.outer, args.reduced, args.inner);
    const bool cut = plan.pieces > 1;
    const std::int64_t slots = args.outer * plan.pieces;
    const std::int64_t output_bytes = args.outer * args.inner * static_cast<std::int64_t>(sizeof(sum_t<T>));
    const Operand partial{"partial", args.workspace,
                          cut ? slots * args.inner * static_cast<std::int64_t>(sizeof(lane_t<T>)) : 0,
                          OperandKind::workspace};
    Geometry geometry;
    if constexpr (kRows)
      geometry = row_geometry(slots, args.reduced, plan, kWidth);
    else
      geometry = column_geometry(slots, args.reduced, args.inner, plan, kWidth);
    const auto start = [&](const char* name, std::int64_t blocks, auto kernel) {
      launch(stream,
             {.name = name,
              .grid = {blocks},
              .block = {kThreads},
              .operands = {{"in", args.in, input_bytes(args)}, {"out", args.out, output_bytes}, partial}},
             kernel, static_cast<const T*>(args.in), static_cast<sum_t<T>*>(args.out),
             static_cast<lane_t<T>*>(args.workspace), geometry, args.mode);
    };
    if constexpr (kRows)
      start("sum_rows", row_blocks(geometry), sum_rows_kernel<T, kWidth>);
    else
      start("sum_columns", column_blocks(geometry), sum_columns_kernel<T, lane_t<T>, sum_t<T>, kWidth>);
    if (cut) finish_sum<T>(stream, args, plan.pieces, partial);
  });
}

// Rows begin at a multiple of the vector width; pieces always do.
bool rows_are_vectors(const auto& args) {
  const std::int64_t width = 16 / element_bytes(args.dtype);
  return args.inner == 1 && is_aligned(args.in, 16) && (args.outer == 1 || args.reduced % width == 0);
}

bool columns_are_vectors(const Sum& args) {
  const std::int64_t width = 16 / element_bytes(args.dtype);
  return args.inner > 1 && args.inner % width == 0 && is_aligned(args.in, 16) && is_aligned(args.out, 16);
}

template <bool kRows, bool kVectorised>
void argmax_run(const Stream& stream, const Argmax& args) {
  if (args.outer == 0 || args.inner == 0) return;
  with_type(args.dtype, "argmax", [&]<class T>(std::type_identity<T>) {
    constexpr int kWidth = kVectorised ? kVectorWidth<T> : 1;
    const SumPlan whole{1, args.reduced};
    const auto start = [&](const char* name, std::int64_t blocks, auto kernel, const Geometry& geometry) {
      launch(stream,
             {.name = name,
              .grid = {blocks},
              .block = {kThreads},
              .operands = {{"in", args.in, input_bytes(args)},
                           {"out", args.out, args.outer * args.inner * 8},
                           {"values", args.values, args.outer * args.inner * element_bytes(args.dtype)}}},
             kernel, static_cast<const T*>(args.in), args.out, static_cast<T*>(args.values), geometry, args.smallest);
    };
    if constexpr (kRows) {
      const Geometry geometry = row_geometry(args.outer, args.reduced, whole, kWidth);
      start("argmax_rows", row_blocks(geometry), argmax_rows_kernel<T, kWidth>, geometry);
    } else {
      const Geometry geometry = column_geometry(args.outer, args.reduced, args.inner, whole, 1);
      start("argmax_columns", column_blocks(geometry), argmax_columns_kernel<T>, geometry);
    }
  });
}

}  // namespace

std::span<const Variant<Sum>> sum_variants() {
  static constexpr Variant<Sum> kVariants[] = {
      {"rows_vectorised", "lanes stride along a row in 16-byte vectors", rows_are_vectors<Sum>, sum_run<true, true>},
      {"rows", "lanes stride along a row", [](const Sum& args) { return args.inner == 1; }, sum_run<true, false>},
      {"columns_vectorised", "threads side by side on columns of 16 bytes", columns_are_vectors, sum_run<false, true>},
      {"columns", "threads side by side on columns", [](const Sum&) { return true; }, sum_run<false, false>},
  };
  return kVariants;
}
void sum(const Stream& stream, const Sum& args) { run_variant("sum", sum_variants(), stream, args); }

std::span<const Variant<Argmax>> argmax_variants() {
  static constexpr Variant<Argmax> kVariants[] = {
      {"rows_vectorised", "lanes stride along a row in 16-byte vectors", rows_are_vectors<Argmax>,
       argmax_run<true, true>},
      {"rows", "lanes stride along a row", [](const Argmax& args) { return args.inner == 1; }, argmax_run<true, false>},
      {"columns", "threads side by side on columns", [](const Argmax&) { return true; }, argmax_run<false, false>},
  };
  return kVariants;
}
void argmax(const Stream& stream, const Argmax& args) { run_variant("argmax", argmax_variants(), stream, args); }

std::span<const Variant<EqualMask>> equal_mask_variants() {
  static constexpr Variant<EqualMask> kVariants[] = {
      {"elementwise", "a thread per element", [](const EqualMask&) { return true; },
       [](const Stream& stream, const EqualMask& args) {
         dispatch_float(args.dtype, "equal_mask", [&]<class T>(std::type_identity<T>) {
           launch(stream,
                  {.name = "equal_mask",
                   .grid = {ceil_div<std::int64_t>(args.outer * args.reduced * args.inner, kThreads)},
                   .block = {kThreads},
                   .operands = {{"in", args.in, input_bytes(args)},
                                {"value", args.value, args.outer * args.inner * element_bytes(args.dtype)},
                                {"mask", args.mask, input_bytes(args)}}},
                  equal_mask_kernel<T>, args);
         });
       }},
  };
  return kVariants;
}
void equal_mask(const Stream& stream, const EqualMask& args) {
  run_variant("equal_mask", equal_mask_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
