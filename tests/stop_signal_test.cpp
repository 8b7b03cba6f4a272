#include "train/stop_signal.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <vector>

#include <sys/syscall.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace weft::train {
namespace {

TEST(StopSignal, ASecondSignalEndsTheProcess) {
  EXPECT_EXIT(
      {
        const StopSignal signals;
        std::raise(SIGINT);
        if (StopSignal::received() != SIGINT) std::_Exit(1);
        std::raise(SIGTERM);
      },
      ::testing::ExitedWithCode(143), "");
}

TEST(StopSignal, GivesTheHandlersBack) {
  static volatile std::sig_atomic_t own = 0;
  const auto before = std::signal(SIGINT, [](int) { own = 1; });
  {
    const StopSignal signals;
    std::raise(SIGINT);
    EXPECT_EQ(StopSignal::received(), SIGINT);
    EXPECT_EQ(own, 0);
  }
  std::raise(SIGINT);
  std::signal(SIGINT, before);
  EXPECT_EQ(own, 1);
  const StopSignal again;
  EXPECT_EQ(StopSignal::received(), 0);
}

// ThreadSanitizer holds a signal back until the next call that it intercepts.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
// As when a signal arrives in a matrix product of oneDNN: the stack pointer points into memory that is no stack.
TEST(StopSignal, LeavesTheMemoryAtTheStackPointerAlone) {
  std::vector<unsigned char> memory(1 << 17, 0xAB);
  unsigned char* middle = memory.data() + memory.size() / 2;
  const long pid = ::getpid(), thread = ::syscall(SYS_gettid);
  {
    const StopSignal signals;
    long result = SYS_tgkill;
    asm volatile("mov %%rsp, %%rbx\n\tmov %[middle], %%rsp\n\tsyscall\n\tmov %%rbx, %%rsp"
                 : "+a"(result)
                 : "D"(pid), "S"(thread), "d"(long{SIGINT}), [middle] "r"(middle)
                 : "rbx", "rcx", "r11", "memory");
    EXPECT_EQ(result, 0);
    EXPECT_EQ(StopSignal::received(), SIGINT);
  }
  EXPECT_EQ(std::count(memory.begin(), memory.end(), 0xAB), static_cast<std::ptrdiff_t>(memory.size()));
}
#endif

}  // namespace
}  // namespace weft::train
