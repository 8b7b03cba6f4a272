#include "nn/loss.h"

namespace weft::nn {

Loss CrossEntropyLoss::operator()(const Tensor& logits, const Tensor& target) const {
  return (*this)(logits, target, {});
}
Loss CrossEntropyLoss::operator()(const Tensor& logits, const Tensor& target, const Tensor& mask,
                                  const Tensor& token_weights) const {
  return cross_entropy(logits, target,
                       {.ignore_index = ignore_index,
                        .mask = mask,
                        .weight = weight,
                        .token_weights = token_weights,
                        .label_smoothing = label_smoothing,
                        .z_loss = z_loss});
}

Loss MSELoss::operator()(const Tensor& input, const Tensor& target, const PointwiseLossOptions& options) const {
  return mse_loss(input, target, options);
}

Loss L1Loss::operator()(const Tensor& input, const Tensor& target, const PointwiseLossOptions& options) const {
  return l1_loss(input, target, options);
}

Loss HuberLoss::operator()(const Tensor& input, const Tensor& target, const PointwiseLossOptions& options) const {
  return huber_loss(input, target, delta, options);
}

Loss SmoothL1Loss::operator()(const Tensor& input, const Tensor& target, const PointwiseLossOptions& options) const {
  return smooth_l1_loss(input, target, beta, options);
}

Loss BCEWithLogitsLoss::operator()(const Tensor& input, const Tensor& target, const Tensor& mask) const {
  return binary_cross_entropy_with_logits(input, target, {.weight = weight, .mask = mask, .pos_weight = pos_weight});
}

}  // namespace weft::nn
