#pragma once
#include <vector>

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

/// Sum and mean over several dimensions, any order, none twice; an empty list means all. As above.
/// Errors: ShapeError "[sum] dimension 1 is named twice".
Tensor sum(const Tensor& x, const std::vector<int>& dims, KeepDim keep = KeepDim::no);
Tensor mean(const Tensor& x, const std::vector<int>& dims, KeepDim keep = KeepDim::no);

/// Largest and smallest element over all, one or several dimensions (an empty list means all): PyTorch's amax and amin.
///   y[r] = max_c x[r,c]
/// Types:    all; the result has x's.
/// Layout:   made contiguous when it is not; dimensions that are not neighbours are brought together by a copy.
/// Grad:     shared evenly among the elements that equal y. Saves x and y.
/// Errors:   ShapeError "[max] there is nothing to compare in shape [3, 0]".
/// Cost:     reads R·C, writes R elements; memory-bound. On a GPU slow for few outputs over a long C: one block each.
/// Numerics: exact. A NaN among the elements gives NaN.
Tensor max(const Tensor& x);
Tensor max(const Tensor& x, int dim, KeepDim keep = KeepDim::no);
Tensor max(const Tensor& x, const std::vector<int>& dims, KeepDim keep = KeepDim::no);
Tensor min(const Tensor& x);
Tensor min(const Tensor& x, int dim, KeepDim keep = KeepDim::no);
Tensor min(const Tensor& x, const std::vector<int>& dims, KeepDim keep = KeepDim::no);

/// Variance over all, one or several dimensions (an empty list means all).
///   y[r] = sum_c (x[r,c] - mean[r])² / max(C - correction, 0)
/// Types:    floats; in f32 (f64 for f64), rounded once to x's dtype.
/// Params:   correction >= 0: 1 for the unbiased estimate, 0 for the mean square, as PyTorch.
/// Grad:     dx = 2 (x - mean) dy / (C - correction).
/// Errors:   DtypeError for integers.
/// Cost:     several passes: it is composed of sum and element-wise operations.
/// Numerics: two passes, the second around the rounded mean, whose error is taken off: the error depends on the spread,
///           not on the mean. C = correction gives NaN for a constant, else inf, and one element with correction 1 NaN;
///           nothing gives NaN: as PyTorch.
Tensor var(const Tensor& x, double correction = 1);
Tensor var(const Tensor& x, int dim, double correction = 1, KeepDim keep = KeepDim::no);
Tensor var(const Tensor& x, const std::vector<int>& dims, double correction = 1, KeepDim keep = KeepDim::no);

/// ln sum exp(x) over all, one or several dimensions (an empty list means all), relative to the maximum.
/// Types:    floats; in f32 (f64 for f64), rounded once to x's dtype.
/// Grad:     dx = exp(x - y) dy.
/// Errors:   DtypeError for integers; ShapeError "[logsumexp] there is nothing to compare in shape [3, 0]".
/// Cost:     several passes: it is composed of max, sum and element-wise operations.
/// Numerics: nothing overflows. Nothing but -inf gives -inf, a +inf gives inf, a NaN NaN: as PyTorch.
Tensor logsumexp(const Tensor& x);
Tensor logsumexp(const Tensor& x, int dim, KeepDim keep = KeepDim::no);
Tensor logsumexp(const Tensor& x, const std::vector<int>& dims, KeepDim keep = KeepDim::no);

/// Index (i64) of the largest element along `dim`, the first among equals; NaN counts as largest. Not differentiable.
/// Errors: ShapeError when the dimension is empty.
Tensor argmax(const Tensor& x, int dim = -1, KeepDim keep = KeepDim::no);
/// The same for the smallest; NaN counts as smallest.
Tensor argmin(const Tensor& x, int dim = -1, KeepDim keep = KeepDim::no);

/// Sums x over the dimensions that broadcasting stretched, down to `shape`: the backward of a broadcast.
Tensor sum_to(const Tensor& x, const Shape& shape);

}  // namespace weft
