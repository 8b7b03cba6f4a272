#pragma once
// The batch source of time-series windows whose batches hold no two that overlap.
#include <memory>
#include <mutex>
#include <vector>

#include "data/batch_source.h"
#include "data/windows.h"

namespace weft::data {

/// The windows of a data set in batches without overlap, in another order in each epoch: see overlap_free_order().
///   auto train = std::make_shared<data::WindowDataset>(series, labels, windows, split.train, "co2/train");
///   data::Loader loader(std::make_shared<data::WindowBatches>(train, data::PlanOptions{.batch = data::MiniBatch{32}}));
///   An update is a batch: its micro-batches together hold no overlap. With drop_last, what the short batch holds changes
///   from epoch to epoch.
/// Params:  options.order must be Order::shuffled, and the batch a number of samples.
/// Errors:  as Plan; OptionError for windows that are not in ascending order of time, or another order; ShapeError when no such
///          batches exist, naming a batch size and a stride that would do. All when it is made, none later.
/// Memory:  8 bytes per window for each of the last two epochs that were asked for.
class WindowBatches final : public BatchSource {
 public:
  explicit WindowBatches(std::shared_ptr<const WindowDataset> dataset, const PlanOptions& options = {});

  std::string name() const override { return dataset_->name(); }
  std::int64_t samples() const override { return plan_.samples(); }
  std::int64_t updates_per_epoch(std::int64_t epoch) const override;
  std::int64_t updates_before(std::int64_t epoch) const override { return plan_.update(epoch, 0).number - 1; }
  PlannedUpdate update(std::int64_t epoch, std::int64_t index) const override { return plan_.update(epoch, index); }
  MicroBatch collate(const PlannedUpdate& update, std::int64_t k) const override;
  std::uint64_t seed() const override { return plan_.seed(); }
  std::uint64_t hash() const override;

 private:
  using Ids = std::vector<std::int64_t>;
  /// The order of an epoch, made once.
  std::shared_ptr<const Ids> order(std::int64_t epoch) const;

  std::shared_ptr<const WindowDataset> dataset_;
  Plan plan_;
  mutable std::mutex mutex_;  // of the next one
  mutable std::vector<std::pair<std::int64_t, std::shared_ptr<const Ids>>> orders_;
};

}  // namespace weft::data
