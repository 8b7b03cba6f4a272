// Adding rows up by index without float atomics: sort the positions by key, then add each key's rows in order.
//   Sort:    least significant digit first, 8 bits per pass, tiles of 2048 positions. "count": a tile's digits, by
//            integer atomics in shared memory. "scan": where each tile's share of a digit begins, a warp per digit.
//            "place": a position's rank among the equal digits before it, from the lanes of its warp (match), the warps
//            before, and the rounds before: stable whatever the order of threads.
//   Add:     a team of 1 to 32 lanes (as many as a row has vectors) per key and strip of columns. Lists of over 256
//            positions are cut into pieces of 256 of the whole sorted list; "pieces" adds those that belong to such a
//            key into partial sums, which all teams of the key's block then add up together. So one key that takes the
//            whole list occupies the device as well as many do.
//   Mapping: blocks of 256 threads. Shared: 1 KiB (count), 9 KiB (place), up to 12 KiB (add).
#include <algorithm>

#include "kernels/common/block.h"
#include "kernels/common/launch.h"
#include "kernels/index.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;

// --- sort ------------------------------------------------------------------------------------------------------------

constexpr int kDigits = 256, kRounds = 8, kTile = kThreads * kRounds;
static_assert(kDigits == kThreads, "a thread per digit");

// Positions on the way through one pass. The first pass reads indices, later ones what the pass before has written.
struct Pass {
  std::int64_t count;
  std::int64_t extent, skip;
  const std::int64_t* indices;
  const std::int32_t* unsorted;
  const std::int32_t* from_keys;
  const std::int32_t* from_order;
  std::int32_t* keys;
  std::int32_t* order;
  std::int32_t* starts;  // [kDigits, tiles]: counts, then where they begin within their digit
  std::int32_t* totals;  // [kDigits]
  std::int32_t tiles;
  int shift;
};

WEFT_DEVICE std::int32_t key_at(const Pass& pass, std::int64_t n) {
  if (pass.from_keys != nullptr) return load_one(pass.from_keys + n);
  const std::int64_t key = pass.indices != nullptr ? load_one(pass.indices + n) : load_one(pass.unsorted + n);
  return static_cast<std::int32_t>(key < 0 || key >= pass.extent || key == pass.skip ? pass.extent : key);
}

WEFT_DEVICE int digit_of(const Pass& pass, std::int32_t key) { return (key >> pass.shift) & (kDigits - 1); }

WEFT_DEVICE int bits_set(unsigned mask) {
#if defined(__CUDACC__)
  return __popc(mask);
#else
  return __builtin_popcount(mask);
#endif
}

/// Sum over the lanes up to this one.
WEFT_DEVICE std::int32_t sum_up_to(std::int32_t value) {
  WEFT_UNROLL
  for (int step = 1; step < kWarpSize; step *= 2) {
    const std::int32_t other = __shfl_up_sync(kFullWarp, value, static_cast<unsigned>(step), kWarpSize);
    if (lane_index() >= step) value += other;
  }
  return value;
}

WEFT_KERNEL __launch_bounds__(kThreads) count_kernel(Pass pass) {
  WEFT_SHARED(std::int32_t, counts, kDigits);
  const int t = static_cast<int>(threadIdx.x);
  counts[t] = 0;
  __syncthreads();
  WEFT_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kTile + round * kThreads + t;
    if (n < pass.count) atomic_add_shared(counts, digit_of(pass, key_at(pass, n)), 1);
  }
  __syncthreads();
  store_one(pass.starts + static_cast<std::int64_t>(t) * pass.tiles + blockIdx.x, static_cast<std::int32_t>(counts[t]));
}

WEFT_KERNEL __launch_bounds__(kThreads) scan_kernel(Pass pass) {
  const int digit = static_cast<int>(blockIdx.x) * kWarps + warp_index();
  std::int32_t* const starts = pass.starts + static_cast<std::int64_t>(digit) * pass.tiles;
  std::int32_t carry = 0;
  for (std::int32_t first = 0; first < pass.tiles; first += kWarpSize) {
    const std::int32_t tile = first + lane_index();
    const std::int32_t value = tile < pass.tiles ? load_one(starts + tile) : 0;
    const std::int32_t up_to = sum_up_to(value);
    if (tile < pass.tiles) store_one(starts + tile, carry + up_to - value);
    carry += __shfl_sync(kFullWarp, up_to, kWarpSize - 1, kWarpSize);
  }
  if (lane_index() == 0) store_one(pass.totals + digit, carry);
}

