#pragma once
// Vectors that one access cannot move: eight floats for the eight halves that 16 bytes hold, say.
#include "kernels/common/device.h"

namespace weft::kernels::WEFT_BACKEND {

/// The elements of T that one access moves when N lie side by side.
template <class T, int N>
inline constexpr int kPiece = N < kVectorWidth<T> ? N : kVectorWidth<T>;

/// from[0, N), which is aligned to the lesser of 16 bytes and N elements.
template <int N, Cache kCache = Cache::normal, class T>
WEFT_DEVICE Vec<T, N> load_wide(const T* from WEFT_SITE) {
  constexpr int kP = kPiece<T, N>;
  Vec<T, N> value;
  WEFT_UNROLL
  for (int q = 0; q < N; q += kP) {
    const Vec<T, kP> piece = load<kP, kCache>(from + q WEFT_PASS_SITE);
    WEFT_UNROLL
    for (int i = 0; i < kP; ++i) value[q + i] = piece[i];
  }
  return value;
}

/// to[0, N) = value.
template <class T, int N>
WEFT_DEVICE void store_wide(T* to, const Vec<T, N>& value WEFT_SITE) {
  constexpr int kP = kPiece<T, N>;
  WEFT_UNROLL
  for (int q = 0; q < N; q += kP) {
    Vec<T, kP> piece;
    WEFT_UNROLL
    for (int i = 0; i < kP; ++i) piece[i] = value[q + i];
    store(to + q, piece WEFT_PASS_SITE);
  }
}

/// Elements [index + q * stride, index + q * stride + piece) for every piece q: with the stride of a whole warp's or
/// block's pieces, neighbouring lanes' pieces lie side by side and meet no bank conflict.
template <int N, class T>
WEFT_DEVICE Vec<T, N> load_shared_wide(Shared<T> from, int index, int stride WEFT_SITE) {
  constexpr int kP = kPiece<T, N>;
  Vec<T, N> value;
  WEFT_UNROLL
  for (int q = 0; q < N / kP; ++q) {
    const Vec<T, kP> piece = load_shared<kP, T>(from, index + q * stride WEFT_PASS_SITE);
    WEFT_UNROLL
    for (int i = 0; i < kP; ++i) value[q * kP + i] = piece[i];
  }
  return value;
}

template <class T, int N>
WEFT_DEVICE void store_shared_wide(Shared<T> to, int index, int stride, const Vec<T, N>& value WEFT_SITE) {
  constexpr int kP = kPiece<T, N>;
  WEFT_UNROLL
  for (int q = 0; q < N / kP; ++q) {
    Vec<T, kP> piece;
    WEFT_UNROLL
    for (int i = 0; i < kP; ++i) piece[i] = value[q * kP + i];
    store_shared<T>(to, index + q * stride, piece WEFT_PASS_SITE);
  }
}

}  // namespace weft::kernels::WEFT_BACKEND
