// CPU kernels. A few rows go together through each pass, so that their independent maxima and sums hide each other's
// latency; the rows stay in the cache between the passes.
#include "kernels/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/common/simd.h"
#include "kernels/common/unroll.h"
#include "tensor/parallel.h"

namespace weft::kernels {
namespace {

using simd::Vec;

constexpr std::int64_t kChunkElems = 16384;        // work of one chunk: a few microseconds
constexpr std::int64_t kMaxBlockChannels = 16384;  // wider rows go one at a time, so that a block stays in the L2
constexpr int kBlockRows = 4;

// Calls body(std::integral_constant<int, N>, row) for blocks of N rows, in parallel.
template <class F>
void for_each_block(std::int64_t rows, std::int64_t channels, F&& body) {
  parallel_ranges(rows, std::max<std::int64_t>(1, kChunkElems / channels), [&](std::int64_t begin, std::int64_t end) {
    std::int64_t row = begin;
    if (channels <= kMaxBlockChannels)
      for (; row + kBlockRows <= end; row += kBlockRows) body(std::integral_constant<int, kBlockRows>{}, row);
    for (; row < end; ++row) body(std::integral_constant<int, 1>{}, row);
  });
}

template <class S, int N>
void forward_block(const SoftmaxForward& args, std::int64_t row) {
  using C = compute_t<S>;
  using V = Vec<C>;
  constexpr bool kKeeps = std::is_same_v<S, C>;  // y can hold the exponentials between the passes without rounding
  constexpr C kLowest = -std::numeric_limits<C>::infinity();
  const std::int64_t channels = args.channels;
  const S* x = static_cast<const S*>(args.x) + row * channels;
  S* y = static_cast<S*>(args.y) + row * channels;

  V largest[N], sum[N], factor[N];
  unroll<N>([&](auto r) {
    largest[r] = simd::broadcast<C>(kLowest);
    sum[r] = V{};
  });
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    unroll<N>([&](auto r) {
      const V value = simd::load_width<S>(x + r * channels + i, width, kLowest);
      largest[r] = value > largest[r] ? value : largest[r];  // passes over a NaN: its exponential brings it back
    });
  });
  unroll<N>([&](auto r) {
    C of_row = largest[r][0];
    for (int lane = 1; lane < simd::kLanes<C>; ++lane) of_row = std::max<C>(of_row, largest[r][lane]);
    largest[r] = simd::broadcast<C>(of_row);
  });
  // Lanes past the end are -inf, whose exponential is 0, or NaN in a row that is NaN.
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    unroll<N>([&](auto r) {
      const V e = simd::exp(simd::load_width<S>(x + r * channels + i, width, kLowest) - largest[r]);
      sum[r] += e;
      if constexpr (kKeeps)
        if (!args.logarithm) simd::store_width<S>(y + r * channels + i, e, width);
    });
  });
  unroll<N>([&](auto r) {
    const C total = simd::horizontal_sum<C>(sum[r]);
    factor[r] = simd::broadcast<C>(args.logarithm ? std::log(total) : C(1) / total);
  });
  if (args.logarithm) {
    simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
      unroll<N>([&](auto r) {
        const V value = simd::load_width<S>(x + r * channels + i, width);
        simd::store_width<S>(y + r * channels + i, value - largest[r] - factor[r], width);
      });
    });
    return;
  }
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    unroll<N>([&](auto r) {
      V e;
      if constexpr (kKeeps)
        e = simd::load_width<S>(y + r * channels + i, width);
      else
        e = simd::exp(simd::load_width<S>(x + r * channels + i, width) - largest[r]);
      simd::store_width<S>(y + r * channels + i, e * factor[r], width);
    });
  });
}

template <class S, int N>
void backward_block(const SoftmaxBackward& args, std::int64_t row) {
  using C = compute_t<S>;
  using V = Vec<C>;
  const std::int64_t channels = args.channels;
  const S* y = static_cast<const S*>(args.y) + row * channels;
  const S* dy = static_cast<const S*>(args.dy) + row * channels;
  S* dx = static_cast<S*>(args.dx) + row * channels;
  V sum[N];
  unroll<N>([&](auto r) { sum[r] = V{}; });
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    unroll<N>([&](auto r) {
      const V gradient = simd::load_width<S>(dy + r * channels + i, width);
      if (args.logarithm)
        sum[r] += gradient;
      else
        sum[r] = simd::fma(gradient, simd::load_width<S>(y + r * channels + i, width), sum[r]);
    });
  });
  unroll<N>([&](auto r) { sum[r] = simd::broadcast<C>(simd::horizontal_sum<C>(sum[r])); });
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    unroll<N>([&](auto r) {
      const V result = simd::load_width<S>(y + r * channels + i, width);
      const V gradient = simd::load_width<S>(dy + r * channels + i, width);
      simd::store_width<S>(
          dx + r * channels + i,
          args.logarithm ? simd::fma(-simd::exp(result), sum[r], gradient) : result * (gradient - sum[r]), width);
    });
  });
}

}  // namespace

void softmax_forward(Device device, const SoftmaxForward& args) {
  if (args.rows == 0) return;
  if (WEFT_ON_GPU("softmax", softmax_forward, device, args)) return;
  dispatch_float(args.dtype, "softmax", [&]<class S>(std::type_identity<S>) {
    for_each_block(args.rows, args.channels,
                   [&]<int N>(std::integral_constant<int, N>, std::int64_t row) { forward_block<S, N>(args, row); });
  });
}

void softmax_backward(Device device, const SoftmaxBackward& args) {
  if (args.rows == 0) return;
  if (WEFT_ON_GPU("softmax", softmax_backward, device, args)) return;
  dispatch_float(args.dtype, "softmax", [&]<class S>(std::type_identity<S>) {
    for_each_block(args.rows, args.channels,
                   [&]<int N>(std::integral_constant<int, N>, std::int64_t row) { backward_block<S, N>(args, row); });
  });
}

}  // namespace weft::kernels
