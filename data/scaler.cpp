#include "data/scaler.h"

#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include "autograd/layout.h"
#include "tensor/error.h"

namespace weft::data {
namespace {

constexpr const char* kOp = "scaler";

std::size_t as_size(std::int64_t value) { return static_cast<std::size_t>(value); }

Tensor checked(const Tensor& x) {
  require<DeviceError>(x.device().kind == DeviceKind::cpu, kOp, "needs a series on the cpu but it is on {}",
                       x.device());
  require<DtypeError>(x.dtype() == Dtype::f32 || x.dtype() == Dtype::f64, kOp, "needs f32 or f64 but the series is {}",
                      to_string(x.dtype()));
  require<ShapeError>(x.rank() >= 1, kOp, "needs a dimension for the steps but the shape is []");
  return contiguous(x.alias());
}

/// Calls f(values) with the tensor's elements.
template <class F>
void with_values(const Tensor& x, F&& f) {
  if (x.dtype() == Dtype::f32)
    f(x.data<float>());
  else
    f(x.data<double>());
}

}  // namespace

Scaler Scaler::fit(Scaling scaling, const Tensor& series, std::vector<Interval> steps) {
  const Tensor x = checked(series);
  std::int64_t count = 0;
  for (const Interval& interval : steps) {
    require<ShapeError>(interval.begin >= 0 && interval.begin <= interval.end && interval.end <= x.size(0), kOp,
                        "the steps [{}, {}) must be within [0, {})", interval.begin, interval.end, x.size(0));
    count += interval.length();
  }
  require<ShapeError>(count > 0, kOp, "needs at least one step to be fitted on");
  const std::int64_t columns = x.numel() / x.size(0);
  Scaler scaler;
  scaler.steps_ = std::move(steps);
  std::vector<double>&shift = scaler.shift_, &scale = scaler.scale_;
  with_values(x, [&](const auto* values) {
    const auto for_each = [&](auto&& f) {
      for (const Interval& interval : scaler.steps_)
        for (std::int64_t t = interval.begin; t < interval.end; ++t)
          for (std::int64_t c = 0; c < columns; ++c) f(as_size(c), static_cast<double>(values[t * columns + c]), t);
    };
    const auto n = static_cast<double>(count);
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    std::vector<double> low(as_size(columns), kInfinity), high(as_size(columns), -kInfinity);
    std::vector<double> mean(as_size(columns)), rest(as_size(columns)), squares(as_size(columns));
    for_each([&](std::size_t c, double value, std::int64_t t) {
      require<ShapeError>(std::isfinite(value), kOp,
                          "the series must be finite where it is fitted but step {}, column {} is {}", t, c, value);
      low[c] = std::min(low[c], value);
      high[c] = std::max(high[c], value);
      mean[c] += value / n;
    });
    if (scaling == Scaling::standard)
      for_each([&](std::size_t c, double value, std::int64_t) {
        rest[c] += value - mean[c];
        squares[c] += (value - mean[c]) * (value - mean[c]);
      });
    for (std::size_t c = 0; c < mean.size(); ++c) {
      const double correction = rest[c] / n;
      const double variance = std::max(0.0, squares[c] / n - correction * correction);
      const bool constant = low[c] == high[c];
      shift.push_back(constant || scaling == Scaling::min_max ? low[c] : mean[c] + correction);
      scale.push_back(constant ? 1 : scaling == Scaling::min_max ? high[c] - low[c] : std::sqrt(variance));
      // The largest finite values: their difference, or its square, is not.
      require<ShapeError>(std::isfinite(shift[c]) && std::isfinite(scale[c]) && scale[c] > 0, kOp,
                          "column {} spans [{}, {}], which cannot be scaled in f64", c, low[c], high[c]);
    }
  });
  return scaler;
}

Tensor Scaler::apply(const Tensor& series, bool back) const {
  const Tensor x = checked(series);
  const auto columns = static_cast<std::int64_t>(shift_.size());
  std::int64_t inner = 1;
  for (int i = x.rank(); inner < columns && --i >= 0;) inner *= x.size(i);
  require<ShapeError>(inner == columns, kOp, "was fitted on {} columns but the series has shape {}", columns,
                      x.shape());
  Tensor y = Tensor::empty(x.shape(), x.dtype());
  with_values(x, [&](const auto* from) {
    using T = std::remove_cvref_t<decltype(*from)>;
    T* to = y.data<T>();
    for (std::int64_t i = 0; i < x.numel(); i += columns)
      for (std::int64_t c = 0; c < columns; ++c) {
        const auto value = static_cast<double>(from[i + c]);
        const double shift = shift_[as_size(c)], scale = scale_[as_size(c)];
        to[i + c] = static_cast<T>(back ? value * scale + shift : (value - shift) / scale);
      }
  });
  return y;
}

Tensor Scaler::transform(const Tensor& series) const { return apply(series, false); }
Tensor Scaler::inverse(const Tensor& scaled) const { return apply(scaled, true); }

void Scaler::require_unseen(const RollingWindows& windows, std::span<const std::int64_t> held_out) const {
  for (const std::int64_t id : held_out) {
    const Interval labels = windows[id].labels;
    for (const Interval& seen : steps_)
      require<ShapeError>(
          !seen.overlaps(labels), kOp,
          "was fitted on steps [{}, {}) but step {} is to be predicted by window {}: fit it on the training "
          "windows' steps only",
          seen.begin, seen.end, std::max(seen.begin, labels.begin), id);
  }
}

ScaledWindows scaled_windows(const Tensor& features, const Tensor& labels, const RollingWindows& windows,
                             const WindowSplit& split, Scaling scaling) {
  const std::vector<Interval> steps = steps_of(windows, split.train);
  const Scaler x = Scaler::fit(scaling, features, steps), y = Scaler::fit(scaling, labels, steps);
  x.require_unseen(windows, split.test);
  y.require_unseen(windows, split.test);
  const Tensor scaled_x = x.transform(features), scaled_y = y.transform(labels);
  return {WindowDataset(scaled_x, scaled_y, windows, split.train, "windows/train"),
          WindowDataset(scaled_x, scaled_y, windows, split.test, "windows/test"), x, y};
}

}  // namespace weft::data
