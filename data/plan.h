#pragma once
// Which samples each optimizer update sees, and how they are cut into micro-batches: a pure function, computed when asked.
#include <cstdint>
#include <memory>
#include <span>
#include <variant>

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

/// shuffled: another order in each epoch; sequential: by id. The full batch is always sequential: it holds every sample
/// whatever their order, and reading them in a row is the fastest.
enum class Order : std::uint8_t { shuffled, sequential };

/// How an epoch is cut into updates and micro-batches.
struct PlanOptions {
  Regime batch = MiniBatch{};
  std::int64_t accumulate = 1;  // micro-batches of one update
  bool drop_last = false;       // leave out an epoch's last update when it is short
  Order order = Order::shuffled;
  std::uint64_t seed = 0;
};

/// One micro-batch of an update: the places [first, first + samples) of the epoch's order.
struct PlannedPart {
  std::int64_t first = 0;
  std::int64_t samples = 0;
};

/// One optimizer update: the places [first, first + samples) of the epoch's order, in `parts` micro-batches.
struct PlannedUpdate {
  std::int64_t number = 1;  // from 1, over all epochs
  std::int64_t epoch = 0;   // from 0
  std::int64_t index = 0;   // [0, updates_per_epoch), within the epoch
  std::int64_t first = 0;   // samples of the epoch that earlier updates saw
  std::int64_t samples = 0;
  std::int64_t parts = 1;                                  // K, or the number of samples when a short update has fewer
  std::int64_t tokens = 0;                                 // of all its samples; 0 where samples have no lengths
  std::shared_ptr<const SequenceLayout> layout = nullptr;  // the rows that tokens are laid out in; null without lengths

  /// The k-th micro-batch, k in [0, parts). Sizes differ by at most one, the larger ones first: the first micro-batch of a
  /// run needs the most memory.
  PlannedPart part(std::int64_t k) const;
};

/// The order of samples and the updates of every epoch.
///   The samples of an update do not depend on `accumulate`: it only cuts them. Each epoch holds every sample exactly once
///   (without the short rest when it is dropped). A short last update is an update like any other: with losses that are
///   {sum, denominator}, its gradient is exact.
/// Errors:   OptionError "[plan] batch size 70000 is larger than the data set (60000 samples): use at most 60000, or full";
///           likewise for an empty data set, a batch size or `accumulate` below 1, `accumulate` above the batch size, and
///           a batch in tokens.
///           (drop_last always leaves an update, because the batch is no larger than the data set.)
/// Cost:     O(1) memory and O(1) time per question in the number of samples.
class Plan {
 public:
  explicit Plan(std::int64_t samples, const PlanOptions& options = {});

  std::int64_t samples() const { return samples_; }        // of the data set
  std::int64_t batch_size() const { return batch_size_; }  // samples of an update that is not short
  std::int64_t accumulate() const { return accumulate_; }
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

  /// A hash of all that decides which samples an update holds: number of samples, batch size, order, seed, drop_last. Not of
  /// `accumulate`, which a resumed run may change.
  std::uint64_t hash() const;

 private:
  std::int64_t samples_;
  std::int64_t batch_size_;
  std::int64_t accumulate_;
  Order order_;
  std::uint64_t seed_;
  std::int64_t updates_per_epoch_;
  std::int64_t samples_per_epoch_;
};

}  // namespace weft::data
