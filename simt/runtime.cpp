#include "simt/runtime.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "simt/execution.h"
#include "simt/executor.h"
#include "simt/traffic.h"

namespace weft::simt {

constinit thread_local Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

// --- order of threads ------------------------------------------------------------------------------------------------

struct Order {
  ThreadOrder order = ThreadOrder::forward;
  std::uint64_t seed = 1;
};

Order order_from_environment() {
  const char* text = std::getenv("WEFT_SIMT_ORDER");
  if (!text || !*text || std::strcmp(text, "forward") == 0) return {};
  if (std::strcmp(text, "reverse") == 0) return {ThreadOrder::reverse, 1};
  constexpr const char kSeeded[] = "seeded:";
  if (std::strncmp(text, kSeeded, sizeof kSeeded - 1) == 0) {
    const char* digits = text + sizeof kSeeded - 1;
    char* end = nullptr;
    const std::uint64_t seed = std::strtoull(digits, &end, 10);
    if (*digits >= '0' && *digits <= '9' && *end == '\0') return {ThreadOrder::seeded, seed};
  }
  throw std::invalid_argument(std::string("[simt] WEFT_SIMT_ORDER must be forward, reverse or seeded:N but is \"") +
                              text + "\"");
}

thread_local Order chosen_order;
thread_local bool order_is_chosen = false;

Order& thread_order() {
  if (!order_is_chosen) {
    static const Order from_environment = order_from_environment();
    chosen_order = from_environment;
    order_is_chosen = true;
  }
  return chosen_order;
}

/// Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators": splitmix64.
std::uint64_t next_random(std::uint64_t& state) {
  std::uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

template <class T>
void shuffle_all(T* first, std::size_t count, std::uint64_t& random) {
  for (std::size_t i = count; i > 1; --i) std::swap(first[i - 1], first[next_random(random) % i]);
}

// --- the debugger's thread -------------------------------------------------------------------------------------------

struct BreakPoint {
  bool set = false;
  std::string kernel;
  Dim3 block{0, 0, 0}, thread{0, 0, 0};
};

bool parse_index(const std::string& text, Dim3& index) {
  char rest = '\0';
  index = {0, 0, 0};
  const int fields = std::sscanf(text.c_str(), "%u,%u,%u%c", &index.x, &index.y, &index.z, &rest);
  return fields >= 1 && fields <= 3 && std::count(text.begin(), text.end(), ',') == fields - 1;
}

BreakPoint parse_break_point(const std::string& text) {
  if (text.empty()) return {};
  // From the right: the name of a kernel may hold colons.
  const std::size_t second = text.rfind(':');
  const std::size_t first = second == std::string::npos || second == 0 ? second : text.rfind(':', second - 1);
  BreakPoint at;
  at.set = true;
  if (second == std::string::npos || first == std::string::npos || first == second ||
      !parse_index(text.substr(first + 1, second - first - 1), at.block) ||
      !parse_index(text.substr(second + 1), at.thread))
    throw std::invalid_argument("[simt] a place to stop must be kernel:bx,by,bz:tx,ty,tz but is \"" + text + "\"");
  at.kernel = text.substr(0, first);
  return at;
}

// Of the calling thread; starts as the environment variable says.
BreakPoint& break_point() {
  thread_local BreakPoint at = [] {
    const char* value = std::getenv("WEFT_SIMT_BREAK");
    return parse_break_point(value != nullptr ? value : "");
  }();
  return at;
}

struct GlobalCounters {
  std::atomic<std::uint64_t> launches{0}, blocks{0}, threads{0}, switches{0};
};
GlobalCounters global_counters;

}  // namespace

OrderScope::OrderScope(ThreadOrder order, std::uint64_t seed)
    : before_(thread_order().order), before_seed_(thread_order().seed) {
  thread_order() = {order, seed};
}
OrderScope::~OrderScope() { thread_order() = {before_, before_seed_}; }

Counters counters() {
  Counters total;
  total.launches = global_counters.launches.load(std::memory_order_relaxed);
  total.blocks = global_counters.blocks.load(std::memory_order_relaxed);
  total.threads = global_counters.threads.load(std::memory_order_relaxed);
  total.switches = global_counters.switches.load(std::memory_order_relaxed);
  return total;
}

void break_at(const std::string& place) { break_point() = parse_break_point(place); }

extern "C" __attribute__((noinline, used)) void weft_simt_break() { asm volatile("" ::: "memory"); }

namespace detail {

void Executor::prepare_order(bool shuffle, std::uint64_t& random) {
  std::uint16_t by_turn[kMaxWarps];
  for (unsigned w = 0; w < warp_count; ++w) by_turn[w] = static_cast<std::uint16_t>(w);
  if (shuffle) shuffle_all(by_turn, warp_count, random);
  std::uint16_t at = 0;
  for (unsigned turn = 0; turn < warp_count; ++turn) {
    const unsigned warp = by_turn[turn];
    const unsigned lanes = __builtin_popcount(warps[warp].lanes);
    order_begin[warp] = at;
    for (unsigned lane = 0; lane < lanes; ++lane) order[at++] = static_cast<std::uint16_t>(warp * kWarpLanes + lane);
    order_end[warp] = at;
    if (shuffle) shuffle_all(order + order_begin[warp], lanes, random);
  }
}

void Executor::launch(const LaunchConfig& new_config, void (*new_body)(void*), void* new_context) {
  const Order chosen = thread_order();
  const BreakPoint& stop = break_point();
  const bool stops_here = stop.set && std::strncmp(new_config.kernel, stop.kernel.c_str(), stop.kernel.size()) == 0;
  const Dim3 grid = new_config.grid;
  const std::uint64_t block_count = std::uint64_t{grid.x} * grid.y * grid.z;
  std::uint64_t random = chosen.seed;
  std::vector<std::uint64_t> shuffled;
  if (chosen.order == ThreadOrder::seeded) {
    shuffled.resize(block_count);
    for (std::uint64_t i = 0; i < block_count; ++i) shuffled[i] = i;
    shuffle_all(shuffled.data(), shuffled.size(), random);
  }
  shared.reserve(new_config.shared_limit_bytes);

  config = &new_config;
  body = new_body;
  context = new_context;
  given_up = false;
  fault_count = 0;
  switches = 0;
  break_thread = kMaxThreads;
  gridDim = grid;
  blockDim = new_config.block;
  prepare_threads(new_config.block);
  prepare_order(false, random);
  if (chosen.order == ThreadOrder::reverse) {
    std::reverse(order, order + thread_count);
    for (unsigned w = 0; w < warp_count; ++w) {
      const unsigned begin = thread_count - order_end[w];
      order_end[w] = static_cast<std::uint16_t>(thread_count - order_begin[w]);
      order_begin[w] = static_cast<std::uint16_t>(begin);
    }
  }
  active = &main;
  adopt_current(main);
  if (kFiberPerThread) {
    // Here and not when they are needed: to TSan, what a fiber did comes before what the fibers do that it made.
    for (unsigned i = 0; i < 2 * thread_count; ++i) pool.get(i % 2 * kMaxThreads + i / 2);
  }
  counts_traffic = traffic_on();
  if (counts_traffic) traffic_begin(new_config.kernel, new_config.operands, new_config.operand_count);

  // However the launch ends (there may be no memory for another stack), the OS thread is no longer in a kernel then.
  struct Running {
    explicit Running(Executor* e) : executor(e) { running = e; }
    ~Running() {
      running = nullptr;
      if (executor->counts_traffic) traffic_end(complete && !executor->given_up);
    }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
    Executor* executor;
    bool complete = false;
  };
  std::uint64_t blocks_run = 0;
  {
    Running in_kernel(this);
    for (std::uint64_t i = 0; i < block_count && !given_up; ++i) {
      std::uint64_t number = i;
      if (chosen.order == ThreadOrder::reverse) number = block_count - 1 - i;
      if (chosen.order == ThreadOrder::seeded) {
        number = shuffled[i];
        prepare_order(true, random);
      }
      const Dim3 block{static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                       static_cast<unsigned>(number / grid.x / grid.y)};
      if (stops_here) {
        const Dim3 shape = new_config.block, at = stop.thread;
        const bool inside = block == stop.block && at.x < shape.x && at.y < shape.y && at.z < shape.z;
        break_thread = inside ? (at.z * shape.y + at.y) * shape.x + at.x : kMaxThreads;
      }
      run_block(block);
      ++blocks_run;
      if (counts_traffic && !given_up) traffic_end_block();
    }
    acquire_order(&launch_end);
    in_kernel.complete = true;
  }
  global_counters.launches.fetch_add(1, std::memory_order_relaxed);
  global_counters.blocks.fetch_add(blocks_run, std::memory_order_relaxed);
  global_counters.threads.fetch_add(blocks_run * thread_count, std::memory_order_relaxed);
  global_counters.switches.fetch_add(switches, std::memory_order_relaxed);
  if (fault_count == 0) return;

  std::vector<Fault> found;
  found.reserve(fault_count);
  for (unsigned i = 0; i < fault_count; ++i) {
    const FaultRecord& fault = faults[i];
    found.push_back({fault.kind, new_config.kernel, fault.site.file_name(), fault.site.line(), fault.block,
                     fault.thread, fault.what});
  }
  throw KernelError(std::move(found));
}

}  // namespace detail

// --- entry points ----------------------------------------------------------------------------------------------------

using detail::running;

void run(const LaunchConfig& config, void (*body)(void*), void* context) {
  if (running)
    throw std::logic_error(std::string("[simt] kernel ") + running->config->kernel + " launched another one");
  static thread_local std::unique_ptr<detail::Executor> executor;
  if (!executor) executor = std::make_unique<detail::Executor>();
  executor->launch(config, body, context);
}

bool in_kernel() { return running != nullptr; }

void assertion_failed(const char* condition, const Site& site) {
  detail::raise(FaultKind::assertion, site, "assertion (" + std::string(condition) + ") fails");
}

namespace {

unsigned meet_block(int predicate, const Site& site, const char* name) {
  if (!running) throw std::logic_error(std::string("[simt] ") + name + " outside a kernel at " + detail::place(site));
  return running->meet_block(predicate, site);
}

}  // namespace

void __syncthreads(Site site) { meet_block(0, site, "__syncthreads()"); }
int __syncthreads_count(int predicate, Site site) {
  return static_cast<int>(meet_block(predicate, site, "__syncthreads_count()"));
}
int __syncthreads_and(int predicate, Site site) {
  return meet_block(predicate, site, "__syncthreads_and()") == running->thread_count ? 1 : 0;
}
int __syncthreads_or(int predicate, Site site) { return meet_block(predicate, site, "__syncthreads_or()") > 0 ? 1 : 0; }

}  // namespace weft::simt
