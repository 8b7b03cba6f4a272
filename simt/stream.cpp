// One mutex guards every stream; it is never held while work runs, so that independent streams run side by side when
// several OS threads wait for them. An event is a position in a stream's sequence of work, taken when it is recorded.
// As a wait can only name a position that exists already, waits lead strictly back in time and cannot form a cycle.
// Only work that itself waits for streams can, and that is found out.
#include "simt/stream.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/core.h>

namespace weft::simt {

namespace detail {

// Items are numbered from 0 in the order in which they were enqueued; `completed` is the number of the front one.
struct StreamState {
  struct Item {
    std::function<void()> work;          // or, when empty, a wait:
    std::shared_ptr<StreamState> other;  // until its `completed` reaches `position`
    std::uint64_t position = 0;
  };
  struct Failure {
    std::uint64_t from, to;  // items [from, to): the one that threw and those dropped behind it
    std::exception_ptr error;
  };

  std::deque<Item> queue;
  std::uint64_t enqueued = 0;
  std::uint64_t completed = 0;     // run or dropped
  std::uint64_t nested_until = 0;  // what running work enqueued on its own stream belongs to that work
  bool running = false;            // the front item; it stays in the queue meanwhile
  std::thread::id runner;
  std::vector<Failure> failures;

  /// Why the items before `position` did not all run; null when they did or still will. An event recorded after the
  /// failure became known starts afresh.
  std::exception_ptr failure_before(std::uint64_t position) const {
    for (const Failure& failure : failures) {
      if (failure.from < position && position <= failure.to) return failure.error;
    }
    return nullptr;
  }

  void drop_rest(std::unique_lock<std::mutex>& lock, std::exception_ptr error) {
    failures.push_back({completed, enqueued, std::move(error)});
    completed = enqueued;
    std::deque<Item> dropped;
    dropped.swap(queue);
    lock.unlock();  // what the work captured may use streams while it is destroyed
    dropped.clear();
    lock.lock();
  }
};

struct EventState {
  std::shared_ptr<StreamState> stream;  // null: never recorded
  std::uint64_t position = 0;
};

}  // namespace detail

namespace {

using detail::StreamState;
using Lock = std::unique_lock<std::mutex>;

struct Shared {
  std::mutex mutex;
  std::condition_variable progress;
  std::vector<std::weak_ptr<StreamState>> streams;
  std::map<std::thread::id, const StreamState*> waiting;  // threads that wait for another thread's running item
};

// Never destroyed: static objects may hold streams.
Shared& shared() {
  static Shared& instance = *new Shared;
  return instance;
}
// Made before there are threads. This file is not instrumented, so that TSan would not see that a thread which finds it
// made comes after its making.
[[maybe_unused]] const Shared& made_early = shared();

// Until the front item that another thread runs is through.
void wait_for_runner(Lock& lock, const StreamState& stream) {
  Shared& all = shared();
  const auto me = std::this_thread::get_id();
  const StreamState* blocked_on = &stream;
  while (blocked_on->running) {
    if (blocked_on->runner == me) {
      throw std::logic_error("[stream] wait cycle: work that runs on a stream waits for its own end");
    }
    const auto next = all.waiting.find(blocked_on->runner);
    if (next == all.waiting.end()) break;
    blocked_on = next->second;
  }
  all.waiting[me] = &stream;
  all.progress.wait(lock, [&, before = stream.completed] { return !stream.running || stream.completed != before; });
  all.waiting.erase(me);
}

void drain(Lock& lock, StreamState& stream, std::uint64_t position);

// The front item is a wait; afterwards it is gone, by this thread's doing or another's.
void pass_wait(Lock& lock, StreamState& stream) {
  const std::uint64_t number = stream.completed;
  const std::shared_ptr<StreamState> other = stream.queue.front().other;
  const std::uint64_t position = stream.queue.front().position;
  const auto fail = [&](const std::exception_ptr& error) {
    if (stream.completed == number) stream.drop_rest(lock, error);
    shared().progress.notify_all();
  };
  try {
    drain(lock, *other, position);
  } catch (...) {
    if (const auto error = other->failure_before(position)) fail(error);
    throw;
  }
  if (const auto error = other->failure_before(position)) {
    fail(error);
    std::rethrow_exception(error);
  }
  if (stream.completed == number) {
    stream.queue.pop_front();
    ++stream.completed;
    shared().progress.notify_all();
  }
}

void run_front(Lock& lock, StreamState& stream) {
  std::function<void()> work = std::move(stream.queue.front().work);
  stream.running = true;
  stream.runner = std::this_thread::get_id();
  lock.unlock();
  std::exception_ptr error;
  try {
    work();
  } catch (...) { error = std::current_exception(); }
  work = nullptr;  // what it captured goes outside the lock
  lock.lock();
  stream.running = false;
  if (error) {
    stream.drop_rest(lock, error);
  } else {
    stream.queue.pop_front();
    ++stream.completed;
  }
  shared().progress.notify_all();
  if (error) std::rethrow_exception(error);
}

// Runs the items before `position`, on this thread or by waiting for those that run them.
void drain(Lock& lock, StreamState& stream, std::uint64_t position) {
  if (stream.completed >= position) return;
  while (stream.completed < std::max(position, stream.nested_until)) {
    if (stream.running) {
      wait_for_runner(lock, stream);
    } else if (stream.queue.front().other) {
      pass_wait(lock, stream);
    } else {
      run_front(lock, stream);
    }
  }
  // Another thread may have run into the error.
  if (const auto error = stream.failure_before(position)) std::rethrow_exception(error);
}

void push(Lock& lock, StreamState& stream, StreamState::Item item) {
  const StreamMode mode = stream_mode();
  stream.queue.push_back(std::move(item));
  ++stream.enqueued;
  if (stream.running && stream.runner == std::this_thread::get_id()) {
    stream.nested_until = stream.enqueued;
  } else if (mode == StreamMode::immediate) {
    drain(lock, stream, stream.enqueued);
  }
}

StreamMode mode_from_environment() {
  const char* text = std::getenv("WEFT_SIMT_STREAMS");
  const std::string_view value = text == nullptr ? "" : text;
  if (value.empty() || value == "immediate") return StreamMode::immediate;
  if (value == "deferred") return StreamMode::deferred;
  throw std::invalid_argument(
      fmt::format("[stream] WEFT_SIMT_STREAMS must be 'immediate' or 'deferred' but is '{}'", value));
}

std::atomic<StreamMode>& mode() {
  static std::atomic<StreamMode> mode{mode_from_environment()};
  return mode;
}

constinit std::atomic<std::int64_t> malloc_countdown{0}, launch_countdown{0};

void set_countdown(std::atomic<std::int64_t>& countdown, const char* function, std::int64_t n) {
  if (n < 0) throw std::invalid_argument(fmt::format("[{}] n must be at least 0 but is {}", function, n));
  countdown = n;
}

// True for exactly one call, however many threads call.
bool count_down(std::atomic<std::int64_t>& countdown) {
  std::int64_t n = countdown.load(std::memory_order_relaxed);
  while (n > 0 && !countdown.compare_exchange_weak(n, n - 1)) {}
  return n == 1;
}

}  // namespace

Stream::Stream() : state_(std::make_shared<StreamState>()) {
  Shared& all = shared();
  const Lock lock(all.mutex);
  std::erase_if(all.streams, [](const auto& stream) { return stream.expired(); });
  all.streams.push_back(state_);
}

Stream::~Stream() {
  try {
    synchronize();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "[simt] an error in a stream that is being destroyed: %s\n", error.what());
  } catch (...) { std::fputs("[simt] an error in a stream that is being destroyed\n", stderr); }
}

