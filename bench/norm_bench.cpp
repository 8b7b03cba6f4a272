// LayerNorm and BatchNorm: memory-bound. Least traffic per f32 element: 8 bytes forward (read x, write y), 20 with the
// backward (read x and dy, write dx).
#include "autograd/batch_norm.h"
#include "autograd/factories.h"
#include "autograd/layer_norm.h"
#include "support/measure.h"

namespace weft {
namespace {

struct Operands {
  explicit Operands(const benchmark::State& state)
      : x(randn({state.range(0), state.range(1)}, 1)),
        gamma(ones({state.range(1)})),
        beta(zeros({state.range(1)})),
        mean(zeros({state.range(1)})),
        variance(ones({state.range(1)})),
        dy(randn({state.range(0), state.range(1)}, 2)),
        elements(static_cast<double>(state.range(0) * state.range(1))) {}
  Tensor x, gamma, beta, mean, variance, dy;
  double elements;
};

void layer_norm_forward(benchmark::State& state) {
  const Operands in(state);
  bench::forward(state, {.bytes = 8 * in.elements}, [&] { return layer_norm(in.x, in.gamma, in.beta); });
}
void layer_norm_forward_backward(benchmark::State& state) {
  const Operands in(state);
  bench::forward_backward(state, {.bytes = 20 * in.elements}, {in.x, in.gamma, in.beta}, in.dy,
                          [&] { return layer_norm(in.x, in.gamma, in.beta); });
}
void batch_norm_forward(benchmark::State& state) {
  const Operands in(state);
  bench::forward(state, {.bytes = 8 * in.elements},
                 [&] { return batch_norm(in.x, in.gamma, in.beta, in.mean, in.variance); });
}
void batch_norm_forward_backward(benchmark::State& state) {
  const Operands in(state);
  bench::forward_backward(state, {.bytes = 20 * in.elements}, {in.x, in.gamma, in.beta}, in.dy,
                          [&] { return batch_norm(in.x, in.gamma, in.beta, in.mean, in.variance); });
}

void layer_norm_shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"R", "C"})->Args({128, 512})->Args({2048, 128})->Args({2048, 768})->Args({8192, 1024});
}
void batch_norm_shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"R", "C"})->Args({128, 512})->Args({4096, 512});
}

BENCHMARK(layer_norm_forward)->Apply(layer_norm_shapes)->UseRealTime();
BENCHMARK(layer_norm_forward_backward)->Apply(layer_norm_shapes)->UseRealTime();
BENCHMARK(batch_norm_forward)->Apply(batch_norm_shapes)->UseRealTime();
BENCHMARK(batch_norm_forward_backward)->Apply(batch_norm_shapes)->UseRealTime();

}  // namespace
}  // namespace weft
