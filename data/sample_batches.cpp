#include "data/sample_batches.h"

#include <exception>
#include <new>
#include <span>
#include <string>
#include <utility>

#include "data/fingerprint.h"

namespace weft::data {
namespace {

const Dataset& present(const std::shared_ptr<const Dataset>& dataset) {
  require<OptionError>(dataset != nullptr, "loader", "needs a data set but has a null pointer");
  return *dataset;
}

/// What the data set throws about a sample, and null when it gives it. Running out of memory says nothing about a sample.
std::exception_ptr error_of(const Dataset& dataset, std::int64_t id, std::string& what) {
  try {
    dataset.collate({&id, 1});
  } catch (const OutOfMemory&) { throw; } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    what = error.what();
    return std::current_exception();
  }
  return nullptr;
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
  return make(update, k, nullptr);
}

MicroBatch SampleBatches::collate_skipping(const PlannedUpdate& update, std::int64_t k,
                                           std::vector<SkippedSample>& skipped) const {
  return make(update, k, &skipped);
}

MicroBatch SampleBatches::make(const PlannedUpdate& update, std::int64_t k, std::vector<SkippedSample>* skipped) const {
  const PlannedPart part = update.part(k);
  MicroBatch micro;
  micro.sample_ids = Tensor::empty({part.samples}, Dtype::i64);
  std::span ids(micro.sample_ids.data<std::int64_t>(), static_cast<std::size_t>(part.samples));
  plan_.sample_ids(update.epoch, part.first, ids);

  Batch batch;
  try {
    batch = dataset_->collate(ids);
  } catch (const OutOfMemory&) { throw; } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception&) {  // one of the samples, but which?
    std::size_t good = 0;
    for (const std::int64_t id : ids) {
      std::string what;
      const std::exception_ptr error = error_of(*dataset_, id, what);
      if (error == nullptr)
        ids[good++] = id;
      else if (skipped != nullptr)
        skipped->push_back({.sample = id, .update = update.number, .reason = what});
      else
        throw SampleError(fmt::format("[loader] sample {} of {} (update {}, micro-batch {}): {}", id, dataset_->name(),
                                      update.number, k, what),
                          id, error);
    }
    if (good == ids.size()) throw;  // each is given alone: the batch as a whole is refused
    ids = ids.first(good);
    micro.sample_ids = micro.sample_ids.slice(0, 0, static_cast<std::int64_t>(good));
    batch = dataset_->collate(ids);
  }
  const auto rows = static_cast<std::int64_t>(ids.size());
  for (const Tensor& x : {batch.input, batch.target})
    require<ShapeError>(x.rank() >= 1 && x.size(0) == rows, "loader",
                        "the data set {} must collate {} samples into as many rows but made {}", dataset_->name(), rows,
                        x.shape());
  micro.input = std::move(batch.input);
  micro.target = std::move(batch.target);
  micro.index = k;
  micro.update = Tensor::from_vector<std::int64_t>({update.number}, {});
  micro.seed = plan_.seed();
  return micro;
}

std::uint64_t SampleBatches::hash() const { return hash_combine(dataset_->fingerprint(), plan_.hash()); }

}  // namespace weft::data
