#include "autograd/factories.h"

#include "autograd/cast.h"
#include "kernels/copy.h"

namespace weft {
namespace {

// Draws f64 values on the cpu, converts, moves: the numbers are the same on every device.
template <class Draw>
Tensor drawn(const Shape& shape, std::uint64_t seed, Dtype dtype, Device device, Draw draw) {
  require<DtypeError>(is_floating(dtype), "rand", "needs a floating dtype but was asked for {}", to_string(dtype));
  const Tensor values = Tensor::empty(shape, Dtype::f64);
  Philox random(seed);
  for (std::int64_t i = 0; i < values.numel(); ++i) values.data<double>()[i] = draw(random);
  return to(cast(values, dtype), device);
}

}  // namespace

Tensor full(const Shape& shape, double value, Dtype dtype, Device device) {
  Tensor tensor = Tensor::empty(shape, dtype, device);
  kernels::fill(device, {dtype, tensor.raw_data(), tensor.numel(), value});
  return tensor;
}
Tensor zeros(const Shape& shape, Dtype dtype, Device device) { return full(shape, 0.0, dtype, device); }
Tensor ones(const Shape& shape, Dtype dtype, Device device) { return full(shape, 1.0, dtype, device); }
Tensor zeros_like(const Tensor& tensor) { return zeros(tensor.shape(), tensor.dtype(), tensor.device()); }
Tensor scalar(double value, Dtype dtype, Device device) { return full({}, value, dtype, device); }

Tensor arange(std::int64_t count, Dtype dtype, Device device) {
  require<ShapeError>(count >= 0, "arange", "count must not be negative but is {}", count);
  Tensor values = Tensor::empty({count}, Dtype::i64);
  for (std::int64_t i = 0; i < count; ++i) values.data<std::int64_t>()[i] = i;
  return to(cast(values, dtype), device);
}

Tensor rand(const Shape& shape, std::uint64_t seed, Dtype dtype, Device device) {
  return drawn(shape, seed, dtype, device, [](Philox& random) { return random.uniform(); });
}
Tensor randn(const Shape& shape, std::uint64_t seed, Dtype dtype, Device device) {
  return drawn(shape, seed, dtype, device, [](Philox& random) { return random.normal(); });
}

}  // namespace weft
