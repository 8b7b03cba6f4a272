#include "optim/schedule.h"

#include <cmath>
#include <limits>
#include <numbers>
#include <string>

#include <gtest/gtest.h>

#include "support/compare.h"
#include "tensor/error.h"

namespace weft {
namespace {

using optim::Schedule;
using test::message_of;

TEST(Schedule, ConstantIsTheSameForEveryUpdate) {
  const Schedule schedule = Schedule::constant(0.125);
  for (const std::int64_t update : {1L, 2L, 1000L, 1L << 62}) EXPECT_EQ(schedule.lr(update), 0.125);
  EXPECT_EQ(Schedule::constant(0).lr(1), 0);
}

TEST(Schedule, WarmUpStartsAboveZeroAndReachesThePeak) {
  const Schedule schedule = Schedule::cosine({.peak_lr = 2, .min_lr = 0.5, .warmup = 4, .updates = 12});
  EXPECT_DOUBLE_EQ(schedule.lr(1), 0.5);  // peak / W, not 0: a wasted update
  EXPECT_DOUBLE_EQ(schedule.lr(2), 1.0);
  EXPECT_DOUBLE_EQ(schedule.lr(3), 1.5);
  EXPECT_EQ(schedule.lr(4), 2.0);
}

TEST(Schedule, CosineFollowsTheFormulaAndEndsAtMinLr) {
  const Schedule schedule = Schedule::cosine({.peak_lr = 2, .min_lr = 0.5, .warmup = 4, .updates = 12});
  EXPECT_DOUBLE_EQ(schedule.lr(8), 1.25);  // halfway: the mean of both ends
  EXPECT_DOUBLE_EQ(schedule.lr(6), 0.5 + 1.5 * (1 + std::cos(std::numbers::pi / 4)) / 2);
  EXPECT_EQ(schedule.lr(12), 0.5);
}

TEST(Schedule, NeverRisesAgainAfterThePeak) {
  const Schedule schedule = Schedule::cosine({.peak_lr = 1, .min_lr = 0.01, .warmup = 10, .updates = 1000});
  for (std::int64_t update = 11; update <= 3000; ++update)
    ASSERT_LE(schedule.lr(update), schedule.lr(update - 1)) << update;
  for (const std::int64_t update : {1000L, 1001L, 1500L, 2000L, std::numeric_limits<std::int64_t>::max()})
    EXPECT_EQ(schedule.lr(update), 0.01) << update;
}

TEST(Schedule, WithoutWarmUpTheFirstUpdateHasThePeak) {
  const Schedule none = Schedule::cosine({.peak_lr = 1, .min_lr = 0, .warmup = 0, .updates = 5});
  const Schedule one = Schedule::cosine({.peak_lr = 1, .min_lr = 0, .warmup = 1, .updates = 5});
  EXPECT_EQ(none.lr(1), 1);
  EXPECT_LT(none.lr(2), 1);
  EXPECT_EQ(none.lr(5), 0);
  for (std::int64_t update = 1; update < 8; ++update) EXPECT_EQ(none.lr(update), one.lr(update)) << update;
}

TEST(Schedule, WarmUpMayFillAllUpdates) {
  const Schedule schedule = Schedule::cosine({.peak_lr = 3, .min_lr = 0.25, .warmup = 6, .updates = 6});
  EXPECT_DOUBLE_EQ(schedule.lr(1), 0.5);
  EXPECT_EQ(schedule.lr(6), 3);
  EXPECT_EQ(schedule.lr(7), 0.25);
}

TEST(Schedule, OneUpdate) {
  for (const std::int64_t warmup : {0, 1}) {
    const Schedule schedule = Schedule::cosine({.peak_lr = 3, .min_lr = 0.25, .warmup = warmup, .updates = 1});
    EXPECT_EQ(schedule.lr(1), 3);
    EXPECT_EQ(schedule.lr(2), 0.25);
  }
}

TEST(Schedule, RefusesWhatCannotBeUsed) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(message_of<OptionError>([&] { Schedule::constant(nan); }),
            "[schedule] lr must be finite and at least 0 but is nan");
  EXPECT_THROW(Schedule::constant(-1e-3), OptionError);
  EXPECT_THROW(Schedule::cosine({.peak_lr = inf, .updates = 10}), OptionError);
  EXPECT_THROW(Schedule::cosine({.peak_lr = 1, .min_lr = nan, .updates = 10}), OptionError);
  EXPECT_THROW(Schedule::cosine({.peak_lr = 1, .min_lr = -1, .updates = 10}), OptionError);
  EXPECT_EQ(message_of<OptionError>([] { Schedule::cosine({.peak_lr = 1, .min_lr = 2, .updates = 10}); }),
            "[schedule] min_lr must be at most peak_lr = 1 but is 2");
  EXPECT_EQ(message_of<OptionError>([] { Schedule::cosine({.peak_lr = 1}); }),
            "[schedule] updates must be at least 1 but is 0");
  EXPECT_EQ(message_of<OptionError>([] { Schedule::cosine({.warmup = 101, .updates = 100}); }),
            "[schedule] warmup must be in [0, updates] = [0, 100] but is 101");
  EXPECT_THROW(Schedule::cosine({.warmup = -1, .updates = 100}), OptionError);
  EXPECT_EQ(message_of<OptionError>([] { Schedule::constant(1).lr(0); }),
            "[schedule] updates are numbered from 1 but this is update 0");
}

}  // namespace
}  // namespace weft
