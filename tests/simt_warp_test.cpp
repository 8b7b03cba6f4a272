// Shuffles, votes, reductions and __syncwarp: results for every width and mask, and what is wrong with misuse.
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "simt/runtime.h"
#include "support/simt_kernel.h"

namespace weft::simt {
namespace {

using namespace test;

constexpr const char* kFile = "simt_warp_test.cpp";

class SimtWarpFault : public InForwardOrder {};

unsigned lane_index() { return linear_thread() % 32; }

TEST(SimtWarp, ShufflesOfEveryWidth) {
  expect_clean(config({2}, {16, 4}), [] {
    const int lane = static_cast<int>(lane_index());
    const int value = static_cast<int>(linear_thread()) * 10, base = value - lane * 10;
    for (int width = 1; width <= 32; width *= 2) {
      const int first = lane / width * width, last = first + width - 1;
      for (int operand = 0; operand < 32; ++operand) {
        const int from = first + operand % width;
        EXPECT_EQ(__shfl_sync(kAllLanes, value, operand, width), base + from * 10);
        EXPECT_EQ(__shfl_sync(kAllLanes, value, operand - 64, width), base + from * 10);
        const int above = lane - operand >= first ? lane - operand : lane;
        EXPECT_EQ(__shfl_up_sync(kAllLanes, value, static_cast<unsigned>(operand), width), base + above * 10);
        const int below = lane + operand <= last ? lane + operand : lane;
        EXPECT_EQ(__shfl_down_sync(kAllLanes, value, static_cast<unsigned>(operand), width), base + below * 10);
        // Exclusive-or may reach back into an earlier segment, not forward into a later one.
        const int other = (lane ^ operand) <= last ? lane ^ operand : lane;
        EXPECT_EQ(__shfl_xor_sync(kAllLanes, value, operand, width), base + other * 10);
      }
    }
  });
}

TEST(SimtWarp, ShufflesMoveEveryType) {
  struct Pair {
    float first;
    std::uint16_t second;
  };
  run(config({1}, {32}), [] {
    const unsigned lane = lane_index(), other = 31 - lane;
    EXPECT_EQ(__shfl_sync(kAllLanes, 0.5 + lane, static_cast<int>(other)), 0.5 + other);
    EXPECT_EQ(__shfl_sync(kAllLanes, static_cast<std::uint8_t>(lane), static_cast<int>(other)), other);
    EXPECT_EQ(__shfl_sync(kAllLanes, std::uint64_t{lane} << 40, static_cast<int>(other)), std::uint64_t{other} << 40);
    const Pair pair = __shfl_sync(kAllLanes, Pair{static_cast<float>(lane), static_cast<std::uint16_t>(lane)},
                                  static_cast<int>(other));
    EXPECT_EQ(pair.first, static_cast<float>(other));
    EXPECT_EQ(pair.second, other);
  });
}

TEST(SimtWarp, Sum) {
  std::vector<int> sums(3);
  expect_clean(config({1}, {96}), [&] {
    int sum = static_cast<int>(threadIdx.x);
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (lane_index() == 9) sums[threadIdx.x / 32] = sum;
  });
  EXPECT_EQ(sums, (std::vector<int>{496, 1520, 2544}));
}

TEST(SimtWarp, Votes) {
  expect_clean(config({1}, {64}), [] {
    const unsigned lane = lane_index();
    EXPECT_EQ(__ballot_sync(kAllLanes, lane % 3 == 0), 0x49249249u);
    EXPECT_EQ(__any_sync(kAllLanes, lane == 31), 1);
    EXPECT_EQ(__any_sync(kAllLanes, 0), 0);
    EXPECT_EQ(__all_sync(kAllLanes, -1), 1);
    EXPECT_EQ(__all_sync(kAllLanes, lane != 31), 0);
    EXPECT_EQ(__match_any_sync(kAllLanes, 1.5 * static_cast<int>(lane / 8)), 0xffu << lane / 8 * 8);
    if (lane < 5) {
      EXPECT_EQ(__ballot_sync(0x1fu, lane != 2), 0x1bu);
      EXPECT_EQ(__all_sync(0x1fu, 1), 1);
    }
  });
}

TEST(SimtWarp, Reductions) {
  expect_clean(config({1}, {32}), [] {
    const int lane = static_cast<int>(lane_index());
    EXPECT_EQ(__reduce_add_sync(kAllLanes, lane - 16), -16);
    EXPECT_EQ(__reduce_add_sync(kAllLanes, 0x80000001u), 32u);
    EXPECT_EQ(__reduce_min_sync(kAllLanes, lane - 16), -16);
    EXPECT_EQ(__reduce_max_sync(kAllLanes, lane - 40), -9);
    EXPECT_EQ(__reduce_min_sync(kAllLanes, static_cast<unsigned>(lane - 1)), 0u);
    EXPECT_EQ(__reduce_max_sync(kAllLanes, static_cast<unsigned>(lane - 1)), 0xffffffffu);
    EXPECT_EQ(__reduce_and_sync(kAllLanes, ~(1u << lane)), 0u);
    EXPECT_EQ(__reduce_or_sync(kAllLanes, 1u << lane / 2), 0xffffu);
    EXPECT_EQ(__reduce_xor_sync(kAllLanes, static_cast<unsigned>(lane)), 0u);
    if (lane >= 30) {
      EXPECT_EQ(__reduce_add_sync(0xc0000000u, lane), 61);
      EXPECT_EQ(__reduce_xor_sync(0xc0000000u, static_cast<unsigned>(lane)), 1u);
    }
  });
}

TEST(SimtWarp, DisjointMasksWaitAtDifferentPlacesAtOnce) {
  expect_clean(config({1}, {64}), [] {
    const unsigned lane = lane_index();
    for (int round = 0; round < 4; ++round) {
      // Three groups of lanes in three branches, with a different number of meetings in each.
      if (lane % 3 == 0) {
        for (int i = 0; i < 5; ++i) EXPECT_EQ(__reduce_add_sync(0x49249249u, 1), 11);
      } else if (lane % 3 == 1) {
        EXPECT_EQ(__ballot_sync(0x92492492u, 1), 0x92492492u);
      } else {
        __syncwarp(0x24924924u);
        EXPECT_EQ(__shfl_sync(0x24924924u, static_cast<int>(lane), 29), 29);
      }
    }
    __syncwarp();
    // A lane's next mask may overlap masks of lanes that still wait.
    if (lane == 0 || lane == 1) { EXPECT_EQ(__reduce_add_sync(0x3u, 1), 2); }
    if (lane == 0 || lane == 2) { EXPECT_EQ(__reduce_add_sync(0x5u, 1), 2); }
    if (lane == 1 || lane == 2) { EXPECT_EQ(__reduce_add_sync(0x6u, 1), 2); }
  });
}

TEST(SimtWarp, OneWarpNeedsNoOther) {
  expect_clean(config({1}, {128}), [] {
    if (threadIdx.x / 32 == 1)
      for (int i = 0; i < 3; ++i) __syncwarp();
    __syncthreads();
    if (threadIdx.x / 32 == 3) { EXPECT_EQ(__ballot_sync(kAllLanes, 1), kAllLanes); }
    __syncthreads();
  });
}

TEST(SimtWarp, APartialLastWarpTakesTheFullMask) {
  expect_clean(config({1}, {40}), [] {
    const int thread = static_cast<int>(threadIdx.x);
    __syncwarp();
    EXPECT_EQ(__ballot_sync(kAllLanes, 1), thread < 32 ? kAllLanes : 0xffu);
    EXPECT_EQ(__reduce_add_sync(kAllLanes, 1), thread < 32 ? 32 : 8);
    EXPECT_EQ(__shfl_xor_sync(kAllLanes, thread, 4), thread ^ 4);
    EXPECT_EQ(__shfl_sync(kAllLanes, thread, 0), thread / 32 * 32);
    EXPECT_EQ(__match_any_sync(kAllLanes, 5), thread < 32 ? kAllLanes : 0xffu);
  });
}

TEST(SimtWarp, SyncwarpMayBeCalledFromDifferentPlaces) {
  expect_clean(config({1}, {32}), [] {
    if (lane_index() < 7) {  // NOLINT(bugprone-branch-clone): two places, that is the point
      __syncwarp();
    } else {
      __syncwarp();
    }
  });
}

TEST(SimtWarp, WarpsAreCountedAlongX) {
  expect_clean(config({1}, {8, 2, 8}), [] {
    const unsigned thread = linear_thread();
    EXPECT_EQ(__shfl_sync(kAllLanes, static_cast<int>(threadIdx.z), 0), static_cast<int>(thread / 32 * 2));
  });
}

// --- misuse ----------------------------------------------------------------------------------------------------------

TEST_F(SimtWarpFault, OutsideItsOwnMask) {
  const auto found = faults_of(config({1}, {64}), [] {
    if (threadIdx.x < 35) __syncwarp(0x3u);
  });
  expect_fault(found, {FaultKind::warp_mask, __LINE__ - 2, {2, 0, 0}, {0, 0, 0}, kFile},
               "lane 2 is not in its own mask");
  expect_usable();
}

TEST_F(SimtWarpFault, ALaneOfTheMaskLeaves) {
  for (const NamedOrder& each : kOrders) {
    SCOPED_TRACE(each.name);
    const OrderScope scope(each.order, each.seed);
    const unsigned line = __LINE__ + 3;
    const auto found = faults_of(config({1}, {16, 4}), [] {
      if (linear_thread() == 39) return;
      static_cast<void>(__shfl_down_sync(kAllLanes, 1, 1));
      __syncthreads();
    });
    expect_fault(found, {FaultKind::exit_at_barrier, line, {0, 2, 0}, {0, 0, 0}, kFile},
                 "lane 7 (thread 7,2,0) has left the kernel");
  }
  expect_usable();
}

TEST_F(SimtWarpFault, ALaneOfTheMaskWaitsElsewhere) {
  for (const NamedOrder& each : kOrders) {
    SCOPED_TRACE(each.name);
    const OrderScope scope(each.order, each.seed);
    const unsigned line = __LINE__ + 3;
    const auto found = faults_of(config({1}, {32}), [] {
      if (threadIdx.x != 5) {
        static_cast<void>(__ballot_sync(kAllLanes, 1));
      } else {
        __syncthreads();
      }
    });
    expect_fault(found, {FaultKind::warp_mask, line, {0, 0, 0}, {0, 0, 0}, kFile},
                 "lane 5 (thread 5,0,0) waits in __syncthreads()");
    ASSERT_FALSE(found.empty());
    EXPECT_NE(found[0].what.find(":" + std::to_string(line + 2)), std::string::npos) << found[0].str();
  }
  expect_usable();
}

TEST_F(SimtWarpFault, TheLaneThatLeftIsNamedAndNotOneThatWaitsForIt) {
  for (const NamedOrder& each : kOrders) {
    SCOPED_TRACE(each.name);
    const OrderScope scope(each.order, each.seed);
    const unsigned line = __LINE__ + 3;
    const auto found = faults_of(config({1}, {64}), [] {
      if (threadIdx.x == 32 || threadIdx.x == 33) __syncwarp(0x3u);
      if (threadIdx.x == 34) __syncwarp(0xcu);
      if (threadIdx.x < 32) __syncthreads();
      if (threadIdx.x == 36 || threadIdx.x == 34) __syncwarp(0x14u);
    });
    expect_fault(found, {FaultKind::exit_at_barrier, line, {34, 0, 0}, {0, 0, 0}, kFile},
                 "lane 3 (thread 35,0,0) has left");
  }
  expect_usable();
}

TEST_F(SimtWarpFault, MasksThatNeverMeet) {
  for (const NamedOrder& each : kOrders) {
    SCOPED_TRACE(each.name);
    const OrderScope scope(each.order, each.seed);
    const unsigned line = __LINE__ + 2;
    const auto found = faults_of(config({1}, {32}), [] {
      if (threadIdx.x == 0) __syncwarp(0x3u);
      if (threadIdx.x == 1) __syncwarp(0x7u);
      if (threadIdx.x == 2) __syncwarp(0x6u);
    });
    ASSERT_FALSE(found.empty());
    EXPECT_EQ(found[0].kind, FaultKind::warp_mask);
    EXPECT_GE(found[0].line, line);
    EXPECT_LE(found[0].line, line + 2);
    EXPECT_NE(found[0].what.find("waits in a warp operation at"), std::string::npos) << found[0].str();
  }
  expect_usable();
}

TEST_F(SimtWarpFault, DifferentOperationsOfOneMask) {
  unsigned line = __LINE__ + 3;
  auto found = faults_of(config({1}, {32}), [] {
    if (threadIdx.x < 20) {  // NOLINT(bugprone-branch-clone): two places, that is the point
      static_cast<void>(__shfl_xor_sync(kAllLanes, 1, 1));
    } else {
      static_cast<void>(__shfl_xor_sync(kAllLanes, 1, 1));
    }
  });
  expect_fault(found, {FaultKind::warp_mask, line + 2, {20, 0, 0}, {0, 0, 0}, kFile},
               "different operations: lane 0 at");
  ASSERT_FALSE(found.empty());
  EXPECT_NE(found[0].what.find(":" + std::to_string(line)), std::string::npos) << found[0].str();
  line = __LINE__ + 2;
  found = faults_of(config({1}, {32}),
                    [] { threadIdx.x < 20 ? __syncwarp() : static_cast<void>(__ballot_sync(kAllLanes, 1)); });
  expect_fault(found, {FaultKind::warp_mask, line, {20, 0, 0}, {0, 0, 0}, kFile}, "different operations");
  expect_usable();
}

TEST_F(SimtWarpFault, SourceOutsideTheMask) {
  const auto found = faults_of(config({1}, {32}), [] {
    if (threadIdx.x >= 8) return;
    static_cast<void>(__shfl_down_sync(0xffu, 1, 2));
  });
  expect_fault(found, {FaultKind::warp_source, __LINE__ - 2, {6, 0, 0}, {0, 0, 0}, kFile},
               "lane 6 reads from lane 8, which is not in mask 0x000000ff");
  // The same with a width that keeps within it is fine.
  expect_clean(config({1}, {32}), [] {
    if (threadIdx.x < 8) static_cast<void>(__shfl_down_sync(0xffu, 1, 2, 8));
  });
  expect_usable();
}

TEST_F(SimtWarpFault, SourceBeyondTheBlock) {
  const auto found = faults_of(config({1, 2}, {40}), [] { static_cast<void>(__shfl_xor_sync(kAllLanes, 1, 8)); });
  expect_fault(found, {FaultKind::warp_source, __LINE__ - 1, {32, 0, 0}, {0, 0, 0}, kFile},
               "lane 0 reads from lane 8, beyond the block's 40 threads");
  expect_usable();
}

TEST_F(SimtWarpFault, Width) {
  for (const int width : {0, -4, 3, 24, 64}) {
    const auto found = faults_of(config({1}, {32}), [&] {
      const int mine = threadIdx.x == 4 ? width : 8;
      static_cast<void>(__shfl_sync(kAllLanes, 1, 0, mine));
    });
    expect_fault(found, {FaultKind::warp_width, __LINE__ - 2, {4, 0, 0}, {0, 0, 0}, kFile},
                 "shuffle width " + std::to_string(width) + " is not");
  }
  expect_usable();
}

}  // namespace
}  // namespace weft::simt
