// LayerNorm backward: x and dy are read once. A fixed number of blocks walks over the rows; a row's x and dy stay in
// registers between its three sums and dx, and while they are worked on, the next row is already on its way. Each
// thread keeps the same columns all the way down, so that dgamma and dbeta gather in its own registers; they leave as
// one row of partial sums per block, which a second kernel adds in order.
//   registers  teams of 8, 32, 128, 256 or 512 threads per row, eight elements and their sums per thread: C up to 4096.
//              Teams of 8 or 32 share a block of 128 and add up their sums at its end, one team after the other.
//   wide       512 or 1024 threads, sixteen elements per thread, the sums in shared memory: 8C bytes (16C for f64), up
//              to C = 16384 (8192 of f64, and one element at a time). Each thread meets its own sums only, 16 bytes per
//              lane side by side: no bank conflict.
//   reread     any C, in two passes: the sums of each row, then dx and the columns' sums. It adds in the same order as
//              `wide`, so a GPU without that much shared memory gets the same bits.
//   Vectors of 16 bytes where all rows start on 16 bytes, else one element at a time. One barrier per row: the exchange
//   of the sums alternates between two buffers.
//   Where it comes from: the persistent walk is apex's FastLayerNorm (NVIDIA/apex PR 1037), the partial sums with a
//   fixed order quack's (Dao-AILab/quack, dw_partial).
#include "kernels/common/block.h"
#include "kernels/common/launch.h"
#include "kernels/common/wide_vector.h"
#include "kernels/layer_norm.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kElems = 8;               // of a row, per thread, with the sums in registers
constexpr int kWideElems = 16;          // with the sums in shared memory
constexpr int kTileThreads = 256;       // of `reread`'s second pass
constexpr int kInFlight = 4;            // loads per operand that a thread starts before it waits for the first
constexpr int kRowInFlight = 2;         // the same in its first pass, whose blocks are larger
constexpr int kSumColumns = kWarpSize;  // of one block that adds partial sums
constexpr int kSumGroups = 8;           // of its threads, each with every eighth partial sum

/// dx = rstd g + slope (x - mean) + offset;  xhat = (x - mean) rstd + xhat_offset
template <class C>
struct RowFactors {
  C mean, rstd, slope, offset, xhat_offset;
};

/// From a row's sums of x - mean, of g, and of g (x - mean). The first finds what the saved mean lost by rounding.
template <class C>
WEFT_DEVICE RowFactors<C> row_factors(C mean, C rstd, const C (&sums)[3], C count) {
  const C rest = sums[0] / count;
  const C mean_gx = rstd * (sums[2] - rest * sums[1]) / count;
  const C slope = -rstd * rstd * mean_gx;
  return {mean, rstd, slope, -rstd * (sums[1] / count) - slope * rest, -rest * rstd};
}

template <class C>
WEFT_DEVICE void add_to_sums(C x, C dy, C weight, C mean, C (&sums)[3]) {
  const C difference = x - mean, g = dy * weight;
  sums[0] += difference;
  sums[1] += g;
  sums[2] = fused(g, difference, sums[2]);
}

template <class C>
WEFT_DEVICE C input_gradient(C x, C dy, C weight, const RowFactors<C>& of) {
  return fused(of.rstd, dy * weight, fused(of.slope, x - of.mean, of.offset));
}

template <class C>
WEFT_DEVICE C times_xhat(C x, C dy, const RowFactors<C>& of, C sum) {
  return fused(dy, fused(x - of.mean, of.rstd, of.xhat_offset), sum);
}

/// gamma[c, c + kWidth), or ones.
template <class T, int kWidth>
WEFT_DEVICE Vec<T, kWidth> load_weight(const void* gamma, std::int64_t c) {
  if (gamma != nullptr) return load<kWidth, Cache::readonly>(static_cast<const T*>(gamma) + c);
  Vec<T, kWidth> ones;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) ones[i] = narrow<T>(compute_t<T>(1));
  return ones;
}

/// Where column c lies in a row of partial sums. Eight halves per thread make two pieces of four sums; with bits 2 and
/// 3 of c exchanged, neighbouring threads' first pieces lie side by side and fill whole sectors, and so do the second
/// ones.
template <int kWidth>
WEFT_DEVICE std::int64_t partial_index(std::int64_t c) {
  return kWidth == 8 ? (c & ~std::int64_t{12}) | (c & 4) << 1 | (c & 8) >> 1 : c;
}

