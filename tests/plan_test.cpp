#include "data/plan.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/threads.h"
#include "tensor/philox.h"

namespace weft::data {
namespace {

using test::message_of;

struct Case {
  std::int64_t samples;
  PlanOptions options;
  std::string str;
};

/// A random configuration; `str` says how to make it again.
Case random_case(Philox& random) {
  const auto below = [&](std::int64_t n) {
    return static_cast<std::int64_t>(random.next_u64() % static_cast<std::uint64_t>(n));
  };
  Case c;
  c.samples = 1 + below(random.uniform() < 0.3 ? 5 : 500);
  std::int64_t batch = 0;
  const double kind = random.uniform();
  if (kind < 0.15) {
    c.options.batch = Sgd{};
    batch = 1;
  } else if (kind < 0.3) {
    c.options.batch = FullBatch{};
    batch = c.samples;
  } else {
    batch = 1 + below(c.samples);
    c.options.batch = MiniBatch{batch};
  }
  c.options.accumulate = 1 + below(random.uniform() < 0.5 ? batch : std::min<std::int64_t>(batch, 4));
  c.options.drop_last = random.uniform() < 0.5;
  c.options.order = random.uniform() < 0.7 ? Order::shuffled : Order::sequential;
  c.options.seed = random.next_u64();
  c.str = fmt::format("samples {} batch {} (kind {}) accumulate {} drop_last {} order {} seed {}", c.samples, batch,
                      c.options.batch.index(), c.options.accumulate, c.options.drop_last,
                      static_cast<int>(c.options.order), c.options.seed);
  return c;
}

std::vector<std::int64_t> ids_of(const Plan& plan, const PlannedUpdate& update) {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(update.samples));
  plan.sample_ids(update.epoch, update.first, ids);
  return ids;
}

TEST(Plan, EverySampleExactlyOnceInUpdatesOfTheRightSize) {
  Philox random(20261121);
  for (int trial = 0; trial < 400; ++trial) {
    const Case c = random_case(random);
    SCOPED_TRACE(c.str);
    const Plan plan(c.samples, c.options);
    const std::int64_t batch = plan.batch_size(), rest = c.samples % batch;
    ASSERT_EQ(plan.updates_per_epoch(), c.options.drop_last ? c.samples / batch : (c.samples + batch - 1) / batch);
    ASSERT_EQ(plan.samples_per_epoch(), c.options.drop_last ? c.samples - rest : c.samples);
    for (const std::int64_t epoch : {0, 1, 1000}) {
      std::multiset<std::int64_t> seen;
      std::int64_t place = 0;
      for (std::int64_t index = 0; index < plan.updates_per_epoch(); ++index) {
        const PlannedUpdate update = plan.update(epoch, index);
        ASSERT_EQ(update.number, epoch * plan.updates_per_epoch() + index + 1);
        ASSERT_EQ(update.epoch, epoch);
        ASSERT_EQ(update.index, index);
        ASSERT_EQ(update.first, place);
        const bool last = index + 1 == plan.updates_per_epoch();
        ASSERT_EQ(update.samples, last && rest != 0 && !c.options.drop_last ? rest : batch);
        for (const std::int64_t id : ids_of(plan, update)) seen.insert(id);
        place += update.samples;
      }
      ASSERT_EQ(static_cast<std::int64_t>(seen.size()), plan.samples_per_epoch());
      ASSERT_EQ(std::set<std::int64_t>(seen.begin(), seen.end()).size(), seen.size()) << "a sample came twice";
      ASSERT_GE(*seen.begin(), 0);
      ASSERT_LT(*seen.rbegin(), c.samples);
    }
  }
}

TEST(Plan, MicroBatchesCoverTheUpdateAndDifferByAtMostOne) {
  Philox random(7);
  for (int trial = 0; trial < 400; ++trial) {
    const Case c = random_case(random);
    SCOPED_TRACE(c.str);
    const Plan plan(c.samples, c.options);
    for (std::int64_t index = 0; index < plan.updates_per_epoch(); ++index) {
      const PlannedUpdate update = plan.update(3, index);
      ASSERT_EQ(update.parts, std::min(c.options.accumulate, update.samples));
      std::int64_t place = update.first, smallest = update.samples, largest = 0, before = update.samples;
      for (std::int64_t k = 0; k < update.parts; ++k) {
        const PlannedPart part = update.part(k);
        ASSERT_EQ(part.first, place);
        ASSERT_LE(part.samples, before) << "a larger part came later";
        place += part.samples;
        before = part.samples;
        smallest = std::min(smallest, part.samples);
        largest = std::max(largest, part.samples);
      }
      ASSERT_EQ(place, update.first + update.samples);
      ASSERT_GE(smallest, 1);
      ASSERT_LE(largest - smallest, 1);
    }
  }
}

TEST(Plan, IsAPureFunctionOfItsOptions) {
  Philox random(99);
  for (int trial = 0; trial < 100; ++trial) {
    const Case c = random_case(random);
    SCOPED_TRACE(c.str);
    const Plan plan(c.samples, c.options), again(c.samples, c.options);
    EXPECT_EQ(plan.hash(), again.hash());
    // The updates asked for in reverse, place by place, and all at once, are the same.
    std::vector<std::int64_t> epoch(static_cast<std::size_t>(c.samples));
    plan.sample_ids(5, 0, epoch);
    for (std::int64_t index = plan.updates_per_epoch(); index-- > 0;) {
      const PlannedUpdate update = again.update(5, index);
      const auto ids = ids_of(again, update);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        ASSERT_EQ(ids[i], epoch[static_cast<std::size_t>(update.first) + i]);
        ASSERT_EQ(ids[i], plan.sample_id(5, update.first + static_cast<std::int64_t>(i)));
      }
    }
    // Whatever the split, an update holds the same samples in the same order.
    PlanOptions split = c.options;
    split.accumulate = plan.batch_size();
    const Plan other(c.samples, split);
    EXPECT_EQ(other.hash(), plan.hash());
    for (std::int64_t index = 0; index < plan.updates_per_epoch(); ++index)
      ASSERT_EQ(ids_of(other, other.update(2, index)), ids_of(plan, plan.update(2, index)));
  }
}

