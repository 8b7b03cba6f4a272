#pragma once
// The CPU's caching allocator. Freed blocks are kept for the next request of their size class: a training step asks for
// the same sizes again and again, and fresh pages cost far more than the arithmetic (a page fault for every 4 KiB).
#include <cstddef>
#include <cstdint>

namespace weft {

/// What an allocator has handed out and holds.
struct MemoryStats {
  std::int64_t current_bytes = 0;       // requested and not yet freed, rounded up to the size class
  std::int64_t peak_bytes = 0;          // highest current_bytes since the start or the last reset_peak_bytes()
  std::int64_t cached_bytes = 0;        // free blocks kept for reuse
  std::int64_t allocations = 0;         // requests served since the start
  std::int64_t system_allocations = 0;  // of those, requests that had to go to the operating system
};

/// Every block starts at a multiple of this.
inline constexpr std::size_t kAlignmentBytes = 64;

/// A block of at least `bytes` bytes, 64-byte aligned, with unspecified content; nullptr for 0 bytes. Thread-safe.
/// Errors: OutOfMemory, after the cache was given back and the request tried once more.
void* cpu_allocate(std::int64_t bytes);
/// Gives a block back; `bytes` as requested. Any thread may free what another allocated.
void cpu_free(void* block, std::int64_t bytes) noexcept;

/// The numbers of the cpu allocator.
MemoryStats cpu_memory_stats();
/// Lets peak_bytes start again from current_bytes.
void reset_peak_bytes();
/// Returns every cached block to the operating system.
void release_cached_memory();
/// An upper limit for current_bytes (0 = none): requests beyond it fail as if the machine were full. For tests and for
/// staying within a budget.
void set_memory_limit(std::int64_t bytes);

/// For tests: while one lives, every new block of any thread is fresh, filled with 0xff (a NaN in each float type) and
/// fenced on both sides, so that an element that was left out and a write beyond an end show.
class MemoryGuard {
 public:
  MemoryGuard();
  ~MemoryGuard();
  MemoryGuard(const MemoryGuard&) = delete;
  MemoryGuard& operator=(const MemoryGuard&) = delete;
  /// Guarded blocks with a damaged fence, freed or not, since the process started.
  static std::int64_t overruns();
};

}  // namespace weft
