// The race detector of shared memory against an oracle: random kernels of plain and atomic accesses, __syncthreads and
// __syncwarp of random masks. The oracle keeps a full vector clock per thread and compares every pair of accesses.
#include <algorithm>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "simt/runtime.h"
#include "support/simt_kernel.h"

namespace weft::simt {
namespace {

using namespace test;

constexpr int kThreads = 36;  // a full warp and a partial one
constexpr int kElements = 3;

struct Step {
  enum Kind { access, sync_warp, sync_block } kind = access;
  int thread = 0;  // of an access
  int element = 0;
  Access how = Access::read;
  int warp = 0;  // of a sync_warp
  unsigned mask = 0;
};

/// splitmix64: the same kernels everywhere.
struct Random {
  std::uint64_t state;
  int below(int n) {
    std::uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return static_cast<int>((z ^ z >> 31) % static_cast<std::uint64_t>(n));
  }
};

/// A sequence in which every thread takes part where it is named; since it is one sequence, no thread waits for ever.
std::vector<Step> random_kernel(Random& random) {
  // Few of the threads are busy, lest everything race.
  constexpr int kBusy[] = {0, 1, 2, 3, 17, 32, 33};
  const int busy = 2 + random.below(6), writes = 1 + random.below(8), length = 3 + random.below(24);
  std::vector<Step> steps;
  for (int i = 0; i < length; ++i) {
    Step step;
    const int what = random.below(20);
    if (what < 9) {
      step.thread = kBusy[random.below(busy)];
      step.element = random.below(kElements);
      const int how = random.below(16);
      step.how = how < writes ? Access::write : how == 15 ? Access::atomic : Access::read;
    } else if (what < 18) {
      step.kind = Step::sync_warp;
      step.warp = busy > 5 ? random.below(2) : 0;
      const unsigned lanes = step.warp == 0 ? ~0u : 0xfu;
      const unsigned some = static_cast<unsigned>(random.below(16)) | (random.below(2) ? 0x20000u : 0);
      step.mask = random.below(4) == 0 ? lanes : some & lanes;
      if (step.mask == 0) step.mask = lanes;
    } else {
      step.kind = Step::sync_block;
    }
    steps.push_back(step);
  }
  return steps;
}

bool oracle_finds_a_race(const std::vector<Step>& steps) {
  using Clock = std::vector<int>;
  std::vector<Clock> clocks(kThreads, Clock(kThreads, 0));
  for (int t = 0; t < kThreads; ++t) clocks[t][t] = 1;
  const auto meet = [&](const std::vector<int>& threads) {
    Clock all(kThreads, 0);
    for (const int t : threads)
      for (int i = 0; i < kThreads; ++i) all[i] = std::max(all[i], clocks[t][i]);
    for (const int t : threads) {
      clocks[t] = all;
      ++clocks[t][t];
    }
  };
  struct Done {
    Step step;
    Clock clock;
  };
  std::vector<Done> accesses;
  for (const Step& step : steps) {
    std::vector<int> threads;
    for (int t = 0; t < kThreads; ++t)
      if (step.kind == Step::sync_block || (t / 32 == step.warp && (step.mask >> t % 32 & 1u))) threads.push_back(t);
    if (step.kind != Step::access) {
      meet(threads);
      continue;
    }
    for (const Done& before : accesses) {
      const Step& other = before.step;
      const bool conflict = other.element == step.element && other.thread != step.thread &&
                            (other.how != Access::read || step.how != Access::read) &&
                            !(other.how == Access::atomic && step.how == Access::atomic);
      if (conflict && clocks[step.thread][other.thread] < before.clock[other.thread]) return true;
    }
    accesses.push_back({step, clocks[step.thread]});
  }
  return false;
}

bool emulator_finds_a_race(const std::vector<Step>& steps) {
  const std::vector<Fault> found = faults_of(config({1}, {kThreads}), [&] {
    SIMT_TEST_SHARED(int, element, kElements);
    const int me = static_cast<int>(threadIdx.x);
    // Nothing is really read or written: in a build with TSan, that would see the races as well.
    if (me < kElements) element.access(me, 1, Access::write, Site::current());
    __syncthreads();
    for (const Step& step : steps) {
      if (step.kind == Step::sync_block) __syncthreads();
      if (step.kind == Step::sync_warp && step.warp == me / 32 && (step.mask >> me % 32 & 1u)) __syncwarp(step.mask);
      if (step.kind == Step::access && step.thread == me) element.access(step.element, 1, step.how, Site::current());
    }
  });
  for (const Fault& fault : found) EXPECT_EQ(fault.kind, FaultKind::shared_race) << fault.str();
  return !found.empty();
}

TEST(SimtRace, AgreesWithAnOracleOnRandomKernels) {
#if defined(__SANITIZE_THREAD__)
  constexpr int kKernels = 200;
#else
  constexpr int kKernels = 4000;
#endif
  Random random{1};
  int racy = 0;
  for (int i = 0; i < kKernels; ++i) {
    const std::vector<Step> steps = random_kernel(random);
    const bool expected = oracle_finds_a_race(steps);
    racy += expected;
    for (const NamedOrder& each : kOrders) {
      const OrderScope scope(each.order, each.seed);
      EXPECT_EQ(emulator_finds_a_race(steps), expected) << "kernel " << i << ", " << each.name;
    }
  }
  // Enough of both.
  EXPECT_GT(racy, kKernels / 5);
  EXPECT_LT(racy, kKernels * 4 / 5);
}

}  // namespace
}  // namespace weft::simt
