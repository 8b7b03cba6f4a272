#pragma once
// The emulator's core, shared by runtime.cpp (scheduling, block barriers, faults), warp.cpp and shared.cpp: everything
// that belongs to the launch that an OS thread is running. Plain arrays throughout, see fiber.h.
#include <cstddef>
#include <cstdint>
#include <string>

#include "simt/fault.h"
#include "simt/fiber.h"
#include "simt/runtime.h"
#include "simt/sanitizers.h"
#include "simt/site.h"

namespace weft::simt {

namespace detail {

inline constexpr unsigned kWarpLanes = 32;
inline constexpr unsigned kMaxThreads = 1024;
inline constexpr unsigned kMaxWarps = kMaxThreads / kWarpLanes;

/// Thrown in fibers to unwind them when a launch is given up; never leaves the emulator.
struct Unwind {};

bool same_site(const Site& a, const Site& b);
/// "kernels/layer_norm.cu:41"
std::string place(const Site& site);
/// "7,0,0"
std::string coordinates(const Dim3& at);
/// "0x0000ffff"
std::string hexadecimal(unsigned value);

// --- threads and warps -----------------------------------------------------------------------------------------------

enum class ThreadState : std::uint8_t { fresh, ready, at_block_barrier, at_warp, done };

struct Thread {
  Dim3 index;  // threadIdx
  ThreadState state = ThreadState::fresh;
  Fiber* fiber = nullptr;   // once started
  Site site;                // where it waits, or waited last
  std::uint64_t clock = 0;  // time stamp of its accesses, see Executor::time

  // What it brings to a meeting of its warp, and what it takes away.
  std::uint64_t value = 0;
  unsigned source_lane = 0;
  std::uint64_t result = 0;
};

enum class WarpOp : std::uint8_t { sync, shuffle, ballot, match, reduce };

/// Lanes of one mask on their way to the same place.
struct Meeting {
  unsigned mask = 0;     // as given, without lanes that the block does not have
  unsigned arrived = 0;  // lanes
  WarpOp op = WarpOp::sync;
  Site site;                     // of the first to come
  void* order_object = nullptr;  // where TSan finds the order that __syncwarp makes
};

struct Warp {
  unsigned lanes = 0;  // those that the block has
  unsigned meeting_count = 0;
  Meeting meetings[kWarpLanes];  // of different masks
  // Which accesses of the warp's lanes come before what a lane does now: all up to before_all (exclusive), and those of
  // lane j up to before[lane][j] (inclusive).
  std::uint64_t before_all = 0;
  std::uint64_t before[kWarpLanes][kWarpLanes] = {};

  // For TSan: masks that have met, each with two objects in turn. A mask too many reuses the objects of another, which
  // may hide a race but never invents one.
  static constexpr unsigned kMasks = 8;
  unsigned masks[kMasks] = {};
  unsigned mask_turn[kMasks] = {};
  unsigned mask_count = 0;
};

// --- shared memory ---------------------------------------------------------------------------------------------------

/// Accesses by lanes of one warp at one of its time stamps.
struct Touches {
  std::uint64_t when = 0;  // stamp << 5 | warp
  std::uint32_t lanes = 0;
  std::uint32_t last_lane = 0;
  Site site;  // of the last one

  std::uint64_t stamp() const { return when >> 5; }
  unsigned warp() const { return static_cast<unsigned>(when & 31); }
};

/// What is known of an element. All zero: nothing. Stamps grow from block to block and from launch to launch, so that
/// cells need no clearing: what is older than the block says nothing.
struct Cell {
  std::uint64_t written_when = 0;  // stamp << 10 | thread, of the last plain write
  Site written_site;
  // The latest reads. A reader replaces a group that comes before it, and of groups that are ordered in no way two of
  // different warps are kept, one of which is in conflict with any write. So two are enough, but for three groups of
  // one warp that only overlapping masks of __syncwarp can make: there a race may go unseen (1 in 800 000 random
  // kernels of tests/simt_race_test.cpp, which is about such masks; none with four groups, at twice the time per
  // access).
  Touches reads[2];
};
/// The atomic accesses of an element, apart because most arrays have none.
struct AtomicCell {
  Touches touches[2];
};

struct Shared {
  static constexpr unsigned kMaxArrays = 64;
  static constexpr std::size_t kFenceBytes = 64;
  static constexpr std::size_t kAlignment = 16;

  SharedArray* arrays = nullptr;  // [kMaxArrays]
  unsigned array_count = 0;
  char* memory = nullptr;
  std::size_t memory_bytes = 0;
  std::size_t used_bytes = 0;  // fences included
  std::size_t cells_used = 0;
  std::size_t static_bytes = 0;  // as CUDA would count them
  SharedArray* dynamic_part = nullptr;
  Cell* cells = nullptr;               // [cell_capacity]
  AtomicCell* atomic_cells = nullptr;  // [cell_capacity]
  std::size_t cell_capacity = 0;

  // Under TSan the memory is mapped anew for each block, so that TSan forgets who used it; in front of it lie the
  // objects by which barriers order threads, which must not carry the order of one block into the next. Two for each
  // purpose, in turn: with one, who has not yet left a barrier would see the releases of those who reach the next.
  static constexpr std::size_t kOrderObjects = kFiberPerThread ? 2 + 2 * Warp::kMasks * kMaxWarps : 0;
  static constexpr std::size_t kOrderBytes = 8 * kOrderObjects;
  void* order_object_of_block(unsigned turn) const { return kFiberPerThread ? memory + 8 * turn : nullptr; }
  void* order_object_of_warp(unsigned warp, unsigned slot, unsigned turn) const {
    return kFiberPerThread ? memory + 8 * (2 + 2 * (Warp::kMasks * warp + slot) + turn) : nullptr;
  }

