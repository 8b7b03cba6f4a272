#include "data/tensor_dataset.h"

#include <utility>

#include "autograd/layout.h"
#include "data/fingerprint.h"
#include "data/gather.h"

namespace weft::data {
namespace {

Tensor checked(const Tensor& x, const char* role) {
  require<ShapeError>(x.rank() >= 1, "tensor_dataset", "{} must have a dimension for the samples but its shape is []",
                      role);
  require<DeviceError>(x.device().kind == DeviceKind::cpu, "tensor_dataset",
                       "{} must be on the cpu but is on {}: the loader copies batches to its device", role, x.device());
  return contiguous(x.alias());  // data only: a batch carries no graph
}

}  // namespace

TensorDataset::TensorDataset(const Tensor& input, const Tensor& target, std::string name)
    : input_(checked(input, "input")), target_(checked(target, "target")), name_(std::move(name)) {
  require<ShapeError>(input_.size(0) == target_.size(0), "tensor_dataset",
                      "input and target must have the same number of rows but have {} and {}", input_.size(0),
                      target_.size(0));
}

std::uint64_t TensorDataset::fingerprint() const { return hash_combine(hash_tensor(input_), hash_tensor(target_)); }

Batch TensorDataset::collate(std::span<const std::int64_t> ids) const {
  return {gather_rows(input_, ids), gather_rows(target_, ids)};
}

}  // namespace weft::data
