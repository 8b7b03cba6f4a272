#include "nn/init.h"

#include <cmath>

#include "tensor/philox.h"

namespace weft::nn {
namespace {

thread_local std::uint64_t thread_seed = 0;
thread_local std::uint32_t next_stream = 0;

}  // namespace

void manual_seed(std::uint64_t seed) {
  thread_seed = seed;
  next_stream = 0;
}

void uniform_(const Tensor& tensor, double bound) {
  require<ShapeError>(tensor.is_contiguous(), "uniform_", "needs a contiguous tensor");
  Philox random(thread_seed, RandomUse::initialisation, next_stream++);
  // Drawn on the cpu, whatever the device: the same numbers everywhere.
  const bool on_cpu = tensor.device().kind == DeviceKind::cpu;
  const Tensor drawn = on_cpu ? tensor : Tensor::empty(tensor.shape(), tensor.dtype());
  dispatch_float(tensor.dtype(), "uniform_", [&]<class T>(std::type_identity<T>) {
    T* const values = drawn.data<T>();
    for (std::int64_t i = 0; i < tensor.numel(); ++i) {
      const double value = (2.0 * random.uniform() - 1.0) * bound;
      values[i] = static_cast<T>(static_cast<compute_t<T>>(value));
    }
  });
  if (!on_cpu) tensor.copy_bytes_from(drawn);
}

double default_bound(std::int64_t fan_in) { return fan_in > 0 ? 1.0 / std::sqrt(static_cast<double>(fan_in)) : 0.0; }

}  // namespace weft::nn
