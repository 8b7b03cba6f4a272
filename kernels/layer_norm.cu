// LayerNorm forward: a row stays on chip between the mean, the variance and the result, so that x is read once and y
// written once.
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
//   digit when |mean| >> std.
#include "kernels/layer_norm.h"

#include "kernels/common/block.h"
#include "kernels/common/launch.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kMaxVectors = 8;                      // per thread: 32 registers
constexpr int kBlockThreads = 256;                  // per row, in registers
constexpr int kWideThreads = 512;                   // per row, beyond the registers
constexpr std::int64_t kResidentBytes = 96 * 1024;  // two such blocks fit a processor of 227 KiB
constexpr int kInFlight = 4;                        // loads that a thread starts before it waits for the first

/// Of one row; what turns its elements into results.
template <class C>
struct Statistics {
  C mean, rest;  // the true mean is mean + rest
  C rstd;
};

template <class C>
WEFT_DEVICE Statistics<C> statistics(C mean, C sum, C squares, C inverse, C eps) {
  const C rest = sum * inverse;
  C variance = squares * inverse - rest * rest;
  if (variance < C(0)) variance = C(0);  // written so that a NaN stays
  return {mean, rest, C(1) / square_root(variance + eps)};
}

template <class C>
WEFT_DEVICE void store_statistics(const LayerNormForward& args, std::int64_t row, const Statistics<C>& of) {
  if (args.mean != nullptr) store_one(static_cast<C*>(args.mean) + row, of.mean + of.rest);
  if (args.rstd != nullptr) store_one(static_cast<C*>(args.rstd) + row, of.rstd);
}

/// y[c, c + kWidth) from x there.
template <class T, int kWidth>
WEFT_DEVICE void normalise(const LayerNormForward& args, std::int64_t row, std::int64_t c, const Vec<T, kWidth>& x,
                           const Statistics<compute_t<T>>& of) {
  using C = compute_t<T>;
  const T* const gamma = static_cast<const T*>(args.gamma);
  const T* const beta = static_cast<const T*>(args.beta);
  Vec<C, kWidth> value = widen(x);
  const C offset = -of.rest * of.rstd;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) value[i] = fused(value[i] - of.mean, of.rstd, offset);
  if (gamma != nullptr) {
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

/// The row in registers, kTeam threads per row. Several rows per block up to one warp per row.
template <class T, int kWidth, int kTeam, int kVectors>
WEFT_KERNEL __launch_bounds__(kTeam > kWarpSize ? kTeam : 128, kTeam > kWarpSize ? 2 : 5)
    registers_kernel(const LayerNormForward args) {
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
  const C mean = shift + first[0] * inverse;

  C second[2] = {C(0), C(0)};
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    if (column(v) >= channels) continue;
    const Vec<C, kWidth> value = widen(x[v]);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) {
      const C difference = value[i] - mean;
      second[0] += difference;
      second[1] = fused(difference, difference, second[1]);
    }
  }
  block_sums<kTeam>(second, second_scratch);
  const Statistics<C> of = statistics(mean, second[0], second[1], inverse, static_cast<C>(args.eps));

  if (lane == 0 && channels > 0) store_statistics(args, row, of);
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v)
    if (column(v) < channels) normalise<T, kWidth>(args, row, column(v), x[v], of);
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
template <class T, int kWidth, bool kResident>
WEFT_KERNEL __launch_bounds__(kWideThreads) wide_kernel(const LayerNormForward args) {
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

  const C shift = widen(load_one(row_x));
  C first[1] = {C(0)};
  for_each_own<kWidth>(channels, from_memory, [&](std::int64_t c, const Vec<T, kWidth>& x) {
    if constexpr (kResident) store_shared<T>(resident, static_cast<int>(c), x);
    const Vec<C, kWidth> value = widen(x);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) first[0] += value[i] - shift;
  });
  block_sums<kWideThreads>(first, first_scratch);
  const C mean = shift + first[0] * inverse;

  C second[2] = {C(0), C(0)};
  for_each_own<kWidth>(channels, again, [&](std::int64_t, const Vec<T, kWidth>& x) {
    const Vec<C, kWidth> value = widen(x);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) {
      const C difference = value[i] - mean;
      second[0] += difference;
      second[1] = fused(difference, difference, second[1]);
    }
  });
  block_sums<kWideThreads>(second, second_scratch);
  const Statistics<C> of = statistics(mean, second[0], second[1], inverse, static_cast<C>(args.eps));

  if (threadIdx.x == 0) store_statistics(args, row, of);
  for_each_own<kWidth>(channels, again,
                       [&](std::int64_t c, const Vec<T, kWidth>& x) { normalise<T, kWidth>(args, row, c, x, of); });
}

// --- choosing --------------------------------------------------------------------------------------------------------

int vector_width(Dtype dtype) { return static_cast<int>(16 / element_bytes(dtype)); }

/// Whether every row of x and y, gamma and beta can be cut into vectors of 16 bytes.
bool in_vectors(const LayerNormForward& args) {
  return args.channels % vector_width(args.dtype) == 0 && is_aligned(args.x, 16) && is_aligned(args.y, 16) &&
         is_aligned(args.gamma, 16) && is_aligned(args.beta, 16);
}

