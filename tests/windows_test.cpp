#include "data/windows.h"

#include <cmath>
#include <numeric>
#include <set>

#include <gtest/gtest.h>

#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "data/scaler.h"
#include "data/splits.h"
#include "support/compare.h"
#include "tensor/philox.h"

namespace weft::data {
namespace {

using test::bitwise_equal;
using test::message_of;
using Ids = std::vector<std::int64_t>;

/// Random cases, reproducible: the seed is part of every failure's message.
class Cases {
 public:
  explicit Cases(std::uint64_t seed) : random_(seed) {}
  std::int64_t between(std::int64_t low, std::int64_t high) { return low + random_.next_u32() % (high - low + 1); }
  RollingWindows windows() {
    const WindowOptions options{between(1, 12), between(1, 8), between(1, 10), between(0, 1) * between(0, 20)};
    const std::int64_t span = options.lookback + options.gap + options.horizon;
    return {span + between(20, 60) * options.stride, options};
  }

 private:
  Philox random_;
};
std::string describe(const RollingWindows& windows) {
  const auto& [lookback, horizon, stride, gap] = windows.options();
  return fmt::format("steps {}, lookback {}, horizon {}, stride {}, gap {}", windows.steps(), lookback, horizon, stride,
                     gap);
}
Ids all_of(const RollingWindows& windows) {
  Ids ids(static_cast<std::size_t>(windows.count()));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}
/// The steps of an interval, one by one: what the intersections below are counted from.
std::set<std::int64_t> steps_in(const Interval& interval) {
  std::set<std::int64_t> steps;
  for (std::int64_t t = interval.begin; t < interval.end; ++t) steps.insert(t);
  return steps;
}
bool share(const Interval& a, const Interval& b) {
  const auto in_b = steps_in(b);
  for (const std::int64_t t : steps_in(a))
    if (in_b.count(t) > 0) return true;
  return false;
}
/// leak() as it is defined, step by step.
bool leak_by_steps(const TimeWindow& train, const TimeWindow& test, std::int64_t embargo) {
  const Interval held_out{test.labels.begin, test.labels.end + embargo};
  return share(train.labels, test.features) || share(train.labels, held_out) || share(train.features, held_out);
}
constexpr std::uint64_t kSeed = 20261126;

// W1: as many windows as can be laid, by laying them.
TEST(Windows, CountsThem) {
  Cases cases(kSeed);
  for (int round = 0; round < 300; ++round) {
    const WindowOptions o{cases.between(1, 9), cases.between(1, 9), cases.between(1, 9), cases.between(0, 4)};
    const std::int64_t span = o.lookback + o.gap + o.horizon, steps = span + cases.between(0, 50);
    std::int64_t laid = 0;
    for (std::int64_t begin = 0; begin + span <= steps; begin += o.stride) ++laid;
    const RollingWindows windows(steps, o);
    EXPECT_EQ(windows.count(), laid) << "seed " << kSeed << ", round " << round << ": " << describe(windows);
    EXPECT_EQ(windows.count(), (steps - o.lookback - o.gap - o.horizon) / o.stride + 1);
    EXPECT_LE(windows[laid - 1].labels.end, steps);
  }
  const TimeWindow window = RollingWindows(100, {.lookback = 8, .horizon = 3, .stride = 5, .gap = 2})[2];
  EXPECT_EQ(window.features, (Interval{10, 18}));
  EXPECT_EQ(window.labels, (Interval{20, 23}));
  EXPECT_EQ(window.span(), (Interval{10, 23}));
}

TEST(Windows, RefusesWhatIsNone) {
  EXPECT_EQ(message_of<ShapeError>([] { RollingWindows(11, {.lookback = 8, .horizon = 4}); }),
            "[windows] a series of 11 steps holds no window of 8 + 0 + 4 (lookback + gap + horizon)");
  EXPECT_EQ(RollingWindows(12, {.lookback = 8, .horizon = 4}).count(), 1);
  EXPECT_EQ(message_of<OptionError>([] { RollingWindows(11, {.lookback = 0}); }),
            "[windows] lookback must be in [1, 2^60] but is 0");
  EXPECT_EQ(message_of<OptionError>([] { RollingWindows(11, {.stride = -1}); }),
            "[windows] stride must be in [1, 2^60] but is -1");
  EXPECT_EQ(message_of<OptionError>([] { RollingWindows(11, {.horizon = std::int64_t{1} << 62}); }),
            "[windows] horizon must be in [1, 2^60] but is 4611686018427387904");
  EXPECT_EQ(message_of<ShapeError>([] { RollingWindows(-1, {}); }),
            "[windows] a series of -1 steps holds no window of 1 + 0 + 1 (lookback + gap + horizon)");
  EXPECT_EQ(message_of<ShapeError>([] { RollingWindows(12, {})[11]; }),
            "[windows] a window must be in [0, 11) but is 11");
}

// W5: in the series x[t] = t every value says which step it is.
TEST(Windows, AlignsFeaturesAndLabels) {
  Cases cases(kSeed + 1);
  for (int round = 0; round < 100; ++round) {
    const RollingWindows windows = cases.windows();
    SCOPED_TRACE(fmt::format("seed {}, round {}: {}", kSeed + 1, round, describe(windows)));
    std::vector<double> x, y;
    for (std::int64_t t = 0; t < windows.steps(); ++t) {
      for (const int column : {0, 1}) x.push_back(static_cast<double>(t) + 0.25 * column);
      y.push_back(static_cast<double>(-t));
    }
    const Ids ids = all_of(windows);
    const WindowDataset data(Tensor::from_vector(x, {windows.steps(), 2}), Tensor::from_vector(y, {windows.steps()}),
                             windows, ids);
    Ids rows;
    for (int i = 0; i < 7; ++i) rows.push_back(cases.between(0, data.size() - 1));
    const Batch batch = data.collate(rows);
    const auto& o = windows.options();
    ASSERT_EQ(batch.input.shape(), Shape({7, o.lookback, 2}));
    ASSERT_EQ(batch.target.shape(), Shape({7, o.horizon}));
    const auto input = batch.input.to_vector<double>(), target = batch.target.to_vector<double>();
    for (std::size_t r = 0, i = 0, j = 0; r < rows.size(); ++r) {
      const std::int64_t begin = rows[r] * o.stride;
      for (std::int64_t t = 0; t < o.lookback; ++t)
        for (const int column : {0, 1}) EXPECT_EQ(input[i++], static_cast<double>(begin + t) + 0.25 * column);
      for (std::int64_t t = 0; t < o.horizon; ++t)
        EXPECT_EQ(target[j++], -static_cast<double>(begin + o.lookback + o.gap + t));
    }
  }
}

TEST(Windows, DatasetChecksAndNamesItself) {
  const RollingWindows windows(10, {.lookback = 3, .horizon = 2});
  const Tensor x = arange(10);
  const WindowDataset data(x, windows, "ramp");
  EXPECT_EQ(data.size(), 6);
  EXPECT_EQ(data.name(), "ramp");
  EXPECT_EQ(data.collate(Ids{}).input.shape(), Shape({0, 3}));
  EXPECT_EQ(message_of<ShapeError>([&] { data.collate(Ids{6}); }),
            "[collate] sample ids must be in [0, 6) but row 0 asks for 6");
  EXPECT_EQ(message_of<ShapeError>([&] {
              WindowDataset(x, x, windows, {0, 6});
            }),
            "[windows] a window must be in [0, 6) but is 6");
  EXPECT_EQ(message_of<ShapeError>([&] { WindowDataset(arange(9), windows); }),
            "[windows] features must have 10 steps in the first dimension but has shape [9]");
  const std::set<std::uint64_t> fingerprints{
      data.fingerprint(), WindowDataset(x, x, windows, {0, 1}).fingerprint(),
      WindowDataset(x, x, windows, {1, 0}).fingerprint(), WindowDataset(zeros({10}, Dtype::i64), windows).fingerprint(),
      WindowDataset(x, RollingWindows(10, {.lookback = 2, .horizon = 3})).fingerprint()};
  EXPECT_EQ(fingerprints.size(), 5u);
  EXPECT_EQ(data.fingerprint(), WindowDataset(x, windows).fingerprint());
}

// The closed forms of leaks and of what a window leaks into, against counting steps.
TEST(Windows, FindsLeaksAsCountingStepsDoes) {
  Cases cases(kSeed + 2);
  int leaks = 0;
  for (int round = 0; round < 60; ++round) {
    const RollingWindows windows = cases.windows();
    const std::int64_t embargo = cases.between(0, 1) * cases.between(0, 25), count = windows.count();
    const std::int64_t begin = cases.between(0, count), end = cases.between(begin, count);
    SCOPED_TRACE(fmt::format("seed {}, round {}: {}, embargo {}, tests [{}, {})", kSeed + 2, round, describe(windows),
                             embargo, begin, end));
    for (std::int64_t train = 0; train < count; ++train) {
      bool any = false;
      for (std::int64_t test = begin; test < end; ++test) {
        const bool expected = leak_by_steps(windows[train], windows[test], embargo);
        EXPECT_EQ(leak(windows[train], windows[test], embargo), expected) << train << " into " << test;
        any = any || expected;
      }
      EXPECT_EQ(windows.leaks_into(windows[train], {begin, end}, embargo), any) << train;
      leaks += any ? 1 : 0;
    }
  }
  EXPECT_GT(leaks, 500);
}

bool leaks_into_any(const RollingWindows& windows, std::int64_t train, const Ids& tests, std::int64_t embargo) {
  return std::any_of(tests.begin(), tests.end(),
                     [&](std::int64_t test) { return leak(windows[train], windows[test], embargo); });
}
/// W2 and W3: no training window leaks; each that was left out of `candidates` does. Returns how many were left out.
std::int64_t check_split(const RollingWindows& windows, const WindowSplit& split, const Ids& candidates,
                         std::int64_t embargo) {
  EXPECT_TRUE(std::is_sorted(split.train.begin(), split.train.end()));
  EXPECT_FALSE(split.train.empty());
  const std::set<std::int64_t> kept(split.train.begin(), split.train.end());
  std::int64_t left_out = 0, without_embargo = 0;
  for (const std::int64_t id : candidates) {
    EXPECT_EQ(leaks_into_any(windows, id, split.test, embargo), kept.count(id) == 0) << "window " << id;
    left_out += kept.count(id) == 0 ? 1 : 0;
    without_embargo += leaks_into_any(windows, id, split.test, 0) ? 1 : 0;
  }
  EXPECT_EQ(split.train.size() + static_cast<std::size_t>(left_out), candidates.size());
  EXPECT_EQ(split.purged, without_embargo);
  EXPECT_EQ(split.embargoed, left_out - without_embargo);
  return left_out;
}
Ids without(const Ids& ids, const Ids& others) {
  Ids rest;
  std::set_difference(ids.begin(), ids.end(), others.begin(), others.end(), std::back_inserter(rest));
  return rest;
}

TEST(Splits, LeakNothingAndPurgeNoMoreThanMustBe) {
  Cases cases(kSeed + 3);
  std::int64_t left_out = 0, splits = 0;
  for (int round = 0; round < 80; ++round) {
    const RollingWindows windows = cases.windows();
    const Ids all = all_of(windows);
    SCOPED_TRACE(fmt::format("seed {}, round {}: {}", kSeed + 3, round, describe(windows)));
    // A series may be too short for a split: that is an error, and no wrong split.
    const auto attempt = [&](auto&& f) {
      try {
        f();
        ++splits;
      } catch (const ShapeError& error) {
        EXPECT_NE(std::string(error.what()).find("nothing is left"), std::string::npos) << error.what();
      }
    };
    attempt([&] {
      const WindowSplit split = chronological_split(windows, 0.25);
      EXPECT_EQ(split.test.back(), windows.count() - 1);
      EXPECT_EQ(static_cast<std::int64_t>(split.test.size()),
                std::llround(0.25 * static_cast<double>(windows.count())));
      const Ids candidates(all.begin(), all.begin() + split.test.front());
      left_out += check_split(windows, split, candidates, 0);
    });
    attempt([&] {
      std::int64_t next = windows.count() - 3 * (windows.count() / 4);
      for (const WindowSplit& split : walk_forward(windows, {.folds = 3})) {
        EXPECT_EQ(split.test.front(), next);
        next = split.test.back() + 1;
        left_out += check_split(windows, split, Ids(all.begin(), all.begin() + split.test.front()), 0);
      }
      EXPECT_EQ(next, windows.count());
    });
    for (const std::int64_t embargo : {std::int64_t{0}, cases.between(1, 20)})
      attempt([&] {
        Ids tested;
        for (const WindowSplit& split : purged_kfold(windows, {.folds = 4, .embargo = embargo})) {
          left_out += check_split(windows, split, without(all, split.test), embargo);
          tested.insert(tested.end(), split.test.begin(), split.test.end());
        }
        EXPECT_EQ(tested, all);  // each window is tested once
      });
    attempt([&] {
      const ChronologicalParts parts = chronological_parts(windows, 0.2, 0.2);
      Ids held_back = parts.validation;
      held_back.insert(held_back.end(), parts.test.begin(), parts.test.end());
      WindowSplit train{parts.train, held_back, 0, 0}, validation{parts.validation, parts.test, 0, 0};
      const std::int64_t first_test = parts.test.front(),
                         validated = std::llround(0.2 * static_cast<double>(windows.count()));
      const Ids before(all.begin(), all.begin() + first_test - validated),
          between(all.begin() + first_test - validated, all.begin() + first_test);
      for (const auto& [split, candidates] : {std::pair{&train, before}, {&validation, between}})
        split->purged = static_cast<std::int64_t>(candidates.size() - split->train.size());
      EXPECT_EQ(parts.purged, train.purged + validation.purged);
      left_out += check_split(windows, train, before, 0) + check_split(windows, validation, between, 0);
    });
  }
  EXPECT_GT(splits, 200);
  EXPECT_GT(left_out, 1000);
}

TEST(Splits, AreTheOnesThatAreDocumented) {
  // 24 steps seen, 6 predicted: the last 20 % are tested with.
  const RollingWindows windows(1029, {.lookback = 24, .horizon = 6});
  ASSERT_EQ(windows.count(), 1000);
  const WindowSplit split = chronological_split(windows, 0.2);
  EXPECT_EQ(split.test.front(), 800);
  EXPECT_EQ(split.train.back(), 770);  // predicts up to step 800, where window 800 starts to look
  EXPECT_EQ(split.purged, 29);
  // Purged on both sides; behind the block what it predicts is seen as far as the lookback.
  const WindowSplit fold = purged_kfold(windows, {.folds = 5})[1];
  EXPECT_EQ(fold.test.front(), 200);
  EXPECT_EQ(without(all_of(windows), fold.train), [] {
    Ids ids(258);
    std::iota(ids.begin(), ids.end(), 171);
    return ids;
  }());
  EXPECT_EQ(purged_kfold(windows, {.folds = 5, .embargo = 10})[1].embargoed, 10);
}

TEST(Splits, SlidingFoldsTrainOnAsMuchAsTheyAreTold) {
  const RollingWindows windows(105, {.lookback = 4, .horizon = 2});
  const auto splits = walk_forward(windows, {.folds = 3, .test = 10, .mode = WalkForward::sliding, .train = 20});
  const auto expanding = walk_forward(windows, {.folds = 3, .test = 10});
  ASSERT_EQ(splits.size(), 3u);
  for (std::size_t fold = 0; fold < 3; ++fold) {
    EXPECT_EQ(splits[fold].test, expanding[fold].test);
    EXPECT_EQ(splits[fold].train, Ids(expanding[fold].train.end() - 20, expanding[fold].train.end()));
  }
}

TEST(Splits, RefuseWhatCannotBe) {
  const RollingWindows windows(20, {.lookback = 4, .horizon = 2});  // 15 windows
  EXPECT_EQ(message_of<OptionError>([&] { chronological_split(windows, 1); }),
            "[splits] held_back must be between 0 and 1, a part of the windows, but is 1");
  EXPECT_EQ(message_of<OptionError>([&] { chronological_split(windows, std::nan("")); }),
            "[splits] held_back must be between 0 and 1, a part of the windows, but is nan");
  EXPECT_EQ(
      message_of<ShapeError>([&] { chronological_split(windows, 0.7); }),
      "[splits] of 15 windows nothing is left to train on: [4, 15) are tested with, 4 leak into them, 0 are within the "
      "embargo; take fewer test windows, or a longer series");
  EXPECT_NE(
      message_of<OptionError>([&] { chronological_parts(windows, 0.5, 0.5); }).find("must leave windows to train on"),
      std::string::npos);
  EXPECT_EQ(message_of<OptionError>([&] { walk_forward(windows, {.folds = 0}); }),
            "[splits] folds must be in [1, 15), the number of windows, but is 0");
  EXPECT_EQ(message_of<OptionError>([&] { walk_forward(windows, {.folds = 3, .test = 5}); }),
            "[splits] 3 folds that test with 5 windows each leave none of 15 to train on");
  EXPECT_EQ(message_of<OptionError>([&] { walk_forward(windows, {.mode = WalkForward::sliding}); }),
            "[splits] train, the number of windows that a sliding fold trains on, must be at least 1 but is 0");
  EXPECT_NE(message_of<ShapeError>([&] {
              walk_forward(windows, {.folds = 1, .test = 3, .mode = WalkForward::sliding, .train = 10});
            }).find("fold 0 has 7 windows to train on before window 12 but is to train on 10"),
            std::string::npos);
  EXPECT_EQ(message_of<OptionError>([&] { purged_kfold(windows, {.folds = 1}); }),
            "[splits] folds must be in [2, 15], the number of windows, but is 1");
  EXPECT_EQ(message_of<OptionError>([&] { purged_kfold(windows, {.embargo = -1}); }),
            "[splits] embargo must be in [0, 20] steps but is -1");
}

TEST(Windows, EffectiveSamplesAreTheSumOfUniqueness) {
  Cases cases(kSeed + 4);
  for (int round = 0; round < 100; ++round) {
    const RollingWindows windows = cases.windows();
    SCOPED_TRACE(fmt::format("seed {}, round {}: {}", kSeed + 4, round, describe(windows)));
    Ids ids;
    for (const std::int64_t id : all_of(windows))
      if (cases.between(0, 2) > 0) ids.push_back(id);
    // By counting who else predicts each step.
    const auto uniqueness = average_uniqueness(windows, ids);
    double sum = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      double mean = 0;
      const Interval labels = windows[ids[i]].labels;
      for (std::int64_t t = labels.begin; t < labels.end; ++t) {
        const auto others = std::count_if(ids.begin(), ids.end(), [&](std::int64_t id) {
          return windows[id].labels.begin <= t && t < windows[id].labels.end;
        });
        mean += 1.0 / static_cast<double>(others) / static_cast<double>(labels.length());
      }
      EXPECT_NEAR(uniqueness[i], mean, 1e-12);
      sum += mean;
    }
    EXPECT_NEAR(effective_samples(windows, ids), sum, 1e-9);
  }
  const RollingWindows windows(1014, {.lookback = 5, .horizon = 10});
  ASSERT_EQ(windows.count(), 1000);
  EXPECT_DOUBLE_EQ(effective_samples(windows, all_of(windows)), 100.9);
  EXPECT_EQ(effective_samples(windows, {}), 0);
}

/// That `order` has each sample once, and no overlap in a batch.
void check_order(const RollingWindows& windows, const Ids& ids, const Ids& order, std::int64_t batch) {
  Ids sorted = order, every(ids.size());
  std::sort(sorted.begin(), sorted.end());
  std::iota(every.begin(), every.end(), 0);
  ASSERT_EQ(sorted, every);
  for (std::size_t i = 0; i < order.size(); ++i)
    for (std::size_t j = i + 1;
         j < order.size() && j / static_cast<std::size_t>(batch) == i / static_cast<std::size_t>(batch); ++j) {
      const Interval a = windows[ids[static_cast<std::size_t>(order[i])]].span(),
                     b = windows[ids[static_cast<std::size_t>(order[j])]].span();
      ASSERT_FALSE(a.overlaps(b)) << "places " << i << " and " << j;
    }
}

// Whenever an order is said to exist it is one, and it is refused only where none exists: the first windows, each overlapping
// all others, cannot be in fewer batches (or the batches would have to be of other sizes).
TEST(Windows, OrdersBatchesWithoutOverlap) {
  Cases cases(kSeed + 5);
  int ordered = 0, refused = 0;
  for (int round = 0; round < 1500; ++round) {
    const WindowOptions o{cases.between(1, 6), cases.between(1, 4), cases.between(1, 5), 0};
    const RollingWindows windows(o.lookback + o.horizon + cases.between(0, 80) * o.stride, o);
    const Ids ids = all_of(windows);
    const std::int64_t batch = cases.between(1, 9), count = windows.count();
    SCOPED_TRACE(fmt::format("seed {}, round {}: {}, batch {}", kSeed + 5, round, describe(windows), batch));
    const std::int64_t apart = (o.lookback + o.horizon + o.stride - 1) / o.stride,
                       batches = (count + batch - 1) / batch;
    const std::int64_t rest = count - (batches - 1) * batch;
    try {
      check_order(windows, ids, overlap_free_order(windows, ids, batch, kSeed, round), batch);
      ++ordered;
    } catch (const ShapeError& error) {
      EXPECT_TRUE(batch > 1 && (batches < apart || (batches == apart && rest < batch - 1))) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(ordered, 400);
  EXPECT_GT(refused, 200);
}

// By trying all orders of a few windows: what is refused cannot be.
TEST(Windows, RefusesBatchesOnlyWhereNoneExist) {
  for (std::int64_t count = 1; count <= 9; ++count)
    for (std::int64_t batch = 1; batch <= count; ++batch)
      for (std::int64_t span = 2; span <= count + 1; ++span) {
        const RollingWindows windows(span + count - 1, {.lookback = span - 1});
        // Batch of each window, all ways.
        Ids room(static_cast<std::size_t>((count + batch - 1) / batch), batch);
        room.back() = count - static_cast<std::int64_t>(room.size() - 1) * batch;
        Ids last(room.size(), -span);
        const auto place = [&](auto&& self, std::int64_t window) -> bool {
          if (window == count) return true;
          for (std::size_t b = 0; b < room.size(); ++b) {
            if (room[b] == 0 || window - last[b] < span) continue;
            const std::int64_t before = std::exchange(last[b], window);
            --room[b];
            if (self(self, window + 1)) return true;
            ++room[b];
            last[b] = before;
          }
          return false;
        };
        const bool exists = place(place, 0);
        const std::string message =
            message_of<ShapeError>([&] { overlap_free_order(windows, all_of(windows), batch, 1, 0); });
        EXPECT_EQ(message == "no exception", exists)
            << count << " windows of " << span << " in batches of " << batch << ": " << message;
      }
}

TEST(Windows, OrdersAreRandomAndRepeatable) {
  const RollingWindows windows(2009, {.lookback = 6, .horizon = 4});
  const Ids ids = all_of(windows);
  ASSERT_EQ(ids.size(), 2000u);
  const Ids order = overlap_free_order(windows, ids, 32, 1, 0);
  EXPECT_EQ(overlap_free_order(windows, ids, 32, 1, 0), order);
  EXPECT_NE(overlap_free_order(windows, ids, 32, 1, 1), order);
  EXPECT_NE(overlap_free_order(windows, ids, 32, 2, 0), order);
  // Where a window comes has nothing to do with where it lies: the correlation of 2000 pairs, 4.5 standard deviations; and
  // the last, shorter batch sees all of time.
  double correlation = 0;
  for (std::size_t i = 0; i < order.size(); ++i)
    correlation += (static_cast<double>(i) - 999.5) * (static_cast<double>(order[i]) - 999.5);
  EXPECT_LT(std::fabs(correlation / (2000.0 * (2000.0 * 2000.0 - 1) / 12)), 4.5 / std::sqrt(2000));
  std::set<std::int64_t> lasts;
  for (int epoch = 0; epoch < 200; ++epoch) lasts.insert(overlap_free_order(windows, ids, 32, 1, epoch).back() / 200);
  EXPECT_EQ(lasts.size(), 10u);

  EXPECT_EQ(
      message_of<ShapeError>([&] { overlap_free_order(windows, Ids(ids.begin(), ids.begin() + 50), 8, 1, 0); }),
      "[windows] batches of 8 of 50 windows cannot be free of overlaps: each overlaps the 9 behind it, which takes 11 "
      "batches but there are 7: batches of at most 4, or a stride of 10, will do");
  EXPECT_EQ(message_of<ShapeError>([&] {
              overlap_free_order(windows, Ids{1, 1}, 1, 1, 0);
            }),
            "[windows] ids must be in ascending order but 1 comes before 1");
  EXPECT_TRUE(overlap_free_order(windows, {}, 4, 1, 0).empty());
}

// W4: whatever happens in the steps that are to be predicted (and after them), the scaler is the same.
TEST(Scaler, KnowsNothingOfTheFuture) {
  Cases cases(kSeed + 6);
  for (const Scaling scaling : {Scaling::standard, Scaling::min_max})
    for (int round = 0; round < 40; ++round) {
      const RollingWindows windows = cases.windows();
      SCOPED_TRACE(fmt::format("seed {}, round {}: {}", kSeed + 6, round, describe(windows)));
      std::vector<WindowSplit> splits;
      try {
        splits = purged_kfold(windows, {.folds = 3});
      } catch (const ShapeError&) { continue; }
      for (const WindowSplit& split : splits) {
        const Tensor series = randn({windows.steps(), 2}, static_cast<std::uint64_t>(round));
        const auto seen = steps_of(windows, split.train);
        const Scaler before = Scaler::fit(scaling, series, seen);
        before.require_unseen(windows, split.test);
        for (const Interval& held_out : steps_of(windows, split.test, WindowPart::labels))
          for (std::int64_t t = held_out.begin; t < held_out.end; ++t)
            for (const int c : {0, 1}) series.data<float>()[2 * t + c] = c == 0 ? 1e30f : std::nanf("");
        const Scaler after = Scaler::fit(scaling, series, seen);
        EXPECT_EQ(before.shift(), after.shift());
        EXPECT_EQ(before.scale(), after.scale());
      }
    }
}

TEST(Scaler, ScalesAndBack) {
  // Columns: 1 2 3 6 | 100, constant 5, and one with a huge mean.
  const double offset = 1e9;
  const Tensor x = Tensor::from_vector<double>(
      {1, 5, offset + 1, 2, 5, offset + 2, 3, 5, offset + 3, 6, 5, offset + 6, 100, 7, offset + 100}, {5, 3});
  const Scaler standard = Scaler::fit(Scaling::standard, x, {{0, 4}});
  EXPECT_EQ(standard.shift(), (std::vector<double>{3, 5, offset + 3}));
  EXPECT_EQ(standard.scale()[0], std::sqrt(3.5));
  EXPECT_EQ(standard.scale()[1], 1);
  EXPECT_NEAR(standard.scale()[2], std::sqrt(3.5), 1e-12);
  const Scaler min_max = Scaler::fit(Scaling::min_max, x, {{0, 2}, {2, 4}});
  EXPECT_EQ(min_max.shift(), (std::vector<double>{1, 5, offset + 1}));
  EXPECT_EQ(min_max.scale(), (std::vector<double>{5, 1, 5}));
  EXPECT_EQ(min_max.transform(x).slice(0, 0, 4).to_vector<double>(),
            (std::vector<double>{0, 0, 0, .2, 0, .2, .4, 0, .4, 1, 0, 1}));
  for (const Scaler& scaler : {standard, min_max}) {
    EXPECT_LT(test::max_error(test::values(scaler.inverse(scaler.transform(x))), test::values(x)), 1e-6);
    // A prediction's last dimensions are the columns; one column fits any shape.
    EXPECT_EQ(scaler.inverse(Tensor::empty({7, 2, 3}, Dtype::f64)).shape(), Shape({7, 2, 3}));
  }
  EXPECT_EQ(standard.transform(cast(x, Dtype::f32)).dtype(), Dtype::f32);
}

TEST(Scaler, RefusesWhatItCannotBeFittedOn) {
  const Tensor x = Tensor::from_vector<float>({1, 2, 3, NAN, 5, 6}, {3, 2});
  const auto error = [&](std::vector<Interval> steps) {
    return message_of<ShapeError>([&] { Scaler::fit(Scaling::standard, x, std::move(steps)); });
  };
  EXPECT_EQ(error({{0, 3}}), "[scaler] the series must be finite where it is fitted but step 1, column 1 is nan");
  EXPECT_EQ(error({{0, 1}, {2, 3}}), "no exception");
  EXPECT_EQ(error({{0, 4}}), "[scaler] the steps [0, 4) must be within [0, 3)");
  EXPECT_EQ(error({}), "[scaler] needs at least one step to be fitted on");
  const Scaler scaler = Scaler::fit(Scaling::standard, x, {{0, 1}});
  EXPECT_EQ(message_of<ShapeError>([&] { scaler.transform(x.t()); }),
            "[scaler] was fitted on 2 columns but the series has shape [2, 3]");
  EXPECT_EQ(message_of<DtypeError>([&] { scaler.transform(cast(x, Dtype::i64)); }),
            "[scaler] needs f32 or f64 but the series is i64");
  const double most = std::numeric_limits<double>::max();
  EXPECT_NE(message_of<ShapeError>([&] {
              Scaler::fit(Scaling::min_max, Tensor::from_vector<double>({-most, most}, {2}), {{0, 2}});
            }).find("cannot be scaled in f64"),
            std::string::npos);
}

TEST(Scaler, ComplainsWhenItHasSeenWhatIsToBePredicted) {
  const RollingWindows windows(1000, {.lookback = 20, .horizon = 10});
  const WindowSplit split = chronological_split(windows, 0.2);
  const Tensor series = randn({1000}, 1);
  Scaler::fit(Scaling::standard, series, steps_of(windows, split.train)).require_unseen(windows, split.test);
  const Scaler all = Scaler::fit(Scaling::standard, series, {{0, 1000}});  // what tutorials do
  EXPECT_EQ(
      message_of<ShapeError>([&] { all.require_unseen(windows, split.test); }),
      "[scaler] was fitted on steps [0, 1000) but step 797 is to be predicted by window 777: fit it on the training "
      "windows' steps only");
}

TEST(Scaler, MakesDataSets) {
  const RollingWindows windows(200, {.lookback = 8, .horizon = 2});
  const WindowSplit split = chronological_split(windows, 0.25);
  const Tensor x = randn({200, 3}, 1), y = randn({200}, 2) * 5.0 + 100.0;
  const ScaledWindows data = scaled_windows(x, y, windows, split);
  EXPECT_EQ(data.train.ids(), split.train);
  EXPECT_EQ(data.test.ids(), split.test);
  const Batch batch = data.test.collate(Ids{3});
  EXPECT_EQ(batch.input.shape(), Shape({1, 8, 3}));
  const Interval labels = windows[split.test[3]].labels;
  EXPECT_LT(test::relative_error(data.labels.inverse(batch.target), y.slice(0, labels.begin, labels.end).unsqueeze(0)),
            1e-6);
  EXPECT_TRUE(bitwise_equal(
      batch.input, contiguous(data.features.transform(x).slice(0, labels.begin - 8, labels.begin)).reshape({1, 8, 3})));
}

}  // namespace
}  // namespace weft::data
