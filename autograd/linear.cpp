#include "autograd/linear.h"

#include "autograd/channel_vector.h"
#include "autograd/elementwise.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "autograd/reduce.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"

namespace weft {
namespace {

using detail::data_or_null;

// Memory for one kernel, undefined for 0 bytes. It is given back in the order of the stream: behind the kernel.
Tensor workspace(std::int64_t bytes, Device device) {
  return bytes > 0 ? Tensor::empty({bytes}, Dtype::u8, device) : Tensor();
}

struct LinearNode final : Node {
  const char* name() const override { return "linear"; }

  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    const Tensor dz = before_activation(contiguous(dy[0]));
    const Dtype dtype = dz.dtype();
    const Device device = dz.device();
    if (dx.wanted(0)) {
      Tensor gradient = Tensor::empty(x_shape, dtype, device);
      const Tensor scratch = workspace(kernels::linear_backward_input_workspace(device, dtype, rows, in, out), device);
      kernels::linear_backward_input(device, {.dtype = dtype,
                                              .dz = dz.raw_data(),
                                              .weight = weight.get(name()).raw_data(),
                                              .dx = gradient.raw_data(),
                                              .rows = rows,
                                              .in = in,
                                              .out = out,
                                              .workspace = data_or_null(scratch)});
      dx.set(0, std::move(gradient));
    }
    Gradients::Target dweight{}, dbias{};
    if (dx.wanted(1)) dweight = dx.target(1, {out, in}, dtype, device);
    if (dx.wanted(2)) dbias = dx.target(2, {out}, dtype, device);
    if (dx.wanted(1)) {
      const Tensor scratch = workspace(kernels::linear_backward_weight_workspace(device, dtype, rows, in, out), device);
      kernels::linear_backward_weight(device, {.dtype = dtype,
                                               .dz = dz.raw_data(),
                                               .x = x.get(name()).raw_data(),
                                               .dweight = dweight.tensor.raw_data(),
                                               .rows = rows,
                                               .in = in,
                                               .out = out,
                                               .mode = dweight.mode,
                                               .dbias = data_or_null(dbias.tensor),
                                               .dbias_mode = dbias.mode,
                                               .workspace = data_or_null(scratch)});
    } else if (dx.wanted(2)) {
      const Tensor scratch = workspace(kernels::linear_backward_bias_workspace(device, dtype, rows, out), device);
      kernels::linear_backward_bias(device, {.dtype = dtype,
                                             .dz = dz.raw_data(),
                                             .dbias = dbias.tensor.raw_data(),
                                             .rows = rows,
                                             .out = out,
                                             .mode = dbias.mode,
                                             .workspace = data_or_null(scratch)});
    }
  }
  void release() override {
    x.reset();
    weight.reset();
    y.reset();
  }

  // dz = dy where y > 0 for relu.
  Tensor before_activation(const Tensor& dy) const {
    if (!y.defined()) return dy;
    Tensor dz = Tensor::empty(dy.shape(), dy.dtype(), dy.device());
    kernels::relu_backward(dy.device(),
                           {dy.dtype(), dy.raw_data(), y.get(name()).raw_data(), dz.raw_data(), dy.numel()});
    return dz;
  }

  Saved x, weight, y;  // y only for relu
  Shape x_shape;
  std::int64_t rows = 0, in = 0, out = 0;
};

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation) {
  require<ShapeError>(x.rank() >= 1, "linear", "x must have at least one dimension but is a scalar");
  const std::int64_t in = x.size(-1);
  require<ShapeError>(weight.rank() == 2 && weight.size(1) == in, "linear",
                      "weight must have shape [N, {}] to take x of shape {} but has {}", in, x.shape(), weight.shape());
  const std::int64_t out = weight.size(0);
  require<DtypeError>(is_floating(x.dtype()) && weight.dtype() == x.dtype(), "linear",
                      "x and weight must have one floating dtype but have {} and {}", to_string(x.dtype()),
                      to_string(weight.dtype()));
  require<DeviceError>(weight.device() == x.device(), "linear",
                       "x and weight must be on one device but are on {} and {}", x.device(), weight.device());
  if (bias.defined()) {
    require<ShapeError>(bias.rank() == 1 && bias.size(0) == out, "linear", "bias must have shape [N]=[{}] but has {}",
                        out, bias.shape());
    require<DtypeError>(bias.dtype() == x.dtype(), "linear", "bias must be {} like x but is {}", to_string(x.dtype()),
                        to_string(bias.dtype()));
    require<DeviceError>(bias.device() == x.device(), "linear", "bias must be on {} like x but is on {}", x.device(),
                         bias.device());
  }
  const Tensor dense_x = contiguous(x), dense_weight = contiguous(weight);
  const Tensor dense_bias = bias.defined() ? contiguous(bias) : bias;
  Shape shape = x.shape();
  shape[shape.rank() - 1] = out;
  std::int64_t rows = 1;
  for (int d = 0; d + 1 < x.rank(); ++d) rows *= x.size(d);

  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  const Tensor scratch = workspace(kernels::linear_forward_workspace(x.device(), x.dtype(), rows, in, out), x.device());
  kernels::linear_forward(x.device(), {.dtype = x.dtype(),
                                       .x = dense_x.raw_data(),
                                       .weight = dense_weight.raw_data(),
                                       .bias = data_or_null(dense_bias),
                                       .y = y.raw_data(),
                                       .rows = rows,
                                       .in = in,
                                       .out = out,
                                       .activation = activation == Activation::relu ? kernels::LinearActivation::relu
                                                                                    : kernels::LinearActivation::none,
                                       .workspace = data_or_null(scratch)});
  detail::check_anomaly("linear", {&y});
  if (auto node = record<LinearNode>({&y}, {&dense_x, &dense_weight, &dense_bias})) {
    if (requires_grad(dense_weight)) node->x = dense_x;
    if (requires_grad(dense_x)) node->weight = dense_weight;
    if (activation == Activation::relu) node->y = y;
    node->x_shape = x.shape();
    node->rows = rows;
    node->in = in;
    node->out = out;
  }
  return y;
}

Tensor linear_composite(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation) {
  // y[..., n] = sum over k of x[..., 1, k] * weight[n, k]: one product tensor, then a sum.
  Tensor y = sum(mul(x.unsqueeze(-2), weight), -1);
  if (bias.defined()) y = add(y, bias);
  return activation == Activation::relu ? relu(y) : y;
}

}  // namespace weft
