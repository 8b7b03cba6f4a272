#include "tensor/allocator.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include <sys/mman.h>

#include "tensor/device.h"
#include "tensor/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace weft {
namespace {

// Size classes: four per power of two from 256 bytes up, so that rounding wastes at most a quarter of a block's size.
constexpr int kMinShift = 8;
constexpr int kClassesPerOctave = 4;
constexpr int kClasses = (63 - kMinShift) * kClassesPerOctave;
constexpr std::int64_t kHugePageBytes = std::int64_t{2} << 20;

int class_of(std::int64_t bytes) {
  if (bytes <= (std::int64_t{1} << kMinShift)) return 0;
  const int shift = 63 - std::countl_zero(static_cast<std::uint64_t>(bytes - 1));  // bytes is in (2^shift, 2^(shift+1)]
  const std::int64_t step = (std::int64_t{1} << shift) / kClassesPerOctave;
  const auto quarter = static_cast<int>((bytes - (std::int64_t{1} << shift) + step - 1) / step);  // [1, 4]
  return (shift - kMinShift) * kClassesPerOctave + quarter;
}

std::int64_t class_bytes(int size_class) {
  if (size_class == 0) return std::int64_t{1} << kMinShift;
  const int shift = kMinShift + (size_class - 1) / kClassesPerOctave;
  const int quarter = (size_class - 1) % kClassesPerOctave + 1;
  return (std::int64_t{1} << shift) + quarter * ((std::int64_t{1} << shift) / kClassesPerOctave);
}

// ASan must see a cached block as freed memory, although the allocator still holds it.
void poison([[maybe_unused]] void* block, [[maybe_unused]] std::int64_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(block, static_cast<std::size_t>(bytes));
#endif
}
// Only the requested part becomes addressable: an access beyond it is reported although the block is larger.
void unpoison([[maybe_unused]] void* block, [[maybe_unused]] std::int64_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(block, static_cast<std::size_t>(bytes));
#endif
}

class Allocator {
 public:
  void* allocate(std::int64_t bytes) {
    const int size_class = class_of(bytes);
    const std::int64_t rounded = class_bytes(size_class);
    const std::lock_guard lock(mutex_);
    if (limit_ > 0 && stats_.current_bytes + rounded > limit_) out_of_memory(bytes);
    auto& free_blocks = free_[static_cast<std::size_t>(size_class)];
    void* block = nullptr;
    if (guards_ > 0) [[unlikely]] {
      block = guarded_block(bytes);
    } else if (!free_blocks.empty()) {
      block = free_blocks.back();
      free_blocks.pop_back();
      stats_.cached_bytes -= rounded;
    } else {
      block = from_system(rounded);
      if (block == nullptr) {  // give the cache back and try once more
        release_all();
        block = from_system(rounded);
        if (block == nullptr) out_of_memory(bytes);
      }
      ++stats_.system_allocations;
    }
    unpoison(block, bytes);
    ++stats_.allocations;
    stats_.current_bytes += rounded;
    if (stats_.current_bytes > stats_.peak_bytes) stats_.peak_bytes = stats_.current_bytes;
    return block;
  }

  void free(void* block, std::int64_t bytes) noexcept {
    const int size_class = class_of(bytes);
    const std::int64_t rounded = class_bytes(size_class);
    const std::lock_guard lock(mutex_);
    stats_.current_bytes -= rounded;
    if (!guarded_.empty() && free_guarded(block)) return;
    poison(block, rounded);
    try {
      free_[static_cast<std::size_t>(size_class)].push_back(block);
      stats_.cached_bytes += rounded;
    } catch (...) {  // no memory even for the list: hand the block back instead
      unpoison(block, rounded);
      std::free(block);
    }
  }

  void release() {
    const std::lock_guard lock(mutex_);
    release_all();
  }
  MemoryStats stats() {
    const std::lock_guard lock(mutex_);
    return stats_;
  }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    stats_.peak_bytes = stats_.current_bytes;
  }
  void set_limit(std::int64_t bytes) {
    const std::lock_guard lock(mutex_);
    limit_ = bytes;
  }
  void guard(int change) {
    const std::lock_guard lock(mutex_);
    guards_ += change;
  }
  std::int64_t overruns() {
    const std::lock_guard lock(mutex_);
    std::int64_t damaged = overruns_;
    for (const auto& [block, bytes] : guarded_) damaged += intact(block, bytes) ? 0 : 1;
    return damaged;
  }

