// One file in memory, mapped twice: window D, whose addresses are the device pointers, without any access rights, and
// window R, readable and writable, at a fixed distance. Both are as large as the device and cost nothing until touched.
//
// The arena is handed out in granules of 256 bytes. A table says for each granule which allocation it belongs to, so
// that global_access(), which every emulated load passes through, checks an address with two dependent loads and no
// lock.
#include "simt/memory.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>

#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fmt/core.h>

#include "simt/address_ranges.h"
#include "simt/execution.h"
#include "simt/runtime.h"
#include "simt/sanitizers.h"
#include "simt/signals.h"
#include "simt/stream.h"

namespace weft::simt {
namespace {

using detail::AddressRanges;

constexpr std::uint64_t kGranuleBytes = 256;
constexpr std::uint64_t kLargestArenaBytes = std::uint64_t{32} << 30;
constexpr std::uint64_t kSmallestArenaBytes = std::uint64_t{64} << 20;

// What is known of an allocation. Read without a lock by running kernels while other threads allocate: hence atomics,
// though nothing orders them. A kernel that uses a block while another thread frees it is wrong in any case.
struct Record {
  std::atomic<std::uint64_t> begin{0};       // offset in the arena
  std::atomic<std::uint64_t> accessible{0};  // bytes; 0 once freed
  std::atomic<std::uint64_t> bytes{0};
  std::atomic<std::uint64_t> number{0};
};
using Slot = std::atomic<std::uint32_t>;  // index of a Record; 0 is the record of no allocation, never accessible

// Set once, before the first device pointer exists. arena_bytes is 0 until then, and no address is a device address.
constinit std::atomic<char*> device_window{nullptr};
constinit std::atomic<std::uint64_t> arena_bytes{0};
constinit char* view_window = nullptr;
constinit Slot* granules = nullptr;  // [arena_bytes / kGranuleBytes]
constinit Record* records = nullptr;

// Zeroed memory that takes no room until it is touched.
template <class T>
T* reserve(std::uint64_t count) {
  void* memory =
      mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  madvise(memory, count * sizeof(T), MADV_DONTDUMP);
  return static_cast<T*>(memory);
}

std::uint64_t offset_of(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) -
         reinterpret_cast<std::uintptr_t>(device_window.load(std::memory_order_acquire));
}

std::uint64_t round_up(std::uint64_t value, std::uint64_t step) { return (value + step - 1) / step * step; }

class Arena {
 public:
  // Never destroyed: static objects may free device memory after main().
  static Arena& get() {
    static Arena& arena = *new Arena;
    return arena;
  }

  void* allocate(std::uint64_t bytes);
  void free(void* address);
  std::string describe(std::uint64_t offset, std::uint64_t bytes = 0) const;
  std::vector<Allocation> live() const;

  std::mutex mutex;
  // Everything below is guarded by it.
  MemoryStats stats;
  std::uint64_t limit_bytes = 0;
  const std::uint64_t usual_limit_bytes;

 private:
  Arena();
  bool map(std::uint64_t bytes);
  void hold_pages(std::uint64_t begin, std::uint64_t bytes);
  void release_pages(std::uint64_t begin, std::uint64_t bytes);
  void forget_freed(std::uint64_t first_granule, std::uint64_t count);
  std::uint32_t new_slot();

  const std::uint64_t page_bytes_;
  int file_ = -1;
  bool forked_ = false;  // a child process: window R is its own copy
  AddressRanges ranges_{0};
  std::map<std::uint64_t, std::uint32_t> by_granule_;  // first granule -> slot, of live and of freed allocations
  std::vector<std::uint32_t> unused_slots_;
  std::uint32_t next_slot_ = 1;
  std::uint64_t next_number_ = 1;
  std::uint16_t* page_blocks_ = nullptr;  // per page: live blocks that begin or end in it
};

// The arena for those that must not create it.
std::atomic<Arena*> existing_arena{nullptr};

std::uint64_t machine_limit() {
  return static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) / 4 * 3 *
         static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

Arena::Arena() : usual_limit_bytes(machine_limit()), page_bytes_(static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE))) {
  std::uint64_t bytes = kLargestArenaBytes;
  while (!map(bytes)) {
    const int reason = errno;
    bytes /= 2;
    if (bytes < kSmallestArenaBytes) {
      throw std::runtime_error(fmt::format("[simt] no address space for device memory: {} MiB failed: {}",
                                           (bytes * 2) >> 20, std::strerror(reason)));
    }
  }
  ranges_ = AddressRanges(bytes / kGranuleBytes);
  ranges_.take(1);  // whatever lies right before the first allocation is device memory as well
  existing_arena.store(this);
  // A forked child (a death test) must neither meet a mutex that another thread held nor write into its parent's
  // memory.
  pthread_atfork([] { existing_arena.load()->mutex.lock(); }, [] { existing_arena.load()->mutex.unlock(); },
                 [] {
                   Arena& arena = *existing_arena.load();
                   arena.forked_ = true;
                   if (arena.file_ >= 0) {
                     static_cast<void>(mmap(view_window, arena_bytes.load(), PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, arena.file_, 0));
                   }
                   arena.mutex.unlock();
                 });
}

