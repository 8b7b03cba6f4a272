// Shared memory: what correct kernels may do, and every kind of misuse, by line and thread.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "simt/runtime.h"
#include "support/simt_kernel.h"

namespace weft::simt {
namespace {

using namespace test;

constexpr const char* kFile = "simt_shared_test.cpp";

class SimtSharedFault : public InForwardOrder {};

/// Whether the first fault's text names that line.
void expect_other_line(const std::vector<Fault>& found, unsigned line) {
  ASSERT_FALSE(found.empty());
  EXPECT_NE(found[0].what.find(":" + std::to_string(line) + " and"), std::string::npos) << found[0].str();
}

TEST(SimtShared, TiledMatrixProduct) {
  constexpr int kTile = 8, kSize = 24;
  std::vector<float> a(kSize * kSize), b(a.size()), c(a.size()), expected(a.size());
  for (int i = 0; i < kSize * kSize; ++i) {
    a[i] = static_cast<float>(i % 7 - 3);
    b[i] = static_cast<float>(i % 5 - 2);
  }
  for (int m = 0; m < kSize; ++m)
    for (int n = 0; n < kSize; ++n)
      for (int k = 0; k < kSize; ++k) expected[m * kSize + n] += a[m * kSize + k] * b[k * kSize + n];
  expect_clean(config({kSize / kTile, kSize / kTile}, {kTile, kTile}), [&] {
    SIMT_TEST_SHARED(float, left, kTile*(kTile + 1));
    SIMT_TEST_SHARED(float, right, kTile* kTile);
    const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
    const int n = static_cast<int>(blockIdx.x) * kTile + x, m = static_cast<int>(blockIdx.y) * kTile + y;
    float sum = 0;
    for (int k = 0; k < kSize; k += kTile) {
      left[y * (kTile + 1) + x] = a[m * kSize + k + x];
      right[y * kTile + x] = b[(k + y) * kSize + n];
      __syncthreads();
      for (int i = 0; i < kTile; ++i) sum += left[y * (kTile + 1) + i] * right[i * kTile + x];
      __syncthreads();
    }
    c[m * kSize + n] = sum;
  });
  EXPECT_EQ(c, expected);
}

TEST(SimtShared, RefsReadAndWrite) {
  run(config({1}, {1}), [] {
    SIMT_TEST_SHARED(int, some, 8);
    some[0] = 5;
    some[1] = some[0];
    some[1] += 3;
    some[1] -= 1;
    some[1] *= 2;
    EXPECT_EQ(static_cast<int>(some[1]), 14);
    const Shared<int> tail = some + 4;
    tail[1] = 9;
    EXPECT_EQ(static_cast<int>(some[5]), 9);
    EXPECT_EQ(*some.access(5, 1, Access::read, Site::current()), 9);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(some.access(0, 1, Access::read, Site::current())) % 16, 0u);
  });
}

TEST(SimtShared, OneArrayForTheBlockAndANewOneForEachBlock) {
  std::vector<float> seen(3);
  const auto found = faults_of(config({3}, {2}), [&] {
    SIMT_TEST_SHARED(float, value, 1);
    if (threadIdx.x == 0) {
      seen[blockIdx.x] = value[0];
      value[0] = 1;
    }
    __syncthreads();
    EXPECT_EQ(static_cast<float>(value[0]), 1.0f);
  });
  EXPECT_EQ(found.size(), 1u);  // the same line in every block
  for (const float value : seen) EXPECT_TRUE(std::isnan(value));
}

TEST(SimtShared, DynamicPart) {
  LaunchConfig launch = config({2}, {16});
  launch.dynamic_shared_bytes = 16 * 12;
  double sum = 0;
  expect_clean(launch, [&] {
    SIMT_TEST_SHARED(int, before, 3);
    SIMT_TEST_SHARED_DYNAMIC(float, words);
    SIMT_TEST_SHARED_DYNAMIC(double, doubles);
    const int t = static_cast<int>(threadIdx.x);
    if (t < 3) before[t] = t;
    words[32 + t] = 1.5f;
    doubles[t] = t;
    __syncthreads();
    if (t != 0 || blockIdx.x != 0) return;
    sum = before[2];
    for (int i = 0; i < 16; ++i) sum += words[32 + i] + doubles[i];
  });
  EXPECT_EQ(sum, 2 + 24 + 120);
  // They are the same bytes.
  run(launch, [] {
    if (threadIdx.x != 0) return;
    SIMT_TEST_SHARED_DYNAMIC(float, words);
    SIMT_TEST_SHARED_DYNAMIC(double, doubles);
    words[2] = 0.0f;
    words[3] = 1.875f;
    EXPECT_EQ(static_cast<double>(doubles[1]), 1.0);
    EXPECT_EQ(static_cast<float>(words[3]), 1.875f);
  });
}

TEST(SimtShared, TheWholeLimitMayBeUsed) {
  LaunchConfig launch = config({1}, {1024});
  launch.shared_limit_bytes = 227 * 1024;
  launch.dynamic_shared_bytes = 227 * 1024 - 4096;
  expect_clean(launch, [] {
    SIMT_TEST_SHARED(std::uint8_t, bytes, 4096);
    SIMT_TEST_SHARED_DYNAMIC(std::uint8_t, rest);
    for (unsigned i = threadIdx.x; i < 4096; i += 1024) bytes[i] = 1;
    for (unsigned i = threadIdx.x; i < 223 * 1024; i += 1024) rest[i] = 2;
    __syncthreads();
    EXPECT_EQ(bytes[4095 - threadIdx.x] + rest[223 * 1024 - 1 - threadIdx.x], 3);
  });
}

// --- order within a warp ---------------------------------------------------------------------------------------------

TEST(SimtShared, SyncwarpOrdersTheLanesOfAWarp) {
  expect_clean(config({2}, {40}), [] {
    SIMT_TEST_SHARED(int, slot, 40);
    const int t = static_cast<int>(threadIdx.x);
    const int neighbour = t < 32 ? (t + 1) % 32 : 32 + (t + 1) % 8;
    for (int round = 0; round < 3; ++round) {
      slot[t] = t + round;
      __syncwarp();
      EXPECT_EQ(static_cast<int>(slot[neighbour]), neighbour + round);
      __syncwarp();
    }
  });
}

TEST(SimtShared, SubMasksOrderTheirLanesAndPassOnWhatTheyKnow) {
  expect_clean(config({1}, {32}), [] {
    SIMT_TEST_SHARED(int, slot, 32);
    const int t = static_cast<int>(threadIdx.x);
    slot[t] = t;
    if (t < 8) {
      __syncwarp(0xffu);
      EXPECT_EQ(static_cast<int>(slot[7 - t]), 7 - t);
    }
    // What lane 0 learnt from lanes 1..7 it passes on to lane 8.
    if (t == 0 || t == 8) __syncwarp(0x101u);
    if (t == 8) { EXPECT_EQ(static_cast<int>(slot[5]), 5); }
    __syncwarp();
    slot[31 - t] = 0;
  });
}

TEST_F(SimtSharedFault, ASubMaskTellsNoOtherLane) {
  SIMT_TEST_PLANTS_A_RACE;
  for (const NamedOrder& each : kOrders) {
    SCOPED_TRACE(each.name);
    const OrderScope scope(each.order, each.seed);
    const auto found = faults_of(config({1}, {32}), [] {
      SIMT_TEST_SHARED(int, slot, 32);
      const int t = static_cast<int>(threadIdx.x);
      if (t < 8) slot[t] = t;
      if (t < 8) __syncwarp(0xffu);
      if (t == 9) static_cast<void>(static_cast<int>(slot[5]));
    });
    ASSERT_FALSE(found.empty());
    for (const Fault& fault : found)
      EXPECT_TRUE(fault.kind == FaultKind::shared_race || fault.kind == FaultKind::shared_unwritten) << fault.str();
    EXPECT_TRUE(KernelError(found).has(FaultKind::shared_race));
  }
}

TEST_F(SimtSharedFault, AReaderInTheMiddleHidesNoOther) {
  SIMT_TEST_PLANTS_A_RACE;
  // Lanes 0..15 have met since they read; lane 16 has not.
  for (const NamedOrder& each : kOrders) {
    SCOPED_TRACE(each.name);
    const OrderScope scope(each.order, each.seed);
    const auto found = faults_of(config({1}, {64}), [] {
      SIMT_TEST_SHARED(int, value, 1);
      const int t = static_cast<int>(threadIdx.x);
      if (t == 0) value[0] = 1;
      __syncthreads();
      if (t <= 16) static_cast<void>(static_cast<int>(value[0]));
      if (t < 16) __syncwarp(0xffffu);
      if (t == 3) value[0] = 2;
    });
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].kind, FaultKind::shared_race);
    const bool writer_second = found[0].thread.x == 3;
    EXPECT_TRUE(writer_second || found[0].thread.x == 16) << found[0].str();
    EXPECT_NE(found[0].what.find(writer_second ? "read by thread 16,0,0" : "written by thread 3,0,0"),
              std::string::npos)
        << found[0].str();
  }
}

