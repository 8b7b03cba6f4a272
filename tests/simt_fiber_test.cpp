#include <atomic>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "simt/fiber.h"

namespace weft::simt::detail {
namespace {

// What the fibers of a test share; each switches back to the test after each step.
struct Stage {
  Fiber main;
  Fiber* running = nullptr;
  int steps = 0;
  void (*act)(Stage&) = nullptr;
  std::vector<std::string> log;

  Stage() { adopt_current(main); }
  void enter(Fiber& fiber) {
    running = &fiber;
    pass();
    switch_fiber(main, fiber);
    pass();
  }
  void leave() {
    Fiber& me = *running;
    pass();
    switch_fiber(me, main);
    pass();
  }
  // To TSan every fiber is a thread and a switch orders nothing: this does.
  void pass() { baton.fetch_add(1, std::memory_order_acq_rel); }
  std::atomic<int> baton{0};
};

void play(void* argument) {
  Stage& stage = *static_cast<Stage*>(argument);
  stage.pass();
  for (;;) {
    stage.act(stage);
    stage.leave();
  }
}

TEST(SimtFiber, GoesBackAndForthAndKeepsItsLocals) {
  Stage stage;
  FiberPool pool(play, &stage);
  stage.act = [](Stage& s) {
    // More live values than there are registers that calls preserve.
    volatile double seed = 1.5;
    double a = seed + 1, b = seed + 2, c = seed + 3, d = seed + 4, e = seed + 5, f = seed + 6, g = seed + 7,
           h = seed + 8;
    std::uint64_t i = s.steps + 1, j = i * 3, k = i * 5, l = i * 7, m = i * 11, n = i * 13;
    for (int turn = 0; turn < 3; ++turn) {
      s.leave();
      a += 1;
      b += 1;
      c += 1;
      d += 1;
      e += 1;
      f += 1;
      g += 1;
      h += 1;
      i += 1;
      j += 1;
      k += 1;
      l += 1;
      m += 1;
      n += 1;
    }
    EXPECT_EQ(a + b + c + d + e + f + g + h, 8 * 1.5 + 36 + 24);
    EXPECT_EQ(i + j + k + l + m + n, (s.steps + 1) * 40u + 18u);
    ++s.steps;
  };
  for (int turn = 0; turn < 8; ++turn) {
    stage.enter(pool.get(0));
    EXPECT_EQ(stage.steps, (turn + 1) / 4);
  }
  EXPECT_EQ(stage.steps, 2);
}

TEST(SimtFiber, StacksAreApart) {
  Stage stage;
  FiberPool pool(play, &stage);
  stage.act = [](Stage& s) {
    const int mine = s.steps;
    volatile unsigned char block[20000];
    for (unsigned i = 0; i < sizeof block; ++i) block[i] = static_cast<unsigned char>(mine);
    s.leave();
    bool kept = true;
    for (unsigned i = 0; i < sizeof block; ++i) kept = kept && block[i] == static_cast<unsigned char>(mine);
    EXPECT_TRUE(kept) << mine;
  };
  for (stage.steps = 0; stage.steps < 100; ++stage.steps) stage.enter(pool.get(stage.steps));
  for (int i = 99; i >= 0; --i) stage.enter(pool.get(i));
}

TEST(SimtFiber, EachHasItsOwnExceptionsUnderWay) {
  Stage stage;
  FiberPool pool(play, &stage);
  // Both stop in the middle of handling an exception, and then pass on "the current one".
  stage.act = [](Stage& s) {
    const std::string mine = std::to_string(s.steps);
    try {
      try {
        throw std::runtime_error(mine);
      } catch (const std::runtime_error&) {
        s.leave();
        throw;
      }
    } catch (const std::runtime_error& error) { s.log.push_back(mine + error.what()); }
  };
  stage.steps = 1;
  stage.enter(pool.get(0));
  stage.steps = 2;
  stage.enter(pool.get(1));
  EXPECT_EQ(std::current_exception(), nullptr);
  EXPECT_EQ(std::uncaught_exceptions(), 0);
  stage.enter(pool.get(0));
  stage.enter(pool.get(1));
  EXPECT_EQ(stage.log, (std::vector<std::string>{"11", "22"}));
}

TEST(SimtFiber, CountsExceptionsUnderWayApart) {
  Stage stage;
  FiberPool pool(play, &stage);
  struct Leaver {
    Stage& stage;
    ~Leaver() {
      stage.leave();
      EXPECT_EQ(std::uncaught_exceptions(), 1);
    }
  };
  stage.act = [](Stage& s) {
    try {
      const Leaver leaver{s};
      throw 1;
    } catch (int) { ++s.steps; }
  };
  stage.enter(pool.get(0));
  EXPECT_EQ(std::uncaught_exceptions(), 0);
  stage.enter(pool.get(1));
  stage.enter(pool.get(0));
  stage.enter(pool.get(1));
  EXPECT_EQ(stage.steps, 2);
}

TEST(SimtFiber, GuardsAreKnown) {
  Stage stage;
  FiberPool pool(play, &stage);
  for (const std::size_t number : {std::size_t{0}, std::size_t{31}, std::size_t{32}, FiberPool::kCapacity - 1}) {
    const Fiber& fiber = pool.get(number);
    EXPECT_GE(fiber.stack_bytes, 64u * 1024);
    EXPECT_TRUE(pool.is_guard(fiber.stack - 1)) << number;
    EXPECT_TRUE(pool.is_guard(fiber.stack - FiberPool::kGuardBytes)) << number;
    EXPECT_FALSE(pool.is_guard(fiber.stack)) << number;
    EXPECT_FALSE(pool.is_guard(fiber.stack + fiber.stack_bytes - 1)) << number;
  }
  EXPECT_FALSE(pool.is_guard(&stage));
  EXPECT_FALSE(pool.is_guard(nullptr));
}

TEST(SimtFiber, RestartForgetsWhatWasRunning) {
  Stage stage;
  FiberPool pool(play, &stage);
  stage.act = [](Stage& s) {
    ++s.steps;
    s.leave();
    s.steps += 100;
  };
  stage.enter(pool.get(0));
  EXPECT_EQ(stage.steps, 1);
  pool.restart(pool.get(0));
  stage.enter(pool.get(0));
  EXPECT_EQ(stage.steps, 2);
  stage.enter(pool.get(0));
  EXPECT_EQ(stage.steps, 102);
}

TEST(SimtFiber, EveryThreadHasItsOwn) {
  std::vector<std::thread> threads;
  threads.reserve(4);
  std::vector<int> steps(4);
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&steps, t] {
      Stage stage;
      FiberPool pool(play, &stage);
      stage.act = [](Stage& s) { ++s.steps; };
      for (int i = 0; i < 1000; ++i) stage.enter(pool.get(i % 7));
      steps[t] = stage.steps;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(steps, (std::vector<int>{1000, 1000, 1000, 1000}));
}

}  // namespace
}  // namespace weft::simt::detail
