#pragma once
#include "nn/module.h"

namespace weft::nn {

/// What LayerNorm is made with.
struct LayerNormOptions {
  double eps = 1e-5;
  bool affine = true;  // gamma and beta
  Dtype dtype = Dtype::f32;
};

/// Normalises the last axis of its input, then scales and shifts.
/// Shapes: x [..., C] -> y [..., C]; weight (gamma) [C]; bias (beta) [C].
/// Init:   weight 1, bias 0, as PyTorch's LayerNorm.
/// Errors: ShapeError "[layer_norm] needs at least one channel but has 0".
/// See:    autograd/layer_norm.h
struct LayerNorm {
  explicit LayerNorm(std::int64_t channels, LayerNormOptions options = {});
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V& v) {
    v("weight", weight);
    v("bias", bias);
  }

  Tensor weight;  // gamma, [C], undefined without affine
  Tensor bias;    // beta, [C], undefined without affine
  double eps;
};

}  // namespace weft::nn
