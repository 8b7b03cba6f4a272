#include "kernels/elementwise.h"

#include <cmath>

#include "kernels/common/dense_map_cpu.h"
#include "kernels/common/simd.h"
#include "kernels/common/strided.h"

namespace weft::kernels {
namespace {

using simd::Vec;

template <BinaryOp kOp, class V>
inline V apply(V a, V b) {
  if constexpr (kOp == BinaryOp::add) return a + b;
  if constexpr (kOp == BinaryOp::sub) return a - b;
  if constexpr (kOp == BinaryOp::mul) return a * b;
  if constexpr (kOp == BinaryOp::div) return a / b;
  // Only comparisons and selections, which vectors and numbers share: the second operand where it is NaN.
  if constexpr (kOp == BinaryOp::minimum) return ((a < b) | (a != a)) ? a : b;
  if constexpr (kOp == BinaryOp::maximum) return ((a > b) | (a != a)) ? a : b;
  if constexpr (kOp == BinaryOp::pow) {
    if constexpr (std::is_floating_point_v<V>)
      return std::pow(a, b);
    else if constexpr (!std::is_integral_v<V>)
      for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(a[0])); ++i) a[i] = std::pow(a[i], b[i]);
    return a;
  }
}

// One run of a floating operation: strides 0 (broadcast) and 1 are vectors, anything else is gathered lane by lane.
template <BinaryOp kOp, class T>
void float_run(const T* a, std::int64_t a_stride, const T* b, std::int64_t b_stride, T* out, std::int64_t length) {
  using C = compute_t<T>;
  if (a_stride > 1 || b_stride > 1 || a_stride < 0 || b_stride < 0) {
    for (std::int64_t i = 0; i < length; ++i)
      out[i] = static_cast<T>(apply<kOp>(static_cast<C>(a[i * a_stride]), static_cast<C>(b[i * b_stride])));
    return;
  }
  const auto run = [&](auto a_at, auto b_at) {
    simd::for_each_vector<C>(length, [&](std::int64_t i, auto width) {
      simd::store_width<T>(out + i, apply<kOp>(a_at(i, width), b_at(i, width)), width);
    });
  };
  const auto load_a = [&](std::int64_t i, auto width) { return simd::load_width<T>(a + i, width); };
  const auto load_b = [&](std::int64_t i, auto width) { return simd::load_width<T>(b + i, width); };
  if (a_stride == 1 && b_stride == 1) return run(load_a, load_b);
  const Vec<C> first_a = simd::broadcast(static_cast<C>(*a)), first_b = simd::broadcast(static_cast<C>(*b));
  const auto same_a = [&](std::int64_t, auto) { return first_a; };
  const auto same_b = [&](std::int64_t, auto) { return first_b; };
  if (a_stride == 1) return run(load_a, same_b);
  if (b_stride == 1) return run(same_a, load_b);
  run(same_a, same_b);
}

template <BinaryOp kOp, class T>
void integer_run(const T* a, std::int64_t a_stride, const T* b, std::int64_t b_stride, T* out, std::int64_t length) {
  // Unsigned arithmetic of at least 64 bits: overflow wraps instead of being undefined. Orders keep the sign.
  using C = std::conditional_t<kOp == BinaryOp::minimum || kOp == BinaryOp::maximum, std::int64_t, std::uint64_t>;
  for (std::int64_t i = 0; i < length; ++i)
    out[i] = static_cast<T>(apply<kOp>(static_cast<C>(a[i * a_stride]), static_cast<C>(b[i * b_stride])));
}

template <BinaryOp kOp, class T>
void binary_cpu(const Binary& args) {
  const StridedRuns<3> runs(args.shape, {contiguous_strides(args.shape), args.a_strides, args.b_strides});
  const T* const a = static_cast<const T*>(args.a);
  const T* const b = static_cast<const T*>(args.b);
  T* const out = static_cast<T*>(args.out);
  const std::int64_t a_stride = runs.inner_stride(1), b_stride = runs.inner_stride(2);
  runs.for_each(kElementwiseGrain, [&](const auto& offsets, std::int64_t length) {
    if constexpr (std::is_integral_v<T>)
      integer_run<kOp>(a + offsets[1], a_stride, b + offsets[2], b_stride, out + offsets[0], length);
    else
      float_run<kOp>(a + offsets[1], a_stride, b + offsets[2], b_stride, out + offsets[0], length);
  });
}

constexpr bool floats_only(BinaryOp op) { return op == BinaryOp::div || op == BinaryOp::pow; }

template <BinaryOp kOp>
void binary_dtype(const Binary& args) {
  dispatch_all(args.dtype, "binary", [&]<class T>(std::type_identity<T>) {
    if constexpr (!std::is_same_v<T, bool> && !(std::is_integral_v<T> && floats_only(kOp))) binary_cpu<kOp, T>(args);
  });
}