bool Arena::map(std::uint64_t bytes) {
  rlimit file_limit{};
  const bool may_be_a_file = getrlimit(RLIMIT_FSIZE, &file_limit) != 0 || file_limit.rlim_cur >= bytes;
  if (may_be_a_file) file_ = memfd_create("weft-simt-device", MFD_CLOEXEC);
  if (file_ >= 0 && ftruncate(file_, static_cast<off_t>(bytes)) != 0) {
    close(file_);
    file_ = -1;
  }
  // Without a file window D is empty: only debuggers notice.
  const int flags = MAP_SHARED | MAP_NORESERVE | (file_ < 0 ? MAP_ANONYMOUS : 0);
  void* device = mmap(nullptr, bytes, PROT_NONE, flags, file_, 0);
  void* view = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, file_, 0);
  const std::uint64_t granule_count = bytes / kGranuleBytes;
  // Each allocation takes at least one granule and the fence behind it.
  granules = reserve<Slot>(granule_count);
  records = reserve<Record>(granule_count / 2 + 1);
  page_blocks_ = reserve<std::uint16_t>(bytes / page_bytes_);
  if (device != MAP_FAILED && view != MAP_FAILED && granules != nullptr && records != nullptr &&
      page_blocks_ != nullptr) {
    // A core dump would fill in every hole: the whole arena, twice.
    madvise(device, bytes, MADV_DONTDUMP);
    madvise(view, bytes, MADV_DONTDUMP);
    view_window = static_cast<char*>(view);
    device_window.store(static_cast<char*>(device));
    arena_bytes.store(bytes, std::memory_order_release);
    return true;
  }
  const int reason = errno;
  const auto give_back = [](void* memory, std::uint64_t length) {
    if (memory != nullptr && memory != MAP_FAILED) munmap(memory, length);
  };
  give_back(device, bytes);
  give_back(view, bytes);
  give_back(granules, granule_count * sizeof(Slot));
  give_back(records, (granule_count / 2 + 1) * sizeof(Record));
  give_back(page_blocks_, bytes / page_bytes_ * sizeof(std::uint16_t));
  if (file_ >= 0) close(file_);
  file_ = -1;
  errno = reason;
  return false;
}

void* Arena::allocate(std::uint64_t bytes) {
  const std::uint64_t limit = limit_bytes != 0 ? limit_bytes : usual_limit_bytes;
  const auto current = static_cast<std::uint64_t>(stats.current_bytes);
  if (bytes > limit || current > limit - bytes || bytes > arena_bytes.load()) return nullptr;
  const std::uint64_t count = round_up(bytes, kGranuleBytes) / kGranuleBytes + 1;
  const auto first = ranges_.take(count);
  if (!first) return nullptr;

  forget_freed(*first, count);
  const std::uint32_t slot = new_slot();
  Record& record = records[slot];
  const std::uint64_t begin = *first * kGranuleBytes;
  record.begin.store(begin, std::memory_order_relaxed);
  record.accessible.store(bytes, std::memory_order_relaxed);
  record.bytes.store(bytes, std::memory_order_relaxed);
  record.number.store(next_number_++, std::memory_order_relaxed);
  for (std::uint64_t i = 0; i < count; ++i) granules[*first + i].store(slot, std::memory_order_relaxed);
  by_granule_.emplace(*first, slot);
  hold_pages(begin, bytes);

  stats.current_bytes += static_cast<std::int64_t>(bytes);
  stats.peak_bytes = std::max(stats.peak_bytes, stats.current_bytes);
  ++stats.allocations;
  return device_window.load() + begin;
}

