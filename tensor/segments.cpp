#include "tensor/segments.h"

#include <algorithm>
#include <utility>

namespace weft {

Segments::Segments(std::vector<std::int32_t> cu_seqlens, Device device) : offsets_(std::move(cu_seqlens)) {
  require<ShapeError>(offsets_.size() >= 2 && offsets_.front() == 0, "segments",
                      "a table must start at 0 and have at least one segment but has {} entries", offsets_.size());
  for (std::size_t s = 0; s + 1 < offsets_.size(); ++s) {
    require<ShapeError>(offsets_[s] < offsets_[s + 1], "segments",
                        "a segment must have a place at least but segment {} is [{}, {})", s, offsets_[s],
                        offsets_[s + 1]);
    max_length_ = std::max<std::int64_t>(max_length_, offsets_[s + 1] - offsets_[s]);
  }
  cu_seqlens_ = Tensor::from_vector<std::int32_t>(offsets_, {static_cast<std::int64_t>(offsets_.size())});
  ids_ = Tensor::empty({places()}, Dtype::i32);
  auto* ids = ids_.data<std::int32_t>();
  for (std::size_t s = 0; s + 1 < offsets_.size(); ++s)
    std::fill(ids + offsets_[s], ids + offsets_[s + 1], static_cast<std::int32_t>(s));
  if (device != device_) *this = to(device);
}

Segments Segments::to(Device device) const {
  Segments result = *this;
  if (device == device_ || !defined()) return result;
  result.device_ = device;
  result.cu_seqlens_ = Tensor::empty(cu_seqlens_.shape(), Dtype::i32, device);
  result.cu_seqlens_.copy_bytes_from(cu_seqlens_);
  result.ids_ = Tensor::empty(ids_.shape(), Dtype::i32, device);
  result.ids_.copy_bytes_from(ids_);
  return result;
}

}  // namespace weft
