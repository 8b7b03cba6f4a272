// The loader's threads: the same bits for any number of them, no matter which is slow, fails, or is left in the middle.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <optional>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/reduce.h"
#include "data/loader.h"
#include "data/prefetch.h"
#include "data/transfer.h"
#include "simt/stream.h"
#include "support/batches.h"
#include "support/threads.h"
#include "tensor/allocator.h"

namespace weft::data {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using test::counting;
using test::expect_same;
using test::message_of;
using test::Seen;
using test::walk;

constexpr auto kSimt = Device{DeviceKind::simt, 0};

/// Every device that this machine has.
std::vector<Device> devices() {
  std::vector<Device> all{Device{}, kSimt};
  if (cuda_status().usable) all.push_back(Device{DeviceKind::cuda, 0});
  return all;
}

/// Ends the process when a test hangs: a thread that never comes back cannot be waited for.
class TimeLimit {
 public:
  explicit TimeLimit(std::chrono::seconds limit)
      : thread_([this, limit] {
          std::unique_lock lock(mutex_);
          if (done_.wait_for(lock, limit, [this] { return over_; })) return;
          std::fprintf(stderr, "the test hangs: it took more than %lld s\n", static_cast<long long>(limit.count()));
          std::abort();
        }) {}
  ~TimeLimit() {
    {
      const std::scoped_lock lock(mutex_);
      over_ = true;
    }
    done_.notify_all();
    thread_.join();
  }
  TimeLimit(const TimeLimit&) = delete;
  TimeLimit& operator=(const TimeLimit&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  bool over_ = false;
  std::thread thread_;
};

/// counting(n) with something happening before a batch is made.
class Hooked final : public Dataset {
 public:
  using Hook = std::function<void(std::span<const std::int64_t>)>;
  Hooked(std::int64_t samples, Hook hook) : rows_(counting(samples)), hook_(std::move(hook)) {}
  std::int64_t size() const override { return rows_.size(); }
  std::string name() const override { return "hooked"; }
  std::uint64_t fingerprint() const override { return rows_.fingerprint(); }
  Batch collate(std::span<const std::int64_t> ids) const override {
    hook_(ids);
    return rows_.collate(ids);
  }

