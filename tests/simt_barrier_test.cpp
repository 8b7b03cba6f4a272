// Launches, the order of threads, __syncthreads and what becomes of a launch in which something goes wrong.
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

#include <gtest/gtest.h>

#include "simt/execution.h"
#include "simt/runtime.h"
#include "support/simt_kernel.h"

namespace weft::simt {
namespace {

using namespace test;

constexpr const char* kFile = "simt_barrier_test.cpp";

class SimtFault : public InForwardOrder {};
class SimtBarrier : public InForwardOrder {};

TEST(SimtLaunch, RunsEveryThreadOfEveryBlockOnce) {
  struct Case {
    Dim3 grid, block;
  };
  for (const Case& shape : {Case{{1}, {1}}, Case{{3}, {32}}, Case{{2, 3, 4}, {5, 4, 3}}, Case{{1, 2, 1}, {1, 1, 33}},
                            Case{{2}, {1024}}, Case{{1}, {16, 8, 8}}}) {
    const unsigned threads = shape.block.x * shape.block.y * shape.block.z;
    const unsigned blocks = shape.grid.x * shape.grid.y * shape.grid.z;
    for (const NamedOrder& each : kOrders) {
      const OrderScope scope(each.order, each.seed);
      std::vector<int> hits(std::size_t{threads} * blocks);
      run(config(shape.grid, shape.block), [&] {
        EXPECT_EQ(blockDim, shape.block);
        EXPECT_EQ(gridDim, shape.grid);
        EXPECT_TRUE(in_kernel());
        EXPECT_EQ(detail::current_thread(), linear_thread());
        const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        ++hits[block * threads + linear_thread()];
      });
      EXPECT_EQ(hits, std::vector<int>(hits.size(), 1)) << each.name;
    }
  }
  EXPECT_FALSE(in_kernel());
}

TEST(SimtLaunch, OrdersOfThreadsAndBlocks) {
  const auto visited = [](ThreadOrder order, std::uint64_t seed) {
    const OrderScope scope(order, seed);
    std::vector<unsigned> at(210);
    std::atomic<unsigned> next{0};
    run(config({3}, {70}), [&] { at[next.fetch_add(1)] = blockIdx.x * 70 + threadIdx.x; });
    return at;
  };
  std::vector<unsigned> forward(210), reverse(210);
  for (unsigned i = 0; i < 210; ++i) forward[i] = reverse[209 - i] = i;
  EXPECT_EQ(visited(ThreadOrder::forward, 1), forward);
  EXPECT_EQ(visited(ThreadOrder::reverse, 1), reverse);
  const std::vector<unsigned> seeded = visited(ThreadOrder::seeded, 7);
  EXPECT_EQ(seeded, visited(ThreadOrder::seeded, 7));
  EXPECT_NE(seeded, visited(ThreadOrder::seeded, 8));
  // A warp's lanes stay together, but lanes, warps and blocks are shuffled.
  bool lanes = false, warps = false, blocks = false;
  for (unsigned i = 1; i < 210; ++i) {
    const unsigned before = seeded[i - 1], now = seeded[i];
    if (before / 70 == now / 70 && before % 70 / 32 == now % 70 / 32) lanes = lanes || now < before;
    if (before / 70 == now / 70) warps = warps || now % 70 / 32 < before % 70 / 32;
  }
  for (std::uint64_t seed = 0; seed < 8; ++seed) blocks = blocks || visited(ThreadOrder::seeded, seed).front() >= 70;
  EXPECT_TRUE(lanes && warps && blocks);
}

TEST(SimtLaunch, OrderScopesNest) {
  const auto first = [] {
    std::atomic<unsigned> thread{99};
    run(config({1}, {8}), [&] {
      unsigned nobody = 99;
      thread.compare_exchange_strong(nobody, threadIdx.x);
    });
    return thread.load();
  };
  const OrderScope outer(ThreadOrder::reverse);
  {
    const OrderScope inner(ThreadOrder::forward);
    EXPECT_EQ(first(), 0u);
  }
  EXPECT_EQ(first(), 7u);
}

TEST(SimtLaunch, Counts) {
  const Counters before = counters();
  run(config({2, 3}, {50}), [] {});
  const Counters after = counters();
  EXPECT_EQ(after.launches - before.launches, 1u);
  EXPECT_EQ(after.blocks - before.blocks, 6u);
  EXPECT_EQ(after.threads - before.threads, 300u);
  EXPECT_GT(after.switches, before.switches);
}

TEST(SimtLaunch, DoesNotNest) {
  const auto found = faults_of(config({1}, {1}), [] { run(config({1}, {1}), [] {}); });
  expect_fault(found, {FaultKind::exception, 0}, "launched another");
  expect_usable();
}

TEST(SimtLaunch, ThreadsOfTheHostLaunchAtTheSameTime) {
  std::vector<std::thread> hosts;
  hosts.reserve(4);
  std::array<std::atomic<int>, 4> sums{};
  for (int h = 0; h < 4; ++h)
    hosts.emplace_back([&sums, h] {
      for (int repeat = 0; repeat < 20; ++repeat)
        run(config({2}, {96}), [&] {
          SIMT_TEST_SHARED(int, part, 96);
          part[threadIdx.x] = h;
          __syncthreads();
          if (threadIdx.x == 0)
            for (int i = 0; i < 96; ++i) sums[h] += part[i];
        });
    });
  for (std::thread& host : hosts) host.join();
  for (int h = 0; h < 4; ++h) EXPECT_EQ(sums[h], 20 * 2 * 96 * h);
}

TEST_F(SimtBarrier, TreeReduction) {
  for (const unsigned threads : {1u, 32u, 64u, 256u, 1024u}) {
    std::vector<int> sums(3);
    expect_clean(config({3}, {threads}), [&] {
      SIMT_TEST_SHARED(int, part, 1024);
      const unsigned t = threadIdx.x;
      part[t] = static_cast<int>(t + blockIdx.x);
      __syncthreads();
      for (unsigned step = blockDim.x / 2; step > 0; step /= 2) {
        if (t < step) part[t] += part[t + step];
        __syncthreads();
      }
      if (t == 0) sums[blockIdx.x] = part[0];
    });
    for (unsigned b = 0; b < 3; ++b) EXPECT_EQ(sums[b], static_cast<int>(threads * (threads - 1) / 2 + b * threads));
  }
}

TEST_F(SimtBarrier, CountAndOr) {
  expect_clean(config({2}, {7, 11}), [] {
    const int thread = static_cast<int>(linear_thread());
    for (int round = 0; round < 5; ++round) {
      EXPECT_EQ(__syncthreads_count(thread % 3 == round ? -8 : 0), round > 2 ? 0 : 26 - (round == 2));
      EXPECT_EQ(__syncthreads_and(1), 1);
      EXPECT_EQ(__syncthreads_and(thread != 40), 0);
      EXPECT_EQ(__syncthreads_or(thread == 40), 1);
      EXPECT_EQ(__syncthreads_or(0), 0);
    }
  });
}

TEST_F(SimtBarrier, DivergentOnesAreNamedWithBothLines) {
  for (const NamedOrder& each : kOrders) {
    const OrderScope scope(each.order, each.seed);
    const unsigned line = __LINE__ + 5;
    const auto found = faults_of(config({2, 2}, {4, 16}), [] {
      if (threadIdx.y < 9) {  // NOLINT(bugprone-branch-clone): two barriers, that is the point
        __syncthreads();
      } else {
        __syncthreads();
      }
    });
    SCOPED_TRACE(each.name);
    const Dim3 first_block = each.order == ThreadOrder::forward ? Dim3{0, 0, 0} : Dim3{1, 1, 0};
    expect_fault(found,
                 {FaultKind::divergent_barrier,
                  line,
                  {0, 9, 0},
                  each.order == ThreadOrder::seeded && !found.empty() ? found[0].block : first_block,
                  kFile},
                 "thread 0,0,0 at");
    ASSERT_FALSE(found.empty());
    EXPECT_NE(found[0].what.find(":" + std::to_string(line - 2)), std::string::npos) << found[0].str();
  }
  // On one line as well.
  const auto found = faults_of(config({1}, {2}), [] {
    threadIdx.x ? __syncthreads() : __syncthreads();  // NOLINT(bugprone-branch-clone)
  });
  expect_fault(found, {FaultKind::divergent_barrier, __LINE__ - 2, {1, 0, 0}, {0, 0, 0}, kFile}, "thread 0,0,0");
  expect_usable();
}

TEST_F(SimtBarrier, ExitWhileOthersWait) {
  for (const NamedOrder& each : kOrders) {
    SCOPED_TRACE(each.name);
    const OrderScope scope(each.order, each.seed);
    const unsigned line = __LINE__ + 3;
    const auto found = faults_of(config({1}, {100}), [] {
      if (threadIdx.x % 50 == 7) return;
      __syncthreads();
    });
    expect_fault(found, {FaultKind::exit_at_barrier, line, {0, 0, 0}, {0, 0, 0}, kFile},
                 "2 of 100 threads have left the kernel, thread 7,0,0 first");
  }
  expect_usable();
}

TEST_F(SimtBarrier, OutsideAKernel) {
  EXPECT_THROW(__syncthreads(), std::logic_error);
  EXPECT_THROW(__syncwarp(), std::logic_error);
  EXPECT_THROW(detail::raise(FaultKind::global_bounds, Site::current(), "x"), KernelError);
  EXPECT_THROW(detail::note(FaultKind::shared_race, Site::current(), "x"), KernelError);
}

// --- faults in general -----------------------------------------------------------------------------------------------

TEST_F(SimtFault, Exception) {
  const auto found = faults_of(config({1, 1, 3}, {4, 2}), [] {
    if (blockIdx.z == 1 && threadIdx.x == 3 && threadIdx.y == 1) throw std::runtime_error("no such row");
    __syncthreads();
  });
  expect_fault(found, {FaultKind::exception, 0, {3, 1, 0}, {0, 0, 1}}, "no such row");
  EXPECT_EQ(found.size(), 1u);
  expect_fault(faults_of(config({1}, {1}), [] { throw 7; }), {FaultKind::exception, 0}, "type");
  expect_usable();
}

TEST_F(SimtFault, Assertion) {
  const auto found = faults_of(config({2}, {8}), [] { assert(threadIdx.x + blockIdx.x < 8); });
  expect_fault(found, {FaultKind::assertion, __LINE__ - 1, {7, 0, 0}, {1, 0, 0}, kFile},
               "threadIdx.x + blockIdx.x < 8");
  expect_usable();
}

TEST_F(SimtFault, UnwindsTheOtherThreads) {
  struct Counted {
    explicit Counted(std::atomic<int>& n) : live(n) { ++live; }
    ~Counted() { --live; }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;
    std::atomic<int>& live;
  };
  for (int where = 0; where < 3; ++where) {
    std::atomic<int> live{0}, passed{0};
    const auto found = faults_of(config({4}, {256}), [&] {
      const Counted counted(live);
      const std::vector<int> on_the_heap(100, 1);  // leaks would show under ASan
      if (threadIdx.x == 200) throw std::runtime_error("stop");
      if (where == 0) __syncthreads();
      if (where == 1) __syncwarp();
      if (where == 2) static_cast<void>(__shfl_xor_sync(kAllLanes, 1, 1));
      if (threadIdx.x >= 192) ++passed;
    });
    expect_fault(found, {FaultKind::exception, 0, {200, 0, 0}}, "stop");
    EXPECT_EQ(live, 0);
    EXPECT_EQ(passed, 0);
    expect_usable();
  }
}

TEST_F(SimtFault, KernelsThatCatchEverythingAreUnwoundAllTheSame) {
  std::atomic<int> swallowed{0};
  const auto found = faults_of(config({1}, {64}), [&] {
    if (threadIdx.x == 63) throw std::runtime_error("first");
    try {
      __syncthreads();
    } catch (...) { ++swallowed; }
    try {
      __syncthreads();
    } catch (...) { throw std::runtime_error("second"); }
  });
  expect_fault(found, {FaultKind::exception, 0, {63, 0, 0}}, "first");
  EXPECT_EQ(found.size(), 1u);
  EXPECT_EQ(swallowed, 63);
  expect_usable();
}

TEST_F(SimtFault, BarriersInDestructorsAndHandlers) {
  struct AtEnd {
    ~AtEnd() { __syncthreads(); }
  };
  // Correct code first: exceptions are under way in all threads at once.
  std::vector<int> caught(64);
  expect_clean(config({1}, {64}), [&] {
    const int mine = static_cast<int>(threadIdx.x);
    try {
      try {
        const AtEnd barrier;
        throw mine;
      } catch (int) {
        __syncthreads();
        throw;
      }
    } catch (int value) {
      __syncthreads();
      caught[mine] = value;
    }
  });
  for (int i = 0; i < 64; ++i) EXPECT_EQ(caught[i], i);
  // Threads that are given up pass such a barrier.
  std::atomic<int> ended{0};
  struct CountedAtEnd {
    explicit CountedAtEnd(std::atomic<int>& n) : ended(n) {}
    ~CountedAtEnd() {
      __syncthreads();
      ++ended;
    }
    CountedAtEnd(const CountedAtEnd&) = delete;
    CountedAtEnd& operator=(const CountedAtEnd&) = delete;
    std::atomic<int>& ended;
  };
  const auto found = faults_of(config({1}, {64}), [&] {
    const CountedAtEnd barrier(ended);
    if (threadIdx.x == 5) throw std::runtime_error("stop");
    __syncthreads();
  });
  ASSERT_FALSE(found.empty());
  EXPECT_EQ(ended, 64);
  expect_usable();
}

TEST_F(SimtFault, AFaultInADestructorOnTheWayOut) {
  struct Reader {
    Shared<int> from;
    ~Reader() { static_cast<void>(static_cast<int>(from[99])); }
  };
#if defined(__SANITIZE_ADDRESS__)
  const __lsan::ScopedDisabler leaks_are_meant;  // threads stay where they are, with the exceptions that were under way
#endif
  for (int repeat = 0; repeat < 40; ++repeat) {  // more than the pool has fibers
    const auto found = faults_of(config({1}, {64}), [] {
      SIMT_TEST_SHARED(int, few, 4);
      const Reader reader{few};
      if (threadIdx.x == 62) throw std::runtime_error("stop");
      __syncthreads();
    });
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].kind, FaultKind::shared_bounds);
    EXPECT_EQ(found[0].thread, (Dim3{62, 0, 0}));
    expect_usable();
  }
}