TEST(Plan, OrdersAreTheOnesAskedFor) {
  constexpr std::int64_t kSamples = 1000;
  std::vector<std::int64_t> by_id(kSamples), first(kSamples), second(kSamples), other(kSamples);
  std::iota(by_id.begin(), by_id.end(), 0);

  const Plan shuffled(kSamples, {.batch = MiniBatch{32}, .seed = 1}),
      reseeded(kSamples, {.batch = MiniBatch{32}, .seed = 2});
  shuffled.sample_ids(0, 0, first);
  shuffled.sample_ids(1, 0, second);
  reseeded.sample_ids(0, 0, other);
  EXPECT_NE(first, by_id);
  EXPECT_NE(first, second) << "two epochs have the same order";
  EXPECT_NE(first, other) << "two seeds have the same order";
  // The batch size has no part in it.
  const Plan sgd(kSamples, {.batch = Sgd{}, .seed = 1});
  sgd.sample_ids(0, 0, other);
  EXPECT_EQ(first, other);

  for (const PlanOptions& options : {PlanOptions{.batch = MiniBatch{32}, .order = Order::sequential, .seed = 1},
                                     PlanOptions{.batch = FullBatch{}, .order = Order::shuffled, .seed = 1}}) {
    const Plan plan(kSamples, options);
    plan.sample_ids(3, 0, other);
    EXPECT_EQ(other, by_id);
    EXPECT_EQ(plan.order(), Order::sequential);
  }
}

TEST(Plan, OrderIsTheSameForAnyThreadCount) {
  constexpr std::int64_t kSamples = 30'000;  // several chunks
  const Plan plan(kSamples, {.seed = 4});
  std::vector<std::int64_t> want;
  for (const int threads : {1, 2, 7}) {
    const test::Threads guard(threads);
    std::vector<std::int64_t> ids(kSamples);
    plan.sample_ids(1, 0, ids);
    if (want.empty()) want = ids;
    EXPECT_EQ(ids, want) << threads << " threads";
  }
}

