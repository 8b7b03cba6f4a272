#include <cmath>

#include "kernels/common/dense_map_cpu.h"
#include "kernels/common/simd.h"
#include "kernels/elementwise.h"

namespace weft::kernels {
namespace {

using simd::Vec;

template <BinaryGradientOp kOp, class C>
inline C gradient_of(C dy, C a, C b) {
  switch (kOp) {
    case BinaryGradientOp::div_b: return -dy * (a / b) / b;
    case BinaryGradientOp::minimum_a: return a == b ? dy * C(0.5) : a > b ? C(0) : dy;
    case BinaryGradientOp::maximum_a: return a == b ? dy * C(0.5) : a < b ? C(0) : dy;
    case BinaryGradientOp::pow_a: return b == 0 ? C(0) : dy * b * std::pow(a, b - 1);
    case BinaryGradientOp::pow_b: return a == 0 && b >= 0 ? C(0) : dy * std::pow(a, b) * std::log(a);
  }
}

template <BinaryGradientOp kOp>
void gradient_cpu(const BinaryGradient& args) {
  dispatch_float(args.dtype, "binary_gradient", [&]<class T>(std::type_identity<T>) {
    using C = compute_t<T>;
    const StridedRuns<4> runs(args.shape,
                              {contiguous_strides(args.shape), args.dy_strides, args.a_strides, args.b_strides});
    const std::int64_t dy_stride = runs.inner_stride(1), a_stride = runs.inner_stride(2),
                       b_stride = runs.inner_stride(3);
    runs.for_each(kElementwiseGrain, [&](const auto& offsets, std::int64_t length) {
      T* const out = static_cast<T*>(args.out) + offsets[0];
      const T* const dy = static_cast<const T*>(args.dy) + offsets[1];
      const T* const a = static_cast<const T*>(args.a) + offsets[2];
      const T* const b = static_cast<const T*>(args.b) + offsets[3];
      for (std::int64_t i = 0; i < length; ++i)
        out[i] = static_cast<T>(gradient_of<kOp>(static_cast<C>(dy[i * dy_stride]), static_cast<C>(a[i * a_stride]),
                                                 static_cast<C>(b[i * b_stride])));
    });
  });
}

}  // namespace

void binary_gradient(Device device, const BinaryGradient& args) {
  if (args.shape.numel() == 0) return;
  if (WEFT_ON_GPU("binary_gradient", binary_gradient, device, args)) return;
  switch (args.op) {
    case BinaryGradientOp::div_b: return gradient_cpu<BinaryGradientOp::div_b>(args);
    case BinaryGradientOp::minimum_a: return gradient_cpu<BinaryGradientOp::minimum_a>(args);
    case BinaryGradientOp::maximum_a: return gradient_cpu<BinaryGradientOp::maximum_a>(args);
    case BinaryGradientOp::pow_a: return gradient_cpu<BinaryGradientOp::pow_a>(args);
    case BinaryGradientOp::pow_b: return gradient_cpu<BinaryGradientOp::pow_b>(args);
  }
}

void unary_backward(Device device, const UnaryBackward& args) {
  if (WEFT_ON_GPU("unary_backward", unary_backward, device, args)) return;
  dispatch_float(args.dtype, "unary_backward", [&]<class T>(std::type_identity<T>) {
    using C = compute_t<T>;
    using V = Vec<C>;
    const auto run = [&](auto f) {
      map(static_cast<const T*>(args.dy), static_cast<const T*>(args.saved), static_cast<T*>(args.dx), args.count, f);
    };
    const auto p = static_cast<C>(args.p), q = static_cast<C>(args.q);
    const V zero{}, one = simd::broadcast<C>(1);
    // s: the result where saves_result(op), else the input.
    switch (args.op) {
      case UnaryOp::exp: return run([](V dy, V s) { return dy * s; });
      case UnaryOp::log: return run([](V dy, V s) { return dy / s; });
      case UnaryOp::sqrt: return run([](V dy, V s) { return dy / (C(2) * s); });
      case UnaryOp::rsqrt: return run([](V dy, V s) { return C(-0.5) * dy * (s * s * s); });
      case UnaryOp::abs: return run([&](V dy, V s) { return s > zero ? dy : s < zero ? -dy : zero; });
      case UnaryOp::sigmoid: return run([&](V dy, V s) { return dy * (one - s) * s; });
      case UnaryOp::tanh: return run([&](V dy, V s) { return dy * (one - s * s); });
      case UnaryOp::silu:
        return run([&](V dy, V s) {
          const V sigmoid = one / (one + simd::exp(-s));
          return dy * sigmoid * (one + s * (one - sigmoid));
        });
      case UnaryOp::add_scalar: return run([](V dy, V) { return dy; });
      case UnaryOp::subtract_from: return run([](V dy, V) { return -dy; });
      case UnaryOp::divide: return run([&](V dy, V s) { return -dy * (p / s) / s; });
      case UnaryOp::pow:
        if (args.p == 0) return run([&](V, V) { return zero; });
        if (args.p == 2) return run([](V dy, V s) { return dy * C(2) * s; });
        return run([&](V dy, V s) { return dy * p * simd::each(s, [&](C v) { return std::pow(v, p - 1); }); });
      case UnaryOp::clamp: return run([&](V dy, V s) { return ((s >= p) & (s <= q)) ? dy : zero; });
      case UnaryOp::leaky_relu: return run([&](V dy, V s) { return s > zero ? dy : dy * p; });
      case UnaryOp::gelu:  // Φ(x) + x φ(x)
        return run([](V dy, V s) {
          const V density = C(0.39894228040143267794) * simd::exp(C(-0.5) * s * s);
          const V twice = simd::each(s, [](C v) { return std::erfc(v * C(-0.70710678118654752440)); });
          return dy * (C(0.5) * twice + s * density);
        });
      case UnaryOp::gelu_tanh:
        return run([&](V dy, V s) {
          constexpr C kTwiceRoot = C(1.5957691216057307117);
          const V sigmoid = one / (one + simd::exp(-kTwiceRoot * (s + C(0.044715) * s * s * s)));
          const V inner = kTwiceRoot * (one + C(3 * 0.044715) * s * s);
          return dy * (sigmoid + s * sigmoid * (one - sigmoid) * inner);
        });
      case UnaryOp::softplus: return run([&](V dy, V s) { return s * p > q ? dy : dy / (one + simd::exp(-s * p)); });
    }
  });
}

void relu_backward(Device device, const ReluBackward& args) {
  if (WEFT_ON_GPU("relu", relu_backward, device, args)) return;
  dispatch_float(args.dtype, "relu", [&]<class T>(std::type_identity<T>) {
    using V = Vec<compute_t<T>>;
    map(static_cast<const T*>(args.dy), static_cast<const T*>(args.y), static_cast<T*>(args.dx), args.count,
        [](V dy, V y) { return y > V{} ? dy : V{}; });
  });
}

}  // namespace weft::kernels
