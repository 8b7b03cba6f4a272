#pragma once
// What the normalisations ask of their [C] operands.
#include "tensor/tensor.h"

namespace weft::detail {

/// Throws unless `operand` has this dtype and lives on `device`.
inline void check_operand(const char* op, const char* name, const Tensor& operand, Dtype dtype, Device device) {
  require<DtypeError>(operand.dtype() == dtype, op, "{} must be {} to go with x but is {}", name, to_string(dtype),
                      to_string(operand.dtype()));
  require<DeviceError>(operand.device() == device, op, "{} must be on {} like x but is on {}", name, device,
                       operand.device());
}

/// Throws unless `vector` is undefined, or has shape [channels], this dtype, and lives on `device`.
inline void check_channel_vector(const char* op, const char* name, const Tensor& vector, std::int64_t channels,
                                 Dtype dtype, Device device) {
  if (!vector.defined()) return;
  require<ShapeError>(vector.rank() == 1 && vector.size(0) == channels, op, "{} must have shape [C]=[{}] but has {}",
                      name, channels, vector.shape());
  check_operand(op, name, vector, dtype, device);
}

/// The data of a tensor that may be undefined.
inline std::byte* data_or_null(const Tensor& tensor) { return tensor.defined() ? tensor.raw_data() : nullptr; }

/// The type of means, variances and partial sums of data of this type.
inline Dtype statistics_dtype(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

}  // namespace weft::detail