TEST_F(SimtFault, NotesAreCollectedOncePerLine) {
  std::atomic<int> finished{0};
  const auto found = faults_of(config({2}, {4}), [&] {
    for (int i = 0; i < 3; ++i) detail::note(FaultKind::shared_race, Site::current(), "one");
    detail::note(FaultKind::shared_unwritten, Site::current(), "two");
    ++finished;
  });
  EXPECT_EQ(finished, 8);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].what, "one");
  EXPECT_EQ(found[1].what, "two");
  EXPECT_EQ(found[0].thread, (Dim3{0, 0, 0}));
  expect_usable();
}

TEST_F(SimtFault, AtMostSixteenAndTheOneThatEndsTheLaunchIsKept) {
  const auto found = faults_of(config({1}, {1}), [] {
#define NOTE detail::note(FaultKind::shared_race, Site::current(), "note");
    NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE
#undef NOTE
        throw std::runtime_error("last");
  });
  EXPECT_LE(found.size(), KernelError::kMaxFaults);
  EXPECT_NE(found.back().what.find("last"), std::string::npos);
}

TEST_F(SimtFault, LongTextsAreCut) {
  const auto found = faults_of(config({1}, {1}), [] { throw std::runtime_error(std::string(5000, 'x')); });
  ASSERT_EQ(found.size(), 1u);
  EXPECT_GT(found[0].what.size(), 200u);
}

