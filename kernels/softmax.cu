// Softmax, forward and backward: a row stays on chip between its maximum, its sum and the result.
//   registers  8 or 32 threads, or a block of 256, per row; each thread keeps up to eight vectors of 16 bytes (four of y
//              and four of dy), or of one element where a row does not start on 16 bytes.
//   shared     forward, 512 threads per row, the row in dynamic shared memory: up to 96 KiB of it. Each thread reads back
//              what it wrote itself: no barrier, no bank conflict.
//   reread     512 threads per row, the row read twice, the second time from the L2 as a rule. Any length.
//   Beyond the registers, each thread keeps a running maximum and a sum relative to it (Milakov, Gimelshein 2018,
//   arXiv:1805.02867), so that one pass finds both; shared and reread add the same numbers in the same order.
//   Shared:  up to 32 numbers for the maxima and sums of a block's warps, and the row ("shared").
#include "kernels/softmax.h"

#include "kernels/common/block.h"
#include "kernels/common/launch.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kBlockThreads = 256;  // per row, in registers
constexpr int kWideThreads = 512;   // per row, beyond the registers
constexpr int kForwardVectors = 8, kBackwardVectors = 4;
constexpr std::int64_t kResidentBytes = 96 * 1024;  // two such blocks fit a processor of 227 KiB

template <class C>
WEFT_DEVICE C lowest() {
  return -static_cast<C>(INFINITY);
}

/// Largest over a team of kTeam threads, every one of which gets it; a NaN is passed over. `scratch` as for block_sums.
template <int kTeam, class C>
WEFT_DEVICE C team_max(C value, Shared<C> scratch) {
  value = warp_max<(kTeam < kWarpSize ? kTeam : kWarpSize)>(value);
  if constexpr (kTeam > kWarpSize) {
    constexpr int kWarps = kTeam / kWarpSize;
    if (lane_index() == 0) scratch[warp_index()] = value;
    __syncthreads();
    value = warp_max<kWarps>(C(scratch[lane_index() % kWarps]));
  }
  return value;
}

/// What turns a row's elements into results: its maximum, and 1 / sum or ln sum.
template <class T, int kWidth>
WEFT_DEVICE void finish(const SoftmaxForward& args, std::int64_t at, const Vec<T, kWidth>& x, compute_t<T> largest,
                        compute_t<T> factor) {
  Vec<compute_t<T>, kWidth> value = widen(x);
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) {
    const compute_t<T> below = value[i] - largest;
    value[i] = args.logarithm ? below - factor : exponential(below) * factor;
  }
  store(static_cast<T*>(args.y) + at, narrow<T>(value));
}

template <class C>
WEFT_DEVICE C factor_of(const SoftmaxForward& args, C sum) {
  return args.logarithm ? logarithm(sum) : C(1) / sum;
}

/// A thread's part of what the row's gradient is a difference from.
template <class C, int kWidth>
WEFT_DEVICE void add_to_sum(const SoftmaxBackward& args, const Vec<C, kWidth>& y, const Vec<C, kWidth>& dy, C& sum) {
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) sum = args.logarithm ? sum + dy[i] : fused(dy[i], y[i], sum);
}
template <class T, int kWidth>
WEFT_DEVICE void finish(const SoftmaxBackward& args, std::int64_t at, const Vec<T, kWidth>& y, const Vec<T, kWidth>& dy,
                        compute_t<T> sum) {
  const Vec<compute_t<T>, kWidth> result = widen(y);
  Vec<compute_t<T>, kWidth> gradient = widen(dy);
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i)
    gradient[i] = args.logarithm ? fused(-exponential(result[i]), sum, gradient[i]) : result[i] * (gradient[i] - sum);
  store(static_cast<T*>(args.dx) + at, narrow<T>(gradient));
}

// --- a row in registers ----------------------------------------------------------------------------------------------

