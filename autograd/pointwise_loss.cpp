#include "autograd/pointwise_loss.h"

#include <cmath>

#include "autograd/layout.h"
#include "autograd/node.h"
#include "kernels/elementwise.h"
#include "kernels/pointwise_loss.h"

namespace weft {
namespace {

using kernels::PointwiseLossOp;
using kernels::SpreadOperand;

struct PointwiseLossNode final : Node {
  const char* name() const override { return op; }

  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    for (const int input : {0, 1}) {
      if (!dx.wanted(input)) continue;
      const Tensor& unscaled = gradients[input].get(op);
      // Looking at the factor's value would make the host wait for the device.
      if (detail::is_unit_seed(dy[0])) {
        dx.set(input, unscaled);
        continue;
      }
      const Tensor factor = contiguous(dy[0]);
      Tensor scaled = Tensor::empty(unscaled.shape(), unscaled.dtype(), unscaled.device());
      kernels::scale(unscaled.device(), {.dtype = unscaled.dtype(),
                                         .in = unscaled.raw_data(),
                                         .out = scaled.raw_data(),
                                         .count = unscaled.numel(),
                                         .factor = 1,
                                         .device_factor = factor.data<double>()});
      dx.set(input, std::move(scaled));
    }
  }
  void release() override {
    for (Saved& gradient : gradients) gradient.reset();
  }

  const char* op = "";
  Saved gradients[2];  // of the sum by input and target, for a dsum of 1
};

/// An operand that broadcasts to a shape, and how the kernel finds its elements.
struct Spread {
  Tensor data;  // keeps the memory
  SpreadOperand operand;
};

Spread spread(const char* op, const char* name, const Tensor& x, const Tensor& input) {
  if (!x.defined()) return {};
  const Shape& shape = input.shape();
  require<DeviceError>(x.device() == input.device(), op, "{} must be on {} like input but is on {}", name,
                       input.device(), x.device());
  bool fits = x.rank() <= shape.rank();
  const int missing = shape.rank() - x.rank();
  // The dimensions that it has: [first, last] of shape, and whether others lie between them.
  int first = shape.rank(), last = -1, own = 0, between = 0;
  for (int d = 0; fits && d < shape.rank(); ++d) {
    const std::int64_t extent = d < missing ? 1 : x.size(d - missing);
    fits = extent == 1 || extent == shape[d];
    if (extent == 1) continue;
    first = own == 0 ? d : first;
    last = d;
    ++own;
  }
  require<ShapeError>(fits, op, "{} of shape {} does not broadcast to {}", name, x.shape(), shape);
  for (int d = first; d <= last; ++d) between += shape[d] != 1 ? 1 : 0;
  Spread result;
  result.data = contiguous(own == between ? x.alias() : x.alias().expand(shape));
  if (own != between) first = 0, last = shape.rank() - 1;
  for (int d = last + 1; d < shape.rank() && own > 0; ++d) result.operand.divide *= shape[d];
  result.operand.data = result.data.raw_data();
  result.operand.modulo = result.data.numel();
  return result;
}

Loss pointwise_loss(const char* op, PointwiseLossOp kind, const Tensor& input_, const Tensor& target_, double parameter,
                    const Tensor& weight_, const Tensor& mask_, const Tensor& pos_weight_) {
  require<DtypeError>(is_floating(input_.dtype()), op, "input must be f64, f32, f16 or bf16 but is {}",
                      to_string(input_.dtype()));
  require<ShapeError>(target_.shape() == input_.shape(), op, "target must have shape {} like input but has {}",
                      input_.shape(), target_.shape());
  const auto like_input = [&](const char* name, const Tensor& x) {
    if (!x.defined()) return;
    require<DtypeError>(x.dtype() == input_.dtype(), op, "{} must be {} like input but is {}: cast it", name,
                        to_string(input_.dtype()), to_string(x.dtype()));
  };
  like_input("target", target_);
  like_input("weight", weight_);
  like_input("pos_weight", pos_weight_);
  require<DeviceError>(target_.device() == input_.device(), op, "target must be on {} like input but is on {}",
                       input_.device(), target_.device());
  if (mask_.defined())
    require<DtypeError>(mask_.dtype() == Dtype::boolean || mask_.dtype() == Dtype::u8, op,
                        "mask must be bool or u8 but is {}", to_string(mask_.dtype()));

  const Tensor input = contiguous(input_), target = contiguous(target_);
  const Spread weight = spread(op, "weight", weight_, input), mask = spread(op, "mask", mask_, input),
               pos_weight = spread(op, "pos_weight", pos_weight_, input);
  const Device device = input.device();
  Loss loss{Tensor::empty({}, Dtype::f64, device), Tensor::empty({}, Dtype::f64, device)};
  const Tensor partials = Tensor::empty({kernels::pointwise_loss_partials(device, input.numel())}, Dtype::f64, device);
  Tensor gradients[2];
  if (detail::should_record({&input})) gradients[0] = Tensor::empty(input.shape(), input.dtype(), device);
  if (detail::should_record({&target})) gradients[1] = Tensor::empty(input.shape(), input.dtype(), device);
  const auto memory = [](const Tensor& x) { return x.defined() ? x.raw_data() : nullptr; };
  kernels::pointwise_loss(device, {.op = kind,
                                   .dtype = input.dtype(),
                                   .count = input.numel(),
                                   .parameter = parameter,
                                   .input = input.raw_data(),
                                   .target = target.raw_data(),
                                   .weight = weight.operand,
                                   .mask = mask.operand,
                                   .pos_weight = pos_weight.operand,
                                   .dinput = memory(gradients[0]),
                                   .dtarget = memory(gradients[1]),
                                   .sum = loss.sum.data<double>(),
                                   .denominator = loss.denominator.data<double>(),
                                   .partials = partials.data<double>()});
  detail::check_anomaly(op, {&loss.sum});
  if (auto node = record<PointwiseLossNode>({&loss.sum}, {&input, &target})) {
    node->op = op;
    for (const int i : {0, 1})
      if (gradients[i].defined()) node->gradients[i] = gradients[i];
  }
  return loss;
}

}  // namespace