  Shared();
  ~Shared();
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  /// Before a launch that may use limit_bytes.
  void reserve(std::size_t limit_bytes);
  void begin_block();
};

// --- the launch ------------------------------------------------------------------------------------------------------

/// A fault as fibers write it down: no containers.
struct FaultRecord {
  FaultKind kind = FaultKind::assertion;
  Site site;
  Dim3 block;
  Dim3 thread;
  char what[480] = {};
};

struct Executor {
  Executor();

  void launch(const LaunchConfig& config, void (*body)(void*), void* context);

  // Of the running thread, on its fiber.
  unsigned warp_of_current() const { return current / kWarpLanes; }
  unsigned lane_of_current() const { return current % kWarpLanes; }
  /// Meets all threads of the block; how many had a predicate that is not 0.
  unsigned meet_block(int predicate, const Site& site);
  /// Lets others run until somebody has called make_ready() for the running thread.
  void wait();
  /// For code that is about to wait: gives up the thread if the launch has been given up. True: do not wait, a
  /// destructor is being run on the way out.
  bool leaving() const;
  void make_ready(unsigned thread) {
    threads[thread].state = ThreadState::ready;
    ready[ready_count++] = static_cast<std::uint16_t>(thread);
  }
  [[noreturn]] void fail(FaultKind kind, const Site& site, const std::string& what);
  /// Records the fault that ends the launch, unless there is one already.
  void give_up(FaultKind kind, const Site& site, const Dim3& thread, const std::string& what);
  void record(FaultKind kind, const Site& site, const Dim3& thread, const std::string& what);
  bool recorded(FaultKind kind, const Site& site) const;

  // The launch.
  const LaunchConfig* config = nullptr;
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  bool counts_traffic = false;
  bool given_up = false;  // after a fault that cannot be passed over
  FaultRecord faults[KernelError::kMaxFaults];
  unsigned fault_count = 0;
  std::uint64_t switches = 0;

  // The block.
  unsigned thread_count = 0;
  unsigned warp_count = 0;
  unsigned current = 0;  // the running thread
  unsigned done = 0;
  unsigned break_thread = kMaxThreads;  // the thread that the debugger asked for
  // Threads that can go on; the last goes first. So a warp runs on until all its lanes wait or are done.
  std::uint16_t ready[kMaxThreads];
  unsigned ready_count = 0;
  unsigned waiting_at_barrier = 0;
  bool barrier_sites_differ = false;
  Site barrier_site;  // of the first to come
  unsigned predicates = 0, predicates_of_last = 0;
  unsigned barrier_turn = 0;
  // One clock for everything: it goes forward at each barrier and each meeting for __syncwarp, and never back.
  std::uint64_t time = 0;
  std::uint64_t block_start = 0;   // accesses before this stamp are another block's
  std::uint64_t last_barrier = 0;  // accesses before this stamp come before everything that is done now

  // Order in which threads run: warp by warp, from warp_begin[w] to warp_begin[w + 1].
  std::uint16_t order[kMaxThreads];
  std::uint16_t order_begin[kMaxWarps];  // by number of the warp
  std::uint16_t order_end[kMaxWarps];

  Thread threads[kMaxThreads];
  Warp warps[kMaxWarps];
  Dim3 index_shape{0, 0, 0};  // of the block that Thread::index is filled for
  Shared shared;

  // Fibers.
  FiberPool pool;
  Fiber main;
  Fiber* active = &main;
  std::uint16_t free_fibers[kMaxThreads];
  unsigned free_count = 0;
  unsigned made_fibers = 0;
  Fiber* abandoned = nullptr;  // left for good in the middle of its thread
  unsigned fiber_half = 0;     // under TSan neighbouring blocks use different fibers, so that races between blocks show
  char launch_begin = 0, launch_end = 0;  // what TSan orders by

  void run_thread();
  [[noreturn]] void run_fiber();
  void run_block(const Dim3& block);
  void prepare_threads(const Dim3& shape);
  void prepare_order(bool shuffle, std::uint64_t& random);
  void switch_to(Fiber& fiber);
  void release_fiber(const Fiber& fiber);
  void switch_to_thread(unsigned thread);
  Fiber& fiber_for(unsigned thread);
  void diagnose();
  void unwind();
  void reclaim_abandoned();
};

/// The launch of this OS thread; null when it runs none.
extern constinit thread_local Executor* running;

/// Notes the red zones of shared memory that were written in this block.
void check_fences(Executor& e);

}  // namespace detail

struct SharedArray {
  const void* declaration = nullptr;
  const char* name = "";
  Site site;
  char* data = nullptr;
  detail::Cell* cells = nullptr;
  detail::AtomicCell* atomic_cells = nullptr;
  std::int64_t count = 0;
  std::size_t element_bytes = 0;
  std::size_t cells_per_element = 1;
  std::size_t offset_bytes = 0;  // in shared memory as CUDA would lay it out, without fences
  bool has_atomics = false;      // some access of this block was atomic
  bool is_dynamic = false;

  std::size_t bytes() const { return static_cast<std::size_t>(count) * element_bytes; }
};

}  // namespace weft::simt