TEST_F(SimtFault, DescribesTheRunningThread) {
  const auto text = [](std::size_t capacity) {
    std::string out(capacity, '?');
    out.resize(detail::describe_running(out.data(), capacity));
    return out;
  };
  EXPECT_EQ(text(100), "no kernel");
  run(config({1, 4}, {20}), [&] {
    if (blockIdx.y != 3 || threadIdx.x != 17) return;
    EXPECT_EQ(text(100), "kernel planted, block 0,3,0, thread 17,0,0");
    EXPECT_EQ(text(10), "kernel pla");
    EXPECT_EQ(text(0), "");
    volatile char here = 0;
    EXPECT_FALSE(detail::is_stack_guard(const_cast<char*>(&here)));
  });
}

__attribute__((noinline)) int dig(int depth) {
  volatile char frame[1000];
  frame[0] = static_cast<char>(depth);
  return depth == 0 ? frame[0] : dig(depth - 1) + frame[0];
}

TEST(SimtFaultDeathTest, StackOverflow) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "TSan's own shadow call stack runs over first";
#endif
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(run(config({1}, {8}),
                   [] {
                     if (threadIdx.x == 3) std::printf("%d", dig(1'000'000));
                   }),
               "kernel planted, block 0,0,0, thread 3,0,0: stack overflow");
  // What is allowed.
  run(config({1}, {8}), [] { EXPECT_NE(dig(40), 1); });
}

