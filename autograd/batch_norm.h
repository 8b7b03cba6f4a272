#pragma once
#include "kernels/batch_norm.h"
#include "tensor/tensor.h"

namespace weft {

struct BatchNormOptions {
  BatchNormMode mode = BatchNormMode::train;
  double momentum = 0.1;  // weight of the new value in the running statistics, [0, 1]
  double eps = 1e-5;      // > 0, in units of x² (added to the variance)
};

/// Normalises each channel over the batch and the positions of its planes, then scales and shifts.
///   y[n,c,p] = (x[n,c,p] - mean[c]) * rstd[c] * gamma[c] + beta[c],   rstd = 1/sqrt(var + eps)
///   train: mean and var (divided by R, the number of values per channel) of this batch, and
///          running_mean = (1 - momentum) * running_mean + momentum * mean,
///          running_var  = (1 - momentum) * running_var  + momentum * var * R / (R - 1);
///   eval:  the running ones, which stay as they are.
/// Shapes:   x [R, C], [N, C, L], [N, C, H, W] or [N, C, D, H, W], C >= 1; gamma [C] or undefined (1); beta [C] or
///           undefined (0); running_mean, running_var [C], may be undefined in training -> y as x. R is the product of
///           all extents but C. Training needs R >= 2; eval allows an empty batch.
/// Types:    x f32|f16|bf16|f64, gamma and beta alike; statistics, running ones included, and sums in f32 (f64 for
///           f64).
/// Layout:   channels last ([N, C, H, W] whose permutation (0, 2, 3, 1) is contiguous) is used as it is, and y and dx
///           get the same; other operands are made contiguous when they are not. The running statistics must be
///           contiguous (they change in place and are no part of the graph).
/// Grad:     dx overwrites; dgamma, dbeta accumulate (+=). Saves x, gamma, mean [C], rstd [C].
///             xhat = (x - mean) * rstd, dgamma = sum_np dy * xhat, dbeta = sum_np dy;
///             train: dx = gamma * rstd * (dy - dbeta / R - xhat * dgamma / R),  eval: dx = gamma * rstd * dy.
/// Errors:   ShapeError "[batch_norm] training needs at least 2 rows per channel but the input has shape [1, 512]: use
///           a larger batch, or eval mode", before anything changes (of planes: "... 2 values per channel ...");
///           "[batch_norm] gamma must have shape [C]=[512] but has [256]"; DtypeError; DeviceError; OptionError for eps
///           and momentum, and for eval without running statistics.
/// Cost:     reads and writes R·C elements; memory-bound. Training reads twice: rows and channels last on the cpu when x
///           is larger than 768 KiB, on a GPU beyond 2048 rows; planes on the cpu when a channel is larger than 256 KiB,
///           on a GPU always.
/// Numerics: two-pass mean and variance in chunks (64 rows; 2048 elements of planes), combined in order after Chan,
///           around a shift: the error depends on a channel's spread, not on its mean. Bitwise independent of the
///           thread count.
/// Source:   Ioffe, Szegedy 2015, arXiv:1502.03167, algorithm 1 and sections 3, 3.2; Chan, Golub, LeVeque 1979,
///           "Updating formulae and a pairwise algorithm for computing sample variances".
Tensor batch_norm(const Tensor& x, const Tensor& gamma = {}, const Tensor& beta = {}, const Tensor& running_mean = {},
                  const Tensor& running_var = {}, BatchNormOptions options = {});

/// The same from simple operations, without updating the running statistics: the reference that batch_norm is tested
/// against. For f32 and f64.
Tensor batch_norm_composite(const Tensor& x, const Tensor& gamma = {}, const Tensor& beta = {},
                            const Tensor& running_mean = {}, const Tensor& running_var = {},
                            BatchNormOptions options = {});

}  // namespace weft
