#pragma once
// What the forward passes of layer_norm, rms_norm and group_norm share: a row stays on chip between its statistics and
// the result, so that x is read once and y written once. A row of group_norm is one sample's group: `planes` channels of
// `spatial` elements.
//   registers  8 or 32 threads, or a block of 256, per row; each thread keeps up to eight vectors of 16 bytes, or of
//              one element where a row does not start on 16 bytes. Rows up to 32 KiB (2048 elements one by one).
//   shared     512 threads per row, the row in dynamic shared memory: up to 96 KiB of it. Each thread reads back what
//              it wrote itself, 16 bytes per lane side by side: no barrier, no bank conflict.
//   reread     the same without a place for the row: reads it three times, twice from the L2 as a rule. Any length. The
//              same threads add the same numbers as in `shared`, so a GPU without that much shared memory gets the same
//              bits.
//   The variance is a true second pass, and both passes subtract before they add: the row's first element in the first
//   pass (a constant row has its exact mean), the mean in the second, whose sum of differences also gives what the mean
//   lost by rounding. So the error of y depends on the spread of a row, not on its mean. E[x²]-E[x]² would lose every
//   digit when |mean| >> std. rms_norm has one pass, of squares: all its terms are positive.
#include "kernels/common/block.h"
#include "kernels/common/contract.h"
#include "kernels/common/launch.h"

namespace weft::kernels::WEFT_BACKEND {

enum class RowNorm : std::uint8_t { layer, rms, group };

/// The arguments of the three ops. rms: no beta, no mean. group: gamma and beta have an element per channel, not per
/// column.
struct RowNormForward {
  Dtype dtype;
  std::int64_t rows, channels;  // R, C; of a group norm C = planes * spatial
  double eps;
  const void* x;                                     // in,  [R, C]
  const void* gamma;                                 // in,  [C], of a group norm [groups * planes]; null for 1
  const void* beta;                                  // in,  the same; null for 0
  void* y;                                           // out, [R, C]
  void* mean;                                        // out, [R]; null when not wanted
  void* rstd;                                        // out, [R]; null when not wanted
  std::int64_t groups = 1, planes = 1, spatial = 1;  // group: row r is group r % groups of sample r / groups
};

inline constexpr int kMaxVectors = 8;                      // per thread: 32 registers
inline constexpr int kBlockThreads = 256;                  // per row, in registers
inline constexpr int kWideThreads = 512;                   // per row, beyond the registers
inline constexpr std::int64_t kResidentBytes = 96 * 1024;  // two such blocks fit a processor of 227 KiB
inline constexpr int kInFlight = 4;                        // loads that a thread starts before it waits for the first

/// Of one row; what turns its elements into results.
template <class C>
struct Statistics {
  C mean, rest;  // the true mean is mean + rest
  C rstd;
};

/// From the sums of x - mean and of its square.
template <class C>
WEFT_DEVICE Statistics<C> statistics(C mean, C sum, C squares, C inverse, C eps) {
  const C rest = sum * inverse;
  C variance = squares * inverse - rest * rest;
  if (variance < C(0)) variance = C(0);  // written so that a NaN stays
  return {mean, rest, C(1) / square_root(variance + eps)};
}

/// Adds x - mean and its square to the sums; rms: x².
template <RowNorm kNorm, class C, int kWidth>
WEFT_DEVICE void add_squares(const Vec<C, kWidth>& x, C mean, C (&sums)[2]) {
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) {
    const C difference = kNorm == RowNorm::rms ? x[i] : x[i] - mean;
    if constexpr (kNorm != RowNorm::rms) sums[0] += difference;
    sums[1] = fused(difference, difference, sums[1]);
  }
}

/// Over the team.
template <RowNorm kNorm, int kTeam, class C>
WEFT_DEVICE void total_squares(C (&sums)[2], Shared<C> scratch) {
  if constexpr (kNorm == RowNorm::rms) {
    C squares[1] = {sums[1]};
    block_sums<kTeam>(squares, scratch);
    sums[1] = squares[0];
  } else {
    block_sums<kTeam>(sums, scratch);
  }
}