void Arena::free(void* address) {
  const std::uint64_t begin = offset_of(address);
  const bool inside = begin < arena_bytes.load();
  const std::uint32_t slot = inside ? granules[begin / kGranuleBytes].load(std::memory_order_relaxed) : 0;
  Record& record = records[slot];
  if (slot == 0 || record.begin.load() != begin) {
    throw std::invalid_argument(fmt::format("[device_free] {} is not the start of an allocation: {}", address,
                                            inside ? describe(begin) : "it is no device memory"));
  }
  if (record.accessible.load() == 0) {
    throw std::invalid_argument(fmt::format("[device_free] {} is free already: {}", address, describe(begin)));
  }
  const std::uint64_t bytes = record.bytes.load();
  record.accessible.store(0, std::memory_order_relaxed);
  release_pages(begin, bytes);
  ranges_.give_back(begin / kGranuleBytes, round_up(bytes, kGranuleBytes) / kGranuleBytes + 1);
  stats.current_bytes -= static_cast<std::int64_t>(bytes);
  --stats.allocations;
}

// Only the two pages at a block's ends are shared with others.
void Arena::hold_pages(std::uint64_t begin, std::uint64_t bytes) {
  const std::uint64_t first = begin / page_bytes_, last = (begin + bytes - 1) / page_bytes_;
  ++page_blocks_[first];
  if (last != first) ++page_blocks_[last];
}

void Arena::release_pages(std::uint64_t begin, std::uint64_t bytes) {
  std::uint64_t first = begin / page_bytes_, last = (begin + bytes - 1) / page_bytes_;
  const bool last_is_free = last == first || --page_blocks_[last] == 0;
  const bool first_is_free = --page_blocks_[first] == 0;
  if (first == last && !first_is_free) return;
  if (!first_is_free) ++first;
  if (!last_is_free) --last;
  if (first > last || forked_) return;
  // Failure means that the memory stays in use, nothing worse.
  madvise(view_window + first * page_bytes_, (last - first + 1) * page_bytes_, MADV_REMOVE);
}

// The addresses are about to be used again: what was known of their former owners is no longer true.
void Arena::forget_freed(std::uint64_t first_granule, std::uint64_t count) {
  auto owner = by_granule_.upper_bound(first_granule);
  if (owner != by_granule_.begin()) --owner;
  while (owner != by_granule_.end() && owner->first < first_granule + count) {
    const std::uint32_t slot = owner->second;
    const std::uint64_t bytes = records[slot].bytes.load();
    const std::uint64_t owned = round_up(bytes, kGranuleBytes) / kGranuleBytes + 1;
    if (owner->first + owned <= first_granule) {
      ++owner;
      continue;
    }
    for (std::uint64_t i = 0; i < owned; ++i) granules[owner->first + i].store(0, std::memory_order_relaxed);
    unused_slots_.push_back(slot);
    owner = by_granule_.erase(owner);
  }
}

std::uint32_t Arena::new_slot() {
  if (unused_slots_.empty()) return next_slot_++;
  const std::uint32_t slot = unused_slots_.back();
  unused_slots_.pop_back();
  return slot;
}

std::vector<Allocation> Arena::live() const {
  std::vector<Allocation> result;
  for (const auto& [granule, slot] : by_granule_) {
    const Record& record = records[slot];
    if (record.accessible.load() == 0) continue;
    result.push_back({device_window.load() + record.begin.load(), record.bytes.load(), record.number.load(), true});
  }
  std::sort(result.begin(), result.end(), [](const auto& a, const auto& b) { return a.number < b.number; });
  return result;
}

