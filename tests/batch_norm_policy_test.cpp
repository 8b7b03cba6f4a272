#include "train/batch_norm_policy.h"

#include <gtest/gtest.h>

#include "tests/support/compare.h"

namespace weft::train {
namespace {

TEST(BatchNormPolicy, FindsTheSmallestMicroBatch) {
  const auto smallest = [](std::int64_t samples, std::int64_t batch, std::int64_t accumulate, bool drop_last = false) {
    return smallest_micro_batch(
        data::Plan(samples, {.batch = data::MiniBatch{batch}, .accumulate = accumulate, .drop_last = drop_last}));
  };
  EXPECT_EQ(smallest(100, 10, 1), 10);
  EXPECT_EQ(smallest(101, 10, 1), 1);
  EXPECT_EQ(smallest(101, 10, 1, true), 10);
  EXPECT_EQ(smallest(100, 10, 4), 2);
  EXPECT_EQ(smallest(107, 10, 4), 1) << "7 samples in 4 micro-batches";
  EXPECT_EQ(smallest(7, 7, 1), 7);
}

TEST(BatchNormPolicy, RefusesWhatWouldNotBeTheBatchesStatistics) {
  const auto refused = [](std::int64_t samples, std::int64_t batch, std::int64_t accumulate,
                          BatchNormAccumulation policy) {
    return test::message_of<OptionError>([&] {
      check_batch_statistics(data::Plan(samples, {.batch = data::MiniBatch{batch}, .accumulate = accumulate}), policy);
    });
  };
  using enum BatchNormAccumulation;
  EXPECT_EQ(refused(100, 10, 1, refuse), "no exception");
  EXPECT_EQ(refused(100, 10, 2, micro), "no exception");
  EXPECT_NE(refused(100, 10, 2, refuse).find("--bn-accumulation micro"), std::string::npos);
  EXPECT_NE(refused(100, 1, 1, refuse).find("at least 2 samples"), std::string::npos);
  EXPECT_NE(refused(101, 10, 1, refuse).find("--drop-last"), std::string::npos);
  EXPECT_NE(refused(100, 10, 10, micro).find("leaves one with 1"), std::string::npos);
}

TEST(BatchNormPolicy, AutoTakesBatchNormWhereItMakesSense) {
  const auto choice = [](std::int64_t samples, std::int64_t batch, std::int64_t accumulate,
                         const char* asked = "auto") {
    Options options;
    return choose_norm(asked, data::Plan(samples, {.batch = data::MiniBatch{batch}, .accumulate = accumulate}),
                       options);
  };
  EXPECT_EQ(choice(160, 16, 1), "batch");
  EXPECT_EQ(choice(160, 15, 1), "layer");
  EXPECT_EQ(choice(160, 32, 2), "layer");
  EXPECT_EQ(choice(161, 16, 1), "layer") << "the last update has one sample";
  EXPECT_EQ(choice(160, 1, 1, "batch"), "batch") << "what was asked for stays, and is refused later";
  Options options;
  choose_norm("auto", data::Plan(160, {.batch = data::MiniBatch{16}}), options);
  ASSERT_EQ(options.notices.size(), 1u);
  EXPECT_EQ(options.notices[0], "norm batch: updates of 16 samples are enough for batch statistics");
  EXPECT_EQ(options.config[0].value, Value(std::string("batch")));
}

}  // namespace
}  // namespace weft::train
