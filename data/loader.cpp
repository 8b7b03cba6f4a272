#include "data/loader.h"

#include <span>

#include "autograd/cast.h"
#include "data/fingerprint.h"

namespace weft::data {

StepScope MicroBatch::scope() const {
  return StepScope(StepContext{.seed = seed,
                               .update = update,
                               .sample_ids = sample_ids,
                               .positions = {},
                               .micro_batch = static_cast<int>(index)});
}

Update::Update(std::shared_ptr<const detail::LoaderState> loader, const PlannedUpdate& planned)
    : loader_(std::move(loader)),
      planned_(planned),
      number_(to(Tensor::from_vector<std::int64_t>({planned.number}, {}), loader_->device)) {}

void Update::load(std::int64_t k) {
  micro_ = {};  // its memory serves the next one
  micro_.index = k;
  if (k == planned_.parts) return;
  const Device device = loader_->device;
  const PlannedPart part = planned_.part(k);
  const Tensor sample_ids = Tensor::empty({part.samples}, Dtype::i64);
  const std::span ids(sample_ids.data<std::int64_t>(), static_cast<std::size_t>(part.samples));
  loader_->plan.sample_ids(planned_.epoch, part.first, ids);

  const Batch batch = loader_->dataset->collate(ids);
  for (const Tensor& rows : {batch.input, batch.target})
    require<ShapeError>(rows.rank() >= 1 && rows.size(0) == part.samples, "loader",
                        "the data set {} must collate {} samples into as many rows but made {}",
                        loader_->dataset->name(), part.samples, rows.shape());
  micro_ = {to(batch.input, device), to(batch.target, device), to(sample_ids, device), k, number_,
            loader_->plan.seed()};
}

void Epoch::open(std::int64_t index) {
  update_.reset();
  at_ = index;
  if (index < loader_->plan.updates_per_epoch()) update_ = Update(loader_, loader_->plan.update(epoch_, index));
}

Loader::Loader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options) {
  require<OptionError>(dataset != nullptr, "loader", "needs a data set but has a null pointer");
  const Plan plan(dataset->size(), options.plan());
  loader_ = std::make_shared<const detail::LoaderState>(detail::LoaderState{std::move(dataset), plan, options.device});
}

Epoch Loader::epoch(std::int64_t epoch, std::int64_t first) const {
  plan().update(epoch, 0);  // refuses an epoch that cannot be numbered
  require<ShapeError>(first >= 0 && first <= updates_per_epoch(), "loader",
                      "the first update must be in [0, {}] within its epoch but is {}", updates_per_epoch(), first);
  return {loader_, epoch, first};
}

std::uint64_t Loader::hash() const { return hash_combine(dataset().fingerprint(), plan().hash()); }

}  // namespace weft::data
