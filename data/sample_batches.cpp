#include "data/sample_batches.h"

#include <span>
#include <utility>

#include "data/fingerprint.h"

namespace weft::data {
namespace {

const Dataset& present(const std::shared_ptr<const Dataset>& dataset) {
  require<OptionError>(dataset != nullptr, "loader", "needs a data set but has a null pointer");
  return *dataset;
}

}  // namespace

SampleBatches::SampleBatches(std::shared_ptr<const Dataset> dataset, const PlanOptions& options)
    : dataset_(std::move(dataset)), plan_(present(dataset_).size(), options) {}

std::int64_t SampleBatches::updates_per_epoch(std::int64_t epoch) const {
  plan_.update(epoch, 0);  // refuses an epoch that cannot be numbered
  return plan_.updates_per_epoch();
}

std::int64_t SampleBatches::updates_before(std::int64_t epoch) const { return plan_.update(epoch, 0).number - 1; }

MicroBatch SampleBatches::collate(const PlannedUpdate& update, std::int64_t k) const {
  const PlannedPart part = update.part(k);
  MicroBatch micro;
  micro.sample_ids = Tensor::empty({part.samples}, Dtype::i64);
  const std::span ids(micro.sample_ids.data<std::int64_t>(), static_cast<std::size_t>(part.samples));
  plan_.sample_ids(update.epoch, part.first, ids);

  Batch batch = dataset_->collate(ids);
  for (const Tensor& rows : {batch.input, batch.target})
    require<ShapeError>(rows.rank() >= 1 && rows.size(0) == part.samples, "loader",
                        "the data set {} must collate {} samples into as many rows but made {}", dataset_->name(),
                        part.samples, rows.shape());
  micro.input = std::move(batch.input);
  micro.target = std::move(batch.target);
  micro.index = k;
  micro.update = Tensor::from_vector<std::int64_t>({update.number}, {});
  micro.seed = plan_.seed();
  return micro;
}

std::uint64_t SampleBatches::hash() const { return hash_combine(dataset_->fingerprint(), plan_.hash()); }

}  // namespace weft::data
