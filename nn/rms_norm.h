#pragma once
#include <optional>

#include "nn/module.h"

namespace weft::nn {

/// Of nn::RMSNorm.
struct RmsNormOptions {
  std::optional<double> eps = {};  // none: the machine epsilon of the input's dtype
  bool affine = true;              // gamma
  Dtype dtype = Dtype::f32;
};

/// Divides the trailing axes of its input by their root mean square, then scales.
/// Shapes: x [..., *normalized_shape] -> y alike; weight (gamma) of the normalised shape.
/// Init:   weight 1, as PyTorch's RMSNorm.
/// Errors: ShapeError "[rms_norm] normalized_shape must have extents of at least 1 but is [0]".
/// See:    autograd/rms_norm.h
struct RmsNorm {
  explicit RmsNorm(std::int64_t channels, RmsNormOptions options = {});
  explicit RmsNorm(const Shape& normalized_shape, RmsNormOptions options = {});
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V& v) {
    v("weight", weight);
  }

  Tensor weight;  // gamma, undefined without affine
  Shape normalized_shape;
  std::optional<double> eps;
};

}  // namespace weft::nn
