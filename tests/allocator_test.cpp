#include "tensor/allocator.h"

#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "autograd/factories.h"
#include "support/compare.h"

namespace weft {
namespace {

TEST(Allocator, BlocksAreAlignedAndReused) {
  for (std::int64_t bytes : {1, 63, 64, 65, 255, 256, 257, 1000, 4096, 100000, 3 << 20}) {
    void* block = cpu_allocate(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block) % kAlignmentBytes, 0u) << bytes;
    std::fill_n(static_cast<char*>(block), bytes, 'x');  // the sanitizer build checks the bounds
    cpu_free(block, bytes);
    const std::int64_t before = cpu_memory_stats().system_allocations;
    void* again = cpu_allocate(bytes);
    EXPECT_EQ(again, block) << bytes;
    EXPECT_EQ(cpu_memory_stats().system_allocations, before);
    cpu_free(again, bytes);
  }
  EXPECT_EQ(cpu_allocate(0), nullptr);
  EXPECT_THROW(cpu_allocate(-1), ShapeError);
}

TEST(Allocator, CountsCurrentAndPeakBytes) {
  const std::int64_t before = cpu_memory_stats().current_bytes;
  reset_peak_bytes();
  {
    const Tensor a = zeros({1024, 256});
    EXPECT_EQ(cpu_memory_stats().current_bytes - before, 1 << 20);
    const Tensor b = zeros({1024, 256});
  }
  EXPECT_EQ(cpu_memory_stats().current_bytes, before);
  EXPECT_EQ(cpu_memory_stats().peak_bytes - before, 2 << 20);
}

TEST(Allocator, ALimitGivesATypedErrorAndTheProcessGoesOn) {
  const std::int64_t in_use = cpu_memory_stats().current_bytes;
  set_memory_limit(in_use + (1 << 20));
  try {
    zeros({1 << 20});
    FAIL() << "expected OutOfMemory";
  } catch (const OutOfMemory& error) {
    EXPECT_EQ(error.requested_bytes, 4 << 20);
    EXPECT_EQ(error.current_bytes, in_use);
    EXPECT_NE(std::string(error.what()).find("4194304 bytes asked for"), std::string::npos) << error.what();
  }
  EXPECT_EQ(cpu_memory_stats().current_bytes, in_use);
  EXPECT_NO_THROW(zeros({1024}));
  set_memory_limit(0);
  EXPECT_NO_THROW(zeros({1 << 20}));
}

TEST(Allocator, AnImpossibleRequestIsOutOfMemoryNotACrash) {
  // Far beyond any machine's address space: the system refuses, after the cache was given back.
  EXPECT_THROW(Tensor::empty({std::int64_t{1} << 50}), OutOfMemory);
  EXPECT_NO_THROW(zeros({16}));
}

TEST(Allocator, ThreadsMayFreeWhatOthersAllocated) {
  std::vector<Tensor> made(64);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t)
    threads.emplace_back([&made, t] {
      for (int round = 0; round < 50; ++round)
        for (std::size_t i = t; i < made.size(); i += 4) made[i] = full({round + 1, 33}, static_cast<double>(i));
    });
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < made.size(); ++i) EXPECT_EQ(made[i][49][32].item<float>(), static_cast<float>(i));
}

}  // namespace
}  // namespace weft
