// Element-wise operations, forward. The loops over memory are in common/strided_map.h (operands that are broadcast) and
// common/dense_map.h; here is what happens to one element. The operation is looked up in the kernel, the same way for all
// threads: one kernel per dtype and width.
#include "kernels/elementwise.h"

#include "kernels/common/dense_map.h"
#include "kernels/common/strided_map.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

// Elements per vector: 16 bytes, but no more than 8 elements, which would only cost registers.
template <class T>
constexpr int kStridedWidth = std::min(kVectorWidth<T>, 8);
int strided_width(Dtype dtype) { return std::min(16 / static_cast<int>(element_bytes(dtype)), 8); }

// --- binary --------------------------------------------------------------------------------------------------------

using Layout = StridedLayout<3>;  // out, a, b
constexpr int kOut = 0, kA = 1, kB = 2;

template <class Args>
Layout layout_of(const Args& args) {
  const Strides out_strides = contiguous_strides(args.shape);
  return Layout(args.shape, {&out_strides, &args.a_strides, &args.b_strides});
}

template <class C>
WEFT_DEVICE C apply(BinaryOp op, C a, C b) {
  if (op == BinaryOp::add) return a + b;
  if (op == BinaryOp::sub) return a - b;
  if (op == BinaryOp::mul) return a * b;
  if constexpr (std::is_floating_point_v<C>) {
    if (op == BinaryOp::div) return a / b;
    if (op == BinaryOp::minimum) return a < b || a != a ? a : b;  // b where b is NaN
    return a > b || a != a ? a : b;
  } else {
    return 0;  // the rest on integers: by apply_stored, or refused before
  }
}

// Unsigned for integers: overflow wraps instead of being undefined.
template <class T>
using binary_compute_t = std::conditional_t<!std::is_integral_v<T>, compute_t<T>,
                                            std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>>;

template <class T>
struct ApplyBinary {
  BinaryOp op;
  WEFT_DEVICE T operator()(T a, T b) const {
    using C = binary_compute_t<T>;
    if constexpr (std::is_integral_v<T>) {
      if (op == BinaryOp::minimum) return a < b ? a : b;
      if (op == BinaryOp::maximum) return a > b ? a : b;
      return static_cast<T>(apply(op, static_cast<C>(a), static_cast<C>(b)));
    } else {
      return narrow<T>(apply<C>(op, widen(a), widen(b)));
    }
  }
};

// Apart, because it costs registers and code: one vector in flight per thread.
template <class T>
struct ApplyPower {
  WEFT_DEVICE T operator()(T a, T b) const { return narrow<T>(power(widen(a), widen(b))); }
};

// Calls f with the element type; bool is refused before.
template <class F>
void with_type(Dtype dtype, F&& f) {
  dispatch_all(dtype, "binary", [&]<class T>(std::type_identity<T> type) {
    if constexpr (!std::is_same_v<T, bool>) f(type);
  });
}

bool vectorised_supports(const Binary& args) {
  const Layout layout = layout_of(args);
  const auto operand = [&](int n, const void* address) {
    return vector_operand(layout, n, address, element_bytes(args.dtype), strided_width(args.dtype));
  };
  // out is dense: where there are outer dimensions, its strides are multiples of the innermost extent.
  return operand(kOut, args.out) && operand(kA, args.a) && operand(kB, args.b);
}

template <bool kVectorised>
void binary_run(const Stream& stream, const Binary& args) {
  if (args.shape.numel() == 0) return;
  with_type(args.dtype, [&]<class T>(std::type_identity<T>) {
    constexpr int kWidth = kVectorised ? kStridedWidth<T> : 1;
    const T* const a = static_cast<const T*>(args.a);
    const T* const b = static_cast<const T*>(args.b);
    T* const out = static_cast<T*>(args.out);
    if constexpr (!std::is_integral_v<T>)
      if (args.op == BinaryOp::pow)
        return launch_strided_map<kWidth, 1>(stream, "pow", layout_of(args), ApplyPower<T>{}, out, a, b);
    launch_strided_map<kWidth>(stream, "binary", layout_of(args), ApplyBinary<T>{args.op}, out, a, b);
  });
}

// --- compare -------------------------------------------------------------------------------------------------------

