#include "optim/sgd.h"

#include "kernels/sgd.h"
#include "tensor/status.h"

namespace weft::optim {

SGD::SGD(std::vector<Tensor> parameters, SGDOptions options)
    : Optimizer("sgd", std::move(parameters),
                {.lr = options.lr, .max_norm = options.max_norm, .max_skipped = options.max_skipped},
                options.momentum != 0 ? std::vector<const char*>{"momentum"} : std::vector<const char*>{}),
      options_(options) {
  require_fraction("sgd", "momentum", options.momentum);
  require_non_negative("sgd", "weight_decay", options.weight_decay);
  require<OptionError>(!options.nesterov || options.momentum > 0, "sgd",
                       "nesterov needs a momentum above 0 but momentum is {}", options.momentum);
}

void SGD::update(Device device, const kernels::UpdateTable& table, const kernels::StepState* state) {
  kernels::sgd(device, {.table = &table,
                        .state = state,
                        .momentum = options_.momentum,
                        .nesterov = options_.nesterov,
                        .weight_decay = options_.weight_decay,
                        .status = device.kind == DeviceKind::cpu ? nullptr : status_word(device)});
}

}  // namespace weft::optim
