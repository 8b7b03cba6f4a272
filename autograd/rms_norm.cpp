#include "autograd/rms_norm.h"

#include <cmath>

#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "autograd/normalized_shape.h"
#include "autograd/reduce.h"
#include "kernels/rms_norm.h"

namespace weft {
namespace {

using detail::data_or_null;
using detail::statistics_dtype;

struct RmsNormNode final : Node {
  const char* name() const override { return "rms_norm"; }

  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    const Tensor& input = x.get(name());
    const Tensor& weight = gamma.get(name());
    const Tensor& row_rrms = rrms.get(name());
    const Tensor gradient = contiguous(dy[0]);
    const std::int64_t channels = normalized.numel(), rows = input.numel() / channels;
    const Dtype dtype = input.dtype();
    const Device device = input.device();
    Tensor dinput, partials;
    if (dx.wanted(0)) dinput = Tensor::empty(input.shape(), dtype, device);
    if (dx.wanted(1) || device.kind != DeviceKind::cpu)
      partials = Tensor::empty({kernels::rms_norm_partials(rows, channels, device)}, statistics_dtype(dtype), device);
    Gradients::Target dgamma{};
    if (dx.wanted(1)) dgamma = dx.target(1, normalized, dtype, device);
    kernels::rms_norm_backward(device, {.dtype = dtype,
                                        .rows = rows,
                                        .channels = channels,
                                        .x = input.raw_data(),
                                        .gamma = data_or_null(weight),
                                        .dy = gradient.raw_data(),
                                        .rrms = row_rrms.raw_data(),
                                        .dx = data_or_null(dinput),
                                        .dgamma = data_or_null(dgamma.tensor),
                                        .dgamma_mode = dgamma.mode,
                                        .partials = data_or_null(partials)});
    if (dx.wanted(0)) dx.set(0, std::move(dinput));
  }
  void release() override {
    x.reset();
    gamma.reset();
    rrms.reset();
  }

  Saved x, gamma, rrms;
  Shape normalized;
};

double machine_epsilon(Dtype dtype) {
  return dtype == Dtype::f64 ? 0x1p-52 : dtype == Dtype::f32 ? 0x1p-23 : dtype == Dtype::f16 ? 0x1p-10 : 0x1p-7;
}

struct Checked {
  Shape normalized;
  double eps;
};

Checked check(const Tensor& x, const Shape& asked, const Tensor& gamma, std::optional<double> eps) {
  const char* op = "rms_norm";
  const Shape normalized = detail::check_normalized_shape(op, x, asked);
  if (eps) require<OptionError>(*eps > 0 && std::isfinite(*eps), op, "eps must be positive but is {}", *eps);
  detail::check_normalized_operand(op, "gamma", gamma, normalized, x);
  return {normalized, eps.value_or(machine_epsilon(x.dtype()))};
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& gamma, std::optional<double> eps) {
  return detail::rms_norm_over(x, {}, gamma, eps);
}

Tensor detail::rms_norm_over(const Tensor& x, const Shape& asked, const Tensor& gamma, std::optional<double> eps_) {
  const auto [normalized, eps] = check(x, asked, gamma, eps_);
  const Tensor input = contiguous(x), weight = gamma.defined() ? contiguous(gamma) : gamma;
  const std::int64_t channels = normalized.numel(), rows = x.numel() / channels;
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  Tensor rrms;
  if (should_record({&input, &weight})) rrms = Tensor::empty({rows}, statistics_dtype(x.dtype()), x.device());
  kernels::rms_norm_forward(x.device(), {.dtype = x.dtype(),
                                         .rows = rows,
                                         .channels = channels,
                                         .eps = eps,
                                         .x = input.raw_data(),
                                         .gamma = data_or_null(weight),
                                         .y = y.raw_data(),
                                         .rrms = data_or_null(rrms)});
  check_anomaly("rms_norm", {&y});
  if (auto node = record<RmsNormNode>({&y}, {&input, &weight})) {
    node->x = input;
    node->gamma = weight;
    node->rrms = rrms;
    node->normalized = normalized;
  }
  return y;
}

Tensor rms_norm_composite(const Tensor& x, const Shape& normalized_shape, const Tensor& gamma,
                          std::optional<double> eps) {
  const auto [normalized, epsilon] = check(x, normalized_shape, gamma, eps);
  const std::int64_t channels = normalized.numel();
  const Tensor rows = reshape(x, {x.numel() / channels, channels});
  Tensor y = rows * rsqrt(mean(rows * rows, -1, KeepDim::yes) + scalar(epsilon, x.dtype(), x.device()));
  if (gamma.defined()) y = y * reshape(gamma, {channels});
  return reshape(y, x.shape());
}

}  // namespace weft
