// GroupNorm backward: sums over units (a channel of a sample, or each 1024 elements of it), from them the factors of dx for
// every group, and dgamma and dbeta for every channel. A unit belongs to a team of 1 to 32 lanes, as many as its vectors
// give work to; teams walk over units side by side.
//   shared     a block of 128 or 512 threads per group; x and dy wait in dynamic shared memory, up to 192 KiB together,
//              from the sums to dx: both are read once. Each thread reads back what it wrote itself, 16 bytes per lane
//              side by side.
//   reread     groups of any size, and however few: one launch over all units for the sums, a block per group for the
//              factors, one launch over all units for dx. It adds in the same order as `shared`.
//   Vectors of 16 bytes where every channel starts on 16 bytes, else one element at a time. The published kernels lose
//   their time in the channels' sums (9 % of the bandwidth in PyTorch's, pytorch PR #182907), for which they read x and
//   dy once more; here the sums of `shared` are its first pass. dgamma and dbeta: one more launch, over the units alone,
//   in a fixed order.
#include <algorithm>

#include "kernels/common/block.h"
#include "kernels/common/launch.h"
#include "kernels/group_norm.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kUnitThreads = 256;     // of a block of `reread`
constexpr int kFactorThreads = 512;   // of a block that adds up the units of a group
constexpr int kChannelThreads = 256;  // of a block that adds up the units of channels
constexpr int kInFlight = 4;          // loads per operand that a lane starts before it waits for the first
constexpr std::int64_t kResidentBytes = 192 * 1024;

/// How the units lie, and the workspace: three factors for every row, then three sums for every unit.
template <class C>
struct Cut {
  std::int64_t spatial, planes, groups, channels, batch;  // S, D, G, C, N
  std::int64_t pieces;                                    // units per plane
  std::int64_t units;                                     // in all
  int lanes;                                              // of a team: 1, 2, 4, ..., 32
  C* factors;                                             // [3, R]: slope, offset, rest
  C* sums;                                                // [3, units]: of x - mean, of dy, of dy (x - mean)

  WEFT_DEVICE std::int64_t rows() const { return batch * groups; }
  WEFT_DEVICE std::int64_t units_per_row() const { return planes * pieces; }
};

WEFT_DEVICE std::int64_t quotient(std::int64_t a, std::int64_t b) {
  if ((a | b) >> 32 == 0) return static_cast<unsigned>(a) / static_cast<unsigned>(b);
  return a / b;
}

/// Where a unit lies.
struct Unit {
  std::int64_t row, channel, begin;  // of [0, N C S)
  int count;                         // of elements; 0 past the last unit
};
template <class C>
WEFT_DEVICE Unit unit_at(const Cut<C>& cut, std::int64_t unit, std::int64_t end) {
  if (unit >= end) return {0, 0, 0, 0};
  const std::int64_t plane = quotient(unit, cut.pieces), at = (unit - plane * cut.pieces) * kGroupNormUnit;
  const std::int64_t sample = quotient(plane, cut.channels);
  return {quotient(plane, cut.planes), plane - sample * cut.channels, plane * cut.spatial + at,
          static_cast<int>(smaller(cut.spatial - at, kGroupNormUnit))};
}

template <class T>
WEFT_DEVICE compute_t<T> weight_of(const void* gamma, std::int64_t channel) {
  return gamma != nullptr ? widen(load_one<Cache::readonly>(static_cast<const T*>(gamma) + channel)) : compute_t<T>(1);
}

/// Sum over a team of `lanes` lanes. All lanes of the warp call it.
template <class C>
WEFT_DEVICE C team_sum(C value, int lanes) {
  WEFT_NO_UNROLL
  for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(kFullWarp, value, step);
  return value;
}

