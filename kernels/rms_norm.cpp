// CPU kernels. A few rows go together through each pass, as in layer_norm.cpp, and stay in the cache between the passes.
#include "kernels/rms_norm.h"

#include <array>
#include <cmath>

#include "kernels/common/row_chunks.h"
#include "kernels/common/row_norm_plan.h"
#include "kernels/common/simd.h"
#include "kernels/common/unroll.h"
#include "tensor/parallel.h"

namespace weft::kernels {
namespace {

using simd::Vec;

template <class S, class W>
Vec<compute_t<S>> load_weight(const S* gamma, std::int64_t i, W width) {
  return gamma != nullptr ? simd::load_width<S>(gamma + i, width) : simd::broadcast<compute_t<S>>(1);
}

template <class S, int N>
void forward_block(const RmsNormForward& args, std::int64_t row) {
  using C = compute_t<S>;
  using V = Vec<C>;
  const std::int64_t channels = args.channels;
  const S* x = static_cast<const S*>(args.x) + row * channels;
  const S* gamma = static_cast<const S*>(args.gamma);
  S* y = static_cast<S*>(args.y) + row * channels;

  V squares[N];
  unroll<N>([&](auto r) { squares[r] = V{}; });
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    unroll<N>([&](auto r) {
      const V value = simd::load_width<S>(x + r * channels + i, width);
      squares[r] = simd::fma(value, value, squares[r]);
    });
  });
  V scale[N];
  unroll<N>([&](auto r) {
    const C mean = simd::horizontal_sum<C>(squares[r]) / static_cast<C>(channels);
    const C rrms = C(1) / std::sqrt(mean + static_cast<C>(args.eps));
    scale[r] = simd::broadcast<C>(rrms);
    if (args.rrms != nullptr) static_cast<C*>(args.rrms)[row + r] = rrms;
  });
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    const V weight = load_weight(gamma, i, width);
    unroll<N>([&](auto r) {
      const V value = simd::load_width<S>(x + r * channels + i, width);
      simd::store_width<S>(y + r * channels + i, value * scale[r] * weight, width);
    });
  });
}

// `partials` holds the chunk's sums so far, C for dgamma; null when it is not wanted.
template <class S, int N>
void backward_block(const RmsNormBackward& args, std::int64_t row, compute_t<S>* partials) {
  using C = compute_t<S>;
  using V = Vec<C>;
  const std::int64_t channels = args.channels;
  const S* x = static_cast<const S*>(args.x) + row * channels;
  const S* dy = static_cast<const S*>(args.dy) + row * channels;
  const S* gamma = static_cast<const S*>(args.gamma);
  S* dx = args.dx != nullptr ? static_cast<S*>(args.dx) + row * channels : nullptr;

  V sum_gx[N];
  unroll<N>([&](auto r) { sum_gx[r] = V{}; });
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    const V weight = load_weight(gamma, i, width);
    unroll<N>([&](auto r) {
      const V g = simd::load_width<S>(dy + r * channels + i, width) * weight;
      sum_gx[r] = simd::fma(g, simd::load_width<S>(x + r * channels + i, width), sum_gx[r]);
    });
  });
  V scale[N], slope[N];  // dx = rrms g + slope x
  unroll<N>([&](auto r) {
    const C rrms = static_cast<const C*>(args.rrms)[row + r];
    const C mean_gx = rrms * simd::horizontal_sum<C>(sum_gx[r]) / static_cast<C>(channels);
    scale[r] = simd::broadcast<C>(rrms);
    slope[r] = simd::broadcast<C>(-rrms * rrms * mean_gx);
  });
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    const V weight = load_weight(gamma, i, width);
    V dgamma = partials != nullptr ? simd::load_width<C>(partials + i, width) : V{};
    unroll<N>([&](auto r) {
      const V value = simd::load_width<S>(x + r * channels + i, width);
      const V gradient = simd::load_width<S>(dy + r * channels + i, width);
      if (dx != nullptr)
        simd::store_width<S>(dx + r * channels + i, simd::fma(scale[r], gradient * weight, slope[r] * value), width);
      dgamma = simd::fma(gradient, value * scale[r], dgamma);
    });
    if (partials != nullptr) simd::store_width<C>(partials + i, dgamma, width);
  });
}

}  // namespace

void rms_norm_forward(Device device, const RmsNormForward& args) {
  if (WEFT_ON_GPU("rms_norm", rms_norm_forward, device, args)) return;
  dispatch_float(args.dtype, "rms_norm", [&]<class S>(std::type_identity<S>) {
    parallel_ranges(args.rows, forward_rows_per_chunk(args.channels), [&](std::int64_t begin, std::int64_t end) {
      for_each_block(begin, end, args.channels,
                     [&]<int N>(std::integral_constant<int, N>, std::int64_t row) { forward_block<S, N>(args, row); });
    });
  });
}

std::int64_t rms_norm_partials(std::int64_t rows, std::int64_t channels, Device device) {
  if (device.kind != DeviceKind::cpu)
    return row_norm_backward_plan(rows, channels).blocks * row_norm_partial_stride(channels) + rows;
  const std::int64_t grain = backward_rows_per_chunk(rows, channels);
  return (rows + grain - 1) / grain * channels;
}

void rms_norm_backward(Device device, const RmsNormBackward& args) {
  if (WEFT_ON_GPU("rms_norm", rms_norm_backward, device, args)) return;
  dispatch_float(args.dtype, "rms_norm", [&]<class S>(std::type_identity<S>) {
    using C = compute_t<S>;
    const std::int64_t channels = args.channels;
    const std::int64_t grain = backward_rows_per_chunk(args.rows, channels);
    auto* partials = static_cast<C*>(args.partials);
    parallel_ranges(args.rows, grain, [&](std::int64_t begin, std::int64_t end) {
      C* own = partials != nullptr ? partials + begin / grain * channels : nullptr;
      if (own != nullptr) std::fill_n(own, channels, C(0));
      for_each_block(begin, end, channels, [&]<int N>(std::integral_constant<int, N>, std::int64_t row) {
        backward_block<S, N>(args, row, own);
      });
    });
    sum_chunks<S>(partials, (args.rows + grain - 1) / grain, channels, std::array{static_cast<S*>(args.dgamma)},
                  std::array{args.dgamma_mode});
  });
}

}  // namespace weft::kernels
