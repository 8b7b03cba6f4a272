// CPU kernels. A few rows go together through each pass: their independent sums hide the latency of the additions, and
// gamma, beta and the partial sums are loaded once for all of them. The rows stay in the cache between the passes.
#include "kernels/layer_norm.h"

#include <algorithm>
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

// Two passes for the variance, each around a shift: the row's first element in the first pass (a constant row then has
// the exact mean), that mean in the second, whose sum of differences also gives what the mean lost by rounding. So the
// error of y depends on the spread of the row, not on its mean.
template <class S, int N>
void forward_block(const LayerNormForward& args, std::int64_t row) {
  using C = compute_t<S>;
  using V = Vec<C>;
  const std::int64_t channels = args.channels;
  const auto count = static_cast<C>(channels);
  const S* x = static_cast<const S*>(args.x) + row * channels;
  const S* gamma = static_cast<const S*>(args.gamma);
  const S* beta = static_cast<const S*>(args.beta);
  S* y = static_cast<S*>(args.y) + row * channels;

  C mean[N];
  V shift[N], sum[N], squares[N];
  unroll<N>([&](auto r) {
    mean[r] = static_cast<C>(x[r * channels]);
    shift[r] = simd::broadcast<C>(mean[r]);
    sum[r] = V{};
    squares[r] = V{};
  });
  // Lanes past the end are filled with the shift: their difference is 0.
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    unroll<N>([&](auto r) { sum[r] += simd::load_width<S>(x + r * channels + i, width, mean[r]) - shift[r]; });
  });
  unroll<N>([&](auto r) {
    mean[r] += simd::horizontal_sum<C>(sum[r]) / count;
    shift[r] = simd::broadcast<C>(mean[r]);
    sum[r] = V{};
  });
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    unroll<N>([&](auto r) {
      const V difference = simd::load_width<S>(x + r * channels + i, width, mean[r]) - shift[r];
      sum[r] += difference;
      squares[r] = simd::fma(difference, difference, squares[r]);
    });
  });
  V scale[N], offset[N];
  unroll<N>([&](auto r) {
    const C rest = simd::horizontal_sum<C>(sum[r]) / count;  // true mean - shift
    C variance = simd::horizontal_sum<C>(squares[r]) / count - rest * rest;
    if (variance < C(0)) variance = C(0);  // written so that a NaN stays
    const C rstd = C(1) / std::sqrt(variance + static_cast<C>(args.eps));
    scale[r] = simd::broadcast<C>(rstd);
    offset[r] = simd::broadcast<C>(-rest * rstd);
    if (args.mean != nullptr) static_cast<C*>(args.mean)[row + r] = mean[r] + rest;
    if (args.rstd != nullptr) static_cast<C*>(args.rstd)[row + r] = rstd;
  });
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    const V g = gamma != nullptr ? simd::load_width<S>(gamma + i, width) : simd::broadcast<C>(1);
    const V b = beta != nullptr ? simd::load_width<S>(beta + i, width) : V{};
    unroll<N>([&](auto r) {
      const V difference = simd::load_width<S>(x + r * channels + i, width) - shift[r];
      simd::store_width<S>(y + r * channels + i, simd::fma(simd::fma(difference, scale[r], offset[r]), g, b), width);
    });
  });
}

