#pragma once
// 64-byte vectors for the CPU kernels, on GCC's and Clang's vector extension: the same sixteen float (eight double) lanes
// on every instruction set, so that a kernel's order of additions does not depend on the machine it was built for.
//   Lanes are loaded from and stored to any storage type; arithmetic is in the compute type (f32, or f64 for f64).
//   Tails use load_tail / store_tail: the same vector code with the missing lanes filled, never a scalar loop.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tensor/dtype.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace weft::simd {

/// A vector of 64 bytes: 16 floats or 8 doubles.
template <class T>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float type __attribute__((vector_size(64)));
  typedef std::int32_t mask __attribute__((vector_size(64)));
};
template <>
struct VecOf<double> {
  typedef double type __attribute__((vector_size(64)));
  typedef std::int64_t mask __attribute__((vector_size(64)));
};
template <class T>
using Vec = typename VecOf<T>::type;
/// What a comparison of two vectors gives: 0 or -1 per lane; `mask ? a : b` selects.
template <class T>
using Mask = typename VecOf<T>::mask;

/// Lanes of a vector of compute type C.
template <class C>
inline constexpr int kLanes = static_cast<int>(64 / sizeof(C));

template <class C>
inline Vec<C> broadcast(C value) {
  return value - Vec<C>{};  // every lane minus 0: keeps -0 and NaN
}

/// kLanes elements of storage type S from any address, converted to the compute type.
template <class S, class C = compute_t<S>>
inline Vec<C> load(const S* from) {
  Vec<C> v;
  if constexpr (std::is_same_v<S, C>) {
    std::memcpy(&v, from, sizeof(v));
  } else if constexpr (std::is_same_v<S, bfloat16>) {
    typedef std::uint16_t Half __attribute__((vector_size(32)));
    typedef std::uint32_t Word __attribute__((vector_size(64)));
    Half half;
    std::memcpy(&half, from, sizeof(half));
    v = std::bit_cast<Vec<float>>(__builtin_convertvector(half, Word) << 16);
  } else {
    for (int i = 0; i < kLanes<C>; ++i) v[i] = static_cast<C>(from[i]);
  }
  return v;
}

template <class S, class C = compute_t<S>>
inline void store(S* to, Vec<C> v) {
  if constexpr (std::is_same_v<S, C>) {
    std::memcpy(to, &v, sizeof(v));
  } else {
    for (int i = 0; i < kLanes<C>; ++i) to[i] = static_cast<S>(v[i]);
  }
}

/// The first `count` lanes, [0, kLanes]; the others are `fill`.
template <class S, class C = compute_t<S>>
inline Vec<C> load_tail(const S* from, std::int64_t count, C fill = C(0)) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>)
    return std::bit_cast<Vec<float>>(
        _mm512_mask_loadu_ps(_mm512_set1_ps(fill), static_cast<__mmask16>((1u << count) - 1u), from));
#endif
  Vec<C> v = broadcast<C>(fill);
  for (std::int64_t i = 0; i < count; ++i) v[i] = static_cast<C>(from[i]);
  return v;
}

template <class S, class C = compute_t<S>>
inline void store_tail(S* to, Vec<C> v, std::int64_t count) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1u), std::bit_cast<__m512>(v));
    return;
  }
#endif
  for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<S>(v[i]);
}

/// Calls body(offset, width) for each vector of [0, count): width == kLanes but for the last one.
template <class C, class F>
inline void for_each_vector(std::int64_t count, F&& body) {
  std::int64_t i = 0;
  for (; i + kLanes<C> <= count; i += kLanes<C>) body(i, std::integral_constant<int, kLanes<C>>{});
  if (i < count) body(i, count - i);
}
/// load or load_tail, by the kind of `width` that for_each_vector passes.
template <class S, class W, class C = compute_t<S>>
inline Vec<C> load_width(const S* from, W width, C fill = C(0)) {
  if constexpr (std::is_same_v<W, std::int64_t>)
    return load_tail<S>(from, width, fill);
  else
    return load<S>(from);
}
template <class S, class C = compute_t<S>, class W>
inline void store_width(S* to, Vec<C> v, W width) {
  if constexpr (std::is_same_v<W, std::int64_t>)
    store_tail<S, C>(to, v, width);
  else
    store<S, C>(to, v);
}
/// v in the first `width` lanes, `fill` in the others: keeps lanes past the end out of a reduction.
template <class C, class W>
inline Vec<C> keep(Vec<C> v, W width, C fill = C(0)) {
  if constexpr (std::is_same_v<W, std::int64_t>) {
    using Lane = std::conditional_t<std::is_same_v<C, float>, std::int32_t, std::int64_t>;
    Mask<C> lane;
    for (int i = 0; i < kLanes<C>; ++i) lane[i] = i;
    return lane < static_cast<Lane>(width) ? v : broadcast<C>(fill);
  } else {
    return v;
  }
}

