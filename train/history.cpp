#include "train/history.h"

#include <algorithm>
#include <cmath>

namespace weft::train {
namespace {

/// Adds `next`, which follows `point`, to it.
void merge(LossPoint& point, const LossPoint& next) {
  if (point.count > 0 && next.count > 0) {
    const auto a = static_cast<double>(point.count), b = static_cast<double>(next.count);
    point.mean += (next.mean - point.mean) * (b / (a + b));
    point.low = std::min(point.low, next.low);
    point.high = std::max(point.high, next.high);
  } else if (next.count > 0) {
    point.mean = next.mean;
    point.low = next.low;
    point.high = next.high;
  }
  point.update = next.update;
  point.count += next.count;
  point.bad += next.bad;
}

}  // namespace

void LossHistory::add(std::int64_t update, double loss) {
  LossPoint point{.update = update};
  if (std::isfinite(loss)) {
    point.count = 1;
    point.mean = point.low = point.high = loss;
  } else {
    point.bad = 1;
  }
  if (!points_.empty() && in_last_ < stride_) {
    merge(points_.back(), point);
    ++in_last_;
    return;
  }
  if (points_.size() == 2 * kPoints) {  // all full: halve their number
    for (std::size_t i = 0; i < kPoints; ++i) {
      points_[i] = points_[2 * i];
      merge(points_[i], points_[2 * i + 1]);
    }
    points_.resize(kPoints);
    stride_ *= 2;
  }
  points_.push_back(point);
  in_last_ = 1;
}

std::int64_t LossHistory::bad() const {
  std::int64_t total = 0;
  for (const LossPoint& point : points_) total += point.bad;
  return total;
}

}  // namespace weft::train