// `partials` holds the chunk's sums so far: C for dgamma, then C for dbeta; null when neither is wanted.
template <class S, int N>
void backward_block(const LayerNormBackward& args, std::int64_t row, compute_t<S>* partials) {
  using C = compute_t<S>;
  using V = Vec<C>;
  const std::int64_t channels = args.channels;
  const auto count = static_cast<C>(channels);
  const S* x = static_cast<const S*>(args.x) + row * channels;
  const S* dy = static_cast<const S*>(args.dy) + row * channels;
  const S* gamma = static_cast<const S*>(args.gamma);
  S* dx = args.dx != nullptr ? static_cast<S*>(args.dx) + row * channels : nullptr;

  C mean[N];
  V shift[N], sum_x[N], sum_g[N], sum_gx[N];
  unroll<N>([&](auto r) {
    mean[r] = static_cast<const C*>(args.mean)[row + r];
    shift[r] = simd::broadcast<C>(mean[r]);
    sum_x[r] = sum_g[r] = sum_gx[r] = V{};
  });
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    const V weight = gamma != nullptr ? simd::load_width<S>(gamma + i, width) : simd::broadcast<C>(1);
    unroll<N>([&](auto r) {
      const V difference = simd::load_width<S>(x + r * channels + i, width, mean[r]) - shift[r];
      const V g = simd::load_width<S>(dy + r * channels + i, width) * weight;
      sum_x[r] += difference;
      sum_g[r] += g;
      sum_gx[r] = simd::fma(g, difference, sum_gx[r]);
    });
  });
  // dx = rstd g + slope (x - mean) + offset;  xhat = (x - mean) rstd + xhat_offset
  V scale[N], slope[N], offset[N], xhat_offset[N];
  unroll<N>([&](auto r) {
    const C rstd = static_cast<const C*>(args.rstd)[row + r];
    const C rest = simd::horizontal_sum<C>(sum_x[r]) / count;  // what the saved mean lost by rounding
    const C total_g = simd::horizontal_sum<C>(sum_g[r]);
    const C mean_gx = rstd * (simd::horizontal_sum<C>(sum_gx[r]) - rest * total_g) / count;
    const C k = -rstd * rstd * mean_gx;
    scale[r] = simd::broadcast<C>(rstd);
    slope[r] = simd::broadcast<C>(k);
    offset[r] = simd::broadcast<C>(-rstd * (total_g / count) - k * rest);
    xhat_offset[r] = simd::broadcast<C>(-rest * rstd);
  });
  simd::for_each_vector<C>(channels, [&](std::int64_t i, auto width) {
    const V weight = gamma != nullptr ? simd::load_width<S>(gamma + i, width) : simd::broadcast<C>(1);
    V dgamma{}, dbeta{};
    if (partials != nullptr) {
      dgamma = simd::load_width<C>(partials + i, width);
      dbeta = simd::load_width<C>(partials + channels + i, width);
    }
    unroll<N>([&](auto r) {
      const V difference = simd::load_width<S>(x + r * channels + i, width) - shift[r];
      const V gradient = simd::load_width<S>(dy + r * channels + i, width);
      if (dx != nullptr) {
        const V rest = simd::fma(slope[r], difference, offset[r]);
        simd::store_width<S>(dx + r * channels + i, simd::fma(scale[r], gradient * weight, rest), width);
      }
      dgamma = simd::fma(gradient, simd::fma(difference, scale[r], xhat_offset[r]), dgamma);
      dbeta += gradient;
    });
    if (partials != nullptr) {
      simd::store_width<C>(partials + i, dgamma, width);
      simd::store_width<C>(partials + channels + i, dbeta, width);
    }
  });
}

}  // namespace

void layer_norm_forward(Device device, const LayerNormForward& args) {
  if (WEFT_ON_GPU("layer_norm", layer_norm_forward, device, args)) return;
  dispatch_float(args.dtype, "layer_norm", [&]<class S>(std::type_identity<S>) {
    parallel_ranges(args.rows, forward_rows_per_chunk(args.channels), [&](std::int64_t begin, std::int64_t end) {
      for_each_block(begin, end, args.channels,
                     [&]<int N>(std::integral_constant<int, N>, std::int64_t row) { forward_block<S, N>(args, row); });
    });
  });
}

std::int64_t layer_norm_partials(std::int64_t rows, std::int64_t channels, Device device) {
  if (device.kind != DeviceKind::cpu)
    return row_norm_backward_plan(rows, channels).blocks * 2 * row_norm_partial_stride(channels) + 3 * rows;
  const std::int64_t grain = backward_rows_per_chunk(rows, channels);
  return (rows + grain - 1) / grain * 2 * channels;
}

void layer_norm_backward(Device device, const LayerNormBackward& args) {
  if (WEFT_ON_GPU("layer_norm", layer_norm_backward, device, args)) return;
  dispatch_float(args.dtype, "layer_norm", [&]<class S>(std::type_identity<S>) {
    using C = compute_t<S>;
    const std::int64_t channels = args.channels;
    const std::int64_t grain = backward_rows_per_chunk(args.rows, channels);
    auto* partials = static_cast<C*>(args.partials);
    parallel_ranges(args.rows, grain, [&](std::int64_t begin, std::int64_t end) {
      C* own = partials != nullptr ? partials + begin / grain * 2 * channels : nullptr;
      if (own != nullptr) std::fill_n(own, 2 * channels, C(0));
      for_each_block(begin, end, channels, [&]<int N>(std::integral_constant<int, N>, std::int64_t row) {
        backward_block<S, N>(args, row, own);
      });
    });
    const std::int64_t chunks = (args.rows + grain - 1) / grain;
    sum_chunks<S>(partials, chunks, channels, std::array{static_cast<S*>(args.dgamma), static_cast<S*>(args.dbeta)},
                  std::array{args.dgamma_mode, args.dbeta_mode});
  });
}

}  // namespace weft::kernels
