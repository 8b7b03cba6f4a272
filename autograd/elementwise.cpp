#include "autograd/elementwise.h"

#include <cmath>

#include "autograd/cast.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "autograd/reduce.h"
#include "kernels/elementwise.h"

namespace weft {
namespace {

using kernels::BinaryGradientOp;
using kernels::BinaryOp;
using kernels::CompareOp;

void check_device(const char* op, const Tensor& a, const Tensor& b) {
  require<DeviceError>(a.device() == b.device(), op, "operands must be on one device but are on {} and {}", a.device(),
                       b.device());
}

// Of an operand that is broadcast to `shape`.
Strides strides_in(const Shape& shape, const Tensor& x) {
  return x.shape() == shape ? x.strides() : x.alias().expand(shape).strides();
}

// A gradient brought back to its operand's shape and dtype. The handle moves through: a gradient that nobody else holds is
// kept instead of copied.
Tensor fitted(Tensor gradient, const Shape& shape, Dtype dtype) {
  if (!(gradient.shape() == shape)) gradient = sum_to(gradient, shape);
  if (gradient.dtype() != dtype) gradient = cast(gradient, dtype);
  return gradient;
}

// Both operands already have the result's dtype.
Tensor run_binary(const char* op, BinaryOp kind, const Tensor& a, const Tensor& b) {
  const Shape shape = a.shape() == b.shape() ? a.shape() : broadcast_shapes(a.shape(), b.shape(), op);
  Tensor y = Tensor::empty(shape, a.dtype(), a.device());
  kernels::binary(a.device(), {kind, a.dtype(), a.raw_data(), b.raw_data(), y.raw_data(), shape, strides_in(shape, a),
                               strides_in(shape, b)});
  return y;
}

Tensor run_gradient(BinaryGradientOp kind, const Tensor& dy, const Tensor& a, const Tensor& b) {
  const Shape& shape = dy.shape();
  Tensor dx = Tensor::empty(shape, dy.dtype(), dy.device());
  kernels::binary_gradient(dy.device(), {kind, dy.dtype(), dy.raw_data(), a.raw_data(), b.raw_data(), dx.raw_data(),
                                         shape, dy.strides(), strides_in(shape, a), strides_in(shape, b)});
  return dx;
}

template <BinaryOp kOp>
constexpr const char* name_of() {
  switch (kOp) {
    case BinaryOp::add: return "add";
    case BinaryOp::sub: return "sub";
    case BinaryOp::mul: return "mul";
    case BinaryOp::div: return "div";
    case BinaryOp::minimum: return "minimum";
    case BinaryOp::maximum: return "maximum";
    case BinaryOp::pow: return "pow";
  }
  return "binary";
}

template <BinaryOp kOp>
struct BinaryNode final : Node {
  const char* name() const override { return name_of<kOp>(); }

  // y = a op b. add and sub save nothing.
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    if (dx.wanted(0)) dx.set(0, fitted(gradient_a(dy[0]), a_shape, a_dtype));
    if (dx.wanted(1)) dx.set(1, fitted(gradient_b(dy[0]), b_shape, b_dtype));
  }
  void release() override {
    a.reset();
    b.reset();
  }
  bool reusable() const override { return kOp == BinaryOp::add || kOp == BinaryOp::sub; }

