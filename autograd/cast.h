#pragma once
#include "tensor/tensor.h"

namespace weft {

/// Converts to another dtype (the same tensor when it has that dtype already). Differentiable between floats.
///   float -> integer truncates toward zero and saturates, NaN gives 0; anything -> bool is x != 0; f64/f32 -> f16/bf16
///   rounds to nearest even.
Tensor cast(const Tensor& x, Dtype dtype);

/// The tensor on another device (the same tensor when it is there already). Differentiable. A view that is not dense is
/// made contiguous first.
/// Errors: DeviceError when either device is not built in.
Tensor to(const Tensor& x, Device device);

}  // namespace weft
