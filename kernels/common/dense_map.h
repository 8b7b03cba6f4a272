#pragma once
// out[i] = f(a[i], b[i]) for one or two dense inputs.
//   Idea:    memory-bound: 16-byte vectors, so many in flight per thread as registers allow.
//   Mapping: blocks of 256 threads, kUnroll vectors (or elements) per thread; no shared memory.
//   Needs:   for vectors: 16-byte aligned addresses; block 0 takes the rest. Otherwise element by element.
#include <algorithm>

#include "kernels/common/launch.h"
#include "kernels/common/variant.h"

namespace weft::kernels::WEFT_BACKEND {

inline constexpr int kDenseThreads = 256;

// In compute type; b is not read unless kInputs is 2. f.prepare() runs once per thread.
template <class T, int kWidth, int kInputs, int kUnroll, class F>
WEFT_KERNEL __launch_bounds__(kDenseThreads) map_kernel(const T* a, const T* b, T* out, std::int64_t count, F f) {
  f.prepare();
  const std::int64_t vectors = count / kWidth;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kDenseThreads * kUnroll) + threadIdx.x;
  Vec<T, kWidth> x[kUnroll], y[kUnroll];
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::int64_t v = first + k * kDenseThreads;
    if (v >= vectors) continue;
    x[k] = load<kWidth>(a + v * kWidth);
    if constexpr (kInputs == 2)
      y[k] = load<kWidth>(b + v * kWidth);
    else
      y[k] = x[k];
  }
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::int64_t v = first + k * kDenseThreads;
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

/// The operands of a map, whatever op it is.
struct DenseMap {
  const char* name;
  Dtype dtype;
  const void* a;
  const void* b;  // null when there is one input
  void* out;
  std::int64_t count;
  const double* device_factor = nullptr;
};

/// Starts the kernel with function_of(type) -> F for the element type. kUnroll: vectors in flight per thread.
template <bool kVectorised, int kInputs, int kUnroll, class Make>
void launch_dense_map(const Stream& stream, const DenseMap& map, Make&& function_of) {
  if (map.count == 0) return;
  dispatch_float(map.dtype, map.name, [&]<class T>(std::type_identity<T>) {
    constexpr int kWidth = kVectorised ? kVectorWidth<T> : 1;
    const std::int64_t bytes = map.count * static_cast<std::int64_t>(sizeof(T));
    const auto function = function_of(std::type_identity<compute_t<T>>{});
    launch(stream,
           {.name = map.name,
            .grid = {std::max<std::int64_t>(ceil_div<std::int64_t>(map.count / kWidth, kDenseThreads * kUnroll), 1)},
            .block = {kDenseThreads},
            .operands = {{"a", map.a, bytes},
                         {"b", map.b, map.b != nullptr ? bytes : 0},
                         {"out", map.out, bytes},
                         {"factor", map.device_factor, map.device_factor != nullptr ? 8 : 0, OperandKind::broadcast}}},
           map_kernel<T, kWidth, kInputs, kUnroll, std::remove_const_t<decltype(function)>>,
           static_cast<const T*>(map.a), static_cast<const T*>(map.b), static_cast<T*>(map.out), map.count, function);
  });
}

inline bool is_vectorised(const DenseMap& map) {
  return is_aligned(map.a, 16) && is_aligned(map.b, 16) && is_aligned(map.out, 16);
}

}  // namespace weft::kernels::WEFT_BACKEND
