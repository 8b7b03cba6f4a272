#pragma once
// What the benchmarks of single operations share: forward and forward + backward of an op, with the bytes and operations
// that its documentation counts, so that a row says GB/s and FLOP/s and not only a time.
#include <cstdint>

#include <benchmark/benchmark.h>

#include "autograd/engine.h"
#include "tensor/tensor.h"

namespace weft::bench {

/// What one call moves and computes at the least.
struct Cost {
  double bytes = 0;
  double flops = 0;
};

inline void report(benchmark::State& state, Cost cost) {
  using benchmark::Counter;
  if (cost.bytes > 0) state.counters["B/s"] = Counter(cost.bytes, Counter::kIsIterationInvariantRate, Counter::kIs1024);
  if (cost.flops > 0) state.counters["FLOP/s"] = Counter(cost.flops, Counter::kIsIterationInvariantRate);
}

/// Times f() without recording a graph.
template <class F>
void forward(benchmark::State& state, Cost cost, F&& f) {
  const NoGrad guard;
  for (auto _ : state) benchmark::DoNotOptimize(f());
  report(state, cost);
}

/// Times f() and backward(f(), seed); the gradients of the leaves are forgotten before each call.
template <class F>
void forward_backward(benchmark::State& state, Cost cost, const std::vector<Tensor>& leaves, const Tensor& seed,
                      F&& f) {
  for (const Tensor& leaf : leaves) set_requires_grad(leaf);
  for (auto _ : state) {
    for (const Tensor& leaf : leaves) zero_grad(leaf);
    backward(f(), seed);
  }
  report(state, cost);
}

}  // namespace weft::bench
