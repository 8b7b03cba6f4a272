#pragma once
// From a data set and a plan to the batches that a training loop walks over:
//
//   data::Loader loader{data::FashionMnist::train(), {.batch = data::MiniBatch{512}, .accumulate = 4, .seed = 1}};
//   for (auto& update : loader.epoch(0)) {    // one optimizer update
//     for (auto& micro : update) {            // its micro-batches
//       auto scope = micro.scope();
//       update.backward(cross_entropy(model(micro.input), micro.target));
//     }
//     adamw.step(update.window());
//   }
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "autograd/window.h"
#include "data/batch_source.h"
#include "data/dataset.h"
#include "data/plan.h"
#include "data/transform.h"

namespace weft::data {

/// How batches are made and handed out; none of it changes what is in them.
struct DeliveryOptions {
  Device device = {};                // where the micro-batches go
  std::int64_t workers = 0;          // threads that make them ahead of their use; 0: the calling thread, when asked
  std::int64_t prefetch = 0;         // micro-batches that the workers are ahead at most; 0: two per worker
  OnError on_error = OnError::fail;  // what becomes of a sample that the data set cannot give
  std::int64_t skip_quota = 16;      // different samples that may be skipped before that is an error after all
};

/// The plan's options and how its batches are handed out. (Spelt out rather than inherited: designated initialisers reach
/// no base.)
struct LoaderOptions {
  Regime batch = MiniBatch{};
  std::int64_t accumulate = 1;
  std::int64_t micro_samples = 0;
  bool drop_last = false;
  Order order = Order::shuffled;
  std::uint64_t seed = 0;
  std::int64_t rank = 0;
  std::int64_t ranks = 1;
  std::vector<double> weights = {};
  Curriculum curriculum = {};
  std::shared_ptr<const Transform> transform = nullptr;  // of the inputs: image_transform({...}); null for none
  Device device = {};
  std::int64_t workers = 0;
  std::int64_t prefetch = 0;
  OnError on_error = OnError::fail;
  std::int64_t skip_quota = 16;

  PlanOptions plan() const {
    return {.batch = batch,
            .accumulate = accumulate,
            .micro_samples = micro_samples,
            .drop_last = drop_last,
            .order = order,
            .seed = seed,
            .rank = rank,
            .ranks = ranks,
            .weights = weights,
            .curriculum = curriculum};
  }
  DeliveryOptions delivery() const {
    return {.device = device, .workers = workers, .prefetch = prefetch, .on_error = on_error, .skip_quota = skip_quota};
  }
};

/// Where a run stands in its data: all that a checkpoint needs to go on with the very next sample.
struct LoaderState {
  std::uint64_t hash = 0;  // of plan and data set
  std::uint64_t seed = 0;
  std::int64_t epoch = 0;   // from 0
  std::int64_t cursor = 0;  // samples of this epoch that were seen
  std::int64_t update = 0;  // number of the last update that was made; 0 at the start
  friend bool operator==(const LoaderState&, const LoaderState&) = default;
};

/// A place among the updates of all epochs: what Loader::epoch takes.
struct Place {
  std::int64_t epoch = 0;  // from 0
  std::int64_t first = 0;  // [0, updates_per_epoch(epoch)): the next update
  friend bool operator==(const Place&, const Place&) = default;
};

namespace detail {
class LoaderCore;
class Walk;
}  // namespace detail

/// One optimizer update: its window and, when walked over, its micro-batches. There is memory for one, and for those that
/// the workers are ahead.
class Update {
 public:
  std::int64_t number() const { return planned_.number; }        // from 1, over all epochs
  std::int64_t epoch() const { return planned_.epoch; }          // from 0
  std::int64_t index() const { return planned_.index; }          // [0, updates_per_epoch), within the epoch
  std::int64_t samples() const { return planned_.samples; }      // over all micro-batches
  std::int64_t tokens() const { return planned_.tokens; }        // likewise; 0 where samples have no lengths
  std::int64_t micro_batches() const { return planned_.parts; }  // K, fewer in a short update of fewer samples

  /// Window::backward on this update's window.
  void backward(const Loss& loss) { window_.backward(loss); }
  const Window& window() const { return window_; }

  /// Input iterator over the micro-batches; ++ makes the next one or waits for the workers', and throws what went wrong with
  /// it. begin() starts anew. On a device with streams, a micro-batch is for the current stream of the thread that asks.
  class Iterator {
   public:
    using iterator_concept = std::input_iterator_tag;
    using iterator_category = std::input_iterator_tag;
    using value_type = MicroBatch;
    using difference_type = std::ptrdiff_t;
    using pointer = MicroBatch*;
    using reference = MicroBatch&;

    explicit Iterator(Update* update) : update_(update) {}
    MicroBatch& operator*() const { return update_->micro_; }
    MicroBatch* operator->() const { return &update_->micro_; }
    Iterator& operator++() {
      update_->load(update_->micro_.index + 1);
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return update_->micro_.index == update_->planned_.parts; }

   private:
    Update* update_;
  };
  Iterator begin() {
    load(0);
    return Iterator(this);
  }
  std::default_sentinel_t end() const { return {}; }

 private:
  friend class Epoch;
  Update(std::shared_ptr<detail::LoaderCore> loader, std::shared_ptr<detail::Walk> walk, PlannedUpdate planned);
  void load(std::int64_t k);

