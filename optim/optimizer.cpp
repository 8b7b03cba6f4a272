#include "optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <tuple>

#include <fmt/core.h>

#include "autograd/cast.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "kernels/grad_norm.h"
#include "tensor/gpu.h"
#include "tensor/status.h"

namespace weft::optim {
namespace {

void check_parameters(const char* name, const std::vector<Tensor>& parameters) {
  require<OptionError>(!parameters.empty(), name, "needs at least one parameter but got none");
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    const Tensor& parameter = parameters[p];
    require<OptionError>(parameter.defined(), name, "parameter {} is an undefined tensor", p);
    require<DtypeError>(
        parameter.dtype() == Dtype::f32 || parameter.dtype() == Dtype::f64, name,
        "parameters must be f32 or f64 but parameter {} is {}; keep it in f32 and cast where it is used", p,
        to_string(parameter.dtype()));
    require<AutogradError>(is_leaf(parameter) && requires_grad(parameter), name,
                           "parameter {} of shape {} must be a leaf that requires a gradient (nn::parameter makes one)",
                           p, parameter.shape());
    require<ShapeError>(parameter.is_contiguous(), name,
                        "parameter {} of shape {} must be contiguous but has strides {}", p, parameter.shape(),
                        parameter.strides());
    require<DeviceError>(parameter.device() == parameters[0].device(), name,
                         "all parameters must be on one device but parameter 0 is on {} and parameter {} on {}",
                         parameters[0].device(), p, parameter.device());
  }
  // A parameter given twice would be updated twice, by two threads at once. Overlapping views are the same mistake.
  std::vector<std::size_t> order(parameters.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return parameters[a].raw_data() < parameters[b].raw_data(); });
  const Tensor* before = nullptr;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const Tensor& parameter = parameters[order[i]];
    if (parameter.numel() == 0) continue;
    require<OptionError>(before == nullptr || before->raw_data() + before->nbytes() <= parameter.raw_data(), name,
                         "parameter {} of shape {} shares memory with another one: give each parameter once", order[i],
                         parameter.shape());
    before = &parameter;
  }
}

}  // namespace

void require_non_negative(const char* name, const char* option, double value) {
  require<OptionError>(std::isfinite(value) && value >= 0, name, "{} must be finite and at least 0 but is {}", option,
                       value);
}

void require_fraction(const char* name, const char* option, double value) {
  require<OptionError>(value >= 0 && value < 1, name, "{} must be in [0, 1) but is {}", option, value);
}

Optimizer::Optimizer(const char* name, std::vector<Tensor> parameters, const Limits& limits,
                     std::vector<const char*> moments)
    : name_(name),
      parameters_(std::move(parameters)),
      moment_names_(std::move(moments)),
      lr_(limits.lr),
      max_norm_(limits.max_norm),
      max_skipped_(limits.max_skipped) {
  require_non_negative(name, "lr", limits.lr);
  require_non_negative(name, "max_norm", limits.max_norm);
  require<OptionError>(limits.max_skipped >= 1, name, "max_skipped must be at least 1 but is {}", limits.max_skipped);
  check_parameters(name, parameters_);
  for (const Tensor& parameter : parameters_)
    for (std::size_t m = 0; m < moment_names_.size(); ++m) moments_.push_back(zeros_like(parameter));
  const Device device = parameters_[0].device();
  steps_ = zeros({static_cast<std::int64_t>(parameters_.size())}, Dtype::i64, device);
  scalars_ = zeros({kernels::kStepStateWords}, Dtype::i64, device);
  const kernels::StepState initial{.lr = limits.lr};
  const Tensor words = Tensor::empty({kernels::kStepStateWords}, Dtype::i64);
  std::memcpy(words.raw_data(), &initial, sizeof(initial));
  scalars_.copy_bytes_from(words);
}

void Optimizer::step() {
  gather(0);
  run(nullptr);
  if (scalars_.device().kind != DeviceKind::cuda) check();
}

