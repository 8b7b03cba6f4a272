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

#include "autograd/step_context.h"
#include "autograd/window.h"
#include "data/dataset.h"
#include "data/plan.h"

namespace weft::data {

/// The plan's options and where the batches go. (Spelt out rather than inherited: designated initialisers reach no base.)
struct LoaderOptions {
  Regime batch = MiniBatch{};
  std::int64_t accumulate = 1;
  bool drop_last = false;
  Order order = Order::shuffled;
  std::uint64_t seed = 0;
  Device device = {};

  PlanOptions plan() const {
    return {.batch = batch, .accumulate = accumulate, .drop_last = drop_last, .order = order, .seed = seed};
  }
};

namespace detail {
/// What a loader and all that it hands out share, so that none of them dangles when another one goes.
struct LoaderState {
  std::shared_ptr<const Dataset> dataset;
  Plan plan;
  Device device;
};
}  // namespace detail

/// A part of an update that goes through the model at once.
struct MicroBatch {
  Tensor input;            // [B, ...], on the loader's device
  Tensor target;           // [B, ...]
  Tensor sample_ids;       // i64 [B]: the data set's id of each row
  std::int64_t index = 0;  // [0, K) within the update
  Tensor update;           // i64 []: the update's number
  std::uint64_t seed = 0;

  /// Opens the StepContext that keys this micro-batch's randomness: by seed, update and sample ids, so that no mask depends
  /// on how the update was cut.
  StepScope scope() const;
};

/// One optimizer update: its window and, when walked over, its micro-batches. They are made one at a time: memory for a
/// single micro-batch is enough.
class Update {
 public:
  std::int64_t number() const { return planned_.number; }        // from 1, over all epochs
  std::int64_t epoch() const { return planned_.epoch; }          // from 0
  std::int64_t index() const { return planned_.index; }          // [0, updates_per_epoch), within the epoch
  std::int64_t samples() const { return planned_.samples; }      // over all micro-batches
  std::int64_t micro_batches() const { return planned_.parts; }  // K, fewer in a short update of fewer samples

  /// Window::backward on this update's window.
  void backward(const Loss& loss) { window_.backward(loss); }
  const Window& window() const { return window_; }

  /// Input iterator over the micro-batches; ++ collates the next one, in the calling thread. begin() starts anew.
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
  Update(std::shared_ptr<const detail::LoaderState> loader, const PlannedUpdate& planned);
  void load(std::int64_t k);

  std::shared_ptr<const detail::LoaderState> loader_;
  PlannedUpdate planned_;
  Tensor number_;  // i64 [], on the device
  Window window_;
  MicroBatch micro_;
};

/// The updates of an epoch, from one of them on.
class Epoch {
 public:
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
    bool operator==(std::default_sentinel_t) const { return epoch_->at_ == epoch_->loader_->plan.updates_per_epoch(); }

   private:
    Epoch* epoch_;
  };
  Iterator begin() {
    open(first_);
    return Iterator(this);
  }
  std::default_sentinel_t end() const { return {}; }

 private:
  friend class Loader;
  Epoch(std::shared_ptr<const detail::LoaderState> loader, std::int64_t epoch, std::int64_t first)
      : loader_(std::move(loader)), epoch_(epoch), first_(first), at_(first) {}
  void open(std::int64_t index);

  std::shared_ptr<const detail::LoaderState> loader_;
  std::int64_t epoch_;
  std::int64_t first_;
  std::int64_t at_;
  std::optional<Update> update_;
};

/// Hands out a data set's batches in the order of a plan.
/// Errors:   OptionError for options that the plan refuses; DeviceError for a device that is not built in.
/// Numerics: every batch is a pure function of (data set, options, epoch, update): bitwise the same for any thread count and
///           wherever one starts.
class Loader {
 public:
  /// Takes the data set by value (most are handles), or shares it.
  template <std::derived_from<Dataset> D>
  explicit Loader(D dataset, const LoaderOptions& options = {})
      : Loader(std::make_shared<const D>(std::move(dataset)), options) {}
  explicit Loader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options = {});

  const Dataset& dataset() const { return *loader_->dataset; }
  const Plan& plan() const { return loader_->plan; }
  std::int64_t updates_per_epoch() const { return plan().updates_per_epoch(); }

  /// The updates of an epoch, from update `first` on: 0 for all, updates_per_epoch() for none. O(1): nothing is skipped over.
  /// Errors: ShapeError for epoch < 0 or `first` outside [0, updates_per_epoch()].
  Epoch epoch(std::int64_t epoch, std::int64_t first = 0) const;

  /// Names data set and plan together: a run may be resumed only with the same hash. Reads the data set.
  std::uint64_t hash() const;

 private:
  std::shared_ptr<const detail::LoaderState> loader_;
};

}  // namespace weft::data
