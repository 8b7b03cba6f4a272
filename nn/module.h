#pragma once
// A module is a plain struct with a call operator and a visit() that names its parts:
//
//   struct Residual {
//     nn::LayerNorm norm{256};
//     nn::Linear up{256, 1024}, down{1024, 256};
//     Tensor operator()(const Tensor& x) { return x + down(relu(up(norm(x)))); }
//     template <class V> void visit(V& v) { v("norm", norm); v("up", up); v("down", down); }
//   };
//
// Everything else (parameters, names, moving to a device, train and eval mode, deep copies) follows from visit. There is no
// registry of member pointers: such a registry dangles as soon as a block moves.
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace weft::nn {

/// Whether layers behave as in training (BatchNorm uses the batch's statistics) or as in evaluation.
enum class Mode : std::uint8_t { train, eval };

/// Walks a module. visit() hands it every part:
///   v("weight", weight)            a parameter (an undefined tensor, an absent bias say, is passed over)
///   v("norm", norm)                a module inside
///   v.buffer("running_mean", t)    a tensor that belongs to the state but is not trained
///   v.mode(mode)                   the layer's train / eval switch
///   v.batch_statistics()           in training, a row's result depends on the other rows of its batch (BatchNorm)
class Visitor {
 public:
  virtual ~Visitor() = default;

  template <class Part>
  void operator()(std::string_view name, Part& part) {
    if constexpr (std::is_same_v<Part, Tensor>) {
      if (part.defined()) on_parameter(path(name), part);
    } else {
      const std::size_t length = prefix_.size();
      prefix_ = path(name) + ".";
      part.visit(*this);
      prefix_.resize(length);
    }
  }
  void buffer(std::string_view name, Tensor& tensor) {
    if (tensor.defined()) on_buffer(path(name), tensor);
  }
  void mode(Mode& mode) { on_mode(mode); }
  void batch_statistics() { on_batch_statistics(); }

 protected:
  virtual void on_parameter(const std::string& /*path*/, Tensor& /*tensor*/) {}
  virtual void on_buffer(const std::string& /*path*/, Tensor& /*tensor*/) {}
  virtual void on_mode(Mode& /*mode*/) {}
  virtual void on_batch_statistics() {}

 private:
  std::string path(std::string_view name) const { return prefix_ + std::string(name); }
  std::string prefix_;
};

/// Tensors with their names, in the order of visit().
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

namespace detail {
class Collect final : public Visitor {
 public:
  NamedTensors parameters, buffers;

 private:
  void on_parameter(const std::string& path, Tensor& tensor) override { parameters.emplace_back(path, tensor); }
  void on_buffer(const std::string& path, Tensor& tensor) override { buffers.emplace_back(path, tensor); }
};
class SetMode final : public Visitor {
 public:
  explicit SetMode(Mode mode) : mode_(mode) {}

 private:
  void on_mode(Mode& mode) override { mode = mode_; }
  Mode mode_;
};
class FindBatchStatistics final : public Visitor {
 public:
  bool found = false;

 private:
  void on_batch_statistics() override { found = true; }
};
class DeepCopy final : public Visitor {  // replaces every tensor by a copy of its own
 private:
  void on_parameter(const std::string& path, Tensor& tensor) override;
  void on_buffer(const std::string& path, Tensor& tensor) override;
};
class MoveTo final : public Visitor {
 public:
  explicit MoveTo(Device device) : device_(device) {}

 private:
  void on_parameter(const std::string& path, Tensor& tensor) override;
  void on_buffer(const std::string& path, Tensor& tensor) override;
  Device device_;
};
void load_state(const NamedTensors& own, const NamedTensors& state);
}  // namespace detail

/// Names and handles of all parameters, in visiting order: "0.weight", "norm.bias". The handles share the module's tensors.
template <class M>
NamedTensors named_parameters(M& module) {
  detail::Collect collect;
  module.visit(collect);
  return std::move(collect.parameters);
}
/// The tensors that are no parameters, with their names.
template <class M>
NamedTensors named_buffers(M& module) {
  detail::Collect collect;
  module.visit(collect);
  return std::move(collect.buffers);
}
/// The parameters, for an optimizer.
template <class M>
std::vector<Tensor> parameters(M& module) {
  std::vector<Tensor> tensors;
  for (auto& [name, tensor] : named_parameters(module)) tensors.push_back(std::move(tensor));
  return tensors;
}
/// Parameters, then buffers, by name.
template <class M>
NamedTensors state_dict(M& module) {
  detail::Collect collect;
  module.visit(collect);
  collect.parameters.insert(collect.parameters.end(), collect.buffers.begin(), collect.buffers.end());
  return std::move(collect.parameters);
}
/// Copies `state` into the module's tensors. Names, shapes and dtypes must match exactly; nothing is changed when they do not.
/// Errors: Error naming the first missing, unknown or differing entry.
template <class M>
void load_state_dict(M& module, const NamedTensors& state) {
  detail::load_state(state_dict(module), state);
}
/// Puts the module and its parts into training mode.
template <class M>
void train(M& module) {
  detail::SetMode set(Mode::train);
  module.visit(set);
}
/// Puts the module and its parts into evaluation mode.
template <class M>
void eval(M& module) {
  detail::SetMode set(Mode::eval);
  module.visit(set);
}
/// Whether a part computes statistics over the batch in training, so that cutting a batch into micro-batches changes what
/// the model computes.
template <class M>
bool uses_batch_statistics(M& module) {
  detail::FindBatchStatistics find;
  module.visit(find);
  return find.found;
}
/// Moves every tensor by swapping its storage in place: handles held elsewhere (an optimizer's) move along.
template <class M>
void to(M& module, Device device) {
  detail::MoveTo move(device);
  module.visit(move);
}
/// A deep copy: no tensor is shared. (Copying the struct itself copies handles.)
template <class M>
M clone(const M& module) {
  M copy = module;
  detail::DeepCopy deep;
  copy.visit(deep);
  return copy;
}
/// Number of trainable elements.
template <class M>
std::int64_t num_parameters(M& module) {
  std::int64_t count = 0;
  for (const auto& [name, tensor] : named_parameters(module)) count += tensor.numel();
  return count;
}

/// Makes a tensor a parameter: a leaf that collects a gradient.
Tensor parameter(const Tensor& initial);

}  // namespace weft::nn