/// The sums of columns [c, c + kWidth) to a row of partial sums.
template <class C, int kWidth>
WEFT_DEVICE void store_partials(C* row, std::int64_t c, const Vec<C, kWidth>& sums) {
  constexpr int kP = kPiece<C, kWidth>;
  WEFT_UNROLL
  for (int q = 0; q < kWidth; q += kP) {
    Vec<C, kP> piece;
    WEFT_UNROLL
    for (int i = 0; i < kP; ++i) piece[i] = sums[q + i];
    store(row + partial_index<kWidth>(c + q), piece);
  }
}

/// kWidth sums of one thread in shared memory, in pieces that its warp's lanes hold side by side. `slot` counts groups
/// of kWidth * kThreads elements.
template <class C, int kWidth, int kThreads>
struct SharedSums {
  static constexpr int kP = kPiece<C, kWidth>;
  static WEFT_DEVICE int at(int slot, int thread) { return slot * kWidth * kThreads + thread * kP; }
  static WEFT_DEVICE void put(Shared<C> sums, int slot, int thread, const Vec<C, kWidth>& value) {
    store_shared_wide<C>(sums, at(slot, thread), kThreads * kP, value);
  }
  static WEFT_DEVICE Vec<C, kWidth> get(Shared<C> sums, int slot, int thread) {
    return load_shared_wide<kWidth, C>(sums, at(slot, thread), kThreads * kP);
  }
};

/// What a thread holds of one row.
template <class T, int kWidth, int kVectors>
struct RowPart {
  Vec<T, kWidth> x[kVectors], dy[kVectors];
  compute_t<T> mean, rstd;
};

/// Whether the next row is loaded before this one is worked on; f64 would not leave registers for that.
enum class Prefetch : std::uint8_t { no, yes };