// --- memory ----------------------------------------------------------------------------------------------------------

std::size_t resident_pages() {
  std::ifstream statm("/proc/self/statm");
  std::size_t all = 0, resident = 0;
  statm >> all >> resident;
  return resident;
}

std::size_t mappings() {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  std::size_t count = 0;
  while (std::getline(maps, line)) ++count;
  return count;
}

TEST(SimtLaunch, AThousandLaunchesTakeNoMoreMemoryThanTen) {
  const auto launches = [](int count) {
    for (int i = 0; i < count; ++i) {
      const auto found = faults_of(config({2}, {64}), [i] {
        SIMT_TEST_SHARED(float, tile, 64);
        tile[threadIdx.x] = 1;
        __syncthreads();
        if (i % 10 == 0 && threadIdx.x == 3) throw std::runtime_error("now and then");
        __syncwarp();
      });
      EXPECT_EQ(found.empty(), i % 10 != 0);
    }
  };
  launches(100);
  const std::size_t pages = resident_pages(), maps = mappings();
  launches(1000);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which keep freed memory and histories
  EXPECT_LE(resident_pages(), pages + 64);
#else
  static_cast<void>(pages);
#endif
  EXPECT_LE(mappings(), maps + 16);
}

// --- environment -----------------------------------------------------------------------------------------------------

