#include "tensor/parallel.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/threads.h"

namespace weft {
namespace {

TEST(Parallel, EveryChunkRunsOnce) {
  for (int threads : {1, 2, 7}) {
    const test::Threads setting(threads);
    for (std::int64_t chunks : {0, 1, 2, 3, 100}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(chunks));
      parallel_chunks(chunks, [&](std::int64_t chunk) { ++runs[static_cast<std::size_t>(chunk)]; });
      for (const auto& count : runs) EXPECT_EQ(count, 1);
    }
  }
}

TEST(Parallel, RangesDependOnTheGrainAlone) {
  for (int threads : {1, 2, 7}) {
    const test::Threads setting(threads);
    std::vector<std::int64_t> begins(4, -1), ends(4, -1);
    parallel_ranges(10, 3, [&](std::int64_t begin, std::int64_t end) {
      begins[static_cast<std::size_t>(begin / 3)] = begin;
      ends[static_cast<std::size_t>(begin / 3)] = end;
    });
    EXPECT_EQ(begins, (std::vector<std::int64_t>{0, 3, 6, 9}));
    EXPECT_EQ(ends, (std::vector<std::int64_t>{3, 6, 9, 10}));
  }
}

TEST(Parallel, TheLowestChunksExceptionArrivesAfterTheOthersRan) {
  for (int threads : {2, 7}) {
    const test::Threads setting(threads);
    std::atomic<int> ran{0};
    const std::string message = test::message_of<Error>([&] {
      parallel_chunks(20, [&](std::int64_t chunk) {
        ++ran;
        if (chunk >= 5) fail("test", "chunk {}", chunk);
      });
    });
    EXPECT_EQ(message, "[test] chunk 5");
    EXPECT_EQ(ran, 20);
  }
}

TEST(Parallel, NestedCallsRunOnTheCaller) {
  const test::Threads setting(2);
  std::atomic<int> total{0};
  parallel_chunks(4, [&](std::int64_t) {
    const auto outer = std::this_thread::get_id();
    parallel_chunks(3, [&](std::int64_t) { total += std::this_thread::get_id() == outer ? 1 : 100; });
  });
  EXPECT_EQ(total, 12);
}

TEST(Parallel, TheNumberOfThreadsIsChecked) {
  EXPECT_EQ(test::message_of<OptionError>([] { set_num_threads(0); }),
            "[set_num_threads] the number of threads must be in [1, 1024] but is 0");
}

}  // namespace
}  // namespace weft
