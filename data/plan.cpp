#include "data/plan.h"

#include <algorithm>
#include <limits>

#include "data/feistel.h"
#include "data/fingerprint.h"
#include "tensor/parallel.h"
#include "tensor/philox.h"

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

std::int64_t divided_up(std::int64_t count, std::int64_t by) { return count / by + (count % by != 0 ? 1 : 0); }

/// A run of places, one of `of` that differ by at most one, the larger ones first.
struct Run {
  std::int64_t first, count;
};
Run run_of(std::int64_t count, std::int64_t of, std::int64_t index) {
  const std::int64_t size = count / of, larger = count % of;
  return {index * size + std::min(index, larger), size + (index < larger ? 1 : 0)};
}

}  // namespace

PlannedPart PlannedUpdate::part(std::int64_t k) const {
  require<ShapeError>(k >= 0 && k < parts, "plan", "the micro-batch must be in [0, {}) but is {}", parts, k);
  const Run share = run_of(samples, ranks, rank), rows = run_of(divided_up(samples, ranks), parts, k);
  const std::int64_t begin = std::min(rows.first, share.count);
  const std::int64_t own = std::min(rows.count, share.count - begin);
  return {first + share.first + begin, own, rows.count - own};
}

Plan::Plan(std::int64_t samples, const PlanOptions& options)
    : samples_(samples),
      batch_size_(samples_of(options.batch, samples)),
      accumulate_(options.accumulate),
      micro_samples_(options.micro_samples),
      order_(std::holds_alternative<FullBatch>(options.batch) ? Order::sequential : options.order),
      seed_(options.seed),
      rank_(options.rank),
      ranks_(options.ranks) {
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
  require<OptionError>(ranks_ >= 1 && rank_ >= 0 && rank_ < ranks_, "plan",
                       "rank must be in [0, ranks) but is {} of {}", rank_, ranks_);
  require<OptionError>(ranks_ <= batch_size_, "plan",
                       "{} ranks cannot share a batch size of {}: each needs a sample, use a larger batch", ranks_,
                       batch_size_);
  const std::int64_t rows = divided_up(batch_size_, ranks_);
  require<OptionError>(
      accumulate_ <= rows, "plan",
      "accumulate {0} is larger than a rank's share of {1} samples: a micro-batch needs a sample, use at most {1}",
      accumulate_, rows);
  require<OptionError>(micro_samples_ >= 0, "plan", "micro_samples must be at least 0 but is {}", micro_samples_);
  require<OptionError>(micro_samples_ == 0 || accumulate_ == 1, "plan",
                       "accumulate {} and micro_samples {} both say how an update is cut: use one of them", accumulate_,
                       micro_samples_);
  if (micro_samples_ > 0) accumulate_ = divided_up(rows, micro_samples_);

  const bool drawn = options.order == Order::weighted || options.order == Order::curriculum;
  require<OptionError>(!drawn || order_ == options.order, "plan",
                       "the full batch holds every sample once: for an order by weight or difficulty use a number of "
                       "samples");
  require<OptionError>(options.weights.empty() || order_ == Order::weighted, "plan",
                       "weights are for the weighted order: set it, or leave them out");
  require<OptionError>(options.curriculum.difficulty.empty() || order_ == Order::curriculum, "plan",
                       "difficulties are for the curriculum: set that order, or leave them out");
  if (order_ == Order::weighted) weighted_ = std::make_shared<const detail::WeightedDraws>(options.weights, samples_);
  if (order_ == Order::curriculum)
    curriculum_ = std::make_shared<const detail::CurriculumDraws>(options.curriculum, samples_);
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
  const std::int64_t rows = divided_up(update.samples, ranks_);
  update.parts = micro_samples_ > 0 ? divided_up(rows, micro_samples_) : std::min(accumulate_, rows);
  update.rank = rank_;
  update.ranks = ranks_;
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
  if (repeats_samples(epoch)) {
    constexpr auto kUse = static_cast<std::uint64_t>(RandomUse::shuffle) << 32;
    constexpr std::uint64_t kEpochKey = 16, kDraw = 17;  // the permutation's keys come before
    const PhiloxBlock name = philox4x32(seed_, static_cast<std::uint64_t>(epoch), kUse | kEpochKey);
    const std::uint64_t key = static_cast<std::uint64_t>(name[0]) << 32 | name[1];
    parallel_ranges(count, kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const PhiloxBlock bits = philox4x32(key, static_cast<std::uint64_t>(first + i), kUse | kDraw);
        const std::uint64_t which = static_cast<std::uint64_t>(bits[0]) << 32 | bits[1];
        out[static_cast<std::size_t>(i)] = weighted_ != nullptr ? (*weighted_)(which, uniform_double(bits[2], bits[3]))
                                                                : (*curriculum_)(epoch, first + i, which);
      }
    });
    return;
  }
  const FeistelPermutation permutation(samples_, seed_, static_cast<std::uint64_t>(epoch));
  parallel_ranges(count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) out[static_cast<std::size_t>(i)] = permutation(first + i);
  });
}

bool Plan::repeats_samples(std::int64_t epoch) const {
  return weighted_ != nullptr || (curriculum_ != nullptr && epoch < curriculum_->epochs());
}

std::uint64_t Plan::hash() const {
  constexpr std::uint64_t kVersion = 1;  // raise it when the order for the same options changes
  std::uint64_t hash = kVersion;
  for (const std::uint64_t value :
       {static_cast<std::uint64_t>(samples_), static_cast<std::uint64_t>(batch_size_),
        static_cast<std::uint64_t>(samples_per_epoch_), static_cast<std::uint64_t>(order_), seed_})
    hash = hash_combine(hash, value);
  if (weighted_ != nullptr) hash = hash_combine(hash, weighted_->hash());
  if (curriculum_ != nullptr) hash = hash_combine(hash, curriculum_->hash());
  return hash;
}

}  // namespace weft::data
