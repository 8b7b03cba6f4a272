#pragma once
// Element types, the two 16-bit storage floats, dispatch from a run-time dtype to a C++ type, and the promotion table.
#include <bit>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "tensor/error.h"

namespace weft {

/// The type of an element.
enum class Dtype : std::uint8_t { f64, f32, f16, bf16, i64, i32, u8, boolean };

/// IEEE 754 binary16 as storage: 2 bytes, converted to and from float with round to nearest even; NaN stays NaN.
/// Arithmetic is done in float by the code that loads it.
struct float16 {
  std::uint16_t bits = 0;

  float16() = default;
  explicit float16(float value) : bits(encode(value)) {}
  explicit operator float() const { return decode(bits); }

 private:
  static std::uint16_t encode(float value);
  static float decode(std::uint16_t bits);
};

/// The upper half of a float32 as storage: 2 bytes, round to nearest even, NaN stays NaN (quieted).
struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  explicit bfloat16(float value) : bits(encode(value)) {}
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

 private:
  static std::uint16_t encode(float value) {
    const auto raw = std::bit_cast<std::uint32_t>(value);
    if ((raw & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((raw >> 16) | 0x0040u);  // keep NaN a NaN
    return static_cast<std::uint16_t>((raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16);
  }
};

inline std::uint16_t float16::encode(float value) {
  const auto raw = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((raw >> 16) & 0x8000u);
  const std::uint32_t magnitude = raw & 0x7fffffffu;
  if (magnitude > 0x7f800000u)  // NaN: keep the top payload bits, force it quiet
    return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x03ffu));
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // rounds to infinity from 65520 up
  if (magnitude <
      0x38800000u) {  // below 2^-14: subnormal, aligned by adding 0.5 (whose ulp is the smallest half, 2^-24)
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(aligned) - 0x3f000000u));
  }
  const std::uint32_t rounded = magnitude + 0x0fffu + ((magnitude >> 13) & 1u);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

inline float float16::decode(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x03ffu) << 13));
  if (magnitude >= 0x0400u) return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
  const float value = static_cast<float>(magnitude) * 0x1p-24f;  // subnormal: exact
  return sign != 0 ? -value : value;
}

static_assert(sizeof(float16) == 2 && sizeof(bfloat16) == 2);

/// Size of one element in bytes.
constexpr std::int64_t element_bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
    case Dtype::i64: return 8;
    case Dtype::f32:
    case Dtype::i32: return 4;
    case Dtype::f16:
    case Dtype::bf16: return 2;
    case Dtype::u8:
    case Dtype::boolean: return 1;
  }
  return 0;
}

/// "f32" and the like.
constexpr std::string_view to_string(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64: return "f64";
    case Dtype::f32: return "f32";
    case Dtype::f16: return "f16";
    case Dtype::bf16: return "bf16";
    case Dtype::i64: return "i64";
    case Dtype::i32: return "i32";
    case Dtype::u8: return "u8";
    case Dtype::boolean: return "bool";
  }
  return "?";
}

/// Whether it is a float of any width.
constexpr bool is_floating(Dtype dtype) {
  return dtype == Dtype::f64 || dtype == Dtype::f32 || dtype == Dtype::f16 || dtype == Dtype::bf16;
}

template <class T>
struct DtypeOf;
template <>
struct DtypeOf<double> : std::integral_constant<Dtype, Dtype::f64> {};
template <>
struct DtypeOf<float> : std::integral_constant<Dtype, Dtype::f32> {};
template <>
struct DtypeOf<float16> : std::integral_constant<Dtype, Dtype::f16> {};
template <>
struct DtypeOf<bfloat16> : std::integral_constant<Dtype, Dtype::bf16> {};
template <>
struct DtypeOf<std::int64_t> : std::integral_constant<Dtype, Dtype::i64> {};
template <>
struct DtypeOf<std::int32_t> : std::integral_constant<Dtype, Dtype::i32> {};
template <>
struct DtypeOf<std::uint8_t> : std::integral_constant<Dtype, Dtype::u8> {};
template <>
struct DtypeOf<bool> : std::integral_constant<Dtype, Dtype::boolean> {};

/// The Dtype of the C++ type T.
template <class T>
inline constexpr Dtype dtype_of = DtypeOf<T>::value;

/// The type that kernels compute in for a storage type: double for double, float for the other floats.
template <class T>
using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// Calls f(std::type_identity<T>{}) with the C++ type of a floating dtype; `op` names the caller in the error.
template <class F>
decltype(auto) dispatch_float(Dtype dtype, std::string_view op, F&& f) {
  switch (dtype) {
    case Dtype::f64: return f(std::type_identity<double>{});
    case Dtype::f32: return f(std::type_identity<float>{});
    case Dtype::f16: return f(std::type_identity<float16>{});
    case Dtype::bf16: return f(std::type_identity<bfloat16>{});
    default: fail<DtypeError>(op, "needs f64, f32, f16 or bf16 but has {}", to_string(dtype));
  }
}

/// Calls f(std::type_identity<T>{}) with the C++ type of any dtype.
template <class F>
decltype(auto) dispatch_all(Dtype dtype, std::string_view op, F&& f) {
  switch (dtype) {
    case Dtype::i64: return f(std::type_identity<std::int64_t>{});
    case Dtype::i32: return f(std::type_identity<std::int32_t>{});
    case Dtype::u8: return f(std::type_identity<std::uint8_t>{});
    case Dtype::boolean: return f(std::type_identity<bool>{});
    default: return dispatch_float(dtype, op, std::forward<F>(f));
  }
}

/// The dtype of a binary operation's result, PyTorch's rule for tensors: a float wins over an integer, the wider float
/// over the narrower, f16 with bf16 gives f32; among integers the wider wins and bool is the narrowest.
constexpr Dtype promote(Dtype a, Dtype b) {
  if (a == b) return a;
  if (is_floating(a) != is_floating(b)) return is_floating(a) ? a : b;
  if (is_floating(a)) {
    if (a == Dtype::f64 || b == Dtype::f64) return Dtype::f64;
    return Dtype::f32;  // f32 with a 16-bit float, or f16 with bf16
  }
  for (Dtype wide : {Dtype::i64, Dtype::i32, Dtype::u8})
    if (a == wide || b == wide) return wide;
  return Dtype::boolean;
}

}  // namespace weft
