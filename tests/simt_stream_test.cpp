#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "simt/memory.h"
#include "simt/stream.h"

namespace weft::simt {
namespace {

// The mode of one test; nothing is left behind in any stream.
class ModeScope {
 public:
  explicit ModeScope(StreamMode mode) : before_(stream_mode()) { set_stream_mode(mode); }
  ~ModeScope() { set_stream_mode(before_); }
  ModeScope(const ModeScope&) = delete;
  ModeScope& operator=(const ModeScope&) = delete;

 private:
  StreamMode before_;
};

using Log = std::vector<int>;

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const std::exception& error) { return error.what(); }
  return "nothing was thrown";
}

TEST(SimtStream, ImmediateWorkRunsWhenItIsEnqueued) {
  const ModeScope mode(StreamMode::immediate);
  Log log;
  Stream stream;
  stream.enqueue([&] { log.push_back(1); });
  EXPECT_EQ(log, Log{1});
  EXPECT_TRUE(stream.idle());
  Event event;
  event.record(stream);
  EXPECT_TRUE(event.done());
}

TEST(SimtStream, DeferredWorkRunsInOrderWhenSomebodyWaits) {
  const ModeScope mode(StreamMode::deferred);
  Log log;
  Stream stream;
  for (int i = 0; i < 5; ++i) stream.enqueue([&, i] { log.push_back(i); });
  EXPECT_TRUE(log.empty());
  EXPECT_FALSE(stream.idle());
  stream.synchronize();
  EXPECT_EQ(log, (Log{0, 1, 2, 3, 4}));
  EXPECT_TRUE(stream.idle());
  stream.synchronize();
  EXPECT_EQ(log.size(), 5u);
}

TEST(SimtStream, AnEventStandsForTheWorkBeforeItsLastRecord) {
  const ModeScope mode(StreamMode::deferred);
  Log log;
  Stream stream;
  Event event;
  EXPECT_TRUE(event.done());
  event.synchronize();
  stream.enqueue([&] { log.push_back(1); });
  event.record(stream);
  stream.enqueue([&] { log.push_back(2); });
  EXPECT_FALSE(event.done());
  event.synchronize();
  EXPECT_EQ(log, Log{1});
  EXPECT_TRUE(event.done());
  event.record(stream);
  EXPECT_FALSE(event.done());
  event.synchronize();
  EXPECT_EQ(log, (Log{1, 2}));
}

TEST(SimtStream, AWaitRunsTheOtherStreamUpToTheEventOnly) {
  const ModeScope mode(StreamMode::deferred);
  Log log;
  Stream copy, compute;
  copy.enqueue([&] { log.push_back(1); });
  Event ready;
  ready.record(copy);
  copy.enqueue([&] { log.push_back(2); });
  compute.enqueue([&] { log.push_back(10); });
  compute.wait(ready);
  compute.enqueue([&] { log.push_back(11); });
  compute.synchronize();
  EXPECT_EQ(log, (Log{10, 1, 11}));
  copy.synchronize();
  EXPECT_EQ(log, (Log{10, 1, 11, 2}));
}

// What is recorded after the call of wait() is not waited for; neither is a stream's own event.
TEST(SimtStream, AWaitMeansTheRecordBeforeIt) {
  const ModeScope mode(StreamMode::deferred);
  Log log;
  Stream a, b;
  Event event;
  b.wait(event);  // never recorded
  a.enqueue([&] { log.push_back(1); });
  event.record(a);
  a.wait(event);
  b.wait(event);
  a.enqueue([&] { log.push_back(2); });
  event.record(a);
  b.enqueue([&] { log.push_back(3); });
  b.synchronize();
  EXPECT_EQ(log, (Log{1, 3}));
}

TEST(SimtStream, WaitsInBothDirections) {
  const ModeScope mode(StreamMode::deferred);
  Log log;
  Stream a, b;
  std::vector<Event> events(6);
  for (int i = 0; i < 3; ++i) {
    a.enqueue([&, i] { log.push_back(2 * i); });
    events[2 * i].record(a);
    b.wait(events[2 * i]);
    b.enqueue([&, i] { log.push_back(2 * i + 1); });
    events[2 * i + 1].record(b);
    a.wait(events[2 * i + 1]);
  }
  b.synchronize();
  EXPECT_EQ(log, (Log{0, 1, 2, 3, 4, 5}));
  EXPECT_TRUE(b.idle());
  EXPECT_FALSE(a.idle());  // its last wait is left, and satisfied
  a.synchronize();
  EXPECT_EQ(log.size(), 6u);
}

