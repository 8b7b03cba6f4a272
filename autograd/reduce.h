#pragma once
#include "tensor/tensor.h"

namespace weft {

enum class KeepDim : std::uint8_t { no, yes };

/// Sum over one dimension, or over all. Integers and bool are summed in i64. Floats accumulate in f32 (f64 for f64) in a
/// fixed order: bitwise repeatable for any thread count. An empty sum is 0.
Tensor sum(const Tensor& x);
Tensor sum(const Tensor& x, int dim, KeepDim keep = KeepDim::no);
/// Sum / count. Errors: DtypeError for integers; ShapeError when nothing is averaged.
Tensor mean(const Tensor& x);
Tensor mean(const Tensor& x, int dim, KeepDim keep = KeepDim::no);
/// Index (i64) of the largest element along `dim`, the first among equals; NaN counts as largest. Not differentiable.
/// Errors: ShapeError when the dimension is empty.
Tensor argmax(const Tensor& x, int dim = -1, KeepDim keep = KeepDim::no);

/// Sums x over the dimensions that broadcasting stretched, down to `shape`: the backward of a broadcast.
Tensor sum_to(const Tensor& x, const Shape& shape);

}  // namespace weft