  std::shared_ptr<detail::LoaderCore> loader_;
  std::shared_ptr<detail::Walk> walk_;  // the workers' side of it; null without them
  PlannedUpdate planned_;
  Tensor number_;  // i64 [], on the device
  Window window_;
  MicroBatch micro_;
};

/// The updates of an epoch, from one of them on. May be left at any point; what the workers made ahead is dropped.
class Epoch {
 public:
  Epoch(Epoch&&) = default;
  Epoch& operator=(Epoch&&) = default;
  /// A copy begins anew.
  Epoch(const Epoch& other) : Epoch(other.loader_, other.epoch_, other.first_, other.updates_) {}
  Epoch& operator=(const Epoch& other) { return *this = Epoch(other); }

  /// Input iterator over the updates; ++ opens the next one, with a window of its own. begin() starts anew.
  class Iterator {
   public:
    using iterator_concept = std::input_iterator_tag;
    using iterator_category = std::input_iterator_tag;
    using value_type = Update;
    using difference_type = std::ptrdiff_t;
    using pointer = Update*;
    using reference = Update&;

    explicit Iterator(Epoch* epoch) : epoch_(epoch) {}
    Update& operator*() const { return *epoch_->update_; }
    Update* operator->() const { return &*epoch_->update_; }
    Iterator& operator++() {
      epoch_->open(epoch_->at_ + 1);
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return epoch_->at_ == epoch_->updates_; }

   private:
    Epoch* epoch_;
  };
  Iterator begin() {
    start();
    return Iterator(this);
  }
  std::default_sentinel_t end() const { return {}; }

 private:
  friend class Loader;
  Epoch(std::shared_ptr<detail::LoaderCore> loader, std::int64_t epoch, std::int64_t first, std::int64_t updates)
      : loader_(std::move(loader)), epoch_(epoch), first_(first), updates_(updates), at_(first) {}
  void start();
  void open(std::int64_t index);

  std::shared_ptr<detail::LoaderCore> loader_;
  std::shared_ptr<detail::Walk> walk_;
  std::int64_t epoch_;
  std::int64_t first_;
  std::int64_t updates_;  // of the whole epoch
  std::int64_t at_;
  std::optional<Update> update_;
};

/// Hands out a data set's batches in the order of a plan.
///   Workers make micro-batches ahead, on as many threads of their own, each on one core: the thread pool stays with whoever
///   computes. On cuda and simt a micro-batch travels through pinned memory on a stream of its own, two stages per worker;
///   the stream that uses it waits, the host does not. The threads start with the first walk and stay until loader, epochs
///   and updates are gone; several walks at once share them.
/// Errors:   OptionError for options that the plan refuses, workers, prefetch or skip_quota out of range; DeviceError for a
///           device that is not built in. An error of a worker reaches the walk at the place of its micro-batch, as it would
///           without workers: SampleError with the sample's id where a sample is to blame, "[loader] 17 samples of x had to
///           be skipped but skip_quota is 16; ..." beyond the quota. The loader stays usable: another walk starts anew.
/// Cost:     no memory from the system once every buffer has been used: tensors come from the allocator's cache, pinned
///           buffers are kept.
/// Numerics: every batch is a pure function of (data set, plan's options, epoch, update): bitwise the same for any number of
///           workers and threads, any prefetch, and wherever one starts.
class Loader {
 public:
  /// Samples of one size. Takes the data set by value (most are handles), or shares it.
  template <std::derived_from<Dataset> D>
  explicit Loader(D dataset, const LoaderOptions& options = {})
      : Loader(std::make_shared<const D>(std::move(dataset)), options) {}
  explicit Loader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options = {});
  /// Whatever has a plan: packed sequences, windows of a time series.
  explicit Loader(std::shared_ptr<const BatchSource> source, const DeliveryOptions& options = {});

  const BatchSource& source() const;
  /// The data set and the plan of samples of one size. Errors: OptionError for a loader of another source.
  const Dataset& dataset() const;
  const Plan& plan() const;
  std::int64_t updates_per_epoch(std::int64_t epoch = 0) const { return source().updates_per_epoch(epoch); }

  /// The updates of an epoch, from update `first` on: 0 for all, updates_per_epoch(epoch) for none. Nothing is skipped over:
  /// O(1) in the number of samples, as far as the source's update() is.
  /// Errors: ShapeError for epoch < 0 or `first` outside [0, updates_per_epoch(epoch)].
  Epoch epoch(std::int64_t epoch, std::int64_t first = 0) const;

  /// The state of a run whose next update is at place `first` of an epoch: {u.epoch(), u.index() + 1} after update u.
  /// first = updates_per_epoch(epoch) is the start of the next epoch. Errors: as epoch().
  LoaderState state(std::int64_t epoch, std::int64_t first = 0) const;
  /// Where a run in this state goes on: `place = loader.locate(state); loader.epoch(place.epoch, place.first)`.
  /// Errors: OptionError for the state of another data set or plan, and for one that no run of this plan passes.
  Place locate(const LoaderState& state) const;

  /// Names data set and plan together: a run may be resumed only with the same hash. Reads the data set, once.
  std::uint64_t hash() const;

  /// The ledger: what on_error = skip left out of the micro-batches that were handed out, in their order.
  std::vector<SkippedSample> skipped() const;

 private:
  std::shared_ptr<detail::LoaderCore> loader_;
};

}  // namespace weft::data