/// a*b + c with one rounding where the instruction set has it (AVX2 with FMA, AVX-512), else with two.
inline Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
  return std::bit_cast<Vec<float>>(
      _mm512_fmadd_ps(std::bit_cast<__m512>(a), std::bit_cast<__m512>(b), std::bit_cast<__m512>(c)));
#elif defined(__FMA__)
  struct Halves {
    __m256 low, high;
  };
  const auto x = std::bit_cast<Halves>(a), y = std::bit_cast<Halves>(b), z = std::bit_cast<Halves>(c);
  return std::bit_cast<Vec<float>>(
      Halves{_mm256_fmadd_ps(x.low, y.low, z.low), _mm256_fmadd_ps(x.high, y.high, z.high)});
#else
  return a * b + c;
#endif
}
inline Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
  return std::bit_cast<Vec<double>>(
      _mm512_fmadd_pd(std::bit_cast<__m512d>(a), std::bit_cast<__m512d>(b), std::bit_cast<__m512d>(c)));
#elif defined(__FMA__)
  struct Halves {
    __m256d low, high;
  };
  const auto x = std::bit_cast<Halves>(a), y = std::bit_cast<Halves>(b), z = std::bit_cast<Halves>(c);
  return std::bit_cast<Vec<double>>(
      Halves{_mm256_fmadd_pd(x.low, y.low, z.low), _mm256_fmadd_pd(x.high, y.high, z.high)});
#else
  return a * b + c;
#endif
}

inline Vec<float> sqrt(Vec<float> v) {
#if defined(__AVX512F__)
  return std::bit_cast<Vec<float>>(_mm512_maskz_sqrt_ps(0xffff, std::bit_cast<__m512>(v)));
#else
  for (int i = 0; i < kLanes<float>; ++i) v[i] = std::sqrt(v[i]);
  return v;
#endif
}
inline Vec<double> sqrt(Vec<double> v) {
  for (int i = 0; i < kLanes<double>; ++i) v[i] = std::sqrt(v[i]);
  return v;
}

/// a / (sqrt(v) + c) for v >= 0, c >= 0. On AVX-512, f32: the hardware's 14-bit estimates of 1/sqrt and 1/x, each refined by
/// one Newton step, instead of a root and a division, which one core can only start every 32 cycles. At most 4 ulp from the
/// exact value for 2^-100 < sqrt(v) + c < 2^100 (tests/simd_test.cpp); beyond that, and elsewhere, root and division.
inline Vec<float> over_root(Vec<float> a, Vec<float> v, Vec<float> c) {
#if defined(__AVX512F__)
  const auto zmm = [](Vec<float> x) { return std::bit_cast<__m512>(x); };
  const auto vec = [](__m512 x) { return std::bit_cast<Vec<float>>(x); };
  // The smallest normal number in place of 0, whose 1/sqrt would be infinite and times 0 a NaN.
  const Vec<float> safe = vec(_mm512_maskz_max_ps(0xffff, zmm(v), zmm(broadcast(0x1p-126f))));
  Vec<float> inverse = vec(_mm512_maskz_rsqrt14_ps(0xffff, zmm(safe)));
  const Vec<float> root = v * inverse;  // y += y/2 (1 - x y²), with x y the root itself
  const Vec<float> root_error = fma(-root, inverse, broadcast(1.0f));
  const Vec<float> divisor = fma(root * 0.5f, root_error, root) + c;
  inverse = vec(_mm512_maskz_rcp14_ps(0xffff, zmm(divisor)));
  inverse = fma(fma(-divisor, inverse, broadcast(1.0f)), inverse, inverse);
  // The steps above need room in the exponent for x y² and for 1/divisor.
  const Mask<float> in_range = (divisor > 0x1p-100f) & (divisor < 0x1p100f) & ((v == 0.0f) | (v >= 0x1p-126f));
  if (_mm512_movepi32_mask(std::bit_cast<__m512i>(in_range)) == 0xffff) [[likely]]
    return a * inverse;
#endif
  return a / (sqrt(v) + c);
}
inline Vec<double> over_root(Vec<double> a, Vec<double> v, Vec<double> c) { return a / (sqrt(v) + c); }