template <class T>
struct ApplyCompare {
  CompareOp op;
  bool with_scalar;
  T scalar;
  WEFT_DEVICE static auto compared(T value) {
    if constexpr (std::is_integral_v<T>)
      return value;
    else
      return widen(value);
  }
  WEFT_DEVICE bool operator()(T a, T b) const {
    const auto x = compared(a), y = compared(with_scalar ? scalar : b);
    if (op == CompareOp::eq) return x == y;
    if (op == CompareOp::ne) return x != y;
    if (op == CompareOp::lt) return x < y;
    if (op == CompareOp::le) return x <= y;
    if (op == CompareOp::gt) return x > y;
    return x >= y;
  }
};

template <class T>
T rounded(double value) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(value);
  else
    return static_cast<T>(static_cast<compute_t<T>>(value));
}

// With a scalar b is not looked at: the first element of a stands in for it.
Layout compare_layout(const Compare& args) {
  if (args.b != nullptr) return layout_of(args);
  const Strides out_strides = contiguous_strides(args.shape), none = Dims::filled(args.shape.rank(), 0);
  return Layout(args.shape, {&out_strides, &args.a_strides, &none});
}

bool compare_vectorised_supports(const Compare& args) {
  const Layout layout = compare_layout(args);
  const std::int64_t bytes = element_bytes(args.dtype);
  const int width = strided_width(args.dtype);
  return vector_operand(layout, kOut, args.out, 1, width) && vector_operand(layout, kA, args.a, bytes, width) &&
         vector_operand(layout, kB, args.b, bytes, width);
}

template <bool kVectorised>
void compare_run(const Stream& stream, const Compare& args) {
  if (args.shape.numel() == 0) return;
  dispatch_all(args.dtype, "compare", [&]<class T>(std::type_identity<T>) {
    const T* const a = static_cast<const T*>(args.a);
    const bool with_scalar = args.b == nullptr;
    launch_strided_map<kVectorised ? kStridedWidth<T> : 1>(
        stream, "compare", compare_layout(args),
        ApplyCompare<T>{args.op, with_scalar, with_scalar ? rounded<T>(args.scalar) : T{}}, args.out, a,
        with_scalar ? a : static_cast<const T*>(args.b));
  });
}

// --- where ---------------------------------------------------------------------------------------------------------

using WhereLayout = StridedLayout<4>;  // out, condition, a, b

WhereLayout where_layout(const Where& args) {
  const Strides out_strides = contiguous_strides(args.shape);
  return WhereLayout(args.shape, {&out_strides, &args.condition_strides, &args.a_strides, &args.b_strides});
}

struct Choose {
  template <class T>
  WEFT_DEVICE T operator()(bool condition, T a, T b) const {
    return condition ? a : b;
  }
};

bool where_vectorised_supports(const Where& args) {
  const WhereLayout layout = where_layout(args);
  const std::int64_t bytes = element_bytes(args.dtype);
  const int width = strided_width(args.dtype);
  return vector_operand(layout, 0, args.out, bytes, width) && vector_operand(layout, 1, args.condition, 1, width) &&
         vector_operand(layout, 2, args.a, bytes, width) && vector_operand(layout, 3, args.b, bytes, width);
}

// Elements are moved as words of their size, whatever they mean.
template <bool kVectorised>
void where_run(const Stream& stream, const Where& args) {
  if (args.shape.numel() == 0) return;
  const auto run = [&]<class T>(std::type_identity<T>) {
    launch_strided_map<kVectorised ? kStridedWidth<T> : 1>(
        stream, "where", where_layout(args), Choose{}, static_cast<T*>(args.out), args.condition,
        static_cast<const T*>(args.a), static_cast<const T*>(args.b));
  };
  switch (element_bytes(args.dtype)) {
    case 1: return run(std::type_identity<std::uint8_t>{});
    case 2: return run(std::type_identity<std::uint16_t>{});
    case 4: return run(std::type_identity<std::uint32_t>{});
    default: return run(std::type_identity<std::uint64_t>{});
  }
}

// --- one dense operand ---------------------------------------------------------------------------------------------

template <class C>
struct ScaleBy {
  C factor;
  const double* device_factor;
  WEFT_DEVICE void prepare() {
    if (device_factor != nullptr) factor = static_cast<C>(load_one(device_factor));
  }
  WEFT_DEVICE C operator()(C x, C) const { return x * factor; }
};