 private:
  TensorDataset rows_;
  Hook hook_;
};

/// As if the samples in `bad` could not be read.
Hooked with_bad(std::int64_t samples, const std::vector<std::int64_t>& bad) {
  return {samples, [bad](std::span<const std::int64_t> ids) {
            for (const std::int64_t id : ids)
              for (const std::int64_t b : bad) require<IoError>(id != b, "photos", "cannot read /data/{}.png", id);
          }};
}

LoaderOptions options(std::int64_t workers, std::int64_t prefetch = 0, Device device = {}) {
  return {
      .batch = MiniBatch{8}, .accumulate = 3, .seed = 9, .device = device, .workers = workers, .prefetch = prefetch};
}

// R3, R5, S7.
TEST(LoaderWorkers, AnyNumberOfThemAndAnyPrefetchGivesTheSameBits) {
  const TimeLimit limit(120s);
  const Loader plain{counting(61), options(0)};
  std::vector<std::vector<Seen>> want;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) want.push_back(walk(plain.epoch(epoch)));
  for (const Device device : devices())
    for (const std::int64_t workers : {0, 1, 3, 8})
      for (const std::int64_t prefetch : {1, 2, 5}) {
        SCOPED_TRACE(fmt::format("{} workers {} prefetch {}", device.str(), workers, prefetch));
        const Loader loader{counting(61), options(workers, prefetch, device)};
        for (std::int64_t epoch = 0; epoch < 3; ++epoch)  // the threads stay
          expect_same(walk(loader.epoch(epoch)), want[static_cast<std::size_t>(epoch)]);
        expect_same(walk(loader.epoch(1, 5)), {want[1].begin() + 15, want[1].end()});
        EXPECT_TRUE(walk(loader.epoch(1, 8)).empty());
      }
}

TEST(LoaderWorkers, AMicroBatchIsWholeOnItsDevice) {
  for (const Device device : devices()) {
    const Loader loader{counting(20), options(2, 3, device)};
    for (auto& update : loader.epoch(0))
      for (auto& micro : update) {
        for (const Tensor& tensor : {micro.input, micro.target, micro.sample_ids, micro.update})
          EXPECT_EQ(tensor.device(), device);
        EXPECT_EQ(micro.seed, 9u);
        EXPECT_EQ(micro.update.item<std::int64_t>(), update.number());
      }
  }
}

// R1, R2, R3, R5: stop anywhere, go on with other threads.
TEST(LoaderWorkers, ARunThatIsResumedAnywhereIsTheUninterruptedOne) {
  const TimeLimit limit(120s);
  constexpr std::int64_t kEpochs = 3, kUpdates = 8;
  std::vector<Seen> want;
  for (std::int64_t epoch = 0; epoch < kEpochs; ++epoch)
    for (Seen& seen : walk(Loader{counting(61), options(0)}.epoch(epoch))) want.push_back(std::move(seen));
  const std::int64_t workers[] = {0, 1, 3, 8};
  for (std::int64_t stop = 0; stop <= kUpdates + 1; ++stop) {
    std::vector<Seen> got;
    LoaderState state;
    std::int64_t resumed = 0;
    // Each run makes `stop` updates (one in the last place), then another process goes on with its state.
    for (bool first = true;; first = false) {
      const Loader loader{counting(61), options(workers[(resumed + stop) % 4], 1 + resumed % 5)};
      Place at = first ? Place{} : loader.locate(state);
      state = loader.state(at.epoch, at.first);
      const std::int64_t most = resumed++ == 1 ? 0 : std::max<std::int64_t>(stop, 1);  // R2: none in between
      std::int64_t made = 0;
      for (; at.epoch < kEpochs && made < most; at = {at.epoch + 1, 0})
        for (auto& update : loader.epoch(at.epoch, at.first)) {
          if (made++ == most) break;
          for (auto& micro : update) got.push_back(test::seen_of(update, micro));
          state = loader.state(update.epoch(), update.index() + 1);
        }
      if (state.epoch == kEpochs) break;
    }
    SCOPED_TRACE(stop);
    expect_same(got, want);
  }
}

TEST(LoaderWorkers, ASlowOneReordersNothing) {
  const TimeLimit limit(60s);
  const std::vector<Seen> want = walk(Loader{counting(61), options(0)}.epoch(0));
  // Every other batch takes longer than the next three together.
  std::atomic<int> calls{0};
  const Loader loader{
      Hooked(61,
             [&calls](std::span<const std::int64_t>) { std::this_thread::sleep_for(calls++ % 3 == 0 ? 6ms : 0ms); }),
      options(4, 4)};
  expect_same(walk(loader.epoch(0)), want);
}

TEST(LoaderWorkers, AreAheadByThePrefetchAndNoMore) {
  const TimeLimit limit(60s);
  std::atomic<int> made{0};
  const Loader loader{Hooked(64, [&made](std::span<const std::int64_t>) { ++made; }),
                      {.batch = MiniBatch{1}, .workers = 3, .prefetch = 5}};
  Epoch epoch = loader.epoch(0);
  Epoch::Iterator update = epoch.begin();
  for (int taken = 0; taken < 8; ++taken, ++update) {
    const auto until = std::chrono::steady_clock::now() + 5s;
    while (made < taken + 5 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    std::this_thread::sleep_for(2ms);  // would they go on?
    EXPECT_EQ(made, taken + 5);
    for (auto& micro : *update) EXPECT_EQ(micro.input.size(0), 1);
  }
}

// S4.
TEST(LoaderWorkers, EverythingMayBeLeftAtAnyPoint) {
  const TimeLimit limit(120s);
  for (const Device device : devices())
    for (const std::int64_t workers : {1, 3})
      for (int leave = 0; leave < 26; ++leave) {
        std::optional<Loader> loader(std::in_place, counting(61), options(workers, 4, device));
        int seen = 0;
        {
          Epoch epoch = loader->epoch(leave % 2);
          if (leave % 3 == 0) loader.reset();  // the loader first
          if (leave == 0) continue;            // before the walk began
          for (auto& update : epoch) {
            for (auto& micro : update) {
              EXPECT_GT(micro.input.numel(), 0);
              if (++seen >= leave) break;
            }
            if (seen >= leave) break;
          }
        }
        EXPECT_TRUE(!loader || walk(loader->epoch(0)).size() == 24u);  // the threads are free again
      }
  // While the workers are in the middle of a batch.
  std::atomic<int> inside{0};
  {
    const Loader loader{Hooked(64,
                               [&inside](std::span<const std::int64_t>) {
                                 ++inside;
                                 std::this_thread::sleep_for(20ms);
                                 --inside;
                               }),
                        options(3)};
    Epoch epoch = loader.epoch(0);
    epoch.begin();
    while (inside == 0) std::this_thread::yield();
  }
  EXPECT_EQ(inside, 0) << "a worker outlived its loader";
}

TEST(LoaderWorkers, AnUpdateMayBeWalkedAgainOrInPart) {
  const TimeLimit limit(60s);
  const std::vector<Seen> want = walk(Loader{counting(61), options(0)}.epoch(0));
  const Loader loader{counting(61), options(2, 3)};
  Epoch epoch = loader.epoch(0);
  for (int round = 0; round < 2; ++round) {
    std::vector<Seen> got;
    for (auto& update : epoch) {
      const std::int64_t k = update.index() % 4;  // so many of its three micro-batches, then all of some
      for (auto& micro : update)
        if (micro.index == k) break;
      if (update.index() % 2 == 0)
        for (auto& micro : update) got.push_back(test::seen_of(update, micro));
    }
    std::vector<Seen> even;
    for (const Seen& seen : want)
      if (seen.update % 2 == 1) even.push_back(seen);
    expect_same(got, even);
  }
}

TEST(LoaderWorkers, ServeSeveralWalksAtOnce) {
  const TimeLimit limit(60s);
  const Loader loader{counting(61), options(3, 2)};
  std::vector<std::vector<Seen>> want;
  for (std::int64_t epoch = 0; epoch < 4; ++epoch) want.push_back(walk(Loader{counting(61), options(0)}.epoch(epoch)));
  std::vector<std::future<std::vector<Seen>>> walks;
  Epoch idle = loader.epoch(7);
  idle.begin();  // nobody takes from this one
  for (std::int64_t epoch = 0; epoch < 4; ++epoch)
    walks.push_back(std::async(std::launch::async, [&loader, epoch] { return walk(loader.epoch(epoch)); }));
  for (std::size_t epoch = 0; epoch < 4; ++epoch) expect_same(walks[epoch].get(), want[epoch]);
}

// S3: the error is the one of a single thread, in its place, and nothing hangs.
TEST(LoaderWorkers, AnErrorArrivesWithTheSamplesId) {
  const TimeLimit limit(60s);
  const std::int64_t bad = Loader{counting(61), options(0)}.plan().sample_id(0, 6);  // in the third micro-batch
  for (const Device device : devices())
    for (const std::int64_t workers : {0, 1, 3, 8}) {
      const Loader loader{with_bad(61, {bad}), options(workers, 5, device)};
      std::size_t before = 0;
      const std::string message = message_of<SampleError>([&] {
        for (auto& update : loader.epoch(0))
          for (auto& micro : update) before += micro.input.defined() ? 1 : 0;
      });
      EXPECT_EQ(before, 2u);
      EXPECT_EQ(message, fmt::format("[loader] sample {0} of hooked (update 1, micro-batch 2): [photos] cannot read "
                                     "/data/{0}.png",
                                     bad));
      try {
        walk(loader.epoch(3));
        ADD_FAILURE() << "no error";
      } catch (const SampleError& error) {
        EXPECT_EQ(error.sample, bad);
        EXPECT_THROW(std::rethrow_exception(error.cause), IoError);
      }
      // Behind the error: the same again, and what comes after it.
      EXPECT_EQ(walk(loader.epoch(0, 1)).size(), 21u);
      Epoch epoch = loader.epoch(0);
      Epoch::Iterator update = epoch.begin();
      EXPECT_THROW(for ([[maybe_unused]] auto& micro : *update){}, SampleError);
      EXPECT_THROW(for ([[maybe_unused]] auto& micro : *update){}, SampleError);
      ++update;
      std::size_t rows = 0;
      for (auto& micro : *update) rows += static_cast<std::size_t>(micro.input.size(0));
      EXPECT_EQ(rows, 8u);
    }
}

TEST(LoaderWorkers, AFileThatVanishesIsNamed) {
  const TimeLimit limit(60s);
  std::string folder = (fs::temp_directory_path() / "weft_loader_XXXXXX").string();
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const auto path = [&](std::int64_t id) { return fs::path(folder) / fmt::format("{}.txt", id); };
  for (std::int64_t id = 0; id < 40; ++id) std::ofstream(path(id)) << id;
  const auto read = [&](std::span<const std::int64_t> ids) {
    for (const std::int64_t id : ids)
      require<IoError>(std::ifstream(path(id)).good(), "files", "cannot open {}", path(id).string());
  };
  const Loader loader{Hooked(40, read),
                      {.batch = MiniBatch{4}, .order = Order::sequential, .workers = 2, .prefetch = 3}};
  std::int64_t updates = 0;
  const std::string message = message_of<SampleError>([&] {
    for (auto& update : loader.epoch(0))
      for (auto& micro : update) {
        EXPECT_EQ(micro.input.size(0), 4);
        if (++updates == 2) fs::remove(path(30));  // the eighth update's; the workers are at most three ahead
      }
  });
  EXPECT_EQ(updates, 7);
  EXPECT_EQ(message, fmt::format("[loader] sample 30 of hooked (update 8, micro-batch 0): [files] cannot open {}",
                                 path(30).string()));
  fs::remove_all(folder);
}

TEST(LoaderWorkers, OtherErrorsStayWhatTheyAre) {
  const TimeLimit limit(60s);
  for (const std::int64_t workers : {0, 2}) {
    const Loader memory{Hooked(64, [](std::span<const std::int64_t>) { throw OutOfMemory("[test] full", 1, 2, 3); }),
                        options(workers)};
    EXPECT_EQ(message_of<OutOfMemory>([&] { walk(memory.epoch(0)); }), "[test] full");
    const Loader batch{
        Hooked(64, [](std::span<const std::int64_t> ids) { require(ids.size() < 3, "test", "too many"); }),
        options(workers)};
    EXPECT_EQ(message_of<Error>([&] { walk(batch.epoch(0)); }), "[test] too many");
    const Loader odd{Hooked(64, [](std::span<const std::int64_t>) { throw 42; }), options(workers)};
    EXPECT_THROW(walk(odd.epoch(0)), int);

    // A plan that fails in the middle of the epoch.
    struct Broken final : BatchSource {
      std::string name() const override { return "broken"; }
      std::int64_t samples() const override { return 10; }
      std::int64_t updates_per_epoch(std::int64_t) const override { return 10; }
      std::int64_t updates_before(std::int64_t epoch) const override { return 10 * epoch; }
      PlannedUpdate update(std::int64_t epoch, std::int64_t index) const override {
        require(index < 4, "broken", "no update {}", index);
        return {.number = 10 * epoch + index + 1, .epoch = epoch, .index = index, .first = index, .samples = 1};
      }
      MicroBatch collate(const PlannedUpdate&, std::int64_t) const override {
        MicroBatch micro;
        micro.input = micro.target = micro.sample_ids = Tensor::from_vector<std::int64_t>({1}, {1});
        return micro;
      }
      std::uint64_t seed() const override { return 0; }
      std::uint64_t hash() const override { return 0; }
    };
    const Loader broken(std::make_shared<Broken>(), DeliveryOptions{.workers = workers});
    std::int64_t updates = 0;
    EXPECT_EQ(message_of<Error>([&] {
                for (auto& update : broken.epoch(0))
                  for ([[maybe_unused]] auto& micro : update) ++updates;
              }),
              "[broken] no update 4");
    EXPECT_EQ(updates, 4);
    EXPECT_EQ(message_of<OptionError>([&] { broken.plan(); }),
              "[loader] broken is no data set of samples of one size: ask the loader's source() instead");
  }
}

// S5: the ledger, the batches and the moment of giving up do not depend on the workers.
TEST(LoaderWorkers, BadSamplesAreLeftOutAndNoted) {
  const TimeLimit limit(60s);
  const std::vector<std::int64_t> bad{3, 17, 18, 44};
  std::vector<Seen> want;
  std::vector<SkippedSample> ledger;
  for (const Device device : devices())
    for (const std::int64_t workers : {0, 1, 3}) {
      LoaderOptions skipping = options(workers, 4, device);
      skipping.on_error = OnError::skip;
      skipping.skip_quota = 4;
      const Loader loader{with_bad(61, bad), skipping};
      const std::vector<Seen> seen = walk(loader.epoch(0));
      if (want.empty()) {
        want = seen;
        ledger = loader.skipped();
        std::vector<int> count(61, 0);
        for (const Seen& s : seen)
          for (std::size_t row = 0; row < static_cast<std::size_t>(s.ids.numel()); ++row) {
            const std::int64_t id = s.ids.to_vector<std::int64_t>()[row];
            ++count.at(static_cast<std::size_t>(id));
            EXPECT_EQ(s.target.to_vector<std::int64_t>()[row], 2 * id + 1);
          }
        for (std::int64_t id = 0; id < 61; ++id)
          EXPECT_EQ(count[static_cast<std::size_t>(id)], std::find(bad.begin(), bad.end(), id) == bad.end() ? 1 : 0)
              << id;
        ASSERT_EQ(ledger.size(), 4u);
        for (const SkippedSample& skipped : ledger) {
          EXPECT_EQ(skipped.reason, fmt::format("[photos] cannot read /data/{}.png", skipped.sample));
          std::vector<std::int64_t> ids(8);
          loader.plan().sample_ids(0, 8 * (skipped.update - 1), std::span(ids).first(skipped.update == 8 ? 5 : 8));
          EXPECT_NE(std::find(ids.begin(), ids.end(), skipped.sample), ids.end());
        }
      }
      expect_same(seen, want);
      EXPECT_EQ(loader.skipped(), ledger);
      walk(loader.epoch(1));  // the same samples again: noted, but no new ones
      EXPECT_EQ(loader.skipped().size(), 8u);

      skipping.skip_quota = 2;
      const Loader strict{with_bad(61, bad), skipping};
      const std::string message = message_of<SampleError>([&] { walk(strict.epoch(0)); });
      EXPECT_EQ(message,
                fmt::format("[loader] 3 samples of hooked had to be skipped but skip_quota is 2; the last one is "
                            "sample {} (update {}): {}",
                            ledger[2].sample, ledger[2].update, ledger[2].reason));
    }
  // What is left is changed as it is with them.
  std::vector<float> noise(61 * 25);
  for (std::size_t i = 0; i < noise.size(); ++i) noise[i] = static_cast<float>(i);
  const TensorDataset images(Tensor::from_vector(noise, {61, 5, 5}), zeros({61}));
  struct Holes final : Dataset {
    Holes(TensorDataset rows, std::vector<std::int64_t> bad) : rows(std::move(rows)), bad(std::move(bad)) {}
    std::int64_t size() const override { return rows.size(); }
    std::string name() const override { return "holes"; }
    std::uint64_t fingerprint() const override { return 0; }
    Batch collate(std::span<const std::int64_t> ids) const override {
      for (const std::int64_t id : ids)
        require<IoError>(std::find(bad.begin(), bad.end(), id) == bad.end(), "holes", "no {}", id);
      return rows.collate(ids);
    }
    TensorDataset rows;
    std::vector<std::int64_t> bad;
  };
  LoaderOptions cropping = options(2);
  cropping.on_error = OnError::skip;
  cropping.transform = image_transform({RandomCrop{.height = 2, .width = 2}});
  std::map<std::int64_t, std::vector<float>> windows;
  for (const Seen& seen : walk(Loader{images, cropping}.epoch(0)))
    for (std::int64_t row = 0; row < seen.ids.numel(); ++row)
      windows[seen.ids[row].item<std::int64_t>()] = seen.input[row].to_vector<float>();
  for (const Seen& seen : walk(Loader{Holes(images, bad), cropping}.epoch(0)))
    for (std::int64_t row = 0; row < seen.ids.numel(); ++row)
      EXPECT_EQ(windows[seen.ids[row].item<std::int64_t>()], seen.input[row].to_vector<float>());

  // A micro-batch without a good sample is an empty one.
  const Loader hollow{with_bad(4, {0, 1}),
                      {.batch = MiniBatch{2}, .order = Order::sequential, .on_error = OnError::skip}};
  const std::vector<Seen> seen = walk(hollow.epoch(0));
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].input.shape(), (Shape{0, 3}));
  EXPECT_EQ(seen[1].input.shape(), (Shape{2, 3}));
}

