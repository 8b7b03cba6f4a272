#pragma once
// For tests of the emulator itself: kernels as lambdas, their shared arrays, and what is found wrong with them.
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "simt/runtime.h"

// As WEFT_SHARED in kernels/common/device.h: a declaration is known by the address of a static of its own.
#define SIMT_TEST_SHARED(type, name, count)                                                             \
  const ::weft::simt::Shared<type> name(::weft::simt::detail::shared_array(                             \
                                            []() -> const void* {                                       \
                                              static char id;                                           \
                                              return &id;                                               \
                                            }(),                                                        \
                                            #name, sizeof(type), count, ::weft::simt::Site::current()), \
                                        0)
#define SIMT_TEST_SHARED_DYNAMIC(type, name) SIMT_TEST_SHARED(type, name, -1)

namespace weft::test {

using namespace simt;

// Tests that plant a race in shared memory: TSan sees it too, and would end the test program.
#if defined(__SANITIZE_THREAD__)
#define SIMT_TEST_PLANTS_A_RACE GTEST_SKIP() << "TSan reports the planted race itself; see simt_race_program.cpp"
#else
#define SIMT_TEST_PLANTS_A_RACE static_cast<void>(0)
#endif

inline constexpr unsigned kAllLanes = 0xffffffffu;

struct NamedOrder {
  const char* name;
  ThreadOrder order;
  std::uint64_t seed;
};
inline constexpr NamedOrder kOrders[] = {{"forward", ThreadOrder::forward, 1},
                                         {"reverse", ThreadOrder::reverse, 1},
                                         {"seeded:1", ThreadOrder::seeded, 1},
                                         {"seeded:2", ThreadOrder::seeded, 2}};

inline unsigned linear_thread() { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }

inline LaunchConfig config(Dim3 grid, Dim3 block) {
  LaunchConfig made;
  made.kernel = "planted";
  made.grid = grid;
  made.block = block;
  return made;
}

/// For tests that name the thread at which a fault is found: whatever the process's order, theirs is forward.
class InForwardOrder : public ::testing::Test {
  OrderScope order_{ThreadOrder::forward};
};

/// What run() finds wrong; empty when nothing.
template <class F>
std::vector<Fault> faults_of(const LaunchConfig& launch, F&& kernel) {
  try {
    run(launch, kernel);
  } catch (const KernelError& error) {
    EXPECT_FALSE(in_kernel());
    EXPECT_FALSE(error.faults().empty());
    return error.faults();
  }
  return {};
}

/// The faults of a kernel that is correct, in every order of threads.
template <class F>
void expect_clean(const LaunchConfig& launch, F&& kernel) {
  for (const NamedOrder& each : kOrders) {
    const OrderScope scope(each.order, each.seed);
    for (const Fault& fault : faults_of(launch, kernel)) ADD_FAILURE() << each.name << ": " << fault.str();
  }
}

struct Planted {
  FaultKind kind;
  unsigned line;
  Dim3 thread{0, 0, 0};
  Dim3 block{0, 0, 0};
  const char* file = "";  // how its name ends
};

/// The first fault found is this one, and its text holds `words`.
inline void expect_fault(const std::vector<Fault>& found, const Planted& planted, const std::string& words) {
  ASSERT_FALSE(found.empty()) << "nothing was found";
  const Fault& fault = found.front();
  EXPECT_STREQ(to_string(fault.kind), to_string(planted.kind)) << fault.str();
  EXPECT_EQ(fault.kernel, "planted") << fault.str();
  EXPECT_EQ(fault.line, planted.line) << fault.str();
  EXPECT_TRUE(fault.file.ends_with(planted.file)) << fault.str();
  EXPECT_EQ(fault.block, planted.block) << fault.str();
  EXPECT_EQ(fault.thread, planted.thread) << fault.str();
  EXPECT_NE(fault.what.find(words), std::string::npos) << fault.str();
  EXPECT_NE(fault.str().find("[simt] planted: "), std::string::npos) << fault.str();
}

/// The pool of fibers works as if nothing had happened.
inline void expect_usable() {
  int sum = 0;
  expect_clean(config({2}, {64}), [&] {
    SIMT_TEST_SHARED(int, counted, 64);
    counted[threadIdx.x] = 1;
    __syncthreads();
    if (threadIdx.x != 0 || blockIdx.x != 1) return;
    sum = 0;
    for (int i = 0; i < 64; ++i) sum += counted[i];
  });
  EXPECT_EQ(sum, 64);
}

}  // namespace weft::test
