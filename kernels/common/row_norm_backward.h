#pragma once
// The backward passes of layer_norm and rms_norm: x and dy are read once. A fixed number of blocks walks over the rows; a row's x and dy stay in
// registers between its sums and dx, and while they are worked on, the next row is already on its way. Each
// thread keeps the same columns all the way down, so that dgamma and dbeta gather in its own registers; they leave as
// one row of partial sums per block, which a second kernel adds in order.
//   registers  teams of 8, 32, 128, 256 or 512 threads per row, eight elements and their sums per thread: C up to 4096.
//              Teams of 8 or 32 share a block of 128 and add up their sums at its end, one team after the other.
//   wide       512 or 1024 threads, sixteen elements per thread, the sums in shared memory: 8C bytes (16C for f64; half of that
//              for rms_norm, which has no dbeta), up
//              to C = 16384 (8192 of f64, and one element at a time). Each thread meets its own sums only, 16 bytes per
//              lane side by side: no bank conflict.
//   reread     any C, in two passes: the sums of each row, then dx and the columns' sums. It adds in the same order as
//              `wide`, so a GPU without that much shared memory gets the same bits.
//   Vectors of 16 bytes where all rows start on 16 bytes, else one element at a time. One barrier per row: the exchange
//   of the sums alternates between two buffers.
//   Where it comes from: the persistent walk is apex's FastLayerNorm (NVIDIA/apex PR 1037), the partial sums with a
//   fixed order quack's (Dao-AILab/quack, dw_partial).
#include "kernels/common/row_norm.h"
#include "kernels/common/row_norm_plan.h"
#include "kernels/common/wide_vector.h"

