#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "optim/optimizer.h"

namespace weft::optim {

Schedule Schedule::constant(double lr) {
  require_non_negative("schedule", "lr", lr);
  return Schedule({.peak_lr = lr, .min_lr = lr, .warmup = 0, .updates = 1});
}

Schedule Schedule::cosine(const CosineOptions& options) {
  require_non_negative("schedule", "peak_lr", options.peak_lr);
  require_non_negative("schedule", "min_lr", options.min_lr);
  require<OptionError>(options.min_lr <= options.peak_lr, "schedule", "min_lr must be at most peak_lr = {} but is {}",
                       options.peak_lr, options.min_lr);
  require<OptionError>(options.updates >= 1, "schedule", "updates must be at least 1 but is {}", options.updates);
  require<OptionError>(options.warmup >= 0 && options.warmup <= options.updates, "schedule",
                       "warmup must be in [0, updates] = [0, {}] but is {}", options.updates, options.warmup);
  return Schedule(options);
}

double Schedule::lr(std::int64_t update) const {
  require<OptionError>(update >= 1, "schedule", "updates are numbered from 1 but this is update {}", update);
  const auto& [peak_lr, min_lr, warmup, updates] = options_;
  const std::int64_t risen = std::max<std::int64_t>(warmup, 1);
  if (update <= risen) return peak_lr * (static_cast<double>(update) / static_cast<double>(risen));
  if (update >= updates) return min_lr;
  const double progress = static_cast<double>(update - risen) / static_cast<double>(updates - risen);
  return min_lr + (peak_lr - min_lr) * (0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

}  // namespace weft::optim
