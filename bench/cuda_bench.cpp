// The CUDA kernels on a GPU: skipped, with the reason, where there is none. Each timed iteration is kCalls calls and one
// wait for the device, so that what is measured is the kernels and not the launch. Data does not fit in the L2 cache.
#include <functional>

#include <benchmark/benchmark.h>

#include "autograd/batch_norm.h"
#include "autograd/cast.h"
#include "autograd/cross_entropy.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layer_norm.h"
#include "autograd/layout.h"
#include "autograd/linear.h"
#include "optim/adamw.h"
#include "tensor/stream.h"

namespace weft {
namespace {

constexpr int kCalls = 20;
constexpr Device kCuda{DeviceKind::cuda, 0};

/// `bytes` and `flops` of one call.
void measure(benchmark::State& state, double bytes, double flops, const std::function<void()>& call) {
  call();  // loads the kernels
  synchronize(kCuda);
  for (auto _ : state) {
    for (int i = 0; i < kCalls; ++i) call();
    synchronize(kCuda);
  }
  const auto rate = [&](double amount) {
    return benchmark::Counter(amount * kCalls, benchmark::Counter::kIsIterationInvariantRate);
  };
  if (bytes > 0) state.counters["bytes/s"] = rate(bytes);
  if (flops > 0) state.counters["flop/s"] = rate(flops);
  state.counters["calls"] = kCalls;
}

bool usable(benchmark::State& state) {
  if (cuda_status().usable) return true;
  state.SkipWithError(cuda_status().reason.c_str());
  return false;
}

/// Random numbers on the device; only a block of them is drawn, and repeated.
Tensor random(const Shape& shape, std::uint64_t seed, Dtype dtype = Dtype::f32) {
  const std::int64_t columns = shape.back();
  const Tensor rows = to(randn({64, columns}, seed, dtype), kCuda);
  if (shape.numel() <= rows.numel()) return clone(rows.flatten().slice(0, 0, shape.numel())).reshape(shape);
  Tensor all = Tensor::empty(shape, dtype, kCuda);
  for (std::int64_t r = 0; r < shape[0]; r += 64) {
    const std::int64_t count = std::min<std::int64_t>(64, shape[0] - r);
    copy_(all.slice(0, r, r + count), rows.slice(0, 0, count));
  }
  return all;
}

Dtype dtype_of_argument(const benchmark::State& state) { return state.range(2) == 16 ? Dtype::bf16 : Dtype::f32; }

void cuda_copy(benchmark::State& state) {  // the ceiling of this device for as many bytes read as written
  if (!usable(state)) return;
  const Tensor x = random({state.range(0), state.range(1)}, 1), y = zeros_like(x);
  measure(state, 2.0 * static_cast<double>(x.nbytes()), 0, [&] { copy_(y, x); });
}
void cuda_layer_norm_forward(benchmark::State& state) {
  if (!usable(state)) return;
  const NoGrad guard;
  const Dtype dtype = dtype_of_argument(state);
  const Tensor x = random({state.range(0), state.range(1)}, 1, dtype), gamma = random({state.range(1)}, 2, dtype),
               beta = random({state.range(1)}, 3, dtype);
  measure(state, 2.0 * static_cast<double>(x.nbytes()), 0, [&] { layer_norm(x, gamma, beta); });
}
void cuda_layer_norm_backward(benchmark::State& state) {
  if (!usable(state)) return;
  const Dtype dtype = dtype_of_argument(state);
  const Tensor x = set_requires_grad(random({state.range(0), state.range(1)}, 1, dtype)),
               gamma = set_requires_grad(random({state.range(1)}, 2, dtype)),
               beta = set_requires_grad(random({state.range(1)}, 3, dtype)),
               dy = random({state.range(0), state.range(1)}, 4, dtype);
  const Tensor y = layer_norm(x, gamma, beta);
  measure(state, 3.0 * static_cast<double>(x.nbytes()), 0, [&] {
    for (const Tensor& leaf : {x, gamma, beta}) zero_grad(leaf);
    backward(y, dy, {.retain_graph = true});
  });
}
void cuda_batch_norm_forward(benchmark::State& state) {
  if (!usable(state)) return;
  const NoGrad guard;
  const Tensor x = random({state.range(0), state.range(1)}, 1), gamma = random({state.range(1)}, 2),
               beta = random({state.range(1)}, 3);
  const Tensor mean = zeros({state.range(1)}, Dtype::f32, kCuda), variance = ones({state.range(1)}, Dtype::f32, kCuda);
  measure(state, 2.0 * static_cast<double>(x.nbytes()), 0, [&] { batch_norm(x, gamma, beta, mean, variance); });
}
void cuda_cross_entropy(benchmark::State& state) {
  if (!usable(state)) return;
  const Tensor x = set_requires_grad(random({state.range(0), state.range(1)}, 1, dtype_of_argument(state)));
  const Tensor labels = Tensor::empty({state.range(0)}, Dtype::i64);
  for (std::int64_t r = 0; r < state.range(0); ++r) labels.data<std::int64_t>()[r] = r * 7919 % state.range(1);
  const Tensor targets = to(labels, kCuda);
  measure(state, 2.0 * static_cast<double>(x.nbytes()), 0, [&] { cross_entropy(x, targets); });
}
void cuda_adamw(benchmark::State& state) {
  if (!usable(state)) return;
  std::vector<Tensor> parameters;
  for (std::int64_t i = 0; i < state.range(0); ++i) {
    parameters.push_back(set_requires_grad(random({state.range(1) / 1024, 1024}, 2 * static_cast<std::uint64_t>(i))));
    set_grad(parameters.back(), random({state.range(1) / 1024, 1024}, 2 * static_cast<std::uint64_t>(i) + 1));
  }
  optim::AdamW adamw(parameters, {});
  measure(state, 32.0 * static_cast<double>(state.range(0) * state.range(1)), 0, [&] { adamw.step(); });
}
void cuda_linear_forward(benchmark::State& state) {
  if (!usable(state)) return;
  const NoGrad guard;
  const Dtype dtype = dtype_of_argument(state);
  const std::int64_t rows = state.range(0), width = state.range(1);
  const Tensor x = random({rows, width}, 1, dtype), w = random({width, width}, 2, dtype), b = random({width}, 3, dtype);
  measure(state, 0, 2.0 * static_cast<double>(rows) * static_cast<double>(width) * static_cast<double>(width),
          [&] { linear(x, w, b, Activation::relu); });
}

void matrices(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "columns", "bits"})->Args({16384, 4096, 32})->Args({32768, 1024, 32})->Args({32768, 4096, 16});
}
void f32_matrices(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "columns"})->Args({16384, 4096})->Args({65536, 512});
}

BENCHMARK(cuda_copy)->Apply(f32_matrices)->UseRealTime();
BENCHMARK(cuda_layer_norm_forward)->Apply(matrices)->UseRealTime();
BENCHMARK(cuda_layer_norm_backward)->Apply(matrices)->UseRealTime();
BENCHMARK(cuda_batch_norm_forward)->Apply(f32_matrices)->UseRealTime();
BENCHMARK(cuda_cross_entropy)
    ->ArgNames({"rows", "columns", "bits"})
    ->Args({8192, 8192, 32})
    ->Args({8192, 32768, 16})
    ->UseRealTime();
BENCHMARK(cuda_adamw)->ArgNames({"tensors", "elements"})->Args({30, 1 << 22})->Args({1000, 1024})->UseRealTime();
BENCHMARK(cuda_linear_forward)
    ->ArgNames({"rows", "columns", "bits"})
    ->Args({4096, 4096, 32})
    ->Args({4096, 4096, 16})
    ->UseRealTime();

}  // namespace
}  // namespace weft
