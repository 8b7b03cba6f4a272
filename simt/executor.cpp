// Runs the threads of a block: who goes on when somebody waits, what a fault does to the launch, and why nobody can go
// on.
#include "simt/executor.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "simt/execution.h"
#include "simt/signals.h"

namespace weft::simt::detail {

constinit thread_local Executor* running = nullptr;

bool same_site(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

std::string coordinates(const Dim3& at) {
  return std::to_string(at.x) + "," + std::to_string(at.y) + "," + std::to_string(at.z);
}

std::string hexadecimal(unsigned value) {
  std::string text = "0x";
  for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[value >> shift & 15];
  return text;
}

std::string place(const Site& site) { return std::string(site.file_name()) + ":" + std::to_string(site.line()); }

// --- faults ----------------------------------------------------------------------------------------------------------

bool Executor::recorded(FaultKind kind, const Site& site) const {
  for (unsigned i = 0; i < fault_count; ++i)
    if (faults[i].kind == kind && same_site(faults[i].site, site)) return true;
  return false;
}

void Executor::record(FaultKind kind, const Site& site, const Dim3& thread, const std::string& what) {
  const HiddenFromTsan hidden;
  if (fault_count == KernelError::kMaxFaults) {
    if (!given_up) return;
    --fault_count;  // what ends a launch is always told
  }
  FaultRecord& fault = faults[fault_count++];
  fault.kind = kind;
  fault.site = site;
  fault.block = blockIdx;
  fault.thread = thread;
  const std::size_t length = what.size() < sizeof fault.what ? what.size() : sizeof fault.what - 1;
  std::memcpy(fault.what, what.data(), length);
  fault.what[length] = '\0';
}

void Executor::give_up(FaultKind kind, const Site& site, const Dim3& thread, const std::string& what) {
  if (given_up) return;
  given_up = true;
  ready_count = 0;
  record(kind, site, thread, what);
}

void Executor::fail(FaultKind kind, const Site& site, const std::string& what) {
  give_up(kind, site, threads[current].index, what);
  if (std::uncaught_exceptions() == 0) throw Unwind{};
  // A destructor failed while an exception is on its way: a second one would end the process. So the fiber stops here,
  // and what its frames own is lost.
  threads[current].state = ThreadState::done;
  ++done;
  abandoned = active;
  switch_to(main);
  __builtin_trap();
}

[[noreturn]] void raise(FaultKind kind, const Site& site, std::string what) {
  if (running) running->fail(kind, site, what);
  throw KernelError({Fault{kind, "(no kernel)", site.file_name(), site.line(), {0, 0, 0}, {0, 0, 0}, std::move(what)}});
}

void note(FaultKind kind, const Site& site, std::string what) {
  if (!running) raise(kind, site, std::move(what));
  Executor& e = *running;
  if (!e.given_up && !e.recorded(kind, site)) e.record(kind, site, e.threads[e.current].index, what);
}

unsigned current_thread() { return running->current; }

std::size_t describe_running(char* out, std::size_t capacity) {
  std::size_t length = 0;
  const auto text = [&](const char* from) {
    while (*from && length < capacity) out[length++] = *from++;
  };
  const auto number = [&](unsigned value) {
    char digits[11];
    unsigned count = 0;
    do digits[count++] = static_cast<char>('0' + value % 10);
    while (value /= 10);
    while (count > 0 && length < capacity) out[length++] = digits[--count];
  };
  const auto index = [&](const Dim3& at) {
    number(at.x);
    text(",");
    number(at.y);
    text(",");
    number(at.z);
  };
  const Executor* e = running;
  if (!e) {
    text("no kernel");
  } else {
    text("kernel ");
    text(e->config->kernel);
    text(", block ");
    index(blockIdx);
    text(", thread ");
    index(e->threads[e->current].index);
  }
  return length;
}

bool is_stack_guard(const void* address) { return running && running->pool.is_guard(address); }

namespace {

const char* name_of(WarpOp op) {
  switch (op) {
    case WarpOp::sync: return "__syncwarp()";
    case WarpOp::shuffle: return "this shuffle";
    case WarpOp::ballot: return "this vote";
    case WarpOp::match: return "__match_any_sync()";
    case WarpOp::reduce: return "this warp reduction";
  }
  return "?";
}

}  // namespace

// Nobody can go on: says why. Threads are looked at by number, so that the report does not depend on their order.
void Executor::diagnose() {
  const HiddenFromTsan hidden;
  // Lanes whose warp never meets come first, since they keep everyone else waiting; among them those that wait for a
  // lane that is gone, since others may wait for these.
  for (const bool gone : {true, false}) {
    for (unsigned w = 0; w < warp_count; ++w) {
      for (unsigned m = 0; m < warps[w].meeting_count; ++m) {
        const Meeting& meeting = warps[w].meetings[m];
        const Thread& waits = threads[w * kWarpLanes + __builtin_ctz(meeting.arrived)];
        for (unsigned missing = meeting.mask & ~meeting.arrived; missing; missing &= missing - 1) {
          const unsigned lane = __builtin_ctz(missing);
          const Thread& absent = threads[w * kWarpLanes + lane];
          if ((absent.state == ThreadState::done) != gone) continue;
          std::string what = "lane " + std::to_string(lane) + " (thread " + coordinates(absent.index) + ")";
          if (gone) {
            what += " has left the kernel";
          } else {
            what += absent.state == ThreadState::at_block_barrier ? " waits in __syncthreads() at "
                                                                  : " waits in a warp operation at ";
            what += place(absent.site);
          }
          what.append(" but is in mask ").append(hexadecimal(meeting.mask)).append(" of ").append(name_of(meeting.op));
          give_up(gone ? FaultKind::exit_at_barrier : FaultKind::warp_mask, waits.site, waits.index, what);
          return;
        }
      }
    }
  }
  unsigned first_waiting = kMaxThreads, first_gone = kMaxThreads;
  for (unsigned i = thread_count; i-- > 0;) (threads[i].state == ThreadState::done ? first_gone : first_waiting) = i;
  const Thread& waits = threads[first_waiting];
  if (done > 0) {
    give_up(FaultKind::exit_at_barrier, waits.site, waits.index,
            std::to_string(done) + " of " + std::to_string(thread_count) + " threads have left the kernel, thread " +
                coordinates(threads[first_gone].index) + " first among them, while others wait in __syncthreads()");
    return;
  }
  for (unsigned i = 0; i < thread_count; ++i) {
    if (same_site(threads[i].site, waits.site)) continue;
    give_up(FaultKind::divergent_barrier, threads[i].site, threads[i].index,
            "threads wait in different __syncthreads(): thread " + coordinates(waits.index) + " at " +
                place(waits.site) + ", this one");
    return;
  }
}

// --- threads ---------------------------------------------------------------------------------------------------------

Executor::Executor() : pool([](void* executor) { static_cast<Executor*>(executor)->run_fiber(); }, this) {
  watch_for_faults();
}

void Executor::switch_to(Fiber& fiber) {
  Fiber& from = *active;
  active = &fiber;
  ++switches;
  switch_fiber(from, fiber);
}

/// A fiber for a thread that has not started.
Fiber& Executor::fiber_for(unsigned thread) {
  if (kFiberPerThread) return pool.get(fiber_half * kMaxThreads + thread);
  if (free_count > 0) return pool.get(free_fibers[--free_count]);
  Fiber& fiber = pool.get(made_fibers);
  fiber.number = static_cast<std::uint16_t>(made_fibers++);
  return fiber;
}

void Executor::release_fiber(const Fiber& fiber) {
  if (!kFiberPerThread) free_fibers[free_count++] = fiber.number;
}

void Executor::switch_to_thread(unsigned thread) {
  Thread& t = threads[thread];
  if (t.state == ThreadState::fresh) t.fiber = &fiber_for(thread);
  current = thread;
  threadIdx = t.index;
  switch_to(*t.fiber);
}

void Executor::wait() {
  const unsigned me = current;
  if (ready_count == 0) {
    switch_to(main);
  } else if (const unsigned next = ready[--ready_count]; next != me) {
    switch_to_thread(next);
  }
  if (given_up) leaving();
}

bool Executor::leaving() const {
  if (!given_up) return false;
  if (std::uncaught_exceptions() == 0) throw Unwind{};
  return true;
}

void Executor::run_thread() {
  const unsigned thread = current;
  acquire_order(&launch_begin);
  bool thrown = true;
  try {
    if (thread == break_thread) weft_simt_break();
    body(context);
    thrown = false;
  } catch (const Unwind&) {
  } catch (const std::exception& error) {
    give_up(FaultKind::exception, Site{}, threads[thread].index, std::string("exception: ") + error.what());
  } catch (...) {
    give_up(FaultKind::exception, Site{}, threads[thread].index, "exception of a type not derived from std::exception");
  }
  if (thrown) clean_stack(*active);
  release_order(&launch_end);
  threads[thread].state = ThreadState::done;
  ++done;
}

/// What every fiber does: run a thread, and then whatever can be run.
void Executor::run_fiber() {
  for (;;) {
    run_thread();
    if (given_up || ready_count == 0) {
      release_fiber(*active);
      switch_to(main);
      continue;  // with a new thread
    }
    const unsigned next = ready[--ready_count];
    if (!kFiberPerThread && threads[next].state == ThreadState::fresh) {
      threads[next].fiber = active;
      current = next;
      threadIdx = threads[next].index;
      continue;
    }
    release_fiber(*active);
    switch_to_thread(next);
  }
}

/// Resumes every thread that has started and is not done; each throws Unwind where it waits.
void Executor::unwind() {
  for (unsigned i = 0; i < thread_count; ++i) {
    Thread& t = threads[i];
    if (t.state == ThreadState::fresh || t.state == ThreadState::done) continue;
    current = i;
    threadIdx = t.index;
    switch_to(*t.fiber);
    reclaim_abandoned();
  }
}

void Executor::reclaim_abandoned() {
  if (!abandoned) return;
  pool.restart(*abandoned);
  release_fiber(*abandoned);
  abandoned = nullptr;
}

// --- the block -------------------------------------------------------------------------------------------------------

unsigned Executor::meet_block(int predicate, const Site& site) {
  if (leaving()) return 0;
  Thread& me = threads[current];
  void* const order_object = shared.order_object_of_block(barrier_turn);
  release_order(order_object);
  me.state = ThreadState::at_block_barrier;
  me.site = site;
  if (waiting_at_barrier == 0) {
    barrier_site = site;
    barrier_sites_differ = false;
    predicates = 0;
  } else if (!same_site(site, barrier_site)) {
    barrier_sites_differ = true;
  }
  predicates += predicate != 0;
  if (++waiting_at_barrier == thread_count && !barrier_sites_differ) {
    waiting_at_barrier = 0;
    predicates_of_last = predicates;
    barrier_turn ^= 1;
    if (counts_traffic) {
      for (unsigned w = 0; w < warp_count; ++w) traffic_meet(w);
    }
    last_barrier = ++time;
    for (unsigned i = thread_count; i-- > 0;) {
      threads[order[i]].clock = time;
      make_ready(order[i]);
    }
  }
  wait();
  acquire_order(order_object);
  return predicates_of_last;
}

/// Fills in what stays the same from block to block.
void Executor::prepare_threads(const Dim3& shape) {
  thread_count = shape.x * shape.y * shape.z;
  warp_count = (thread_count + kWarpLanes - 1) / kWarpLanes;
  if (shape == index_shape) return;
  index_shape = shape;
  unsigned thread = 0;
  for (unsigned z = 0; z < shape.z; ++z)
    for (unsigned y = 0; y < shape.y; ++y)
      for (unsigned x = 0; x < shape.x; ++x) threads[thread++].index = {x, y, z};
  for (unsigned w = 0; w < warp_count; ++w) {
    const unsigned lanes = std::min(thread_count - w * kWarpLanes, kWarpLanes);
    warps[w].lanes = lanes == kWarpLanes ? ~0u : (1u << lanes) - 1;
  }
}

void Executor::run_block(const Dim3& block) {
  blockIdx = block;
  shared.begin_block();
  block_start = last_barrier = ++time;
  done = 0;
  ready_count = 0;
  waiting_at_barrier = 0;
  fiber_half ^= kFiberPerThread ? 1 : 0;
  for (unsigned w = 0; w < warp_count; ++w) warps[w].meeting_count = 0;
  for (unsigned i = thread_count; i-- > 0;) {
    const unsigned thread = order[i];
    threads[thread].clock = time;
    threads[thread].state = ThreadState::fresh;
    ready[ready_count++] = static_cast<std::uint16_t>(thread);
  }
  release_order(&launch_begin);  // once more in each block: shared memory is new
  while (done < thread_count) {
    if (!given_up && ready_count == 0) diagnose();
    if (given_up) {
      unwind();
      return;
    }
    switch_to_thread(ready[--ready_count]);
    reclaim_abandoned();
  }
  if (!given_up) check_fences(*this);
}

}  // namespace weft::simt::detail