void add(const Shared<int>& to, std::int64_t index, int value, const Site& site) {
  __atomic_fetch_add(to.access(index, 1, Access::atomic, site), value, __ATOMIC_RELAXED);
}

TEST(SimtShared, Atomics) {
  int total = 0;
  expect_clean(config({1}, {96}), [&] {
    SIMT_TEST_SHARED(int, count, 1);
    if (threadIdx.x == 7) count[0] = 0;
    __syncthreads();
    for (int i = 0; i < 3; ++i) add(count, 0, 1, Site::current());
    __syncthreads();
    if (threadIdx.x == 95) total = count[0];
  });
  EXPECT_EQ(total, 288);
}

TEST_F(SimtSharedFault, ReadersBeforeABarrierMakeRoomForThoseAfterIt) {
  SIMT_TEST_PLANTS_A_RACE;
  for (const NamedOrder& each : kOrders) {
    SCOPED_TRACE(each.name);
    const OrderScope scope(each.order, each.seed);
    for (unsigned reader = 1; reader < 96; reader += 32) {  // a warp of its own each time
      const auto found = faults_of(config({1}, {96}), [=] {
        SIMT_TEST_SHARED(int, value, 1);
        const unsigned t = threadIdx.x;
        if (t == 0) value[0] = 1;
        __syncthreads();
        if (t % 32 == 1 && t != reader) static_cast<void>(static_cast<int>(value[0]));
        __syncthreads();
        if (t == reader) static_cast<void>(static_cast<int>(value[0]));
        if (t == (reader + 32) % 96) value[0] = 2;
      });
      ASSERT_EQ(found.size(), 1u);
      EXPECT_EQ(found[0].kind, FaultKind::shared_race);
    }
  }
}