// --- comparisons ---------------------------------------------------------------------------------------------------

template <class T, class F>
void compare_cpu(const Compare& args, F&& compared) {
  using C = std::conditional_t<std::is_integral_v<T>, T, compute_t<T>>;
  const T* const a = static_cast<const T*>(args.a);
  if (args.b == nullptr) {
    const C scalar = static_cast<C>(static_cast<T>(static_cast<C>(args.scalar)));  // rounded to the dtype
    const StridedRuns<2> runs(args.shape, {contiguous_strides(args.shape), args.a_strides});
    const std::int64_t stride = runs.inner_stride(1);
    runs.for_each(kElementwiseGrain, [&](const auto& offsets, std::int64_t length) {
      bool* const out = args.out + offsets[0];
      const T* const x = a + offsets[1];
      for (std::int64_t i = 0; i < length; ++i) out[i] = compared(static_cast<C>(x[i * stride]), scalar);
    });
    return;
  }
  const T* const b = static_cast<const T*>(args.b);
  const StridedRuns<3> runs(args.shape, {contiguous_strides(args.shape), args.a_strides, args.b_strides});
  const std::int64_t a_stride = runs.inner_stride(1), b_stride = runs.inner_stride(2);
  runs.for_each(kElementwiseGrain, [&](const auto& offsets, std::int64_t length) {
    bool* const out = args.out + offsets[0];
    const T *const x = a + offsets[1], *const y = b + offsets[2];
    for (std::int64_t i = 0; i < length; ++i)
      out[i] = compared(static_cast<C>(x[i * a_stride]), static_cast<C>(y[i * b_stride]));
  });
}

// --- where ---------------------------------------------------------------------------------------------------------

template <class T>
void where_cpu(const Where& args) {
  const T* const a = static_cast<const T*>(args.a);
  const T* const b = static_cast<const T*>(args.b);
  const StridedRuns<4> runs(args.shape,
                            {contiguous_strides(args.shape), args.condition_strides, args.a_strides, args.b_strides});
  const std::int64_t c_stride = runs.inner_stride(1), a_stride = runs.inner_stride(2), b_stride = runs.inner_stride(3);
  runs.for_each(kElementwiseGrain, [&](const auto& offsets, std::int64_t length) {
    T* const out = static_cast<T*>(args.out) + offsets[0];
    const bool* const condition = args.condition + offsets[1];
    const T *const x = a + offsets[2], *const y = b + offsets[3];
    for (std::int64_t i = 0; i < length; ++i) out[i] = condition[i * c_stride] ? x[i * a_stride] : y[i * b_stride];
  });
}

}  // namespace

void binary(Device device, const Binary& args) {
  require<DtypeError>(args.dtype != Dtype::boolean && (!floats_only(args.op) || is_floating(args.dtype)), "binary",
                      "{} operands must be promoted before this operation", to_string(args.dtype));
  if (args.shape.numel() == 0) return;
  if (WEFT_ON_GPU("binary", binary, device, args)) return;
  switch (args.op) {
    case BinaryOp::add: return binary_dtype<BinaryOp::add>(args);
    case BinaryOp::sub: return binary_dtype<BinaryOp::sub>(args);
    case BinaryOp::mul: return binary_dtype<BinaryOp::mul>(args);
    case BinaryOp::div: return binary_dtype<BinaryOp::div>(args);
    case BinaryOp::minimum: return binary_dtype<BinaryOp::minimum>(args);
    case BinaryOp::maximum: return binary_dtype<BinaryOp::maximum>(args);
    case BinaryOp::pow: return binary_dtype<BinaryOp::pow>(args);
  }
}

void compare(Device device, const Compare& args) {
  if (args.shape.numel() == 0) return;
  if (WEFT_ON_GPU("compare", compare, device, args)) return;
  dispatch_all(args.dtype, "compare", [&]<class T>(std::type_identity<T>) {
    switch (args.op) {
      case CompareOp::eq: return compare_cpu<T>(args, [](auto a, auto b) { return a == b; });
      case CompareOp::ne: return compare_cpu<T>(args, [](auto a, auto b) { return a != b; });
      case CompareOp::lt: return compare_cpu<T>(args, [](auto a, auto b) { return a < b; });
      case CompareOp::le: return compare_cpu<T>(args, [](auto a, auto b) { return a <= b; });
      case CompareOp::gt: return compare_cpu<T>(args, [](auto a, auto b) { return a > b; });
      case CompareOp::ge: return compare_cpu<T>(args, [](auto a, auto b) { return a >= b; });
    }
  });
}