TEST(SimtStream, AnErrorDropsWhatFollows) {
  for (const StreamMode kind : {StreamMode::immediate, StreamMode::deferred}) {
    const ModeScope mode(kind);
    Log log;
    Stream stream;
    const auto work = [&] {
      stream.enqueue([&] { log.push_back(1); });
      stream.enqueue([] { throw std::runtime_error("broken"); });
      stream.enqueue([&] { log.push_back(2); });
      stream.synchronize();
    };
    EXPECT_EQ(message_of(work), "broken");
    EXPECT_EQ(log, Log{1});
    EXPECT_TRUE(stream.idle());
    stream.synchronize();  // told once
    stream.enqueue([&] { log.push_back(3); });
    stream.synchronize();
    EXPECT_EQ(log, (Log{1, 3}));
  }
}

TEST(SimtStream, AnErrorReachesTheStreamsThatWaitForIt) {
  const ModeScope mode(StreamMode::deferred);
  for (const bool producer_first : {true, false}) {
    Log log;
    Stream producer, consumer, bystander;
    Event before, after;
    producer.enqueue([&] { log.push_back(1); });
    before.record(producer);
    producer.enqueue([] { throw std::runtime_error("broken"); });
    producer.enqueue([&] { log.push_back(2); });
    after.record(producer);
    consumer.wait(after);
    consumer.enqueue([&] { log.push_back(3); });
    bystander.wait(before);
    bystander.enqueue([&] { log.push_back(4); });
    if (producer_first) {
      EXPECT_EQ(message_of([&] { producer.synchronize(); }), "broken");
    }
    EXPECT_EQ(message_of([&] { consumer.synchronize(); }), "broken");
    EXPECT_TRUE(consumer.idle());
    EXPECT_TRUE(producer.idle());
    bystander.synchronize();
    EXPECT_EQ(log, (Log{1, 4}));
    EXPECT_TRUE(after.done());
    EXPECT_EQ(message_of([&] { after.synchronize(); }), "broken");
    before.synchronize();
    // What is recorded from now on starts afresh.
    producer.enqueue([&] { log.push_back(5); });
    after.record(producer);
    consumer.wait(after);
    consumer.enqueue([&] { log.push_back(6); });
    consumer.synchronize();
    EXPECT_EQ(log, (Log{1, 4, 5, 6}));
  }
}

TEST(SimtStream, SynchronizeAllTriesEveryStream) {
  const ModeScope mode(StreamMode::deferred);
  Log log;
  Stream a, b, c;
  a.enqueue([&] { log.push_back(1); });
  b.enqueue([] { throw std::runtime_error("first"); });
  c.enqueue([&] { log.push_back(3); });
  c.enqueue([] { throw std::runtime_error("second"); });
  EXPECT_EQ(message_of([] { synchronize_all(); }), "first");
  EXPECT_EQ(log, (Log{1, 3}));
  EXPECT_TRUE(a.idle() && b.idle() && c.idle());
  synchronize_all();
}

TEST(SimtStream, DestructionRunsWhatIsLeft) {
  const ModeScope mode(StreamMode::deferred);
  Log log;
  Event event;
  {
    Stream stream;
    stream.enqueue([&] { log.push_back(1); });
    event.record(stream);
  }
  EXPECT_EQ(log, Log{1});
  EXPECT_TRUE(event.done());
  event.synchronize();  // outlives its stream
  testing::internal::CaptureStderr();
  {
    Stream stream;
    stream.enqueue([] { throw std::runtime_error("broken"); });
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "[simt] an error in a stream that is being destroyed: broken\n");
}

TEST(SimtStream, BackToImmediateRunsTheDeferredWorkFirst) {
  const ModeScope outer(StreamMode::deferred);
  Log log;
  Stream stream;
  stream.enqueue([&] { log.push_back(1); });
  const ModeScope inner(StreamMode::immediate);
  EXPECT_TRUE(log.empty());
  stream.enqueue([&] { log.push_back(2); });
  EXPECT_EQ(log, (Log{1, 2}));
}

