#pragma once
#include "tensor/tensor.h"

namespace weft {

/// What a linear layer applies to its result in the same pass.
enum class Activation : std::uint8_t { none, relu };

/// Multiplies by a transposed weight, adds a bias, applies an activation.
///   y[r,n] = act(sum_k x[r,k] * weight[n,k] + bias[n])
/// Shapes:   x [..., K]; weight [N, K]; bias [N] or undefined -> y [..., N]. R = product of the leading dims, 0 allowed.
/// Types:    f32|f64|f16|bf16, all operands alike; products are summed in f32 (f64 for f64).
/// Layout:   operands are made contiguous when they are not.
/// Grad:     dx = dz W; dweight += dz^T x; dbias += column sums of dz; dz = dy where y > 0 for relu. Saves x, weight, and y
///           for relu.
/// Errors:   ShapeError "[linear] weight must have shape [N, 784] to take x of shape [128, 784] but has [512, 128]".
/// Cost:     2·R·K·N flop forward, twice that backward.
/// Numerics: tiles fixed by the shape, K summed in fixed chunks in order: bitwise independent of the thread count.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, Activation activation = Activation::none);

/// The same from simple operations, with R·N·K elements in between: the reference that tests hold linear() against.
Tensor linear_composite(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
                        Activation activation = Activation::none);

}  // namespace weft