template <class T, int kWidth, int kTeam, int kVectors>
WEFT_KERNEL __launch_bounds__(kTeam > kWarpSize ? kTeam : 128, 2) forward_kernel(const SoftmaxForward args) {
  using C = compute_t<T>;
  constexpr int kThreads = kTeam > kWarpSize ? kTeam : 128;
  constexpr int kScratch = kTeam > kWarpSize ? kTeam / kWarpSize : 1;
  WEFT_SHARED(C, max_scratch, kScratch);
  WEFT_SHARED(C, sum_scratch, kScratch);
  const int lane = static_cast<int>(threadIdx.x) % kTeam;
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / kTeam) + static_cast<int>(threadIdx.x) / kTeam;
  // A team past the last row has no elements, but takes part in its warp's shuffles.
  const int channels = row < args.rows ? static_cast<int>(args.channels) : 0;
  const std::int64_t begin = row * args.channels;
  const auto column = [&](int v) { return (v * kTeam + lane) * kWidth; };  // [0, C) or past the end

  Vec<T, kWidth> x[kVectors] = {};
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v)
    if (column(v) < channels) x[v] = load<kWidth, Cache::streaming>(static_cast<const T*>(args.x) + begin + column(v));
  C largest = lowest<C>();
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    if (column(v) >= channels) continue;
    const Vec<C, kWidth> value = widen(x[v]);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) largest = larger(largest, value[i]);
  }
  largest = team_max<kTeam>(largest, max_scratch);
  C sum[1] = {C(0)};
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    if (column(v) >= channels) continue;
    const Vec<C, kWidth> value = widen(x[v]);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) sum[0] += exponential(value[i] - largest);
  }
  block_sums<kTeam>(sum, sum_scratch);
  const C factor = factor_of(args, sum[0]);
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v)
    if (column(v) < channels) finish<T, kWidth>(args, begin + column(v), x[v], largest, factor);
}

template <class T, int kWidth, int kTeam, int kVectors>
WEFT_KERNEL __launch_bounds__(kTeam > kWarpSize ? kTeam : 128) backward_kernel(const SoftmaxBackward args) {
  using C = compute_t<T>;
  constexpr int kThreads = kTeam > kWarpSize ? kTeam : 128;
  WEFT_SHARED(C, scratch, kTeam > kWarpSize ? kTeam / kWarpSize : 1);
  const int lane = static_cast<int>(threadIdx.x) % kTeam;
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / kTeam) + static_cast<int>(threadIdx.x) / kTeam;
  const int channels = row < args.rows ? static_cast<int>(args.channels) : 0;
  const std::int64_t begin = row * args.channels;
  const auto column = [&](int v) { return (v * kTeam + lane) * kWidth; };

  Vec<T, kWidth> y[kVectors] = {}, dy[kVectors] = {};  // past the end 0, which adds nothing
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    if (column(v) >= channels) continue;
    y[v] = load<kWidth, Cache::streaming>(static_cast<const T*>(args.y) + begin + column(v));
    dy[v] = load<kWidth, Cache::streaming>(static_cast<const T*>(args.dy) + begin + column(v));
  }
  C sum[1] = {C(0)};
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) add_to_sum(args, widen(y[v]), widen(dy[v]), sum[0]);
  block_sums<kTeam>(sum, scratch);
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v)
    if (column(v) < channels) finish<T, kWidth>(args, begin + column(v), y[v], dy[v], sum[0]);
}

// --- a block per row of any length -----------------------------------------------------------------------------------

template <class T, int kWidth, bool kResident>
WEFT_KERNEL __launch_bounds__(kWideThreads) wide_forward_kernel(const SoftmaxForward args) {
  using C = compute_t<T>;
  WEFT_SHARED(C, max_scratch, kWideThreads / kWarpSize);
  WEFT_SHARED(C, sum_scratch, kWideThreads / kWarpSize);
  WEFT_SHARED_DYNAMIC(T, resident);
  const std::int64_t begin = blockIdx.x * args.channels;
  const T* const x = static_cast<const T*>(args.x) + begin;

  C largest = lowest<C>(), sum[1] = {C(0)};
  for (std::int64_t c = threadIdx.x * kWidth; c < args.channels; c += kWideThreads * kWidth) {
    const Vec<T, kWidth> stored = load<kWidth>(x + c);
    if constexpr (kResident) store_shared<T>(resident, static_cast<int>(c), stored);
    const Vec<C, kWidth> value = widen(stored);
    C now = largest;
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) now = larger(now, value[i]);
    if (now == lowest<C>()) {  // -inf and NaN so far: only a NaN counts
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) sum[0] += exponential(value[i]);
      continue;
    }
    sum[0] *= exponential(largest - now);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) sum[0] += exponential(value[i] - now);
    largest = now;
  }
  const C of_row = team_max<kWideThreads>(largest, max_scratch);
  sum[0] *= exponential(largest - of_row);
  block_sums<kWideThreads>(sum, sum_scratch);
  const C factor = factor_of(args, sum[0]);
  for (std::int64_t c = threadIdx.x * kWidth; c < args.channels; c += kWideThreads * kWidth) {
    Vec<T, kWidth> stored;
    if constexpr (kResident)
      stored = load_shared<kWidth, T>(resident, static_cast<int>(c));
    else
      stored = load<kWidth>(x + c);
    finish<T, kWidth>(args, begin + c, stored, of_row, factor);
  }
}