template <class C>
WEFT_DEVICE void store_statistics(const RowNormForward& args, std::int64_t row, const Statistics<C>& of) {
  if (args.mean != nullptr) store_one(static_cast<C*>(args.mean) + row, of.mean + of.rest);
  if (args.rstd != nullptr) store_one(static_cast<C*>(args.rstd) + row, of.rstd);
}

/// gamma and beta of the channel that column c of a group belongs to, 1 and 0 where there is none. N·G and D·S are below
/// 2^31.
template <class C>
struct Affine {
  C gamma, beta;
};
template <class T>
WEFT_DEVICE Affine<compute_t<T>> load_group_affine(const RowNormForward& args, std::int64_t row, std::int64_t c) {
  using C = compute_t<T>;
  const unsigned group = static_cast<unsigned>(row) % static_cast<unsigned>(args.groups);
  const unsigned plane = static_cast<unsigned>(c) / static_cast<unsigned>(args.spatial);
  const std::int64_t channel = group * args.planes + plane;
  const auto at = [&](const void* from, C none) {
    return from != nullptr ? widen(load_one<Cache::readonly>(static_cast<const T*>(from) + channel)) : none;
  };
  return {at(args.gamma, C(1)), at(args.beta, C(0))};
}

/// y[c, c + kWidth) from x there.
template <RowNorm kNorm, class T, int kWidth>
WEFT_DEVICE void normalise(const RowNormForward& args, std::int64_t row, std::int64_t c, const Vec<T, kWidth>& x,
                           const Statistics<compute_t<T>>& of) {
  using C = compute_t<T>;
  const T *const gamma = static_cast<const T*>(args.gamma), *const beta = static_cast<const T*>(args.beta);
  Vec<C, kWidth> value = widen(x);
  if constexpr (kNorm == RowNorm::rms) {
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) value[i] *= of.rstd;
  } else {
    const C offset = -of.rest * of.rstd;
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) value[i] = fused(value[i] - of.mean, of.rstd, offset);
  }
  if constexpr (kNorm == RowNorm::group) {
    const Affine<C> affine = load_group_affine<T>(args, row, c);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) value[i] = fused(value[i], affine.gamma, affine.beta);
  } else if (gamma != nullptr) {
    const Vec<C, kWidth> g = widen(load<kWidth, Cache::readonly>(gamma + c));
    Vec<C, kWidth> b{};
    if (beta != nullptr) b = widen(load<kWidth, Cache::readonly>(beta + c));
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) value[i] = fused(value[i], g[i], b[i]);
  } else if (beta != nullptr) {
    const Vec<C, kWidth> b = widen(load<kWidth, Cache::readonly>(beta + c));
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) value[i] += b[i];
  }
  store(static_cast<T*>(args.y) + row * args.channels + c, narrow<T>(value));
}

template <class C>
struct Moments {
  C mean;     // rounded
  C sums[2];  // of x - mean and of its square
};

/// Of a row whose vectors (v * kTeam + lane) lie in a team's registers. `channels` is 0 for a team without a row, which
/// takes part in its warp's shuffles. inverse: one over the length.
template <RowNorm kNorm, class T, int kWidth, int kTeam, int kVectors>
WEFT_DEVICE Moments<compute_t<T>> row_moments(const Vec<T, kWidth> (&x)[kVectors], const T* row_x, int channels,
                                              compute_t<T> inverse, Shared<compute_t<T>> first_scratch,
                                              Shared<compute_t<T>> second_scratch) {
  using C = compute_t<T>;
  const int lane = static_cast<int>(threadIdx.x) % kTeam;
  const auto column = [&](int v) { return (v * kTeam + lane) * kWidth; };  // [0, C) or past the end
  C mean = C(0);
  if constexpr (kNorm != RowNorm::rms) {
    C shift;
    if constexpr (kTeam <= kWarpSize)
      shift = __shfl_sync(kFullWarp, widen(x[0])[0], 0, kTeam);
    else
      shift = widen(load_one(row_x));
    C first[1] = {C(0)};
    WEFT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      if (column(v) >= channels) continue;  // lanes past the end must not enter the sums
      const Vec<C, kWidth> value = widen(x[v]);
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) first[0] += value[i] - shift;
    }
    block_sums<kTeam>(first, first_scratch);
    mean = shift + first[0] * inverse;
  }

  C second[2] = {C(0), C(0)};
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    if (column(v) >= channels) continue;
    add_squares<kNorm>(widen(x[v]), mean, second);
  }
  total_squares<kNorm, kTeam>(second, second_scratch);
  return {mean, {second[0], second[1]}};
}

