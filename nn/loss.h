#pragma once
#include "autograd/cross_entropy.h"
#include "autograd/pointwise_loss.h"

namespace weft::nn {

// Losses as values that keep their options, for code that takes any loss. Each is one call of the function of the same
// name in autograd/, returns a Loss {sum, denominator}, and holds no parameters; weights are moved by hand.

/// See: autograd/cross_entropy.h
struct CrossEntropyLoss {
  Tensor weight = {};  // [V]
  std::int64_t ignore_index = -100;
  double label_smoothing = 0;
  double z_loss = 0;

  /// logits [..., V]; target: labels i64 [...] or probabilities [..., V].
  Loss operator()(const Tensor& logits, const Tensor& target) const;
  /// mask bool or u8, token_weights floats, [...]; either may be undefined.
  Loss operator()(const Tensor& logits, const Tensor& target, const Tensor& mask,
                  const Tensor& token_weights = {}) const;
};

/// See: autograd/pointwise_loss.h
struct MSELoss {
  Loss operator()(const Tensor& input, const Tensor& target, const PointwiseLossOptions& options = {}) const;
};
/// See: autograd/pointwise_loss.h
struct L1Loss {
  Loss operator()(const Tensor& input, const Tensor& target, const PointwiseLossOptions& options = {}) const;
};
/// See: autograd/pointwise_loss.h
struct HuberLoss {
  double delta = 1;
  Loss operator()(const Tensor& input, const Tensor& target, const PointwiseLossOptions& options = {}) const;
};
/// See: autograd/pointwise_loss.h
struct SmoothL1Loss {
  double beta = 1;
  Loss operator()(const Tensor& input, const Tensor& target, const PointwiseLossOptions& options = {}) const;
};
/// See: autograd/pointwise_loss.h
struct BCEWithLogitsLoss {
  Tensor weight = {};      // broadcasts to the input
  Tensor pos_weight = {};  // broadcasts to the input, often [C]
  /// mask bool or u8, broadcasts to the input; may be undefined.
  Loss operator()(const Tensor& input, const Tensor& target, const Tensor& mask = {}) const;
};

}  // namespace weft::nn