// In immediate mode too an event of a stream with deferred work is waited for.
TEST(SimtStream, ImmediateWaitRunsDeferredWorkOfTheOtherStream) {
  const ModeScope outer(StreamMode::deferred);
  Log log;
  Stream a, b;
  Event event;
  a.enqueue([&] { log.push_back(1); });
  event.record(a);
  const ModeScope inner(StreamMode::immediate);
  b.wait(event);
  EXPECT_EQ(log, Log{1});
}

TEST(SimtStream, WorkMayEnqueueOnItsOwnStream) {
  for (const StreamMode kind : {StreamMode::immediate, StreamMode::deferred}) {
    const ModeScope mode(kind);
    Log log;
    Stream stream;
    stream.enqueue([&] {
      stream.enqueue([&] { log.push_back(2); });
      log.push_back(1);
    });
    stream.synchronize();
    EXPECT_EQ(log, (Log{1, 2}));
  }
}

TEST(SimtStream, WaitCyclesAreFound) {
  for (const StreamMode kind : {StreamMode::immediate, StreamMode::deferred}) {
    const ModeScope mode(kind);
    Stream a, b;
    const auto own = [&] {
      a.enqueue([&] { a.synchronize(); });
      a.synchronize();
    };
    EXPECT_THROW(own(), std::logic_error);
    EXPECT_NE(message_of(own).find("wait cycle"), std::string::npos);
    EXPECT_TRUE(a.idle());
  }
  // Over another stream: a's work waits for b, which waits for the end of that work.
  const ModeScope mode(StreamMode::deferred);
  Log log;
  Stream a, b;
  Event end_of_a;
  a.enqueue([&] { b.synchronize(); });
  end_of_a.record(a);
  b.wait(end_of_a);
  b.enqueue([&] { log.push_back(1); });
  EXPECT_THROW(a.synchronize(), std::logic_error);
  EXPECT_TRUE(a.idle());
  EXPECT_THROW(b.synchronize(), std::logic_error);  // what it waited for never came
  EXPECT_TRUE(log.empty());
}

TEST(SimtStream, WaitCyclesOfTwoThreadsAreFound) {
  const ModeScope mode(StreamMode::deferred);
  std::atomic<int> inside{0}, cycles{0};
  Stream a, b;
  const auto meet_then_wait_for = [&](Stream& other) {
    ++inside;
    while (inside < 2) std::this_thread::yield();
    try {
      other.synchronize();
    } catch (const std::logic_error&) { ++cycles; }
  };
  a.enqueue([&] { meet_then_wait_for(b); });
  b.enqueue([&] { meet_then_wait_for(a); });
  std::thread first([&] { a.synchronize(); }), second([&] { b.synchronize(); });
  first.join();
  second.join();
  EXPECT_EQ(cycles, 1);  // whoever comes second; then the first one's wait is over
  EXPECT_TRUE(a.idle() && b.idle());
}

