#include "data/plan.h"

#include <algorithm>
#include <limits>

#include "data/feistel.h"
#include "data/fingerprint.h"
#include "tensor/parallel.h"

namespace weft::data {
namespace {

std::int64_t samples_of(const Regime& regime, std::int64_t all) {
  if (const auto* batch = std::get_if<TokenBatch>(&regime))
    fail<OptionError>("plan",
                      "a batch of {} tokens needs samples that have lengths (a sequence plan) but these have none: use "
                      "a number of samples, or full",
                      batch->tokens);
  if (const auto* batch = std::get_if<MiniBatch>(&regime)) return batch->samples;
  return std::holds_alternative<FullBatch>(regime) ? all : 1;
}

}  // namespace

PlannedPart PlannedUpdate::part(std::int64_t k) const {
  require<ShapeError>(k >= 0 && k < parts, "plan", "the micro-batch must be in [0, {}) but is {}", parts, k);
  const std::int64_t size = samples / parts, larger = samples % parts;
  return {first + k * size + std::min(k, larger), size + (k < larger ? 1 : 0)};
}

Plan::Plan(std::int64_t samples, const PlanOptions& options)
    : samples_(samples),
      batch_size_(samples_of(options.batch, samples)),
      accumulate_(options.accumulate),
      order_(std::holds_alternative<FullBatch>(options.batch) ? Order::sequential : options.order),
      seed_(options.seed) {
  require<OptionError>(samples_ >= 1, "plan", "the data set is empty: a plan needs at least one sample");
  require<OptionError>(batch_size_ >= 1, "plan",
                       "batch size must be at least 1 but is {}: use a number in [1, {}], or full", batch_size_,
                       samples_);
  require<OptionError>(batch_size_ <= samples_, "plan",
                       "batch size {0} is larger than the data set ({1} samples): use at most {1}, or full",
                       batch_size_, samples_);
  require<OptionError>(accumulate_ >= 1, "plan",
                       "accumulate must be at least 1 but is {}: 1 runs an update as a single micro-batch",
                       accumulate_);
  require<OptionError>(
      accumulate_ <= batch_size_, "plan",
      "accumulate {0} is larger than the batch size {1}: a micro-batch needs a sample, use at most {1}", accumulate_,
      batch_size_);
  const std::int64_t rest = samples_ % batch_size_;
  updates_per_epoch_ = samples_ / batch_size_ + (rest != 0 && !options.drop_last ? 1 : 0);
  samples_per_epoch_ = options.drop_last ? samples_ - rest : samples_;
}

PlannedUpdate Plan::update(std::int64_t epoch, std::int64_t index) const {
  const std::int64_t epochs = std::numeric_limits<std::int64_t>::max() / updates_per_epoch_;  // that can be numbered
  require<ShapeError>(epoch >= 0 && epoch < epochs, "plan", "the epoch must be in [0, {}) but is {}", epochs, epoch);
  require<ShapeError>(index >= 0 && index < updates_per_epoch_, "plan",
                      "the update must be in [0, {}) within its epoch but is {}", updates_per_epoch_, index);
  PlannedUpdate update;
  update.number = epoch * updates_per_epoch_ + index + 1;
  update.epoch = epoch;
  update.index = index;
  update.first = index * batch_size_;
  update.samples = std::min(batch_size_, samples_per_epoch_ - update.first);
  update.parts = std::min(accumulate_, update.samples);
  return update;
}

std::int64_t Plan::sample_id(std::int64_t epoch, std::int64_t position) const {
  std::int64_t id = 0;
  sample_ids(epoch, position, {&id, 1});
  return id;
}

void Plan::sample_ids(std::int64_t epoch, std::int64_t first, std::span<std::int64_t> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  require<ShapeError>(first >= 0 && count <= samples_ && first <= samples_ - count, "plan",
                      "places in an epoch must be in [0, {}) but [{}, {} + {}) was asked for", samples_, first, first,
                      count);
  constexpr std::int64_t kGrain = 4096;  // places; a place costs about 20 ns
  if (order_ == Order::sequential) {
    for (std::int64_t i = 0; i < count; ++i) out[static_cast<std::size_t>(i)] = first + i;
    return;
  }
  const FeistelPermutation permutation(samples_, seed_, static_cast<std::uint64_t>(epoch));
  parallel_ranges(count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) out[static_cast<std::size_t>(i)] = permutation(first + i);
  });
}

std::uint64_t Plan::hash() const {
  constexpr std::uint64_t kVersion = 1;  // raise it when the order for the same options changes
  std::uint64_t hash = kVersion;
  for (const std::uint64_t value :
       {static_cast<std::uint64_t>(samples_), static_cast<std::uint64_t>(batch_size_),
        static_cast<std::uint64_t>(samples_per_epoch_), static_cast<std::uint64_t>(order_), seed_})
    hash = hash_combine(hash, value);
  return hash;
}

}  // namespace weft::data