TEST(LoaderWorkers, TakeNoMemoryFromTheSystemOnceWarm) {
  const TimeLimit limit(60s);
  for (const std::int64_t workers : {0, 2}) {
    const Loader loader{TensorDataset(zeros({1000, 300}), zeros({1000})),
                        {.batch = MiniBatch{64}, .accumulate = 2, .workers = workers, .prefetch = 4}};
    const auto run = [&](std::int64_t epoch) {
      double rows = 0;
      for (auto& update : loader.epoch(epoch)) {
        if (epoch == 0) std::this_thread::sleep_for(5ms);  // all that can be made ahead is made
        for (auto& micro : update) rows += static_cast<double>(micro.input.size(0));
      }
      EXPECT_EQ(rows, 1000);
    };
    {  // more at once than any timing of the workers keeps alive
      std::vector<MicroBatch> alive;
      for (auto& update : loader.epoch(0))
        for (auto& micro : update) alive.push_back(micro);
    }
    run(0);
    const MemoryStats before = cpu_memory_stats();
    for (std::int64_t epoch = 1; epoch < 6; ++epoch) run(epoch);
    const MemoryStats after = cpu_memory_stats();
    EXPECT_EQ(after.system_allocations, before.system_allocations) << workers;
    EXPECT_GT(after.allocations, before.allocations);
    EXPECT_EQ(after.current_bytes, before.current_bytes);
  }
}