WEFT_KERNEL __launch_bounds__(kThreads) place_kernel(Pass pass) {
  WEFT_SHARED(std::int32_t, warp_totals, kWarps);
  WEFT_SHARED(std::int32_t, places, kWarps * kDigits);  // of each warp: counts of a round, then where they go
  const int t = static_cast<int>(threadIdx.x), warp = warp_index();
  // Where this tile's share of digit t goes: behind all smaller digits, and those of the tiles before.
  const std::int32_t total = load_one(pass.totals + t), up_to = sum_up_to(total);
  if (lane_index() == kWarpSize - 1) warp_totals[warp] = up_to;
  __syncthreads();
  std::int32_t next = up_to - total + load_one(pass.starts + static_cast<std::int64_t>(t) * pass.tiles + blockIdx.x);
  WEFT_UNROLL
  for (int w = 0; w < kWarps; ++w)
    if (w < warp) next += warp_totals[w];
  const std::int64_t left = pass.count - static_cast<std::int64_t>(blockIdx.x) * kTile;
  const int rounds = static_cast<int>(ceil_div<std::int64_t>(smaller<std::int64_t>(left, kTile), kThreads));
  WEFT_NO_UNROLL
  for (int round = 0; round < rounds; ++round) {
    WEFT_UNROLL
    for (int w = 0; w < kWarps; ++w) places[w * kDigits + t] = 0;
    __syncthreads();
    const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kTile + round * kThreads + t;
    const bool exists = n < pass.count;
    const std::int32_t key = exists ? key_at(pass, n) : 0;
    const int digit = exists ? digit_of(pass, key) : kDigits;
    const unsigned equals = __match_any_sync(kFullWarp, digit);
    const int rank = bits_set(equals & ((1u << lane_index()) - 1));
    if (exists && rank == 0) places[warp * kDigits + digit] = bits_set(equals);
    __syncthreads();
    WEFT_UNROLL
    for (int w = 0; w < kWarps; ++w) {
      const std::int32_t count = places[w * kDigits + t];
      places[w * kDigits + t] = next;
      next += count;
    }
    __syncthreads();
    if (exists) {
      const std::int32_t to = places[warp * kDigits + digit] + rank;
      store_one(pass.keys + to, key);
      store_one(pass.order + to,
                pass.from_order != nullptr ? load_one(pass.from_order + n) : static_cast<std::int32_t>(n));
    }
    __syncthreads();
  }
}

bool radix_supports(const IndexSort& args) { return args.count < (std::int64_t{1} << 31); }

void radix_run(const Stream& stream, const IndexSort& args) {
  if (args.count == 0) return;
  int passes = 1;
  while (args.extent >> (8 * passes) > 0) ++passes;
  const std::int64_t tiles = ceil_div<std::int64_t>(args.count, kTile);
  std::int32_t* const totals = args.workspace + kDigits * tiles;
  std::int32_t* const other_keys = totals + kDigits;
  std::int32_t* const other_order = other_keys + args.count;
  Pass pass{.count = args.count,
            .extent = args.extent,
            .skip = args.skip,
            .indices = args.indices,
            .unsorted = args.unsorted,
            .from_keys = nullptr,
            .from_order = nullptr,
            .keys = nullptr,
            .order = nullptr,
            .starts = args.workspace,
            .totals = totals,
            .tiles = static_cast<std::int32_t>(tiles),
            .shift = 0};
  const std::int64_t list_bytes = args.count * 4;
  for (int i = 0; i < passes; ++i) {
    const bool into_result = (passes - 1 - i) % 2 == 0;
    pass.keys = into_result ? args.keys : other_keys;
    pass.order = into_result ? args.order : other_order;
    pass.shift = 8 * i;
    const bool first = i == 0;
    const Operand from = first ? (args.indices != nullptr ? Operand{"indices", args.indices, args.count * 8}
                                                          : Operand{"unsorted", args.unsorted, list_bytes})
                               : Operand{"from_keys", pass.from_keys, list_bytes};
    const Operand starts{"starts", pass.starts, kDigits * tiles * 4, OperandKind::workspace};
    const Operand sums{"totals", totals, kDigits * 4, OperandKind::workspace};
    launch(stream, {.name = "index_sort_count", .grid = {tiles}, .block = {kThreads}, .operands = {from, starts}},
           count_kernel, pass);
    launch(stream,
           {.name = "index_sort_scan", .grid = {kDigits / kWarps}, .block = {kThreads}, .operands = {starts, sums}},
           scan_kernel, pass);
    launch(stream,
           {.name = "index_sort_place",
            .grid = {tiles},
            .block = {kThreads},
            .operands = {from,
                         {"from_order", pass.from_order, first ? 0 : list_bytes},
                         starts,
                         sums,
                         {"keys", pass.keys, list_bytes},
                         {"order", pass.order, list_bytes}}},
           place_kernel, pass);
    pass.from_keys = pass.keys;
    pass.from_order = pass.order;
  }
}

