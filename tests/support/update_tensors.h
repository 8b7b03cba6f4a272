#pragma once
// Parameters with gradients and moments on any device, for the tests of the optimizers' kernels.
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "autograd/cast.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "kernels/common/step_state.h"
#include "kernels/common/update_table.h"
#include "support/compare.h"

namespace weft::test {

/// Dense tensors on the cpu, one of each kind per parameter.
struct UpdateInputs {
  std::vector<Tensor> parameter, gradient, moment1, moment2;

  /// Random values; moment2 at least 0, as a mean of squares is. dtypes repeat.
  static UpdateInputs random(const std::vector<std::int64_t>& sizes, const std::vector<Dtype>& dtypes,
                             std::uint64_t seed = 1) {
    UpdateInputs inputs;
    for (std::size_t p = 0; p < sizes.size(); ++p) {
      const Dtype dtype = dtypes[p % dtypes.size()];
      const auto draw = [&] { return cast(randn({sizes[p]}, seed++, Dtype::f32), dtype); };
      inputs.parameter.push_back(draw());
      inputs.gradient.push_back(draw());
      inputs.moment1.push_back(draw());
      inputs.moment2.push_back(cast(rand({sizes[p]}, seed++, Dtype::f32), dtype));
    }
    return inputs;
  }
  /// The same values in f64.
  UpdateInputs in_f64() const {
    const auto all = [](const std::vector<Tensor>& tensors) {
      std::vector<Tensor> wide;
      wide.reserve(tensors.size());
      for (const Tensor& tensor : tensors) wide.push_back(clone(cast(tensor, Dtype::f64)));
      return wide;
    };
    return {all(parameter), all(gradient), all(moment1), all(moment2)};
  }
};

/// The status word of a device on which something went wrong.
inline Tensor set_status(Device device) {
  return to(Tensor::from_vector(std::vector<std::int64_t>{1, 5, 12, 10}, {4}), device);
}

/// A table over copies of such tensors on a device, each in the middle of a larger one whose other elements are a mark.
class UpdateTensors {
 public:
  /// offset: elements by which each tensor lies behind an aligned address.
  UpdateTensors(Device device, const UpdateInputs& inputs, std::int64_t offset = 0) : offset_(offset) {
    const std::pair<std::vector<Tensor>*, const std::vector<Tensor>*> kinds[] = {{&parameter_, &inputs.parameter},
                                                                                 {&gradient_, &inputs.gradient},
                                                                                 {&moment1_, &inputs.moment1},
                                                                                 {&moment2_, &inputs.moment2}};
    for (const auto& [tensors, sources] : kinds)
      for (const Tensor& source : *sources) {
        const Tensor padded = full({source.numel() + offset + kBehind}, kMark, source.dtype());
        padded.slice(0, offset, offset + source.numel()).copy_bytes_from(source);
        tensors->push_back(to(padded, device));
      }
    applied = to(zeros({static_cast<std::int64_t>(parameter_.size())}, Dtype::i64), device);
    state = to(zeros({kernels::kStepStateWords}, Dtype::i64), device);
    for (std::size_t p = 0; p < parameter_.size(); ++p) {
      const auto at = [&](const Tensor& tensor) {
        return tensor.slice(0, offset, tensor.numel() - kBehind).raw_data();
      };
      table.add({.parameter = at(parameter_[p]),
                 .gradient = at(gradient_[p]),
                 .moment1 = at(moment1_[p]),
                 .moment2 = at(moment2_[p]),
                 .applied = applied.data<std::int64_t>() + p,
                 .elements = inputs.parameter[p].numel(),
                 .dtype = inputs.parameter[p].dtype()});
    }
    partial = Tensor::empty({static_cast<std::int64_t>(table.chunks().size())}, Dtype::f64, device);
  }
  UpdateTensors(const UpdateTensors&) = delete;
  UpdateTensors& operator=(const UpdateTensors&) = delete;

  kernels::StepState read_state() const {
    const Tensor words = to(state, Device{});
    kernels::StepState result;
    std::memcpy(&result, words.raw_data(), sizeof(result));
    return result;
  }
  void write_state(const kernels::StepState& value) const {
    const Tensor words = Tensor::empty({kernels::kStepStateWords}, Dtype::i64);
    std::memcpy(words.raw_data(), &value, sizeof(value));
    state.copy_bytes_from(words);
  }
  void write_applied(const std::vector<std::int64_t>& counts) const {
    applied.copy_bytes_from(Tensor::from_vector(counts, {static_cast<std::int64_t>(counts.size())}));
  }
  std::vector<std::int64_t> read_applied() const { return to(applied, Device{}).to_vector<std::int64_t>(); }
  void write_gradients(const std::vector<Tensor>& gradients) const {
    for (std::size_t p = 0; p < gradients.size(); ++p)
      gradient_[p].slice(0, offset_, gradient_[p].numel() - kBehind).copy_bytes_from(to(gradients[p], state.device()));
  }

  /// The tensors' values on the cpu.
  UpdateInputs read() const {
    const auto all = [&](const std::vector<Tensor>& tensors) {
      std::vector<Tensor> values;
      values.reserve(tensors.size());
      for (const Tensor& tensor : tensors)
        values.push_back(clone(to(tensor, Device{}).slice(0, offset_, tensor.numel() - kBehind)));
      return values;
    };
    return {all(parameter_), all(gradient_), all(moment1_), all(moment2_)};
  }
  /// All of it, for bitwise comparisons.
  std::vector<Tensor> bits() const {
    const UpdateInputs now = read();
    std::vector<Tensor> all = {to(state, Device{}), to(applied, Device{})};
    for (const auto* tensors : {&now.parameter, &now.gradient, &now.moment1, &now.moment2})
      all.insert(all.end(), tensors->begin(), tensors->end());
    return all;
  }
  /// Whether nothing was written outside of the tensors.
  bool intact() const {
    for (const auto* tensors : {&parameter_, &gradient_, &moment1_, &moment2_})
      for (const Tensor& tensor : *tensors) {
        const std::vector<double> all = values(to(tensor, Device{}));
        for (std::size_t i = 0; i < all.size(); ++i) {
          const bool outside = i < static_cast<std::size_t>(offset_) || i >= all.size() - kBehind;
          if (outside && all[i] != kMark) return false;
        }
      }
    return true;
  }

  kernels::UpdateTable table;
  Tensor applied, state, partial;

 private:
  static constexpr std::int64_t kBehind = 8;
  static constexpr double kMark = -12345;
  std::int64_t offset_;
  std::vector<Tensor> parameter_, gradient_, moment1_, moment2_;
};

}  // namespace weft::test