/// kPerThread elements per thread: kElems with the sums in registers, kWideElems with the sums in dynamic shared
/// memory.
template <class T, int kWidth, int kTeam, int kPerThread, Prefetch kPrefetch>
WEFT_KERNEL __launch_bounds__(kTeam > kWarpSize ? kTeam : 128)
    resident_kernel(const LayerNormBackward args, std::int64_t stride) {
  using C = compute_t<T>;
  constexpr int kThreads = kTeam > kWarpSize ? kTeam : 128;
  constexpr int kTeams = kThreads / kTeam;
  constexpr int kVectors = kPerThread / kWidth;
  constexpr bool kWide = kPerThread == kWideElems;
  constexpr int kScratch = kTeam > kWarpSize ? 3 * (kTeam / kWarpSize) : 1;
  using Slots = SharedSums<C, kWidth, kTeam>;
  static_assert(kTeams == 1 || !kWide);
  WEFT_SHARED(C, scratch, 2 * kScratch);
  WEFT_SHARED(C, team_sums, kTeams > 1 ? 2 * kPerThread * kTeam : 1);
  WEFT_SHARED_DYNAMIC(C, wide_sums);

  const int lane = static_cast<int>(threadIdx.x) % kTeam, team = static_cast<int>(threadIdx.x) / kTeam;
  const int channels = static_cast<int>(args.channels);
  const auto count = static_cast<C>(channels);
  const bool sums_wanted = args.dgamma != nullptr || args.dbeta != nullptr;
  const auto column = [&](int v) { return (v * kTeam + lane) * kWidth; };  // [0, C) or past the end

  constexpr bool kKeepGamma = !kWide && sizeof(T) < 8;
  Vec<T, kWidth> gamma[kKeepGamma ? kVectors : 1] = {};
  if constexpr (kKeepGamma) {
    WEFT_UNROLL
    for (int v = 0; v < kVectors; ++v)
      if (column(v) < channels) gamma[v] = load_weight<T, kWidth>(args.gamma, column(v));
  }
  const auto weight = [&](int v) {
    if constexpr (kKeepGamma)
      return widen(gamma[v]);
    else  // read again for every row, from the L1: the registers are full
      return widen(load_weight<T, kWidth>(args.gamma, column(v)));
  };

  Vec<C, kWidth> dgamma[kWide ? 1 : kVectors] = {}, dbeta[kWide ? 1 : kVectors] = {};
  if constexpr (kWide) {
    WEFT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      if (column(v) >= channels || !sums_wanted) continue;
      Slots::put(wide_sums, 2 * v, lane, {});
      Slots::put(wide_sums, 2 * v + 1, lane, {});
    }
  }

  const auto fetch = [&](std::int64_t row) {
    RowPart<T, kWidth, kVectors> part{};
    if (row >= args.rows) return part;  // all 0: adds nothing to any sum
    part.mean = load_one(static_cast<const C*>(args.mean) + row);
    part.rstd = load_one(static_cast<const C*>(args.rstd) + row);
    WEFT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      if (column(v) >= channels) continue;
      const std::int64_t at = row * channels + column(v);
      part.x[v] = load<kWidth, Cache::streaming>(static_cast<const T*>(args.x) + at);
      part.dy[v] = load<kWidth, Cache::streaming>(static_cast<const T*>(args.dy) + at);
    }
    return part;
  };

  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kTeams;
  std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kTeams;  // row of the block's first team
  RowPart<T, kWidth, kVectors> part = fetch(first + team);
  int buffer = 0;
  WEFT_NO_UNROLL
  for (; first < args.rows; first += step) {  // as often for every team: all lanes take part in the shuffles
    const std::int64_t row = first + team;
    RowPart<T, kWidth, kVectors> next;
    if constexpr (kPrefetch == Prefetch::yes) next = fetch(row + step);

    C sums[3] = {C(0), C(0), C(0)};
    WEFT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      if (column(v) >= channels) continue;  // lanes past the end must not enter the sums
      const Vec<C, kWidth> w = weight(v), x = widen(part.x[v]), dy = widen(part.dy[v]);
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) add_to_sums(x[i], dy[i], w[i], part.mean, sums);
    }
    block_sums<kTeam>(sums, scratch + buffer * kScratch);
    buffer ^= 1;  // a thread that is late may still read the old one
    const RowFactors<C> of = row_factors(part.mean, part.rstd, sums, count);

    WEFT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      if (column(v) >= channels) continue;
      const Vec<C, kWidth> x = widen(part.x[v]), dy = widen(part.dy[v]);
      if (args.dx != nullptr && row < args.rows) {
        const Vec<C, kWidth> w = weight(v);
        Vec<C, kWidth> dx;
        WEFT_UNROLL
        for (int i = 0; i < kWidth; ++i) dx[i] = input_gradient(x[i], dy[i], w[i], of);
        store(static_cast<T*>(args.dx) + row * channels + column(v), narrow<T>(dx));
      }
      if (!sums_wanted) continue;
      Vec<C, kWidth>& to_dgamma = dgamma[kWide ? 0 : v];
      Vec<C, kWidth>& to_dbeta = dbeta[kWide ? 0 : v];
      if constexpr (kWide) {
        to_dgamma = Slots::get(wide_sums, 2 * v, lane);
        to_dbeta = Slots::get(wide_sums, 2 * v + 1, lane);
      }
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) {
        to_dgamma[i] = times_xhat(x[i], dy[i], of, to_dgamma[i]);
        to_dbeta[i] += dy[i];
      }
      if constexpr (kWide) {
        Slots::put(wide_sums, 2 * v, lane, to_dgamma);
        Slots::put(wide_sums, 2 * v + 1, lane, to_dbeta);
      }
    }
    if constexpr (kPrefetch == Prefetch::yes)
      part = next;
    else
      part = fetch(row + step);
  }

  if (!sums_wanted) return;
  C* const partials = static_cast<C*>(args.partials) + static_cast<std::int64_t>(blockIdx.x) * 2 * stride;
  WEFT_UNROLL
  for (int t = 0; t < kTeams; ++t) {
    if (team == t) {
      WEFT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        if (column(v) >= channels) continue;
        Vec<C, kWidth> own[2];
        if constexpr (kWide) {
          own[0] = Slots::get(wide_sums, 2 * v, lane);
          own[1] = Slots::get(wide_sums, 2 * v + 1, lane);
        } else {
          own[0] = dgamma[v];
          own[1] = dbeta[v];
        }
        WEFT_UNROLL
        for (int which = 0; which < 2; ++which) {
          if (t > 0) {
            const Vec<C, kWidth> before = Slots::get(team_sums, 2 * v + which, lane);
            WEFT_UNROLL
            for (int i = 0; i < kWidth; ++i) own[which][i] += before[i];
          }
          if (t + 1 < kTeams)
            Slots::put(team_sums, 2 * v + which, lane, own[which]);
          else
            store_partials(partials + which * stride, column(v), own[which]);
        }
      }
    }
    if (t + 1 < kTeams) __syncthreads();
  }
}

