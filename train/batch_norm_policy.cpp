#include "train/batch_norm_policy.h"

#include <algorithm>

#include "tensor/error.h"

namespace weft::train {

std::int64_t smallest_micro_batch(const data::Plan& plan) {
  std::int64_t smallest = plan.samples();
  for (const std::int64_t index : {std::int64_t{0}, plan.updates_per_epoch() - 1}) {  // only the last one may be short
    const data::PlannedUpdate update = plan.update(0, index);
    smallest = std::min(smallest, update.part(update.parts - 1).samples);
  }
  return smallest;
}

void check_batch_statistics(const data::Plan& plan, BatchNormAccumulation policy) {
  require<OptionError>(plan.accumulate() == 1 || policy == BatchNormAccumulation::micro, "batch_norm",
                       "an update must be one micro-batch but --accumulate is {}: each would be normalised by its own "
                       "statistics; use --norm layer, or accept that with --bn-accumulation micro",
                       plan.accumulate());
  const std::int64_t smallest = smallest_micro_batch(plan);
  require<OptionError>(smallest >= 2, "batch_norm",
                       "every micro-batch must have at least 2 samples but cutting {} samples by --batch-size {} "
                       "--accumulate {} leaves one with {}; change those, use --norm layer, or --drop-last for a short "
                       "last update",
                       plan.samples(), plan.batch_size(), plan.accumulate(), smallest);
}

std::string choose_norm(const std::string& asked, const data::Plan& plan, Options& options) {
  constexpr std::int64_t kEnough = 16;  // below, the statistics of a batch are too noisy to normalise with
  if (asked != "auto") return asked;
  std::string why = fmt::format("updates of {} samples are enough for batch statistics", plan.batch_size());
  bool batch = false;
  if (plan.accumulate() > 1)
    why = "updates are split into micro-batches";
  else if (plan.batch_size() < kEnough)
    why = fmt::format("an update has fewer than {} samples", kEnough);
  else if (smallest_micro_batch(plan) < 2)
    why = "the last update of an epoch has a single sample";
  else
    batch = true;
  std::string chosen = batch ? "batch" : "layer";
  options.record("norm", chosen);
  options.notices.push_back(fmt::format("norm {}: {}", chosen, why));
  return chosen;
}

}  // namespace weft::train