TEST(Plan, RegimesAreOneKnob) {
  const Plan sgd(10, {.batch = Sgd{}}), full(10, {.batch = FullBatch{}, .accumulate = 3}),
      mini(10, {.batch = MiniBatch{4}});
  EXPECT_EQ(sgd.updates_per_epoch(), 10);
  EXPECT_EQ(sgd.batch_size(), 1);
  EXPECT_EQ(full.updates_per_epoch(), 1);
  EXPECT_EQ(full.batch_size(), 10);
  EXPECT_EQ(full.update(0, 0).part(0).samples, 4);
  EXPECT_EQ(full.update(0, 0).part(1).samples, 3);
  EXPECT_EQ(full.update(0, 0).part(2).samples, 3);
  EXPECT_EQ(mini.updates_per_epoch(), 3);
  EXPECT_EQ(mini.update(0, 2).samples, 2);
  EXPECT_EQ(mini.update(7, 2).number, 24);
  EXPECT_EQ(Plan(1000).batch_size(), 128);
  // 1000 samples in micro-batches of 32, eight to an update, do not divide: the rest is an update of its own.
  const Plan ragged(1000, {.batch = MiniBatch{256}, .accumulate = 8});
  EXPECT_EQ(ragged.updates_per_epoch(), 4);
  EXPECT_EQ(ragged.update(0, 3).samples, 232);
  EXPECT_EQ(ragged.update(0, 3).part(7).samples, 29);
  // A short last update of fewer samples than parts.
  const Plan tiny(9, {.batch = MiniBatch{4}, .accumulate = 3});
  EXPECT_EQ(tiny.update(0, 2).samples, 1);
  EXPECT_EQ(tiny.update(0, 2).parts, 1);
}

TEST(Plan, DropLastLeavesOutOnlyAShortRest) {
  const Plan ragged(10, {.batch = MiniBatch{4}, .drop_last = true}),
      even(12, {.batch = MiniBatch{4}, .drop_last = true});
  EXPECT_EQ(ragged.updates_per_epoch(), 2);
  EXPECT_EQ(ragged.samples_per_epoch(), 8);
  EXPECT_EQ(even.updates_per_epoch(), 3);
  EXPECT_EQ(Plan(10, {.batch = FullBatch{}, .drop_last = true}).updates_per_epoch(), 1);
  EXPECT_EQ(Plan(10, {.batch = MiniBatch{10}, .drop_last = true}).updates_per_epoch(), 1);
  // What is left out differs from epoch to epoch: over 50 epochs every sample takes part (a given one stays out of all of
  // them with a chance of 0.2^50).
  std::set<std::int64_t> seen;
  for (std::int64_t epoch = 0; epoch < 50; ++epoch)
    for (std::int64_t place = 0; place < ragged.samples_per_epoch(); ++place)
      seen.insert(ragged.sample_id(epoch, place));
  EXPECT_EQ(seen.size(), 10u);
}

TEST(Plan, HashNamesWhatDecidesTheOrder) {
  const PlanOptions base{
      .batch = MiniBatch{32}, .accumulate = 2, .drop_last = false, .order = Order::shuffled, .seed = 1};
  const std::uint64_t hash = Plan(1000, base).hash();
  const auto changed = [&](auto change, std::int64_t samples = 1000) {
    PlanOptions options = base;
    change(options);
    return Plan(samples, options).hash() != hash;
  };
  EXPECT_TRUE(changed([](PlanOptions&) {}, 1001));
  EXPECT_TRUE(changed([](PlanOptions& o) { o.batch = MiniBatch{33}; }));
  EXPECT_TRUE(changed([](PlanOptions& o) { o.drop_last = true; }));
  EXPECT_TRUE(changed([](PlanOptions& o) { o.order = Order::sequential; }));
  EXPECT_TRUE(changed([](PlanOptions& o) { o.seed = 2; }));
  EXPECT_FALSE(changed([](PlanOptions& o) { o.accumulate = 32; }));
  EXPECT_EQ(Plan(1000, {.batch = Sgd{}}).hash(), Plan(1000, {.batch = MiniBatch{1}}).hash());
}

