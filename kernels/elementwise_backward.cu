// Element-wise operations, backward: one launch, from dy and what was saved. See elementwise.cu.
#include "kernels/common/dense_map.h"
#include "kernels/common/strided_map.h"
#include "kernels/elementwise.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

// --- binary --------------------------------------------------------------------------------------------------------

using Layout = StridedLayout<4>;  // out, dy, a, b

Layout layout_of(const BinaryGradient& args) {
  const Strides out_strides = contiguous_strides(args.shape);
  return Layout(args.shape, {&out_strides, &args.dy_strides, &args.a_strides, &args.b_strides});
}

template <class T>
struct ApplyGradient {
  BinaryGradientOp op;
  WEFT_DEVICE T operator()(T stored_dy, T stored_a, T stored_b) const {
    using C = compute_t<T>;
    const C dy = widen(stored_dy), a = widen(stored_a), b = widen(stored_b);
    C dx;
    if (op == BinaryGradientOp::div_b)
      dx = -dy * (a / b) / b;
    else if (op == BinaryGradientOp::minimum_a)
      dx = a == b ? dy * C(0.5) : a > b ? C(0) : dy;
    else if (op == BinaryGradientOp::maximum_a)
      dx = a == b ? dy * C(0.5) : a < b ? C(0) : dy;
    else if (op == BinaryGradientOp::pow_a)
      dx = b == 0 ? C(0) : dy * b * power(a, b - 1);
    else
      dx = a == 0 && b >= 0 ? C(0) : dy * power(a, b) * logarithm(a);
    return narrow<T>(dx);
  }
};

bool gradient_vectorised_supports(const BinaryGradient& args) {
  const Layout layout = layout_of(args);
  const std::int64_t bytes = element_bytes(args.dtype);
  const auto operand = [&](int n, const void* address) {
    return vector_operand(layout, n, address, bytes, 16 / static_cast<int>(bytes));
  };
  return operand(0, args.out) && operand(1, args.dy) && operand(2, args.a) && operand(3, args.b);
}

template <bool kVectorised>
void gradient_run(const Stream& stream, const BinaryGradient& args) {
  if (args.shape.numel() == 0) return;
  dispatch_float(args.dtype, "binary_gradient", [&]<class T>(std::type_identity<T>) {
    launch_strided_map<kVectorised ? kVectorWidth<T> : 1, 1>(
        stream, "binary_gradient", layout_of(args), ApplyGradient<T>{args.op}, static_cast<T*>(args.out),
        static_cast<const T*>(args.dy), static_cast<const T*>(args.a), static_cast<const T*>(args.b));
  });
}

// --- unary ---------------------------------------------------------------------------------------------------------

template <class C>
struct UnaryGradient {
  UnaryOp op;
  C p, q;
  WEFT_DEVICE void prepare() {}
  // s: the result where saves_result(op), else the input.
  WEFT_DEVICE C operator()(C dy, C s) const {
    if (op == UnaryOp::exp) return dy * s;
    if (op == UnaryOp::log) return dy / s;
    if (op == UnaryOp::sqrt) return dy / (2 * s);
    if (op == UnaryOp::rsqrt) return C(-0.5) * dy * (s * s * s);
    if (op == UnaryOp::abs) return s > 0 ? dy : s < 0 ? -dy : C(0);
    if (op == UnaryOp::sigmoid) return dy * (1 - s) * s;
    if (op == UnaryOp::tanh) return dy * (1 - s * s);
    if (op == UnaryOp::silu) {
      const C sigmoid = 1 / (1 + exponential(-s));
      return dy * sigmoid * (1 + s * (1 - sigmoid));
    }
    if (op == UnaryOp::divide) return -dy * (p / s) / s;
    if (op == UnaryOp::clamp) return s >= p && s <= q ? dy : C(0);
    if (op == UnaryOp::leaky_relu) return s > 0 ? dy : dy * p;
    if (op == UnaryOp::gelu) {  // Φ(x) + x φ(x)
      const C density = C(0.39894228040143267794) * exponential(C(-0.5) * s * s);
      return dy * (C(0.5) * complementary_error(s * C(-0.70710678118654752440)) + s * density);
    }
    if (op == UnaryOp::gelu_tanh) {
      constexpr C kTwiceRoot = C(1.5957691216057307117);
      const C sigmoid = 1 / (1 + exponential(-kTwiceRoot * (s + C(0.044715) * s * s * s)));
      const C inner = kTwiceRoot * (1 + C(3 * 0.044715) * s * s);
      return dy * (sigmoid + s * sigmoid * (1 - sigmoid) * inner);
    }
    if (op == UnaryOp::softplus) return s * p > q ? dy : dy / (1 + exponential(-s * p));
    if (p == 0) return C(0);
    return dy * p * (p == 2 ? s : power(s, p - 1));
  }
};

template <class C>
struct ReluGradient {
  WEFT_DEVICE void prepare() {}
  WEFT_DEVICE C operator()(C dy, C y) const { return y > 0 ? dy : C(0); }
};

DenseMap map_of(const UnaryBackward& args) {
  return {"unary_backward", args.dtype, args.dy, args.saved, args.dx, args.count};
}
DenseMap map_of(const ReluBackward& args) {
  return {"relu_backward", args.dtype, args.dy, args.y, args.dx, args.count};
}

template <class C>
UnaryGradient<C> function_of(const UnaryBackward& args) {
  return {args.op, static_cast<C>(args.p), static_cast<C>(args.q)};
}
template <class C>
ReluGradient<C> function_of(const ReluBackward&) {
  return {};
}

template <class Args>
bool map_vectorised_supports(const Args& args) {
  return is_vectorised(map_of(args));
}
template <class Args>
bool map_scalar_supports(const Args&) {
  return true;
}

template <class Args, bool kVectorised>
void map_run(const Stream& stream, const Args& args) {
  launch_dense_map<kVectorised, 2, std::is_same_v<Args, UnaryBackward> ? 1 : 4>(
      stream, map_of(args), [&]<class C>(std::type_identity<C>) { return function_of<C>(args); });
}

template <class Args>
std::span<const Variant<Args>> map_variants() {
  static constexpr Variant<Args> kVariants[] = {
      {"vectorised", "16-byte vectors", map_vectorised_supports<Args>, map_run<Args, true>},
      {"scalar", "for addresses off the 16-byte grid", map_scalar_supports<Args>, map_run<Args, false>},
  };
  return kVariants;
}

}  // namespace

std::span<const Variant<BinaryGradient>> binary_gradient_variants() {
  static constexpr Variant<BinaryGradient> kVariants[] = {
      {"vectorised", "16-byte vectors of dense or broadcast operands", gradient_vectorised_supports,
       gradient_run<true>},
      {"scalar", "any strides, an element at a time", [](const BinaryGradient&) { return true; }, gradient_run<false>},
  };
  return kVariants;
}
std::span<const Variant<UnaryBackward>> unary_backward_variants() { return map_variants<UnaryBackward>(); }
std::span<const Variant<ReluBackward>> relu_backward_variants() { return map_variants<ReluBackward>(); }

void binary_gradient(const Stream& stream, const BinaryGradient& args) {
  run_variant("binary_gradient", binary_gradient_variants(), stream, args);
}
void unary_backward(const Stream& stream, const UnaryBackward& args) {
  run_variant("unary_backward", unary_backward_variants(), stream, args);
}
void relu_backward(const Stream& stream, const ReluBackward& args) {
  run_variant("relu", relu_backward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