  Tensor gradient_a(const Tensor& dy) const {
    if constexpr (kOp == BinaryOp::mul) return mul(dy, b.get(name()));
    if constexpr (kOp == BinaryOp::div) return div(dy, b.get(name()));
    if constexpr (kOp == BinaryOp::minimum)
      return run_gradient(BinaryGradientOp::minimum_a, dy, a.get(name()), b.get(name()));
    if constexpr (kOp == BinaryOp::maximum)
      return run_gradient(BinaryGradientOp::maximum_a, dy, a.get(name()), b.get(name()));
    if constexpr (kOp == BinaryOp::pow) return run_gradient(BinaryGradientOp::pow_a, dy, a.get(name()), b.get(name()));
    return dy;
  }
  Tensor gradient_b(const Tensor& dy) const {
    if constexpr (kOp == BinaryOp::sub) return scale(dy, -1.0);
    if constexpr (kOp == BinaryOp::mul) return mul(dy, a.get(name()));
    if constexpr (kOp == BinaryOp::div) return run_gradient(BinaryGradientOp::div_b, dy, a.get(name()), b.get(name()));
    if constexpr (kOp == BinaryOp::minimum)
      return run_gradient(BinaryGradientOp::minimum_a, dy, b.get(name()), a.get(name()));
    if constexpr (kOp == BinaryOp::maximum)
      return run_gradient(BinaryGradientOp::maximum_a, dy, b.get(name()), a.get(name()));
    if constexpr (kOp == BinaryOp::pow) return run_gradient(BinaryGradientOp::pow_b, dy, a.get(name()), b.get(name()));
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
  if ((kOp == BinaryOp::div || kOp == BinaryOp::pow) && !is_floating(dtype)) dtype = Dtype::f32;
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
    constexpr bool kSum = kOp == BinaryOp::add || kOp == BinaryOp::sub, kProduct = kOp == BinaryOp::mul;
    if (!kSum && (!kProduct || requires_grad(b))) node->a = x;
    if (!kSum && (!kProduct || requires_grad(a))) node->b = z;
  }
  return y;
}

// --- comparisons ---------------------------------------------------------------------------------------------------

constexpr const char* name_of(CompareOp op) {
  switch (op) {
    case CompareOp::eq: return "eq";
    case CompareOp::ne: return "ne";
    case CompareOp::lt: return "lt";
    case CompareOp::le: return "le";
    case CompareOp::gt: return "gt";
    case CompareOp::ge: return "ge";
  }
  return "compare";
}

Tensor compare(CompareOp op, const Tensor& a, const Tensor& b) {
  check_device(name_of(op), a, b);
  const NoGrad guard;
  const Dtype dtype = promote(a.dtype(), b.dtype());
  const Tensor x = cast(a, dtype), z = cast(b, dtype);
  const Shape shape = a.shape() == b.shape() ? a.shape() : broadcast_shapes(a.shape(), b.shape(), name_of(op));
  Tensor y = Tensor::empty(shape, Dtype::boolean, a.device());
  kernels::compare(a.device(), {op, dtype, x.raw_data(), z.raw_data(), y.data<bool>(), shape, strides_in(shape, x),
                                strides_in(shape, z)});
  return y;
}

bool holds(Dtype dtype, double value) {
  if (is_floating(dtype)) return true;
  if (value != std::floor(value)) return false;  // infinities are their own floor, and out of every range
  switch (dtype) {
    case Dtype::boolean: return value == 0 || value == 1;
    case Dtype::u8: return value >= 0 && value <= 255;
    case Dtype::i32: return value >= -0x1p31 && value < 0x1p31;
    default: return value >= -0x1p63 && value < 0x1p63;
  }
}

Tensor compare(CompareOp op, const Tensor& a, double value) {
  const NoGrad guard;
  const Tensor x = holds(a.dtype(), value) ? a : cast(a, Dtype::f64);
  Tensor y = Tensor::empty(x.shape(), Dtype::boolean, x.device());
  kernels::compare(x.device(), {op, x.dtype(), x.raw_data(), nullptr, y.data<bool>(), x.shape(), x.strides(),
                                Dims::filled(x.rank(), 0), value});
  return y;
}

Tensor truth(const Tensor& x) { return x.dtype() == Dtype::boolean ? x : ne(x, 0.0); }

// --- where ---------------------------------------------------------------------------------------------------------

// a and b have the result's dtype.
Tensor run_where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  const Shape shape = broadcast_shapes(condition.shape(), broadcast_shapes(a.shape(), b.shape(), "where"), "where");
  Tensor y = Tensor::empty(shape, a.dtype(), a.device());
  kernels::where(a.device(), {a.dtype(), condition.data<bool>(), a.raw_data(), b.raw_data(), y.raw_data(), shape,
                              strides_in(shape, condition), strides_in(shape, a), strides_in(shape, b)});
  return y;
}