/// The row in registers, kTeam threads per row. Several rows per block up to one warp per row.
template <RowNorm kNorm, class T, int kWidth, int kTeam, int kVectors>
WEFT_KERNEL __launch_bounds__(kTeam > kWarpSize ? kTeam : 128, kTeam > kWarpSize ? 2 : 5)
    registers_kernel(const RowNormForward args) {
  using C = compute_t<T>;
  constexpr int kThreads = kTeam > kWarpSize ? kTeam : 128;
  constexpr int kScratch = kTeam > kWarpSize ? kTeam / kWarpSize : 1;
  WEFT_SHARED(C, first_scratch, kScratch);
  WEFT_SHARED(C, second_scratch, 2 * kScratch);

  const int lane = static_cast<int>(threadIdx.x) % kTeam;
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / kTeam) + static_cast<int>(threadIdx.x) / kTeam;
  // A team past the last row has no elements, but takes part in its warp's shuffles.
  const int channels = row < args.rows ? static_cast<int>(args.channels) : 0;
  const C inverse = C(1) / static_cast<C>(args.channels);
  const T* const row_x = static_cast<const T*>(args.x) + row * args.channels;
  const auto column = [&](int v) { return (v * kTeam + lane) * kWidth; };  // [0, C) or past the end

  Vec<T, kWidth> x[kVectors] = {};
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v)
    if (column(v) < channels) x[v] = load<kWidth, Cache::streaming>(row_x + column(v));

  const auto [mean, sums] =
      row_moments<kNorm, T, kWidth, kTeam, kVectors>(x, row_x, channels, inverse, first_scratch, second_scratch);
  const Statistics<C> of = statistics(mean, sums[0], sums[1], inverse, static_cast<C>(args.eps));
  if (lane == 0 && channels > 0) store_statistics(args, row, of);
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v)
    if (column(v) < channels) normalise<kNorm, T, kWidth>(args, row, column(v), x[v], of);
}

/// Calls use(c, read(c)) for the vectors of a row that are this thread's, several reads ahead.
template <int kWidth, class Read, class Use>
WEFT_DEVICE void for_each_own(std::int64_t channels, Read&& read, Use&& use) {
  constexpr std::int64_t kStep = kWideThreads * kWidth;
  WEFT_NO_UNROLL
  for (std::int64_t c = static_cast<int>(threadIdx.x) * kWidth; c < channels; c += kInFlight * kStep) {
    decltype(read(c)) x[kInFlight] = {};
    WEFT_UNROLL
    for (int u = 0; u < kInFlight; ++u)
      if (c + u * kStep < channels) x[u] = read(c + u * kStep);
    WEFT_UNROLL
    for (int u = 0; u < kInFlight; ++u)
      if (c + u * kStep < channels) use(c + u * kStep, x[u]);
  }
}

