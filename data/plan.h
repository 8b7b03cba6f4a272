#pragma once
// Which samples each optimizer update sees, and how they are cut into micro-batches: a pure function, computed when asked.
#include <cstdint>
#include <memory>
#include <span>
#include <variant>
#include <vector>

#include "data/sampling.h"

namespace weft::data {

struct SequenceLayout;  // data/sequence_plan.h

// The regimes: how many samples make one optimizer update.
struct Sgd {};        // one
struct FullBatch {};  // all of the data set
/// An update sees this many samples.
struct MiniBatch {
  std::int64_t samples = 128;
};
/// An update sees at most this many tokens: for sequences, which have lengths (data/sequence_plan.h); Plan refuses it.
struct TokenBatch {
  std::int64_t tokens = 4096;
};
/// How much of the data one update sees.
using Regime = std::variant<MiniBatch, Sgd, FullBatch, TokenBatch>;

/// The order of an epoch's samples.
///   shuffled: another order in each epoch; sequential: by id. The full batch is always sequential: it holds every sample
///   whatever their order, and reading them in a row is the fastest.
///   weighted: every place draws a sample, with replacement, in proportion to the weights. curriculum: from easy to hard.
enum class Order : std::uint8_t { shuffled, sequential, weighted, curriculum };

/// How an epoch is cut into updates and micro-batches.
struct PlanOptions {
  Regime batch = MiniBatch{};
  std::int64_t accumulate = 1;  // micro-batches of one update
  std::int64_t micro_samples =
      0;                   // instead: as few micro-batches as hold at most so many samples each; 0: see accumulate
  bool drop_last = false;  // leave out an epoch's last update when it is short
  Order order = Order::shuffled;
  std::uint64_t seed = 0;
  std::int64_t rank = 0;             // [0, ranks): which share of every update
  std::int64_t ranks = 1;            // that share an update
  std::vector<double> weights = {};  // Order::weighted: of each sample, at least 0
  Curriculum curriculum = {};        // Order::curriculum
};

/// One micro-batch of an update: the places [first, first + samples) of the epoch's order, and rows of weight 0.
struct PlannedPart {
  std::int64_t first = 0;
  std::int64_t samples = 0;
  std::int64_t padding = 0;  // rows behind them that weigh 0, so that all ranks have equally many
};

/// One optimizer update: the places [first, first + samples) of the epoch's order, in `parts` micro-batches.
struct PlannedUpdate {
  std::int64_t number = 1;   // from 1, over all epochs
  std::int64_t epoch = 0;    // from 0
  std::int64_t index = 0;    // [0, updates_per_epoch), within the epoch
  std::int64_t first = 0;    // samples of the epoch that earlier updates saw
  std::int64_t samples = 0;  // over all ranks
  std::int64_t parts = 1;    // of each rank: K, or fewer when a short update has fewer rows
  std::int64_t tokens = 0;   // of all its samples; 0 where samples have no lengths
  std::shared_ptr<const SequenceLayout> layout = nullptr;  // the rows that tokens are laid out in; null without lengths
  std::int64_t rank = 0, ranks = 1;

  /// The k-th micro-batch of this rank's share, k in [0, parts). Shares and micro-batches are runs of places whose sizes
  /// differ by at most one, the larger ones first: the first micro-batch of a run needs the most memory.
  PlannedPart part(std::int64_t k) const;
};

/// The order of samples and the updates of every epoch.
///   The samples of an update do not depend on `accumulate`, `micro_samples` and `ranks`: they only cut them. A shuffled or
///   sequential epoch holds every sample exactly once (without the short rest when it is dropped), a weighted one as many
///   draws as there are samples. A short last update is an update like any other: with losses that are {sum, denominator},
///   its gradient is exact.
///   Ranks: the shares of an update are disjoint, and together they are the update. Every rank has the same number of
///   updates, micro-batches and rows: where samples do not divide, the last ranks have a row of weight 0 (in a last update
///   of fewer samples than ranks, nothing else), so that none waits for another, and no sample counts twice.
/// Errors:   OptionError "[plan] batch size 70000 is larger than the data set (60000 samples): use at most 60000, or full";
///           likewise for an empty data set, a batch size or `accumulate` below 1, `accumulate` above the rows of a rank,
///           `accumulate` and `micro_samples` at once, ranks above the batch size, a batch in tokens, weights or a
///           curriculum that do not fit the data set, or the order, or that come with the full batch.
///           (drop_last always leaves an update, because the batch is no larger than the data set.)
/// Cost:     O(1) memory and O(1) time per question in the number of samples; weights take 16 bytes per sample, a curriculum 8.
/// Numerics: a draw is a function of (seed, epoch, place) alone.
class Plan {
 public:
  explicit Plan(std::int64_t samples, const PlanOptions& options = {});

  std::int64_t samples() const { return samples_; }        // of the data set
  std::int64_t batch_size() const { return batch_size_; }  // samples of an update that is not short
  std::int64_t accumulate() const { return accumulate_; }  // micro-batches of such an update, on each rank
  Order order() const { return order_; }
  std::uint64_t seed() const { return seed_; }
  std::int64_t updates_per_epoch() const { return updates_per_epoch_; }
  std::int64_t samples_per_epoch() const { return samples_per_epoch_; }

  /// The update at place `index` of an epoch. Errors: ShapeError for epoch < 0 or an index outside [0, updates_per_epoch).
  PlannedUpdate update(std::int64_t epoch, std::int64_t index) const;
  /// The sample at a place of an epoch's order. Errors: ShapeError for a place outside [0, samples).
  std::int64_t sample_id(std::int64_t epoch, std::int64_t position) const;
  /// The samples at out.size() places from `first` on; the same as sample_id for each, but faster.
  void sample_ids(std::int64_t epoch, std::int64_t first, std::span<std::int64_t> out) const;

  /// Whether an epoch may hold a sample more than once.
  bool repeats_samples(std::int64_t epoch) const;

  /// A hash of all that decides which samples an update holds: number of samples, batch size, order (weights, curriculum),
  /// seed, drop_last. Not of `accumulate`, `micro_samples`, `rank` and `ranks`, which a resumed run may change.
  std::uint64_t hash() const;

 private:
  std::int64_t samples_;
  std::int64_t batch_size_;
  std::int64_t accumulate_;
  std::int64_t micro_samples_;
  Order order_;
  std::uint64_t seed_;
  std::int64_t rank_, ranks_;
  std::shared_ptr<const detail::WeightedDraws> weighted_;      // null for another order
  std::shared_ptr<const detail::CurriculumDraws> curriculum_;  // null for another order
  std::int64_t updates_per_epoch_;
  std::int64_t samples_per_epoch_;
};

}  // namespace weft::data
