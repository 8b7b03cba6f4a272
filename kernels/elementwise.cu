// Element-wise operations.
//   Idea:    memory-bound: 16-byte vectors, four in flight per thread. Binary operands are walked by their merged
//            layout, so that dense tensors, rows that share a bias and columns that share a factor are all the same
//            kernel.
//   Mapping: blocks of 256 threads, 1024 vectors (or elements) per block; no shared memory.
//   Needs:   for vectors: 16-byte aligned addresses and, where an operand is broadcast or strided, an innermost extent
//            that is a multiple of the width (a dense tensor may have a rest, which block 0 takes). Otherwise element
//            by element.
//   The operation is looked up in the kernel, the same way for all threads: one kernel per dtype and width.
#include "kernels/elementwise.h"

#include <algorithm>

#include "kernels/common/launch.h"
#include "kernels/common/strided_gpu.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;
constexpr int kPerBlock = kThreads * kUnroll;

// --- binary --------------------------------------------------------------------------------------------------------

using Layout = StridedLayout<3>;  // out, a, b
constexpr int kOut = 0, kA = 1, kB = 2;

Layout layout_of(const Binary& args) {
  const Strides out_strides = contiguous_strides(args.shape);
  return Layout(args.shape, {&out_strides, &args.a_strides, &args.b_strides});
}

template <class C>
WEFT_DEVICE C apply(BinaryOp op, C a, C b) {
  if (op == BinaryOp::add) return a + b;
  if (op == BinaryOp::sub) return a - b;
  if (op == BinaryOp::mul) return a * b;
  if constexpr (std::is_floating_point_v<C>)
    return a / b;
  else
    return 0;  // division of integers is refused before
}

// Unsigned for integers: overflow wraps instead of being undefined.
template <class T>
using binary_compute_t = std::conditional_t<!std::is_integral_v<T>, compute_t<T>,
                                            std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>>;

template <class T>
WEFT_DEVICE T apply_stored(BinaryOp op, T a, T b) {
  using C = binary_compute_t<T>;
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(apply(op, static_cast<C>(a), static_cast<C>(b)));
  else
    return narrow<T>(apply<C>(op, widen(a), widen(b)));
}

template <class T>
struct BinaryOperands {
  const T* a;
  const T* b;
  T* out;
  bool a_splat, b_splat;  // one element of the operand fills the vector
};

template <int kWidth, class T>
WEFT_DEVICE Vec<T, kWidth> load_operand(const T* from, bool splat) {
  if (kWidth == 1 || !splat) return load<kWidth>(from);
  const T value = load_one(from);
  Vec<T, kWidth> values;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) values[i] = value;
  return values;
}

template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kThreads)
    binary_kernel(BinaryOp op, BinaryOperands<T> args, std::uint32_t count, StridedIndex<3> index) {
  const std::uint32_t vectors = count / kWidth;
  const std::uint32_t first = blockIdx.x * kPerBlock + threadIdx.x;
  Vec<T, kWidth> a[kUnroll], b[kUnroll];
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::uint32_t v = first + k * kThreads;
    if (v >= vectors) continue;
    std::int64_t at[3];
    index.offsets(v, at);
    a[k] = load_operand<kWidth>(args.a + at[kA], args.a_splat);
    b[k] = load_operand<kWidth>(args.b + at[kB], args.b_splat);
  }
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::uint32_t v = first + k * kThreads;
    if (v >= vectors) continue;
    Vec<T, kWidth> out;
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) out[i] = apply_stored(op, a[k][i], b[k][i]);
    store(args.out + static_cast<std::int64_t>(v) * kWidth, out);
  }
  // The rest: only where all is one dimension.
  const std::uint32_t rest = vectors * kWidth + threadIdx.x;
  if (kWidth > 1 && blockIdx.x == 0 && rest < count)
    store_one(args.out + rest, apply_stored(op, load_one(args.a + (args.a_splat ? 0 : rest)),
                                            load_one(args.b + (args.b_splat ? 0 : rest))));
}

// Elements per vector: 16 bytes, but no more than 8 elements, which would only cost registers.
template <class T>
constexpr int kBinaryWidth = std::min(kVectorWidth<T>, 8);

// Calls f with the element type; bool is refused before.
template <class F>
void with_type(Dtype dtype, F&& f) {
  dispatch_all(dtype, "binary", [&]<class T>(std::type_identity<T> type) {
    if constexpr (!std::is_same_v<T, bool>) f(type);
  });
}

