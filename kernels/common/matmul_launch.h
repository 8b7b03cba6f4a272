#pragma once
// How products by tiles are started: the tiles' shapes, and the second kernel that adds up what a long sum was cut into.
// Shared by linear.cu and matmul.cu.
#include "kernels/common/matmul.h"

namespace weft::kernels::WEFT_BACKEND {

// --- partial sums ---------------------------------------------------------------------------------------------------

struct Partial {
  const void* partial;  // in, [chunks, count] in compute type
  std::int64_t count;
  std::int64_t columns;  // of the result, for the bias
  const void* bias;      // in, [columns] or null
  bool relu;
  void* out;  // out or inout, [count]
  Accumulate mode;
};
struct Partials {
  Partial first, second;  // a weight gradient's second one is its bias'
  std::int64_t chunks;
  int groups;  // of threads that share an element's chunks; divides kCombineThreads
};
constexpr int kCombineThreads = 256;

// out = sum over the chunks, in order. A thread per element; where chunks are many, 8 groups of threads each add up an
// eighth of them. Elements are read one by one: the sums are short and want many threads more than wide loads.
template <class T>
WEFT_KERNEL __launch_bounds__(kCombineThreads) combine_kernel(Partials args) {
  using C = compute_t<T>;
  WEFT_SHARED(C, group_sums, kCombineThreads);
  const Partial job = blockIdx.y == 0 ? args.first : args.second;
  const int elements = kCombineThreads / args.groups, thread = static_cast<int>(threadIdx.x);
  const int group = thread / elements;
  const std::int64_t element = static_cast<std::int64_t>(blockIdx.x) * elements + thread % elements;
  const std::int64_t share = ceil_div<std::int64_t>(args.chunks, args.groups);
  const std::int64_t end = smaller((group + 1) * share, args.chunks);
  const C* const partial = static_cast<const C*>(job.partial);
  C sum = C(0);
  if (element < job.count) {
    for (std::int64_t chunk = group * share; chunk < end; ++chunk)
      sum += load_one(partial + chunk * job.count + element);
  }
  if (args.groups > 1) {
    group_sums[thread] = sum;
    __syncthreads();
    if (group == 0)
      for (int other = 1; other < args.groups; ++other) sum += group_sums[other * elements + thread];
  }
  if (group > 0 || element >= job.count) return;
  if (job.bias != nullptr) sum += widen(load_one(static_cast<const T*>(job.bias) + element % job.columns));
  finish_one(static_cast<T*>(job.out) + element, sum, job.relu, job.mode);
}

template <class T>
void combine(const Stream& stream, const char* name, const Partial& first, const Partial& second, std::int64_t chunks) {
  using C = compute_t<T>;
  const int groups = chunks >= 16 ? 8 : 1;
  const std::int64_t blocks = ceil_div<std::int64_t>(std::max(first.count, second.count), kCombineThreads / groups);
  const auto bytes = [&](const Partial& part) { return chunks * part.count * static_cast<std::int64_t>(sizeof(C)); };
  launch(
      stream,
      {.name = name,
       .grid = {blocks, second.count > 0 ? 2 : 1},
       .block = {kCombineThreads},
       .operands = {{"partial", first.partial, bytes(first), OperandKind::workspace},
                    {"partial_sums", second.partial, bytes(second), OperandKind::workspace},
                    {"bias", first.bias, first.columns * static_cast<std::int64_t>(sizeof(T)), OperandKind::broadcast},
                    {"out", first.out, first.count * static_cast<std::int64_t>(sizeof(T))},
                    {"sums", second.out, second.count * static_cast<std::int64_t>(sizeof(T))}}},
      combine_kernel<T>, Partials{first, second, chunks, groups});
}

// --- products by tiles ----------------------------------------------------------------------------------------------

// Depths give every thread about one 16-byte load of each operand per tile.
template <class T>
inline constexpr int kDepth = sizeof(T) == 8 ? 8 : 16;
template <class T>
using Tile64 = std::conditional_t<sizeof(T) == 8, Tile<64, 64, 4, 4, 4, 4, 8, 2>, Tile<64, 64, 8, 4, 4, 2, 16, 4>>;
template <class T>  // f64 has no larger one: its sums would not fit the registers
using Tile128 = std::conditional_t<sizeof(T) == 8, Tile64<T>, Tile<128, 128, 8, 8, 4, 4, sizeof(T) == 4 ? 8 : 16, 2>>;
template <class T>
using NarrowN = Tile<128, 16, 4, 4, 8, 4, kDepth<T>, 4>;
template <class T>
using NarrowM = Tile<16, 128, 4, 4, 4, 1, kDepth<T>, 4>;

/// The operands' names in traces and tables.
struct Names {
  const char *kernel, *combine, *a, *b, *c, *sums;
};

/// Runs the product (or the batch of them) by tiles of this shape, and adds up its chunks.
template <class T, class Tile, Contiguous kA, Contiguous kB, Products kProducts = Products::one>
void multiply(const Stream& stream, const Names& names, const Matmul& args, const MatmulPlan& plan) {
  using C = compute_t<T>;
  constexpr auto kSize = static_cast<std::int64_t>(sizeof(T));
  constexpr int kGroup = 16 / sizeof(C);
  const bool split = plan.chunks > 1;
  const std::int64_t results = args.batch.count * args.m * args.n;
  if (results == 0) return;
  require(plan.chunk <= std::numeric_limits<std::int32_t>::max(), names.kernel, "a sum of {} products is too long",
          args.k);
  require(!split || args.partial != nullptr, names.kernel, "the workspace is missing");
  const std::int64_t sums = args.sums != nullptr ? args.m : 0, partial = plan.chunks * results;
  const std::int64_t a_row = a_row_elems(args, kA), b_row = b_row_elems(args, kB);
  const std::int64_t a_rows = kA == Contiguous::k ? args.m : args.k, b_rows = kB == Contiguous::k ? args.n : args.k;
  // From the first element that is read to the last, and whether every row of every matrix can be read in vectors.
  std::int64_t a_span = (a_rows - 1) * a_row + args.m + args.k - a_rows;
  std::int64_t b_span = (b_rows - 1) * b_row + args.n + args.k - b_rows;
  bool a_aligned = rows_aligned<T>(args.a, a_row), b_aligned = rows_aligned<T>(args.b, b_row);
  for (int d = 0; d < args.batch.dims; ++d) {
    a_span += (args.batch.extent[d] - 1) * args.batch.a_step[d];
    b_span += (args.batch.extent[d] - 1) * args.batch.b_step[d];
    a_aligned = a_aligned && args.batch.a_step[d] % kVectorWidth<T> == 0;
    b_aligned = b_aligned && args.batch.b_step[d] % kVectorWidth<T> == 0;
  }
  if (args.k == 0) a_span = b_span = 0;
  Matmul part = args;
  part.a_row = a_row;
  part.b_row = b_row;
  constexpr std::int64_t kMostProducts = 65535;  // of a launch
  for (; part.batch_first < args.batch.count; part.batch_first += kMostProducts)
    launch(stream,
           {.name = names.kernel,
            .grid = {plan.tiles_m * plan.tiles_n, std::min(args.batch.count - part.batch_first, kMostProducts),
                     plan.chunks},
            .block = {Tile::kThreads},
            .operands = {{names.a, args.a, a_span * kSize},
                         {names.b, args.b, b_span * kSize},
                         {"bias", args.bias, args.n * kSize, OperandKind::broadcast},
                         {names.c, args.c, results * kSize},
                         {names.sums, args.sums, sums * kSize},
                         {"partial", args.partial,
                          split ? (partial + plan.chunks * sums) * static_cast<std::int64_t>(sizeof(C)) : 0,
                          OperandKind::workspace}}},
           matmul_kernel<T, Tile, kA, kB, kProducts>, part, plan, a_aligned, b_aligned,
           args.n % kGroup == 0 && is_aligned(split ? args.partial : args.c, (split ? sizeof(C) : sizeof(T)) * kGroup));
  if (!split) return;
  combine<T>(stream, names.combine, {args.partial, results, args.n, args.bias, args.relu, args.c, args.mode},
             {static_cast<C*>(args.partial) + partial, sums, 1, nullptr, false, args.sums, args.sums_mode},
             plan.chunks);
}

/// Runs the variant that a plan named.
template <class Args>
void run_named(const char* op, std::span<const Variant<Args>> variants, std::string_view name, const Stream& stream,
               const Args& args) {
  for (const Variant<Args>& variant : variants)
    if (variant.name == name) return variant.run(stream, args);
  fail(op, "no variant is named {}", name);
}

}  // namespace weft::kernels::WEFT_BACKEND
