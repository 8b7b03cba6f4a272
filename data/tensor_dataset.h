#pragma once
#include "data/dataset.h"

namespace weft::data {

/// Samples held in two tensors: sample i is row i of each.
///   data::Loader loader{data::TensorDataset{x, y}, {.batch = data::MiniBatch{32}}};
/// Shapes:  input [N, ...], target [N, ...].
/// Types:   any, each its own.
/// Layout:  on the cpu; made contiguous when they are not, else shared: do not write to them while they are in use.
/// Errors:  ShapeError "[tensor_dataset] input and target must have the same number of rows but have 100 and 99"; DeviceError
///          off the cpu.
class TensorDataset final : public Dataset {
 public:
  TensorDataset(const Tensor& input, const Tensor& target, std::string name = "tensors");

  std::int64_t size() const override { return input_.size(0); }
  std::string name() const override { return name_; }
  std::uint64_t fingerprint() const override;
  Batch collate(std::span<const std::int64_t> ids) const override;

 private:
  Tensor input_;
  Tensor target_;
  std::string name_;
};

}  // namespace weft::data