void Stream::enqueue(std::function<void()> work) {
  if (!work) throw std::invalid_argument("[stream] enqueue: the function is empty");
  Lock lock(shared().mutex);
  push(lock, *state_, {std::move(work), nullptr, 0});
}

void Stream::wait(const Event& event) {
  Lock lock(shared().mutex);
  const std::shared_ptr<StreamState> other = event.state_->stream;
  const std::uint64_t position = event.state_->position;
  // In one stream order does it.
  if (!other || other == state_) return;
  if (other->completed >= position && !other->failure_before(position)) return;
  push(lock, *state_, {nullptr, other, position});
}

void Stream::synchronize() {
  Lock lock(shared().mutex);
  drain(lock, *state_, state_->enqueued);
}

bool Stream::idle() const {
  const Lock lock(shared().mutex);
  return state_->queue.empty();
}

Event::Event() : state_(std::make_shared<detail::EventState>()) {}

void Event::record(Stream& stream) {
  const Lock lock(shared().mutex);
  state_->stream = stream.state_;
  state_->position = stream.state_->enqueued;
}

bool Event::done() const {
  const Lock lock(shared().mutex);
  return !state_->stream || state_->stream->completed >= state_->position;
}

void Event::synchronize() const {
  Lock lock(shared().mutex);
  const std::shared_ptr<StreamState> stream = state_->stream;
  const std::uint64_t position = state_->position;
  if (!stream) return;
  drain(lock, *stream, position);
  if (const auto error = stream->failure_before(position)) std::rethrow_exception(error);
}

void set_stream_mode(StreamMode new_mode) { mode() = new_mode; }
StreamMode stream_mode() { return mode(); }

void synchronize_all() {
  Shared& all = shared();
  Lock lock(all.mutex);
  const std::vector<std::weak_ptr<StreamState>> streams = all.streams;
  std::exception_ptr first;
  for (const auto& weak : streams) {
    const auto stream = weak.lock();
    if (!stream) continue;
    try {
      drain(lock, *stream, stream->enqueued);
    } catch (...) {
      if (!first) first = std::current_exception();
    }
  }
  if (first) std::rethrow_exception(first);
}

void fail_malloc_at(std::int64_t n) { set_countdown(malloc_countdown, "fail_malloc_at", n); }
void fail_launch_at(std::int64_t n) { set_countdown(launch_countdown, "fail_launch_at", n); }
bool malloc_fails() { return count_down(malloc_countdown); }
bool launch_fails() { return count_down(launch_countdown); }

}  // namespace weft::simt
