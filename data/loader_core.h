#pragma once
// What a loader and all that it hands out share, so that none of them dangles when another one goes.
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "data/loader.h"
#include "data/prefetch.h"
#include "data/transfer.h"

namespace weft::data::detail {

/// The source, the threads, the way to the device and the ledger. Thread-safe.
class LoaderCore {
 public:
  LoaderCore(std::shared_ptr<const BatchSource> source, const DeliveryOptions& options);

  const BatchSource& source() const { return *source_; }
  Device device() const { return options_.device; }
  /// The source's hash, read once.
  std::uint64_t hash();

  /// Sets the workers on an epoch's updates from `first` on; null without workers. The first call starts the threads.
  std::shared_ptr<Walk> walk(std::int64_t epoch, std::int64_t first, std::int64_t updates);
  /// Makes a micro-batch, on the device; errors go into the result.
  Made make(const PlannedUpdate& update, std::int64_t k) const;
  /// Hands a micro-batch to the thread that uses it, or throws why there is none.
  MicroBatch deliver(Made made, std::int64_t k, const Tensor& number);

  std::vector<SkippedSample> skipped() const;

 private:
  void note(std::vector<SkippedSample> skipped);

  const std::shared_ptr<const BatchSource> source_;
  const DeliveryOptions options_;
  std::once_flag hashed_;
  std::uint64_t hash_ = 0;

  mutable std::mutex mutex_;  // of the ledger
  std::vector<SkippedSample> skipped_;
  std::set<std::int64_t> skipped_ids_;

  const std::unique_ptr<Transfer> transfer_;  // null for the cpu
  std::once_flag started_;
  std::unique_ptr<Workers> workers_;  // the last member: its threads use the others
};

}  // namespace weft::data::detail