/// A team's sums of a unit, into the workspace; keep(i, x, dy) for every vector of it.
template <class T, int kWidth, class Keep>
WEFT_DEVICE void sum_unit(const GroupNormBackward& args, const Cut<compute_t<T>>& cut, std::int64_t index,
                          const Unit& unit, int lane, Keep&& keep) {
  using C = compute_t<T>;
  const C mean = unit.count > 0 ? load_one(static_cast<const C*>(args.mean) + unit.row) : C(0);
  const T* const from_x = static_cast<const T*>(args.x) + unit.begin;
  const T* const from_dy = static_cast<const T*>(args.dy) + unit.begin;
  const int step = cut.lanes * kWidth;
  C sums[3] = {C(0), C(0), C(0)};
  WEFT_NO_UNROLL
  for (int first = lane * kWidth; first < unit.count; first += kInFlight * step) {
    Vec<T, kWidth> x[kInFlight] = {}, dy[kInFlight] = {};
    WEFT_UNROLL
    for (int k = 0; k < kInFlight; ++k) {
      const int i = first + k * step;
      if (i >= unit.count) continue;
      x[k] = load<kWidth>(from_x + i);
      dy[k] = load<kWidth>(from_dy + i);
    }
    WEFT_UNROLL
    for (int k = 0; k < kInFlight; ++k) {
      const int i = first + k * step;
      if (i >= unit.count) continue;
      keep(i, x[k], dy[k]);
      const Vec<C, kWidth> some_x = widen(x[k]), some_dy = widen(dy[k]);
      WEFT_UNROLL
      for (int e = 0; e < kWidth; ++e) {
        const C difference = some_x[e] - mean;
        sums[0] += difference;
        sums[1] += some_dy[e];
        sums[2] = fused(some_dy[e], difference, sums[2]);
      }
    }
  }
  WEFT_UNROLL
  for (int n = 0; n < 3; ++n) {
    sums[n] = team_sum(sums[n], cut.lanes);
    if (lane == 0 && unit.count > 0) store_one(cut.sums + n * cut.units + index, sums[n]);
  }
}

/// dx = rstd g + slope (x - mean) + offset;  xhat = (x - mean - rest) rstd
template <class C>
struct Factors {
  C mean, rstd, slope, offset;
};

/// A row's factors from the sums of its units; called by all of a block. Leaves them in the workspace.
template <class T, int kThreads>
WEFT_DEVICE Factors<compute_t<T>> find_factors(const GroupNormBackward& args, const Cut<compute_t<T>>& cut,
                                               std::int64_t row, Shared<compute_t<T>> scratch) {
  using C = compute_t<T>;
  C sums[3] = {C(0), C(0), C(0)};
  const std::int64_t first = row * cut.units_per_row();
  const std::int64_t group = row - quotient(row, cut.groups) * cut.groups;
  // As many terms side by side for every kThreads, so that all of them add in the same order.
  WEFT_NO_UNROLL
  for (std::int64_t u = threadIdx.x; u < cut.units_per_row(); u += kThreads) {
    const C weight = weight_of<T>(args.gamma, group * cut.planes + quotient(u, cut.pieces));
    sums[0] += load_one(cut.sums + first + u);
    sums[1] = fused(load_one(cut.sums + cut.units + first + u), weight, sums[1]);
    sums[2] = fused(load_one(cut.sums + 2 * cut.units + first + u), weight, sums[2]);
  }
  block_sums<kThreads>(sums, scratch);
  const C mean = load_one(static_cast<const C*>(args.mean) + row);
  const C rstd = load_one(static_cast<const C*>(args.rstd) + row);
  const C count = static_cast<C>(cut.planes * cut.spatial);
  const C rest = sums[0] / count;  // what the saved mean lost by rounding
  const C mean_gx = rstd * (sums[2] - rest * sums[1]) / count;
  const C slope = -rstd * rstd * mean_gx;
  const C offset = -rstd * (sums[1] / count) - slope * rest;
  if (threadIdx.x == 0) {
    store_one(cut.factors + row, slope);
    store_one(cut.factors + cut.rows() + row, offset);
    store_one(cut.factors + 2 * cut.rows() + row, rest);
  }
  return {mean, rstd, slope, offset};
}

