#include "data/loader.h"

#include "autograd/cast.h"
#include "data/loader_core.h"
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

Update::Update(std::shared_ptr<detail::LoaderCore> loader, std::shared_ptr<detail::Walk> walk, PlannedUpdate planned)
    : loader_(std::move(loader)),
      walk_(std::move(walk)),
      planned_(std::move(planned)),
      number_(to(Tensor::from_vector<std::int64_t>({planned_.number}, {}), loader_->device())) {}

void Update::load(std::int64_t k) {
  micro_ = {};  // its memory serves the next one
  micro_.index = k;
  if (k == planned_.parts) return;
  std::optional<detail::Made> made;
  if (walk_ != nullptr) made = walk_->take(planned_.index, k);
  if (!made) made = loader_->make(planned_, k);
  micro_ = loader_->deliver(*std::move(made), k, number_);
}

void Epoch::start() {
  update_.reset();
  walk_.reset();
  walk_ = loader_->walk(epoch_, first_, updates_);
  open(first_);
}

void Epoch::open(std::int64_t index) {
  update_.reset();
  at_ = index;
  if (index >= updates_) return;
  std::optional<PlannedUpdate> planned;
  if (walk_ != nullptr) planned = walk_->planned(index);
  if (!planned) planned = loader_->source().update(epoch_, index);
  update_ = Update(loader_, walk_, *std::move(planned));
}

Loader::Loader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options)
    : Loader(std::make_shared<const SampleBatches>(std::move(dataset), options.plan(), options.transform),
             options.delivery()) {}

Loader::Loader(std::shared_ptr<const BatchSource> source, const DeliveryOptions& options) {
  require<OptionError>(source != nullptr, "loader", "needs a source of batches but has a null pointer");
  loader_ = std::make_shared<detail::LoaderCore>(std::move(source), options);
}

const BatchSource& Loader::source() const { return loader_->source(); }
std::uint64_t Loader::hash() const { return loader_->hash(); }
std::vector<SkippedSample> Loader::skipped() const { return loader_->skipped(); }
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