/// `reread`, first pass, one block per row: slope, offset and xhat_offset of each row.
template <class T, int kWidth, int kThreads>
WEFT_KERNEL __launch_bounds__(kThreads) rows_kernel(const LayerNormBackward args, compute_t<T>* factors) {
  using C = compute_t<T>;
  WEFT_SHARED(C, scratch, 3 * (kThreads / kWarpSize));
  const std::int64_t row = blockIdx.x, channels = args.channels;
  const C mean = load_one(static_cast<const C*>(args.mean) + row);
  const C rstd = load_one(static_cast<const C*>(args.rstd) + row);
  const T* const row_x = static_cast<const T*>(args.x) + row * channels;
  const T* const row_dy = static_cast<const T*>(args.dy) + row * channels;
  constexpr std::int64_t kStep = kThreads * kWidth;
  C sums[3] = {C(0), C(0), C(0)};
  WEFT_NO_UNROLL
  for (std::int64_t c = static_cast<int>(threadIdx.x) * kWidth; c < channels; c += kRowInFlight * kStep) {
    Vec<T, kWidth> x[kRowInFlight] = {}, dy[kRowInFlight] = {};
    WEFT_UNROLL
    for (int u = 0; u < kRowInFlight; ++u) {
      if (c + u * kStep >= channels) continue;
      x[u] = load<kWidth>(row_x + c + u * kStep);
      dy[u] = load<kWidth>(row_dy + c + u * kStep);
    }
    WEFT_UNROLL
    for (int u = 0; u < kRowInFlight; ++u) {
      if (c + u * kStep >= channels) continue;
      const Vec<C, kWidth> w = widen(load_weight<T, kWidth>(args.gamma, c + u * kStep));
      const Vec<C, kWidth> some_x = widen(x[u]), some_dy = widen(dy[u]);
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) add_to_sums(some_x[i], some_dy[i], w[i], mean, sums);
    }
  }
  block_sums<kThreads>(sums, scratch);
  if (threadIdx.x != 0) return;
  const RowFactors<C> of = row_factors(mean, rstd, sums, static_cast<C>(channels));
  store_one(factors + 3 * row, of.slope);
  store_one(factors + 3 * row + 1, of.offset);
  store_one(factors + 3 * row + 2, of.xhat_offset);
}

/// `reread`, second pass: kTileThreads vectors of columns down the rows p, p + P, ...
template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kTileThreads)
    tile_kernel(const LayerNormBackward args, const compute_t<T>* factors, std::int64_t parts, std::int64_t stride) {
  using C = compute_t<T>;
  const std::int64_t part = blockIdx.x % parts, channels = args.channels;
  const std::int64_t c = (blockIdx.x / parts * kTileThreads + threadIdx.x) * kWidth;
  if (c >= channels) return;
  const T* const x = static_cast<const T*>(args.x) + c;
  const T* const dy = static_cast<const T*>(args.dy) + c;
  T* const dx = static_cast<T*>(args.dx) + c;
  const Vec<C, kWidth> weight = widen(load_weight<T, kWidth>(args.gamma, c));
  Vec<C, kWidth> dgamma{}, dbeta{};
  WEFT_NO_UNROLL
  for (std::int64_t first = part; first < args.rows; first += kInFlight * parts) {
    Vec<T, kWidth> some_x[kInFlight] = {}, some_dy[kInFlight] = {};
    WEFT_UNROLL
    for (int u = 0; u < kInFlight; ++u) {
      const std::int64_t row = first + u * parts;
      if (row >= args.rows) continue;
      some_x[u] = load<kWidth, Cache::streaming>(x + row * channels);
      some_dy[u] = load<kWidth, Cache::streaming>(dy + row * channels);
    }
    WEFT_UNROLL
    for (int u = 0; u < kInFlight; ++u) {
      const std::int64_t row = first + u * parts;
      if (row >= args.rows) continue;
      const C* const own = factors + 3 * row;
      const RowFactors<C> of{load_one(static_cast<const C*>(args.mean) + row),
                             load_one(static_cast<const C*>(args.rstd) + row), load_one(own), load_one(own + 1),
                             load_one(own + 2)};
      const Vec<C, kWidth> wide_x = widen(some_x[u]), wide_dy = widen(some_dy[u]);
      Vec<C, kWidth> gradient;
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) {
        gradient[i] = input_gradient(wide_x[i], wide_dy[i], weight[i], of);
        dgamma[i] = times_xhat(wide_x[i], wide_dy[i], of, dgamma[i]);
        dbeta[i] += wide_dy[i];
      }
      if (args.dx != nullptr) store(dx + row * channels, narrow<T>(gradient));
    }
  }
  if (args.dgamma == nullptr && args.dbeta == nullptr) return;
  C* const partials = static_cast<C*>(args.partials) + part * 2 * stride;
  store_partials(partials, c, dgamma);
  store_partials(partials + stride, c, dbeta);
}

