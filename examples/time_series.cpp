// time_series: how a split gives the future away: rolling windows at random, in order, purged and embargoed
//
//   ./run time_series                                       a random walk of 4000 steps, which nobody can predict
//   ./run time_series --lookback 24 --horizon 6 --stride 6  windows that share fewer steps
//   ./run time_series --csv co2.csv --column co2            a series of your own
//
// A window sees `lookback` steps of the series and is to predict how much it changes over the next `horizon`. Windows that start
// near each other predict nearly the same change, so that a model which has seen one of them knows the other: a split that
// puts one into training and the other into validation measures memory, not skill. What is measured here is the skill of
// the nearest neighbour, the plainest of memories: it answers with the change behind the most similar training window. On a
// random walk every honest figure is about 2 (its own variance and that of the truth); 1 is what always answering with the
// mean would get.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <fmt/core.h>

#include <weft/weft.h>

using namespace weft;

namespace {

/// [T, 1], f64: the sum of T steps of standard normal noise.
Tensor random_walk(std::int64_t steps, std::uint64_t seed) {
  Tensor walk = randn({steps, 1}, seed, Dtype::f64);
  std::partial_sum(walk.data<double>(), walk.data<double>() + steps, walk.data<double>());
  return walk;
}

/// The windows in a random order, the last `held_back` of them for testing: what a shuffled loader does when nobody stops it.
data::WindowSplit random_split(const data::RollingWindows& windows, double held_back, std::uint64_t seed) {
  const data::FeistelPermutation order(windows.count(), seed, 0);
  const auto test = static_cast<std::int64_t>(held_back * static_cast<double>(windows.count()));
  data::WindowSplit split;
  for (std::int64_t i = 0; i < windows.count(); ++i) (order.inverse(i) < test ? split.test : split.train).push_back(i);
  return split;
}

/// Training windows that give away something of a test window.
std::int64_t leaking(const data::RollingWindows& windows, const data::WindowSplit& split) {
  return std::count_if(split.train.begin(), split.train.end(), [&](std::int64_t train) {
    return std::any_of(split.test.begin(), split.test.end(),
                       [&](std::int64_t test) { return data::leak(windows[train], windows[test]); });
  });
}

/// The change of a series over a window's labels, from the last step that it sees.
double change(const double* series, const data::TimeWindow& window) {
  return series[window.labels.end - 1] - series[window.features.end - 1];
}

/// Mean squared error of the nearest neighbour's answer, over the variance of what is to be predicted.
double nearest_neighbour_error(const Tensor& series, const data::RollingWindows& windows,
                               const data::WindowSplit& split) {
  // Scaled by what the training windows see, which is all that a model may know; checked against the test windows.
  const auto scaler = data::Scaler::fit(data::Scaling::standard, series,
                                        data::steps_of(windows, split.train, data::WindowPart::features));
  const Tensor scaled = scaler.transform(series);
  const double* x = scaled.data<double>();
  double squares = 0, mean = 0, variance = 0;
  for (const std::int64_t id : split.test) mean += change(x, windows[id]);
  mean /= static_cast<double>(split.test.size());
  for (const std::int64_t id : split.test) {
    const data::TimeWindow test = windows[id];
    double nearest = std::numeric_limits<double>::infinity(), answer = 0;
    for (const std::int64_t other : split.train) {
      const data::TimeWindow train = windows[other];
      double distance = 0;
      for (std::int64_t i = 0; i < test.features.length() && distance < nearest; ++i) {
        const double difference = x[test.features.begin + i] - x[train.features.begin + i];
        distance += difference * difference;
      }
      if (distance < nearest) {
        nearest = distance;
        answer = change(x, train);
      }
    }
    const double truth = change(x, test);
    squares += (answer - truth) * (answer - truth);
    variance += (truth - mean) * (truth - mean);
  }
  return squares / variance;
}

int run(int argc, char** argv) {
  std::int64_t lookback = 32, horizon = 20, stride = 1, embargo = 20, steps = 4000;
  std::string csv, column;
  train::CommandLine line("time_series", "how a split gives the future away");
  line.without({"--bn-accumulation", "--epochs",     "--max-updates",  "--eval-samples",
                "--optimizer",       "--lr",         "--weight-decay", "--momentum",
                "--schedule",        "--warmup",     "--device",       "--workers",
                "--prefetch",        "--log-every",  "--profile",      "--json",
                "--resume",          "--save-every", "--eval",         "--predict",
                "--accumulate",      "--drop-last",  "--data-dir",     "--out"});
  line.options.batch_size = 32;
  line.number("--lookback", lookback, 1, 1 << 20, "steps that a window sees");
  line.number("--horizon", horizon, 1, 1 << 20, "steps over which it is to predict the change");
  line.number("--stride", stride, 1, 1 << 20, "steps from one window to the next");
  line.number("--embargo", embargo, 0, 1 << 20, "steps behind a test block that are not trained on");
  line.number("--steps", steps, 3, 1 << 20, "of the random walk");
  line.text("--csv", csv, "FILE", "a table with the series, instead of the random walk");
  line.text("--column", column, "NAME", "the series' column; the first when not given");
  const train::Options options = line.parse(argc, argv);

  Tensor series = random_walk(steps, options.seed);
  if (!csv.empty()) {
    const data::CsvTable table =
        data::read_csv(csv, {.columns = column.empty() ? std::vector<std::string>{} : std::vector{column}});
    series =
        contiguous(reshape(table.column(column.empty() ? table.names.front() : column), {table.values.size(0), 1}));
  }
  const data::RollingWindows windows(series.size(0), {.lookback = lookback, .horizon = horizon, .stride = stride});
  std::vector<std::int64_t> all(static_cast<std::size_t>(windows.count()));
  std::iota(all.begin(), all.end(), 0);
  fmt::print("{} steps: {} windows that see {} and predict {}, worth {:.1f} independent ones\n", windows.steps(),
             windows.count(), lookback, horizon, data::effective_samples(windows, all));

  fmt::print("\n{:<26}{:>8}{:>8}{:>9}{:>11}{:>9}{:>10}\n", "split", "train", "test", "purged", "embargoed", "leaking",
             "error");
  const auto row = [&](const char* name, const data::WindowSplit& split) {
    fmt::print("{:<26}{:>8}{:>8}{:>9}{:>11}{:>9}{:>10.3f}\n", name, split.train.size(), split.test.size(), split.purged,
               split.embargoed, leaking(windows, split), nearest_neighbour_error(series, windows, split));
  };
  row("random", random_split(windows, 0.2, options.seed));
  row("in order", data::chronological_split(windows, 0.2));
  row("walk-forward, last fold", data::walk_forward(windows, {}).back());
  row("purged k-fold, fold 3", data::purged_kfold(windows, {})[2]);
  row("the same, embargoed", data::purged_kfold(windows, {.embargo = embargo})[2]);
  fmt::print("error: of the nearest neighbour, over the variance of the truth; 1 is what the mean alone gets\n");

  // Batches for training: no two windows of a batch share a step.
  const auto split = data::chronological_split(windows, 0.2);
  const auto training = std::make_shared<data::WindowDataset>(series, series, windows, split.train, "training windows");
  try {
    const data::WindowBatches batches(training, train::loader_options(options).plan());
    fmt::print("\nbatches of {} without overlap: {} per epoch\n", *options.batch_size, batches.updates_per_epoch(0));
  } catch (const ShapeError& error) { fmt::print("\n{}\n", error.what()); }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return train::run_example([&] { return run(argc, argv); });
}