// Checkpoints hold these: another order for the same options must come with another hash (plan.cpp's kVersion).
TEST(Plan, OrderAndHashStayWhatTheyWere) {
  const Plan plan(60'000, {.batch = MiniBatch{128}, .seed = 1});
  std::vector<std::int64_t> ids(5);
  plan.sample_ids(0, 0, ids);
  EXPECT_EQ(ids, (std::vector<std::int64_t>{54171, 35728, 57189, 12447, 59332}));
  EXPECT_EQ(plan.hash(), 17000555435867147602u);
}

TEST(Plan, RefusesWhatCannotBeTrained) {
  const auto error = [](std::int64_t samples, const PlanOptions& options) {
    return message_of<OptionError>([&] { Plan plan(samples, options); });
  };
  EXPECT_EQ(error(60'000, {.batch = MiniBatch{70'000}}),
            "[plan] batch size 70000 is larger than the data set (60000 samples): use at most 60000, or full");
  EXPECT_EQ(error(300, {.batch = MiniBatch{512}, .drop_last = true}),
            "[plan] batch size 512 is larger than the data set (300 samples): use at most 300, or full");
  EXPECT_EQ(error(100, {.batch = MiniBatch{0}}),
            "[plan] batch size must be at least 1 but is 0: use a number in [1, 100], or full");
  EXPECT_EQ(error(100, {.batch = MiniBatch{-8}}),
            "[plan] batch size must be at least 1 but is -8: use a number in [1, 100], or full");
  EXPECT_EQ(error(100, {.batch = MiniBatch{4}, .accumulate = 8}),
            "[plan] accumulate 8 is larger than the batch size 4: a micro-batch needs a sample, use at most 4");
  EXPECT_EQ(error(100, {.batch = Sgd{}, .accumulate = 2}),
            "[plan] accumulate 2 is larger than the batch size 1: a micro-batch needs a sample, use at most 1");
  EXPECT_EQ(error(100, {.accumulate = 0, .order = Order::sequential}),
            "[plan] batch size 128 is larger than the data set (100 samples): use at most 100, or full");
  EXPECT_EQ(error(1000, {.accumulate = 0}),
            "[plan] accumulate must be at least 1 but is 0: 1 runs an update as a single micro-batch");
  for (const Regime& regime : {Regime(MiniBatch{}), Regime(Sgd{}), Regime(FullBatch{})})
    EXPECT_EQ(error(0, {.batch = regime}), "[plan] the data set is empty: a plan needs at least one sample");

  EXPECT_EQ(
      error(100, {.batch = TokenBatch{4096}}),
      "[plan] a batch of 4096 tokens needs samples that have lengths (a sequence plan) but these have none: use a "
      "number of samples, or full");

  const Plan plan(100, {.batch = MiniBatch{32}});
  EXPECT_EQ(message_of<ShapeError>([&] { plan.update(0, 4); }),
            "[plan] the update must be in [0, 4) within its epoch but is 4");
  EXPECT_EQ(message_of<ShapeError>([&] { plan.update(-1, 0); }),
            "[plan] the epoch must be in [0, 2305843009213693951) but is -1");
  EXPECT_EQ(message_of<ShapeError>([&] { plan.sample_id(0, 100); }),
            "[plan] places in an epoch must be in [0, 100) but [100, 100 + 1) was asked for");
  EXPECT_EQ(message_of<ShapeError>([&] { plan.sample_id(0, -1); }),
            "[plan] places in an epoch must be in [0, 100) but [-1, -1 + 1) was asked for");
  EXPECT_EQ(message_of<ShapeError>([&] { plan.update(0, 0).part(1); }),
            "[plan] the micro-batch must be in [0, 1) but is 1");
}

TEST(Plan, CostsTheSameForABillionSamples) {
  const auto seconds = [](std::int64_t samples) {
    const auto start = std::chrono::steady_clock::now();
    const Plan plan(samples, {.batch = MiniBatch{512}, .accumulate = 4, .seed = 3});
    std::int64_t sum = 0;
    for (std::int64_t epoch = 0; epoch < 100; ++epoch) {
      const PlannedUpdate update = plan.update(epoch, plan.updates_per_epoch() - 2);
      for (const std::int64_t id : ids_of(plan, update)) sum += id;
    }
    EXPECT_GT(sum, 0);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  double small = 1e9, large = 1e9;  // the best of several: other work on the machine only adds
  for (int trial = 0; trial < 7; ++trial) {
    small = std::min(small, seconds(1025));
    large = std::min(large, seconds(1'000'000'000));
  }
  // Equal but for the trips of cycle walking (2048/1025 against 2^30/10^9); anything linear would be 10^6 times.
  EXPECT_LT(large, 20 * small) << small << " s and " << large << " s";
  EXPECT_EQ(Plan(1'000'000'000, {.batch = Sgd{}}).update(4, 999'999'999).number, 5'000'000'000);
}

}  // namespace
}  // namespace weft::data
