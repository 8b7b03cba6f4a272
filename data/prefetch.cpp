#include "data/prefetch.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "tensor/parallel.h"

namespace weft::data::detail {

struct Walk::State {
  /// A micro-batch in the making or made, in its place of the ring.
  struct Slot {
    PlannedUpdate update;
    std::int64_t k = 0;
    bool made = false;
    Made result;
  };

  // Fixed.
  std::shared_ptr<const BatchSource> source;
  std::int64_t epoch = 0;
  std::int64_t updates = 0;
  std::int64_t depth = 1;

  // The next micro-batch to begin: of whoever set `planning`.
  std::int64_t index = 0;
  std::int64_t k = 0;
  std::optional<PlannedUpdate> update;

  // Of the workers' mutex. Micro-batches are numbered from 0 in the order of the plan.
  bool closed = false;    // nobody takes any more
  bool planning = false;  // a worker is finding out what comes next
  bool ended = false;     // nothing more is begun
  std::int64_t begun = 0;
  std::int64_t taken = 0;
  std::vector<Slot> ring;

  Slot& slot(std::int64_t number) { return ring[static_cast<std::size_t>(number % depth)]; }
  bool can_begin() const { return !closed && !planning && !ended && begun - taken < depth; }

  /// What comes next, or none when it cannot be said: then whoever walks asks the source again and meets its error.
  bool plan() noexcept {
    try {
      if (!update) update = source->update(epoch, index);
      return true;
    } catch (...) { return false; }
  }
  void advance() {
    if (++k < update->parts) return;
    k = 0;
    ++index;
    update.reset();
  }
};

// --- the consumer's side ------------------------------------------------------------------------------------------------

Walk::~Walk() {
  const std::scoped_lock lock(workers_.mutex_);
  state_->closed = true;
  std::erase(workers_.walks_, state_);
}

std::optional<PlannedUpdate> Walk::planned(std::int64_t index) {
  State& state = *state_;
  std::unique_lock lock(workers_.mutex_);
  for (;;) {
    workers_.ready_.wait(lock, [&] { return state.taken < state.begun || (state.ended && !state.planning); });
    if (state.taken == state.begun) return std::nullopt;
    State::Slot& head = state.slot(state.taken);
    if (head.update.index == index && head.k == 0) return head.update;
    if (head.update.index >= index) return std::nullopt;
    const std::int64_t at = head.update.index, k = head.k;
    lock.unlock();
    take(at, k);
    lock.lock();
  }
}

std::optional<Made> Walk::take(std::int64_t index, std::int64_t k) {
  State& state = *state_;
  std::unique_lock lock(workers_.mutex_);
  for (;;) {
    workers_.ready_.wait(lock, [&] {
      return state.taken < state.begun ? state.slot(state.taken).made : state.ended && !state.planning;
    });
    if (state.taken == state.begun) return std::nullopt;
    State::Slot& head = state.slot(state.taken);
    const std::pair at{head.update.index, head.k}, wanted{index, k};
    if (at > wanted) return std::nullopt;
    Made result = std::exchange(head.result, {});
    head.update = {};
    head.made = false;
    ++state.taken;
    workers_.work_.notify_one();
    if (at == wanted) return result;
    lock.unlock();
    result = {};  // gives its memory back, not under the lock
    lock.lock();
  }
}

// --- the workers' side --------------------------------------------------------------------------------------------------

Workers::Workers(std::int64_t threads, Maker make) : make_(std::move(make)) {
  try {
    for (std::int64_t i = 0; i < threads; ++i) threads_.emplace_back([this] { serve(); });
  } catch (const std::system_error& error) {
    stop();
    fail<Error>("loader", "the system gave {} threads but {} workers were asked for ({}): use fewer", threads_.size(),
                threads, error.what());
  }
}

Workers::~Workers() { stop(); }

void Workers::stop() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::shared_ptr<Walk> Workers::walk(std::shared_ptr<const BatchSource> source, std::int64_t epoch, std::int64_t first,
                                    std::int64_t updates, std::int64_t depth) {
  auto state = std::make_shared<Walk::State>();
  state->source = std::move(source);
  state->epoch = epoch;
  state->updates = updates;
  state->depth = depth;
  state->index = first;
  state->ended = first >= updates;
  state->ring.resize(static_cast<std::size_t>(depth));
  {
    const std::scoped_lock lock(mutex_);
    walks_.push_back(state);
  }
  work_.notify_one();
  return std::shared_ptr<Walk>(new Walk(*this, std::move(state)));
}

std::shared_ptr<Walk::State> Workers::runnable() const {
  const auto found = std::find_if(walks_.begin(), walks_.end(), [](const auto& walk) { return walk->can_begin(); });
  return found == walks_.end() ? nullptr : *found;
}

void Workers::serve() {
  const SerialScope alone;  // the pool's threads belong to whoever computes
  std::unique_lock lock(mutex_);
  for (;;) {
    std::shared_ptr<Walk::State> walk;
    work_.wait(lock, [&] { return stopping_ || (walk = runnable()) != nullptr; });
    if (stopping_) return;

    walk->planning = true;
    lock.unlock();
    const bool known = walk->plan();
    lock.lock();
    walk->planning = false;
    if (!known) {
      walk->ended = true;
      ready_.notify_all();
      continue;
    }
    const std::int64_t number = walk->begun++;
    Walk::State::Slot& slot = walk->slot(number);
    const PlannedUpdate update = *walk->update;
    const std::int64_t k = walk->k;
    slot.update = update;
    slot.k = k;
    walk->advance();
    if (walk->index == walk->updates) walk->ended = true;
    if (number == walk->taken) ready_.notify_all();  // planned() may wait for it
    if (runnable() != nullptr) work_.notify_one();

    lock.unlock();
    Made made = make_(update, k);
    lock.lock();
    slot.result = std::move(made);
    slot.made = true;
    if (number == walk->taken) ready_.notify_all();
    if (walk->closed) {  // this may be the last to hold what was made for it: gives its memory back, not under the lock
      lock.unlock();
      walk.reset();
      lock.lock();
    }
  }
}

}  // namespace weft::data::detail