namespace weft::kernels::WEFT_BACKEND {

/// The arguments of both ops. rms: no mean, no dbeta.
struct RowNormBackward {
  Dtype dtype;
  std::int64_t rows, channels;  // R, C
  const void* x;                // in,  [R, C]
  const void* gamma;            // in,  [C], null for 1
  const void* dy;               // in,  [R, C]
  const void* mean;             // in,  [R]
  const void* rstd;             // in,  [R]
  void* dx;                     // out, [R, C]; null when not wanted
  void* dgamma;                 // out or inout, [C]; null when not wanted
  void* dbeta;                  // out or inout, [C]; null when not wanted
  Accumulate dgamma_mode, dbeta_mode;
  void* partials;  // workspace: P rows of kColumnSums strides each, then kRowSums elements per row
};

/// Numbers summed over a row, and over a column.
template <RowNorm kNorm>
inline constexpr int kRowSums = kNorm == RowNorm::rms ? 1 : 3;
template <RowNorm kNorm>
inline constexpr int kColumnSums = kNorm == RowNorm::rms ? 1 : 2;

inline constexpr int kElems = 8;               // of a row, per thread, with the sums in registers
inline constexpr int kWideElems = 16;          // with the sums in shared memory
inline constexpr int kTileThreads = 256;       // of `reread`'s second pass
inline constexpr int kRowInFlight = 2;         // the same in its first pass, whose blocks are larger
inline constexpr int kSumColumns = kWarpSize;  // of one block that adds partial sums
inline constexpr int kSumGroups = 8;           // of its threads, each with every eighth partial sum

/// dx = rstd g + slope (x - mean) + offset;  xhat = (x - mean) rstd + xhat_offset. rms: mean and both offsets are 0.
template <class C>
struct RowFactors {
  C mean, rstd, slope, offset, xhat_offset;
};

/// From a row's sums of x - mean, of g, and of g (x - mean). The first finds what the saved mean lost by rounding.
/// rms: the sum of g x.
template <RowNorm kNorm, class C>
WEFT_DEVICE RowFactors<C> row_factors(C mean, C rstd, const C (&sums)[kRowSums<kNorm>], C count) {
  if constexpr (kNorm == RowNorm::rms) {
    return {C(0), rstd, -rstd * rstd * (rstd * sums[0] / count), C(0), C(0)};
  } else {
    const C rest = sums[0] / count;
    const C mean_gx = rstd * (sums[2] - rest * sums[1]) / count;
    const C slope = -rstd * rstd * mean_gx;
    return {mean, rstd, slope, -rstd * (sums[1] / count) - slope * rest, -rest * rstd};
  }
}

template <RowNorm kNorm, class C>
WEFT_DEVICE void add_to_sums(C x, C dy, C weight, C mean, C (&sums)[kRowSums<kNorm>]) {
  if constexpr (kNorm == RowNorm::rms) {
    sums[0] = fused(dy * weight, x, sums[0]);
  } else {
    const C difference = x - mean, g = dy * weight;
    sums[0] += difference;
    sums[1] += g;
    sums[2] = fused(g, difference, sums[2]);
  }
}

template <RowNorm kNorm, class C>
WEFT_DEVICE C input_gradient(C x, C dy, C weight, const RowFactors<C>& of) {
  if constexpr (kNorm == RowNorm::rms)
    return fused(of.rstd, dy * weight, of.slope * x);
  else
    return fused(of.rstd, dy * weight, fused(of.slope, x - of.mean, of.offset));
}

/// Adds dy xhat to a column's first sum and dy to its second.
template <RowNorm kNorm, int kWidth, class C>
WEFT_DEVICE void add_to_columns(C x, C dy, const RowFactors<C>& of, int i, Vec<C, kWidth> (&sums)[kColumnSums<kNorm>]) {
  if constexpr (kNorm == RowNorm::rms) {
    sums[0][i] = fused(dy, x * of.rstd, sums[0][i]);
  } else {
    sums[0][i] = fused(dy, fused(x - of.mean, of.rstd, of.xhat_offset), sums[0][i]);
    sums[1][i] += dy;
  }
}

template <RowNorm kNorm, class C>
WEFT_DEVICE C row_mean(const RowNormBackward& args, std::int64_t row) {
  if constexpr (kNorm == RowNorm::rms)
    return C(0);
  else
    return load_one(static_cast<const C*>(args.mean) + row);
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
template <RowNorm kNorm, class T, int kWidth, int kTeam, int kPerThread, Prefetch kPrefetch>
WEFT_KERNEL __launch_bounds__(kTeam > kWarpSize ? kTeam : 128, 1)
    resident_kernel(const RowNormBackward args, std::int64_t stride) {
  using C = compute_t<T>;
  constexpr int kThreads = kTeam > kWarpSize ? kTeam : 128;
  constexpr int kTeams = kThreads / kTeam;
  constexpr int kVectors = kPerThread / kWidth;
  constexpr bool kWide = kPerThread == kWideElems;
  constexpr int kSums = kColumnSums<kNorm>;
  constexpr int kScratch = kTeam > kWarpSize ? kRowSums<kNorm> * (kTeam / kWarpSize) : 1;
  using Slots = SharedSums<C, kWidth, kTeam>;
  static_assert(kTeams == 1 || !kWide);
  WEFT_SHARED(C, scratch, 2 * kScratch);
  WEFT_SHARED(C, team_sums, kTeams > 1 ? kSums * kPerThread * kTeam : 1);
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

  Vec<C, kWidth> columns[kWide ? 1 : kVectors][kSums] = {};  // dgamma, dbeta
  if constexpr (kWide) {
    WEFT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      if (column(v) >= channels || !sums_wanted) continue;
      WEFT_UNROLL
      for (int which = 0; which < kSums; ++which) Slots::put(wide_sums, kSums * v + which, lane, {});
    }
  }

  const auto fetch = [&](std::int64_t row) {
    RowPart<T, kWidth, kVectors> part{};
    if (row >= args.rows) return part;  // all 0: adds nothing to any sum
    part.mean = row_mean<kNorm, C>(args, row);
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

    C sums[kRowSums<kNorm>] = {};
    WEFT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      if (column(v) >= channels) continue;  // lanes past the end must not enter the sums
      const Vec<C, kWidth> w = weight(v), x = widen(part.x[v]), dy = widen(part.dy[v]);
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) add_to_sums<kNorm>(x[i], dy[i], w[i], part.mean, sums);
    }
    block_sums<kTeam>(sums, scratch + buffer * kScratch);
    buffer ^= 1;  // a thread that is late may still read the old one
    const RowFactors<C> of = row_factors<kNorm>(part.mean, part.rstd, sums, count);