/// dgamma (blocks y = 0) and dbeta (y = 1): kSumColumns columns per block, a warp for every eighth of the P sums.
template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kSumColumns* kSumGroups)
    sum_partials_kernel(const LayerNormBackward args, std::int64_t parts, std::int64_t stride) {
  using C = compute_t<T>;
  WEFT_SHARED(C, group_sums, kSumColumns * kSumGroups);
  T* const out = static_cast<T*>(blockIdx.y == 0 ? args.dgamma : args.dbeta);
  if (out == nullptr) return;
  const Accumulate mode = blockIdx.y == 0 ? args.dgamma_mode : args.dbeta_mode;
  const int lane = lane_index(), group = warp_index();
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kSumColumns + lane;
  const std::int64_t c = partial_index<kWidth>(index);  // the exchange of two bits is its own inverse
  const C* const from = static_cast<const C*>(args.partials) + blockIdx.y * stride + index;
  C sum = C(0);
  if (c < args.channels) {
    WEFT_NO_UNROLL
    for (std::int64_t first = group; first < parts; first += kInFlight * kSumGroups) {
      C some[kInFlight];
      WEFT_UNROLL
      for (int u = 0; u < kInFlight; ++u) {
        const std::int64_t part = first + u * kSumGroups;
        some[u] = part < parts ? load_one(from + part * 2 * stride) : C(0);
      }
      WEFT_UNROLL
      for (int u = 0; u < kInFlight; ++u) sum += some[u];
    }
  }
  group_sums[group * kSumColumns + lane] = sum;
  __syncthreads();
  if (group > 0 || c >= args.channels) return;
  WEFT_UNROLL
  for (int g = 1; g < kSumGroups; ++g) sum += group_sums[g * kSumColumns + lane];
  if (mode == Accumulate::add) sum += widen(load_one(out + c));
  store_one(out + c, narrow<T>(sum));
}

// --- choosing --------------------------------------------------------------------------------------------------------

struct Sizes {
  template <class T>
  Sizes(std::type_identity<T>, const LayerNormBackward& args)
      : plan(layer_norm_backward_plan(args.rows, args.channels)),
        stride(layer_norm_partial_stride(args.channels)),
        vector(args.channels * static_cast<std::int64_t>(sizeof(T))),
        matrix(args.rows * vector),
        row_statistics(args.rows * static_cast<std::int64_t>(sizeof(compute_t<T>))),
        partials(plan.blocks * 2 * stride * static_cast<std::int64_t>(sizeof(compute_t<T>))) {}
  LayerNormPlan plan;
  std::int64_t stride;                                    // of the partial sums, in elements
  std::int64_t vector, matrix, row_statistics, partials;  // in bytes
};

bool sums_wanted(const LayerNormBackward& args) { return args.dgamma != nullptr || args.dbeta != nullptr; }

template <class T, int kWidth>
void sum_partials(const Stream& stream, const LayerNormBackward& args) {
  if (!sums_wanted(args)) return;
  const Sizes bytes(std::type_identity<T>{}, args);
  launch(stream,
         {.name = "layer_norm_backward_sums",
          .grid = {ceil_div<std::int64_t>(bytes.stride, kSumColumns), 2},
          .block = {kSumColumns * kSumGroups},
          .operands = {{"partials", args.partials, bytes.partials, OperandKind::workspace},
                       {"dgamma", args.dgamma, bytes.vector},
                       {"dbeta", args.dbeta, bytes.vector}}},
         sum_partials_kernel < T, kWidth == 8 ? 8 : 1 >, args, bytes.plan.blocks, bytes.stride);
}

