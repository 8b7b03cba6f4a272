#pragma once
// Threads that make micro-batches ahead of their use, in the order of the plan.
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "data/batch_source.h"
#include "tensor/stream.h"

namespace weft::data::detail {

/// A micro-batch that was made, or why it was not.
struct Made {
  MicroBatch micro{};
  std::optional<Event> ready{};  // where it was sent to a device
  std::vector<SkippedSample> skipped{};
  std::exception_ptr error{};
};

/// Makes the k-th micro-batch of an update. Called by several threads at once; errors go into Made.
using Maker = std::function<Made(const PlannedUpdate& update, std::int64_t k)>;

class Workers;

/// One walk over an epoch's updates from one of them on, which the workers are ahead of. For one thread at a time; letting
/// go of it in the middle costs nothing.
class Walk {
 public:
  /// Micro-batch k of the update at place `index`, waited for; those before it are dropped. None when the workers are past
  /// it, or have ended where the plan failed: then the caller makes it.
  std::optional<Made> take(std::int64_t index, std::int64_t k);
  /// The update at place `index`, likewise.
  std::optional<PlannedUpdate> planned(std::int64_t index);

  ~Walk();
  Walk(const Walk&) = delete;
  Walk& operator=(const Walk&) = delete;

 private:
  friend class Workers;
  struct State;
  explicit Walk(Workers& workers, std::shared_ptr<State> state) : workers_(workers), state_(std::move(state)) {}

  Workers& workers_;
  std::shared_ptr<State> state_;
};

/// The threads. They outlast the epochs; a walk that nobody takes from holds none of them.
///   Order is kept by numbering: a worker takes the next micro-batch of the plan and puts it into its own place of a ring,
///   which is emptied in turn. A slow one delays those behind it and reorders nothing.
class Workers {
 public:
  /// Errors: Error when the system gives no more threads.
  Workers(std::int64_t threads, Maker make);
  /// Lets the micro-batches in progress come to an end and joins the threads. All walks must be gone.
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  /// Starts on the updates [first, updates) of an epoch, at most `depth` micro-batches ahead.
  std::shared_ptr<Walk> walk(std::shared_ptr<const BatchSource> source, std::int64_t epoch, std::int64_t first,
                             std::int64_t updates, std::int64_t depth);

 private:
  friend class Walk;
  void serve();
  std::shared_ptr<Walk::State> runnable() const;
  void stop();

  const Maker make_;
  std::mutex mutex_;  // of all below and of every walk's state
  std::condition_variable work_, ready_;
  bool stopping_ = false;
  std::vector<std::shared_ptr<Walk::State>> walks_;
  std::vector<std::thread> threads_;
};

}  // namespace weft::data::detail
