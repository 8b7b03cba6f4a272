#pragma once
// Loops over registers: an array of vectors stays in registers only when every index is a constant.
#include <type_traits>
#include <utility>

namespace weft::kernels {

/// Calls f(0), f(1), ..., f(N - 1) with the index as a constant expression.
template <int N, class F>
inline void unroll(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) { (f(std::integral_constant<int, I>{}), ...); }
  (std::make_integer_sequence<int, N>{});
}

}  // namespace weft::kernels
