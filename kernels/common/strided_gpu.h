#pragma once
// Walking strided operands of one shape on a GPU: merged dimensions, 32-bit indices, and divisions by multiplication.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "kernels/common/device.h"
#include "tensor/shape.h"

namespace weft::kernels::WEFT_BACKEND {

/// The dimensions of N operands over one shape, innermost first, ordered by the strides of operand 0 and merged where
/// every operand allows it: a dense tensor of any rank is one dimension.
template <int N>
struct StridedLayout {
  int rank = 0;  // at least 1 once made
  std::int64_t count = 1;
  std::int64_t extents[Dims::kMaxRank] = {};
  std::int64_t strides[N][Dims::kMaxRank] = {};  // in elements
  std::int64_t starts[N] = {};                   // where the operands begin, in elements: 0 but for pieces

  StridedLayout(const Shape& shape, const Strides* const (&of)[N]) {
    int order[Dims::kMaxRank], dims = 0;
    for (int d = shape.rank() - 1; d >= 0; --d)
      if (shape[d] != 1) order[dims++] = d;
    std::stable_sort(order, order + dims,
                     [&](int a, int b) { return std::llabs((*of[0])[a]) < std::llabs((*of[0])[b]); });
    for (int i = 0; i < dims; ++i) {
      const int d = order[i];
      bool merges = rank > 0;
      for (int n = 0; merges && n < N; ++n) merges = (*of[n])[d] == strides[n][rank - 1] * extents[rank - 1];
      if (!merges) {
        extents[rank] = 1;
        for (int n = 0; n < N; ++n) strides[n][rank] = (*of[n])[d];
        ++rank;
      }
      extents[rank - 1] *= shape[d];
      count *= shape[d];
    }
    if (rank > 0) return;
    rank = 1;  // a single element is a dense one
    extents[0] = 1;
    for (int n = 0; n < N; ++n) strides[n][0] = 1;
  }

  /// Whether operand n, at this address, is read or written in vectors of `width` elements along the innermost
  /// dimension. (That dimension's extent is the caller's to judge: a dense operand may have a rest.)
  bool is_vectorised(int n, const void* address, std::int64_t element_bytes, int width) const {
    if (strides[n][0] != 1 || reinterpret_cast<std::uintptr_t>(address) % (element_bytes * width) != 0) return false;
    for (int d = 1; d < rank; ++d)
      if (strides[n][d] % width != 0) return false;
    return true;
  }
};

/// Indices are 32 bits wide within a launch; what is larger is launched in pieces of at most this many elements.
inline constexpr std::int64_t kMostPerLaunch = std::int64_t{1} << 30;

/// Calls f(piece) for pieces of at most `most` elements (a multiple of 64) that make up the layout, in order. Pieces
/// begin at a multiple of 16 elements along the innermost dimension, so that vectors stay aligned.
template <int N, class F>
void for_each_piece(const StridedLayout<N>& layout, F&& f, std::int64_t most = kMostPerLaunch) {
  if (layout.count <= most) return f(layout);
  const int d = layout.rank - 1;
  const std::int64_t extent = layout.extents[d], half = ceil_div<std::int64_t>(extent, 2);
  const std::int64_t first = d == 0 ? ceil_div<std::int64_t>(half, 16) * 16 : half;
  for (const bool second : {false, true}) {
    StridedLayout<N> piece = layout;
    piece.extents[d] = second ? extent - first : first;
    piece.count = layout.count / extent * piece.extents[d];
    for (int n = 0; second && n < N; ++n) piece.starts[n] += first * layout.strides[n][d];
    if (d > 0 && piece.extents[d] == 1) --piece.rank;
    for_each_piece(piece, f, most);
  }
}

/// n / value for n < 2^31 by a multiplication (Granlund and Montgomery 1994, figure 4.1).
struct Divisor {
  std::uint32_t value = 1, multiplier = 1, shift = 0;

  Divisor() = default;
  explicit Divisor(std::int64_t divisor) : value(static_cast<std::uint32_t>(divisor)) {
    while ((std::uint64_t{1} << shift) < value) ++shift;
    multiplier = static_cast<std::uint32_t>((((std::uint64_t{1} << shift) - value) << 32) / value + 1);
  }
  WEFT_DEVICE std::uint32_t quotient(std::uint32_t n) const {
    const auto high = static_cast<std::uint32_t>((static_cast<std::uint64_t>(n) * multiplier) >> 32);
    return (high + n) >> shift;
  }
};

/// The part of a StridedLayout that a kernel needs to find its operands. Passed by value.
template <int N>
struct StridedIndex {
  int rank = 1;
  Divisor extents[Dims::kMaxRank];               // innermost first; the outermost is never divided by
  std::int64_t strides[N][Dims::kMaxRank] = {};  // in elements

  StridedIndex() = default;
  /// Indices count vectors of `width` elements along the innermost dimension.
  StridedIndex(const StridedLayout<N>& layout, int width) : rank(layout.rank) {
    for (int d = 0; d < rank; ++d) {
      extents[d] = Divisor(d == 0 ? std::max<std::int64_t>(layout.extents[0] / width, 1) : layout.extents[d]);
      for (int n = 0; n < N; ++n) strides[n][d] = layout.strides[n][d] * (d == 0 ? width : 1);
    }
  }

  /// Where element (or vector) `index` of each operand is.
  WEFT_DEVICE void offsets(std::uint32_t index, std::int64_t (&at)[N]) const {
    WEFT_UNROLL
    for (int n = 0; n < N; ++n) at[n] = 0;
    WEFT_UNROLL
    for (int d = 0; d < Dims::kMaxRank; ++d) {
      const bool outermost = d == rank - 1;
      const std::uint32_t rest = outermost ? 0 : extents[d].quotient(index);
      const std::uint32_t position = index - rest * extents[d].value;
      WEFT_UNROLL
      for (int n = 0; n < N; ++n) at[n] += static_cast<std::int64_t>(position) * strides[n][d];
      if (outermost) break;
      index = rest;
    }
  }
};

}  // namespace weft::kernels::WEFT_BACKEND
