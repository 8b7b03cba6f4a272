// What the emulator costs: a switch between fibers, a thread of a launch, an access to shared and to device memory.
#include <benchmark/benchmark.h>

#include "kernels/common/launch.h"
#include "simt/memory.h"
#include "simt/runtime.h"

namespace weft::kernels::simt {
namespace {

constexpr int kRounds = 64;

void run_block(benchmark::State& state, int threads, const char* unit, double per_launch, auto&& body) {
  const ::weft::simt::LaunchConfig config{.kernel = "bench", .block = {static_cast<unsigned>(threads), 1, 1}};
  const std::uint64_t before = ::weft::simt::counters().switches;
  for (auto _ : state) ::weft::simt::run(config, body);
  const auto iterations = static_cast<double>(state.iterations());
  if (per_launch == 0) per_launch = static_cast<double>(::weft::simt::counters().switches - before) / iterations;
  state.counters[unit] =
      benchmark::Counter(per_launch * iterations, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void simt_switch(benchmark::State& state) {
  run_block(state, static_cast<int>(state.range(0)), "s/switch", 0, [] {
    for (int i = 0; i < kRounds; ++i) __syncthreads();
  });
}
void simt_shuffle(benchmark::State& state) {
  run_block(state, static_cast<int>(state.range(0)), "s/switch", 0, [] {
    int value = static_cast<int>(threadIdx.x);
    for (int i = 0; i < kRounds; ++i) value = __shfl_xor_sync(kFullWarp, value, 1);
    benchmark::DoNotOptimize(value);
  });
}
void simt_thread(benchmark::State& state) {
  run_block(state, static_cast<int>(state.range(0)), "s/thread", static_cast<double>(state.range(0)), [] {});
}
void simt_shared_access(benchmark::State& state) {
  run_block(state, 256, "s/access", 256.0 * kRounds, [] {
    WEFT_SHARED(float, tile, 256);
    const int thread = static_cast<int>(threadIdx.x);
    tile[thread] = 1.0f;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < kRounds; ++i) sum += tile[(thread + i) % 256];
    benchmark::DoNotOptimize(sum);
  });
}
void simt_device_access(benchmark::State& state) {
  auto* const memory = static_cast<float*>(::weft::simt::device_malloc(4096));
  ::weft::simt::fill_bytes(memory, 0, 4096);
  run_block(state, 256, "s/access", 256.0 * kRounds, [memory] {
    const int thread = static_cast<int>(threadIdx.x);
    float sum = 0;
    for (int i = 0; i < kRounds; ++i) sum += load<4>(memory + (thread + i) % 256 * 4)[0];
    benchmark::DoNotOptimize(sum);
  });
  ::weft::simt::device_free(memory);
}

BENCHMARK(simt_switch)->Arg(32)->Arg(256)->Arg(1024);
BENCHMARK(simt_shuffle)->Arg(32)->Arg(256);
BENCHMARK(simt_thread)->Arg(32)->Arg(256)->Arg(1024);
BENCHMARK(simt_shared_access);
BENCHMARK(simt_device_access);

}  // namespace
}  // namespace weft::kernels::simt