template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kWideThreads) wide_backward_kernel(const SoftmaxBackward args) {
  using C = compute_t<T>;
  WEFT_SHARED(C, scratch, kWideThreads / kWarpSize);
  const std::int64_t begin = blockIdx.x * args.channels;
  const T* const y = static_cast<const T*>(args.y) + begin;
  const T* const dy = static_cast<const T*>(args.dy) + begin;
  C sum[1] = {C(0)};
  for (std::int64_t c = threadIdx.x * kWidth; c < args.channels; c += kWideThreads * kWidth)
    add_to_sum(args, widen(load<kWidth>(y + c)), widen(load<kWidth>(dy + c)), sum[0]);
  block_sums<kWideThreads>(sum, scratch);
  for (std::int64_t c = threadIdx.x * kWidth; c < args.channels; c += kWideThreads * kWidth)
    finish<T, kWidth>(args, begin + c, load<kWidth>(y + c), load<kWidth>(dy + c), sum[0]);
}

// --- choosing --------------------------------------------------------------------------------------------------------

/// Whether every row can be cut into vectors of 16 bytes.
bool in_vectors(const SoftmaxForward& args) {
  return args.channels % (16 / element_bytes(args.dtype)) == 0 && is_aligned(args.x, 16) && is_aligned(args.y, 16);
}
bool in_vectors(const SoftmaxBackward& args) {
  return args.channels % (16 / element_bytes(args.dtype)) == 0 && is_aligned(args.y, 16) && is_aligned(args.dy, 16) &&
         is_aligned(args.dx, 16);
}

/// Whether a block's registers hold a row, at so many vectors per thread.
bool fits_registers(const auto& args, std::int64_t vectors) {
  return args.channels <= kBlockThreads * vectors * (in_vectors(args) ? 16 / element_bytes(args.dtype) : 1);
}

/// Calls f(std::type_identity<T>{}, std::integral_constant<int, kWidth>{}).
template <class Args, class F>
void dispatch(const Args& args, F&& f) {
  dispatch_float(args.dtype, "softmax", [&]<class T>(std::type_identity<T> type) {
    if (in_vectors(args))
      f(type, std::integral_constant<int, kVectorWidth<T>>{});
    else
      f(type, std::integral_constant<int, 1>{});
  });
}

/// Calls f with the narrowest team, with the fewest vectors per thread, that holds the row.
template <int kMost, class F>
void with_team(std::int64_t vectors, F&& f) {
  const auto call = [&]<int kTeam, int kVectors>(std::integral_constant<int, kTeam> team,
                                                 std::integral_constant<int, kVectors> each) { f(team, each); };
  if (vectors <= 8) return call(std::integral_constant<int, 8>{}, std::integral_constant<int, 1>{});
  if (vectors <= 32) return call(std::integral_constant<int, 32>{}, std::integral_constant<int, 1>{});
  if (vectors <= 32 * 2) return call(std::integral_constant<int, 32>{}, std::integral_constant<int, 2>{});
  if (vectors <= 32 * 4) return call(std::integral_constant<int, 32>{}, std::integral_constant<int, 4>{});
  if (vectors <= 256) return call(std::integral_constant<int, kBlockThreads>{}, std::integral_constant<int, 1>{});
  if (vectors <= 256 * 4) return call(std::integral_constant<int, kBlockThreads>{}, std::integral_constant<int, 4>{});
  if constexpr (kMost > 4) call(std::integral_constant<int, kBlockThreads>{}, std::integral_constant<int, kMost>{});
}

std::int64_t bytes_of(const auto& args) { return args.rows * args.channels * element_bytes(args.dtype); }

