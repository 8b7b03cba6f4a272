#include "nn/module.h"

#include "autograd/cast.h"
#include "autograd/engine.h"
#include "autograd/layout.h"

namespace weft::nn {

Tensor parameter(const Tensor& initial) { return set_requires_grad(initial); }

namespace detail {

void DeepCopy::on_parameter(const std::string& /*path*/, Tensor& tensor) {
  const NoGrad guard;
  const bool trained = requires_grad(tensor);
  tensor = weft::clone(tensor.alias());
  if (trained) set_requires_grad(tensor);
}
void DeepCopy::on_buffer(const std::string& /*path*/, Tensor& tensor) { tensor = weft::clone(tensor.alias()); }

void MoveTo::on_parameter(const std::string& /*path*/, Tensor& tensor) {
  tensor.replace_storage(weft::to(tensor.alias(), device_));
  zero_grad(tensor);  // its memory is on the old device
}
void MoveTo::on_buffer(const std::string& /*path*/, Tensor& tensor) {
  tensor.replace_storage(weft::to(tensor.alias(), device_));
}

void load_state(const NamedTensors& own, const NamedTensors& state) {
  const auto find = [](const NamedTensors& in, const std::string& name) -> const Tensor* {
    for (const auto& [candidate, tensor] : in)
      if (candidate == name) return &tensor;
    return nullptr;
  };
  for (const auto& [name, tensor] : state)
    require(find(own, name) != nullptr, "load_state_dict", "the module has no tensor '{}'", name);
  for (const auto& [name, tensor] : own) {
    const Tensor* from = find(state, name);
    require(from != nullptr, "load_state_dict", "the state has no tensor '{}'", name);
    require(from->shape() == tensor.shape() && from->dtype() == tensor.dtype(), "load_state_dict",
            "'{}' must be {} {} but is {} {}", name, tensor.shape(), to_string(tensor.dtype()), from->shape(),
            to_string(from->dtype()));
  }
  const NoGrad guard;
  for (const auto& [name, tensor] : own) copy_(tensor, to(*find(state, name), tensor.device()));
}

}  // namespace detail
}  // namespace weft::nn
