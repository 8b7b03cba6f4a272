#pragma once
#include "tensor/tensor.h"

namespace weft {

/// Normalises each group of channels of each sample, then scales and shifts every channel.
///   y[n,c,s] = (x[n,c,s] - mean[n,g]) * rstd[n,g] * gamma[c] + beta[c],   g = floor(c G / C),
///   rstd = 1/sqrt(var + eps), mean and var over the C/G channels and all s of the group, var divided by their number
/// Shapes:   x [N, C, ...], C >= 1, N = 0 allowed; gamma [C] or undefined (1); beta [C] or undefined (0) -> y like x.
///           S = product of the dims behind C, >= 1. num_groups = 1 is layer_norm over [C, ...] but for gamma and beta,
///           num_groups = C is instance norm.
/// Types:    x f32|f16|bf16|f64, gamma and beta alike; statistics and sums in f32 (f64 for f64).
/// Layout:   operands are made contiguous when they are not: channels-last memory is copied, y is [N, C, ...] row-major.
/// Params:   num_groups >= 1, divides C; eps > 0, in units of x² (added to the variance).
/// Grad:     dx overwrites; dgamma, dbeta accumulate (+=). Saves x, gamma, mean [N, G], rstd [N, G].
///             h = dy * gamma, xhat = (x - mean) * rstd, means over a group: dx = rstd * (h - mean(h) - xhat * mean(h *
///             xhat)).
/// Errors:   ShapeError "[group_norm] num_groups must divide the 6 channels of x but is 4", "[group_norm] gamma must have
///           shape [C]=[6] but has [5]"; DtypeError; DeviceError; OptionError "[group_norm] eps must be positive but is 0".
/// Cost:     reads N·C·S, writes N·C·S elements; memory-bound. Backward reads 2·N·C·S, writes N·C·S. Groups that do not
///           fit on chip are read twice in both directions.
/// Numerics: two-pass variance around a shift, in both directions: the error depends on a group's spread, not on its
///           mean; a constant group gives exactly beta. Bitwise independent of the thread count.
/// Source:   Wu, He 2018, arXiv:1803.08494, eq. 1, 2, 6 and 7.
Tensor group_norm(const Tensor& x, std::int64_t num_groups, const Tensor& gamma = {}, const Tensor& beta = {},
                  double eps = 1e-5);

/// The same from simple operations: the reference that group_norm is tested against. Rounds at each of them.
Tensor group_norm_composite(const Tensor& x, std::int64_t num_groups, const Tensor& gamma = {}, const Tensor& beta = {},
                            double eps = 1e-5);

}  // namespace weft
