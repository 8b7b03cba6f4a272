// One update of a model: norm of all gradients, then one pass over all tensors. Least traffic per f32 parameter, the norm's
// reading of the gradient included: AdamW 32 bytes (g; p g m v in, p m v out), SGD with momentum 24.
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "optim/adamw.h"
#include "optim/sgd.h"
#include "support/measure.h"

namespace weft {
namespace {

std::vector<Tensor> model(std::int64_t elements, std::int64_t tensors) {
  std::vector<Tensor> parameters;
  for (std::int64_t i = 0; i < tensors; ++i) {
    const std::int64_t count = elements / tensors;
    parameters.push_back(set_requires_grad(randn({count}, static_cast<std::uint64_t>(i))));
    set_grad(parameters.back(), randn({count}, static_cast<std::uint64_t>(i + tensors)));
  }
  return parameters;
}

template <class Optimizer>
void steps(benchmark::State& state, Optimizer&& optimizer, double bytes_per_parameter) {
  for (auto _ : state) optimizer.step();
  bench::report(state, {.bytes = bytes_per_parameter * static_cast<double>(state.range(0))});
}

void adamw_step(benchmark::State& state) { steps(state, optim::AdamW(model(state.range(0), state.range(1)), {}), 32); }
void sgd_step(benchmark::State& state) {
  steps(state, optim::SGD(model(state.range(0), state.range(1)), {.lr = 1e-3, .momentum = 0.9}), 24);
}

void sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"elements", "tensors"})->Args({10'000'000, 40})->Args({409'600, 100});
}

BENCHMARK(adamw_step)->Apply(sizes)->UseRealTime();
BENCHMARK(sgd_step)->Apply(sizes)->UseRealTime();

}  // namespace
}  // namespace weft
