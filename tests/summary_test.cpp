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

TEST(SummaryJson, ResultsAreOneObjectPerRow) {
  Summary summary;
  EXPECT_FALSE(Json::parse(to_json(summary)).contains("results")) << "only of examples that have some";
  summary.results = {
      {{"batch", std::string("1")}, {"loss", 0.1 + 0.2}, {"reached", std::int64_t{7}}},
      {{"batch", std::string("full")}, {"loss", std::numeric_limits<double>::infinity()}, {"reached", {}}}};
  const Json json = Json::parse(to_json(summary));
  ASSERT_EQ(json["results"].size(), 2u);
  EXPECT_EQ(json["results"][0], Json::parse(R"({"batch": "1", "loss": 0.30000000000000004, "reached": 7})"));
  EXPECT_EQ(json["results"][1], Json::parse(R"({"batch": "full", "loss": null, "reached": null})"));
  EXPECT_EQ(json["notes"], Json::parse(R"(["loss is infinite"])"));
}

}  // namespace
}  // namespace weft::train
