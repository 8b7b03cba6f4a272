#include "train/summary.h"

#include <limits>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace weft::train {
namespace {

using Json = nlohmann::json;

TEST(SummaryRate, IsSamplesByTheMedianEpoch) {
  Summary summary;
  for (const double seconds : {4.0, 1.0, 2.0})
    summary.epochs.push_back({.epoch = 0, .updates = 1, .samples = 100, .complete = true, .seconds = seconds});
  measure_rate(summary);
  EXPECT_EQ(summary.samples_per_s, 50);
  summary.epochs.push_back({.epoch = 3, .updates = 1, .samples = 7, .complete = false, .seconds = 100});
  measure_rate(summary);
  EXPECT_EQ(summary.samples_per_s, 50) << "a part of an epoch does not count beside whole ones";
  summary.epochs = {{.epoch = 0, .updates = 1, .samples = 7, .complete = false, .seconds = 0.5}};
  measure_rate(summary);
  EXPECT_EQ(summary.samples_per_s, 14);
}

TEST(SummaryJson, SaysWhatIsNotFinite) {
  Summary summary;
  summary.train_loss = std::numeric_limits<double>::quiet_NaN();
  summary.test_loss = std::numeric_limits<double>::infinity();
  summary.command = "not \xff utf-8";
  const Json json = Json::parse(to_json(summary));
  EXPECT_TRUE(json["train_loss"].is_null());
  EXPECT_TRUE(json["test_accuracy"].is_null());
  EXPECT_EQ(json["notes"], Json::parse(R"(["train_loss is not a number", "test_loss is infinite"])"));
}

TEST(SummaryJson, NumbersRoundTrip) {
  Summary summary;
  summary.train_loss = 0.1 + 0.2;
  summary.config = {{"lr", 1e-3}, {"none", {}}, {"seed", std::uint64_t{18446744073709551615u}}};
  const Json json = Json::parse(to_json(summary));
  EXPECT_EQ(json["train_loss"], 0.1 + 0.2);
  EXPECT_EQ(json["config"]["lr"], 1e-3);
  EXPECT_TRUE(json["config"]["none"].is_null());
  EXPECT_EQ(json["config"]["seed"], 18446744073709551615u);
}

}  // namespace
}  // namespace weft::train
