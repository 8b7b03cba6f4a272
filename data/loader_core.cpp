#include "data/loader_core.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace weft::data::detail {
namespace {

constexpr std::int64_t kMostWorkers = 256, kMostPrefetch = 65536;

DeliveryOptions checked(DeliveryOptions options) {
  require<OptionError>(options.workers >= 0 && options.workers <= kMostWorkers, "loader",
                       "workers must be in [0, {}] but is {}: 0 makes batches in the calling thread", kMostWorkers,
                       options.workers);
  require<OptionError>(options.prefetch >= 0 && options.prefetch <= kMostPrefetch, "loader",
                       "prefetch must be in [0, {}] but is {}: 0 means two micro-batches per worker", kMostPrefetch,
                       options.prefetch);
  require<OptionError>(options.skip_quota >= 0, "loader", "skip_quota must be at least 0 but is {}",
                       options.skip_quota);
  if (options.prefetch == 0) options.prefetch = 2 * std::max<std::int64_t>(1, options.workers);
  return options;
}

std::unique_ptr<Transfer> way_to(const DeliveryOptions& options) {
  if (options.device.kind == DeviceKind::cpu) return nullptr;
  const auto senders = static_cast<std::size_t>(std::max<std::int64_t>(1, options.workers));
  return std::make_unique<Transfer>(options.device, 2 * senders);
}

}  // namespace

LoaderCore::LoaderCore(std::shared_ptr<const BatchSource> source, const DeliveryOptions& options)
    : source_(std::move(source)), options_(checked(options)), transfer_(way_to(options_)) {}

std::uint64_t LoaderCore::hash() {
  std::call_once(hashed_, [&] { hash_ = source_->hash(); });
  return hash_;
}

std::shared_ptr<Walk> LoaderCore::walk(std::int64_t epoch, std::int64_t first, std::int64_t updates) {
  if (options_.workers == 0) return nullptr;
  std::call_once(started_, [&] {
    workers_ = std::make_unique<Workers>(
        options_.workers, [this](const PlannedUpdate& update, std::int64_t k) { return make(update, k); });
  });
  return workers_->walk(source_, epoch, first, updates, options_.prefetch);
}

Made LoaderCore::make(const PlannedUpdate& update, std::int64_t k) const {
  Made made;
  try {
    made.micro = options_.on_error == OnError::skip ? source_->collate_skipping(update, k, made.skipped)
                                                    : source_->collate(update, k);
    made.micro.update = {};  // the whole update shares one
    if (transfer_ != nullptr) transfer_->send(made.micro, made.ready);
  } catch (...) {
    made = {};
    made.error = std::current_exception();
  }
  return made;
}

MicroBatch LoaderCore::deliver(Made made, std::int64_t k, const Tensor& number) {
  if (made.error != nullptr) std::rethrow_exception(made.error);
  if (!made.skipped.empty()) note(std::move(made.skipped));
  if (made.ready) Transfer::receive(made.micro, *made.ready);
  made.micro.index = k;
  made.micro.update = number;
  made.micro.seed = source_->seed();
  return std::move(made.micro);
}

// In the order of delivery, whoever made the batch: the ledger and the moment of giving up are those of a single thread.
void LoaderCore::note(std::vector<SkippedSample> skipped) {
  const std::scoped_lock lock(mutex_);
  for (const SkippedSample& sample : skipped) skipped_ids_.insert(sample.sample);
  skipped_.insert(skipped_.end(), std::make_move_iterator(skipped.begin()), std::make_move_iterator(skipped.end()));
  const auto count = static_cast<std::int64_t>(skipped_ids_.size());
  const SkippedSample& last = skipped_.back();
  if (count > options_.skip_quota)
    throw SampleError(fmt::format("[loader] {} samples of {} had to be skipped but skip_quota is {}; the last one is "
                                  "sample {} (update {}): {}",
                                  count, source_->name(), options_.skip_quota, last.sample, last.update, last.reason),
                      last.sample);
}

std::vector<SkippedSample> LoaderCore::skipped() const {
  const std::scoped_lock lock(mutex_);
  return skipped_;
}

}  // namespace weft::data::detail
