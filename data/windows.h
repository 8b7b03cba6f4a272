#pragma once
// Rolling windows over a time series: which steps a sample is made of, when two samples share some, and batches of them.
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace weft::data {

/// Time steps [begin, end).
struct Interval {
  std::int64_t begin = 0, end = 0;

  std::int64_t length() const { return end - begin; }
  bool overlaps(const Interval& other) const { return std::max(begin, other.begin) < std::min(end, other.end); }
  friend bool operator==(const Interval&, const Interval&) = default;
};

/// The steps that one sample is made of: what the model sees, and what it is to predict.
struct TimeWindow {
  Interval features, labels;
  /// From the first step of the features to the last one of the labels.
  Interval span() const { return {features.begin, labels.end}; }
};

/// Whether training on `train` gives away something of `test`: what is to be predicted in one must not be seen in the other.
///   leak = train.labels ∩ (test.features ∪ test.labels) ≠ ∅  or  train.features ∩ test.labels ≠ ∅
///   Features may overlap features: both may look at the same past.
/// Params:  embargo >= 0, in steps: test.labels counts as so much longer at its end, as what follows a test block still
///          depends on it.
/// Source:  M. López de Prado, "Advances in Financial Machine Learning", 2018, section 7.4.
bool leak(const TimeWindow& train, const TimeWindow& test, std::int64_t embargo = 0);

/// How windows lie in a series.
struct WindowOptions {
  std::int64_t lookback = 1;  // steps that the model sees, >= 1
  std::int64_t horizon = 1;   // steps that it is to predict, >= 1
  std::int64_t stride = 1;    // from one window to the next, >= 1
  std::int64_t gap = 0;       // steps between what it sees and what it predicts, >= 0
};

/// All windows of a series of `steps` steps: window i sees [i stride, i stride + lookback) and is to predict the `horizon`
/// steps behind (and `gap` further on). There are ⌊(steps - lookback - gap - horizon) / stride⌋ + 1. Nothing is stored.
/// Errors:  OptionError for options outside their ranges; ShapeError "[windows] a series of 10 steps holds no window of 8 + 0 +
///          4 (lookback + gap + horizon)", or for a window that is none.
class RollingWindows {
 public:
  RollingWindows(std::int64_t steps, const WindowOptions& options);

  std::int64_t count() const { return count_; }
  std::int64_t steps() const { return steps_; }
  const WindowOptions& options() const { return options_; }
  TimeWindow operator[](std::int64_t window) const;

  /// Whether `train` leaks into any of the windows [tests.begin, tests.end). Cost: O(1).
  bool leaks_into(const TimeWindow& train, const Interval& tests, std::int64_t embargo = 0) const;

 private:
  std::int64_t steps_, count_;
  WindowOptions options_;
};

/// Which steps of a window are meant.
enum class WindowPart { features, labels, both };

/// The steps that these windows touch, as intervals in order with gaps between them.
/// Errors:  ShapeError for a window that is none.
std::vector<Interval> steps_of(const RollingWindows& windows, std::span<const std::int64_t> ids,
                               WindowPart part = WindowPart::both);

/// How much of its labels each of these windows has for itself: the mean over its label steps of 1 / (windows whose labels hold
/// that step). 1 for a window that shares none.
/// Source:  López de Prado 2018, section 4.4.
std::vector<double> average_uniqueness(const RollingWindows& windows, std::span<const std::int64_t> ids);

/// How many independent samples these windows are worth: the sum of their average uniqueness, which is the number of steps that
/// their labels cover, divided by the horizon. 1000 windows of a horizon of 10 with stride 1 are worth 100.9.
double effective_samples(const RollingWindows& windows, std::span<const std::int64_t> ids);

/// An order of the samples 0 to ids.size() - 1 (sample i is window ids[i]) for one epoch, in which no two windows of a batch
/// overlap in any step: samples that share steps are correlated, and in one batch they count double.
///   With n samples in M = ⌈n / batch⌉ batches, time is cut into `batch` stretches of M windows; every batch gets one window of
///   each, drawn at random so that windows of neighbouring stretches stay apart. Batches then come in random order, the
///   shorter one last. It is the same order for the same arguments.
/// Params:  ids in ascending order; batch >= 1; (seed, epoch) name the order.
/// Errors:  ShapeError when there is none: neighbouring windows overlap with D - 1 others behind them, D = ⌈span / stride⌉, and
///          must all be in different batches, so that M >= D is needed, and M > D when the last batch is shorter by more
///          than 1. "[windows] batches of 64 of 500 windows cannot be free of overlaps: each overlaps the 33 behind it, which
///          takes 34 batches but there are 8: batches of at most 14, or a stride of 34, will do". (Where ids has gaps, an order
///          may exist all the same: they are not made use of.)
/// Cost:    O(n log M) time, O(n) memory.
std::vector<std::int64_t> overlap_free_order(const RollingWindows& windows, std::span<const std::int64_t> ids,
                                             std::int64_t batch, std::uint64_t seed, std::int64_t epoch);

/// Windows as samples.
///   data::WindowDataset train(series, labels, windows, split.train, "co2/train");
/// Shapes:   features [T, ...], labels [T, ...] -> input [B, lookback, ...], target [B, horizon, ...].
/// Types:    any, each its own.
/// Layout:   on the cpu; made contiguous when they are not, else shared: do not write to them while they are in use.
/// Errors:   ShapeError for a T other than windows.steps(), or a window that is none; DeviceError off the cpu.
/// Memory:   the series, and 8 bytes per window: a batch is copied out of the series while it is gathered.
class WindowDataset final : public Dataset {
 public:
  /// The windows `ids`, in this order.
  WindowDataset(const Tensor& features, const Tensor& labels, const RollingWindows& windows,
                std::vector<std::int64_t> ids, std::string name = "windows");
  /// All windows; what is predicted is what is seen, later.
  WindowDataset(const Tensor& series, const RollingWindows& windows, std::string name = "windows");

  std::int64_t size() const override { return static_cast<std::int64_t>(ids_.size()); }
  std::string name() const override { return name_; }
  std::uint64_t fingerprint() const override;
  Batch collate(std::span<const std::int64_t> ids) const override;

  const RollingWindows& windows() const { return windows_; }
  /// The window of each sample.
  const std::vector<std::int64_t>& ids() const { return ids_; }

 private:
  Tensor features_, labels_;
  RollingWindows windows_;
  std::vector<std::int64_t> ids_;
  std::string name_;
};

}  // namespace weft::data
