#include "data/loader.h"

#include "autograd/cast.h"
#include "data/sample_batches.h"

namespace weft::data {
namespace {

const SampleBatches& of_samples(const BatchSource& source) {
  const auto* samples = dynamic_cast<const SampleBatches*>(&source);
  require<OptionError>(samples != nullptr, "loader",
                       "{} is no data set of samples of one size: ask the loader's source() instead", source.name());
  return *samples;
}

}  // namespace

std::uint64_t detail::LoaderCore::hash() const {
  std::call_once(hashed_, [&] { hash_ = source->hash(); });
  return hash_;
}

Update::Update(std::shared_ptr<const detail::LoaderCore> loader, const PlannedUpdate& planned)
    : loader_(std::move(loader)),
      planned_(planned),
      number_(to(Tensor::from_vector<std::int64_t>({planned.number}, {}), loader_->options.device)) {}

void Update::load(std::int64_t k) {
  micro_ = {};  // its memory serves the next one
  micro_.index = k;
  if (k == planned_.parts) return;
  const Device device = loader_->options.device;
  MicroBatch micro = loader_->source->collate(planned_, k);
  for (Tensor* tensor : {&micro.input, &micro.target, &micro.weight, &micro.sample_ids, &micro.positions})
    if (tensor->defined()) *tensor = to(*tensor, device);
  micro.segments = micro.segments.to(device);
  micro.index = k;
  micro.update = number_;
  micro.seed = loader_->source->seed();
  micro_ = std::move(micro);
}

void Epoch::open(std::int64_t index) {
  update_.reset();
  at_ = index;
  if (index < updates_) update_ = Update(loader_, loader_->source->update(epoch_, index));
}

Loader::Loader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options)
    : Loader(std::make_shared<const SampleBatches>(std::move(dataset), options.plan()), options.delivery()) {}

Loader::Loader(std::shared_ptr<const BatchSource> source, const DeliveryOptions& options) {
  require<OptionError>(source != nullptr, "loader", "needs a source of batches but has a null pointer");
  loader_ = std::make_shared<const detail::LoaderCore>(std::move(source), options);
}

const Dataset& Loader::dataset() const { return of_samples(source()).dataset(); }
const Plan& Loader::plan() const { return of_samples(source()).plan(); }

Epoch Loader::epoch(std::int64_t epoch, std::int64_t first) const {
  const std::int64_t updates = updates_per_epoch(epoch);  // refuses an epoch that cannot be numbered
  require<ShapeError>(first >= 0 && first <= updates, "loader",
                      "the first update must be in [0, {}] within its epoch but is {}", updates, first);
  return {loader_, epoch, first, updates};
}

LoaderState Loader::state(std::int64_t epoch, std::int64_t first) const {
  const std::int64_t updates = updates_per_epoch(epoch);
  require<ShapeError>(first >= 0 && first <= updates, "loader",
                      "the first update must be in [0, {}] within its epoch but is {}", updates, first);
  LoaderState state{.hash = hash(), .seed = source().seed()};
  state.epoch = epoch + (first == updates ? 1 : 0);
  state.cursor = first == updates ? 0 : source().update(epoch, first).first;
  state.update = source().updates_before(epoch) + first;
  return state;
}

Place Loader::locate(const LoaderState& state) const {
  require<OptionError>(state.hash == hash() && state.seed == source().seed(), "loader",
                       "a run goes on only with the data set and the plan that it began with (samples, their order, "
                       "batch size, drop_last, seed) but the state has hash {:016x}, seed {} and {} has {:016x}, {}",
                       state.hash, state.seed, source().name(), hash(), source().seed());
  const bool epoch_exists = state.epoch >= 0 && state.update >= 0;
  const std::int64_t first = epoch_exists ? state.update - source().updates_before(state.epoch) : -1;
  require<OptionError>(
      first >= 0 && first < updates_per_epoch(state.epoch) && source().update(state.epoch, first).first == state.cursor,
      "loader", "no run of this plan is at sample {} of epoch {} after {} updates: the state is damaged", state.cursor,
      state.epoch, state.update);
  return {state.epoch, first};
}

}  // namespace weft::data
