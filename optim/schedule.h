#pragma once
// Learning rates as pure functions of the number of the update: a resumed run continues where it was, and neither the
// number of micro-batches nor skipped updates shift the curve.
#include <cstdint>

namespace weft::optim {

/// A linear warm-up, then half a cosine.
struct CosineOptions {
  double peak_lr = 1e-3;     // the highest learning rate
  double min_lr = 0;         // the last one, in [0, peak_lr]
  std::int64_t warmup = 0;   // W: updates of linear warm-up, in [0, updates]
  std::int64_t updates = 0;  // T: planned updates, at least 1
};

/// A learning rate for every update u = 1, 2, ... (planned updates: not micro-batches, and skipped ones count).
///
///   adamw.set_lr(schedule.lr(update.number()));
class Schedule {
 public:
  /// lr(u) = lr
  static Schedule constant(double lr);
  /// Linear warm-up, then half a cosine down to min_lr. With w = max(W, 1):
  ///   u <= w:      peak_lr * u / w                                                 the first update already moves
  ///   w < u < T:   min_lr + (peak_lr - min_lr) * (1 + cos(pi * (u - w) / (T - w))) / 2
  ///   u >= T:      min_lr, for good (but T itself is still the peak when T = w)
  /// Without warm-up update 1 has the peak, as with W = 1.
  /// Errors: OptionError "[schedule] warmup must be in [0, updates] = [0, 100] but is 101".
  /// Source: Loshchilov, Hutter 2017, arXiv:1608.03983, eq. 5, without restarts.
  static Schedule cosine(const CosineOptions& options);

  /// Errors: OptionError unless update >= 1.
  double lr(std::int64_t update) const;

 private:
  explicit Schedule(const CosineOptions& options) : options_(options) {}
  CosineOptions options_;  // the constant one is a cosine that ends at its peak
};

}  // namespace weft::optim