 private:
  static void* from_system(std::int64_t rounded) {
    // More than any user address space: the C library's own limits differ (AddressSanitizer's would end the process).
    if (rounded > (std::int64_t{1} << 47)) return nullptr;
    // Large blocks on huge-page boundaries: 512 times fewer page faults where the kernel grants them.
    const bool huge = rounded >= kHugePageBytes;
    const auto alignment = static_cast<std::size_t>(huge ? kHugePageBytes : static_cast<std::int64_t>(kAlignmentBytes));
    const auto size = (static_cast<std::size_t>(rounded) + alignment - 1) / alignment * alignment;
    void* block = std::aligned_alloc(alignment, size);
    if (huge && block != nullptr) (void)madvise(block, size, MADV_HUGEPAGE);  // advice: its refusal costs only speed
    return block;
  }

  void release_all() {
    for (int c = 0; c < kClasses; ++c) {
      auto& blocks = free_[static_cast<std::size_t>(c)];
      for (void* block : blocks) {
        unpoison(block, class_bytes(c));
        std::free(block);
      }
      blocks.clear();
      blocks.shrink_to_fit();
    }
    stats_.cached_bytes = 0;
  }

  // A block between two fences, each as wide as a block is aligned.
  void* guarded_block(std::int64_t bytes) {
    constexpr auto kFence = static_cast<std::int64_t>(kAlignmentBytes);
    auto* whole = static_cast<std::byte*>(from_system((bytes + 2 * kFence + kFence - 1) / kFence * kFence));
    if (whole == nullptr) out_of_memory(bytes);
    std::memset(whole, kFenceMark, kAlignmentBytes);
    std::memset(whole + kFence, 0xff, static_cast<std::size_t>(bytes));
    std::memset(whole + kFence + bytes, kFenceMark, kAlignmentBytes);
    guarded_.emplace(whole + kFence, bytes);
    ++stats_.system_allocations;
    return whole + kFence;
  }
  static bool intact(const void* block, std::int64_t bytes) {
    const auto* at = static_cast<const unsigned char*>(block);
    for (std::size_t i = 1; i <= kAlignmentBytes; ++i)
      if (at[-static_cast<std::ptrdiff_t>(i)] != kFenceMark ||
          at[static_cast<std::size_t>(bytes) + i - 1] != kFenceMark)
        return false;
    return true;
  }
  bool free_guarded(void* block) noexcept {
    const auto found = guarded_.find(block);
    if (found == guarded_.end()) return false;
    overruns_ += intact(block, found->second) ? 0 : 1;
    guarded_.erase(found);
    std::free(static_cast<std::byte*>(block) - kAlignmentBytes);
    return true;
  }

  [[noreturn]] void out_of_memory(std::int64_t bytes) const {
    throw OutOfMemory(
        fmt::format("[allocator] out of memory: {} bytes asked for while {} bytes are in use{}", bytes,
                    stats_.current_bytes, limit_ > 0 ? fmt::format(" (limit {} bytes)", limit_) : std::string()),
        bytes, stats_.current_bytes, stats_.cached_bytes);
  }

  std::mutex mutex_;
  std::vector<void*> free_[kClasses + 1];
  MemoryStats stats_;
  std::int64_t limit_ = 0;

  static constexpr int kFenceMark = 0xa5;
  int guards_ = 0;                                   // MemoryGuards that live
  std::unordered_map<void*, std::int64_t> guarded_;  // blocks between fences, and their bytes
  std::int64_t overruns_ = 0;                        // of those that were freed
};

// Never destroyed: tensors in static objects may be freed after any other static object is gone.
Allocator& allocator() {
  // The first allocation is the first moment that every program passes: say what is wrong before an illegal instruction does.
  static auto* instance = (require_processor(), new Allocator);
  return *instance;
}

}  // namespace

void* cpu_allocate(std::int64_t bytes) {
  require<ShapeError>(bytes >= 0, "allocator", "cannot allocate {} bytes", bytes);
  return bytes == 0 ? nullptr : allocator().allocate(bytes);
}
void cpu_free(void* block, std::int64_t bytes) noexcept {
  if (block != nullptr) allocator().free(block, bytes);
}
MemoryStats cpu_memory_stats() { return allocator().stats(); }
void reset_peak_bytes() { allocator().reset_peak(); }
void release_cached_memory() { allocator().release(); }
void set_memory_limit(std::int64_t bytes) { allocator().set_limit(bytes); }
MemoryGuard::MemoryGuard() { allocator().guard(1); }
MemoryGuard::~MemoryGuard() { allocator().guard(-1); }
std::int64_t MemoryGuard::overruns() { return allocator().overruns(); }

}  // namespace weft
