#include "nn/init.h"

#include <cmath>

#include "tensor/philox.h"

namespace weft::nn {
namespace {

thread_local std::uint64_t thread_seed = 0;
thread_local std::uint32_t next_stream = 0;
thread_local std::uint32_t next_dropout = 0;

// Drawn on the cpu, whatever the device: the same numbers everywhere.
template <class Draw>
void fill_from(const Tensor& tensor, const char* op, Draw&& draw) {
  require<ShapeError>(tensor.is_contiguous(), op, "needs a contiguous tensor");
  Philox random(thread_seed, RandomUse::initialisation, next_stream++);
  const bool on_cpu = tensor.device().kind == DeviceKind::cpu;
  const Tensor drawn = on_cpu ? tensor : Tensor::empty(tensor.shape(), tensor.dtype());
  dispatch_float(tensor.dtype(), op, [&]<class T>(std::type_identity<T>) {
    T* const values = drawn.data<T>();
    for (std::int64_t i = 0; i < tensor.numel(); ++i)
      values[i] = static_cast<T>(static_cast<compute_t<T>>(draw(random)));
  });
  if (!on_cpu) tensor.copy_bytes_from(drawn);
}

}  // namespace

void manual_seed(std::uint64_t seed) {
  thread_seed = seed;
  next_stream = 0;
  next_dropout = 0;
}

void uniform_(const Tensor& tensor, double bound) {
  fill_from(tensor, "uniform_", [=](Philox& random) { return (2.0 * random.uniform() - 1.0) * bound; });
}

void normal_(const Tensor& tensor, double mean, double std) {
  fill_from(tensor, "normal_", [=](Philox& random) { return mean + std * random.normal(); });
}

std::uint32_t next_dropout_stream() { return next_dropout++; }

double default_bound(std::int64_t fan_in) { return fan_in > 0 ? 1.0 / std::sqrt(static_cast<double>(fan_in)) : 0.0; }

}  // namespace weft::nn
