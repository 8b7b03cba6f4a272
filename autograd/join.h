#pragma once
// Joining tensors, cutting them apart, and padding: compositions of strided copies (kernels/copy.h).
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace weft {

/// Puts tensors one after another along a dimension.
///   y[..., offset[n] + i, ...] = x_n[..., i, ...],   offset[n] = sum of the extents of x_0 ... x_{n-1} along dim
/// Shapes:   each [..., E_n, ...], equal but for `dim` -> y [..., sum E_n, ...]. E_n = 0 allowed.
/// Types:    any; several dtypes are promoted to one (tensor/dtype.h), and gradients are cast back.
/// Layout:   any strides; y is a new dense tensor.
/// Params:   dim in [-rank, rank).
/// Grad:     dx_n is the view of dy that x_n went to.
/// Errors:   Error "[concat] needs at least one tensor"; ShapeError "[concat] tensor 1 must have shape [2, *, 4] like
///           tensor 0 but has [3, 1, 4]"; DeviceError.
/// Cost:     reads and writes every element once, a launch per tensor; memory-bound.
/// Numerics: exact.
Tensor concat(std::span<const Tensor> tensors, int dim = 0);
/// The same for a list in braces.
inline Tensor concat(std::initializer_list<Tensor> tensors, int dim = 0) {
  return concat(std::span(tensors.begin(), tensors.size()), dim);
}

/// Puts tensors of one shape side by side along a new dimension: concat of x_n.unsqueeze(dim).
///   y[..., n, ...] = x_n[..., ...]
/// Shapes:   N tensors of one shape of rank r -> y of rank r + 1 with extent N at `dim`.
/// Params:   dim in [-(r + 1), r].
/// Errors:   Error "[stack] needs at least one tensor"; ShapeError "[stack] tensor 1 must have shape [2, 3] like tensor
///           0 but has [3, 2]"; DeviceError.
/// The rest: as concat.
Tensor stack(std::span<const Tensor> tensors, int dim = 0);
/// The same for a list in braces.
inline Tensor stack(std::initializer_list<Tensor> tensors, int dim = 0) {
  return stack(std::span(tensors.begin(), tensors.size()), dim);
}

/// Cuts a tensor into consecutive pieces along a dimension. The pieces are views: they share x's memory.
///   y_n[..., i, ...] = x[..., offset[n] + i, ...]
/// Shapes:   x [..., E, ...] -> pieces of extent `size` (the last one smaller when size does not divide E; one piece of
///           extent 0 when E is 0), or of the extents `sizes`, whose sum must be E.
/// Types:    any.
/// Layout:   any strides.
/// Params:   dim in [-rank, rank); size >= 1.
/// Grad:     one node for all pieces: dx is written once, 0 for pieces that nothing was computed from.
/// Errors:   ShapeError "[split] the size must be at least 1 but is 0"; ShapeError "[split] sizes [2, 3] add up to 5
///           but dimension 1 of shape [4, 6] has 6"; ShapeError "[split] sizes must not be negative but are [-1, 7]".
/// Cost:     no bytes; backward reads and writes every element once.
/// Numerics: exact.
std::vector<Tensor> split(const Tensor& x, std::int64_t size, int dim = 0);
std::vector<Tensor> split(const Tensor& x, std::span<const std::int64_t> sizes, int dim = 0);
/// The same for a list in braces.
inline std::vector<Tensor> split(const Tensor& x, std::initializer_list<std::int64_t> sizes, int dim = 0) {
  return split(x, std::span(sizes.begin(), sizes.size()), dim);
}

/// Surrounds a tensor with a constant: PyTorch's constant pad.
///   y[..., before + i, ...] = x[..., i, ...] where that exists, else value
/// Shapes:   padding {before, after} of the last dimension, then of the one before it, ...; x [..., E, ...] -> y [...,
///           before + E + after, ...]. Negative numbers cut elements off instead.
/// Types:    any; value is converted as by fill_.
/// Layout:   any strides; y is a new dense tensor.
/// Grad:     dx is the view of dy that x went to; 0 for elements that were cut off.
/// Errors:   ShapeError "[pad] needs {before, after} for at most 2 dimensions but has 3 numbers"; ShapeError "[pad]
///           {-2, -2} leaves a negative extent of dimension 1 of shape [4, 3]".
/// Cost:     reads every element of x, writes every element of y once; a launch, and one per padded side.
/// Numerics: exact.
Tensor pad(const Tensor& x, std::span<const std::int64_t> padding, double value = 0);
/// The same for a list in braces.
inline Tensor pad(const Tensor& x, std::initializer_list<std::int64_t> padding, double value = 0) {
  return pad(x, std::span(padding.begin(), padding.size()), value);
}

}  // namespace weft
