#pragma once
#include <concepts>
#include <optional>

#include "tensor/tensor.h"

namespace weft {

/// Divides each row of the last axis by its root mean square, then scales.
///   y[r,c] = x[r,c] * rrms[r] * gamma[c],   rrms = 1/sqrt(mean_c(x²) + eps)
/// Shapes:   x [..., C], C >= 1; gamma [C] or undefined (1) -> y [..., C]. R = product of the leading dims, 0 allowed.
/// Types:    x f32|f16|bf16|f64, gamma alike; sums in f32 (f64 for f64).
/// Layout:   operands are made contiguous when they are not.
/// Params:   eps > 0, in units of x²; none: the machine epsilon of x's dtype (2^-23 for f32, 2^-10 f16, 2^-7 bf16, 2^-52
///           f64), as PyTorch's.
/// Grad:     dx overwrites; dgamma accumulates (+=). Saves x, gamma, rrms [R].
///             g = dy * gamma, xhat = x * rrms: dx = rrms * (g - xhat * mean_c(g * xhat)).
/// Errors:   ShapeError "[rms_norm] gamma must have shape [C]=[768] but has [512]"; DtypeError; DeviceError;
///           OptionError "[rms_norm] eps must be positive but is 0".
/// Cost:     reads R·C, writes R·C elements (+ 4R bytes); memory-bound. Backward reads 2·R·C, writes R·C.
/// Numerics: a row whose squares overflow (f32: |x| > 1.8e19) or that holds an infinity has rrms = 0: its finite
///           elements give 0, infinite ones NaN. A NaN stays in its row. Bitwise independent of the thread count.
/// Source:   Zhang, Sennrich 2019, arXiv:1910.07467, eq. 4.
Tensor rms_norm(const Tensor& x, const Tensor& gamma = {}, std::optional<double> eps = {});

namespace detail {
Tensor rms_norm_over(const Tensor& x, const Shape& asked, const Tensor& gamma, std::optional<double> eps_);
}

/// The same over all trailing axes that `normalized_shape` names: rms_norm(x, Shape{H, W}, gamma).
/// Shapes:   x [..., *normalized_shape], extents >= 1; gamma of that shape, or undefined -> y like x.
/// Errors:   ShapeError "[rms_norm] x must end in normalized_shape [4, 5] but has [2, 4, 6]".
template <std::same_as<Shape> S>  // not for {}, which is an absent gamma
Tensor rms_norm(const Tensor& x, const S& normalized_shape, const Tensor& gamma = {}, std::optional<double> eps = {}) {
  return detail::rms_norm_over(x, normalized_shape, gamma, eps);
}

/// The same from simple operations, in either form: the reference that rms_norm is tested against. Rounds at each of
/// them.
Tensor rms_norm_composite(const Tensor& x, const Shape& normalized_shape, const Tensor& gamma = {},
                          std::optional<double> eps = {});

}  // namespace weft