Loss mse_loss(const Tensor& input, const Tensor& target, const PointwiseLossOptions& options) {
  return pointwise_loss("mse_loss", PointwiseLossOp::squared, input, target, 0, options.weight, options.mask, {});
}

Loss l1_loss(const Tensor& input, const Tensor& target, const PointwiseLossOptions& options) {
  return pointwise_loss("l1_loss", PointwiseLossOp::absolute, input, target, 0, options.weight, options.mask, {});
}

Loss huber_loss(const Tensor& input, const Tensor& target, double delta, const PointwiseLossOptions& options) {
  require<OptionError>(delta > 0 && std::isfinite(delta), "huber_loss", "delta must be positive but is {}", delta);
  return pointwise_loss("huber_loss", PointwiseLossOp::huber, input, target, delta, options.weight, options.mask, {});
}

Loss smooth_l1_loss(const Tensor& input, const Tensor& target, double beta, const PointwiseLossOptions& options) {
  require<OptionError>(beta >= 0 && std::isfinite(beta), "smooth_l1_loss", "beta must not be negative but is {}", beta);
  return pointwise_loss("smooth_l1_loss", PointwiseLossOp::smooth_l1, input, target, beta, options.weight, options.mask,
                        {});
}

Loss binary_cross_entropy_with_logits(const Tensor& input, const Tensor& target, const BceWithLogitsOptions& options) {
  return pointwise_loss("binary_cross_entropy_with_logits", PointwiseLossOp::bce_with_logits, input, target, 0,
                        options.weight, options.mask, options.pos_weight);
}

}  // namespace weft