TEST_F(SimtSharedFault, AtomicsWithoutABarrier) {
  SIMT_TEST_PLANTS_A_RACE;
  int total = 0;
  for (const NamedOrder& each : kOrders) {
    SCOPED_TRACE(each.name);
    const OrderScope scope(each.order, each.seed);
    // Without the barrier between the initial value and the atomics; thread 0's own atomic must not hide it.
    EXPECT_TRUE(KernelError(faults_of(config({1}, {96}), [&] {
                  SIMT_TEST_SHARED(int, count, 1);
                  if (threadIdx.x == 0) count[0] = 0;
                  add(count, 0, 1, Site::current());
                })).has(FaultKind::shared_race));
    // Without the barrier before the result is read.
    EXPECT_TRUE(KernelError(faults_of(config({1}, {96}), [&] {
                  SIMT_TEST_SHARED(int, count, 1);
                  if (threadIdx.x == 0) count[0] = 0;
                  __syncthreads();
                  add(count, 0, 1, Site::current());
                  if (threadIdx.x == 50) total = count[0];
                })).has(FaultKind::shared_race));
  }
}

// --- misuse ----------------------------------------------------------------------------------------------------------

TEST_F(SimtSharedFault, Bounds) {
  const auto at = [](int index, int count) {
    return faults_of(config({1, 2}, {4}), [=] {
      SIMT_TEST_SHARED(float, tile, 12);
      if (threadIdx.x == 2 && blockIdx.y == 1) tile.access(index, count, Access::write, Site::current());
    });
  };
  const unsigned line = __LINE__ - 3;
  const Planted planted{FaultKind::shared_bounds, line, {2, 0, 0}, {0, 1, 0}, kFile};
  EXPECT_TRUE(at(11, 1).empty());
  EXPECT_TRUE(at(8, 4).empty());
  expect_fault(at(12, 1), planted, "element 12 of shared 'tile' outside its 12 elements");
  expect_fault(at(-1, 1), planted, "element -1");
  expect_fault(at(9, 4), planted, "elements 9 to 12");
  expect_fault(at(INT32_MAX, 4), planted, "elements 2147483647");
  expect_fault(at(3, 0), planted, "outside");
  const auto found = faults_of(config({1}, {4}), [] {
    SIMT_TEST_SHARED(float, tile, 4);
    tile[threadIdx.x + 1] = 1;
  });
  expect_fault(found, {FaultKind::shared_bounds, __LINE__ - 2, {3, 0, 0}, {0, 0, 0}, kFile}, "element 4");
  expect_usable();
}

