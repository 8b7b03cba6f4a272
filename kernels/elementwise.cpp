#include "kernels/elementwise.h"

#include <cmath>

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
  // Unsigned arithmetic of at least 64 bits: overflow wraps instead of being undefined.
  for (std::int64_t i = 0; i < length; ++i)
    out[i] = static_cast<T>(
        apply<kOp>(static_cast<std::uint64_t>(a[i * a_stride]), static_cast<std::uint64_t>(b[i * b_stride])));
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

template <BinaryOp kOp>
void binary_dtype(const Binary& args) {
  dispatch_all(args.dtype, "binary", [&]<class T>(std::type_identity<T>) {
    if constexpr (!std::is_same_v<T, bool> && !(std::is_integral_v<T> && kOp == BinaryOp::div))
      binary_cpu<kOp, T>(args);
  });
}

// out[i] = f(vector at i) over [0, count), for kernels of dense operands.
template <class T, class F>
void map(T* out, std::int64_t count, F&& f) {
  using C = compute_t<T>;
  parallel_ranges(count, kElementwiseGrain, [&](std::int64_t begin, std::int64_t end) {
    simd::for_each_vector<C>(end - begin, [&](std::int64_t i, auto width) {
      simd::store_width<T>(out + begin + i, f(begin + i, width), width);
    });
  });
}

}  // namespace

void binary(Device device, const Binary& args) {
  require<DtypeError>(args.dtype != Dtype::boolean && (args.op != BinaryOp::div || is_floating(args.dtype)), "binary",
                      "{} operands must be promoted before this operation", to_string(args.dtype));
  if (args.shape.numel() == 0) return;
  if (WEFT_ON_GPU("binary", binary, device, args)) return;
  switch (args.op) {
    case BinaryOp::add: return binary_dtype<BinaryOp::add>(args);
    case BinaryOp::sub: return binary_dtype<BinaryOp::sub>(args);
    case BinaryOp::mul: return binary_dtype<BinaryOp::mul>(args);
    case BinaryOp::div: return binary_dtype<BinaryOp::div>(args);
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
    const T* const in = static_cast<const T*>(args.in);
    const auto factor =
        simd::broadcast(static_cast<C>(args.device_factor != nullptr ? *args.device_factor : args.factor));
    map(static_cast<T*>(args.out), args.count,
        [&](std::int64_t i, auto width) { return simd::load_width<T>(in + i, width) * factor; });
  });
}

void unary(Device device, const Unary& args) {
  if (WEFT_ON_GPU("unary", unary, device, args)) return;
  dispatch_float(args.dtype, "unary", [&]<class T>(std::type_identity<T>) {
    const auto run = [&](auto f) {
      const T* const in = static_cast<const T*>(args.in);
      T* const out = static_cast<T*>(args.out);
      parallel_ranges(args.count, kElementwiseGrain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) out[i] = static_cast<T>(f(static_cast<compute_t<T>>(in[i])));
      });
    };
    switch (args.op) {
      case UnaryOp::exp: return run([](auto x) { return std::exp(x); });
      case UnaryOp::log: return run([](auto x) { return std::log(x); });
      case UnaryOp::rsqrt: return run([](auto x) { return 1 / std::sqrt(x); });
    }
  });
}

void relu_forward(Device device, const Relu& args) {
  if (WEFT_ON_GPU("relu", relu_forward, device, args)) return;
  dispatch_float(args.dtype, "relu", [&]<class T>(std::type_identity<T>) {
    const T* const in = static_cast<const T*>(args.in);
    map(static_cast<T*>(args.out), args.count, [&](std::int64_t i, auto width) {
      const auto x = simd::load_width<T>(in + i, width);
      return x < 0 ? Vec<compute_t<T>>{} : x;
    });
  });
}

void relu_backward(Device device, const ReluBackward& args) {
  if (WEFT_ON_GPU("relu", relu_backward, device, args)) return;
  dispatch_float(args.dtype, "relu", [&]<class T>(std::type_identity<T>) {
    const T* const dy = static_cast<const T*>(args.dy);
    const T* const y = static_cast<const T*>(args.y);
    map(static_cast<T*>(args.dx), args.count, [&](std::int64_t i, auto width) {
      return simd::load_width<T>(y + i, width) > 0 ? simd::load_width<T>(dy + i, width) : Vec<compute_t<T>>{};
    });
  });
}

}  // namespace weft::kernels
