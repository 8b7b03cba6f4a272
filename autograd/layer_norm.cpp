#include "autograd/layer_norm.h"

#include <cmath>

#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "autograd/normalized_shape.h"
#include "autograd/reduce.h"
#include "kernels/layer_norm.h"

namespace weft {
namespace {

using detail::data_or_null;
using detail::statistics_dtype;

struct LayerNormNode final : Node {
  const char* name() const override { return "layer_norm"; }

  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    const Tensor& input = x.get(name());
    const Tensor& weight = gamma.get(name());
    const Tensor gradient = contiguous(dy[0]);
    const std::int64_t channels = normalized.numel(), rows = input.numel() / channels;
    const Dtype dtype = input.dtype();
    const Device device = input.device();
    const Tensor& row_mean = mean.get(name());
    const Tensor& row_rstd = rstd.get(name());
    Tensor dinput, partials;
    if (dx.wanted(0)) dinput = Tensor::empty(input.shape(), dtype, device);
    if (dx.wanted(1) || dx.wanted(2) || device.kind != DeviceKind::cpu)
      partials = Tensor::empty({kernels::layer_norm_partials(rows, channels, device)}, statistics_dtype(dtype), device);
    Gradients::Target dgamma{}, dbeta{};
    if (dx.wanted(1)) dgamma = dx.target(1, normalized, dtype, device);
    if (dx.wanted(2)) dbeta = dx.target(2, normalized, dtype, device);
    kernels::layer_norm_backward(device, {.dtype = dtype,
                                          .rows = rows,
                                          .channels = channels,
                                          .x = input.raw_data(),
                                          .gamma = data_or_null(weight),
                                          .dy = gradient.raw_data(),
                                          .mean = row_mean.raw_data(),
                                          .rstd = row_rstd.raw_data(),
                                          .dx = data_or_null(dinput),
                                          .dgamma = data_or_null(dgamma.tensor),
                                          .dbeta = data_or_null(dbeta.tensor),
                                          .dgamma_mode = dgamma.mode,
                                          .dbeta_mode = dbeta.mode,
                                          .partials = data_or_null(partials)});
    if (dx.wanted(0)) dx.set(0, std::move(dinput));
  }
  void release() override {
    x.reset();
    gamma.reset();
    mean.reset();
    rstd.reset();
  }

  Saved x, gamma, mean, rstd;
  Shape normalized;
};

Shape check(const Tensor& x, const Shape& asked, const Tensor& gamma, const Tensor& beta, double eps) {
  const char* op = "layer_norm";
  const Shape normalized = detail::check_normalized_shape(op, x, asked);
  require<OptionError>(eps > 0 && std::isfinite(eps), op, "eps must be positive but is {}", eps);
  detail::check_normalized_operand(op, "gamma", gamma, normalized, x);
  detail::check_normalized_operand(op, "beta", beta, normalized, x);
  return normalized;
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) {
  return detail::layer_norm_over(x, {}, gamma, beta, eps);
}

Tensor detail::layer_norm_over(const Tensor& x, const Shape& asked, const Tensor& gamma, const Tensor& beta,
                               double eps) {
  const Shape normalized = check(x, asked, gamma, beta, eps);
  const Tensor input = contiguous(x);
  const Tensor weight = gamma.defined() ? contiguous(gamma) : gamma, bias = beta.defined() ? contiguous(beta) : beta;
  const std::int64_t channels = normalized.numel(), rows = x.numel() / channels;
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  Tensor mean, rstd;
  if (detail::should_record({&input, &weight, &bias})) {
    mean = Tensor::empty({rows}, statistics_dtype(x.dtype()), x.device());
    rstd = Tensor::empty({rows}, statistics_dtype(x.dtype()), x.device());
  }
  kernels::layer_norm_forward(x.device(), {.dtype = x.dtype(),
                                           .rows = rows,
                                           .channels = channels,
                                           .eps = eps,
                                           .x = input.raw_data(),
                                           .gamma = data_or_null(weight),
                                           .beta = data_or_null(bias),
                                           .y = y.raw_data(),
                                           .mean = data_or_null(mean),
                                           .rstd = data_or_null(rstd)});
  detail::check_anomaly("layer_norm", {&y});
  if (auto node = record<LayerNormNode>({&y}, {&input, &weight, &bias})) {
    node->x = input;
    node->gamma = weight;
    node->mean = mean;
    node->rstd = rstd;
    node->normalized = normalized;
  }
  return y;
}

Tensor layer_norm_composite(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) {
  return detail::layer_norm_composite_over(x, {}, gamma, beta, eps);
}

Tensor detail::layer_norm_composite_over(const Tensor& x, const Shape& asked, const Tensor& gamma, const Tensor& beta,
                                         double eps) {
  const std::int64_t channels = check(x, asked, gamma, beta, eps).numel();
  const Tensor rows = reshape(x, {x.numel() / channels, channels});
  const Tensor centred = rows - mean(rows, -1, KeepDim::yes);
  const Tensor variance = mean(centred * centred, -1, KeepDim::yes);
  Tensor y = centred * rsqrt(variance + scalar(eps, x.dtype(), x.device()));
  if (gamma.defined()) y = y * reshape(gamma, {channels});
  if (beta.defined()) y = y + reshape(beta, {channels});
  return reshape(y, x.shape());
}

}  // namespace weft