TEST_F(SimtSharedFault, Alignment) {
  const auto at = [](int index, int count) {
    return faults_of(config({1}, {1}), [=] {
      SIMT_TEST_SHARED(float, tile, 64);
      tile.access(index, count, Access::write, Site::current());
    });
  };
  const unsigned line = __LINE__ - 3;
  const Planted planted{FaultKind::shared_misaligned, line, {0, 0, 0}, {0, 0, 0}, kFile};
  for (const int index : {1, 2, 3, 5, 59}) expect_fault(at(index, 4), planted, "16 bytes at byte");
  expect_fault(at(1, 2), planted, "8 bytes at byte 4 of shared 'tile'");
  for (const int index : {0, 4, 60}) EXPECT_TRUE(at(index, 4).empty());
  EXPECT_TRUE(at(1, 3).empty());   // no vector
  EXPECT_TRUE(at(1, 32).empty());  // several
}

TEST_F(SimtSharedFault, Unwritten) {
  const unsigned line = __LINE__ + 5;
  const auto found = faults_of(config({2}, {4}), [] {
    SIMT_TEST_SHARED(float, part, 5);
    part[threadIdx.x] = 1;
    __syncthreads();
    if (blockIdx.x == 1 && threadIdx.x == 2) static_cast<void>(static_cast<float>(part[threadIdx.x + 2]));
  });
  expect_fault(found, {FaultKind::shared_unwritten, line, {2, 0, 0}, {1, 0, 0}, kFile},
               "read of element 4 of shared 'part' that nothing wrote");
  EXPECT_EQ(found.size(), 1u);
  // What another block or launch wrote does not count.
  const auto stale = faults_of(config({2}, {1}), [] {
    SIMT_TEST_SHARED(int, value, 1);
    if (blockIdx.x == 0) value[0] = 1;
    static_cast<void>(static_cast<int>(value[0]));
  });
  expect_fault(stale, {FaultKind::shared_unwritten, __LINE__ - 2, {0, 0, 0}, {1, 0, 0}, kFile}, "element 0");
  expect_usable();
}