constexpr Variant<IndexSort> kSortVariants[] = {
    {"radix", "8 bits per pass, stable ranks by match within a warp", radix_supports, radix_run},
};

// --- add -------------------------------------------------------------------------------------------------------------

struct Adding {
  IndexAdd args;
  int lanes;            // of a team, a power of two
  std::int64_t strips;  // of lanes * width columns
  std::int64_t pieces;
};

/// The first place of the sorted list whose key is not below `key`.
WEFT_DEVICE std::int64_t first_of(const IndexAdd& args, std::int64_t key) {
  std::int64_t low = 0, high = args.count;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (load_one<Cache::readonly>(args.keys + middle) < key)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/// sum += the rows order[begin, end) of source, in order; `source` points to the team's column of row 0.
template <class S, int kWidth>
WEFT_DEVICE void add_rows(Vec<compute_t<S>, kWidth>& sum, const S* source, const IndexAdd& args, std::int64_t begin,
                          std::int64_t end) {
  constexpr int kBatch = 4;
  WEFT_NO_UNROLL
  for (std::int64_t j = begin; j < end; j += kBatch) {
    Vec<S, kWidth> stored[kBatch];
    WEFT_UNROLL
    for (int b = 0; b < kBatch; ++b)
      if (j + b < end)
        stored[b] = load<kWidth, Cache::readonly>(source + load_one<Cache::readonly>(args.order + j + b) * args.inner);
    WEFT_UNROLL
    for (int b = 0; b < kBatch; ++b) {
      if (j + b >= end) break;
      const Vec<compute_t<S>, kWidth> value = widen(stored[b]);
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) sum[i] += value[i];
    }
  }
}

template <class C, int kWidth>
WEFT_DEVICE void clear(Vec<C, kWidth>& sum) {
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) sum[i] = C(0);
}

/// A team's row of partial sums, in accesses of at most 16 bytes.
template <class C, int kWidth>
constexpr int kPartWidth = kWidth* static_cast<int>(sizeof(C)) > 16 ? 16 / static_cast<int>(sizeof(C)) : kWidth;

template <class C, int kWidth>
WEFT_DEVICE void store_partial(C* to, const Vec<C, kWidth>& sum) {
  constexpr int kPart = kPartWidth<C, kWidth>;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; i += kPart) {
    Vec<C, kPart> part;
    WEFT_UNROLL
    for (int k = 0; k < kPart; ++k) part[k] = sum[i + k];
    store(to + i, part);
  }
}
template <class C, int kWidth>
WEFT_DEVICE void add_partial(Vec<C, kWidth>& sum, const C* from) {
  constexpr int kPart = kPartWidth<C, kWidth>;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; i += kPart) {
    const Vec<C, kPart> part = load<kPart>(from + i);
    WEFT_UNROLL
    for (int k = 0; k < kPart; ++k) sum[i + k] += part[k];
  }
}

