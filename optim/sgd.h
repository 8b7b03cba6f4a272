#pragma once
#include "optim/optimizer.h"

namespace weft::optim {

/// What SGD is made with.
struct SGDOptions {
  double lr = 1e-2;
  double momentum = 0;      // [0, 1); 0 keeps no state
  bool nesterov = false;    // look ahead along the momentum; needs momentum > 0
  double weight_decay = 0;  // L2: added to the gradient, hence scaled by lr and carried by the momentum
  double max_norm = 0;      // clip the norm of the scaled gradient; 0: no clipping
  int max_skipped = 10;     // so many skipped updates in a row are an Error
};

/// Stochastic gradient descent with momentum, as torch.optim.SGD with dampening 0.
/// Errors: OptionError "[sgd] momentum must be in [0, 1) but is 1".
/// State:  "<p>.momentum" per parameter, unless momentum is 0.
/// See:    kernels/sgd.h for the formula, Optimizer for the rest.
class SGD final : public Optimizer {
 public:
  explicit SGD(std::vector<Tensor> parameters, SGDOptions options = {});

 private:
  void update(Device device, const kernels::UpdateTable& table, const kernels::StepState* state) override;
  SGDOptions options_;
};

}  // namespace weft::optim
