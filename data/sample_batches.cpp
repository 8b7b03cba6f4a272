#include "data/sample_batches.h"

#include <algorithm>
#include <exception>
#include <new>
#include <numeric>
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

SampleBatches::SampleBatches(std::shared_ptr<const Dataset> dataset, const PlanOptions& options,
                             std::shared_ptr<const Transform> transform)
    : dataset_(std::move(dataset)), plan_(present(dataset_).size(), options), transform_(std::move(transform)) {}

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
  micro.sample_ids = Tensor::empty({part.samples + part.padding}, Dtype::i64);
  std::span ids(micro.sample_ids.data<std::int64_t>(), static_cast<std::size_t>(part.samples + part.padding));
  auto own = static_cast<std::size_t>(part.samples);  // the rows before those that weigh 0
  plan_.sample_ids(update.epoch, part.first, ids.first(own));
  if (part.padding > 0)  // what they hold does not matter: the update's first sample, which every rank finds
    std::fill(ids.begin() + part.samples, ids.end(), plan_.sample_id(update.epoch, update.first));

  std::vector<std::int64_t> keys;  // of the rows' randomness
  const KeyedBy keyed_by = plan_.repeats_samples(update.epoch) ? KeyedBy::place : KeyedBy::sample;
  if (transform_ != nullptr) {
    keys.assign(ids.begin(), ids.end());
    if (keyed_by == KeyedBy::place) std::iota(keys.begin(), keys.end(), part.first);
  }

  Batch batch;
  try {
    batch = dataset_->collate(ids);
  } catch (const OutOfMemory&) { throw; } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception&) {  // one of the samples, but which?
    std::size_t good = 0, good_own = 0;
    for (std::size_t row = 0; row < ids.size(); ++row) {
      const std::int64_t id = ids[row];
      std::string what;
      const std::exception_ptr error = error_of(*dataset_, id, what);
      if (error == nullptr) {
        if (transform_ != nullptr) keys[good] = keys[row];
        ids[good++] = id;
        if (row < own) ++good_own;
      } else if (skipped == nullptr) {
        throw SampleError(fmt::format("[loader] sample {} of {} (update {}, micro-batch {}): {}", id, dataset_->name(),
                                      update.number, k, what),
                          id, error);
      } else if (row < own) {
        skipped->push_back({.sample = id, .update = update.number, .reason = what});
      }
    }
    if (good == ids.size()) throw;  // each is given alone: the batch as a whole is refused
    ids = ids.first(good);
    own = good_own;
    micro.sample_ids = micro.sample_ids.slice(0, 0, static_cast<std::int64_t>(good));
    batch = dataset_->collate(ids);
  }
  const auto rows = static_cast<std::int64_t>(ids.size());
  for (const Tensor& x : {batch.input, batch.target})
    require<ShapeError>(x.rank() >= 1 && x.size(0) == rows, "loader",
                        "the data set {} must collate {} samples into as many rows but made {}", dataset_->name(), rows,
                        x.shape());
  micro.input = std::move(batch.input);
  if (transform_ != nullptr)
    micro.input =
        (*transform_)(micro.input, RowRandom(plan_.seed(), update.epoch, keyed_by), std::span(keys).first(ids.size()));
  micro.target = std::move(batch.target);
  if (own < ids.size()) {
    micro.weight = Tensor::empty(micro.target.shape());
    const std::int64_t labels = micro.weight.numel() / rows * static_cast<std::int64_t>(own);
    std::fill_n(micro.weight.data<float>(), labels, 1.0f);
    std::fill_n(micro.weight.data<float>() + labels, micro.weight.numel() - labels, 0.0f);
  }
  micro.index = k;
  micro.update = Tensor::from_vector<std::int64_t>({update.number}, {});
  micro.seed = plan_.seed();
  return micro;
}

std::uint64_t SampleBatches::hash() const {
  const std::uint64_t hash = hash_combine(dataset_->fingerprint(), plan_.hash());
  return transform_ == nullptr ? hash : hash_combine(hash, transform_->hash());
}

}  // namespace weft::data
