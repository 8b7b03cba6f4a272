#pragma once
// Tensors with values.
#include <cstdint>

#include "tensor/philox.h"
#include "tensor/tensor.h"

namespace weft {

/// All 0.
Tensor zeros(const Shape& shape, Dtype dtype = Dtype::f32, Device device = {});
/// All 1.
Tensor ones(const Shape& shape, Dtype dtype = Dtype::f32, Device device = {});
/// All `value`.
Tensor full(const Shape& shape, double value, Dtype dtype = Dtype::f32, Device device = {});
/// All 0, with the shape, dtype and device of `tensor`.
Tensor zeros_like(const Tensor& tensor);
/// A tensor of rank 0.
Tensor scalar(double value, Dtype dtype = Dtype::f32, Device device = {});
/// 0, 1, ..., count - 1.
Tensor arange(std::int64_t count, Dtype dtype = Dtype::i64, Device device = {});
/// Uniform in [0, 1). Element i is a pure function of (seed, i): drawn on the cpu in f64, rounded, copied to the device.
Tensor rand(const Shape& shape, std::uint64_t seed, Dtype dtype = Dtype::f32, Device device = {});
/// Standard normal, drawn as rand.
Tensor randn(const Shape& shape, std::uint64_t seed, Dtype dtype = Dtype::f32, Device device = {});

}  // namespace weft