TEST(SimtStream, ManyThreadsEnqueueAndWait) {
  for (const StreamMode kind : {StreamMode::immediate, StreamMode::deferred}) {
    const ModeScope mode(kind);
    constexpr int kThreads = 4, kRounds = 500;
    int sum = 0;  // not atomic: the stream runs one item at a time
    std::vector<Log> logs(kThreads);
    Stream common;
    std::vector<std::thread> threads;
    threads.reserve(kThreads);
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        Stream own;
        Event event;
        for (int i = 0; i < kRounds; ++i) {
          common.enqueue([&] { ++sum; });
          event.record(common);
          own.wait(event);
          own.enqueue([&, i] { logs[t].push_back(i); });
          if (i % 10 == 0) own.synchronize();
          if (i % 35 == 0) common.synchronize();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    common.synchronize();
    EXPECT_EQ(sum, kThreads * kRounds);
    for (const Log& log : logs) {
      ASSERT_EQ(log.size(), static_cast<std::size_t>(kRounds));
      EXPECT_TRUE(std::is_sorted(log.begin(), log.end()));
    }
  }
}

// Two streams' work can be under way at the same time when two threads wait for them.
TEST(SimtStream, StreamsOfTwoThreadsRunSideBySide) {
  for (const StreamMode kind : {StreamMode::immediate, StreamMode::deferred}) {
    const ModeScope mode(kind);
    std::atomic<int> inside{0};
    const auto meet = [&] {
      ++inside;
      while (inside < 2) std::this_thread::yield();
    };
    const auto work = [&] {
      Stream stream;
      stream.enqueue(meet);
      stream.synchronize();
    };
    std::thread first(work), second(work);
    first.join();
    second.join();
    EXPECT_EQ(inside, 2);
  }
}

TEST(SimtStream, MissingSynchronisationShowsStaleData) {
  const ModeScope mode(StreamMode::deferred);
  auto* data = static_cast<int*>(device_malloc(sizeof(int)));
  const int before = 1, after = 2;
  copy_to_device(data, &before, sizeof(int));
  int seen = 0;
  Stream producer, consumer;
  Event ready;
  producer.enqueue([&] { copy_to_device(data, &after, sizeof(int)); });
  ready.record(producer);
  consumer.enqueue([&] { copy_to_host(&seen, data, sizeof(int)); });
  consumer.synchronize();
  EXPECT_EQ(seen, before);  // nobody waited for the producer
  consumer.wait(ready);
  consumer.enqueue([&] { copy_to_host(&seen, data, sizeof(int)); });
  consumer.synchronize();
  EXPECT_EQ(seen, after);
  device_free(data);
}

TEST(SimtStream, MemoryThatIsGivenBackTooEarlyShows) {
  const ModeScope mode(StreamMode::deferred);
  void* data = device_malloc(64);
  Stream stream;
  stream.enqueue([=] { fill_bytes(data, 0, 64); });
  device_free(data);
  EXPECT_THROW(stream.synchronize(), std::out_of_range);
}

TEST(SimtStream, EmptyWorkIsRefused) {
  Stream stream;
  EXPECT_THROW(stream.enqueue(nullptr), std::invalid_argument);
  EXPECT_TRUE(stream.idle());
}

TEST(SimtStreamDeathTest, TheEnvironmentChoosesTheMode) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";  // a fresh process: the variable is read once
  const auto exit_with_mode = [](const char* value) {
    setenv("WEFT_SIMT_STREAMS", value, 1);
    int code = 3;
    try {
      code = stream_mode() == StreamMode::deferred ? 1 : 2;
    } catch (const std::invalid_argument& error) { std::fputs(error.what(), stderr); }
    std::_Exit(code);
  };
  EXPECT_EXIT(exit_with_mode("deferred"), testing::ExitedWithCode(1), "");
  EXPECT_EXIT(exit_with_mode("immediate"), testing::ExitedWithCode(2), "");
  EXPECT_EXIT(exit_with_mode(""), testing::ExitedWithCode(2), "");
  EXPECT_EXIT(exit_with_mode("later"), testing::ExitedWithCode(3),
              "WEFT_SIMT_STREAMS must be 'immediate' or 'deferred' but is 'later'");
}

// --- failpoints ------------------------------------------------------------------------------------------------------

TEST(SimtFailpoint, TheNthCallFailsOnce) {
  for (const auto& [arm, fails] :
       {std::pair{&fail_malloc_at, &malloc_fails}, std::pair{&fail_launch_at, &launch_fails}}) {
    EXPECT_FALSE(fails());
    arm(3);
    EXPECT_FALSE(fails());
    EXPECT_FALSE(fails());
    EXPECT_TRUE(fails());
    EXPECT_FALSE(fails());
    arm(1);
    EXPECT_TRUE(fails());
    arm(1);
    arm(0);
    EXPECT_FALSE(fails());
    EXPECT_THROW(arm(-1), std::invalid_argument);
  }
  fail_malloc_at(1);
  EXPECT_FALSE(launch_fails());
  EXPECT_TRUE(malloc_fails());
}

TEST(SimtFailpoint, OneCallOfManyThreads) {
  fail_launch_at(5000);
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) failures += launch_fails() ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 1);
}

}  // namespace
}  // namespace weft::simt