void where(Device device, const Where& args) {
  if (args.shape.numel() == 0) return;
  if (WEFT_ON_GPU("where", where, device, args)) return;
  // Elements are moved as words of their size, whatever they mean.
  switch (element_bytes(args.dtype)) {
    case 1: return where_cpu<std::uint8_t>(args);
    case 2: return where_cpu<std::uint16_t>(args);
    case 4: return where_cpu<std::uint32_t>(args);
    default: return where_cpu<std::uint64_t>(args);
  }
}

void add_into(Device device, const AddInto& args) {
  const Shape shape{args.count};
  binary(device, {BinaryOp::add, args.dtype, args.out, args.in, args.out, shape, {1}, {1}});
}

void scale(Device device, const Scale& args) {
  if (WEFT_ON_GPU("scale", scale, device, args)) return;
  dispatch_float(args.dtype, "scale", [&]<class T>(std::type_identity<T>) {
    using C = compute_t<T>;
    const auto factor =
        simd::broadcast(static_cast<C>(args.device_factor != nullptr ? *args.device_factor : args.factor));
    map(static_cast<const T*>(args.in), static_cast<T*>(args.out), args.count, [&](Vec<C> x) { return x * factor; });
  });
}

void unary(Device device, const Unary& args) {
  if (WEFT_ON_GPU("unary", unary, device, args)) return;
  dispatch_float(args.dtype, "unary", [&]<class T>(std::type_identity<T>) {
    using C = compute_t<T>;
    const auto run = [&](auto f) { map(static_cast<const T*>(args.in), static_cast<T*>(args.out), args.count, f); };
    const auto p = static_cast<C>(args.p), q = static_cast<C>(args.q);
    const Vec<C> zero{}, one = simd::broadcast<C>(1);
    switch (args.op) {
      case UnaryOp::exp: return run([](Vec<C> x) { return simd::exp(x); });
      case UnaryOp::log: return run([](Vec<C> x) { return simd::each(x, [](C v) { return std::log(v); }); });
      case UnaryOp::sqrt: return run([](Vec<C> x) { return simd::sqrt(x); });
      case UnaryOp::rsqrt: return run([&](Vec<C> x) { return one / simd::sqrt(x); });
      case UnaryOp::abs: return run([](Vec<C> x) { return simd::each(x, [](C v) { return std::fabs(v); }); });
      case UnaryOp::sigmoid: return run([&](Vec<C> x) { return one / (one + simd::exp(-x)); });
      case UnaryOp::tanh: return run([](Vec<C> x) { return simd::each(x, [](C v) { return std::tanh(v); }); });
      case UnaryOp::silu: return run([&](Vec<C> x) { return x / (one + simd::exp(-x)); });
      case UnaryOp::add_scalar: return run([&](Vec<C> x) { return x + p; });
      case UnaryOp::subtract_from: return run([&](Vec<C> x) { return p - x; });
      case UnaryOp::divide: return run([&](Vec<C> x) { return p / x; });
      case UnaryOp::pow:
        if (args.p == 2) return run([](Vec<C> x) { return x * x; });
        return run([&](Vec<C> x) { return simd::each(x, [&](C v) { return std::pow(v, p); }); });
      case UnaryOp::clamp:
        return run([&](Vec<C> x) {
          const Vec<C> raised = x < p ? simd::broadcast(p) : x;
          return raised > q ? simd::broadcast(q) : raised;
        });
      case UnaryOp::leaky_relu: return run([&](Vec<C> x) { return x > zero ? x : x * p; });
      case UnaryOp::gelu:
        // Φ by erfc, which keeps its digits where 1 + erf would cancel.
        return run([](Vec<C> x) {
          return C(0.5) * x * simd::each(x, [](C v) { return std::erfc(v * C(-0.70710678118654752440)); });
        });
      case UnaryOp::gelu_tanh:
        // (1 + tanh(u)) / 2 = 1 / (1 + e^(-2u)), likewise.
        return run(
            [&](Vec<C> x) { return x / (one + simd::exp(C(-1.5957691216057307117) * (x + C(0.044715) * x * x * x))); });
      case UnaryOp::softplus:
        return run([&](Vec<C> x) {
          return simd::each(x, [&](C v) { return v * p > q ? v : std::log1p(std::exp(v * p)) / p; });
        });
    }
  });
}

void relu_forward(Device device, const Relu& args) {
  if (WEFT_ON_GPU("relu", relu_forward, device, args)) return;
  dispatch_float(args.dtype, "relu", [&]<class T>(std::type_identity<T>) {
    using V = Vec<compute_t<T>>;
    map(static_cast<const T*>(args.in), static_cast<T*>(args.out), args.count,
        [](V x) { return x < V{} ? V{} : x; });  // NaN stays
  });
}

}  // namespace weft::kernels
