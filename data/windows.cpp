#include "data/windows.h"

#include <cstring>
#include <numeric>
#include <utility>

#include "autograd/layout.h"
#include "data/fingerprint.h"
#include "data/gather.h"
#include "tensor/error.h"
#include "tensor/philox.h"

namespace weft::data {
namespace {

constexpr const char* kOp = "windows";

std::int64_t as_i64(std::size_t value) { return static_cast<std::int64_t>(value); }
std::size_t as_size(std::int64_t value) { return static_cast<std::size_t>(value); }

/// ⌊a / b⌋ and ⌈a / b⌉ for b > 0 and any a.
std::int64_t floor_div(std::int64_t a, std::int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return -floor_div(-a, b); }

/// A random number in [0, below), for below < 2^32.
std::size_t draw(Philox& random, std::size_t below) {
  return static_cast<std::size_t>((std::uint64_t{random.next_u32()} * below) >> 32);
}
template <class T>
void shuffle(Philox& random, std::span<T> values) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[draw(random, i)]);
}

Tensor checked(const Tensor& x, const char* role, const RollingWindows& windows) {
  require<ShapeError>(x.rank() >= 1 && x.size(0) == windows.steps(), kOp,
                      "{} must have {} steps in the first dimension but has shape {}", role, windows.steps(),
                      x.shape());
  require<DeviceError>(x.device().kind == DeviceKind::cpu, kOp,
                       "{} must be on the cpu but is on {}: the loader copies batches to its device", role, x.device());
  return contiguous(x.alias());  // data only: a batch carries no graph
}

/// y[r] = x[begin(r), begin(r) + steps), for every row.
template <class Begin>
Tensor gather_steps(const Tensor& x, std::int64_t rows, std::int64_t steps, Begin&& begin) {
  Shape shape{rows, steps};
  for (int i = 1; i < x.rank(); ++i) shape.push_back(x.size(i));
  Tensor y = Tensor::empty(shape, x.dtype());
  const std::int64_t step_bytes = x.nbytes() / x.size(0), row_bytes = step_bytes * steps;
  parallel_rows(rows, row_bytes, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row)
      std::memcpy(y.raw_data() + row * row_bytes, x.raw_data() + begin(row) * step_bytes, as_size(row_bytes));
  });
  return y;
}

}  // namespace

bool leak(const TimeWindow& train, const TimeWindow& test, std::int64_t embargo) {
  const Interval held_out{test.labels.begin, test.labels.end + embargo};
  return train.labels.overlaps(test.features) || train.labels.overlaps(held_out) || train.features.overlaps(held_out);
}

RollingWindows::RollingWindows(std::int64_t steps, const WindowOptions& options) : steps_(steps), options_(options) {
  const auto& [lookback, horizon, stride, gap] = options;
  constexpr std::int64_t kMost = std::int64_t{1} << 60;  // sums stay far from overflow
  for (const auto& [name, value, least] :
       {std::tuple{"lookback", lookback, 1}, {"horizon", horizon, 1}, {"stride", stride, 1}, {"gap", gap, 0}})
    require<OptionError>(value >= least && value <= kMost, kOp, "{} must be in [{}, 2^60] but is {}", name, least,
                         value);
  const std::int64_t rest = steps - lookback - gap - horizon;
  require<ShapeError>(rest >= 0, kOp, "a series of {} steps holds no window of {} + {} + {} (lookback + gap + horizon)",
                      steps, lookback, gap, horizon);
  count_ = rest / stride + 1;
}

TimeWindow RollingWindows::operator[](std::int64_t window) const {
  require<ShapeError>(window >= 0 && window < count_, kOp, "a window must be in [0, {}) but is {}", count_, window);
  const std::int64_t begin = window * options_.stride, seen = begin + options_.lookback, label = seen + options_.gap;
  return {{begin, seen}, {label, label + options_.horizon}};
}

