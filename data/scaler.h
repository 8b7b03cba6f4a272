#pragma once
// Time series brought to one scale, with statistics of the training part only.
#include <cstdint>
#include <span>
#include <vector>

#include "data/splits.h"
#include "data/windows.h"
#include "tensor/tensor.h"

namespace weft::data {

/// How a column is scaled.
///   standard  to mean 0 and variance 1 (divided by N) of the steps that it was fitted on
///   min_max   those steps' smallest value to 0, their largest to 1
enum class Scaling { standard, min_max };

/// x[t, c] -> (x[t, c] - shift[c]) / scale[c], column by column, shift and scale found in some of the steps, which it remembers.
///   const auto split = data::chronological_split(windows, 0.2);
///   const auto scaler = data::Scaler::fit(data::Scaling::standard, series, data::steps_of(windows, split.train));
///   scaler.require_unseen(windows, split.test);  // throws had it seen what is to be predicted
///   const Tensor scaled = scaler.transform(series);
/// Shapes:   series [T, ...]: every place behind the first dimension is a column.
/// Types:    f32, f64; statistics in f64.
/// Layout:   on the cpu; any.
/// Grad:     none: data only.
/// Errors:   ShapeError for steps outside the series, none, or other columns than it was fitted on; DtypeError, DeviceError;
///           "[scaler] the series must be finite where it is fitted but step 17, column 2 is nan".
/// Numerics: two passes, the second corrected for the mean's rounding; a column that is constant where it was fitted has scale
///           1, so that it becomes 0 there and stays finite elsewhere.
class Scaler {
 public:
  static Scaler fit(Scaling scaling, const Tensor& series, std::vector<Interval> steps);

  Tensor transform(const Tensor& series) const;
  /// Back to the series' own units. Works on any tensor whose last dimensions are the columns, such as a prediction [B, horizon,
  /// ...]; so does transform().
  Tensor inverse(const Tensor& scaled) const;

  /// That it was not fitted on any step that these windows are to predict.
  /// Errors: ShapeError "[scaler] was fitted on steps [0, 900) but step 880 is to be predicted by window 850: fit it on the
  ///         training windows' steps only".
  void require_unseen(const RollingWindows& windows, std::span<const std::int64_t> held_out) const;

  const std::vector<Interval>& fitted_on() const { return steps_; }
  const std::vector<double>& shift() const { return shift_; }  // [columns]
  const std::vector<double>& scale() const { return scale_; }  // [columns], > 0

 private:
  Tensor apply(const Tensor& series, bool back) const;

  std::vector<Interval> steps_;
  std::vector<double> shift_, scale_;
};

/// A series made into data sets, the scalers fitted on the training windows' steps and checked against the test windows.
struct ScaledWindows {
  WindowDataset train, test;
  Scaler features, labels;
};

/// Splits, fits, checks, scales: what a training on a time series starts from.
/// Shapes:   features [T, ...], labels [T, ...].
/// Errors:   as those of Scaler and WindowDataset.
ScaledWindows scaled_windows(const Tensor& features, const Tensor& labels, const RollingWindows& windows,
                             const WindowSplit& split, Scaling scaling = Scaling::standard);

}  // namespace weft::data
