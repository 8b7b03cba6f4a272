#pragma once
#include <concepts>

#include "tensor/tensor.h"

namespace weft {

/// Normalises each row of the last axis, then scales and shifts.
///   y[r,c] = (x[r,c] - mean[r]) * rstd[r] * gamma[c] + beta[c],   rstd = 1/sqrt(var + eps), var divided by C
/// Shapes:   x [..., C], C >= 1; gamma [C] or undefined (1); beta [C] or undefined (0) -> y [..., C]. R = product of
///           the leading dims, 0 allowed.
/// Types:    x f32|f16|bf16|f64, gamma and beta alike; statistics and sums in f32 (f64 for f64).
/// Layout:   operands are made contiguous when they are not.
/// Params:   eps > 0, in units of x² (added to the variance).
/// Grad:     dx overwrites; dgamma, dbeta accumulate (+=). Saves x, gamma, mean [R], rstd [R].
///             g = dy * gamma, xhat = (x - mean) * rstd: dx = rstd * (g - mean_c(g) - xhat * mean_c(g * xhat)).
/// Errors:   ShapeError "[layer_norm] gamma must have shape [C]=[768] but has [512]"; DtypeError; DeviceError;
///           OptionError "[layer_norm] eps must be positive but is 0".
/// Cost:     reads R·C, writes R·C elements (+ 8R bytes); memory-bound. Backward reads 2·R·C, writes R·C.
/// Numerics: two-pass variance around a shift, in both directions: the error depends on a row's spread, not on its
///           mean; a constant row gives exactly beta. Bitwise independent of the thread count.
/// Source:   Ba, Kiros, Hinton 2016, arXiv:1607.06450, eq. 3-4.
Tensor layer_norm(const Tensor& x, const Tensor& gamma = {}, const Tensor& beta = {}, double eps = 1e-5);

/// The same from simple operations: the reference that layer_norm is tested against. Rounds at each of them.
Tensor layer_norm_composite(const Tensor& x, const Tensor& gamma = {}, const Tensor& beta = {}, double eps = 1e-5);

namespace detail {
Tensor layer_norm_over(const Tensor& x, const Shape& asked, const Tensor& gamma, const Tensor& beta, double eps);
Tensor layer_norm_composite_over(const Tensor& x, const Shape& asked, const Tensor& gamma, const Tensor& beta,
                                 double eps);
}  // namespace detail

/// Both over all trailing axes that `normalized_shape` names, PyTorch's form: layer_norm(x, Shape{H, W}, gamma, beta).
/// Shapes:   x [..., *normalized_shape], extents >= 1; gamma and beta of that shape, or undefined -> y like x.
/// Errors:   ShapeError "[layer_norm] x must end in normalized_shape [4, 5] but has [2, 4, 6]";
///           ShapeError "[layer_norm] gamma must have shape [4, 5] but has [20]".
template <std::same_as<Shape> S>  // not for {}, which is an absent gamma
Tensor layer_norm(const Tensor& x, const S& normalized_shape, const Tensor& gamma = {}, const Tensor& beta = {},
                  double eps = 1e-5) {
  return detail::layer_norm_over(x, normalized_shape, gamma, beta, eps);
}
/// Its reference.
template <std::same_as<Shape> S>
Tensor layer_norm_composite(const Tensor& x, const S& normalized_shape, const Tensor& gamma = {},
                            const Tensor& beta = {}, double eps = 1e-5) {
  return detail::layer_norm_composite_over(x, normalized_shape, gamma, beta, eps);
}

}  // namespace weft