template <class T, int kWidth>
void binary_piece(const Stream& stream, const Binary& args, const Layout& layout) {
  const BinaryOperands<T> operands{
      .a = static_cast<const T*>(args.a) + layout.starts[kA],
      .b = static_cast<const T*>(args.b) + layout.starts[kB],
      .out = static_cast<T*>(args.out) + layout.starts[kOut],
      .a_splat = layout.strides[kA][0] == 0,
      .b_splat = layout.strides[kB][0] == 0,
  };
  const auto bytes = [&](int n) {
    std::int64_t last = 0;
    for (int d = 0; d < layout.rank; ++d) last += (layout.extents[d] - 1) * layout.strides[n][d];
    return (last + 1) * static_cast<std::int64_t>(sizeof(T));
  };
  const auto kind = [&](int n) { return bytes(n) < bytes(kOut) ? OperandKind::broadcast : OperandKind::streamed; };
  launch(stream,
         {.name = "binary",
          .grid = {std::max<std::int64_t>(ceil_div<std::int64_t>(layout.count / kWidth, kPerBlock), 1)},
          .block = {kThreads},
          .operands = {{"a", operands.a, bytes(kA), kind(kA)},
                       {"b", operands.b, bytes(kB), kind(kB)},
                       {"out", operands.out, bytes(kOut)}}},
         binary_kernel<T, kWidth>, args.op, operands, static_cast<std::uint32_t>(layout.count),
         StridedIndex<3>(layout, kWidth));
}

bool vectorised_supports(const Binary& args) {
  const Layout layout = layout_of(args);
  const int width = std::min(16 / static_cast<int>(element_bytes(args.dtype)), 8);
  const auto operand = [&](int n, const void* address) {
    if (layout.strides[n][0] == 0) return true;
    return layout.is_vectorised(n, address, element_bytes(args.dtype), width);
  };
  // out is dense: where there are outer dimensions, its strides are multiples of the innermost extent.
  return operand(kOut, args.out) && operand(kA, args.a) && operand(kB, args.b);
}

template <bool kVectorised>
void binary_run(const Stream& stream, const Binary& args) {
  if (args.shape.numel() == 0) return;
  with_type(args.dtype, [&]<class T>(std::type_identity<T>) {
    for_each_piece(layout_of(args), [&](const Layout& piece) {
      binary_piece<T, kVectorised ? kBinaryWidth<T> : 1>(stream, args, piece);
    });
  });
}

// --- one or two dense operands -------------------------------------------------------------------------------------

// out[i] = f(a[i], b[i]) in compute type; b is not read unless kInputs is 2. f.prepare() runs once per thread.
template <class T, int kWidth, int kInputs, class F>
WEFT_KERNEL __launch_bounds__(kThreads) map_kernel(const T* a, const T* b, T* out, std::int64_t count, F f) {
  f.prepare();
  const std::int64_t vectors = count / kWidth;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kPerBlock + threadIdx.x;
  Vec<T, kWidth> x[kUnroll], y[kUnroll];
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::int64_t v = first + k * kThreads;
    if (v >= vectors) continue;
    x[k] = load<kWidth>(a + v * kWidth);
    if constexpr (kInputs == 2)
      y[k] = load<kWidth>(b + v * kWidth);
    else
      y[k] = x[k];
  }
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::int64_t v = first + k * kThreads;
    if (v >= vectors) continue;
    Vec<T, kWidth> result;
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) result[i] = narrow<T>(f(widen(x[k][i]), widen(y[k][i])));
    store(out + v * kWidth, result);
  }
  const std::int64_t rest = vectors * kWidth + threadIdx.x;
  if (kWidth > 1 && blockIdx.x == 0 && rest < count) {
    const compute_t<T> value = widen(load_one(a + rest));
    store_one(out + rest, narrow<T>(f(value, kInputs == 2 ? widen(load_one(b + rest)) : value)));
  }
}

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
  WEFT_DEVICE void prepare() {}
  WEFT_DEVICE C operator()(C x, C) const {
    if (op == UnaryOp::exp) return exponential(x);
    if (op == UnaryOp::log) return logarithm(x);
    return 1 / square_root(x);
  }
};

