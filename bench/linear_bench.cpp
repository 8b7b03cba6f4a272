// y = x W^T + b: 2·R·K·N flop forward, 6·R·K·N with the backward.
#include "autograd/linear.h"

#include "autograd/factories.h"
#include "support/measure.h"

namespace weft {
namespace {

void linear_shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"R", "K", "N"});
  for (const auto& shape : {std::vector<std::int64_t>{1, 784, 512},
                            {128, 784, 512},
                            {128, 512, 256},
                            {128, 256, 10},
                            {2048, 128, 512},
                            {2048, 384, 1536},
                            {1024, 1024, 1024}})
    b->Args(shape);
}

struct Operands {
  explicit Operands(const benchmark::State& state)
      : x(randn({state.range(0), state.range(1)}, 1)),
        w(randn({state.range(2), state.range(1)}, 2)),
        b(randn({state.range(2)}, 3)),
        dy(randn({state.range(0), state.range(2)}, 4)),
        flops(2.0 * static_cast<double>(state.range(0) * state.range(1) * state.range(2))) {}
  Tensor x, w, b, dy;
  double flops;
};

void linear_forward(benchmark::State& state) {
  const Operands in(state);
  bench::forward(state, {.flops = in.flops}, [&] { return linear(in.x, in.w, in.b); });
}
BENCHMARK(linear_forward)->Apply(linear_shapes)->UseRealTime();

void linear_forward_backward(benchmark::State& state) {
  const Operands in(state);
  bench::forward_backward(state, {.flops = 3 * in.flops}, {in.x, in.w, in.b}, in.dy,
                          [&] { return linear(in.x, in.w, in.b); });
}
BENCHMARK(linear_forward_backward)->Apply(linear_shapes)->UseRealTime();

}  // namespace
}  // namespace weft
