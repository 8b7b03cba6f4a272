#pragma once
// Element-wise operations: arithmetic, comparisons and selection with broadcasting (NumPy's rule) and type promotion
// (tensor/dtype.h), and functions of one tensor.
#include "tensor/tensor.h"

namespace weft {

/// a + b, a - b, a * b, a / b.
/// Shapes:   a and b broadcast to the result's shape.
/// Types:    promoted; integers wrap, and are divided as f32 (i64: f32 too, as in PyTorch); bool counts as i64. Division
///           by zero follows IEEE 754. Computed in f32 (f64 for f64), rounded once.
/// Layout:   any strides; the result is contiguous.
/// Grad:     dy; -dy; dy b and dy a; dy / b and -dy a / b²: summed to each operand's shape. mul and div save a and b.
/// Errors:   ShapeError "[add] shapes [2, 3] and [4] do not broadcast: dimension 1 is 3 against 4"; DeviceError.
/// Cost:     reads both, writes the result once; memory-bound. One launch per gradient.
Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, const Tensor& b);

/// The smaller and the larger of a and b; NaN where either is NaN.
/// Shapes, types, layout, errors, cost: as add; integers in their own order.
/// Grad:     to the operand that was chosen; half to each where they are equal; to both where either is NaN (as
///           PyTorch). Saves a and b.
Tensor minimum(const Tensor& a, const Tensor& b);
Tensor maximum(const Tensor& a, const Tensor& b);

/// a^b by the C library's pow: 0^0 = 1, NaN for a negative a and a broken b.
/// Shapes, types, layout, errors, cost: as div.
/// Grad:     dy b a^(b-1), 0 where b = 0; dy a^b ln a, 0 where a = 0 and b >= 0. Saves a and b (the tensor).
Tensor pow(const Tensor& a, const Tensor& b);
Tensor pow(const Tensor& x, double exponent);

/// x * factor, in x's dtype (an integer x is multiplied as f32).
Tensor scale(const Tensor& x, double factor);
/// x + value, value - x and value / x, in x's dtype (an integer x is taken as f32).
Tensor add(const Tensor& x, double value);
Tensor sub(double value, const Tensor& x);
Tensor div(double value, const Tensor& x);
/// -x; integers wrap.
Tensor neg(const Tensor& x);
/// |x|; the gradient at 0 (and at NaN) is 0. Integers too: the least stays itself.
Tensor abs(const Tensor& x);

/// e^x, ln x, sqrt(x) and 1/sqrt(x), element-wise, of any shape.
/// Types:    floats; computed in f32 (f64 for f64), rounded to x's dtype. Outside of a function's domain: IEEE 754's
///           inf or NaN.
/// Layout:   x contiguous, else copied; of any shape.
/// Grad:     dy y; dy / x; dy / (2 y); -dy y³ / 2. Saves y, or x for log.
/// Errors:   DtypeError "[exp] needs f64, f32, f16 or bf16 but has i64".
/// Cost:     reads x, writes y once; backward reads dy and what was saved, writes dx: one launch each.
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor sqrt(const Tensor& x);
Tensor rsqrt(const Tensor& x);

/// min(max(x, low), high): high where low > high; NaN stays NaN.
/// Grad:     dy where low <= x <= high, else 0. Saves x. Types, layout, errors, cost: as exp.
Tensor clamp(const Tensor& x, double low, double high);

/// Activations. Types, layout, errors, cost: as exp. A NaN stays NaN.
///   relu         max(x, 0); the gradient at 0 is 0
///   leaky_relu   x > 0 ? x : slope x; the gradient at 0 is slope
///   sigmoid      1 / (1 + e^-x)                   saves y
///   tanh                                          saves y
///   silu         x sigmoid(x)
///   softplus     x beta > threshold ? x : ln(1 + e^(beta x)) / beta
/// Numerics: no overflow at ±1e4. silu of -inf is NaN, as in PyTorch.
Tensor relu(const Tensor& x);
Tensor leaky_relu(const Tensor& x, double slope = 0.01);
Tensor sigmoid(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor silu(const Tensor& x);
Tensor softplus(const Tensor& x, double beta = 1.0, double threshold = 20.0);

/// How gelu is computed: exactly, or by the approximation with tanh.
enum class Gelu : std::uint8_t { erf, tanh };

/// x Φ(x), Φ the normal distribution; or its approximation x/2 (1 + tanh(sqrt(2/π) (x + 0.044715 x³))).
/// Types, layout, errors, cost: as exp.
/// Grad:     dy (Φ(x) + x φ(x)), or the approximation's own. Saves x.
/// Numerics: Φ by erfc and the tanh by a sigmoid: full relative accuracy where 1 + erf would cancel. -inf gives NaN, as in
///           PyTorch.
/// Source:   Hendrycks, Gimpel 2016, arXiv:1606.08415.
Tensor gelu(const Tensor& x, Gelu approximation = Gelu::erf);

/// a == b, !=, <, <=, >, >= as bool; with NaN false, ne true. No gradient.
/// Shapes:   a and b broadcast to the result's shape.
/// Types:    any, promoted. A number is rounded to x's dtype; an integer x is compared as f64 where its dtype does not
///           hold the number.
/// Errors:   ShapeError, DeviceError as add.
Tensor eq(const Tensor& a, const Tensor& b);
Tensor ne(const Tensor& a, const Tensor& b);
Tensor lt(const Tensor& a, const Tensor& b);
Tensor le(const Tensor& a, const Tensor& b);
Tensor gt(const Tensor& a, const Tensor& b);
Tensor ge(const Tensor& a, const Tensor& b);
Tensor eq(const Tensor& x, double value);
Tensor ne(const Tensor& x, double value);
Tensor lt(const Tensor& x, double value);
Tensor le(const Tensor& x, double value);
Tensor gt(const Tensor& x, double value);
Tensor ge(const Tensor& x, double value);

/// Of any dtype, where true is what is not 0 (a NaN too); the result is bool.
Tensor logical_not(const Tensor& x);
Tensor logical_and(const Tensor& a, const Tensor& b);
Tensor logical_or(const Tensor& a, const Tensor& b);

/// condition ? a : b, element by element.
/// Shapes:   condition, a and b broadcast to the result's shape.
/// Types:    condition bool; a and b any, promoted.
/// Layout:   any strides; the result is contiguous.
/// Grad:     dy where chosen, else 0, summed to each operand's shape. Saves condition.
/// Errors:   DtypeError "[where] the condition must be bool but is f32: compare it with 0"; ShapeError, DeviceError as add.
/// Cost:     reads all three, writes the result once; memory-bound.
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);
Tensor where(const Tensor& condition, const Tensor& a, double b);
Tensor where(const Tensor& condition, double a, const Tensor& b);

/// add, sub, mul, div, scale and neg as operators.
inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator+(const Tensor& x, double value) { return add(x, value); }
inline Tensor operator+(double value, const Tensor& x) { return add(x, value); }
inline Tensor operator-(const Tensor& x, double value) { return add(x, -value); }
inline Tensor operator-(double value, const Tensor& x) { return sub(value, x); }
inline Tensor operator*(const Tensor& x, double factor) { return scale(x, factor); }
inline Tensor operator*(double factor, const Tensor& x) { return scale(x, factor); }
inline Tensor operator/(const Tensor& x, double divisor) { return scale(x, 1.0 / divisor); }
inline Tensor operator/(double value, const Tensor& x) { return div(value, x); }
inline Tensor operator-(const Tensor& x) { return neg(x); }

}  // namespace weft
