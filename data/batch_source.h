#pragma once
// What a Loader walks over: a plan over a data set, as a pure function.
#include <cstdint>
#include <string>
#include <vector>

#include "data/bad_sample.h"
#include "data/micro_batch.h"
#include "data/plan.h"

namespace weft::data {

/// The updates of every epoch and the micro-batches of every update. Immutable once made, every answer a function of its
/// arguments alone: any number of threads may ask at once, in any order, and get the same bits.
class BatchSource {
 public:
  virtual ~BatchSource() = default;

  /// For messages and reports: the data set's name.
  virtual std::string name() const = 0;
  /// Samples of the data set.
  virtual std::int64_t samples() const = 0;
  /// Updates of an epoch, 1 at least; packed plans: differs between epochs. Errors: ShapeError for an epoch below 0.
  virtual std::int64_t updates_per_epoch(std::int64_t epoch) const = 0;
  /// Updates of all earlier epochs, so that updates are numbered over all of them.
  virtual std::int64_t updates_before(std::int64_t epoch) const = 0;
  /// The update at place `index` of an epoch. Errors: ShapeError for an index outside [0, updates_per_epoch(epoch)).
  virtual PlannedUpdate update(std::int64_t epoch, std::int64_t index) const = 0;
  /// The k-th micro-batch of an update, k in [0, update.parts), on the cpu.
  virtual MicroBatch collate(const PlannedUpdate& update, std::int64_t k) const = 0;
  /// The same, without the samples that the data set cannot give, each of which is noted in `skipped`. By default an error
  /// stays an error.
  virtual MicroBatch collate_skipping(const PlannedUpdate& update, std::int64_t k,
                                      [[maybe_unused]] std::vector<SkippedSample>& skipped) const {
    return collate(update, k);
  }
  virtual std::uint64_t seed() const = 0;
  /// Names plan and data set together: a run may be resumed only with the same hash. May read the whole data set.
  virtual std::uint64_t hash() const = 0;

 protected:
  BatchSource() = default;
  BatchSource(const BatchSource&) = default;
  BatchSource& operator=(const BatchSource&) = default;
};

}  // namespace weft::data