    WEFT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      if (column(v) >= channels) continue;
      const Vec<C, kWidth> x = widen(part.x[v]), dy = widen(part.dy[v]);
      if (args.dx != nullptr && row < args.rows) {
        const Vec<C, kWidth> w = weight(v);
        Vec<C, kWidth> dx;
        WEFT_UNROLL
        for (int i = 0; i < kWidth; ++i) dx[i] = input_gradient<kNorm>(x[i], dy[i], w[i], of);
        store(static_cast<T*>(args.dx) + row * channels + column(v), narrow<T>(dx));
      }
      if (!sums_wanted) continue;
      Vec<C, kWidth>(&own)[kSums] = columns[kWide ? 0 : v];
      if constexpr (kWide) {
        WEFT_UNROLL
        for (int which = 0; which < kSums; ++which) own[which] = Slots::get(wide_sums, kSums * v + which, lane);
      }
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) add_to_columns<kNorm>(x[i], dy[i], of, i, own);
      if constexpr (kWide) {
        WEFT_UNROLL
        for (int which = 0; which < kSums; ++which) Slots::put(wide_sums, kSums * v + which, lane, own[which]);
      }
    }
    if constexpr (kPrefetch == Prefetch::yes)
      part = next;
    else
      part = fetch(row + step);
  }

  if (!sums_wanted) return;
  C* const partials = static_cast<C*>(args.partials) + static_cast<std::int64_t>(blockIdx.x) * kSums * stride;
  WEFT_UNROLL
  for (int t = 0; t < kTeams; ++t) {
    if (team == t) {
      WEFT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        if (column(v) >= channels) continue;
        Vec<C, kWidth> own[kSums];
        WEFT_UNROLL
        for (int which = 0; which < kSums; ++which) {
          if constexpr (kWide)
            own[which] = Slots::get(wide_sums, kSums * v + which, lane);
          else
            own[which] = columns[v][which];
        }
        WEFT_UNROLL
        for (int which = 0; which < kSums; ++which) {
          if (t > 0) {
            const Vec<C, kWidth> before = Slots::get(team_sums, kSums * v + which, lane);
            WEFT_UNROLL
            for (int i = 0; i < kWidth; ++i) own[which][i] += before[i];
          }
          if (t + 1 < kTeams)
            Slots::put(team_sums, kSums * v + which, lane, own[which]);
          else
            store_partials(partials + which * stride, column(v), own[which]);
        }
      }
    }
    if (t + 1 < kTeams) __syncthreads();
  }
}

/// `reread`, first pass, one block per row: slope, offset and xhat_offset of each row.
template <RowNorm kNorm, class T, int kWidth, int kThreads>
WEFT_KERNEL __launch_bounds__(kThreads, 1) rows_kernel(const RowNormBackward args, compute_t<T>* factors) {
  using C = compute_t<T>;
  WEFT_SHARED(C, scratch, kRowSums<kNorm> * (kThreads / kWarpSize));
  const std::int64_t row = blockIdx.x, channels = args.channels;
  const C mean = row_mean<kNorm, C>(args, row);
  const C rstd = load_one(static_cast<const C*>(args.rstd) + row);
  const T* const row_x = static_cast<const T*>(args.x) + row * channels;
  const T* const row_dy = static_cast<const T*>(args.dy) + row * channels;
  constexpr std::int64_t kStep = kThreads * kWidth;
  C sums[kRowSums<kNorm>] = {};
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
      for (int i = 0; i < kWidth; ++i) add_to_sums<kNorm>(some_x[i], some_dy[i], w[i], mean, sums);
    }
  }
  block_sums<kThreads>(sums, scratch);
  if (threadIdx.x != 0) return;
  const RowFactors<C> of = row_factors<kNorm>(mean, rstd, sums, static_cast<C>(channels));
  store_one(factors + kRowSums<kNorm> * row, of.slope);
  if constexpr (kNorm == RowNorm::rms) return;
  store_one(factors + kRowSums<kNorm> * row + 1, of.offset);
  store_one(factors + kRowSums<kNorm> * row + 2, of.xhat_offset);
}

