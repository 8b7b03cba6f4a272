#include "optim/adamw.h"

#include "kernels/adamw.h"
#include "tensor/status.h"

namespace weft::optim {

AdamW::AdamW(std::vector<Tensor> parameters, AdamWOptions options)
    : Optimizer("adamw", std::move(parameters),
                {.lr = options.lr, .max_norm = options.max_norm, .max_skipped = options.max_skipped}, {"m", "v"}),
      options_(options) {
  require_fraction("adamw", "beta1", options.beta1);
  require_fraction("adamw", "beta2", options.beta2);
  require_non_negative("adamw", "eps", options.eps);
  require_non_negative("adamw", "weight_decay", options.weight_decay);
}

void AdamW::update(Device device, const kernels::UpdateTable& table, const kernels::StepState* state) {
  kernels::adamw(device, {.table = &table,
                          .state = state,
                          .beta1 = options_.beta1,
                          .beta2 = options_.beta2,
                          .eps = options_.eps,
                          .weight_decay = options_.weight_decay,
                          .status = device.kind == DeviceKind::cpu ? nullptr : status_word(device)});
}

}  // namespace weft::optim
