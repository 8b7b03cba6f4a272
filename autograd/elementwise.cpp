#include "autograd/elementwise.h"

#include "autograd/cast.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "autograd/reduce.h"
#include "kernels/elementwise.h"

namespace weft {
namespace {

using kernels::BinaryOp;

void check_device(const char* op, const Tensor& a, const Tensor& b) {
  require<DeviceError>(a.device() == b.device(), op, "operands must be on one device but are on {} and {}", a.device(),
                       b.device());
}

// Both operands already have the result's dtype.
Tensor run_binary(const char* op, BinaryOp kind, const Tensor& a, const Tensor& b) {
  const Shape shape = a.shape() == b.shape() ? a.shape() : broadcast_shapes(a.shape(), b.shape(), op);
  Tensor y = Tensor::empty(shape, a.dtype(), a.device());
  const auto strides = [&](const Tensor& x) {
    return x.shape() == shape ? x.strides() : x.alias().expand(shape).strides();
  };
  kernels::binary(a.device(),
                  {kind, a.dtype(), a.raw_data(), b.raw_data(), y.raw_data(), shape, strides(a), strides(b)});
  return y;
}

template <BinaryOp kOp>
constexpr const char* name_of() {
  switch (kOp) {
    case BinaryOp::add: return "add";
    case BinaryOp::sub: return "sub";
    case BinaryOp::mul: return "mul";
    case BinaryOp::div: return "div";
  }
  return "binary";
}

template <BinaryOp kOp>
struct BinaryNode final : Node {
  const char* name() const override { return name_of<kOp>(); }

  // y = a op b; a gradient is brought back to its operand's shape and dtype. add and sub save nothing.
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    if (dx.wanted(0)) dx.set(0, cast(sum_to(gradient_a(dy[0]), a_shape), a_dtype));
    if (dx.wanted(1)) dx.set(1, cast(sum_to(gradient_b(dy[0]), b_shape), b_dtype));
  }
  void release() override {
    a.reset();
    b.reset();
  }
  bool reusable() const override { return kOp == BinaryOp::add || kOp == BinaryOp::sub; }

  Tensor gradient_a(const Tensor& dy) const {
    if constexpr (kOp == BinaryOp::mul) return mul(dy, b.get(name()));
    if constexpr (kOp == BinaryOp::div) return div(dy, b.get(name()));
    return dy;
  }
  Tensor gradient_b(const Tensor& dy) const {
    if constexpr (kOp == BinaryOp::sub) return scale(dy, -1.0);
    if constexpr (kOp == BinaryOp::mul) return mul(dy, a.get(name()));
    if constexpr (kOp == BinaryOp::div)  // -dy a / b²
      return scale(div(mul(dy, div(a.get(name()), b.get(name()))), b.get(name())), -1.0);
    return dy;
  }

  Saved a, b;  // operands in the result's dtype
  Shape a_shape, b_shape;
  Dtype a_dtype = Dtype::f32, b_dtype = Dtype::f32;
};

template <BinaryOp kOp>
Tensor binary(const Tensor& a, const Tensor& b) {
  check_device(name_of<kOp>(), a, b);
  Dtype dtype = promote(a.dtype(), b.dtype());
  if (kOp == BinaryOp::div && !is_floating(dtype)) dtype = Dtype::f32;
  // Differences and products of bool have no use as bool; PyTorch adds them as or, we count in u8's wider neighbour.
  if (dtype == Dtype::boolean) dtype = Dtype::i64;
  Tensor x, z, y;
  {
    const NoGrad guard;  // the node below carries the casts' gradients
    x = cast(a, dtype);
    z = cast(b, dtype);
    y = run_binary(name_of<kOp>(), kOp, x, z);
  }
  detail::check_anomaly(name_of<kOp>(), {&y});
  if (!is_floating(dtype)) return y;
  if (auto node = record<BinaryNode<kOp>>({&y}, {&a, &b})) {
    node->a_shape = a.shape();
    node->b_shape = b.shape();
    node->a_dtype = a.dtype();
    node->b_dtype = b.dtype();
    if (kOp == BinaryOp::div || (kOp == BinaryOp::mul && requires_grad(b))) node->a = x;
    if (kOp == BinaryOp::div || (kOp == BinaryOp::mul && requires_grad(a))) node->b = z;
  }
  return y;
}

struct ScaleNode final : Node {
  const char* name() const override { return "scale"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override { dx.set(0, cast(scale(dy[0], factor), dtype)); }
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

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) { return binary<BinaryOp::add>(a, b); }
Tensor sub(const Tensor& a, const Tensor& b) { return binary<BinaryOp::sub>(a, b); }
Tensor mul(const Tensor& a, const Tensor& b) { return binary<BinaryOp::mul>(a, b); }
Tensor div(const Tensor& a, const Tensor& b) { return binary<BinaryOp::div>(a, b); }

Tensor scale(const Tensor& x, double factor) {
  Tensor dense;
  {
    const NoGrad guard;
    dense = contiguous(is_floating(x.dtype()) ? x : cast(x, Dtype::f32));
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

}  // namespace weft
