// The data layer by itself: what a plan costs, and how fast batches come.
//   plan_seek: the ids of one update of 512 anywhere in 10⁹ samples, plan made anew; plan_weighted_seek likewise for 10⁶ weights.
//   loader/<transforms>/workers:W: an epoch of Fashion-MNIST, items_per_second is samples per second.
#include "data/loader.h"

#include <cstdint>
#include <vector>

#include <benchmark/benchmark.h>

#include "data/fashion_mnist.h"
#include "data/tensor_dataset.h"
#include "tensor/parallel.h"

namespace weft::data {
namespace {

void plan_seek(benchmark::State& state) {
  std::vector<std::int64_t> ids(512);
  std::int64_t step = 0;
  for (auto _ : state) {
    const Plan plan(state.range(0), {.batch = MiniBatch{512}, .seed = 3});
    const PlannedUpdate update = plan.update(7, step++ * 7919 % (plan.updates_per_epoch() - 1));
    plan.sample_ids(update.epoch, update.first, ids);
    benchmark::DoNotOptimize(ids.data());
  }
}
BENCHMARK(plan_seek)->ArgName("samples")->Arg(60'000)->Arg(1'000'000'000)->UseRealTime();

void plan_weighted_seek(benchmark::State& state) {
  std::vector<double> weights(static_cast<std::size_t>(state.range(0)));
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<double>(i % 100);
  const Plan plan(state.range(0), {.batch = MiniBatch{512}, .order = Order::weighted, .seed = 3, .weights = weights});
  std::vector<std::int64_t> ids(512);
  std::int64_t step = 0;
  for (auto _ : state) {
    const PlannedUpdate update = plan.update(7, step++ * 7919 % (plan.updates_per_epoch() - 1));
    plan.sample_ids(update.epoch, update.first, ids);
    benchmark::DoNotOptimize(ids.data());
  }
}
BENCHMARK(plan_weighted_seek)->ArgName("samples")->Arg(1'000'000)->UseRealTime();

const std::vector<ImageStep>& steps(std::int64_t which) {
  static const Normalize normalize{{FashionMnist::kMean}, {FashionMnist::kDeviation}};
  static const std::vector<ImageStep> all[] = {
      {normalize},
      {RandomCrop{.height = 28, .width = 28, .padding = 2}, normalize},
      {RandomCrop{.height = 28, .width = 28, .padding = 2}, RandomHorizontalFlip{}, normalize},
      {RandomResizedCrop{.height = 28, .width = 28}, RandomHorizontalFlip{}, normalize}};
  return all[which];
}

void loader(benchmark::State& state, std::int64_t which) {
  static const FashionMnist set = FashionMnist::train();
  LoaderOptions options;  // field by field: g++ 12 warns of the braces' temporaries
  options.batch = MiniBatch{state.range(1)};
  options.seed = 1;
  options.transform = image_transform(steps(which));
  options.workers = state.range(0);
  const Loader loader{TensorDataset(set.images(), set.labels()), options};
  std::int64_t epoch = 0, samples = 0;
  for (auto _ : state)
    for (auto& update : loader.epoch(epoch++))
      for (auto& micro : update) {
        benchmark::DoNotOptimize(micro.input.raw_data());
        samples += micro.input.size(0);
      }
  state.SetItemsProcessed(samples);
}
void settings(benchmark::internal::Benchmark* b) {
  b->ArgNames({"workers", "batch"})->ArgsProduct({{0, 1, 2}, {128, 512}})->UseRealTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(loader, normalize, 0)->Apply(settings);
BENCHMARK_CAPTURE(loader, normalize_crop, 1)->Apply(settings);
BENCHMARK_CAPTURE(loader, normalize_crop_flip, 2)->Apply(settings);
BENCHMARK_CAPTURE(loader, normalize_resized_flip, 3)->Apply(settings);

}  // namespace
}  // namespace weft::data