/// One block per row of any length; kResident: the row in dynamic shared memory.
template <RowNorm kNorm, class T, int kWidth, bool kResident>
WEFT_KERNEL __launch_bounds__(kWideThreads) wide_kernel(const RowNormForward args) {
  using C = compute_t<T>;
  WEFT_SHARED(C, first_scratch, kWideThreads / kWarpSize);
  WEFT_SHARED(C, second_scratch, 2 * kWideThreads / kWarpSize);
  WEFT_SHARED_DYNAMIC(T, resident);

  const std::int64_t row = blockIdx.x, channels = args.channels;
  const C inverse = C(1) / static_cast<C>(channels);
  const T* const row_x = static_cast<const T*>(args.x) + row * channels;
  const auto from_memory = [&](std::int64_t c) { return load<kWidth>(row_x + c); };
  const auto again = [&](std::int64_t c) {
    if constexpr (kResident)
      return load_shared<kWidth, T>(resident, static_cast<int>(c));
    else
      return from_memory(c);
  };

  C mean = C(0), second[2] = {C(0), C(0)};
  const auto keep = [&](std::int64_t c, const Vec<T, kWidth>& x) {
    if constexpr (kResident) store_shared<T>(resident, static_cast<int>(c), x);
  };
  if constexpr (kNorm == RowNorm::rms) {
    for_each_own<kWidth>(channels, from_memory, [&](std::int64_t c, const Vec<T, kWidth>& x) {
      keep(c, x);
      add_squares<kNorm>(widen(x), mean, second);
    });
  } else {
    const C shift = widen(load_one(row_x));
    C first[1] = {C(0)};
    for_each_own<kWidth>(channels, from_memory, [&](std::int64_t c, const Vec<T, kWidth>& x) {
      keep(c, x);
      const Vec<C, kWidth> value = widen(x);
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) first[0] += value[i] - shift;
    });
    block_sums<kWideThreads>(first, first_scratch);
    mean = shift + first[0] * inverse;
    for_each_own<kWidth>(channels, again,
                         [&](std::int64_t, const Vec<T, kWidth>& x) { add_squares<kNorm>(widen(x), mean, second); });
  }
  total_squares<kNorm, kWideThreads>(second, second_scratch);
  const Statistics<C> of = statistics(mean, second[0], second[1], inverse, static_cast<C>(args.eps));

  if (threadIdx.x == 0) store_statistics(args, row, of);
  for_each_own<kWidth>(channels, again, [&](std::int64_t c, const Vec<T, kWidth>& x) {
    normalise<kNorm, T, kWidth>(args, row, c, x, of);
  });
}

// --- choosing --------------------------------------------------------------------------------------------------------

inline int vector_width(Dtype dtype) { return static_cast<int>(16 / element_bytes(dtype)); }

/// Whether every row of x and y, gamma and beta can be cut into vectors of 16 bytes; of a group norm, every channel of x
/// and y.
inline bool in_vectors(const RowNormForward& args, RowNorm norm) {
  const std::int64_t side_by_side = norm == RowNorm::group ? args.spatial : args.channels;
  return side_by_side % vector_width(args.dtype) == 0 && is_aligned(args.x, 16) && is_aligned(args.y, 16) &&
         (norm == RowNorm::group || (is_aligned(args.gamma, 16) && is_aligned(args.beta, 16)));
}

constexpr const char* row_norm_name(RowNorm norm, const char* layer, const char* rms, const char* group) {
  return norm == RowNorm::layer ? layer : norm == RowNorm::rms ? rms : group;
}

template <RowNorm kNorm, class T>
struct RowNormBytes {
  explicit RowNormBytes(const RowNormForward& args)
      : row(args.channels * static_cast<std::int64_t>(sizeof(T))),
        matrix(args.rows * row),
        affine(kNorm == RowNorm::group ? args.groups * args.planes * static_cast<std::int64_t>(sizeof(T)) : row),
        statistics(args.rows * static_cast<std::int64_t>(sizeof(compute_t<T>))) {}
  std::int64_t row, matrix, affine, statistics;
};

template <RowNorm kNorm, class T, int kWidth, int kTeam, int kVectors>
void start_registers(const Stream& stream, const RowNormForward& args) {
  constexpr std::int64_t kThreads = kTeam > kWarpSize ? kTeam : 128;
  const RowNormBytes<kNorm, T> bytes(args);
  launch(stream,
         {.name = row_norm_name(kNorm, "layer_norm_forward", "rms_norm_forward", "group_norm_forward"),
          .grid = {ceil_div(args.rows, kThreads / kTeam)},
          .block = {kThreads},
          .operands = {{"x", args.x, bytes.matrix},
                       {"gamma", args.gamma, bytes.affine, OperandKind::broadcast},
                       {"beta", args.beta, bytes.affine, OperandKind::broadcast},
                       {"y", args.y, bytes.matrix},
                       {"mean", args.mean, bytes.statistics},
                       {"rstd", args.rstd, bytes.statistics}}},
         registers_kernel<kNorm, T, kWidth, kTeam, kVectors>, args);
}