// "byte 12 of allocation 7 (400 bytes)", "16 bytes past the end of allocation 7 (400 bytes)", and for a range that
// begins inside: "byte 12 of allocation 7 (400 bytes), 12 bytes past its end"
std::string Arena::describe(std::uint64_t offset, std::uint64_t bytes) const {
  const auto name = [](const Record& record) {
    return fmt::format("allocation {} ({} bytes{})", record.number.load(), record.bytes.load(),
                       record.accessible.load() == 0 ? ", freed" : "");
  };
  const auto after = by_granule_.upper_bound(offset / kGranuleBytes);
  std::string text;
  std::uint64_t distance = 0;
  if (after != by_granule_.begin()) {
    const Record& record = records[std::prev(after)->second];
    const std::uint64_t within = offset - record.begin.load();
    const std::uint64_t owned = record.bytes.load();
    if (within < owned) {
      const std::string past =
          bytes > owned - within ? fmt::format(", {} bytes past its end", bytes - (owned - within)) : "";
      return fmt::format("byte {} of {}{}", within, name(record), past);
    }
    distance = within - owned;
    text = fmt::format("{} bytes past the end of {}", distance, name(record));
  }
  if (after != by_granule_.end()) {
    const Record& record = records[after->second];
    const std::uint64_t before = record.begin.load() - offset;
    // Both neighbours when either is as likely to be meant.
    if (text.empty() || before <= kGranuleBytes + distance) {
      text += fmt::format("{}{} bytes before {}", text.empty() ? "" : ", ", before, name(record));
    }
  }
  return text.empty() ? "nothing was ever allocated" : text;
}

// Where a copy's device range really is.
unsigned char* device_range(const char* function, const void* device, std::size_t bytes) {
  if (!is_device_address(device)) {
    throw std::invalid_argument(fmt::format("[{}] {} is not device memory", function, device));
  }
  Arena& arena = Arena::get();
  const std::lock_guard lock(arena.mutex);
  const std::uint64_t offset = offset_of(device);
  const Record& record = records[granules[offset / kGranuleBytes].load(std::memory_order_relaxed)];
  const std::uint64_t within = offset - record.begin.load(), accessible = record.accessible.load();
  if (within > accessible || bytes > accessible - within) {
    throw std::out_of_range(
        fmt::format("[{}] {} bytes from {}: {}", function, bytes, device, arena.describe(offset, bytes)));
  }
  return static_cast<unsigned char*>(host_view(device));
}

void require_host(const char* function, const void* host) {
  if (host == nullptr || is_device_address(host)) {
    throw std::invalid_argument(
        fmt::format("[{}] {} is {}, not host memory", function, host, host == nullptr ? "null" : "device memory"));
  }
}

const char* to_string(Access access) {
  switch (access) {
    case Access::read: return "read";
    case Access::write: return "write";
    case Access::atomic: return "atomic";
  }
  return "access";
}

// Not on the way of a correct access.
[[noreturn]] [[gnu::cold]] [[gnu::noinline]] void refuse(const void* address, std::size_t bytes, std::size_t alignment,
                                                         Access access, const Site& site) {
  const detail::HiddenFromTsan hidden;  // the message goes from the fiber to the scheduler
  auto kind = FaultKind::global_bounds;
  std::string where;
  if (!is_device_address(address)) {
    kind = FaultKind::global_host_pointer;
    where = address == nullptr ? "a null pointer" : "not device memory";
  } else {
    Arena& arena = Arena::get();
    const std::lock_guard lock(arena.mutex);
    const std::uint64_t offset = offset_of(address);
    where = arena.describe(offset, bytes);
    const Record& record = records[granules[offset / kGranuleBytes].load(std::memory_order_relaxed)];
    const std::uint64_t within = offset - record.begin.load(), owned = record.bytes.load();
    if (within < owned && record.accessible.load() == 0) {
      kind = FaultKind::global_freed;
    } else if (within < owned && bytes <= owned - within) {
      kind = FaultKind::global_misaligned;
      where += fmt::format(", not a multiple of {} bytes", alignment);
    }
  }
  std::string what = fmt::format("{} of {} bytes at {}: {}", to_string(access), bytes, address, where);
  if (in_kernel()) detail::raise(kind, site, std::move(what));
  throw std::out_of_range("[simt] outside a kernel: " + what);
}

}  // namespace

void* device_malloc(std::size_t bytes) {
  if (bytes == 0 || malloc_fails()) return nullptr;
  detail::watch_for_faults();
  Arena& arena = Arena::get();
  void* address = nullptr;
  {
    const std::lock_guard lock(arena.mutex);
    address = arena.allocate(bytes);
  }
  if (address == nullptr) return nullptr;
  // Nobody else knows the block yet.
  std::memset(host_view(address), 0xFF, bytes);
  return address;
}

