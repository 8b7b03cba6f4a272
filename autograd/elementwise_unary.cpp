// The element-wise functions of one tensor.
#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "kernels/elementwise.h"

namespace weft {
namespace {

using kernels::UnaryOp;

struct ScaleNode final : Node {
  const char* name() const override { return "scale"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    Tensor gradient = scale(dy[0], factor);
    if (gradient.dtype() != dtype) gradient = cast(gradient, dtype);
    dx.set(0, std::move(gradient));  // the only handle: kept instead of copied
  }
  bool reusable() const override { return true; }
  double factor = 1.0;
  Dtype dtype = Dtype::f32;
};

struct ReluNode final : Node {
  const char* name() const override { return "relu"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    const Tensor gradient = contiguous(dy[0]);
    const Tensor& output = y.get(name());
    Tensor result = Tensor::empty(gradient.shape(), gradient.dtype(), gradient.device());
    kernels::relu_backward(gradient.device(), {gradient.dtype(), gradient.raw_data(), output.raw_data(),
                                               result.raw_data(), gradient.numel()});
    dx.set(0, std::move(result));
  }
  void release() override { y.reset(); }
  Saved y;
};

struct UnaryNode final : Node {
  const char* name() const override { return label; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    if (op == UnaryOp::add_scalar) return dx.set(0, dy[0]);
    if (op == UnaryOp::subtract_from) return dx.set(0, scale(dy[0], -1.0));
    const Tensor gradient = contiguous(dy[0]);
    const Tensor& of = saved.get(name());
    Tensor result = Tensor::empty(gradient.shape(), gradient.dtype(), gradient.device());
    kernels::unary_backward(gradient.device(), {op, gradient.dtype(), gradient.raw_data(), of.raw_data(),
                                                result.raw_data(), gradient.numel(), p, q});
    dx.set(0, std::move(result));
  }
  void release() override { saved.reset(); }
  bool reusable() const override { return is_affine(op); }
  static bool is_affine(UnaryOp op) { return op == UnaryOp::add_scalar || op == UnaryOp::subtract_from; }

  const char* label = "unary";
  UnaryOp op = UnaryOp::exp;
  double p = 0, q = 0;
  Saved saved;  // the result or the input, as saves_result(op) says
};

Tensor unary(const char* name, UnaryOp op, const Tensor& x, double p = 0, double q = 0) {
  require<DtypeError>(is_floating(x.dtype()), name, "needs f64, f32, f16 or bf16 but has {}", to_string(x.dtype()));
  const Tensor dense = contiguous(x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels::unary(x.device(), {op, x.dtype(), dense.raw_data(), y.raw_data(), x.numel(), p, q});
  detail::check_anomaly(name, {&y});
  if (auto node = record<UnaryNode>({&y}, {&dense})) {
    node->label = name;
    node->op = op;
    node->p = p;
    node->q = q;
    if (!UnaryNode::is_affine(op)) node->saved = saves_result(op) ? y : dense;
  }
  return y;
}

// Arithmetic with a number takes integers as f32.
Tensor floating(const Tensor& x) { return is_floating(x.dtype()) ? x : cast(x, Dtype::f32); }

}  // namespace

Tensor scale(const Tensor& x, double factor) {
  Tensor dense;
  {
    const NoGrad guard;
    dense = contiguous(floating(x));
  }
  Tensor y = Tensor::empty(x.shape(), dense.dtype(), x.device());
  kernels::scale(x.device(), {dense.dtype(), dense.raw_data(), y.raw_data(), y.numel(), factor});
  detail::check_anomaly("scale", {&y});
  if (auto node = record<ScaleNode>({&y}, {&x})) {
    node->factor = factor;
    node->dtype = x.dtype();
  }
  return y;
}

Tensor relu(const Tensor& x) {
  const Tensor dense = contiguous(x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels::relu_forward(x.device(), {x.dtype(), dense.raw_data(), y.raw_data(), y.numel()});
  detail::check_anomaly("relu", {&y});
  if (auto node = record<ReluNode>({&y}, {&dense})) node->y = y;
  return y;
}

Tensor add(const Tensor& x, double value) { return unary("add", UnaryOp::add_scalar, floating(x), value); }
Tensor sub(double value, const Tensor& x) { return unary("sub", UnaryOp::subtract_from, floating(x), value); }
Tensor div(double value, const Tensor& x) { return unary("div", UnaryOp::divide, floating(x), value); }
Tensor neg(const Tensor& x) {
  if (is_floating(x.dtype())) return scale(x, -1.0);
  return sub(scalar(0, x.dtype(), x.device()), x);
}
Tensor abs(const Tensor& x) {
  if (is_floating(x.dtype())) return unary("abs", UnaryOp::abs, x);
  return x.dtype() == Dtype::u8 || x.dtype() == Dtype::boolean ? clone(x) : maximum(x, neg(x));
}

Tensor exp(const Tensor& x) { return unary("exp", UnaryOp::exp, x); }
Tensor log(const Tensor& x) { return unary("log", UnaryOp::log, x); }
Tensor sqrt(const Tensor& x) { return unary("sqrt", UnaryOp::sqrt, x); }
Tensor rsqrt(const Tensor& x) { return unary("rsqrt", UnaryOp::rsqrt, x); }
Tensor pow(const Tensor& x, double exponent) { return unary("pow", UnaryOp::pow, floating(x), exponent); }
Tensor clamp(const Tensor& x, double low, double high) { return unary("clamp", UnaryOp::clamp, x, low, high); }
Tensor leaky_relu(const Tensor& x, double slope) { return unary("leaky_relu", UnaryOp::leaky_relu, x, slope); }
Tensor sigmoid(const Tensor& x) { return unary("sigmoid", UnaryOp::sigmoid, x); }
Tensor tanh(const Tensor& x) { return unary("tanh", UnaryOp::tanh, x); }
Tensor silu(const Tensor& x) { return unary("silu", UnaryOp::silu, x); }
Tensor softplus(const Tensor& x, double beta, double threshold) {
  return unary("softplus", UnaryOp::softplus, x, beta, threshold);
}
Tensor gelu(const Tensor& x, Gelu approximation) {
  return unary("gelu", approximation == Gelu::erf ? UnaryOp::gelu : UnaryOp::gelu_tanh, x);
}

}  // namespace weft
