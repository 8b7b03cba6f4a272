#pragma once
// The trailing axes that layer_norm and rms_norm normalise over.
#include "autograd/channel_vector.h"
#include "tensor/tensor.h"

namespace weft::detail {

/// Throws unless x is floating and ends in `normalized`, whose extents are all at least 1. An empty `normalized` stands
/// for x's last axis.
inline Shape check_normalized_shape(const char* op, const Tensor& x, const Shape& normalized) {
  require<DtypeError>(is_floating(x.dtype()), op, "x must be f64, f32, f16 or bf16 but is {}", to_string(x.dtype()));
  if (normalized.rank() == 0) {
    require<ShapeError>(x.rank() >= 1 && x.size(-1) >= 1, op, "x must have shape [..., C] with C >= 1 but has {}",
                        x.shape());
    return {x.size(-1)};
  }
  bool ends_in_it = x.rank() >= normalized.rank();
  for (int i = 0; i < normalized.rank(); ++i) {
    require<ShapeError>(normalized[i] >= 1, op, "normalized_shape must have extents of at least 1 but is {}",
                        normalized);
    ends_in_it = ends_in_it && x.size(i - normalized.rank()) == normalized[i];
  }
  require<ShapeError>(ends_in_it, op, "x must end in normalized_shape {} but has {}", normalized, x.shape());
  return normalized;
}

/// Throws unless `vector` is undefined, or has the normalised shape, this dtype, and lives on x's device.
inline void check_normalized_operand(const char* op, const char* name, const Tensor& vector, const Shape& normalized,
                                     const Tensor& x) {
  if (normalized.rank() == 1) return check_channel_vector(op, name, vector, normalized[0], x.dtype(), x.device());
  if (!vector.defined()) return;
  require<ShapeError>(vector.shape() == normalized, op, "{} must have shape {} but has {}", name, normalized,
                      vector.shape());
  check_operand(op, name, vector, x.dtype(), x.device());
}

}  // namespace weft::detail
