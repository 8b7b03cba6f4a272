#pragma once
// Memory for a kernel's output: NaN before the call, and fenced, so that a missed element and a write past the end show.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "tensor/tensor.h"

namespace weft::test {

/// A dense tensor over memory whose every byte is 0xff (NaN in each float type) between two fences.
class Guarded {
 public:
  explicit Guarded(const Shape& shape, Dtype dtype)
      : bytes_(static_cast<std::size_t>(shape.numel() * element_bytes(dtype)) + 2 * kFence, 0xff) {
    std::fill_n(bytes_.begin(), kFence, kMark);
    std::fill_n(bytes_.end() - kFence, kFence, kMark);
    dispatch_all(dtype, "guarded", [&]<class T>(std::type_identity<T>) {
      tensor_ = Tensor::from_blob(reinterpret_cast<T*>(bytes_.data() + kFence), shape);
    });
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  const Tensor& tensor() const { return tensor_; }
  void* data() const { return tensor_.raw_data(); }
  /// Whether nothing was written outside of the tensor.
  bool intact() const {
    const auto marked = [](std::uint8_t byte) { return byte == kMark; };
    return std::all_of(bytes_.begin(), bytes_.begin() + kFence, marked) &&
           std::all_of(bytes_.end() - kFence, bytes_.end(), marked);
  }

 private:
  static constexpr std::ptrdiff_t kFence = 256;
  static constexpr std::uint8_t kMark = 0xa5;
  std::vector<std::uint8_t> bytes_;
  Tensor tensor_;
};

/// Half the distance from 1 to the next number: the relative error of one rounding.
inline double rounding(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64: return 0x1p-53;
    case Dtype::f32: return 0x1p-24;
    case Dtype::f16: return 0x1p-11;
    default: return 0x1p-8;
  }
}

}  // namespace weft::test