template <class T, int kWidth>
WEFT_DEVICE void store_gradient(const GroupNormBackward& args, std::int64_t at, const Vec<T, kWidth>& x,
                                const Vec<T, kWidth>& dy, compute_t<T> weight, const Factors<compute_t<T>>& of) {
  const Vec<compute_t<T>, kWidth> wide_x = widen(x), wide_dy = widen(dy);
  Vec<compute_t<T>, kWidth> dx;
  WEFT_UNROLL
  for (int e = 0; e < kWidth; ++e)
    dx[e] = fused(of.rstd, wide_dy[e] * weight, fused(of.slope, wide_x[e] - of.mean, of.offset));
  store(static_cast<T*>(args.dx) + at, narrow<T>(dx));
}

/// `shared`: one block per row.
template <class T, int kWidth, int kThreads>
WEFT_KERNEL __launch_bounds__(kThreads) resident_kernel(const GroupNormBackward args, const Cut<compute_t<T>> cut) {
  using C = compute_t<T>;
  WEFT_SHARED(C, scratch, 3 * (kThreads / kWarpSize));
  WEFT_SHARED_DYNAMIC(T, resident);  // x, then dy
  const int lane = static_cast<int>(threadIdx.x) % cut.lanes, team = static_cast<int>(threadIdx.x) / cut.lanes;
  const int teams = kThreads / cut.lanes;
  const std::int64_t row = blockIdx.x, elems = cut.planes * cut.spatial;
  const int dy_at = static_cast<int>(ceil_div<std::int64_t>(elems, kVectorWidth<T>)) * kVectorWidth<T>;
  const std::int64_t begin = row * cut.units_per_row(), end = begin + cut.units_per_row();
  WEFT_NO_UNROLL
  for (std::int64_t first = begin; first < end; first += teams) {  // as often for every team: all lanes must shuffle
    const Unit unit = unit_at(cut, first + team, end);
    const int at = static_cast<int>(unit.begin - row * elems);
    sum_unit<T, kWidth>(args, cut, first + team, unit, lane,
                        [&](int i, const Vec<T, kWidth>& x, const Vec<T, kWidth>& dy) {
                          store_shared<T>(resident, at + i, x);
                          store_shared<T>(resident, dy_at + at + i, dy);
                        });
  }
  __syncthreads();
  const Factors<C> of = find_factors<T, kThreads>(args, cut, row, scratch);
  if (args.dx == nullptr) return;
  WEFT_NO_UNROLL
  for (std::int64_t index = begin + team; index < end; index += teams) {
    const Unit unit = unit_at(cut, index, end);
    const C weight = weight_of<T>(args.gamma, unit.channel);
    const int at = static_cast<int>(unit.begin - row * elems);
    WEFT_NO_UNROLL
    for (int i = lane * kWidth; i < unit.count; i += cut.lanes * kWidth)
      store_gradient<T, kWidth>(args, unit.begin + i, load_shared<kWidth, T>(resident, at + i),
                                load_shared<kWidth, T>(resident, dy_at + at + i), weight, of);
  }
}

/// `reread`, first pass: every unit's sums.
template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kUnitThreads) units_kernel(const GroupNormBackward args, const Cut<compute_t<T>> cut) {
  const int lane = static_cast<int>(threadIdx.x) % cut.lanes, team = static_cast<int>(threadIdx.x) / cut.lanes;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * (kUnitThreads / cut.lanes) + team;
  sum_unit<T, kWidth>(args, cut, index, unit_at(cut, index, cut.units), lane,
                      [](int, const Vec<T, kWidth>&, const Vec<T, kWidth>&) {});
}

/// `reread`, second pass, one block per row.
template <class T, int kThreads>
WEFT_KERNEL __launch_bounds__(kThreads) factors_kernel(const GroupNormBackward args, const Cut<compute_t<T>> cut) {
  WEFT_SHARED(compute_t<T>, scratch, 3 * (kThreads / kWarpSize));
  find_factors<T, kThreads>(args, cut, blockIdx.x, scratch);
}

