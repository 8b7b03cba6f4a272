// Shared memory: one arena per OS thread, laid out anew for every block in the order in which its threads reach the
// declarations, and a cell beside each element that knows who wrote and who read it.
//
// Two accesses of one element by different threads, at least one of them a plain write or one plain and one atomic, are
// a race unless something puts one before the other: a __syncthreads() between them or, within a warp, a __syncwarp()
// (Warp::before). Every access carries its thread's time stamp, which moves on at each of these, so that "before" is a
// comparison of numbers; this is Flanagan and Freund's FastTrack (PLDI 2009) with barriers in place of locks. Whether
// two accesses race does not depend on the order in which the threads happen to run.
#include <cstdint>
#include <new>
#include <string>

#include <sys/mman.h>

#include "simt/execution.h"
#include "simt/executor.h"
#include "simt/runtime.h"
#include "simt/traffic.h"

namespace weft::simt {
namespace detail {
namespace {

constexpr std::uint32_t kSignallingNan = 0x7fa00000;
constexpr unsigned char kFence = 0xd6;

std::size_t round_up(std::size_t value, std::size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

void* map(std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}

void unmap(void* memory, std::size_t bytes) {
  if (memory) munmap(memory, bytes);
}

/// "element 5 of shared 'tile'"
std::string name(const SharedArray& array, std::int64_t index) {
  return "element " + std::to_string(index) + " of shared '" + array.name + "'";
}

// Volatile, lest the compiler make a call of memset of it, which TSan would see.
void fill_fence(char* from, char* to) {
  for (volatile char* p = from; p != to; ++p) *p = static_cast<char>(kFence);
}

const char* fence_damage(const char* from, const char* to) {
  for (; from != to; ++from)
    if (static_cast<unsigned char>(*from) != kFence) return from;
  return nullptr;
}

/// Where the fence behind an array ends, and with it what the array uses.
char* fence_end(const Shared& shared, const SharedArray& array) {
  const std::size_t end = static_cast<std::size_t>(array.data - shared.memory) + array.bytes();
  return shared.memory + round_up(end + Shared::kFenceBytes, Shared::kAlignment);
}

// --- races -----------------------------------------------------------------------------------------------------------

/// Whether everything that `lane` of `warp` did at `stamp` comes before what the running thread does now.
bool comes_before(const Executor& e, unsigned warp, unsigned lane, std::uint64_t stamp) {
  if (stamp < e.last_barrier) return true;
  if (warp != e.warp_of_current()) return false;
  const Warp& mine = e.warps[warp];
  const unsigned my_lane = e.lane_of_current();
  return lane == my_lane || stamp < mine.before_all || stamp <= mine.before[my_lane][lane];
}

/// Those lanes of the touches that are not ordered with the running thread.
std::uint32_t unordered_lanes(const Executor& e, const Touches& touches) {
  if (touches.stamp() < e.last_barrier) return 0;
  if (touches.warp() != e.warp_of_current()) return touches.lanes;
  std::uint32_t unordered = 0;
  for (std::uint32_t rest = touches.lanes; rest; rest &= rest - 1) {
    const unsigned lane = __builtin_ctz(rest);
    if (!comes_before(e, touches.warp(), lane, touches.stamp())) unordered |= 1u << lane;
  }
  return unordered;
}

[[gnu::noinline]] void add_group(const Executor& e, Touches (&touches)[2], const Touches& mine) {
  for (Touches& group : touches) {
    if (unordered_lanes(e, group) == 0) {  // whoever conflicts with it and not with this thread comes after it
      group = mine;
      return;
    }
  }
  // Of two different warps these are as good as any. Else the older one makes room, see Cell.
  if (touches[0].warp() != touches[1].warp()) return;
  touches[touches[0].stamp() < touches[1].stamp() ? 0 : 1] = mine;
}

void add(const Executor& e, Touches (&touches)[2], std::uint64_t stamp, const Site& site) {
  const std::uint64_t when = stamp << 5 | e.warp_of_current();
  const unsigned lane = e.lane_of_current();
  for (Touches& group : touches) {
    if (group.when == when) {
      group.lanes |= 1u << lane;
      group.last_lane = lane;
      group.site = site;
      return;
    }
  }
  // Most often: many warps read one element between two barriers, and these are two others of them.
  const std::uint64_t barrier = e.last_barrier << 5;
  const unsigned first = touches[0].warp(), second = touches[1].warp(), mine = e.warp_of_current();
  if (touches[0].when >= barrier && touches[1].when >= barrier && first != second && first != mine && second != mine)
    return;
  add_group(e, touches, {when, 1u << lane, lane, site});
}

const char* verb(Access access) {
  switch (access) {
    case Access::read: return "read";
    case Access::write: return "written";
    case Access::atomic: return "changed by an atomic";
  }
  return "?";
}

[[gnu::cold, gnu::noinline]] void report_race(Executor& e, const SharedArray& array, std::int64_t index, Access access,
                                              const Site& site, Access other, unsigned other_thread,
                                              const Site& other_site) {
  if (e.given_up || e.recorded(FaultKind::shared_race, site)) return;
  note(FaultKind::shared_race, site,
       name(array, index) + " is " + verb(other) + " by thread " + coordinates(e.threads[other_thread].index) + " at " +
           place(other_site) + " and, with no barrier between, " + verb(access));
}

void check_touches(Executor& e, const SharedArray& array, std::int64_t index, Access access, const Site& site,
                   const Touches (&touches)[2], Access other) {
  for (const Touches& group : touches) {
    if (group.stamp() < e.last_barrier) continue;
    const std::uint32_t lanes = unordered_lanes(e, group);
    if (lanes == 0) continue;
    const unsigned lane = lanes >> group.last_lane & 1u ? group.last_lane : __builtin_ctz(lanes);
    report_race(e, array, index, access, site, other, group.warp() * kWarpLanes + lane, group.site);
    return;
  }
}

[[gnu::cold, gnu::noinline]] void report_unwritten(Executor& e, const SharedArray& array, std::int64_t index,
                                                   const Site& site) {
  if (e.given_up || e.recorded(FaultKind::shared_unwritten, site)) return;
  note(FaultKind::shared_unwritten, site, "read of " + name(array, index) + " that nothing wrote");
}

[[gnu::cold, gnu::noinline]] void fail_bounds(Executor& e, const SharedArray& array, std::int64_t index, int count,
                                              const Site& site) {
  std::string what = name(array, index);
  if (count != 1)
    what = "elements " + std::to_string(index) + " to " + std::to_string(index + count - 1) + " of shared '" +
           array.name + "'";
  e.fail(FaultKind::shared_bounds, site, what + " outside its " + std::to_string(array.count) + " elements");
}

[[gnu::cold, gnu::noinline]] void fail_alignment(Executor& e, const SharedArray& array, std::int64_t index, int count,
                                                 const Site& site) {
  e.fail(FaultKind::shared_misaligned, site,
         "misaligned access of " + std::to_string(count * array.element_bytes) + " bytes at byte " +
             std::to_string(index * static_cast<std::int64_t>(array.element_bytes)) + " of shared '" + array.name +
             "'");
}

/// Whether a vector access of these bytes lies as hardware wants it. Other sizes are accesses to several elements in a
/// row.
bool is_aligned(std::size_t offset, std::size_t bytes) {
  return bytes > 16 || (bytes & (bytes - 1)) != 0 || (offset & (bytes - 1)) == 0;
}

[[gnu::cold, gnu::noinline]] void expect_atomics(Executor& e, SharedArray& array) {
  array.has_atomics = true;
  for (unsigned i = 0; array.is_dynamic && i < e.shared.array_count; ++i)
    if (e.shared.arrays[i].is_dynamic) e.shared.arrays[i].has_atomics = true;
}

/// Has its own cells apart, since most arrays know no atomics.
[[gnu::noinline]] void check_atomics(Executor& e, const SharedArray& array, std::int64_t index, std::size_t cell,
                                     Access access, std::uint64_t stamp, const Site& site) {
  AtomicCell& atomics = array.atomic_cells[cell];
  if (access == Access::atomic) {
    add(e, atomics.touches, stamp, site);
  } else {
    check_touches(e, array, index, access, site, atomics.touches, Access::atomic);
  }
}

void check_cell(Executor& e, const SharedArray& array, std::int64_t index, std::size_t number, Access access,
                const Site& site) {
  Cell& cell = array.cells[number];
  const std::uint64_t stamp = e.threads[e.current].clock;
  const std::uint64_t written = cell.written_when >> 10;
  const unsigned writer = cell.written_when & (kMaxThreads - 1);
  if (written >= e.last_barrier && writer != e.current &&
      !comes_before(e, writer / kWarpLanes, writer % kWarpLanes, written))
    report_race(e, array, index, access, site, Access::write, writer, cell.written_site);
  if (array.has_atomics) check_atomics(e, array, index, number, access, stamp, site);
  if (access != Access::write && written < e.block_start) report_unwritten(e, array, index, site);
  if (access == Access::read) {
    add(e, cell.reads, stamp, site);
    return;
  }
  check_touches(e, array, index, access, site, cell.reads, Access::read);
  if (access == Access::write) {
    cell.written_when = stamp << 10 | e.current;
    cell.written_site = site;
  }
}

}  // namespace

// --- the arena -------------------------------------------------------------------------------------------------------

Shared::Shared() : arrays(new SharedArray[kMaxArrays]) {}

Shared::~Shared() {
  unmap(memory, memory_bytes);
  unmap(cells, cell_capacity * sizeof(Cell));
  unmap(atomic_cells, cell_capacity * sizeof(AtomicCell));
  delete[] arrays;
}

void Shared::reserve(std::size_t limit_bytes) {
  // The smallest element has one byte. Pages that nobody touches cost nothing.
  const std::size_t new_capacity = round_up(limit_bytes, 4096);
  if (new_capacity <= cell_capacity) return;
  const std::size_t new_bytes =
      round_up(kOrderBytes + new_capacity + (kMaxArrays + 2) * (kFenceBytes + 2 * kAlignment), 4096);
  unmap(memory, memory_bytes);
  unmap(cells, cell_capacity * sizeof(Cell));
  unmap(atomic_cells, cell_capacity * sizeof(AtomicCell));
  memory = nullptr;
  cells = nullptr;
  atomic_cells = nullptr;
  cell_capacity = memory_bytes = 0;
  memory = static_cast<char*>(map(new_bytes));
  memory_bytes = new_bytes;
  cells = static_cast<Cell*>(map(new_capacity * sizeof(Cell)));
  atomic_cells = static_cast<AtomicCell*>(map(new_capacity * sizeof(AtomicCell)));
  cell_capacity = new_capacity;
}

void Shared::begin_block() {
  if (kFiberPerThread) {
    char* fresh = static_cast<char*>(map(memory_bytes));
    unmap(memory, memory_bytes);
    memory = fresh;
  }
  array_count = 0;
  used_bytes = round_up(kOrderBytes, kAlignment);
  fill_fence(memory + used_bytes, memory + used_bytes + kFenceBytes);
  used_bytes += kFenceBytes;
  cells_used = 0;
  static_bytes = 0;
  dynamic_part = nullptr;
}

void check_fences(Executor& e) {
  const Shared& shared = e.shared;
  for (unsigned i = 0; i < shared.array_count; ++i) {
    const SharedArray& array = shared.arrays[i];
    if (array.is_dynamic && shared.dynamic_part != &array) continue;
    const auto report = [&](std::int64_t distance, const char* where) {
      if (!e.recorded(FaultKind::shared_red_zone, array.site))
        e.record(FaultKind::shared_red_zone, array.site, {0, 0, 0},
                 "something wrote " + std::to_string(distance) + " bytes " + where + " of shared '" + array.name + "'");
    };
    char* const end = array.data + array.bytes();
    if (const char* hit = fence_damage(end, fence_end(shared, array))) report(hit - end, "behind the end");
    if (i == 0)
      if (const char* hit = fence_damage(array.data - Shared::kFenceBytes, array.data))
        report(array.data - hit, "before the start");
  }
}

SharedArray* shared_array(const void* declaration, const char* name, std::size_t element_bytes, std::int64_t count,
                          const Site& site) {
  if (!running) raise(FaultKind::shared_bounds, site, std::string("shared '") + name + "' outside a kernel");
  Executor& e = *running;
  Shared& shared = e.shared;
  const bool is_dynamic = count < 0;
  for (unsigned i = 0; i < shared.array_count; ++i) {
    SharedArray& array = shared.arrays[i];
    if (array.declaration != declaration) continue;
    if (array.element_bytes != element_bytes || array.is_dynamic != is_dynamic || (!is_dynamic && array.count != count))
      e.fail(FaultKind::shared_redeclared, site,
             std::string("shared '") + name + "' has " + std::to_string(is_dynamic ? array.count : count) +
                 " elements of " + std::to_string(element_bytes) + " bytes here but " + std::to_string(array.count) +
                 " of " + std::to_string(array.element_bytes) + " for another thread of the block");
    return &array;
  }

  const HiddenFromTsan hidden;
  const std::size_t dynamic_bytes = e.config->dynamic_shared_bytes;
  if (is_dynamic) count = static_cast<std::int64_t>(dynamic_bytes / element_bytes);
  const std::size_t bytes = static_cast<std::size_t>(count) * element_bytes;
  const std::size_t static_bytes = shared.static_bytes + (is_dynamic ? 0 : round_up(bytes, Shared::kAlignment));
  if (static_bytes + dynamic_bytes > e.config->shared_limit_bytes)
    e.fail(FaultKind::shared_limit, site,
           std::string("with shared '") + name + "' the block uses " + std::to_string(static_bytes + dynamic_bytes) +
               " bytes of shared memory (" + std::to_string(dynamic_bytes) +
               " of them dynamic), but the launch allows " + std::to_string(e.config->shared_limit_bytes));
  if (shared.array_count == Shared::kMaxArrays)
    e.fail(FaultKind::shared_limit, site,
           std::string("shared '") + name + "' is one declaration too many for the emulator, which takes " +
               std::to_string(Shared::kMaxArrays) + " in a kernel");
  SharedArray& array = shared.arrays[shared.array_count];
  array = {};
  array.declaration = declaration;
  array.name = name;
  array.site = site;
  array.count = count;
  array.element_bytes = element_bytes;
  array.is_dynamic = is_dynamic;
  if (is_dynamic && shared.dynamic_part) {
    // Another name for the same bytes. The cells are as fine as its first declaration's elements.
    const SharedArray& first = *shared.dynamic_part;
    if (element_bytes % first.element_bytes != 0)
      e.fail(FaultKind::shared_redeclared, site,
             std::string("dynamic shared memory, '") + first.name + "' with elements of " +
                 std::to_string(first.element_bytes) + " bytes, is declared again as '" + name + "' with elements of " +
                 std::to_string(element_bytes) + "; declare the smallest elements first");
    array.data = first.data;
    array.cells = first.cells;
    array.atomic_cells = first.atomic_cells;
    array.cells_per_element = element_bytes / first.element_bytes;
    array.offset_bytes = first.offset_bytes;
    array.has_atomics = first.has_atomics;
    ++shared.array_count;
    return &array;
  }
  array.data = shared.memory + shared.used_bytes;
  array.cells = shared.cells + shared.cells_used;
  array.atomic_cells = shared.atomic_cells + shared.cells_used;
  array.offset_bytes = shared.static_bytes;
  if (is_dynamic) shared.dynamic_part = &array;
  shared.static_bytes = static_bytes;
  shared.cells_used += static_cast<std::size_t>(count);
  auto* words = reinterpret_cast<volatile std::uint32_t*>(array.data);
  for (std::size_t i = 0; i < (bytes + 3) / 4; ++i) words[i] = kSignallingNan;
  char* const end = fence_end(shared, array);
  fill_fence(array.data + bytes, end);
  shared.used_bytes = static_cast<std::size_t>(end - shared.memory);
  ++shared.array_count;
  return &array;
}

void* shared_access(SharedArray* array, std::int64_t index, int count, Access access, const Site& site) {
  if (!running) raise(FaultKind::shared_bounds, site, std::string("shared '") + array->name + "' outside a kernel");
  Executor& e = *running;
  if (index < 0 || count < 1 || index > array->count - count) [[unlikely]]
    fail_bounds(e, *array, index, count, site);
  const std::size_t offset = static_cast<std::size_t>(index) * array->element_bytes;
  const std::size_t bytes = static_cast<std::size_t>(count) * array->element_bytes;
  if (count > 1 && !is_aligned(offset, bytes)) [[unlikely]]
    fail_alignment(e, *array, index, count, site);
  if (access == Access::atomic && !array->has_atomics) [[unlikely]]
    expect_atomics(e, *array);
  if (array->cells_per_element == 1) [[likely]] {
    for (std::int64_t i = index; i < index + count; ++i)
      check_cell(e, *array, i, static_cast<std::size_t>(i), access, site);
  } else {
    const std::size_t each = array->cells_per_element, first = static_cast<std::size_t>(index) * each;
    for (std::size_t i = first; i < first + static_cast<std::size_t>(count) * each; ++i)
      check_cell(e, *array, static_cast<std::int64_t>(i / each), i, access, site);
  }
  if (e.counts_traffic)
    traffic_shared(e.current, static_cast<std::uint32_t>(array->offset_bytes + offset), static_cast<unsigned>(bytes),
                   access, site);
  return array->data + offset;
}

std::int64_t shared_count(const SharedArray* array) { return array->count; }

}  // namespace detail
}  // namespace weft::simt