bool RollingWindows::leaks_into(const TimeWindow& train, const Interval& tests, std::int64_t embargo) const {
  require<ShapeError>(tests.begin >= 0 && tests.begin <= tests.end && tests.end <= count_, kOp,
                      "the windows [{}, {}) must be within [0, {})", tests.begin, tests.end, count_);
  // Window i's part [i stride + at, i stride + at + length) meets [begin, end) for the i in one range.
  const auto meets = [&](const Interval& steps, std::int64_t at, std::int64_t length) {
    const std::int64_t first = floor_div(steps.begin - at - length, options_.stride) + 1;
    const std::int64_t last = ceil_div(steps.end - at, options_.stride);
    return steps.length() > 0 && std::max(first, tests.begin) < std::min(last, tests.end);
  };
  const std::int64_t label = options_.lookback + options_.gap, held_out = options_.horizon + embargo;
  return meets(train.labels, 0, options_.lookback) || meets(train.labels, label, held_out) ||
         meets(train.features, label, held_out);
}

std::vector<Interval> steps_of(const RollingWindows& windows, std::span<const std::int64_t> ids, WindowPart part) {
  std::vector<Interval> steps;
  for (const std::int64_t id : ids) {
    const TimeWindow window = windows[id];
    if (part != WindowPart::labels) steps.push_back(window.features);
    if (part != WindowPart::features) steps.push_back(window.labels);
  }
  std::sort(steps.begin(), steps.end(), [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  std::vector<Interval> merged;
  for (const Interval& interval : steps)
    if (!merged.empty() && interval.begin <= merged.back().end)
      merged.back().end = std::max(merged.back().end, interval.end);
    else
      merged.push_back(interval);
  return merged;
}

std::vector<double> average_uniqueness(const RollingWindows& windows, std::span<const std::int64_t> ids) {
  if (ids.empty()) return {};
  // Windows over each step, then sums of 1 / windows: a window's mean is a difference of two of them.
  std::vector<std::int64_t> windows_at(as_size(windows.steps()) + 1);
  for (const std::int64_t id : ids) {
    const Interval labels = windows[id].labels;
    ++windows_at[as_size(labels.begin)];
    --windows_at[as_size(labels.end)];
  }
  std::partial_sum(windows_at.begin(), windows_at.end(), windows_at.begin());
  std::vector<double> until(windows_at.size());
  for (std::size_t t = 0; t + 1 < until.size(); ++t)
    until[t + 1] = until[t] + (windows_at[t] > 0 ? 1.0 / static_cast<double>(windows_at[t]) : 0.0);
  std::vector<double> uniqueness;
  uniqueness.reserve(ids.size());
  for (const std::int64_t id : ids) {
    const Interval labels = windows[id].labels;
    uniqueness.push_back((until[as_size(labels.end)] - until[as_size(labels.begin)]) /
                         static_cast<double>(labels.length()));
  }
  return uniqueness;
}

double effective_samples(const RollingWindows& windows, std::span<const std::int64_t> ids) {
  std::int64_t covered = 0;
  for (const Interval& labels : steps_of(windows, ids, WindowPart::labels)) covered += labels.length();
  return static_cast<double>(covered) / static_cast<double>(windows.options().horizon);
}

std::vector<std::int64_t> overlap_free_order(const RollingWindows& windows, std::span<const std::int64_t> ids,
                                             std::int64_t batch, std::uint64_t seed, std::int64_t epoch) {
  require<OptionError>(batch >= 1, kOp, "batch must be at least 1 but is {}", batch);
  for (std::size_t i = 1; i < ids.size(); ++i)
    require<ShapeError>(ids[i - 1] < ids[i], kOp, "ids must be in ascending order but {} comes before {}", ids[i - 1],
                        ids[i]);
  const std::int64_t samples = as_i64(ids.size());
  if (samples == 0) return {};
  const WindowOptions& options = windows.options();
  const std::int64_t span = options.lookback + options.gap + options.horizon;
  const std::int64_t apart = ceil_div(span, options.stride);  // windows that far from each other share no step
  const std::int64_t batches = ceil_div(samples, batch), rest = samples - (batches - 1) * batch;
  // In any `apart` windows side by side no batch comes twice. With just as many batches, each comes once: the order repeats
  // itself, and sizes differ by at most 1.
  const bool repeats = batches == apart && rest >= batch - 1;
  require<ShapeError>(
      batch == 1 || batches > apart || repeats, kOp,
      "batches of {} of {} windows cannot be free of overlaps: each overlaps the {} behind it, which takes {} "
      "batches but there are {}: batches of at most {}, or a stride of {}, will do",
      batch, samples, apart - 1, apart + (rest < batch - 1 ? 1 : 0), batches,
      std::max<std::int64_t>(1, samples / (apart + 1)), span);

  Philox random(hash_combine(seed, static_cast<std::uint64_t>(epoch)), RandomUse::shuffle);
  std::vector<std::vector<std::int64_t>> members(as_size(batches));
  const std::size_t last = as_size(batches) - 1;  // the shorter one
  // Stretches of time, each with one window for every batch, or for all but the shorter one.
  std::vector<char> whole(as_size(batch), 0);
  std::fill_n(whole.begin(), rest, 1);
  if (!repeats) shuffle(random, std::span(whole));
  std::vector<std::size_t> order(as_size(batches));
  std::iota(order.begin(), order.end(), std::size_t{0});
  shuffle(random, std::span(order).first(last));
  std::vector<std::int64_t> available_from(as_size(batches), 0);  // the first window that a batch may take
  // When the order repeats itself the shorter batch must come last in it: it is missing in the end.
  for (std::size_t i = 0; repeats && i < order.size(); ++i) available_from[order[i]] = as_i64(i);
  std::int64_t next = 0;
  for (std::size_t stretch = 0; stretch < whole.size(); ++stretch) {
    // Batches in the order in which they become available; each window takes one of those that are.
    std::vector<std::size_t> waiting, ready;
    for (const std::size_t b : order)
      if (b != last || whole[stretch]) waiting.push_back(b);
    std::stable_sort(waiting.begin(), waiting.end(),
                     [&](std::size_t a, std::size_t b) { return available_from[a] < available_from[b]; });
    order.clear();
    std::size_t taken = 0;
    for (const std::size_t count = waiting.size(); order.size() < count; ++next) {
      while (taken < waiting.size() && available_from[waiting[taken]] <= next) ready.push_back(waiting[taken++]);
      require(!ready.empty(), kOp, "no batch is free for window {}", next);
      std::swap(ready[draw(random, ready.size())], ready.back());
      const std::size_t b = ready.back();
      ready.pop_back();
      members[b].push_back(next);
      available_from[b] = next + apart;
      order.push_back(b);
    }
    if (!whole[stretch]) order.push_back(last);
  }
  shuffle(random, std::span(members).first(last));
  if (rest == batch) shuffle(random, std::span(members));
  std::vector<std::int64_t> result;
  result.reserve(ids.size());
  for (std::vector<std::int64_t>& members_of : members) {
    shuffle(random, std::span(members_of));
    result.insert(result.end(), members_of.begin(), members_of.end());
  }
  return result;
}

WindowDataset::WindowDataset(const Tensor& features, const Tensor& labels, const RollingWindows& windows,
                             std::vector<std::int64_t> ids, std::string name)
    : features_(checked(features, "features", windows)),
      labels_(checked(labels, "labels", windows)),
      windows_(windows),
      ids_(std::move(ids)),
      name_(std::move(name)) {
  for (const std::int64_t id : ids_) windows_[id];  // throws
}

WindowDataset::WindowDataset(const Tensor& series, const RollingWindows& windows, std::string name)
    : WindowDataset(series, series, windows, std::vector<std::int64_t>(as_size(windows.count())), std::move(name)) {
  std::iota(ids_.begin(), ids_.end(), std::int64_t{0});
}

std::uint64_t WindowDataset::fingerprint() const {
  const auto& [lookback, horizon, stride, gap] = windows_.options();
  std::uint64_t hash = hash_combine(hash_tensor(features_), hash_tensor(labels_));
  for (const std::int64_t option : {lookback, horizon, stride, gap, size()})
    hash = hash_combine(hash, static_cast<std::uint64_t>(option));
  return hash_combine(hash,
                      hash_bytes({reinterpret_cast<const char*>(ids_.data()), ids_.size() * sizeof(std::int64_t)}));
}

Batch WindowDataset::collate(std::span<const std::int64_t> ids) const {
  check_ids(ids, size());
  const auto window = [&](std::int64_t row) { return windows_[ids_[as_size(ids[as_size(row)])]]; };
  const std::int64_t rows = as_i64(ids.size());
  return {gather_steps(features_, rows, windows_.options().lookback,
                       [&](std::int64_t row) { return window(row).features.begin; }),
          gather_steps(labels_, rows, windows_.options().horizon,
                       [&](std::int64_t row) { return window(row).labels.begin; })};
}

}  // namespace weft::data