// Piece j has two rows of partials: of its first key, and of its last, where those have long lists.
template <class S, int kWidth>
WEFT_KERNEL __launch_bounds__(kThreads) pieces_kernel(Adding adding) {
  using C = compute_t<S>;
  const IndexAdd& args = adding.args;
  const int lane = static_cast<int>(threadIdx.x) % adding.lanes, team = static_cast<int>(threadIdx.x) / adding.lanes;
  const std::int64_t unit = static_cast<std::int64_t>(blockIdx.x) * (kThreads / adding.lanes) + team;
  const std::int64_t row = unit / adding.strips, column = ((unit - row * adding.strips) * adding.lanes + lane) * kWidth;
  const std::int64_t o = row / (2 * adding.pieces), piece = row / 2 - o * adding.pieces;
  if (o >= args.outer || column >= args.inner) return;
  const bool second = row % 2 == 1;
  const std::int64_t begin = piece * kIndexPiece, end = smaller<std::int64_t>(begin + kIndexPiece, args.count);
  const std::int32_t key = load_one(args.keys + (second ? end - 1 : begin));
  if (key == args.extent || (second && key == load_one(args.keys + begin))) return;
  const std::int64_t first = first_of(args, key), last = first_of(args, static_cast<std::int64_t>(key) + 1);
  if (last - first <= kIndexPiece) return;
  Vec<C, kWidth> sum;
  clear(sum);
  add_rows(sum, static_cast<const S*>(args.source) + o * args.count * args.inner + column, args,
           larger<std::int64_t>(begin, first), smaller<std::int64_t>(end, last));
  store_partial(static_cast<C*>(args.partials) + row * args.inner + column, sum);
}

template <class S, int kWidth>
WEFT_KERNEL __launch_bounds__(kThreads) add_kernel(Adding adding) {
  using C = compute_t<S>;
  WEFT_SHARED(C, sums, kWidth * kThreads);
  WEFT_SHARED(std::int32_t, firsts, kThreads);  // of each team's list
  WEFT_SHARED(std::int32_t, lasts, kThreads);
  const IndexAdd& args = adding.args;
  const int lane = static_cast<int>(threadIdx.x) % adding.lanes, team = static_cast<int>(threadIdx.x) / adding.lanes;
  const int teams = kThreads / adding.lanes;
  const std::int64_t key_blocks = ceil_div<std::int64_t>(args.extent, teams);
  const std::int64_t tile = blockIdx.x / adding.strips;
  const std::int64_t o = tile / key_blocks, first_key = (tile - o * key_blocks) * teams, key = first_key + team;
  const std::int64_t column = ((blockIdx.x - tile * adding.strips) * adding.lanes + lane) * kWidth;
  const S* const source = static_cast<const S*>(args.source) + o * args.count * args.inner + column;
  S* const out = static_cast<S*>(args.out) + (o * args.extent + key) * args.inner + column;
  const bool exists = key < args.extent, writes = exists && column < args.inner;
  const std::int64_t begin = exists ? first_of(args, key) : 0, end = exists ? first_of(args, key + 1) : 0;
  const bool is_long = end - begin > kIndexPiece;

  const auto write = [&](Vec<C, kWidth> sum) {
    if (args.mode == Accumulate::add) {
      const Vec<C, kWidth> before = widen(load<kWidth>(out));
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) sum[i] = before[i] + sum[i];
    }
    store(out, narrow<S>(sum));
  };

  Vec<C, kWidth> sum;
  clear(sum);
  if (writes && !is_long && (begin < end || args.mode == Accumulate::overwrite)) {
    add_rows(sum, source, args, begin, end);
    write(sum);
  }

  if (lane == 0) {
    firsts[team] = static_cast<std::int32_t>(begin);
    lasts[team] = static_cast<std::int32_t>(end);
  }
  if (__syncthreads_or(is_long ? 1 : 0) == 0) return;
  const C* const partials = static_cast<const C*>(args.partials) + o * adding.pieces * 2 * args.inner + column;
  WEFT_NO_UNROLL
  for (int owner = 0; owner < teams; ++owner) {
    const std::int64_t first = firsts[owner], last = lasts[owner];
    if (last - first <= kIndexPiece) continue;
    // Consecutive pieces for each team, so that the sum runs in the order of the list.
    const std::int64_t first_piece = first / kIndexPiece, past_piece = ceil_div<std::int64_t>(last, kIndexPiece);
    const std::int64_t share = ceil_div<std::int64_t>(past_piece - first_piece, teams);
    const std::int64_t from = first_piece + team * share, to = smaller<std::int64_t>(from + share, past_piece);
    clear(sum);
    if (column < args.inner) {
      WEFT_NO_UNROLL
      for (std::int64_t piece = from; piece < to; ++piece)  // its second row where the list begins within the piece
        add_partial(sum, partials + (piece * 2 + (piece * kIndexPiece < first ? 1 : 0)) * args.inner);
    }
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) sums[i * kThreads + static_cast<int>(threadIdx.x)] = sum[i];
    __syncthreads();
    if (team == owner && writes) {
      clear(sum);
      WEFT_NO_UNROLL
      for (int t = 0; t < teams; ++t) {
        WEFT_UNROLL
        for (int i = 0; i < kWidth; ++i) sum[i] += sums[i * kThreads + t * adding.lanes + lane];
      }
      write(sum);
    }
    __syncthreads();
  }
}