/// `reread`, third pass: dx of every unit.
template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kUnitThreads) dx_kernel(const GroupNormBackward args, const Cut<compute_t<T>> cut) {
  using C = compute_t<T>;
  const int lane = static_cast<int>(threadIdx.x) % cut.lanes, team = static_cast<int>(threadIdx.x) / cut.lanes;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * (kUnitThreads / cut.lanes) + team;
  const Unit unit = unit_at(cut, index, cut.units);
  if (unit.count == 0) return;
  const Factors<C> of{load_one(static_cast<const C*>(args.mean) + unit.row),
                      load_one(static_cast<const C*>(args.rstd) + unit.row), load_one(cut.factors + unit.row),
                      load_one(cut.factors + cut.rows() + unit.row)};
  const C weight = weight_of<T>(args.gamma, unit.channel);
  const int step = cut.lanes * kWidth;
  WEFT_NO_UNROLL
  for (int first = lane * kWidth; first < unit.count; first += kInFlight * step) {
    Vec<T, kWidth> x[kInFlight] = {}, dy[kInFlight] = {};
    WEFT_UNROLL
    for (int k = 0; k < kInFlight; ++k) {
      const std::int64_t at = unit.begin + first + k * step;
      if (first + k * step >= unit.count) continue;
      x[k] = load<kWidth, Cache::streaming>(static_cast<const T*>(args.x) + at);
      dy[k] = load<kWidth, Cache::streaming>(static_cast<const T*>(args.dy) + at);
    }
    WEFT_UNROLL
    for (int k = 0; k < kInFlight; ++k)
      if (first + k * step < unit.count)
        store_gradient<T, kWidth>(args, unit.begin + first + k * step, x[k], dy[k], weight, of);
  }
}

/// dgamma and dbeta of `across` channels, 32 or 1, per block: the other threads share the samples and pieces.
template <class T>
WEFT_KERNEL __launch_bounds__(kChannelThreads)
    channels_kernel(const GroupNormBackward args, const Cut<compute_t<T>> cut, int across) {
  using C = compute_t<T>;
  WEFT_SHARED(C, dgamma, kChannelThreads);
  WEFT_SHARED(C, dbeta, kChannelThreads);
  const int thread = static_cast<int>(threadIdx.x), share = thread / across, shares = kChannelThreads / across;
  const std::int64_t channel = static_cast<std::int64_t>(blockIdx.x) * across + thread % across;
  C sums[2] = {C(0), C(0)};
  if (channel < cut.channels) {
    const std::int64_t group = quotient(channel, cut.planes);
    WEFT_NO_UNROLL
    for (std::int64_t term = share; term < cut.batch * cut.pieces; term += shares) {
      const std::int64_t sample = quotient(term, cut.pieces), row = sample * cut.groups + group;
      const std::int64_t unit = (sample * cut.channels + channel) * cut.pieces + (term - sample * cut.pieces);
      const C dy = load_one(cut.sums + cut.units + unit), dyx = load_one(cut.sums + 2 * cut.units + unit);
      const C rest = load_one(cut.factors + 2 * cut.rows() + row);
      sums[0] = fused(load_one(static_cast<const C*>(args.rstd) + row), fused(-rest, dy, dyx), sums[0]);
      sums[1] += dy;
    }
  }
  dgamma[thread] = sums[0];
  dbeta[thread] = sums[1];
  WEFT_NO_UNROLL
  for (int step = shares / 2; step > 0; step /= 2) {
    __syncthreads();
    if (share >= step) continue;
    dgamma[thread] += dgamma[thread + step * across];
    dbeta[thread] += dbeta[thread + step * across];
  }
  if (share > 0 || channel >= cut.channels) return;
  const auto write = [&](void* to, C sum, Accumulate mode) {
    if (to == nullptr) return;
    T* const at = static_cast<T*>(to) + channel;
    if (mode == Accumulate::add) sum += widen(load_one(at));
    store_one(at, narrow<T>(sum));
  };
  write(args.dgamma, dgamma[thread], args.dgamma_mode);
  write(args.dbeta, dbeta[thread], args.dbeta_mode);
}

// --- choosing --------------------------------------------------------------------------------------------------------