template <class T, int kWidth, int kTeam, int kVectors>
void start_registers(const Stream& stream, const LayerNormForward& args) {
  constexpr std::int64_t kThreads = kTeam > kWarpSize ? kTeam : 128;
  const auto vector_bytes = static_cast<std::int64_t>(args.channels * sizeof(T));
  const auto statistics_bytes = static_cast<std::int64_t>(args.rows * sizeof(compute_t<T>));
  launch(stream,
         {.name = "layer_norm_forward",
          .grid = {ceil_div(args.rows, kThreads / kTeam)},
          .block = {kThreads},
          .operands = {{"x", args.x, args.rows * vector_bytes},
                       {"gamma", args.gamma, vector_bytes, OperandKind::broadcast},
                       {"beta", args.beta, vector_bytes, OperandKind::broadcast},
                       {"y", args.y, args.rows * vector_bytes},
                       {"mean", args.mean, statistics_bytes},
                       {"rstd", args.rstd, statistics_bytes}}},
         registers_kernel<T, kWidth, kTeam, kVectors>, args);
}

template <class T, int kWidth, bool kResident>
void start_wide(const Stream& stream, const LayerNormForward& args) {
  const auto vector_bytes = static_cast<std::int64_t>(args.channels * sizeof(T));
  const auto statistics_bytes = static_cast<std::int64_t>(args.rows * sizeof(compute_t<T>));
  launch(stream,
         {.name = kResident ? "layer_norm_forward_shared" : "layer_norm_forward_reread",
          .grid = {args.rows},
          .block = {kWideThreads},
          .dynamic_shared_bytes = kResident ? ceil_div<std::int64_t>(vector_bytes, 16) * 16 : 0,
          .operands = {{"x", args.x, args.rows * vector_bytes},
                       {"gamma", args.gamma, vector_bytes, OperandKind::broadcast},
                       {"beta", args.beta, vector_bytes, OperandKind::broadcast},
                       {"y", args.y, args.rows * vector_bytes},
                       {"mean", args.mean, statistics_bytes},
                       {"rstd", args.rstd, statistics_bytes}}},
         wide_kernel<T, kWidth, kResident>, args);
}

/// The narrowest team, with the fewest vectors per thread, that holds the row.
template <class T, int kWidth>
void run_registers(const Stream& stream, const LayerNormForward& args) {
  const std::int64_t vectors = ceil_div<std::int64_t>(args.channels, kWidth);
  if (vectors <= 8) return start_registers<T, kWidth, 8, 1>(stream, args);
  if (vectors <= 32) return start_registers<T, kWidth, 32, 1>(stream, args);
  if (vectors <= 32 * 2) return start_registers<T, kWidth, 32, 2>(stream, args);
  if (vectors <= 32 * 4) return start_registers<T, kWidth, 32, 4>(stream, args);
  if (vectors <= 32 * 8) return start_registers<T, kWidth, 32, 8>(stream, args);
  if (vectors <= kBlockThreads * 2) return start_registers<T, kWidth, kBlockThreads, 2>(stream, args);
  if (vectors <= kBlockThreads * 4) return start_registers<T, kWidth, kBlockThreads, 4>(stream, args);
  return start_registers<T, kWidth, kBlockThreads, kMaxVectors>(stream, args);
}

/// Calls f(std::type_identity<T>{}, std::integral_constant<int, kWidth>{}).
template <class F>
void dispatch(const LayerNormForward& args, F&& f) {
  dispatch_float(args.dtype, "layer_norm", [&]<class T>(std::type_identity<T> type) {
    if (in_vectors(args))
      f(type, std::integral_constant<int, kVectorWidth<T>>{});
    else
      f(type, std::integral_constant<int, 1>{});
  });
}

const Variant<LayerNormForward> kVariants[] = {
    {"registers", "the row in registers: a part of a warp, a warp or a block per row",
     [](const LayerNormForward& args) {
       const int width = in_vectors(args) ? vector_width(args.dtype) : 1;
       return args.channels <= kBlockThreads * kMaxVectors * width;
     },
     [](const Stream& stream, const LayerNormForward& args) {
       dispatch(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
         run_registers<T, kWidth>(stream, args);
       });
     }},
    {"shared", "the row in shared memory, a block per row",
     [](const LayerNormForward& args) {
       const std::int64_t bytes = args.channels * element_bytes(args.dtype);
       return bytes <= kResidentBytes && bytes + 1024 <= shared_limit_bytes();  // with the sums' scratch
     },
     [](const Stream& stream, const LayerNormForward& args) {
       dispatch(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
         start_wide<T, kWidth, true>(stream, args);
       });
     }},
    {"reread", "the row read three times, a block per row", [](const LayerNormForward&) { return true; },
     [](const Stream& stream, const LayerNormForward& args) {
       dispatch(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
         start_wide<T, kWidth, false>(stream, args);
       });
     }},
};

}  // namespace

std::span<const Variant<LayerNormForward>> layer_norm_forward_variants() { return kVariants; }

void layer_norm_forward(const Stream& stream, const LayerNormForward& args) {
  run_variant("layer_norm", layer_norm_forward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
