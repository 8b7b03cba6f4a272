#pragma once
#include "nn/module.h"

namespace weft::nn {

/// What LayerNorm is made with.
struct LayerNormOptions {
  double eps = 1e-5;
  bool affine = true;  // gamma and beta
  Dtype dtype = Dtype::f32;
};

/// Normalises the trailing axes of its input (the last one, given its extent), then scales and shifts.
/// Shapes: x [..., *normalized_shape] -> y alike; weight (gamma) and bias (beta) of the normalised shape.
/// Init:   weight 1, bias 0, as PyTorch's LayerNorm.
/// Errors: ShapeError "[layer_norm] needs at least one channel but has 0", "[layer_norm] normalized_shape must have
///         extents of at least 1 but is [4, 0]".
/// See:    autograd/layer_norm.h
struct LayerNorm {
  explicit LayerNorm(std::int64_t channels, LayerNormOptions options = {});
  explicit LayerNorm(const Shape& normalized_shape, LayerNormOptions options = {});
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V& v) {
    v("weight", weight);
    v("bias", bias);
  }

  Tensor weight;  // gamma, undefined without affine
  Tensor bias;    // beta, undefined without affine
  Shape normalized_shape;
  double eps;
};

}  // namespace weft::nn