void start(const Stream& stream, const char* name, std::int64_t blocks, std::int64_t threads, std::int64_t shared_bytes,
           const SoftmaxForward& args, void (*kernel)(SoftmaxForward)) {
  launch(stream,
         {.name = name,
          .grid = {blocks},
          .block = {threads},
          .dynamic_shared_bytes = shared_bytes,
          .operands = {{"x", args.x, bytes_of(args)}, {"y", args.y, bytes_of(args)}}},
         kernel, args);
}
void start(const Stream& stream, const char* name, std::int64_t blocks, std::int64_t threads,
           const SoftmaxBackward& args, void (*kernel)(SoftmaxBackward)) {
  launch(
      stream,
      {.name = name,
       .grid = {blocks},
       .block = {threads},
       .operands = {{"y", args.y, bytes_of(args)}, {"dy", args.dy, bytes_of(args)}, {"dx", args.dx, bytes_of(args)}}},
      kernel, args);
}

template <bool kResident>
void run_wide(const Stream& stream, const SoftmaxForward& args) {
  dispatch(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
    const std::int64_t row_bytes = args.channels * static_cast<std::int64_t>(sizeof(T));
    start(stream, kResident ? "softmax_forward_shared" : "softmax_forward_reread", args.rows, kWideThreads,
          kResident ? ceil_div<std::int64_t>(row_bytes, 16) * 16 : 0, args, wide_forward_kernel<T, kWidth, kResident>);
  });
}

const Variant<SoftmaxForward> kForward[] = {
    {"registers", "the row in registers: a part of a warp, a warp or a block per row",
     [](const SoftmaxForward& args) { return fits_registers(args, kForwardVectors); },
     [](const Stream& stream, const SoftmaxForward& args) {
       dispatch(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
         with_team<kForwardVectors>(
             ceil_div<std::int64_t>(args.channels, kWidth),
             [&]<int kTeam, int kVectors>(std::integral_constant<int, kTeam>, std::integral_constant<int, kVectors>) {
               constexpr int kThreads = kTeam > kWarpSize ? kTeam : 128;
               start(stream, "softmax_forward", ceil_div<std::int64_t>(args.rows, kThreads / kTeam), kThreads, 0, args,
                     forward_kernel<T, kWidth, kTeam, kVectors>);
             });
       });
     }},
    {"shared", "the row in shared memory, a block per row",
     [](const SoftmaxForward& args) {
       const std::int64_t bytes = args.channels * element_bytes(args.dtype);
       return bytes <= kResidentBytes && bytes + 1024 <= shared_limit_bytes();  // with the scratch
     },
     run_wide<true>},
    {"reread", "the row read twice, a block per row", [](const SoftmaxForward&) { return true; }, run_wide<false>},
};

const Variant<SoftmaxBackward> kBackward[] = {
    {"registers", "the row in registers: a part of a warp, a warp or a block per row",
     [](const SoftmaxBackward& args) { return fits_registers(args, kBackwardVectors); },
     [](const Stream& stream, const SoftmaxBackward& args) {
       dispatch(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
         with_team<kBackwardVectors>(
             ceil_div<std::int64_t>(args.channels, kWidth),
             [&]<int kTeam, int kVectors>(std::integral_constant<int, kTeam>, std::integral_constant<int, kVectors>) {
               constexpr int kThreads = kTeam > kWarpSize ? kTeam : 128;
               start(stream, "softmax_backward", ceil_div<std::int64_t>(args.rows, kThreads / kTeam), kThreads, args,
                     backward_kernel<T, kWidth, kTeam, kVectors>);
             });
       });
     }},
    {"reread", "the row read twice, a block per row", [](const SoftmaxBackward&) { return true; },
     [](const Stream& stream, const SoftmaxBackward& args) {
       dispatch(args, [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
         start(stream, "softmax_backward_reread", args.rows, kWideThreads, args, wide_backward_kernel<T, kWidth>);
       });
     }},
};

}  // namespace

std::span<const Variant<SoftmaxForward>> softmax_forward_variants() { return kForward; }
std::span<const Variant<SoftmaxBackward>> softmax_backward_variants() { return kBackward; }

void softmax_forward(const Stream& stream, const SoftmaxForward& args) {
  run_variant("softmax", softmax_forward_variants(), stream, args);
}
void softmax_backward(const Stream& stream, const SoftmaxBackward& args) {
  run_variant("softmax", softmax_backward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
