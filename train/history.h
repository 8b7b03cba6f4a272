#pragma once
// The loss curve of a run of any length in bounded memory.
#include <cstdint>
#include <utility>
#include <vector>

namespace weft::train {

/// A stretch of consecutive logged updates.
struct LossPoint {
  std::int64_t update = 0;             // the last one of the stretch
  std::int64_t count = 0;              // finite losses in it
  std::int64_t bad = 0;                // losses that were NaN or infinite
  double mean = 0, low = 0, high = 0;  // of the finite ones; 0 when there is none
};

/// Collects losses. While they are few every point is one update; beyond 2 * kPoints points neighbours are merged in pairs,
/// so that memory and the drawn curve stay small.
class LossHistory {
 public:
  static constexpr std::size_t kPoints = 1000;

  LossHistory() = default;
  /// Goes on from another one's points(), stride() and in_last().
  LossHistory(std::vector<LossPoint> points, std::int64_t stride, std::int64_t in_last)
      : points_(std::move(points)), stride_(stride), in_last_(in_last) {}

  void add(std::int64_t update, double loss);
  const std::vector<LossPoint>& points() const { return points_; }
  /// Logged updates that one point stands for.
  std::int64_t stride() const { return stride_; }
  /// Logged updates in the last point.
  std::int64_t in_last() const { return in_last_; }
  /// Losses that were NaN or infinite.
  std::int64_t bad() const;

 private:
  std::vector<LossPoint> points_;
  std::int64_t stride_ = 1;
  std::int64_t in_last_ = 0;
};

}  // namespace weft::train