/// Whether every channel of x, dy and dx can be cut into vectors of 16 bytes.
bool in_vectors(const GroupNormBackward& args) {
  return args.shape.spatial * element_bytes(args.dtype) % 16 == 0 && is_aligned(args.x, 16) &&
         is_aligned(args.dy, 16) && is_aligned(args.dx, 16);
}

template <class C>
Cut<C> cut_of(const GroupNormBackward& args, int width) {
  const GroupNormShape& shape = args.shape;
  const std::int64_t pieces = group_norm_pieces(shape);
  const std::int64_t vectors = ceil_div<std::int64_t>(std::min(shape.spatial, kGroupNormUnit), width);
  int lanes = 1;
  while (lanes < kWarpSize && lanes < vectors) lanes *= 2;
  auto* const factors = static_cast<C*>(args.partials);
  return {.spatial = shape.spatial,
          .planes = shape.planes(),
          .groups = shape.groups,
          .channels = shape.channels,
          .batch = shape.batch,
          .pieces = pieces,
          .units = shape.batch * shape.channels * pieces,
          .lanes = lanes,
          .factors = factors,
          .sums = factors + 3 * shape.rows()};
}

template <class T>
struct Sizes {
  explicit Sizes(const GroupNormBackward& args)
      : tensor(args.shape.rows() * args.shape.row_elems() * static_cast<std::int64_t>(sizeof(T))),
        vector(args.shape.channels * static_cast<std::int64_t>(sizeof(T))),
        rows(args.shape.rows() * static_cast<std::int64_t>(sizeof(compute_t<T>))),
        partials(group_norm_backward_partials(args.shape) * static_cast<std::int64_t>(sizeof(compute_t<T>))) {}
  std::int64_t tensor, vector, rows, partials;  // in bytes
};

template <class T>
void sum_channels(const Stream& stream, const GroupNormBackward& args, const Cut<compute_t<T>>& cut) {
  if (args.dgamma == nullptr && args.dbeta == nullptr) return;
  const Sizes<T> bytes(args);
  const int across = cut.pieces == 1 ? kWarpSize : 1;  // neighbouring threads: channels, or pieces of one
  launch(stream,
         {.name = "group_norm_backward_channels",
          .grid = {ceil_div<std::int64_t>(cut.channels, across)},
          .block = {kChannelThreads},
          .operands = {{"rstd", args.rstd, bytes.rows, OperandKind::broadcast},
                       {"partials", args.partials, bytes.partials, OperandKind::workspace},
                       {"dgamma", args.dgamma, bytes.vector},
                       {"dbeta", args.dbeta, bytes.vector}}},
         channels_kernel<T>, args, cut, across);
}

std::int64_t resident_bytes(const GroupNormBackward& args) {
  return 2 * ceil_div<std::int64_t>(args.shape.row_elems() * element_bytes(args.dtype), 16) * 16;
}

/// Threads of a block that has a whole group.
bool is_narrow(const GroupNormShape& shape) { return shape.row_elems() <= 4096; }

template <class T, int kWidth, int kThreads>
void start_resident(const Stream& stream, const GroupNormBackward& args, const Cut<compute_t<T>>& cut) {
  const Sizes<T> bytes(args);
  launch(stream,
         {.name = "group_norm_backward",
          .grid = {args.shape.rows()},
          .block = {kThreads},
          .dynamic_shared_bytes = resident_bytes(args),
          .operands = {{"x", args.x, bytes.tensor},
                       {"gamma", args.gamma, bytes.vector, OperandKind::broadcast},
                       {"dy", args.dy, bytes.tensor},
                       {"mean", args.mean, bytes.rows, OperandKind::broadcast},
                       {"rstd", args.rstd, bytes.rows, OperandKind::broadcast},
                       {"dx", args.dx, bytes.tensor},
                       {"partials", args.partials, bytes.partials, OperandKind::workspace}}},
         resident_kernel<T, kWidth, kThreads>, args, cut);
}