// With deferred streams, work runs when somebody waits for it: a missing wait, or memory that is reused too early, shows.
TEST(LoaderWorkers, CopiesAreWaitedForAndMemoryOutlivesItsUse) {
  const TimeLimit limit(120s);
  struct Deferred {
    Deferred() { simt::set_stream_mode(simt::StreamMode::deferred); }
    ~Deferred() { simt::set_stream_mode(simt::StreamMode::immediate); }
  };
  const std::vector<Seen> want = walk(Loader{counting(61), options(0)}.epoch(0));
  for (const std::int64_t workers : {0, 3}) {
    const Deferred deferred;
    const Loader loader{counting(61), options(workers, 2, kSimt)};
    std::vector<Tensor> doubled;
    const Stream own(kSimt);
    for (auto& update : loader.epoch(0))
      for (auto& micro : update) doubled.push_back(micro.input + micro.input);  // nothing waits for it yet
    ASSERT_EQ(doubled.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i)
      EXPECT_TRUE(test::bitwise_equal(to(doubled[i], Device{}), want[i].input + want[i].input)) << i;
    // On a stream of the user's.
    const StreamScope scope(own);
    expect_same(walk(loader.epoch(0)), want);
  }
}

TEST(Transfer, PinnedBuffersAreAllocatedOnce) {
  detail::Transfer transfer(kSimt, 2);
  const auto send = [&](std::int64_t rows) {
    MicroBatch micro;
    micro.input = rand({rows, 3}, 1).t();  // strided
    micro.target = zeros({0});
    micro.sample_ids = Tensor::from_vector(std::vector<std::int64_t>(static_cast<std::size_t>(rows), 5), {rows});
    micro.segments = Segments({0, 2, 7});
    const Tensor want = micro.input;
    std::optional<Event> ready;
    transfer.send(micro, ready);
    detail::Transfer::receive(micro, *ready);
    EXPECT_EQ(to(micro.input, Device{}).to_vector<float>(), want.to_vector<float>());
    EXPECT_EQ(micro.target.shape(), Shape{0});
    EXPECT_EQ(micro.segments.device(), kSimt);
    EXPECT_EQ(to(micro.segments.ids(), Device{}).to_vector<std::int32_t>(),
              (std::vector<std::int32_t>{0, 0, 1, 1, 1, 1, 1}));
    EXPECT_FALSE(micro.weight.defined());
  };
  send(10);
  send(10);
  EXPECT_EQ(transfer.allocations(), 4);  // two stages with input and ids
  for (const std::int64_t rows : {1, 10, 3, 9}) send(rows);
  EXPECT_EQ(transfer.allocations(), 4);
  send(11);
  EXPECT_EQ(transfer.allocations(), 6);
}

