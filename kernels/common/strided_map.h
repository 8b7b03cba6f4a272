#pragma once
// out = f(inputs...) for strided or broadcast inputs of one shape and a dense result.
//   Idea:    memory-bound: 16-byte vectors, four in flight per thread. Operands are walked by their merged layout, so that
//            dense tensors, rows that share a bias and columns that share a factor are all the same kernel.
//   Mapping: blocks of 256 threads, 1024 vectors (or elements) per block; no shared memory.
//   Needs:   for vectors: aligned addresses and, where an operand is broadcast or strided, an innermost extent that is a
//            multiple of the width (a dense tensor may have a rest, which block 0 takes). Otherwise element by element.
#include <algorithm>
#include <utility>

#include "kernels/common/launch.h"
#include "kernels/common/strided_gpu.h"

namespace weft::kernels::WEFT_BACKEND {

inline constexpr int kMapThreads = 256;
inline constexpr int kMapUnroll = 4;

/// One input: where it is, and whether one element of it fills the vector.
template <class T>
struct StridedInput {
  const T* at;
  bool splat;
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

/// Two or three inputs; c is not read where C is void's stand-in, NoInput.
struct NoInput {};

template <int kWidth, int kUnroll, class Out, class F, class A, class B, class C>
WEFT_KERNEL __launch_bounds__(kMapThreads)
    strided_map_kernel(F f, Out* out, StridedInput<A> a, StridedInput<B> b, StridedInput<C> c, std::uint32_t count,
                       StridedIndex<std::is_same_v<C, NoInput> ? 3 : 4> index) {
  constexpr bool kThree = !std::is_same_v<C, NoInput>;
  const std::uint32_t vectors = count / kWidth;
  const std::uint32_t first = blockIdx.x * (kMapThreads * kUnroll) + threadIdx.x;
  Vec<A, kWidth> x[kUnroll];
  Vec<B, kWidth> y[kUnroll];
  Vec<C, kThree ? kWidth : 1> z[kUnroll];
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::uint32_t v = first + k * kMapThreads;
    if (v >= vectors) continue;
    std::int64_t at[kThree ? 4 : 3];
    index.offsets(v, at);
    x[k] = load_operand<kWidth>(a.at + at[1], a.splat);
    y[k] = load_operand<kWidth>(b.at + at[2], b.splat);
    if constexpr (kThree) z[k] = load_operand<kWidth>(c.at + at[3], c.splat);
  }
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::uint32_t v = first + k * kMapThreads;
    if (v >= vectors) continue;
    Vec<Out, kWidth> result;
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) {
      if constexpr (kThree)
        result[i] = f(x[k][i], y[k][i], z[k][i]);
      else
        result[i] = f(x[k][i], y[k][i]);
    }
    store(out + static_cast<std::int64_t>(v) * kWidth, result);
  }
  // The rest: only where all is one dimension.
  const std::uint32_t rest = vectors * kWidth + threadIdx.x;
  if (kWidth > 1 && blockIdx.x == 0 && rest < count) {
    const A last_a = load_one(a.at + (a.splat ? 0 : rest));
    const B last_b = load_one(b.at + (b.splat ? 0 : rest));
    if constexpr (kThree)
      store_one(out + rest, static_cast<Out>(f(last_a, last_b, load_one(c.at + (c.splat ? 0 : rest)))));
    else
      store_one(out + rest, static_cast<Out>(f(last_a, last_b)));
  }
}

/// Starts the kernel on a layout of {out, a, b} or {out, a, b, c}, in as many launches as 32-bit indices need.
template <int kWidth, int kUnroll = kMapUnroll, int N, class Out, class F, class A, class B, class C = NoInput>
void launch_strided_map(const Stream& stream, const char* name, const StridedLayout<N>& layout, F f, Out* out,
                        const A* a, const B* b, const C* c = nullptr) {
  static_assert(N == (std::is_same_v<C, NoInput> ? 3 : 4));
  for_each_piece(layout, [&](const StridedLayout<N>& piece) {
    const auto input = [&]<class T>(const T* from, int n) {
      return StridedInput<T>{from == nullptr ? nullptr : from + piece.starts[n], piece.strides[n][0] == 0};
    };
    const auto elements = [&](int n) {
      std::int64_t last = 0;
      for (int d = 0; d < piece.rank; ++d) last += (piece.extents[d] - 1) * piece.strides[n][d];
      return last + 1;
    };
    const auto kind = [&](int n) { return elements(n) < elements(0) ? OperandKind::broadcast : OperandKind::streamed; };
    const auto bytes = [&]<class T>(const T*, int n) { return elements(n) * static_cast<std::int64_t>(sizeof(T)); };
    const StridedInput<A> at_a = input(a, 1);
    const StridedInput<B> at_b = input(b, 2);
    StridedInput<C> at_c{nullptr, false};
    if constexpr (N == 4) at_c = input(c, 3);
    Out* const at_out = out + piece.starts[0];
    launch(stream,
           {.name = name,
            .grid = {std::max<std::int64_t>(ceil_div<std::int64_t>(piece.count / kWidth, kMapThreads * kUnroll), 1)},
            .block = {kMapThreads},
            .operands = {{"a", at_a.at, bytes(a, 1), kind(1)},
                         {"b", at_b.at, bytes(b, 2), kind(2)},
                         {"c", at_c.at, N == 4 ? bytes(c, N - 1) : 0, kind(N - 1)},
                         {"out", at_out, bytes(out, 0)}}},
           strided_map_kernel<kWidth, kUnroll, Out, F, A, B, C>, f, at_out, at_a, at_b, at_c,
           static_cast<std::uint32_t>(piece.count), StridedIndex<N>(piece, kWidth));
  });
}

/// Whether operand n, whose elements have so many bytes, may be read or written in vectors of `width` elements.
template <int N>
bool vector_operand(const StridedLayout<N>& layout, int n, const void* address, std::int64_t element_bytes, int width) {
  if (layout.strides[n][0] == 0) return true;
  return layout.is_vectorised(n, address, element_bytes, width);
}

}  // namespace weft::kernels::WEFT_BACKEND