template <class T, int kWidth>
void run_shared(const Stream& stream, const GroupNormBackward& args) {
  const auto cut = cut_of<compute_t<T>>(args, kWidth);
  if (is_narrow(args.shape))
    start_resident<T, kWidth, 128>(stream, args, cut);
  else
    start_resident<T, kWidth, kFactorThreads>(stream, args, cut);
  sum_channels<T>(stream, args, cut);
}

template <class T, int kWidth>
void run_reread(const Stream& stream, const GroupNormBackward& args) {
  const auto cut = cut_of<compute_t<T>>(args, kWidth);
  const Sizes<T> bytes(args);
  const Extent grid{ceil_div<std::int64_t>(cut.units, kUnitThreads / cut.lanes)};
  launch(stream,
         {.name = "group_norm_backward_units",
          .grid = grid,
          .block = {kUnitThreads},
          .operands = {{"x", args.x, bytes.tensor},
                       {"dy", args.dy, bytes.tensor},
                       {"mean", args.mean, bytes.rows, OperandKind::broadcast},
                       {"partials", args.partials, bytes.partials, OperandKind::workspace}}},
         units_kernel<T, kWidth>, args, cut);
  const auto start_factors = [&](auto threads) {
    launch(stream,
           {.name = "group_norm_backward_factors",
            .grid = {args.shape.rows()},
            .block = {threads()},
            .operands = {{"gamma", args.gamma, bytes.vector, OperandKind::broadcast},
                         {"mean", args.mean, bytes.rows, OperandKind::broadcast},
                         {"rstd", args.rstd, bytes.rows, OperandKind::broadcast},
                         {"partials", args.partials, bytes.partials, OperandKind::workspace}}},
           factors_kernel<T, threads()>, args, cut);
  };
  if (is_narrow(args.shape))
    start_factors(std::integral_constant<int, 128>{});
  else
    start_factors(std::integral_constant<int, kFactorThreads>{});
  if (args.dx != nullptr)
    launch(stream,
           {.name = "group_norm_backward_dx",
            .grid = grid,
            .block = {kUnitThreads},
            .operands = {{"x", args.x, bytes.tensor},
                         {"gamma", args.gamma, bytes.vector, OperandKind::broadcast},
                         {"dy", args.dy, bytes.tensor},
                         {"mean", args.mean, bytes.rows, OperandKind::broadcast},
                         {"rstd", args.rstd, bytes.rows, OperandKind::broadcast},
                         {"dx", args.dx, bytes.tensor},
                         {"partials", args.partials, bytes.partials, OperandKind::broadcast}}},
           dx_kernel<T, kWidth>, args, cut);
  sum_channels<T>(stream, args, cut);
}

/// Calls f(std::type_identity<T>{}, std::integral_constant<int, kWidth>{}).
template <class F>
void dispatch(const GroupNormBackward& args, F&& f) {
  dispatch_float(args.dtype, "group_norm", [&]<class T>(std::type_identity<T> type) {
    if (in_vectors(args))
      f(type, std::integral_constant<int, kVectorWidth<T>>{});
    else
      f(type, std::integral_constant<int, 1>{});
  });
}

const Variant<GroupNormBackward> kVariants[] = {
    {"shared", "x and dy of a group in shared memory, a block per group",
     [](const GroupNormBackward& args) {
       const std::int64_t bytes = resident_bytes(args);
       return bytes <= kResidentBytes && bytes + 1024 <= shared_limit_bytes();  // with the sums' scratch
     },
     [](const Stream& stream, const GroupNormBackward& args) {
       dispatch(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
         run_shared<T, kWidth>(stream, args);
       });
     }},
    {"reread", "groups over many blocks: sums of all units, then dx", [](const GroupNormBackward&) { return true; },
     [](const Stream& stream, const GroupNormBackward& args) {
       dispatch(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
         run_reread<T, kWidth>(stream, args);
       });
     }},
};

}  // namespace

std::span<const Variant<GroupNormBackward>> group_norm_backward_variants() { return kVariants; }

void group_norm_backward(const Stream& stream, const GroupNormBackward& args) {
  if (args.dx == nullptr && args.dgamma == nullptr && args.dbeta == nullptr) return;
  run_variant("group_norm", group_norm_backward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
