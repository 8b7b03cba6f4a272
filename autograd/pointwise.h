#pragma once
// Element-wise functions as plain loops. The composite references are made of them; a hot path wants a fused operation.
#include "tensor/tensor.h"

namespace weft {

/// e^x, ln x and 1/sqrt(x), element-wise, of any shape.
/// Types:  floats; computed in f32 (f64 for f64), rounded to x's dtype. Outside of a function's domain: IEEE 754's inf
///         or NaN.
/// Grad:   e^x; 1/x; -rstd^3/2. Errors: DtypeError "[exp] needs f64, f32, f16 or bf16 but has i64".
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor rsqrt(const Tensor& x);

}  // namespace weft