void device_free(void* address) {
  if (address == nullptr) return;
  Arena& arena = Arena::get();
  const std::lock_guard lock(arena.mutex);
  arena.free(address);
}

Allocation find_allocation(const void* address) {
  const detail::NearestAllocation nearest = detail::nearest_allocation(address);
  return nearest.offset_bytes < nearest.allocation.bytes ? nearest.allocation : Allocation{};
}

std::vector<Allocation> live_allocations() {
  Arena& arena = Arena::get();
  const std::lock_guard lock(arena.mutex);
  return arena.live();
}

MemoryStats memory_stats() {
  Arena& arena = Arena::get();
  const std::lock_guard lock(arena.mutex);
  return arena.stats;
}

void reset_peak_bytes() {
  Arena& arena = Arena::get();
  const std::lock_guard lock(arena.mutex);
  arena.stats.peak_bytes = arena.stats.current_bytes;
}

void set_memory_limit(std::int64_t bytes) {
  if (bytes < 0) throw std::invalid_argument(fmt::format("[set_memory_limit] {} bytes: must be at least 0", bytes));
  Arena& arena = Arena::get();
  const std::lock_guard lock(arena.mutex);
  arena.limit_bytes = static_cast<std::uint64_t>(bytes);
}

void copy_to_device(void* device, const void* host, std::size_t bytes) {
  if (bytes == 0) return;
  require_host("copy_to_device", host);
  std::memcpy(device_range("copy_to_device", device, bytes), host, bytes);
}

void copy_to_host(void* host, const void* device, std::size_t bytes) {
  if (bytes == 0) return;
  require_host("copy_to_host", host);
  std::memcpy(host, device_range("copy_to_host", device, bytes), bytes);
}

void copy_on_device(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  unsigned char* target = device_range("copy_on_device", to, bytes);
  std::memmove(target, device_range("copy_on_device", from, bytes), bytes);
}

void fill_bytes(void* device, unsigned char value, std::size_t bytes) {
  if (bytes == 0) return;
  std::memset(device_range("fill_bytes", device, bytes), value, bytes);
}

bool is_device_address(const void* address) {
  const std::uint64_t size = arena_bytes.load(std::memory_order_acquire);
  return offset_of(address) < size;
}

void* host_view(const void* device) {
  if (!is_device_address(device)) return nullptr;
  return view_window + offset_of(device);
}

void* global_access(const void* address, std::size_t bytes, std::size_t alignment, Access access, const Site& site) {
  const std::uint64_t size = arena_bytes.load(std::memory_order_acquire);
  const std::uint64_t offset = offset_of(address);
  if (offset >= size) [[unlikely]]
    refuse(address, bytes, alignment, access, site);
  const Record& record = records[granules[offset / kGranuleBytes].load(std::memory_order_relaxed)];
  const std::uint64_t within = offset - record.begin.load(std::memory_order_relaxed);
  const std::uint64_t accessible = record.accessible.load(std::memory_order_relaxed);
  if (within > accessible || bytes > accessible - within || (offset & (alignment - 1)) != 0) [[unlikely]]
    refuse(address, bytes, alignment, access, site);
  if (detail::traffic_on()) [[unlikely]]
    detail::traffic_global(detail::current_thread(), address, static_cast<unsigned>(bytes), access, site);
  return view_window + offset;
}

namespace detail {

NearestAllocation nearest_allocation(const void* address) {
  if (!is_device_address(address)) return {};
  const std::uint64_t offset = offset_of(address);
  const std::uint32_t slot = granules[offset / kGranuleBytes].load(std::memory_order_relaxed);
  if (slot == 0) return {};
  const Record& record = records[slot];
  const std::uint64_t begin = record.begin.load(std::memory_order_relaxed);
  return {{device_window.load() + begin, record.bytes.load(std::memory_order_relaxed),
           record.number.load(std::memory_order_relaxed), record.accessible.load(std::memory_order_relaxed) != 0},
          offset - begin};
}

bool is_device_view(const void* address) {
  const std::uint64_t size = arena_bytes.load(std::memory_order_acquire);
  return reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(view_window) < size;
}

}  // namespace detail

}  // namespace weft::simt
