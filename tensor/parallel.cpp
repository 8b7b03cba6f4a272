#include "tensor/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>

#include <sched.h>

#include "tensor/error.h"

namespace weft {
namespace {

int usable_cores() {
  cpu_set_t set;  // respects taskset and container limits
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

thread_local bool inside_region = false;

// Keeps the exception of the lowest chunk, so that an error does not depend on the thread count either.
class FirstError {
 public:
  void capture(std::int64_t chunk) {
    const std::lock_guard lock(mutex_);
    if (chunk >= chunk_) return;
    chunk_ = chunk;
    error_ = std::current_exception();
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::int64_t chunk_ = std::numeric_limits<std::int64_t>::max();
  std::exception_ptr error_;
};

struct Job {
  detail::ChunkFunction function;
  void* context;
  std::int64_t chunks;
  std::atomic<std::int64_t> next{0};
  FirstError error;

  // A thread takes the next chunk when it is done with its last one: uneven chunks and busy cores even out, and which
  // thread runs a chunk never shows in the result.
  void work() {
    inside_region = true;
    for (std::int64_t chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) {
      try {
        function(context, chunk);
      } catch (...) { error.capture(chunk); }
    }
    inside_region = false;
  }
};

// Threads that help whoever has a job open. The owner of a job works on it too and waits only for helpers that have taken a
// chunk: a helper that the operating system has not scheduled yet, because another program has the core, delays nobody. (A
// fork-join barrier waits for every thread of the team: on a busy machine each region then costs a scheduler's time slice.)
class Pool {
 public:
  Pool() : threads_(usable_cores()), spin_(usable_cores()) {}

  int threads() const { return threads_.load(std::memory_order_relaxed); }
  void set_threads(int n) { threads_.store(n, std::memory_order_relaxed); }

  void run(Job& job) {
    const int helpers = static_cast<int>(std::min<std::int64_t>(threads(), job.chunks)) - 1;
    const std::unique_lock owner(owner_, std::try_to_lock);
    if (helpers <= 0 || inside_region || !owner.owns_lock()) {  // another thread has the helpers: do without
      const bool before = inside_region;
      job.work();
      inside_region = before;
    } else {
      start(threads() - 1);
      job_ = &job;
      helpers_wanted_.store(helpers, std::memory_order_relaxed);
      open_.store(true);  // sequentially consistent, as are the counts below: see join()
      generation_.fetch_add(1);
      if (sleepers_.load() > 0) generation_.notify_all();
      job.work();
      open_.store(false);
      for (int spins = 0; joined_.load() != 0; ++spins) spins < 1000 ? pause() : std::this_thread::yield();
    }
    job.error.rethrow();
  }

 private:
  void start(int helpers) {
    for (; started_ < helpers; ++started_) std::thread([this, index = started_] { serve(index); }).detach();
  }

  [[noreturn]] void serve(int index) {
    for (std::uint32_t seen = 0;;) {
      seen = wait(seen);
      if (index < threads() - 1) join();
    }
  }

  // Counts itself in first and looks whether the job is open second, while the owner closes first and looks at the count
  // second: one of the two sees the other, so that nobody touches a job whose owner has gone.
  void join() {
    joined_.fetch_add(1);
    if (open_.load() && helpers_wanted_.fetch_sub(1, std::memory_order_relaxed) > 0) job_->work();
    joined_.fetch_sub(1);
  }

  // The generation once it differs from `seen`. Regions of a training step follow each other within microseconds: worth some
  // spinning, unless there are more threads than cores.
  std::uint32_t wait(std::uint32_t seen) {
    constexpr int kSpins = 3000;  // about 100 µs
    if (threads() <= spin_)
      for (int spins = 0; spins < kSpins; ++spins) {
        if (const std::uint32_t now = generation_.load(); now != seen) return now;
        pause();
      }
    sleepers_.fetch_add(1);
    generation_.wait(seen);
    sleepers_.fetch_sub(1);
    return generation_.load();
  }

  alignas(64) std::atomic<std::uint32_t> generation_{0};
  alignas(64) std::atomic<int> joined_{0};
  std::atomic<bool> open_{false};
  std::atomic<int> helpers_wanted_{0};
  Job* job_ = nullptr;
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<int> threads_;
  const int spin_;
  std::mutex owner_;
  int started_ = 0;
};

// Never destroyed, its threads never joined: they may outlive the static objects of the libraries that chunks call.
Pool& pool() {
  static auto* instance = new Pool;
  return *instance;
}

}  // namespace

int num_threads() { return pool().threads(); }

void set_num_threads(int n) {
  require<OptionError>(n >= 1 && n <= 1024, "set_num_threads", "the number of threads must be in [1, 1024] but is {}",
                       n);
  pool().set_threads(n);
}

void detail::run_chunks(std::int64_t chunks, ChunkFunction function, void* context) {
  if (chunks <= 1 || inside_region) {
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) function(context, chunk);
    return;
  }
  Job job{function, context, chunks, {}, {}};
  pool().run(job);
}

SerialScope::SerialScope() : before_(inside_region) { inside_region = true; }
SerialScope::~SerialScope() { inside_region = before_; }

}  // namespace weft
