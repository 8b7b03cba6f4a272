#pragma once
// Copies: dense layouts, clones, writes in place.
#include "tensor/tensor.h"

namespace weft {

/// The tensor itself when it is row-major and dense, else a dense copy. Differentiable.
Tensor contiguous(const Tensor& x);
/// A dense copy with memory of its own. Differentiable.
Tensor clone(const Tensor& x);
/// As Tensor::reshape, but copies when the layout does not allow a view.
Tensor reshape(const Tensor& x, const Shape& shape);

// In place; each counts as a modification, which backward notices when the tensor was saved.
// Errors: AutogradError when `target` takes part in a graph and grad mode is on (wrap the call in NoGrad).
/// target[...] = source, broadcast and cast to target's shape and dtype.
void copy_(const Tensor& target, const Tensor& source);
void fill_(const Tensor& target, double value);
/// target += source, same shape and dtype.
void add_(const Tensor& target, const Tensor& source);

}  // namespace weft
