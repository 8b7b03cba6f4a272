#pragma once
#include "nn/module.h"

namespace weft::nn {

/// What BatchNorm is made with.
struct BatchNormOptions {
  double eps = 1e-5;
  double momentum = 0.1;  // weight of the new value in the running statistics
  bool affine = true;     // gamma and beta
  Dtype dtype = Dtype::f32;
};

/// Normalises each column over the batch (in training) or by running statistics (in evaluation), then scales and shifts.
/// Shapes: x [R, C] -> y [R, C], R >= 2 in training; weight (gamma), bias (beta), running_mean, running_var [C].
/// Init:   weight 1, bias 0, running_mean 0, running_var 1, as PyTorch's BatchNorm1d.
/// Errors: ShapeError "[batch_norm] needs at least one channel but has 0".
/// See:    autograd/batch_norm.h
struct BatchNorm1d {
  explicit BatchNorm1d(std::int64_t channels, BatchNormOptions options = {});
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V& v) {
    v("weight", weight);
    v("bias", bias);
    v.buffer("running_mean", running_mean);
    v.buffer("running_var", running_var);
    v.mode(mode);
    v.batch_statistics();
  }

  Tensor weight;        // gamma, [C], undefined without affine
  Tensor bias;          // beta, [C], undefined without affine
  Tensor running_mean;  // [C], f32 (f64 for f64)
  Tensor running_var;   // [C], f32 (f64 for f64)
  double eps;
  double momentum;
  Mode mode = Mode::train;
};

}  // namespace weft::nn
