#include "train/trainer.h"

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "nn/activation.h"
#include "nn/init.h"
#include "nn/linear.h"
#include "nn/sequential.h"
#include "tests/support/compare.h"
#include "tests/support/points.h"
#include "tests/support/threads.h"

namespace weft::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

using test::kClasses;
using test::kFeatures;
using test::points;
using test::squared;

nn::Sequential make_model() {
  nn::manual_seed(3);
  return nn::Sequential{nn::Linear{kFeatures, 16}, nn::ReLU{}, nn::Linear{16, kClasses}};
}

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "weft_train_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    base_ = name;
    options_.example = "test";
    options_.out = (base_ / "run").string();
    options_.batch_size = 10;
    options_.lr = 0.05;
    options_.weight_decay = 0;
    options_.seed = 5;
    options_.threads = 2;
    ::testing::internal::CaptureStdout();  // the progress
  }
  void TearDown() override {
    ::testing::internal::GetCapturedStdout();
    fs::remove_all(base_);
  }

  Summary run(const LossFunction& loss = squared) {
    nn::Sequential model = make_model();
    Trainer trainer(model, loss, points(95, 1), points(30, 2), options_);
    return trainer.run();
  }
  std::string text(const std::string& file) const {
    std::ifstream stream(fs::path(options_.out) / file);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  std::vector<Json> events(const std::string& kind) const {
    std::vector<Json> found;
    std::istringstream lines(text("metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      Json event = Json::parse(line);
      if (event["event"] == kind) found.push_back(std::move(event));
    }
    return found;
  }

  fs::path base_;
  Options options_;
};

TEST_F(TrainerTest, Learns) {
  const Summary summary = run();
  EXPECT_LT(summary.train_loss, 0.5 * summary.epochs[0].train_loss);
  EXPECT_GE(summary.test_accuracy.value_or(0), 0.9);
}

TEST_F(TrainerTest, WritesEveryUpdateAndEvaluation) {
  const Summary summary = run();
  const std::vector<Json> updates = events("update");
  ASSERT_EQ(updates.size(), 30u);
  std::int64_t samples = 0;
  for (std::size_t i = 0; i < updates.size(); ++i) {
    const Json& event = updates[i];
    samples += i % 10 == 9 ? 5 : 10;  // 95 samples: the last update of an epoch is short
    EXPECT_EQ(event["update"], i + 1);
    EXPECT_EQ(event["epoch"], i / 10);
    EXPECT_EQ(event["samples"], samples);
    EXPECT_EQ(event["lr"], 0.05);
    EXPECT_GT(event["grad_norm"].get<double>(), 0);
    EXPECT_TRUE(event["loss"].is_number_float());
    EXPECT_FALSE(event.contains("skipped"));
  }
  const std::vector<Json> evaluations = events("eval");
  ASSERT_EQ(evaluations.size(), 3u);
  EXPECT_EQ(evaluations[2]["epoch"], 2);
  EXPECT_EQ(evaluations[2]["split"], "test");
  EXPECT_EQ(evaluations[2]["loss"], *summary.test_loss) << "numbers must be written in round-trip form";
  EXPECT_EQ(evaluations[2]["accuracy"], *summary.test_accuracy);
}

TEST_F(TrainerTest, TheSummaryHoldsWhatTheRunDid) {
  options_.record("norm", std::string("none"));
  options_.record("lr", 0.05);
  const Summary summary = run();
  const Json json = Json::parse(text("summary.json"));
  for (const char* field : {"example",         "device",        "seed",       "config",     "updates",
                            "samples",         "samples_per_s", "train_loss", "test_loss",  "test_accuracy",
                            "eval_samples",    "peak_bytes",    "wall_s",     "commit",     "parameters_hash",
                            "variants_hash",   "variants",      "threads",    "parameters", "updates_per_epoch",
                            "skipped_updates", "stopped_by",    "epochs",     "notes"})
    EXPECT_TRUE(json.contains(field)) << field;
  EXPECT_EQ(json["example"], "test");
  EXPECT_EQ(json["device"], "cpu");
  EXPECT_EQ(json["config"], Json::parse(R"({"norm": "none", "lr": 0.05})"));
  EXPECT_EQ(json["updates"], 30);
  EXPECT_EQ(json["updates_per_epoch"], 10);
  EXPECT_EQ(json["samples"], 285);
  EXPECT_EQ(json["parameters"], 8 * 16 + 16 + 16 * 3 + 3);
  EXPECT_EQ(json["eval_samples"], 30);
  EXPECT_EQ(json["skipped_updates"], 0);
  EXPECT_EQ(json["stopped_by"], "epochs");
  EXPECT_EQ(json["parameters_hash"].get<std::string>().size(), 16u);
  EXPECT_EQ(json["epochs"].size(), 3u);
  EXPECT_TRUE(json["notes"].empty());
  EXPECT_FALSE(json.contains("profile_s"));
  double loss = 0;
  const std::vector<Json> updates = events("update");
  for (std::size_t i = 20; i < 30; ++i) loss += updates[i]["loss"].get<double>();
  EXPECT_EQ(json["train_loss"], loss / 10) << "the mean over the last epoch's updates";
  EXPECT_EQ(exit_status(summary), 0);
}

TEST_F(TrainerTest, RunsAreBitwiseEqualForAnyNumberOfThreads) {
  std::string metrics;
  std::uint64_t hash = 0;
  for (const int threads : {1, 2, 7, 1}) {
    const test::Threads guard(threads);
    fs::remove_all(options_.out);
    const Summary summary = run();
    if (metrics.empty()) {
      metrics = text("metrics.jsonl");
      hash = summary.parameters_hash;
    }
    EXPECT_EQ(text("metrics.jsonl"), metrics) << threads << " threads";
    EXPECT_EQ(summary.parameters_hash, hash) << threads << " threads";
  }
}

TEST_F(TrainerTest, TheSeedDecidesTheOrder) {
  const Summary one = run();
  options_.seed = 6;
  EXPECT_NE(run().parameters_hash, one.parameters_hash);
}

TEST_F(TrainerTest, MicroBatchesChangeRoundingOnly) {
  run();
  const std::vector<Json> whole = events("update");
  options_.accumulate = 3;
  run();
  const std::vector<Json> split = events("update");
  ASSERT_EQ(split.size(), whole.size());
  // One update: sums of the same f32 numbers in another order. Later ones also carry the parameters' differences along.
  EXPECT_NEAR(split[0]["loss"].get<double>(), whole[0]["loss"].get<double>(), 1e-6);
  EXPECT_NEAR(split[0]["grad_norm"].get<double>(), whole[0]["grad_norm"].get<double>(), 1e-5);
  EXPECT_NEAR(split[29]["loss"].get<double>(), whole[29]["loss"].get<double>(), 1e-3);
}

TEST_F(TrainerTest, EveryRegimeIsTheSameLoop) {
  options_.epochs = 2;
  options_.batch_size.reset();
  EXPECT_EQ(run().updates, 2);
  options_.accumulate = 20;
  EXPECT_EQ(run().updates, 2);
  options_.accumulate = 1;
  options_.batch_size = 1;
  EXPECT_EQ(run().updates, 190);
  options_.batch_size = 10;
  options_.drop_last = true;
  const Summary summary = run();
  EXPECT_EQ(summary.updates, 18);
  EXPECT_EQ(summary.samples, 180);
}

TEST_F(TrainerTest, SgdWithMomentum) {
  options_.optimizer = OptimizerKind::sgd;
  options_.momentum = 0.9;
  const Summary summary = run();
  EXPECT_LT(summary.train_loss, summary.epochs[0].train_loss);
}

TEST_F(TrainerTest, StoppingEarlyDoesNotShortenTheSchedule) {
  options_.schedule = ScheduleKind::cosine;
  options_.warmup = 4;
  run();
  const std::vector<Json> whole = events("update");
  options_.max_updates = 13;
  const Summary summary = run();
  const std::vector<Json> part = events("update");
  ASSERT_EQ(part.size(), 13u);
  for (std::size_t i = 0; i < part.size(); ++i) EXPECT_EQ(part[i], whole[i]);
  EXPECT_EQ(whole[3]["lr"], 0.05);
  EXPECT_LT(whole[29]["lr"].get<double>(), 1e-9);
  EXPECT_EQ(summary.stopped_by, "max_updates");
  EXPECT_EQ(summary.updates, 13);
  EXPECT_EQ(summary.epochs.size(), 2u);
  EXPECT_FALSE(summary.epochs[1].complete);
  EXPECT_EQ(events("eval").size(), 2u) << "evaluated where it stopped";
}

TEST_F(TrainerTest, MaxUpdatesAtTheEndOfAnEpoch) {
  options_.max_updates = 20;
  const Summary summary = run();
  EXPECT_EQ(summary.updates, 20);
  EXPECT_EQ(summary.epochs.size(), 2u);
  EXPECT_TRUE(summary.epochs[1].complete);
  options_.max_updates = 1000;
  EXPECT_EQ(run().stopped_by, "epochs");
}

TEST_F(TrainerTest, LogEveryThinsOutTheFileOnly) {
  const Summary all = run();
  options_.log_every = 7;
  const Summary thinned = run();
  const std::vector<Json> updates = events("update");
  ASSERT_EQ(updates.size(), 4u);
  EXPECT_EQ(updates[0]["update"], 7);
  EXPECT_EQ(thinned.train_loss, all.train_loss);
  EXPECT_EQ(thinned.parameters_hash, all.parameters_hash);
}

TEST_F(TrainerTest, ASignalEndsTheRunAfterTheUpdate) {
  for (const int signal : {SIGINT, SIGTERM}) {
    int calls = 0;
    const Summary summary = run([&](const Tensor& output, const Tensor& labels) {
      if (++calls == 5) std::raise(signal);
      return squared(output, labels);
    });
    EXPECT_EQ(summary.updates, 5);
    EXPECT_EQ(events("update").size(), 5u);
    EXPECT_EQ(Json::parse(text("summary.json"))["stopped_by"], signal == SIGINT ? "SIGINT" : "SIGTERM");
    EXPECT_EQ(exit_status(summary), signal == SIGINT ? 0 : 143);
  }
}

TEST_F(TrainerTest, UpdatesThatLearnNothingAreSkippedAndTold) {
  int calls = 0;
  const Summary summary = run([&](const Tensor& output, const Tensor& labels) {
    Loss loss = squared(output, labels);
    ++calls;
    if (calls == 3) loss.denominator = scalar(0, Dtype::f64);
    if (calls == 4) loss.sum = loss.sum * std::numeric_limits<double>::quiet_NaN();
    return loss;
  });
  EXPECT_EQ(summary.skipped_updates, 2);
  EXPECT_EQ(summary.updates, 30);
  EXPECT_TRUE(std::isfinite(summary.train_loss));
  const std::vector<Json> updates = events("update");
  for (const std::size_t i : {2u, 3u}) {
    EXPECT_EQ(updates[i]["skipped"], true);
    EXPECT_TRUE(updates[i]["loss"].is_null());
  }
  EXPECT_FALSE(updates[4].contains("skipped"));
  const std::string notes = Json::parse(text("summary.json"))["notes"].dump();
  EXPECT_NE(notes.find("2 of 30 updates were skipped"), std::string::npos) << notes;
  EXPECT_NE(notes.find("2 losses were not finite"), std::string::npos) << notes;
}

TEST_F(TrainerTest, ARunThatLearnsNothingIsAnError) {
  const std::string message = test::message_of<Error>([&] {
    run([](const Tensor& output, const Tensor& labels) {
      return Loss{squared(output, labels).sum, scalar(0, Dtype::f64)};
    });
  });
  EXPECT_NE(message.find("all targets are masked"), std::string::npos) << message;
  const Json json = Json::parse(text("summary.json"));
  EXPECT_EQ(json["stopped_by"], "error");
  EXPECT_NE(json["notes"].dump().find("all targets are masked"), std::string::npos);
}

TEST_F(TrainerTest, AWrongOptionLeavesTheEarlierRunAlone) {
  run();
  const std::string before = text("summary.json");
  const auto refused = [&](Options options) {
    nn::Sequential model = make_model();
    return test::message_of<OptionError>(
        [&] { Trainer trainer(model, squared, points(95, 1), points(30, 2), options); });
  };
  Options wrong = options_;
  wrong.batch_size = 96;
  EXPECT_NE(refused(wrong).find("96 is larger than the data set (95 samples)"), std::string::npos) << refused(wrong);
  wrong = options_;
  wrong.warmup = 3;
  EXPECT_NE(refused(wrong).find("--warmup must be 0 with --schedule constant but is 3"), std::string::npos);
  wrong.schedule = ScheduleKind::cosine;
  wrong.warmup = 31;
  EXPECT_NE(refused(wrong).find("but is 31"), std::string::npos) << refused(wrong);
  wrong.warmup = 0;
  wrong.epochs = std::numeric_limits<std::int64_t>::max();
  EXPECT_NE(refused(wrong).find("more updates than can be numbered"), std::string::npos) << refused(wrong);
  EXPECT_EQ(text("summary.json"), before);
  EXPECT_FALSE(fs::exists(base_ / "run.1"));
}

TEST_F(TrainerTest, TheProfileAddsUpToTheLoop) {
  options_.profile = true;
  const Summary summary = run();
  ASSERT_EQ(summary.phases.size(), 5u);
  double phases = 0, epochs = 0;
  for (const Phase& phase : summary.phases) {
    EXPECT_GT(phase.seconds, 0) << phase.name;
    phases += phase.seconds;
  }
  for (const EpochResult& epoch : summary.epochs) epochs += epoch.seconds;
  EXPECT_LE(phases, epochs);
  // What lies outside the laps is the end of each epoch's last iteration: far less than the half that is allowed here.
  EXPECT_GT(phases, 0.5 * epochs);
  EXPECT_TRUE(Json::parse(text("summary.json"))["profile_s"].contains("backward"));
}

TEST_F(TrainerTest, WritesTheReport) {
  nn::Sequential model = make_model();
  Trainer trainer(model, squared, points(95, 1), points(30, 2), options_);
  trainer.run();
  trainer.write_report({.title = "Points"});
  EXPECT_NE(text("report.html").find("<h1>Points</h1>"), std::string::npos);
}

TEST_F(TrainerTest, BatchStatisticsAreRefusedBeforeTheFirstUpdate) {
  nn::Sequential network = make_model();
  Model model = Model::of(network);
  model.batch_statistics = true;
  options_.accumulate = 2;
  const auto refused = [&] {
    return test::message_of<OptionError>([&] {
      Trainer trainer(model, squared, std::make_shared<const data::TensorDataset>(points(95, 1)),
                      std::make_shared<const data::TensorDataset>(points(30, 2)), options_);
    });
  };
  EXPECT_NE(refused().find("--accumulate is 2"), std::string::npos) << refused();
  options_.bn_accumulation = BatchNormAccumulation::micro;
  EXPECT_EQ(refused(), "no exception");
  EXPECT_FALSE(fs::exists(options_.out));
}

}  // namespace
}  // namespace weft::train
