#pragma once
// The one thread pool. Work is cut into chunks whose size is fixed by the problem, never by the number of threads, so that
// every result is bitwise the same for any thread count: a chunk writes its own outputs or its own partial sum, and
// partial sums are added in chunk order by the caller.
#include <cstdint>
#include <memory>
#include <type_traits>

namespace weft {

/// Threads that a parallel region may use, the caller included. Starts as the number of usable cores.
int num_threads();
/// Sets it, for the whole process; n >= 1. Errors: OptionError.
void set_num_threads(int n);

namespace detail {
using ChunkFunction = void (*)(void* context, std::int64_t chunk);
void run_chunks(std::int64_t chunks, ChunkFunction function, void* context);
}  // namespace detail

/// Calls f(chunk) once for every chunk in [0, chunks), on up to num_threads() threads, and returns when all are done.
/// One chunk, one thread, or a call from inside another parallel region runs on the caller. The first exception (by chunk
/// number among those thrown) is rethrown after the others have finished.
template <class F>
void parallel_chunks(std::int64_t chunks, F&& f) {
  using Callable = std::remove_reference_t<F>;
  detail::run_chunks(
      chunks, [](void* context, std::int64_t chunk) { (*static_cast<Callable*>(context))(chunk); },
      const_cast<void*>(static_cast<const void*>(std::addressof(f))));
}

/// Cuts [0, count) into chunks of `grain` and calls f(begin, end) for each, as parallel_chunks does.
template <class F>
void parallel_ranges(std::int64_t count, std::int64_t grain, F&& f) {
  if (count <= 0) return;
  parallel_chunks((count + grain - 1) / grain, [&](std::int64_t chunk) {
    const std::int64_t begin = chunk * grain;
    f(begin, begin + grain < count ? begin + grain : count);
  });
}

/// While one lives, this thread's parallel regions run on it alone and leave the pool's threads to others: for threads that
/// work beside the one that computes.
class SerialScope {
 public:
  SerialScope();
  ~SerialScope();
  SerialScope(const SerialScope&) = delete;
  SerialScope& operator=(const SerialScope&) = delete;

 private:
  bool before_;
};

}  // namespace weft
