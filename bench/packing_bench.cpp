// Packing a million lognormal lengths into rows of 2048, on one thread whatever the machine has, and what a plan's updates
// cost: the index of an epoch, and one update after the other.
#include "data/packing.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <benchmark/benchmark.h>

#include "data/sequence_plan.h"
#include "tensor/philox.h"

namespace weft::data {
namespace {

constexpr std::int64_t kLength = 2048;

/// Lengths with a median of a sixth of a row; longer ones are cut at a row.
std::vector<std::int64_t> lognormal(std::int64_t count) {
  Philox random(1);
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(count));
  for (std::int64_t& length : lengths)
    length = std::clamp<std::int64_t>(std::llround(kLength / 6.0 * std::exp(0.85 * random.normal())), 1, kLength);
  return lengths;
}

/// args: packer; sequences. items/s are sequences/s, "full" is the part of the places that hold a token.
void packing(benchmark::State& state) {
  const std::vector<std::int64_t> wide = lognormal(state.range(1));
  const std::vector<std::int32_t> lengths(wide.begin(), wide.end());
  std::int64_t rows = 0, tokens = 0;
  for (const std::int32_t length : lengths) tokens += length;
  for (auto _ : state) {
    const Packing packed = pack(lengths, kLength, static_cast<Packer>(state.range(0)));
    rows = packed.rows();
    benchmark::DoNotOptimize(packed.items.data());
  }
  state.SetItemsProcessed(state.iterations() * state.range(1));
  state.counters["full"] = static_cast<double>(tokens) / static_cast<double>(rows * kLength);
}

SequencePlanOptions options(const benchmark::State& state) {
  const auto batching = static_cast<Batching>(state.range(0));
  const Regime batch = batching == Batching::tokens ? Regime(TokenBatch{32 * kLength}) : Regime(MiniBatch{32});
  return {.batching = batching, .batch = batch, .length = kLength, .seed = 1};
}

/// args: batching; sequences. The first question about an epoch; items/s are sequences/s.
void plan_index(benchmark::State& state) {
  const SequencePlan plan(lognormal(state.range(1)), options(state));
  std::int64_t epoch = 1;
  for (auto _ : state) benchmark::DoNotOptimize(plan.updates_per_epoch(epoch++));
  state.SetItemsProcessed(state.iterations() * state.range(1));
}

/// args: batching; sequences. The updates of an epoch in turn, its index made; items/s are updates/s.
void plan_update(benchmark::State& state) {
  const SequencePlan plan(lognormal(state.range(1)), options(state));
  const std::int64_t updates = plan.updates_per_epoch(0);
  std::int64_t index = 0;
  benchmark::DoNotOptimize(plan.update(0, index));
  for (auto _ : state) {
    benchmark::DoNotOptimize(plan.update(0, index));
    index = index + 1 < updates ? index + 1 : 0;
  }
  state.SetItemsProcessed(state.iterations());
}

BENCHMARK(packing)->ArgNames({"packer", "N"})->ArgsProduct({{0, 1, 2}, {1'000'000}})->Unit(benchmark::kMillisecond);
BENCHMARK(plan_index)
    ->ArgNames({"batching", "N"})
    ->ArgsProduct({{2, 3}, {1'000'000}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(plan_update)
    ->ArgNames({"batching", "N"})
    ->ArgsProduct({{0, 1, 2, 3}, {1'000'000}})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();
BENCHMARK(packing)->Name("packing_tiny")->ArgNames({"packer", "N"})->ArgsProduct({{0, 1, 2}, {1000}});

}  // namespace
}  // namespace weft::data