TEST(LoaderWorkers, RefusesWrongOptions) {
  EXPECT_EQ(message_of<OptionError>([] { Loader(counting(10), {.batch = Sgd{}, .workers = -1}); }),
            "[loader] workers must be in [0, 256] but is -1: 0 makes batches in the calling thread");
  EXPECT_EQ(message_of<OptionError>([] { Loader(counting(10), {.batch = Sgd{}, .workers = 257}); }),
            "[loader] workers must be in [0, 256] but is 257: 0 makes batches in the calling thread");
  EXPECT_EQ(message_of<OptionError>([] { Loader(counting(10), {.batch = Sgd{}, .prefetch = -2}); }),
            "[loader] prefetch must be in [0, 65536] but is -2: 0 means two micro-batches per worker");
  EXPECT_EQ(message_of<OptionError>([] { Loader(counting(10), {.batch = Sgd{}, .skip_quota = -1}); }),
            "[loader] skip_quota must be at least 0 but is -1");
  EXPECT_EQ(message_of<OptionError>([] { Loader(std::shared_ptr<const BatchSource>()); }),
            "[loader] needs a source of batches but has a null pointer");
}

TEST(Parallel, ASerialScopeKeepsToItsThread) {
  const test::Threads guard(4);
  const std::thread::id self = std::this_thread::get_id();
  std::atomic<int> elsewhere{0};
  {
    const SerialScope alone;
    parallel_chunks(100, [&](std::int64_t) { elsewhere += std::this_thread::get_id() == self ? 0 : 1; });
  }
  EXPECT_EQ(elsewhere, 0);
}

}  // namespace
}  // namespace weft::data