TEST_F(SimtSharedFault, RaceOfWriteAndRead) {
  SIMT_TEST_PLANTS_A_RACE;
  // Neighbour's element without a barrier: whichever comes first, both places are named.
  const unsigned line = __LINE__ + 3;
  const auto kernel = [] {
    SIMT_TEST_SHARED(float, part, 64);
    const unsigned t = threadIdx.x;
    part[t] = 1;
    if (t == 40) static_cast<void>(static_cast<float>(part[3]));
  };
  {
    const OrderScope scope(ThreadOrder::forward);
    const auto found = faults_of(config({1}, {64}), kernel);
    expect_fault(found, {FaultKind::shared_race, line + 2, {40, 0, 0}, {0, 0, 0}, kFile},
                 "element 3 of shared 'part' is written by thread 3,0,0 at");
    expect_other_line(found, line + 1);
    EXPECT_EQ(found.size(), 1u);
  }
  {
    const OrderScope scope(ThreadOrder::reverse);
    const auto found = faults_of(config({1}, {64}), kernel);
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found[0].kind, FaultKind::shared_unwritten);
    expect_fault({found[1]}, {FaultKind::shared_race, line + 1, {3, 0, 0}, {0, 0, 0}, kFile},
                 "element 3 of shared 'part' is read by thread 40,0,0 at");
    expect_other_line({found[1]}, line + 2);
  }
  expect_usable();
}

TEST_F(SimtSharedFault, RaceOfTwoWrites) {
  SIMT_TEST_PLANTS_A_RACE;
  const auto found = faults_of(config({1}, {8, 8}), [] {
    SIMT_TEST_SHARED(int, winner, 1);
    if (threadIdx.x == 1) winner[0] = static_cast<int>(threadIdx.y);
  });
  expect_fault(found, {FaultKind::shared_race, __LINE__ - 2, {1, 1, 0}, {0, 0, 0}, kFile},
               "element 0 of shared 'winner' is written by thread 1,0,0");
  expect_other_line(found, __LINE__ - 4);
}

TEST_F(SimtSharedFault, RaceWithinAWarpWithoutSyncwarp) {
  SIMT_TEST_PLANTS_A_RACE;
  for (const NamedOrder& each : kOrders) {
    SCOPED_TRACE(each.name);
    const OrderScope scope(each.order, each.seed);
    // Shuffles and votes order no memory.
    const auto found = faults_of(config({1}, {32}), [] {
      SIMT_TEST_SHARED(int, slot, 32);
      slot[threadIdx.x] = 1;
      static_cast<void>(__shfl_xor_sync(kAllLanes, 1, 1));
      static_cast<void>(__ballot_sync(kAllLanes, 1));
      static_cast<void>(static_cast<int>(slot[threadIdx.x ^ 1]));
    });
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].kind, FaultKind::shared_race);
  }
}

TEST_F(SimtSharedFault, SyncwarpOrdersNoOtherWarp) {
  SIMT_TEST_PLANTS_A_RACE;
  for (const NamedOrder& each : kOrders) {
    SCOPED_TRACE(each.name);
    const OrderScope scope(each.order, each.seed);
    const auto found = faults_of(config({1}, {64}), [] {
      SIMT_TEST_SHARED(int, slot, 64);
      slot[threadIdx.x] = 1;
      __syncwarp();
      static_cast<void>(static_cast<int>(slot[63 - threadIdx.x]));
    });
    EXPECT_TRUE(KernelError(found).has(FaultKind::shared_race));
  }
}

TEST_F(SimtSharedFault, AMissingBarrierInATreeReductionIsFoundInEveryOrder) {
  SIMT_TEST_PLANTS_A_RACE;
  for (const NamedOrder& each : kOrders) {
    SCOPED_TRACE(each.name);
    const OrderScope scope(each.order, each.seed);
    for (int missing = 0; missing < 3; ++missing) {
      const auto found = faults_of(config({1}, {128}), [=] {
        SIMT_TEST_SHARED(float, part, 128);
        const unsigned t = threadIdx.x;
        part[t] = 1;
        if (missing != 0) __syncthreads();
        for (unsigned step = 64; step > 0; step /= 2) {
          if (t < step) part[t] += part[t + step];
          if (missing != 1 || step != 64) __syncthreads();
        }
        if (missing == 2 && t == 0) part[0] = 0;
        if (t == 1) static_cast<void>(static_cast<float>(part[0]));
      });
      EXPECT_TRUE(KernelError(found).has(FaultKind::shared_race)) << missing;
    }
  }
}