template <class C>
struct ApplyUnary {
  UnaryOp op;
  C p, q;
  WEFT_DEVICE void prepare() {}
  WEFT_DEVICE C operator()(C x, C) const {
    if (op == UnaryOp::exp) return exponential(x);
    if (op == UnaryOp::log) return logarithm(x);
    if (op == UnaryOp::sqrt) return square_root(x);
    if (op == UnaryOp::rsqrt) return 1 / square_root(x);
    if (op == UnaryOp::abs) return absolute(x);
    if (op == UnaryOp::sigmoid) return 1 / (1 + exponential(-x));
    if (op == UnaryOp::tanh) return hyperbolic_tangent(x);
    if (op == UnaryOp::silu) return x / (1 + exponential(-x));
    if (op == UnaryOp::add_scalar) return x + p;
    if (op == UnaryOp::subtract_from) return p - x;
    if (op == UnaryOp::divide) return p / x;
    if (op == UnaryOp::clamp) {
      const C raised = x < p ? p : x;
      return raised > q ? q : raised;
    }
    if (op == UnaryOp::leaky_relu) return x > 0 ? x : x * p;
    // Φ by erfc, which keeps its digits where 1 + erf would cancel.
    if (op == UnaryOp::gelu) return C(0.5) * x * complementary_error(x * C(-0.70710678118654752440));
    // (1 + tanh(u)) / 2 = 1 / (1 + e^(-2u)), likewise.
    if (op == UnaryOp::gelu_tanh)
      return x / (1 + exponential(C(-1.5957691216057307117) * (x + C(0.044715) * x * x * x)));
    if (op == UnaryOp::softplus) return x * p > q ? x : logarithm_1p(exponential(x * p)) / p;
    return p == 2 ? x * x : power(x, p);
  }
};

template <class C>
struct ReluOf {
  WEFT_DEVICE void prepare() {}
  WEFT_DEVICE C operator()(C x, C) const { return x < 0 ? C(0) : x; }  // NaN stays
};

DenseMap map_of(const Scale& args) {
  return {"scale", args.dtype, args.in, nullptr, args.out, args.count, args.device_factor};
}
DenseMap map_of(const Unary& args) { return {"unary", args.dtype, args.in, nullptr, args.out, args.count}; }
DenseMap map_of(const Relu& args) { return {"relu_forward", args.dtype, args.in, nullptr, args.out, args.count}; }

template <class C>
ScaleBy<C> function_of(const Scale& args) {
  return {static_cast<C>(args.factor), args.device_factor};
}
template <class C>
ApplyUnary<C> function_of(const Unary& args) {
  return {args.op, static_cast<C>(args.p), static_cast<C>(args.q)};
}
template <class C>
ReluOf<C> function_of(const Relu&) {
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

// Functions that cost registers have one vector in flight per thread, and more threads instead.
template <class Args, bool kVectorised>
void map_run(const Stream& stream, const Args& args) {
  launch_dense_map<kVectorised, 1, std::is_same_v<Args, Unary> ? 1 : 4>(
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

std::span<const Variant<Binary>> binary_variants() {
  static constexpr Variant<Binary> kVariants[] = {
      {"vectorised", "16-byte vectors of dense or broadcast operands", vectorised_supports, binary_run<true>},
      {"scalar", "any strides, an element at a time", [](const Binary&) { return true; }, binary_run<false>},
  };
  return kVariants;
}
std::span<const Variant<Compare>> compare_variants() {
  static constexpr Variant<Compare> kVariants[] = {
      {"vectorised", "16-byte vectors of dense or broadcast operands", compare_vectorised_supports, compare_run<true>},
      {"scalar", "any strides, an element at a time", [](const Compare&) { return true; }, compare_run<false>},
  };
  return kVariants;
}
std::span<const Variant<Where>> where_variants() {
  static constexpr Variant<Where> kVariants[] = {
      {"vectorised", "16-byte vectors of dense or broadcast operands", where_vectorised_supports, where_run<true>},
      {"scalar", "any strides, an element at a time", [](const Where&) { return true; }, where_run<false>},
  };
  return kVariants;
}
std::span<const Variant<Scale>> scale_variants() { return map_variants<Scale>(); }
std::span<const Variant<Unary>> unary_variants() { return map_variants<Unary>(); }
std::span<const Variant<Relu>> relu_forward_variants() { return map_variants<Relu>(); }

void binary(const Stream& stream, const Binary& args) { run_variant("binary", binary_variants(), stream, args); }
void compare(const Stream& stream, const Compare& args) { run_variant("compare", compare_variants(), stream, args); }
void where(const Stream& stream, const Where& args) { run_variant("where", where_variants(), stream, args); }
void scale(const Stream& stream, const Scale& args) { run_variant("scale", scale_variants(), stream, args); }
void unary(const Stream& stream, const Unary& args) { run_variant("unary", unary_variants(), stream, args); }
void relu_forward(const Stream& stream, const Relu& args) {
  run_variant("relu", relu_forward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
