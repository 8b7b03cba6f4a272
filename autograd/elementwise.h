#pragma once
// Element-wise arithmetic with broadcasting (NumPy's rule) and type promotion (tensor/dtype.h).
#include "tensor/tensor.h"

namespace weft {

/// a + b, a - b and a * b.
Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
/// a / b; integers are divided as f32 (i64: f32 too, as in PyTorch). Division by zero follows IEEE 754.
Tensor div(const Tensor& a, const Tensor& b);
/// x * factor, in x's dtype (an integer x is multiplied as f32).
Tensor scale(const Tensor& x, double factor);
/// max(x, 0); NaN stays NaN; the gradient at 0 is 0.
Tensor relu(const Tensor& x);

/// add, sub, mul, div and scale as operators.
inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator*(const Tensor& x, double factor) { return scale(x, factor); }
inline Tensor operator*(double factor, const Tensor& x) { return scale(x, factor); }
inline Tensor operator/(const Tensor& x, double divisor) { return scale(x, 1.0 / divisor); }
inline Tensor operator-(const Tensor& x) { return scale(x, -1.0); }

}  // namespace weft
