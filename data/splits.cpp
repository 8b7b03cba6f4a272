#include "data/splits.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "tensor/error.h"

namespace weft::data {
namespace {

constexpr const char* kOp = "splits";

std::vector<std::int64_t> range(const Interval& windows) {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(windows.length()));
  std::iota(ids.begin(), ids.end(), windows.begin);
  return ids;
}

/// Adds those of `candidates` that do not leak into any window of `tests`.
void add_without_leaks(WindowSplit& split, const RollingWindows& windows, const Interval& candidates,
                       std::span<const Interval> tests, std::int64_t embargo = 0) {
  for (std::int64_t id = candidates.begin; id < candidates.end; ++id) {
    const auto leaks = [&, window = windows[id]](std::int64_t steps) {
      return std::any_of(tests.begin(), tests.end(),
                         [&](const Interval& block) { return windows.leaks_into(window, block, steps); });
    };
    if (leaks(0))
      ++split.purged;
    else if (embargo > 0 && leaks(embargo))
      ++split.embargoed;
    else
      split.train.push_back(id);
  }
}

void check_something_to_train_on(const WindowSplit& split, const Interval& tests, const RollingWindows& windows) {
  require<ShapeError>(
      !split.train.empty(), kOp,
      "of {} windows nothing is left to train on: [{}, {}) are tested with, {} leak into them, {} are within "
      "the embargo; take fewer test windows, or a longer series",
      windows.count(), tests.begin, tests.end, split.purged, split.embargoed);
}

/// The windows before `tests`.
WindowSplit split_before(const RollingWindows& windows, const Interval& tests) {
  WindowSplit split;
  split.test = range(tests);
  add_without_leaks(split, windows, {0, tests.begin}, {&tests, 1});
  check_something_to_train_on(split, tests, windows);
  return split;
}

/// The part of `count` that is meant, at least 1.
std::int64_t part_of(std::int64_t count, const char* name, double part) {
  require<OptionError>(part > 0 && part < 1, kOp, "{} must be between 0 and 1, a part of the windows, but is {}", name,
                       part);
  return std::max<std::int64_t>(1, std::llround(static_cast<double>(count) * part));
}

}  // namespace

WindowSplit chronological_split(const RollingWindows& windows, double held_back) {
  return split_before(windows, {windows.count() - part_of(windows.count(), "held_back", held_back), windows.count()});
}

ChronologicalParts chronological_parts(const RollingWindows& windows, double validation, double test) {
  const std::int64_t count = windows.count(), tested = part_of(count, "test", test);
  const std::int64_t validated = part_of(count, "validation", validation);
  require<OptionError>(validation + test < 1 && validated + tested < count, kOp,
                       "validation and test must leave windows to train on but are {} and {} of {} windows", validation,
                       test, count);
  const Interval tests{count - tested, count}, validations{tests.begin - validated, tests.begin};
  ChronologicalParts parts;
  parts.test = range(tests);
  // What leaks into the test is no use for validation, nor for training: both choose the model.
  WindowSplit kept;
  add_without_leaks(kept, windows, validations, {&tests, 1});
  require<ShapeError>(
      !kept.train.empty(), kOp,
      "of {} windows nothing is left to validate with: all {} leak into the test; hold back more of them", count,
      validated);
  parts.validation = kept.train;
  WindowSplit train;
  std::vector<Interval> held_back{tests};
  for (const std::int64_t id : parts.validation)
    if (held_back.size() > 1 && held_back.back().end == id)
      ++held_back.back().end;
    else
      held_back.push_back({id, id + 1});
  add_without_leaks(train, windows, {0, validations.begin}, held_back);
  check_something_to_train_on(train, {validations.begin, count}, windows);
  parts.train = train.train;
  parts.purged = kept.purged + train.purged;
  return parts;
}

std::vector<WindowSplit> walk_forward(const RollingWindows& windows, const WalkForwardOptions& options) {
  const std::int64_t count = windows.count(), folds = options.folds;
  require<OptionError>(folds >= 1 && folds < count, kOp, "folds must be in [1, {}), the number of windows, but is {}",
                       count, folds);
  const std::int64_t test = options.test == 0 ? count / (folds + 1) : options.test;
  require<OptionError>(test >= 1 && test < count && test * folds < count, kOp,
                       "{} folds that test with {} windows each leave none of {} to train on", folds, test, count);
  const bool sliding = options.mode == WalkForward::sliding;
  require<OptionError>(sliding ? options.train >= 1 : options.train == 0, kOp,
                       "train, the number of windows that a sliding fold trains on, must be {} but is {}",
                       sliding ? "at least 1" : "0 for expanding folds", options.train);
  std::vector<WindowSplit> splits;
  for (std::int64_t fold = 0; fold < folds; ++fold) {
    const std::int64_t begin = count - (folds - fold) * test;
    WindowSplit split = split_before(windows, {begin, begin + test});
    if (sliding) {
      const auto kept = static_cast<std::int64_t>(split.train.size());
      require<ShapeError>(
          kept >= options.train, kOp,
          "fold {} has {} windows to train on before window {} but is to train on {}: take fewer folds, or "
          "fewer windows",
          fold, kept, begin, options.train);
      split.train.erase(split.train.begin(), split.train.end() - options.train);
    }
    splits.push_back(std::move(split));
  }
  return splits;
}

std::vector<WindowSplit> purged_kfold(const RollingWindows& windows, const PurgedKFoldOptions& options) {
  const std::int64_t count = windows.count(), folds = options.folds;
  require<OptionError>(folds >= 2 && folds <= count, kOp, "folds must be in [2, {}], the number of windows, but is {}",
                       count, folds);
  require<OptionError>(options.embargo >= 0 && options.embargo <= windows.steps(), kOp,
                       "embargo must be in [0, {}] steps but is {}", windows.steps(), options.embargo);
  std::vector<WindowSplit> splits;
  for (std::int64_t fold = 0; fold < folds; ++fold) {
    const auto cut = [&](std::int64_t k) { return count / folds * k + std::min(k, count % folds); };
    const Interval tests{cut(fold), cut(fold + 1)};
    WindowSplit split;
    split.test = range(tests);
    add_without_leaks(split, windows, {0, tests.begin}, {&tests, 1}, options.embargo);
    add_without_leaks(split, windows, {tests.end, count}, {&tests, 1}, options.embargo);
    check_something_to_train_on(split, tests, windows);
    splits.push_back(std::move(split));
  }
  return splits;
}

}  // namespace weft::data