/// f of every lane: for functions of the C library.
template <class V, class F>
inline V each(V v, F&& f) {
  for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(v[0])); ++i) v[i] = f(v[i]);
  return v;
}

/// Lane-wise maximum; a NaN in either operand gives NaN (std::max and x86's max do not).
template <class C>
inline Vec<C> max(Vec<C> a, Vec<C> b) {
  return ((a > b) | (a != a)) ? a : b;  // b when b is NaN: a > NaN is false
}

namespace detail {
// Combines the lanes as a fixed binary tree: the upper half is folded onto the lower one until one lane is left.
template <class C, int kBytes = 64, class V, class F>
inline C fold(V v, F combine) {
#if defined(__AVX512F__)
  // Swapping halves in the register: g++ sends the general form below through memory. (The forms with a mask of all lanes
  // because g++ 12 warns about the others' undefined operand.)
  const auto bits = [](V x) { return std::bit_cast<__m512>(x); };
  v = combine(v, std::bit_cast<V>(_mm512_maskz_shuffle_f32x4(0xffff, bits(v), bits(v), 0x4e)));
  v = combine(v, std::bit_cast<V>(_mm512_maskz_shuffle_f32x4(0xffff, bits(v), bits(v), 0xb1)));
  v = combine(v, std::bit_cast<V>(_mm512_maskz_permute_ps(0xffff, bits(v), 0x4e)));
  if constexpr (std::is_same_v<C, float>)
    v = combine(v, std::bit_cast<V>(_mm512_maskz_permute_ps(0xffff, bits(v), 0xb1)));
  return v[0];
#else
  if constexpr (kBytes == 2 * sizeof(C)) {
    return combine(v[0], v[1]);
  } else {
    typedef C Half __attribute__((vector_size(kBytes / 2)));
    struct Halves {
      Half low, high;
    };
    const auto halves = std::bit_cast<Halves>(v);
    return fold<C, kBytes / 2>(static_cast<Half>(combine(halves.low, halves.high)), combine);
  }
#endif
}
}  // namespace detail

/// Sum of the lanes as a fixed binary tree (halves folded onto each other).
template <class C>
inline C horizontal_sum(Vec<C> v) {
  return detail::fold<C>(v, [](auto a, auto b) { return a + b; });
}
/// Largest lane; NaN when one is NaN.
template <class C>
inline C horizontal_max(Vec<C> v) {
  return detail::fold<C>(v, [](auto a, auto b) { return ((a > b) | (a != a)) ? a : b; });
}

/// e^x, at most 2 ulp from the correctly rounded value over the whole range (tests/simd_test.cpp); overflows to inf above
/// 88.72, underflows through the subnormals to 0, NaN stays NaN.
///   x = n ln2 + r with |r| <= ln2/2; e^r by a polynomial of degree 6 (minimax coefficients after Cephes, S. Moshier);
///   scaled by 2^n with one rounding, so that the ends of the range neither overflow early nor flush. Lanes that give 0
///   (-inf, lanes past the end of a row) are kept away from the scaling: an underflow costs a hundred cycles.
inline Vec<float> exp(Vec<float> x) {
  using V = Vec<float>;
  const V lowest = broadcast(-104.0f);  // e^-104 is less than half the smallest subnormal
  V clamped = x > broadcast(89.0f) ? broadcast(89.0f) : x;
#if !defined(__AVX512F__)
  clamped = x < lowest ? V{} : clamped;
#endif
  const V magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const V shifted = fma(clamped, broadcast(1.44269504088896341f), magic);
  const V n = shifted - magic;
  V r = fma(n, broadcast(-0.693359375f), clamped);
  r = fma(n, broadcast(2.12194440e-4f), r);
  V p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = fma(p, r * r, r + broadcast(1.0f));
#if defined(__AVX512F__)
  const __mmask16 kept = _mm512_cmp_ps_mask(std::bit_cast<__m512>(x), std::bit_cast<__m512>(lowest), _CMP_NLT_UQ);
  return std::bit_cast<V>(_mm512_maskz_scalef_ps(kept, std::bit_cast<__m512>(p), std::bit_cast<__m512>(n)));
#else
  // In two steps, each exact but for the last.
  using M = Mask<float>;
  const M exponent = std::bit_cast<M>(shifted) - std::bit_cast<M>(magic);
  const M half = exponent >> 1;
  const V first = std::bit_cast<V>((half + 127) << 23), second = std::bit_cast<V>((exponent - half + 127) << 23);
  return x < lowest ? V{} : p * first * second;
#endif
}
inline Vec<double> exp(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

}  // namespace weft::simd