void Optimizer::step(const Window& window) {
  require<AutogradError>(window.micro_batches() > 0, name_,
                         "the window is empty: call window.backward(loss) before step(window)");
  gather(window.id());
  require<DeviceError>(window.denominator().device() == parameters_[0].device(), name_,
                       "the window's losses are on {} but the parameters on {}", window.denominator().device(),
                       parameters_[0].device());
  run(window.denominator().data<double>());
  for (const std::size_t p : updated_) weft::zero_grad(parameters_[p]);
  if (scalars_.device().kind != DeviceKind::cuda) check();
}

void Optimizer::zero_grad() {
  for (const Tensor& parameter : parameters_) weft::zero_grad(parameter);
}

void Optimizer::set_lr(double lr) {
  require_non_negative(name_, "lr", lr);
  if (lr == lr_) return;
  lr_ = lr;
  write_lr();
}

// The kernels read the learning rate from device memory; on a GPU the eight bytes travel in stream order.
void Optimizer::write_lr() {
  if (scalars_.device().kind == DeviceKind::cpu)
    scalars()->lr = lr_;
  else
    gpu::copy_in(scalars_.device(), &scalars()->lr, &lr_, sizeof(lr_));
}

kernels::StepState Optimizer::read_scalars() const {
  if (scalars_.device().kind == DeviceKind::cpu) return *scalars();
  kernels::StepState state;
  gpu::copy_out(scalars_.device(), &state, scalars(), sizeof(state));
  return state;
}

// A model that was moved after the optimizer was made takes the optimizer's state along.
void Optimizer::follow_parameters() {
  const Device device = parameters_[0].device();
  if (scalars_.device() == device) return;
  for (const Tensor& parameter : parameters_)
    require<DeviceError>(parameter.device() == device, name_,
                         "all parameters must be on one device but parameter 0 is on {} and another on {}", device,
                         parameter.device());
  for (const Tensor& moment : moments_) moment.replace_storage(to(moment, device));
  steps_.replace_storage(to(steps_, device));
  scalars_.replace_storage(to(scalars_, device));
  partial_ = Tensor();
}

// Fills the table with the parameters that have a gradient. Pointers are read anew each time, because to() and
// load_state_dict may have swapped the storage behind a handle.
void Optimizer::gather(std::uint64_t window) {
  follow_parameters();
  table_.clear();
  updated_.clear();
  const std::size_t per_parameter = moment_names_.size();
  for (std::size_t p = 0; p < parameters_.size(); ++p) {
    const Tensor& parameter = parameters_[p];
    const Tensor gradient = grad(parameter);
    if (!gradient.defined()) continue;
    const std::uint64_t owner = grad_window(parameter);
    if (owner != window) {
      require<AutogradError>(owner == 0, name_, "the gradient of parameter {} belongs to window {} but this step to {}",
                             p, owner,
                             window == 0 ? "none: pass the window, step(window)" : fmt::format("window {}", window));
      fail<AutogradError>(
          name_,
          "the gradient of parameter {} belongs to no window but this step to window {}: use window.backward, "
          "or step() for plain gradients",
          p, window);
    }
    kernels::UpdateEntry entry{.parameter = parameter.raw_data(),
                               .gradient = gradient.raw_data(),
                               .applied = steps_.data<std::int64_t>() + p,
                               .elements = parameter.numel(),
                               .dtype = parameter.dtype()};
    if (per_parameter > 0) entry.moment1 = moments_[p * per_parameter].raw_data();
    if (per_parameter > 1) entry.moment2 = moments_[p * per_parameter + 1].raw_data();
    table_.add(entry);
    updated_.push_back(p);
  }
  const auto chunks = static_cast<std::int64_t>(table_.chunks().size());
  if (!partial_.defined() || partial_.numel() < chunks)
    partial_ = Tensor::empty({chunks}, Dtype::f64, parameters_[0].device());
}

void Optimizer::run(const double* denominator) {
  const Device device = parameters_[0].device();
  kernels::grad_norm(device, {.table = &table_,
                              .denominator = denominator,
                              .max_norm = max_norm_,
                              .state = scalars(),
                              .partial = partial_.data<double>(),
                              .status = device.kind == DeviceKind::cpu ? nullptr : status_word(device)});
  update(device, table_, scalars());
  // Also when skipped: whether it was is known on the device only.
  for (const std::size_t p : updated_) parameters_[p].bump_version();
}

