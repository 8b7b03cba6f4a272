#pragma once
#include "tensor/tensor.h"

namespace weft {

/// Matrix product; of vectors the inner product, of higher ranks one product for each index of the leading dimensions.
///   c[...,m,n] = sum_k a[...,m,k] * b[...,k,n]
/// Shapes:   a [..., M, K], b [..., K, N] -> c [..., M, N]; leading dimensions are broadcast. A vector a [K] is one row, a
///           vector b [K] one column, and that dimension is left out of the result: [K] x [K] -> []. K = 0 gives zeros.
/// Types:    f32|f16|bf16|f64, both alike; products are summed in f32 (f64 for f64) and rounded once.
/// Layout:   matrices whose rows or whose columns are dense (transposed views, slices, broadcast batches) are read as they lie;
///           others are made contiguous.
/// Grad:     da = dc b^T, db = a^T dc, summed over broadcast dimensions; transposes are read, not made. Saves a and b.
/// Errors:   ShapeError "[matmul] a must have shape [..., M, K] and b [..., K, N] but they have [3, 4] and [5, 6]: 4 and 5
///           differ"; DtypeError; DeviceError.
/// Cost:     2·B·M·N·K flop for B products, twice that backward.
/// Numerics: tiles fixed by the shape, K summed in fixed chunks in order: bitwise independent of the thread count. Infinities
///           and NaN propagate as IEEE has it: 0 * inf is NaN.
Tensor matmul(const Tensor& a, const Tensor& b);

/// The same from simple operations, with B·M·K·N elements in between: the reference that tests hold matmul() against.
Tensor matmul_composite(const Tensor& a, const Tensor& b);

}  // namespace weft