struct WhereNode final : Node {
  const char* name() const override { return "where"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    const Tensor& chosen = condition.get(name());
    const Tensor zero = scalar(0, dy[0].dtype(), dy[0].device());
    if (dx.wanted(0)) dx.set(0, fitted(run_where(chosen, dy[0], zero), a_shape, a_dtype));
    if (dx.wanted(1)) dx.set(1, fitted(run_where(chosen, zero, dy[0]), b_shape, b_dtype));
  }
  void release() override { condition.reset(); }
  Saved condition;
  Shape a_shape, b_shape;
  Dtype a_dtype = Dtype::f32, b_dtype = Dtype::f32;
};

// A number beside a tensor takes the tensor's dtype; integers beside a number that they do not hold become f32.
Tensor like(const Tensor& x, double value) {
  return scalar(value, holds(x.dtype(), value) ? x.dtype() : Dtype::f32, x.device());
}

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) { return binary<BinaryOp::add>(a, b); }
Tensor sub(const Tensor& a, const Tensor& b) { return binary<BinaryOp::sub>(a, b); }
Tensor mul(const Tensor& a, const Tensor& b) { return binary<BinaryOp::mul>(a, b); }
Tensor div(const Tensor& a, const Tensor& b) { return binary<BinaryOp::div>(a, b); }
Tensor minimum(const Tensor& a, const Tensor& b) { return binary<BinaryOp::minimum>(a, b); }
Tensor maximum(const Tensor& a, const Tensor& b) { return binary<BinaryOp::maximum>(a, b); }
Tensor pow(const Tensor& a, const Tensor& b) { return binary<BinaryOp::pow>(a, b); }

Tensor eq(const Tensor& a, const Tensor& b) { return compare(CompareOp::eq, a, b); }
Tensor ne(const Tensor& a, const Tensor& b) { return compare(CompareOp::ne, a, b); }
Tensor lt(const Tensor& a, const Tensor& b) { return compare(CompareOp::lt, a, b); }
Tensor le(const Tensor& a, const Tensor& b) { return compare(CompareOp::le, a, b); }
Tensor gt(const Tensor& a, const Tensor& b) { return compare(CompareOp::gt, a, b); }
Tensor ge(const Tensor& a, const Tensor& b) { return compare(CompareOp::ge, a, b); }
Tensor eq(const Tensor& x, double value) { return compare(CompareOp::eq, x, value); }
Tensor ne(const Tensor& x, double value) { return compare(CompareOp::ne, x, value); }
Tensor lt(const Tensor& x, double value) { return compare(CompareOp::lt, x, value); }
Tensor le(const Tensor& x, double value) { return compare(CompareOp::le, x, value); }
Tensor gt(const Tensor& x, double value) { return compare(CompareOp::gt, x, value); }
Tensor ge(const Tensor& x, double value) { return compare(CompareOp::ge, x, value); }

Tensor logical_not(const Tensor& x) { return eq(x, 0.0); }
Tensor logical_and(const Tensor& a, const Tensor& b) { return where(truth(a), truth(b), 0.0); }
Tensor logical_or(const Tensor& a, const Tensor& b) { return where(truth(a), 1.0, truth(b)); }

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  require<DtypeError>(condition.dtype() == Dtype::boolean, "where",
                      "the condition must be bool but is {}: compare it with 0", to_string(condition.dtype()));
  check_device("where", a, b);
  check_device("where", condition, a);
  const Dtype dtype = promote(a.dtype(), b.dtype());
  Tensor y;
  {
    const NoGrad guard;  // the node below carries the casts' gradients
    y = run_where(condition, cast(a, dtype), cast(b, dtype));
  }
  detail::check_anomaly("where", {&y});
  if (!is_floating(dtype)) return y;
  if (auto node = record<WhereNode>({&y}, {&a, &b})) {
    node->condition = condition;
    node->a_shape = a.shape();
    node->b_shape = b.shape();
    node->a_dtype = a.dtype();
    node->b_dtype = b.dtype();
  }
  return y;
}
Tensor where(const Tensor& condition, const Tensor& a, double b) { return where(condition, a, like(a, b)); }
Tensor where(const Tensor& condition, double a, const Tensor& b) { return where(condition, like(b, a), b); }

}  // namespace weft
