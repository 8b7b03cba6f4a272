#pragma once
// The batch source of samples of one size: a data set and a plan.
#include <memory>

#include "data/batch_source.h"
#include "data/dataset.h"
#include "data/transform.h"

namespace weft::data {

/// The updates of a Plan with the rows of a Dataset: row r of a micro-batch is the sample at the r-th place of its part, its
/// input changed by the transform, if there is one: in the same way for any split, worker and rank, anew in each epoch.
/// Errors: OptionError for options that the plan refuses; ShapeError "[loader] the data set x must collate 2 samples into as
///         many rows but made [3, 1]"; SampleError that names the sample for what the data set throws about one.
class SampleBatches final : public BatchSource {
 public:
  explicit SampleBatches(std::shared_ptr<const Dataset> dataset, const PlanOptions& options = {},
                         std::shared_ptr<const Transform> transform = nullptr);

  const Dataset& dataset() const { return *dataset_; }
  const Plan& plan() const { return plan_; }

  std::string name() const override { return dataset_->name(); }
  std::int64_t samples() const override { return plan_.samples(); }
  std::int64_t updates_per_epoch(std::int64_t epoch) const override;
  std::int64_t updates_before(std::int64_t epoch) const override;
  PlannedUpdate update(std::int64_t epoch, std::int64_t index) const override { return plan_.update(epoch, index); }
  MicroBatch collate(const PlannedUpdate& update, std::int64_t k) const override;
  MicroBatch collate_skipping(const PlannedUpdate& update, std::int64_t k,
                              std::vector<SkippedSample>& skipped) const override;
  std::uint64_t seed() const override { return plan_.seed(); }
  std::uint64_t hash() const override;

 private:
  MicroBatch make(const PlannedUpdate& update, std::int64_t k, std::vector<SkippedSample>* skipped) const;

  std::shared_ptr<const Dataset> dataset_;
  Plan plan_;
  std::shared_ptr<const Transform> transform_;  // null for none
};

}  // namespace weft::data