void Optimizer::check() {
  check_status(scalars_.device());
  const kernels::StepState state = read_scalars();
  const std::int64_t skipped = state.updates - state.applied;
  if (skipped == skipped_reported_) return;
  const std::int64_t unreported = skipped - skipped_reported_;
  skipped_reported_ = skipped;
  if (state.skipped_in_a_row == 0) {  // seen late: the last update was made again
    fmt::print(stderr, "[{}] warning: {} updates were skipped, nothing was changed by them\n", name_, unreported);
    return;
  }
  const std::string reason =
      state.denominator == 0
          ? std::string("the window's denominator is 0 (all targets are masked)")
          : fmt::format("the gradient is not finite (norm {}, denominator {})", state.norm, state.denominator);
  fmt::print(stderr, "[{}] warning: update {} is skipped, nothing was changed: {}; {} in a row, an error at {}\n",
             name_, state.updates, reason, state.skipped_in_a_row, max_skipped_);
  require<Error>(state.skipped_in_a_row < max_skipped_, name_,
                 "{} updates in a row were skipped, the last one because {}", state.skipped_in_a_row, reason);
}

std::vector<std::pair<std::string, Tensor>> Optimizer::state() const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (std::size_t i = 0; i < moments_.size(); ++i)
    tensors.emplace_back(fmt::format("{}.{}", i / moment_names_.size(), moment_names_[i % moment_names_.size()]),
                         moments_[i]);
  tensors.emplace_back("step", steps_);
  tensors.emplace_back("counters", scalars_.slice(0, kernels::kStepStateFirstCounter, kernels::kStepStateWords));
  return tensors;
}

void Optimizer::load_state(const std::vector<std::pair<std::string, Tensor>>& state) {
  follow_parameters();
  const auto own = this->state();
  const auto find = [](const auto& in, const std::string& name) {
    return std::find_if(in.begin(), in.end(), [&](const auto& entry) { return entry.first == name; });
  };
  for (const auto& [name, tensor] : state)
    require(find(own, name) != own.end(), name_,
            "the state has '{}', which this optimizer has not: it is another one's, or another model's", name);
  for (const auto& [name, tensor] : own) {
    const auto from = find(state, name);
    require(from != state.end(), name_, "the state has no '{}': it is another optimizer's, or another model's", name);
    require(from->second.shape() == tensor.shape() && from->second.dtype() == tensor.dtype(), name_,
            "the state's '{}' must be {} {} but is {} {}", name, to_string(tensor.dtype()), tensor.shape(),
            to_string(from->second.dtype()), from->second.shape());
  }
  const auto counters = find(state, "counters")->second.to_vector<std::int64_t>();
  const auto [updates, applied, zero, not_finite, in_a_row] =
      std::tie(counters[0], counters[1], counters[2], counters[3], counters[4]);
  const bool possible = updates >= 0 && applied >= 0 && zero >= 0 && not_finite >= 0 && in_a_row >= 0 &&
                        applied <= updates && zero <= updates - applied && not_finite == updates - applied - zero &&
                        in_a_row <= updates - applied;
  require(
      possible, name_,
      "the state's counters cannot be: {} updates, {} applied, {} skipped for a zero denominator, {} as not finite, {} "
      "skipped in a row",
      updates, applied, zero, not_finite, in_a_row);
  const auto steps = find(state, "step")->second.to_vector<std::int64_t>();
  for (std::size_t p = 0; p < steps.size(); ++p)
    require(steps[p] >= 0 && steps[p] <= applied, name_,
            "the state's step of parameter {} must be in [0, {}], the updates that were applied, but is {}", p, applied,
            steps[p]);
  for (const auto& [name, tensor] : own) tensor.copy_bytes_from(contiguous(find(state, name)->second.alias()));
  skipped_reported_ = updates - applied;
}

}  // namespace weft::optim