template <class T, int kWidth, int kTeam, int kPerThread, Prefetch kPrefetch>
void start_resident(const Stream& stream, const LayerNormBackward& args, std::int64_t shared_bytes = 0) {
  const Sizes bytes(std::type_identity<T>{}, args);
  launch(stream,
         {.name = kPerThread == kWideElems ? "layer_norm_backward_wide" : "layer_norm_backward",
          .grid = {bytes.plan.blocks},
          .block = {kTeam > kWarpSize ? kTeam : 128},
          .dynamic_shared_bytes = shared_bytes,
          .operands = {{"x", args.x, bytes.matrix},
                       {"gamma", args.gamma, bytes.vector, OperandKind::broadcast},
                       {"dy", args.dy, bytes.matrix},
                       // One sector serves eight neighbouring rows, which neighbouring warps read at the same time.
                       {"mean", args.mean, bytes.row_statistics, OperandKind::broadcast},
                       {"rstd", args.rstd, bytes.row_statistics, OperandKind::broadcast},
                       {"dx", args.dx, bytes.matrix},
                       {"partials", args.partials, bytes.partials, OperandKind::workspace}}},
         resident_kernel<T, kWidth, kTeam, kPerThread, kPrefetch>, args, bytes.stride);
}

template <class T, int kWidth>
void run_registers(const Stream& stream, const LayerNormBackward& args) {
  constexpr Prefetch kPrefetch = sizeof(T) == 8 ? Prefetch::no : Prefetch::yes;
  if (args.channels <= 64)
    start_resident<T, kWidth, 8, kElems, kPrefetch>(stream, args);
  else if (args.channels <= 256)
    start_resident<T, kWidth, 32, kElems, kPrefetch>(stream, args);
  else if (args.channels <= 1024)
    start_resident<T, kWidth, 128, kElems, kPrefetch>(stream, args);
  else if (args.channels <= 2048)
    start_resident<T, kWidth, 256, kElems, kPrefetch>(stream, args);
  else
    start_resident<T, kWidth, 512, kElems, kPrefetch>(stream, args);
  sum_partials<T, kWidth>(stream, args);
}

/// Threads per row beyond the registers.
constexpr int wide_threads(std::int64_t channels) { return channels <= 512 * kWideElems ? 512 : 1024; }

/// Shared memory of `wide`: the two sums of every column that a thread may hold.
std::int64_t wide_bytes(const LayerNormBackward& args, std::int64_t width) {
  const std::int64_t step = wide_threads(args.channels) * width;
  return ceil_div(args.channels, step) * step * 2 * (args.dtype == Dtype::f64 ? 8 : 4);
}

template <class T, int kWidth>
void run_wide(const Stream& stream, const LayerNormBackward& args) {
  constexpr Prefetch kPrefetch = sizeof(T) == 8 ? Prefetch::no : Prefetch::yes;
  const std::int64_t bytes = wide_bytes(args, kWidth);
  if (wide_threads(args.channels) == 512)
    start_resident<T, kWidth, 512, kWideElems, kPrefetch>(stream, args, bytes);
  else if constexpr (kWidth > 1 && sizeof(T) < 8)
    start_resident<T, kWidth, 1024, kWideElems, Prefetch::no>(stream, args, bytes);
  sum_partials<T, kWidth>(stream, args);
}

template <class T, int kWidth, int kThreads>
void start_rows(const Stream& stream, const LayerNormBackward& args, compute_t<T>* factors) {
  const Sizes bytes(std::type_identity<T>{}, args);
  launch(stream,
         {.name = "layer_norm_backward_rows",
          .grid = {args.rows},
          .block = {kThreads},
          .operands = {{"x", args.x, bytes.matrix},
                       {"gamma", args.gamma, bytes.vector, OperandKind::broadcast},
                       {"dy", args.dy, bytes.matrix},
                       {"mean", args.mean, bytes.row_statistics, OperandKind::broadcast},
                       {"rstd", args.rstd, bytes.row_statistics, OperandKind::broadcast},
                       {"factors", factors, 3 * bytes.row_statistics, OperandKind::workspace}}},
         rows_kernel<T, kWidth, kThreads>, args, factors);
}