bool add_vectorised_supports(const IndexAdd& args) {
  return args.inner * element_bytes(args.dtype) % 16 == 0 && is_aligned(args.source, 16) && is_aligned(args.out, 16);
}

template <bool kVectorised>
void add_run(const Stream& stream, const IndexAdd& args) {
  if (args.outer * args.extent * args.inner == 0) return;
  dispatch_float(args.dtype, "index_add", [&]<class S>(std::type_identity<S>) {
    constexpr int kWidth = kVectorised ? kVectorWidth<S> : 1;
    const std::int64_t vectors = args.inner / kWidth;
    Adding adding{.args = args, .lanes = 1, .strips = 1, .pieces = ceil_div<std::int64_t>(args.count, kIndexPiece)};
    while (adding.lanes < vectors && adding.lanes < kWarpSize) adding.lanes *= 2;
    adding.strips = ceil_div<std::int64_t>(vectors, adding.lanes);
    const std::int64_t teams = kThreads / adding.lanes;
    const std::int64_t bytes = sizeof(S), rows = adding.pieces * 2 * args.outer;
    const Operand source{"source", args.source, args.outer * args.count * args.inner * bytes};
    const Operand keys{"keys", args.keys, args.count * 4, OperandKind::broadcast};
    const Operand order{"order", args.order, args.count * 4, OperandKind::broadcast};
    const Operand partials{
        "partials", args.partials,
        args.count > kIndexPiece ? rows * args.inner * static_cast<std::int64_t>(sizeof(compute_t<S>)) : 0,
        OperandKind::workspace};
    if (args.count > kIndexPiece)
      launch(stream,
             {.name = "index_add_pieces",
              .grid = {ceil_div<std::int64_t>(rows * adding.strips, teams)},
              .block = {kThreads},
              .operands = {source, keys, order, partials}},
             pieces_kernel<S, kWidth>, adding);
    launch(
        stream,
        {.name = "index_add",
         .grid = {ceil_div<std::int64_t>(args.extent, teams) * adding.strips * args.outer},
         .block = {kThreads},
         .operands = {source, keys, order, partials, {"out", args.out, args.outer * args.extent * args.inner * bytes}}},
        add_kernel<S, kWidth>, adding);
  });
}

constexpr Variant<IndexAdd> kAddVariants[] = {
    {"vectorised", "16 bytes per lane, a team of lanes per key", add_vectorised_supports, add_run<true>},
    {"scalar", "an element per lane", [](const IndexAdd&) { return true; }, add_run<false>},
};

}  // namespace

std::span<const Variant<IndexSort>> index_sort_variants() { return kSortVariants; }
std::span<const Variant<IndexAdd>> index_add_variants() { return kAddVariants; }

void index_sort(const Stream& stream, const IndexSort& args) {
  run_variant("index_sort", index_sort_variants(), stream, args);
}
void index_add(const Stream& stream, const IndexAdd& args) {
  run_variant("index_add", index_add_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
