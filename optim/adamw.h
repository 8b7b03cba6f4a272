#pragma once
#include "optim/optimizer.h"

namespace weft::optim {

/// What AdamW is made with.
struct AdamWOptions {
  double lr = 1e-3;
  double beta1 = 0.9;          // decay of the mean of the gradient, [0, 1)
  double beta2 = 0.999;        // decay of the mean of its square, [0, 1)
  double eps = 1e-8;           // added to the root of the second moment
  double weight_decay = 0.01;  // decoupled: p shrinks by lr * weight_decay per update, whatever the gradient
  double max_norm = 0;         // clip the norm of the scaled gradient; 0: no clipping
  int max_skipped = 10;        // so many skipped updates in a row are an Error
};

/// Adam with decoupled weight decay; every parameter is decayed (make two optimizers to spare some).
/// Errors: OptionError "[adamw] beta1 must be in [0, 1) but is 1".
/// State:  "<p>.m" and "<p>.v" per parameter.
/// See:    kernels/adamw.h for the formula, Optimizer for the rest.
class AdamW final : public Optimizer {
 public:
  explicit AdamW(std::vector<Tensor> parameters, AdamWOptions options = {});

 private:
  void update(Device device, const kernels::UpdateTable& table, const kernels::StepState* state) override;
  AdamWOptions options_;
};

}  // namespace weft::optim