template <RowNorm kNorm, class T, int kWidth, bool kResident>
void start_wide(const Stream& stream, const RowNormForward& args) {
  const RowNormBytes<kNorm, T> bytes(args);
  launch(stream,
         {.name = kResident ? row_norm_name(kNorm, "layer_norm_forward_shared", "rms_norm_forward_shared",
                                            "group_norm_forward_shared")
                            : row_norm_name(kNorm, "layer_norm_forward_reread", "rms_norm_forward_reread",
                                            "group_norm_forward_reread"),
          .grid = {args.rows},
          .block = {kWideThreads},
          .dynamic_shared_bytes = kResident ? ceil_div<std::int64_t>(bytes.row, 16) * 16 : 0,
          .operands = {{"x", args.x, bytes.matrix},
                       {"gamma", args.gamma, bytes.affine, OperandKind::broadcast},
                       {"beta", args.beta, bytes.affine, OperandKind::broadcast},
                       {"y", args.y, bytes.matrix},
                       {"mean", args.mean, bytes.statistics},
                       {"rstd", args.rstd, bytes.statistics}}},
         wide_kernel<kNorm, T, kWidth, kResident>, args);
}

/// The narrowest team, with the fewest vectors per thread, that holds the row.
template <RowNorm kNorm, class T, int kWidth>
void run_registers(const Stream& stream, const RowNormForward& args) {
  const std::int64_t vectors = ceil_div<std::int64_t>(args.channels, kWidth);
  if (vectors <= 8) return start_registers<kNorm, T, kWidth, 8, 1>(stream, args);
  if (vectors <= 32) return start_registers<kNorm, T, kWidth, 32, 1>(stream, args);
  if (vectors <= 32 * 2) return start_registers<kNorm, T, kWidth, 32, 2>(stream, args);
  if (vectors <= 32 * 4) return start_registers<kNorm, T, kWidth, 32, 4>(stream, args);
  if (vectors <= 32 * 8) return start_registers<kNorm, T, kWidth, 32, 8>(stream, args);
  if (vectors <= kBlockThreads * 2) return start_registers<kNorm, T, kWidth, kBlockThreads, 2>(stream, args);
  if (vectors <= kBlockThreads * 4) return start_registers<kNorm, T, kWidth, kBlockThreads, 4>(stream, args);
  return start_registers<kNorm, T, kWidth, kBlockThreads, kMaxVectors>(stream, args);
}

/// Calls f(std::type_identity<T>{}, std::integral_constant<int, kWidth>{}).
template <RowNorm kNorm, class F>
void dispatch_row_norm(const RowNormForward& args, F&& f) {
  dispatch_float(args.dtype, row_norm_name(kNorm, "layer_norm", "rms_norm", "group_norm"),
                 [&]<class T>(std::type_identity<T> type) {
                   if (in_vectors(args, kNorm))
                     f(type, std::integral_constant<int, kVectorWidth<T>>{});
                   else
                     f(type, std::integral_constant<int, 1>{});
                 });
}

/// The variants' `supports` and `run`.
template <RowNorm kNorm>
bool fits_registers(const RowNormForward& args) {
  const int width = in_vectors(args, kNorm) ? vector_width(args.dtype) : 1;
  return args.channels <= kBlockThreads * kMaxVectors * width;
}
inline bool fits_shared(const RowNormForward& args) {
  const std::int64_t bytes = args.channels * element_bytes(args.dtype);
  return bytes <= kResidentBytes && bytes + 1024 <= shared_limit_bytes();  // with the sums' scratch
}
template <RowNorm kNorm>
void run_registers(const Stream& stream, const RowNormForward& args) {
  dispatch_row_norm<kNorm>(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
    run_registers<kNorm, T, kWidth>(stream, args);
  });
}
template <RowNorm kNorm, bool kResident>
void run_wide(const Stream& stream, const RowNormForward& args) {
  dispatch_row_norm<kNorm>(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
    start_wide<kNorm, T, kWidth, kResident>(stream, args);
  });
}

}  // namespace weft::kernels::WEFT_BACKEND
