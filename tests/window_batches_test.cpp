#include "data/window_batches.h"

#include <numeric>
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "autograd/factories.h"
#include "data/loader.h"
#include "data/splits.h"
#include "support/compare.h"

namespace weft::data {
namespace {

using test::bitwise_equal;
using test::message_of;
using Ids = std::vector<std::int64_t>;

std::shared_ptr<const WindowDataset> dataset(const RollingWindows& windows, Ids ids) {
  const Tensor series = randn({windows.steps(), 2}, 1);
  return std::make_shared<WindowDataset>(series, series.select(1, 0), windows, std::move(ids), "series");
}

TEST(WindowBatches, HoldEveryWindowOnceAndNoOverlap) {
  const RollingWindows windows(1000, {.lookback = 10, .horizon = 3, .stride = 2});
  const auto data = dataset(windows, chronological_split(windows, 0.2).train);
  const auto batches =
      std::make_shared<WindowBatches>(data, PlanOptions{.batch = MiniBatch{16}, .accumulate = 3, .seed = 7});
  Loader loader(batches);
  std::set<Ids> orders;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    std::multiset<std::int64_t> seen;
    Ids order;
    for (Update& update : loader.epoch(epoch)) {
      Ids together;
      for (const MicroBatch& micro : update) {
        const Ids ids = micro.sample_ids.to_vector<std::int64_t>();
        together.insert(together.end(), ids.begin(), ids.end());
        const Batch want = data->collate(ids);
        EXPECT_TRUE(bitwise_equal(micro.input, want.input) && bitwise_equal(micro.target, want.target));
      }
      EXPECT_EQ(static_cast<std::int64_t>(together.size()), update.samples());
      for (std::size_t i = 0; i < together.size(); ++i)
        for (std::size_t j = 0; j < i; ++j) {
          const auto window = [&](std::size_t k) {
            return windows[data->ids()[static_cast<std::size_t>(together[k])]];
          };
          EXPECT_FALSE(window(i).span().overlaps(window(j).span()));
        }
      seen.insert(together.begin(), together.end());
      order.insert(order.end(), together.begin(), together.end());
    }
    EXPECT_EQ(static_cast<std::int64_t>(seen.size()), data->size());
    EXPECT_EQ(std::set<std::int64_t>(seen.begin(), seen.end()).size(), seen.size());
    orders.insert(order);
  }
  EXPECT_EQ(orders.size(), 3u);  // another one in each epoch
}

// A batch is a function of (epoch, index): whatever was asked before, from whatever thread.
TEST(WindowBatches, AreAFunctionOfTheirPlace) {
  const RollingWindows windows(400, {.lookback = 5, .horizon = 1});
  const auto data = dataset(windows, chronological_split(windows, 0.2).train);
  const PlanOptions options{.batch = MiniBatch{8}, .seed = 3};
  const auto ids_of = [](const WindowBatches& batches, std::int64_t epoch, std::int64_t index) {
    return batches.collate(batches.update(epoch, index), 0).sample_ids.to_vector<std::int64_t>();
  };
  const WindowBatches batches(data, options);
  std::vector<Ids> want;
  for (std::int64_t epoch = 0; epoch < 5; ++epoch) want.push_back(ids_of(WindowBatches(data, options), epoch, 2));
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (std::size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < 40; ++i) {
        const std::size_t epoch = (i * (t + 1)) % 5;
        wrong[t] += ids_of(batches, static_cast<std::int64_t>(epoch), 2) == want[epoch] ? 0 : 1;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
  // The hash tells orders, seeds and windows apart.
  const std::set<std::uint64_t> hashes{
      batches.hash(), WindowBatches(data, {.batch = MiniBatch{8}, .seed = 4}).hash(),
      WindowBatches(data, {.batch = MiniBatch{9}, .seed = 3}).hash(),
      WindowBatches(dataset(windows, {0, 50, 100}), {.batch = MiniBatch{1}, .seed = 3}).hash()};
  EXPECT_EQ(hashes.size(), 4u);
  EXPECT_EQ(batches.hash(), WindowBatches(data, {.batch = MiniBatch{8}, .accumulate = 2, .seed = 3}).hash());
}

// The ranks' shares are the update, with rows of weight 0 where they do not divide.
TEST(WindowBatches, AreSharedByRanks) {
  const RollingWindows windows(206, {.lookback = 5, .horizon = 2});
  Ids all(200);
  std::iota(all.begin(), all.end(), 0);
  const auto data = dataset(windows, all);
  const PlanOptions options{.batch = MiniBatch{8}, .accumulate = 2, .seed = 3};
  const WindowBatches whole(data, options);
  for (const std::int64_t index : {std::int64_t{0}, whole.updates_per_epoch(0) - 1}) {
    const PlannedUpdate update = whole.update(0, index);
    Ids want, got;
    for (std::int64_t k = 0; k < update.parts; ++k)
      for (const std::int64_t id : whole.collate(update, k).sample_ids.to_vector<std::int64_t>()) want.push_back(id);
    std::set<std::int64_t> rows;
    for (std::int64_t rank = 0; rank < 3; ++rank) {
      PlanOptions share = options;
      share.rank = rank;
      share.ranks = 3;
      const WindowBatches batches(data, share);
      EXPECT_EQ(batches.hash(), whole.hash());
      const PlannedUpdate planned = batches.update(0, index);
      std::int64_t count = 0;
      for (std::int64_t k = 0; k < planned.parts; ++k) {
        const MicroBatch micro = batches.collate(planned, k);
        const Ids ids = micro.sample_ids.to_vector<std::int64_t>();
        for (std::size_t row = 0; row < ids.size(); ++row)
          if (!micro.weight.defined() || micro.weight.to_vector<float>()[2 * row] == 1) got.push_back(ids[row]);
        count += micro.input.size(0);
      }
      rows.insert(count);
    }
    EXPECT_EQ(got, want);
    EXPECT_EQ(rows.size(), 1u);  // each rank as many
  }
}

TEST(WindowBatches, RefuseWhatCannotBe) {
  const RollingWindows windows(100, {.lookback = 19, .horizon = 1});
  const auto data = dataset(windows, chronological_split(windows, 0.25).train);
  EXPECT_NE(
      message_of<ShapeError>([&] { WindowBatches(data, {.batch = MiniBatch{16}}); }).find("cannot be free of overlaps"),
      std::string::npos);
  EXPECT_NE(
      message_of<ShapeError>([&] { WindowBatches(data, {.batch = FullBatch{}}); }).find("cannot be free of overlaps"),
      std::string::npos);
  EXPECT_EQ(message_of<OptionError>([&] { WindowBatches(data, {.order = Order::sequential}); }),
            "[window_batches] batches without overlap are drawn at random: the order must be shuffled");
  EXPECT_EQ(message_of<OptionError>([&] {
              WindowBatches(dataset(windows, {3, 2}), {.batch = Sgd{}});
            }),
            "[window_batches] the windows of series must be in ascending order of time");
  EXPECT_EQ(message_of<OptionError>([&] { WindowBatches(nullptr); }),
            "[window_batches] needs a data set but has a null pointer");
}

}  // namespace
}  // namespace weft::data