/// `reread`, second pass: kTileThreads vectors of columns down the rows p, p + P, ...
template <RowNorm kNorm, class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kTileThreads)
    tile_kernel(const RowNormBackward args, const compute_t<T>* factors, std::int64_t parts, std::int64_t stride) {
  using C = compute_t<T>;
  const std::int64_t part = blockIdx.x % parts, channels = args.channels;
  const std::int64_t c = (blockIdx.x / parts * kTileThreads + threadIdx.x) * kWidth;
  if (c >= channels) return;
  const T* const x = static_cast<const T*>(args.x) + c;
  const T* const dy = static_cast<const T*>(args.dy) + c;
  T* const dx = static_cast<T*>(args.dx) + c;
  const Vec<C, kWidth> weight = widen(load_weight<T, kWidth>(args.gamma, c));
  Vec<C, kWidth> columns[kColumnSums<kNorm>] = {};  // dgamma, dbeta
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
      const C* const own = factors + kRowSums<kNorm> * row;
      RowFactors<C> of{row_mean<kNorm, C>(args, row), load_one(static_cast<const C*>(args.rstd) + row), load_one(own),
                       C(0), C(0)};
      if constexpr (kNorm != RowNorm::rms) {
        of.offset = load_one(own + 1);
        of.xhat_offset = load_one(own + 2);
      }
      const Vec<C, kWidth> wide_x = widen(some_x[u]), wide_dy = widen(some_dy[u]);
      Vec<C, kWidth> gradient;
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) {
        gradient[i] = input_gradient<kNorm>(wide_x[i], wide_dy[i], weight[i], of);
        add_to_columns<kNorm>(wide_x[i], wide_dy[i], of, i, columns);
      }
      if (args.dx != nullptr) store(dx + row * channels, narrow<T>(gradient));
    }
  }
  if (args.dgamma == nullptr && args.dbeta == nullptr) return;
  C* const partials = static_cast<C*>(args.partials) + part * kColumnSums<kNorm> * stride;
  WEFT_UNROLL
  for (int which = 0; which < kColumnSums<kNorm>; ++which) store_partials(partials + which * stride, c, columns[which]);
}