template <class C>
struct ReluOf {
  WEFT_DEVICE void prepare() {}
  WEFT_DEVICE C operator()(C x, C) const { return x < 0 ? C(0) : x; }  // NaN stays
};

template <class C>
struct ReluGradient {
  WEFT_DEVICE void prepare() {}
  WEFT_DEVICE C operator()(C dy, C y) const { return y > 0 ? dy : C(0); }
};

// The operands of a map, whatever op it is.
struct Map {
  const char* name;
  Dtype dtype;
  const void* a;
  const void* b;  // null when there is one input
  void* out;
  std::int64_t count;
  const double* device_factor = nullptr;
};
Map map_of(const Scale& args) {
  return {"scale", args.dtype, args.in, nullptr, args.out, args.count, args.device_factor};
}
Map map_of(const Unary& args) { return {"unary", args.dtype, args.in, nullptr, args.out, args.count}; }
Map map_of(const Relu& args) { return {"relu_forward", args.dtype, args.in, nullptr, args.out, args.count}; }
Map map_of(const ReluBackward& args) { return {"relu_backward", args.dtype, args.dy, args.y, args.dx, args.count}; }

template <class C>
ScaleBy<C> function_of(const Scale& args) {
  return {static_cast<C>(args.factor), args.device_factor};
}
template <class C>
ApplyUnary<C> function_of(const Unary& args) {
  return {args.op};
}
template <class C>
ReluOf<C> function_of(const Relu&) {
  return {};
}
template <class C>
ReluGradient<C> function_of(const ReluBackward&) {
  return {};
}

template <class Args>
bool map_vectorised_supports(const Args& args) {
  const Map map = map_of(args);
  return is_aligned(map.a, 16) && is_aligned(map.b, 16) && is_aligned(map.out, 16);
}

template <class Args>
bool map_scalar_supports(const Args&) {
  return true;
}

template <class Args, bool kVectorised>
void map_run(const Stream& stream, const Args& args) {
  constexpr int kInputs = std::is_same_v<Args, ReluBackward> ? 2 : 1;
  const Map map = map_of(args);
  if (map.count == 0) return;
  dispatch_float(map.dtype, map.name, [&]<class T>(std::type_identity<T>) {
    constexpr int kWidth = kVectorised ? kVectorWidth<T> : 1;
    const std::int64_t bytes = map.count * static_cast<std::int64_t>(sizeof(T));
    const auto function = function_of<compute_t<T>>(args);
    launch(stream,
           {.name = map.name,
            .grid = {std::max<std::int64_t>(ceil_div<std::int64_t>(map.count / kWidth, kPerBlock), 1)},
            .block = {kThreads},
            .operands = {{"a", map.a, bytes},
                         {"b", map.b, map.b != nullptr ? bytes : 0},
                         {"out", map.out, bytes},
                         {"factor", map.device_factor, map.device_factor != nullptr ? 8 : 0, OperandKind::broadcast}}},
           map_kernel<T, kWidth, kInputs, std::remove_const_t<decltype(function)>>, static_cast<const T*>(map.a),
           static_cast<const T*>(map.b), static_cast<T*>(map.out), map.count, function);
  });
}

template <class Args>
std::span<const Variant<Args>> map_variants() {
  static constexpr Variant<Args> kVariants[] = {
      {"vectorised", "16-byte vectors, four per thread", map_vectorised_supports<Args>, map_run<Args, true>},
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
std::span<const Variant<Scale>> scale_variants() { return map_variants<Scale>(); }
std::span<const Variant<Unary>> unary_variants() { return map_variants<Unary>(); }
std::span<const Variant<Relu>> relu_forward_variants() { return map_variants<Relu>(); }
std::span<const Variant<ReluBackward>> relu_backward_variants() { return map_variants<ReluBackward>(); }

void binary(const Stream& stream, const Binary& args) { run_variant("binary", binary_variants(), stream, args); }
void scale(const Stream& stream, const Scale& args) { run_variant("scale", scale_variants(), stream, args); }
void unary(const Stream& stream, const Unary& args) { run_variant("unary", unary_variants(), stream, args); }
void relu_forward(const Stream& stream, const Relu& args) {
  run_variant("relu", relu_forward_variants(), stream, args);
}
void relu_backward(const Stream& stream, const ReluBackward& args) {
  run_variant("relu", relu_backward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
