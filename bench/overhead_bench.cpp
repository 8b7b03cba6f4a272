// What a call costs when there is next to nothing to compute: allocation, checks, recording, dispatch.
#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/linear.h"
#include "support/measure.h"

namespace weft {
namespace {

void add_tiny_forward(benchmark::State& state) {
  const Tensor a = randn({16}, 1), b = randn({16}, 2);
  bench::forward(state, {}, [&] { return a + b; });
}
BENCHMARK(add_tiny_forward)->UseRealTime();

void add_tiny_forward_backward(benchmark::State& state) {
  const Tensor a = randn({16}, 1), b = randn({16}, 2);
  bench::forward_backward(state, {}, {a, b}, ones({16}), [&] { return a + b; });
}
BENCHMARK(add_tiny_forward_backward)->UseRealTime();

void mul_tiny_forward_backward(benchmark::State& state) {
  const Tensor a = randn({16}, 1), b = randn({16}, 2);
  bench::forward_backward(state, {}, {a, b}, ones({16}), [&] { return a * b; });
}
BENCHMARK(mul_tiny_forward_backward)->UseRealTime();

void relu_tiny_forward(benchmark::State& state) {
  const Tensor x = randn({16}, 1);
  bench::forward(state, {}, [&] { return relu(x); });
}
BENCHMARK(relu_tiny_forward)->UseRealTime();

void relu_tiny_forward_backward(benchmark::State& state) {
  const Tensor x = randn({16}, 1);
  bench::forward_backward(state, {}, {x}, ones({16}), [&] { return relu(x); });
}
BENCHMARK(relu_tiny_forward_backward)->UseRealTime();

void linear_tiny_forward_backward(benchmark::State& state) {
  const Tensor x = randn({1, 16}, 1), w = randn({16, 16}, 2), b = randn({16}, 3);
  bench::forward_backward(state, {}, {x, w, b}, ones({1, 16}), [&] { return linear(x, w, b); });
}
BENCHMARK(linear_tiny_forward_backward)->UseRealTime();

}  // namespace
}  // namespace weft
