#pragma once
// Losses that compare two tensors element by element. Each is a sum and a denominator (autograd/window.h).
#include "autograd/window.h"

namespace weft {

/// Which elements count, and how much. Both broadcast to the shape of the input.
struct PointwiseLossOptions {
  Tensor weight = {};  // of input's dtype; 0 does not count; undefined: 1
  Tensor mask = {};    // bool or u8: 0 does not count; undefined: all count
};

/// What binary_cross_entropy_with_logits takes besides input and target.
struct BceWithLogitsOptions {
  Tensor weight = {};      // as above
  Tensor mask = {};        // as above
  Tensor pos_weight = {};  // of input's dtype, broadcasts: what a target of 1 weighs; undefined: 1
};

/// Squared error: the sum over the elements that count (mask and weight not 0), and their weight.
///   sum = sum_i w[i] (x[i] - y[i])²,  denominator = sum_i w[i],  w = weight, 0 where mask is 0
/// Without options mean() is PyTorch's reduction="mean". With weights mean() is the weighted mean, whose denominator is
/// the sum of the weights; PyTorch divides by the number of elements.
/// Shapes:   input, target of one shape [...], any rank, no elements allowed; weight, mask broadcast to it -> sum f64
///           [], denominator f64 []. When nothing counts both are 0 and the gradients are zero.
/// Types:    input f32|f16|bf16|f64, target and weight as input; a term in f32 (f64 for f64), terms are added in f64.
/// Layout:   operands are made contiguous when they are not. weight and mask are read as they are where their
///           dimensions above 1 lie side by side ([C], [R, 1], a scalar); else they are copied to the full shape.
/// Grad:     dinput = w 2 (x - y) dsum, dtarget = -dinput; exactly 0 where nothing counts, even where input or target
///           is inf or NaN. Computed by forward in the same read and saved; backward multiplies by dsum, or hands the
///           saved tensor over when dsum is 1 (as it is for a Window). weight is a constant.
/// Errors:   ShapeError "[mse_loss] target must have shape [8, 4] like input but has [8]"; "[mse_loss] weight of shape
///           [3] does not broadcast to [8, 4]"; DtypeError; DeviceError.
/// Cost:     N elements: reads 2N, writes N for each gradient asked for; backward reads and writes N for each, nothing
///           when dsum is 1. (Taking the gradient in backward instead would read 2N again: 5N where this moves 3N.)
/// Numerics: sums in f64 in an order that the shape fixes: bitwise independent of the thread count. inf - inf is NaN.
/// Source:   PyTorch, torch.nn.functional.mse_loss.
Loss mse_loss(const Tensor& input, const Tensor& target, const PointwiseLossOptions& options = {});

/// Absolute error, otherwise as mse_loss.
///   sum = sum_i w[i] |x[i] - y[i]|
/// Grad:     dinput = w sign(x - y) dsum, 0 where x == y; dtarget = -dinput.
/// Source:   PyTorch, torch.nn.functional.l1_loss.
Loss l1_loss(const Tensor& input, const Tensor& target, const PointwiseLossOptions& options = {});

/// Squared near 0, linear beyond delta; otherwise as mse_loss. With d = x[i] - y[i]:
///   sum = sum_i w[i] (|d| <= delta ? d² / 2 : delta (|d| - delta / 2))
/// Params:   delta > 0, in units of x.
/// Grad:     dinput = w (|d| <= delta ? d : delta sign(d)) dsum; dtarget = -dinput.
/// Errors:   OptionError "[huber_loss] delta must be positive but is 0".
/// Source:   Huber 1964, "Robust Estimation of a Location Parameter", Ann. Math. Statist. 35; PyTorch,
///           torch.nn.functional.huber_loss.
Loss huber_loss(const Tensor& input, const Tensor& target, double delta = 1, const PointwiseLossOptions& options = {});

/// huber_loss / beta; at beta = 0 l1_loss. Otherwise as mse_loss. With d = x[i] - y[i]:
///   sum = sum_i w[i] (|d| < beta ? d² / (2 beta) : |d| - beta / 2)
/// Params:   beta >= 0, in units of x.
/// Grad:     dinput = w (|d| < beta ? d / beta : sign(d)) dsum; dtarget = -dinput.
/// Errors:   OptionError "[smooth_l1_loss] beta must not be negative but is -1".
/// Source:   Girshick 2015, arXiv:1504.08083, eq. 3; PyTorch, torch.nn.functional.smooth_l1_loss.
Loss smooth_l1_loss(const Tensor& input, const Tensor& target, double beta = 1,
                    const PointwiseLossOptions& options = {});

/// Cross-entropy of independent yes-or-no questions, from logits; otherwise as mse_loss. With p = pos_weight and
/// softplus(x) = log(1 + e^x) = max(x, 0) + log(1 + e^-|x|):
///   sum = sum_i w[i] ((1 - y[i]) softplus(x[i]) + p[i] y[i] softplus(-x[i]))
/// Params:   pos_weight, the weight of a positive target: (negatives / positives) balances the two.
/// Grad:     dinput = w ((1 - y) sigmoid(x) - p y sigmoid(-x)) dsum; dtarget = w (p softplus(-x) - softplus(x)) dsum.
/// Numerics: no logit overflows, and no gradient of a target of 0 or 1 cancels. A part with the factor 0 ((1 - y) or
///           p y) adds 0 even where its softplus is infinite.
/// Source:   PyTorch, torch.nn.functional.binary_cross_entropy_with_logits.
Loss binary_cross_entropy_with_logits(const Tensor& input, const Tensor& target,
                                      const BceWithLogitsOptions& options = {});

}  // namespace weft