/// dgamma (blocks y = 0) and dbeta (y = 1): kSumColumns columns per block, a warp for every eighth of the P sums.
template <RowNorm kNorm, class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kSumColumns* kSumGroups)
    sum_partials_kernel(const RowNormBackward args, std::int64_t parts, std::int64_t stride) {
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
        some[u] = part < parts ? load_one(from + part * kColumnSums<kNorm> * stride) : C(0);
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

template <RowNorm kNorm, class T>
struct Sizes {
  explicit Sizes(const RowNormBackward& args)
      : plan(row_norm_backward_plan(args.rows, args.channels)),
        stride(row_norm_partial_stride(args.channels)),
        vector(args.channels * static_cast<std::int64_t>(sizeof(T))),
        matrix(args.rows * vector),
        row_statistics(args.rows * static_cast<std::int64_t>(sizeof(compute_t<T>))),
        partials(plan.blocks * kColumnSums<kNorm> * stride * static_cast<std::int64_t>(sizeof(compute_t<T>))) {}
  RowNormPlan plan;
  std::int64_t stride;                                    // of the partial sums, in elements
  std::int64_t vector, matrix, row_statistics, partials;  // in bytes
};

inline bool sums_wanted(const RowNormBackward& args) { return args.dgamma != nullptr || args.dbeta != nullptr; }

template <RowNorm kNorm, class T, int kWidth>
void sum_partials(const Stream& stream, const RowNormBackward& args) {
  if (!sums_wanted(args)) return;
  const Sizes<kNorm, T> bytes(args);
  launch(stream,
         {.name = row_norm_name(kNorm, "layer_norm_backward_sums", "rms_norm_backward_sums", ""),
          .grid = {ceil_div<std::int64_t>(bytes.stride, kSumColumns), kColumnSums<kNorm>},
          .block = {kSumColumns * kSumGroups},
          .operands = {{"partials", args.partials, bytes.partials, OperandKind::workspace},
                       {"dgamma", args.dgamma, bytes.vector},
                       {"dbeta", args.dbeta, bytes.vector}}},
         sum_partials_kernel < kNorm, T, kWidth == 8 ? 8 : 1 >, args, bytes.plan.blocks, bytes.stride);
}

template <RowNorm kNorm, class T, int kWidth, int kTeam, int kPerThread, Prefetch kPrefetch>
void start_resident(const Stream& stream, const RowNormBackward& args, std::int64_t shared_bytes = 0) {
  const Sizes<kNorm, T> bytes(args);
  launch(
      stream,
      {.name = kPerThread == kWideElems ? row_norm_name(kNorm, "layer_norm_backward_wide", "rms_norm_backward_wide", "")
                                        : row_norm_name(kNorm, "layer_norm_backward", "rms_norm_backward", ""),
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
      resident_kernel<kNorm, T, kWidth, kTeam, kPerThread, kPrefetch>, args, bytes.stride);
}

template <RowNorm kNorm, class T, int kWidth>
void run_backward_registers(const Stream& stream, const RowNormBackward& args) {
  constexpr Prefetch kPrefetch = sizeof(T) == 8 ? Prefetch::no : Prefetch::yes;
  if (args.channels <= 64)
    start_resident<kNorm, T, kWidth, 8, kElems, kPrefetch>(stream, args);
  else if (args.channels <= 256)
    start_resident<kNorm, T, kWidth, 32, kElems, kPrefetch>(stream, args);
  else if (args.channels <= 1024)
    start_resident<kNorm, T, kWidth, 128, kElems, kPrefetch>(stream, args);
  else if (args.channels <= 2048)
    start_resident<kNorm, T, kWidth, 256, kElems, kPrefetch>(stream, args);
  else
    start_resident<kNorm, T, kWidth, 512, kElems, kPrefetch>(stream, args);
  sum_partials<kNorm, T, kWidth>(stream, args);
}

/// Threads per row beyond the registers.
constexpr int wide_threads(std::int64_t channels) { return channels <= 512 * kWideElems ? 512 : 1024; }

/// Shared memory of `wide`: the sums of every column that a thread may hold.
template <RowNorm kNorm>
std::int64_t wide_bytes(const RowNormBackward& args, std::int64_t width) {
  const std::int64_t step = wide_threads(args.channels) * width;
  return ceil_div(args.channels, step) * step * kColumnSums<kNorm> * (args.dtype == Dtype::f64 ? 8 : 4);
}

template <RowNorm kNorm, class T, int kWidth>
void run_backward_wide(const Stream& stream, const RowNormBackward& args) {
  constexpr Prefetch kPrefetch = sizeof(T) == 8 ? Prefetch::no : Prefetch::yes;
  const std::int64_t bytes = wide_bytes<kNorm>(args, kWidth);
  if (wide_threads(args.channels) == 512)
    start_resident<kNorm, T, kWidth, 512, kWideElems, kPrefetch>(stream, args, bytes);
  else if constexpr (kWidth > 1 && sizeof(T) < 8)
    start_resident<kNorm, T, kWidth, 1024, kWideElems, Prefetch::no>(stream, args, bytes);
  sum_partials<kNorm, T, kWidth>(stream, args);
}

template <RowNorm kNorm, class T, int kWidth, int kThreads>
void start_rows(const Stream& stream, const RowNormBackward& args, compute_t<T>* factors) {
  const Sizes<kNorm, T> bytes(args);
  launch(stream,
         {.name = row_norm_name(kNorm, "layer_norm_backward_rows", "rms_norm_backward_rows", ""),
          .grid = {args.rows},
          .block = {kThreads},
          .operands = {{"x", args.x, bytes.matrix},
                       {"gamma", args.gamma, bytes.vector, OperandKind::broadcast},
                       {"dy", args.dy, bytes.matrix},
                       {"mean", args.mean, bytes.row_statistics, OperandKind::broadcast},
                       {"rstd", args.rstd, bytes.row_statistics, OperandKind::broadcast},
                       {"factors", factors, kRowSums<kNorm> * bytes.row_statistics, OperandKind::workspace}}},
         rows_kernel<kNorm, T, kWidth, kThreads>, args, factors);
}

template <RowNorm kNorm, class T, int kWidth>
void run_backward_reread(const Stream& stream, const RowNormBackward& args) {
  using C = compute_t<T>;
  const Sizes<kNorm, T> bytes(args);
  const std::int64_t parts = bytes.plan.blocks;
  C* const factors = static_cast<C*>(args.partials) + parts * kColumnSums<kNorm> * bytes.stride;
  if (wide_threads(args.channels) == 512)
    start_rows<kNorm, T, kWidth, 512>(stream, args, factors);
  else
    start_rows<kNorm, T, kWidth, 1024>(stream, args, factors);
  launch(stream,
         {.name = row_norm_name(kNorm, "layer_norm_backward_tiles", "rms_norm_backward_tiles", ""),
          .grid = {parts * ceil_div<std::int64_t>(args.channels, kTileThreads * kWidth)},
          .block = {kTileThreads},
          .operands = {{"x", args.x, bytes.matrix},
                       {"gamma", args.gamma, bytes.vector, OperandKind::broadcast},
                       {"dy", args.dy, bytes.matrix},
                       {"mean", args.mean, bytes.row_statistics, OperandKind::broadcast},
                       {"rstd", args.rstd, bytes.row_statistics, OperandKind::broadcast},
                       {"factors", factors, kRowSums<kNorm> * bytes.row_statistics, OperandKind::broadcast},
                       {"dx", args.dx, bytes.matrix},
                       {"partials", args.partials, bytes.partials, OperandKind::workspace}}},
         tile_kernel<kNorm, T, kWidth>, args, static_cast<const C*>(factors), parts, bytes.stride);
  sum_partials<kNorm, T, kWidth>(stream, args);
}

/// Whether every row of x, dy and dx, and gamma, can be cut into vectors of 16 bytes.
inline bool in_vectors(const RowNormBackward& args) {
  return args.channels % vector_width(args.dtype) == 0 && is_aligned(args.x, 16) && is_aligned(args.dy, 16) &&
         is_aligned(args.dx, 16) && is_aligned(args.gamma, 16);
}

/// Calls f(std::type_identity<T>{}, std::integral_constant<int, kWidth>{}) when there is something to do.
template <RowNorm kNorm, class F>
void dispatch_row_norm(const RowNormBackward& args, F&& f) {
  if (args.dx == nullptr && !sums_wanted(args)) return;
  dispatch_float(args.dtype, row_norm_name(kNorm, "layer_norm", "rms_norm", ""),
                 [&]<class T>(std::type_identity<T> type) {
                   if (in_vectors(args))
                     f(type, std::integral_constant<int, kVectorWidth<T>>{});
                   else
                     f(type, std::integral_constant<int, 1>{});
                 });
}

/// The variants' `supports` and `run`.
inline bool fits_registers(const RowNormBackward& args) { return args.channels <= 512 * kElems; }
template <RowNorm kNorm>
bool fits_wide(const RowNormBackward& args) {
  // Single elements would not leave 1024 threads the registers, nor f64 the shared memory.
  const bool widest = in_vectors(args) && args.dtype != Dtype::f64;
  const int width = in_vectors(args) ? vector_width(args.dtype) : 1;
  return args.channels <= (widest ? 1024 : 512) * kWideElems &&
         row_norm_backward_plan(args.rows, args.channels).teams == 1 &&
         wide_bytes<kNorm>(args, width) + 1024 <= shared_limit_bytes();  // with the sums' scratch
}
template <RowNorm kNorm>
void run_registers(const Stream& stream, const RowNormBackward& args) {
  dispatch_row_norm<kNorm>(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
    run_backward_registers<kNorm, T, kWidth>(stream, args);
  });
}
template <RowNorm kNorm>
void run_wide(const Stream& stream, const RowNormBackward& args) {
  dispatch_row_norm<kNorm>(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
    run_backward_wide<kNorm, T, kWidth>(stream, args);
  });
}
template <RowNorm kNorm>
void run_reread(const Stream& stream, const RowNormBackward& args) {
  dispatch_row_norm<kNorm>(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
    run_backward_reread<kNorm, T, kWidth>(stream, args);
  });
}

}  // namespace weft::kernels::WEFT_BACKEND
