#include "data/window_batches.h"

#include <algorithm>
#include <utility>

#include "autograd/factories.h"
#include "data/fingerprint.h"
#include "tensor/error.h"

namespace weft::data {
namespace {

constexpr const char* kOp = "window_batches";

/// The plan that cuts the order of an epoch, which is our own.
PlanOptions in_order(PlanOptions options) {
  require<OptionError>(options.order == Order::shuffled, kOp,
                       "batches without overlap are drawn at random: the order must be shuffled");
  options.order = Order::sequential;
  return options;
}
const WindowDataset& checked(const std::shared_ptr<const WindowDataset>& dataset) {
  require<OptionError>(dataset != nullptr, kOp, "needs a data set but has a null pointer");
  const auto& ids = dataset->ids();
  require<OptionError>(std::is_sorted(ids.begin(), ids.end()), kOp,
                       "the windows of {} must be in ascending order of time", dataset->name());
  return *dataset;
}

}  // namespace

WindowBatches::WindowBatches(std::shared_ptr<const WindowDataset> dataset, const PlanOptions& options)
    : dataset_(std::move(dataset)), plan_(checked(dataset_).size(), in_order(options)) {
  order(0);  // throws where there is none: whether there is one does not depend on the epoch
}

std::int64_t WindowBatches::updates_per_epoch(std::int64_t epoch) const {
  plan_.update(epoch, 0);  // refuses an epoch that cannot be numbered
  return plan_.updates_per_epoch();
}

std::shared_ptr<const WindowBatches::Ids> WindowBatches::order(std::int64_t epoch) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [of, ids] : orders_)
    if (of == epoch) return ids;
  auto ids = std::make_shared<const Ids>(
      overlap_free_order(dataset_->windows(), dataset_->ids(), plan_.batch_size(), plan_.seed(), epoch));
  if (orders_.size() == 2)
    orders_.erase(orders_.begin());  // the older one; a loader's workers are in two epochs at most
  orders_.emplace_back(epoch, ids);
  return ids;
}

MicroBatch WindowBatches::collate(const PlannedUpdate& update, std::int64_t k) const {
  const PlannedPart part = update.part(k);
  const std::shared_ptr<const Ids> ids = order(update.epoch);
  MicroBatch micro;
  const std::int64_t rows = part.samples + part.padding;
  micro.sample_ids = Tensor::empty({rows}, Dtype::i64);
  auto* to = micro.sample_ids.data<std::int64_t>();
  std::copy_n(ids->begin() + part.first, part.samples, to);
  // What padding holds does not matter: the update's first sample, as in SampleBatches.
  if (part.padding > 0) std::fill_n(to + part.samples, part.padding, (*ids)[static_cast<std::size_t>(update.first)]);
  Batch batch = dataset_->collate({to, static_cast<std::size_t>(rows)});
  micro.input = std::move(batch.input);
  micro.target = std::move(batch.target);
  if (part.padding > 0) {
    micro.weight = zeros(micro.target.shape());
    std::fill_n(micro.weight.data<float>(), micro.weight.numel() / rows * part.samples, 1.0f);
  }
  micro.index = k;
  micro.update = Tensor::from_vector<std::int64_t>({update.number}, {});
  micro.seed = plan_.seed();
  return micro;
}

std::uint64_t WindowBatches::hash() const {
  constexpr std::uint64_t kWithoutOverlap = 1;  // not a sequential plan over the same windows
  return hash_combine(hash_combine(dataset_->fingerprint(), plan_.hash()), kWithoutOverlap);
}

}  // namespace weft::data
