#pragma once
// The one conversion between element types, on the host; kernels/copy.cu repeats it for the device.
#include <limits>
#include <type_traits>

#include "tensor/dtype.h"

namespace weft::kernels {

/// float -> integer truncates toward zero and saturates, NaN gives 0; anything -> bool is x != 0; bool -> number 0 or
/// 1; to the 16-bit floats through f32.
template <class To, class From>
inline To convert(From value) {
  constexpr bool from_half = std::is_same_v<From, float16> || std::is_same_v<From, bfloat16>;
  constexpr bool to_half = std::is_same_v<To, float16> || std::is_same_v<To, bfloat16>;
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (from_half) {
    return convert<To>(static_cast<float>(value));
  } else if constexpr (to_half) {
    return To(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, bool>) {
    return value != From(0);
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    if (value != value) return To(0);
    // The bounds as floats: the upper one may round up to one past the largest integer, hence >=.
    if (value <= static_cast<From>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    if (value >= static_cast<From>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return static_cast<To>(value);
  } else {
    return static_cast<To>(value);
  }
}

}  // namespace weft::kernels
