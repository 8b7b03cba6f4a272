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

/// What the layers share: parameters, running statistics, mode.
struct BatchNorm {
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

 protected:
  BatchNorm(std::int64_t channels, const BatchNormOptions& options);
  Tensor normalise(const Tensor& x) const;
};

/// Normalises each channel over the batch (in training) or by running statistics (in evaluation), then scales and
/// shifts.
/// Shapes: x [N, C] or [N, C, L] -> y as x, N·L >= 2 in training; weight (gamma), bias (beta), running_mean,
///         running_var [C].
/// Init:   weight 1, bias 0, running_mean 0, running_var 1, as PyTorch's BatchNorm1d.
/// Errors: ShapeError "[batch_norm] needs at least one channel but has 0"; "[batch_norm] BatchNorm1d takes x of shape
///         [N, C] or [N, C, L] but x has [2, 3, 4, 5]".
/// See:    autograd/batch_norm.h
struct BatchNorm1d : BatchNorm {
  explicit BatchNorm1d(std::int64_t channels, BatchNormOptions options = {});
  Tensor operator()(const Tensor& x);
};

/// BatchNorm1d of images.
/// Shapes: x [N, C, H, W], contiguous or channels last -> y as x, N·H·W >= 2 in training; the others as BatchNorm1d's.
/// Init:   weight 1, bias 0, running_mean 0, running_var 1, as PyTorch's BatchNorm2d.
/// Errors: as BatchNorm1d's; ShapeError "[batch_norm] BatchNorm2d takes x of shape [N, C, H, W] but x has [2, 3]".
/// See:    autograd/batch_norm.h
struct BatchNorm2d : BatchNorm {
  explicit BatchNorm2d(std::int64_t channels, BatchNormOptions options = {});
  Tensor operator()(const Tensor& x);
};

}  // namespace weft::nn
