#pragma once
#include "tensor/tensor.h"

namespace weft {

/// Turns the entries along a dimension into probabilities.
///   y[r,c] = exp(x[r,c] - lse[r]),   lse[r] = ln sum_c exp(x[r,c])
/// Shapes:   x [..., C, ...], rank >= 1, C >= 1 the size of `dim` -> y, the same. R = product of the others, 0 allowed.
/// Types:    x f32|f16|bf16|f64; maxima and sums in f32 (f64 for f64).
/// Layout:   made contiguous when it is not. The last dimension is the fast one: for another, x and the result are each
///           copied once, transposed.
/// Params:   dim in [-rank, rank).
/// Grad:     dx = y * (dy - sum_c(dy * y)). Saves y.
/// Errors:   ShapeError "[softmax] there is nothing to normalise in shape [3, 0]"; DtypeError.
/// Cost:     reads R·C, writes R·C elements; memory-bound. Backward reads 2·R·C, writes R·C.
/// Numerics: relative to the row's maximum, so that nothing overflows. An entry of -inf has probability 0; a row of
///           nothing but -inf, or with a NaN or +inf, is NaN, as in PyTorch. Bitwise independent of the thread count.
/// Source:   Milakov, Gimelshein 2018, arXiv:1805.02867.
Tensor softmax(const Tensor& x, int dim = -1);

/// The logarithm of softmax, accurate where the probability is too small to be held.
///   y[r,c] = x[r,c] - lse[r]
/// Grad:     dx = dy - exp(y) * sum_c(dy). Saves y.
/// Errors:   as softmax, "[log_softmax] ...".
/// All else: as softmax; an entry of -inf stays -inf.
Tensor log_softmax(const Tensor& x, int dim = -1);

/// The same from simple operations: the references that they are tested against. Round at each of them.
Tensor softmax_composite(const Tensor& x, int dim = -1);
Tensor log_softmax_composite(const Tensor& x, int dim = -1);

}  // namespace weft