TEST(SimtEnvironmentDeathTest, OrderOfThreads) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto print_first = [](const char* value) {
    setenv("WEFT_SIMT_ORDER", value, 1);
    try {
      run(config({1}, {40}), [] { std::fprintf(stderr, "%u;", threadIdx.x); });
    } catch (const std::invalid_argument& error) { std::fprintf(stderr, "%s", error.what()); }
    std::_Exit(0);
  };
  EXPECT_EXIT(print_first("reverse"), ::testing::ExitedWithCode(0), "^39;38;");
  EXPECT_EXIT(print_first("forward"), ::testing::ExitedWithCode(0), "^0;1;");
  EXPECT_EXIT(print_first("seeded:3"), ::testing::ExitedWithCode(0), "[0-9]+;");
  EXPECT_EXIT(print_first("seeded:"), ::testing::ExitedWithCode(0), "WEFT_SIMT_ORDER must be");
  EXPECT_EXIT(print_first("backward"), ::testing::ExitedWithCode(0), "WEFT_SIMT_ORDER must be .* \"backward\"");
}

TEST(SimtEnvironmentDeathTest, BreakPoint) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto launch = [](const char* value) {
    setenv("WEFT_SIMT_BREAK", value, 1);
    try {
      run(config({2}, {4}), [] {});
      std::fprintf(stderr, "ran");
    } catch (const std::invalid_argument& error) { std::fprintf(stderr, "%s", error.what()); }
    std::_Exit(0);
  };
  EXPECT_EXIT(launch("plan:1,0,0:3,0,0"), ::testing::ExitedWithCode(0), "ran");
  EXPECT_EXIT(launch("a::b:1:3"), ::testing::ExitedWithCode(0), "ran");
  EXPECT_EXIT(launch("planted"), ::testing::ExitedWithCode(0), "must be kernel:bx,by,bz:tx,ty,tz");
  EXPECT_EXIT(launch("planted:1,,0:3"), ::testing::ExitedWithCode(0), "must be");
  EXPECT_EXIT(launch("planted:1:x"), ::testing::ExitedWithCode(0), "must be");
}

}  // namespace
}  // namespace weft::simt
