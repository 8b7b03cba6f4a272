#pragma once
#include "nn/module.h"

namespace weft::nn {

/// Of nn::GroupNorm.
struct GroupNormOptions {
  double eps = 1e-5;
  bool affine = true;  // gamma and beta
  Dtype dtype = Dtype::f32;
};

/// Normalises each of num_groups groups of channels of each sample, then scales and shifts every channel.
/// Shapes: x [N, C, ...], C = num_channels -> y alike; weight (gamma) [C]; bias (beta) [C].
/// Init:   weight 1, bias 0, as PyTorch's GroupNorm.
/// Errors: ShapeError "[group_norm] num_groups must divide num_channels 6 but is 4", "[group_norm] needs at least one
///         channel but has 0", "[group_norm] x must have 6 channels but has shape [2, 4, 3]".
/// See:    autograd/group_norm.h
struct GroupNorm {
  GroupNorm(std::int64_t num_groups, std::int64_t num_channels, GroupNormOptions options = {});
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V& v) {
    v("weight", weight);
    v("bias", bias);
  }

  Tensor weight;  // gamma, [C], undefined without affine
  Tensor bias;    // beta, [C], undefined without affine
  std::int64_t num_groups, num_channels;
  double eps;
};

}  // namespace weft::nn