template <class T, int kWidth>
void run_reread(const Stream& stream, const LayerNormBackward& args) {
  using C = compute_t<T>;
  const Sizes bytes(std::type_identity<T>{}, args);
  const std::int64_t parts = bytes.plan.blocks;
  C* const factors = static_cast<C*>(args.partials) + parts * 2 * bytes.stride;
  if (wide_threads(args.channels) == 512)
    start_rows<T, kWidth, 512>(stream, args, factors);
  else
    start_rows<T, kWidth, 1024>(stream, args, factors);
  launch(stream,
         {.name = "layer_norm_backward_tiles",
          .grid = {parts * ceil_div<std::int64_t>(args.channels, kTileThreads * kWidth)},
          .block = {kTileThreads},
          .operands = {{"x", args.x, bytes.matrix},
                       {"gamma", args.gamma, bytes.vector, OperandKind::broadcast},
                       {"dy", args.dy, bytes.matrix},
                       {"mean", args.mean, bytes.row_statistics, OperandKind::broadcast},
                       {"rstd", args.rstd, bytes.row_statistics, OperandKind::broadcast},
                       {"factors", factors, 3 * bytes.row_statistics, OperandKind::broadcast},
                       {"dx", args.dx, bytes.matrix},
                       {"partials", args.partials, bytes.partials, OperandKind::workspace}}},
         tile_kernel<T, kWidth>, args, static_cast<const C*>(factors), parts, bytes.stride);
  sum_partials<T, kWidth>(stream, args);
}

int vector_width(Dtype dtype) { return static_cast<int>(16 / element_bytes(dtype)); }

/// Whether every row of x, dy and dx, and gamma, can be cut into vectors of 16 bytes.
bool in_vectors(const LayerNormBackward& args) {
  return args.channels % vector_width(args.dtype) == 0 && is_aligned(args.x, 16) && is_aligned(args.dy, 16) &&
         is_aligned(args.dx, 16) && is_aligned(args.gamma, 16);
}

/// Calls f(std::type_identity<T>{}, std::integral_constant<int, kWidth>{}) when there is something to do.
template <class F>
void dispatch(const LayerNormBackward& args, F&& f) {
  if (args.dx == nullptr && !sums_wanted(args)) return;
  dispatch_float(args.dtype, "layer_norm", [&]<class T>(std::type_identity<T> type) {
    if (in_vectors(args))
      f(type, std::integral_constant<int, kVectorWidth<T>>{});
    else
      f(type, std::integral_constant<int, 1>{});
  });
}

const Variant<LayerNormBackward> kVariants[] = {
    {"registers", "rows and their columns' sums in registers",
     [](const LayerNormBackward& args) { return args.channels <= 512 * kElems; },
     [](const Stream& stream, const LayerNormBackward& args) {
       dispatch(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
         run_registers<T, kWidth>(stream, args);
       });
     }},
    {"wide", "rows in registers, the columns' sums in shared memory",
     [](const LayerNormBackward& args) {
       // Single elements would not leave 1024 threads the registers, nor f64 the shared memory.
       const bool widest = in_vectors(args) && args.dtype != Dtype::f64;
       const int width = in_vectors(args) ? vector_width(args.dtype) : 1;
       return args.channels <= (widest ? 1024 : 512) * kWideElems &&
              layer_norm_backward_plan(args.rows, args.channels).teams == 1 &&
              wide_bytes(args, width) + 1024 <= shared_limit_bytes();  // with the sums' scratch
     },
     [](const Stream& stream, const LayerNormBackward& args) {
       dispatch(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
         run_wide<T, kWidth>(stream, args);
       });
     }},
    {"reread", "two passes: sums of the rows, then dx and sums of the columns",
     [](const LayerNormBackward&) { return true; },
     [](const Stream& stream, const LayerNormBackward& args) {
       dispatch(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
         run_reread<T, kWidth>(stream, args);
       });
     }},
};

}  // namespace

std::span<const Variant<LayerNormBackward>> layer_norm_backward_variants() { return kVariants; }

void layer_norm_backward(const Stream& stream, const LayerNormBackward& args) {
  run_variant("layer_norm", layer_norm_backward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