TEST_F(SimtSharedFault, AnElementUsedAgainWithoutASecondBarrier) {
  SIMT_TEST_PLANTS_A_RACE;
  // The classic: the next round's writes overtake this round's reads. Right by luck in forward order only.
  for (const NamedOrder& each : kOrders) {
    SCOPED_TRACE(each.name);
    const OrderScope scope(each.order, each.seed);
    const unsigned line = __LINE__ + 5;
    const auto found = faults_of(config({1}, {96}), [] {
      SIMT_TEST_SHARED(int, total, 1);
      int sum = 0;
      for (int round = 0; round < 2; ++round) {
        if (threadIdx.x == 0) total[0] = round;
        __syncthreads();
        sum += total[0];
      }
      static_cast<void>(sum);
    });
    ASSERT_FALSE(found.empty());
    EXPECT_EQ(found[0].kind, FaultKind::shared_race);
    EXPECT_TRUE(found[0].line == line || found[0].line == line + 2) << found[0].str();
  }
}

TEST_F(SimtSharedFault, Redeclared) {
  const auto found = faults_of(config({1}, {4}), [] {
    const int count = threadIdx.x < 3 ? 8 : 9;
    SIMT_TEST_SHARED(float, tile, count);
    tile[threadIdx.x] = 1;
  });
  expect_fault(found, {FaultKind::shared_redeclared, __LINE__ - 3, {3, 0, 0}, {0, 0, 0}, kFile},
               "shared 'tile' has 9 elements of 4 bytes here but 8 of 4");
  LaunchConfig launch = config({1}, {1});
  launch.dynamic_shared_bytes = 64;
  const auto narrower = faults_of(launch, [] {
    SIMT_TEST_SHARED_DYNAMIC(float, wide);
    SIMT_TEST_SHARED_DYNAMIC(std::uint16_t, narrow);
  });
  expect_fault(narrower, {FaultKind::shared_redeclared, __LINE__ - 2, {0, 0, 0}, {0, 0, 0}, kFile},
               "smallest elements first");
  expect_usable();
}

TEST_F(SimtSharedFault, Limit) {
  const auto with_dynamic = [](std::size_t bytes) {
    LaunchConfig launch = config({1}, {2});
    launch.dynamic_shared_bytes = bytes;
    return faults_of(launch, [] {
      SIMT_TEST_SHARED(float, small, 16);
      SIMT_TEST_SHARED(float, large, 12 * 1024 - 32);
    });
  };
  EXPECT_TRUE(with_dynamic(64).empty());
  expect_fault(with_dynamic(65), {FaultKind::shared_limit, __LINE__ - 4, {0, 0, 0}, {0, 0, 0}, kFile},
               "with shared 'large' the block uses 49153 bytes");
  expect_usable();
}

TEST_F(SimtSharedFault, RedZones) {
  for (const int where : {8, 9, 20, -1, -16}) {
    SCOPED_TRACE(where);
    const unsigned line = __LINE__ + 3;
    const auto found = faults_of(config({1, 1, 2}, {1}), [&] {
      SIMT_TEST_SHARED(float, first, 4);
      SIMT_TEST_SHARED(float, second, 8);
      first[0] = 1;
      volatile float* raw = second.access(0, 8, Access::write, Site::current());
      if (blockIdx.z == 1) raw[where] = 0;
    });
    const bool behind = where > 0;
    expect_fault(found, {FaultKind::shared_red_zone, behind ? line : line - 1, {0, 0, 0}, {0, 0, 1}, kFile},
                 behind ? "behind the end of shared 'second'" : "behind the end of shared 'first'");
  }
  const auto before = faults_of(config({1}, {1}), [] {
    SIMT_TEST_SHARED(float, only, 4);
    volatile float* raw = only.access(0, 4, Access::write, Site::current());
    raw[-2] = 0;
  });
  expect_fault(before, {FaultKind::shared_red_zone, __LINE__ - 4, {0, 0, 0}, {0, 0, 0}, kFile},
               "8 bytes before the start of shared 'only'");
  expect_usable();
}

TEST(SimtShared, OutsideAKernel) { EXPECT_THROW(SIMT_TEST_SHARED(float, nowhere, 4), KernelError); }

}  // namespace
}  // namespace weft::simt
