// A run that was stopped and goes on is, bit by bit, the run that was not stopped.
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>

#include <sys/resource.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "autograd/factories.h"
#include "data/fingerprint.h"
#include "data/sample_batches.h"
#include "nn/activation.h"
#include "nn/batch_norm.h"
#include "nn/dropout.h"
#include "nn/init.h"
#include "nn/linear.h"
#include "nn/sequential.h"
#include "tests/support/compare.h"
#include "tests/support/idx_files.h"
#include "tests/support/points.h"
#include "tests/support/threads.h"
#include "train/trainer.h"

namespace weft::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

using test::kClasses;
using test::kFeatures;
using test::points;
using test::squared;

/// With all that a checkpoint has to carry: buffers, and masks that are drawn anew in every update.
nn::Sequential make_model(std::int64_t hidden = 16) {
  nn::manual_seed(3);
  return nn::Sequential{nn::Linear{kFeatures, hidden}, nn::BatchNorm1d{hidden}, nn::ReLU{}, nn::Dropout{0.25},
                        nn::Linear{hidden, kClasses}};
}

/// Samples in their order, in 3 updates in one epoch and 4 in the next; each sample counts as three tokens.
class Ragged final : public data::BatchSource {
 public:
  explicit Ragged(std::int64_t samples) : dataset_(points(samples, 1)) {}
  std::string name() const override { return "ragged"; }
  std::int64_t samples() const override { return dataset_.size(); }
  std::int64_t updates_per_epoch(std::int64_t epoch) const override { return 3 + epoch % 2; }
  std::int64_t updates_before(std::int64_t epoch) const override {
    std::int64_t updates = 0;
    for (std::int64_t e = 0; e < epoch; ++e) updates += updates_per_epoch(e);
    return updates;
  }
  data::PlannedUpdate update(std::int64_t epoch, std::int64_t index) const override {
    const std::int64_t updates = updates_per_epoch(epoch), begin = samples() * index / updates;
    data::PlannedUpdate update;
    update.number = updates_before(epoch) + index + 1;
    update.epoch = epoch;
    update.index = index;
    update.first = begin;
    update.samples = samples() * (index + 1) / updates - begin;
    update.tokens = 3 * update.samples;
    return update;
  }
  data::MicroBatch collate(const data::PlannedUpdate& update, std::int64_t /*k*/) const override {
    const Tensor ids = Tensor::empty({update.samples}, Dtype::i64);
    for (std::int64_t i = 0; i < update.samples; ++i) ids.data<std::int64_t>()[i] = update.first + i;
    const data::Batch batch = dataset_.collate({ids.data<std::int64_t>(), static_cast<std::size_t>(update.samples)});
    data::MicroBatch micro;
    micro.input = batch.input;
    micro.target = batch.target;
    micro.sample_ids = ids;
    return micro;
  }
  std::uint64_t seed() const override { return 5; }
  std::uint64_t hash() const override { return dataset_.fingerprint(); }

 private:
  data::TensorDataset dataset_;
};

class ResumeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.example = "test";
    options_.batch_size = 10;
    options_.epochs = 2;
    options_.lr = 0.05;
    options_.seed = 5;
    options_.threads = 2;
    ::testing::internal::CaptureStdout();  // the progress
    ::testing::internal::CaptureStderr();  // skipped updates
  }
  void TearDown() override {
    const std::string out = ::testing::internal::GetCapturedStdout() + ::testing::internal::GetCapturedStderr();
    if (HasFailure()) std::fputs(out.c_str(), stdout);  // what failed is in there too
  }

  Options at(const std::string& run) const {
    Options options = options_;
    options.out = (folder_.path() / run).string();
    return options;
  }
  /// A run of 45 samples: 5 updates in an epoch, the last one short.
  static Summary train(const Options& options, const LossFunction& loss = squared, std::int64_t samples = 45,
                       std::uint64_t data = 1, std::int64_t hidden = 16) {
    nn::Sequential model = make_model(hidden);
    Trainer trainer(model, loss, points(samples, data), points(30, 2), options);
    return trainer.run();
  }
  static Summary resume(Options options, std::optional<std::int64_t> max_updates = {},
                        const LossFunction& loss = squared) {
    options.resume = true;
    options.max_updates = max_updates;
    return train(options, loss);
  }
  static Summary stop_at(Options options, std::int64_t update, const LossFunction& loss = squared) {
    options.max_updates = update;
    return train(options, loss);
  }
  static std::string text(const fs::path& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  std::string metrics(const std::string& run) const { return text(folder_.path() / run / "metrics.jsonl"); }
  std::map<std::string, std::string> files(const std::string& run) const {
    std::map<std::string, std::string> found;
    for (const auto& entry : fs::directory_iterator(folder_.path() / run))
      found[entry.path().filename().string()] = text(entry.path());
    return found;
  }
  void expect_same(const Summary& got, const Summary& want, const std::string& run,
                   const std::string& reference) const {
    EXPECT_EQ(metrics(run), metrics(reference));
    EXPECT_EQ(got.parameters_hash, want.parameters_hash);
    EXPECT_EQ(got.updates, want.updates);
    EXPECT_EQ(got.samples, want.samples);
    EXPECT_EQ(got.tokens, want.tokens);
    EXPECT_EQ(got.skipped_updates, want.skipped_updates);
    EXPECT_EQ(got.train_loss, want.train_loss);
    EXPECT_EQ(got.test_loss, want.test_loss);
    EXPECT_EQ(got.test_accuracy, want.test_accuracy);
    EXPECT_EQ(got.stopped_by, want.stopped_by);
    EXPECT_EQ(got.notes, want.notes);
    ASSERT_EQ(got.epochs.size(), want.epochs.size());
    for (std::size_t e = 0; e < got.epochs.size(); ++e) {
      EXPECT_EQ(got.epochs[e].updates, want.epochs[e].updates);
      EXPECT_EQ(got.epochs[e].samples, want.epochs[e].samples);
      EXPECT_EQ(got.epochs[e].complete, want.epochs[e].complete);
      EXPECT_EQ(got.epochs[e].train_loss, want.epochs[e].train_loss);
      EXPECT_EQ(got.epochs[e].test_loss, want.epochs[e].test_loss);
    }
  }
  /// Stops after each update in turn and goes on.
  void at_every_update() {
    const Summary want = train(at("whole"));
    for (std::int64_t update = 1; update <= want.updates; ++update) {
      SCOPED_TRACE(fmt::format("stopped after update {}", update));
      fs::remove_all(at("run").out);
      const Summary part = stop_at(at("run"), update);
      EXPECT_EQ(part.updates, update);
      expect_same(resume(at("run")), want, "run", "whole");
    }
  }
  std::string refused(Options options, std::int64_t samples = 45, std::uint64_t data = 1, std::int64_t hidden = 16) {
    options.resume = true;
    return test::message_of<Error>([&] { train(options, squared, samples, data, hidden); });
  }

  test::TemporaryFolder folder_;
  Options options_;
};

TEST_F(ResumeTest, AtEveryUpdate) { at_every_update(); }

TEST_F(ResumeTest, AtEveryUpdateWithMomentumAndASchedule) {
  options_.optimizer = OptimizerKind::sgd;
  options_.momentum = 0.9;
  options_.schedule = ScheduleKind::cosine;
  options_.warmup = 4;
  options_.log_every = 3;
  at_every_update();
}

TEST_F(ResumeTest, AtEveryUpdateInMicroBatches) {
  options_.accumulate = 3;
  options_.bn_accumulation = BatchNormAccumulation::micro;
  options_.batch_size = 9;
  at_every_update();
}

TEST_F(ResumeTest, OfAnySourceAtEveryUpdate) {
  const auto source = std::make_shared<const Ragged>(43), test = std::make_shared<const Ragged>(11);
  const auto train_source = [&](const Options& options) {
    nn::Sequential model = make_model();
    return Trainer(Model::of(model), squared, source, test, options).run();
  };
  options_.epochs = 3;
  const Summary want = train_source(at("whole"));
  EXPECT_EQ(want.updates, 3 + 4 + 3);
  EXPECT_EQ(want.samples, 3 * 43);
  EXPECT_EQ(want.tokens, 3 * 3 * 43);
  EXPECT_GT(want.tokens_per_s.value_or(0), 0);
  for (std::int64_t update = 1; update <= want.updates; ++update) {
    SCOPED_TRACE(update);
    fs::remove_all(at("run").out);
    Options options = at("run");
    options.max_updates = update;
    train_source(options);
    options.max_updates.reset();
    options.resume = true;
    expect_same(train_source(options), want, "run", "whole");
  }
}

TEST_F(ResumeTest, ASourceOfSamplesIsTheDataSet) {
  const Summary want = train(at("whole"));
  nn::Sequential model = make_model();
  const auto source = [&](std::int64_t samples, std::uint64_t seed, const data::PlanOptions& plan) {
    return std::make_shared<const data::SampleBatches>(
        std::make_shared<const data::TensorDataset>(points(samples, seed)), plan);
  };
  const auto training = source(45, 1, loader_options(options_).plan());
  const auto test = source(30, 2, {.batch = data::FullBatch{}});
  expect_same(Trainer(Model::of(model), squared, training, test, at("source")).run(), want, "source", "whole");
}

TEST_F(ResumeTest, TwiceInAnEpochAndWithoutAStepBetween) {
  const Summary want = train(at("whole"));
  stop_at(at("run"), 2);
  resume(at("run"), 4);
  const auto stopped = files("run");
  const Summary again = resume(at("run"), 4);  // nothing to do
  EXPECT_EQ(again.updates, 4);
  EXPECT_EQ(again.stopped_by, "max_updates");
  EXPECT_EQ(files("run").at("metrics.jsonl"), stopped.at("metrics.jsonl"));
  EXPECT_EQ(files("run").at(kCheckpointFile), stopped.at(kCheckpointFile));
  resume(at("run"), 5);  // the end of an epoch
  resume(at("run"), 6);  // the first update of the next
  expect_same(resume(at("run")), want, "run", "whole");
  expect_same(resume(at("run")), want, "run", "whole");  // a finished run stays what it is
}

TEST_F(ResumeTest, MayRunWithOtherThreadsLoggingAndFolder) {
  const Summary want = train(at("whole"));
  for (const int threads : {1, 2, 7}) {
    stop_at(at("run"), 3);
    const test::Threads guard(threads);
    Options options = at("run");
    options.threads = threads;
    options.log_every = 1;
    options.profile = true;
    expect_same(resume(options), want, "run", "whole");
    fs::rename(at("run").out, at(fmt::format("moved{}", threads)).out);
    Options moved = at(fmt::format("moved{}", threads));
    expect_same(resume(moved), want, fmt::format("moved{}", threads), "whole");
  }
}

TEST_F(ResumeTest, MayRunWithOtherWorkersAndPrefetch) {
  options_.accumulate = 3;
  options_.bn_accumulation = BatchNormAccumulation::micro;
  options_.batch_size = 9;
  const Summary want = train(at("whole"));
  for (const std::int64_t before : {0, 1, 3, 8})
    for (const std::int64_t after : {0, 1, 3, 8}) {
      SCOPED_TRACE(fmt::format("{} workers, then {}", before, after));
      Options options = at("run");
      options.workers = before;
      options.prefetch = after;  // 0: two per worker
      stop_at(options, 4);
      options.workers = after;
      options.prefetch = 1 + 2 * before;
      expect_same(resume(options), want, "run", "whole");
      fs::remove_all(options.out);
    }
}

TEST_F(ResumeTest, MayTrainForLonger) {
  options_.epochs = 3;
  const Summary want = train(at("whole"));
  options_.epochs = 1;
  train(at("run"));
  options_.epochs = 3;
  expect_same(resume(at("run")), want, "run", "whole");
}

// What a killed run wrote behind its last checkpoint is dropped, half a line too.
TEST_F(ResumeTest, LinesPastTheCheckpointAreDropped) {
  options_.save_every = 3;
  const Summary want = train(at("whole"));
  int calls = 0;
  const auto dies = [&](const Tensor& output, const Tensor& target) {
    if (++calls == 9) throw Error("the lights went out");
    return squared(output, target);
  };
  EXPECT_EQ(test::message_of<Error>([&] { train(at("run"), dies); }), "the lights went out");
  std::ofstream(fs::path(at("run").out) / "metrics.jsonl", std::ios::app) << "{\"event\":\"upd";
  EXPECT_EQ(load_run_state(fs::path(at("run").out) / kCheckpointFile).update, 6);
  expect_same(resume(at("run")), want, "run", "whole");
}

TEST_F(ResumeTest, FromTheVeryStart) {
  options_.save_every = 100;  // more than there are: only update 0 and the end
  const Summary want = train(at("whole"));
  EXPECT_NE(test::message_of<Error>(
                [&] { train(at("run"), [](const Tensor&, const Tensor&) -> Loss { throw Error("at once"); }); }),
            "no exception");
  EXPECT_EQ(load_run_state(fs::path(at("run").out) / kCheckpointFile).update, 0);
  expect_same(resume(at("run")), want, "run", "whole");
}

TEST_F(ResumeTest, ASignalSaves) {
  const Summary want = train(at("whole"));
  for (const int signal : {SIGINT, SIGTERM}) {
    int calls = 0;
    const Summary part = train(at("run"), [&](const Tensor& output, const Tensor& target) {
      if (++calls == 4) std::raise(signal);
      return squared(output, target);
    });
    EXPECT_EQ(part.updates, 4);
    EXPECT_EQ(exit_status(part), signal == SIGINT ? 0 : 143);
    expect_same(resume(at("run")), want, "run", "whole");
  }
}

TEST_F(ResumeTest, SkippedUpdatesAndBadLossesAreStillCounted) {
  // Calls count an epoch's evaluation too: update 6 is call 7.
  const auto loss_from = [](int done) {
    return [calls = done](const Tensor& output, const Tensor& target) mutable {
      Loss loss = squared(output, target);
      ++calls;
      if (calls == 3 || calls == 8) loss.denominator = scalar(0, Dtype::f64);
      return loss;
    };
  };
  const Summary want = train(at("whole"), loss_from(0));
  EXPECT_EQ(want.skipped_updates, 2);
  stop_at(at("run"), 6, loss_from(0));
  expect_same(resume(at("run"), {}, loss_from(7)), want, "run", "whole");
  EXPECT_NE(metrics("run").find("\"skipped\":true"), std::string::npos);
}

TEST_F(ResumeTest, OtherDataAreRefusedAndNothingIsChanged) {
  options_.record("batch_size", std::int64_t{10});
  options_.record("lr", 0.05);
  options_.record("threads", std::int64_t{2});
  options_.may_differ = {"threads"};
  stop_at(at("run"), 3);
  const auto before = files("run");
  const auto expect = [&](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_EQ(files("run"), before);
  };
  expect(refused(at("run"), 46), "the training data are tensors with 46 samples and were tensors with 45");
  expect(refused(at("run"), 45, 9),
         "the content of the training data tensors or the way it is cut into batches has changed");
  Options changed = at("run");
  changed.seed = 6;
  expect(refused(changed), "the seed is 6 and was 5");
  changed = at("run");
  changed.batch_size = 9;
  expect(refused(changed), "the way it is cut into batches has changed");
  changed.record("batch_size", std::int64_t{9});
  changed.record("lr", 0.5);
  changed.record("threads", std::int64_t{1});
  expect(refused(changed), ": --batch-size is 9 but was 10, --lr is 0.5 but was 0.05; change it back");
  changed = at("run");
  changed.drop_last = true;
  expect(refused(changed), "the way it is cut into batches has changed");
  changed = at("run");
  changed.optimizer = OptimizerKind::sgd;
  changed.momentum = 0.9;
  expect(refused(changed), "has no tensor '0.weight.momentum' f32 [16, 8] for the optimizer");
  expect(refused(at("run"), 45, 1, 17), "has '0.weight' as f32 [16, 8] but the model has f32 [17, 8]");
  changed = at("run");
  changed.example = "other";
  expect(refused(changed), "this is other and the run is one of test");
}

TEST_F(ResumeTest, RunsThatCannotBeResumedAreNamed) {
  EXPECT_NE(refused(at("none")).find("--resume needs a run but there is no"), std::string::npos) << refused(at("none"));
  EXPECT_FALSE(fs::exists(at("none").out));
  fs::create_directory(at("empty").out);
  EXPECT_NE(refused(at("empty")).find("has no checkpoint.safetensors"), std::string::npos);

  stop_at(at("run"), 3);
  {
    RunFolder other(at("run").out, Opening::resume);
    other.open();
    EXPECT_NE(refused(at("run")).find("is being written by another run"), std::string::npos);
  }
  const std::string lines = metrics("run");
  std::ofstream(fs::path(at("run").out) / "metrics.jsonl") << lines.substr(0, 100);
  EXPECT_NE(refused(at("run")).find("has 100 bytes but had"), std::string::npos) << refused(at("run"));
  fs::remove(fs::path(at("run").out) / "metrics.jsonl");
  EXPECT_NE(refused(at("run")).find("cannot be opened"), std::string::npos);
  std::ofstream(fs::path(at("run").out) / "metrics.jsonl") << lines;
  const std::string checkpoint = files("run").at(kCheckpointFile);
  std::ofstream(fs::path(at("run").out) / kCheckpointFile) << checkpoint.substr(0, checkpoint.size() - 1);
  EXPECT_NE(refused(at("run")).find("it is truncated"), std::string::npos);
  EXPECT_EQ(metrics("run"), lines);
}

TEST_F(ResumeTest, OnlyWhatAKilledRunLeftIsSwept) {
  stop_at(at("run"), 3);
  const fs::path run = at("run").out;
  std::ofstream(run / ".checkpoint.safetensors.123-0.part") << "half";
  std::ofstream(run / ".summary.json.part") << "half";
  std::ofstream(run / ".thesis.part") << "mine";
  resume(at("run"));
  EXPECT_FALSE(fs::exists(run / ".checkpoint.safetensors.123-0.part"));
  EXPECT_TRUE(fs::exists(run / ".thesis.part"));
}

/// Files may grow to so many bytes only, for its lifetime: what a full disk does to a write, without filling one.
class SmallDisk {
 public:
  explicit SmallDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    struct rlimit small = before_;
    small.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &small);
  }
  ~SmallDisk() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

 private:
  struct rlimit before_ {};
  void (*handler_)(int);
};

TEST_F(ResumeTest, AFullDiskIsAWarningAndTheEarlierCheckpointStays) {
  options_.save_every = 2;
  const Summary want = train(at("whole"));
  EXPECT_EQ(exit_status(want), 0);
  for (const bool recovers : {true, false}) {
    std::optional<SmallDisk> disk;
    int calls = 0;
    const Summary summary = train(at("run"), [&](const Tensor& output, const Tensor& target) {
      ++calls;
      if (calls == 5) disk.emplace(4000);  // the checkpoint has more, metrics.jsonl and summary.json have less
      if (calls == 7) { EXPECT_EQ(load_run_state(fs::path(at("run").out) / kCheckpointFile).update, 4); }
      if (calls == 9 && recovers) disk.reset();
      return squared(output, target);
    });
    disk.reset();
    EXPECT_EQ(summary.updates, 10) << "it trains on";
    EXPECT_EQ(summary.parameters_hash, want.parameters_hash);
    EXPECT_EQ(exit_status(summary), recovers ? 0 : 1);
    for (const auto& [name, content] : files("run")) EXPECT_EQ(name.find(".part"), std::string::npos) << name;
    EXPECT_EQ(load_run_state(fs::path(at("run").out) / kCheckpointFile).update, recovers ? 10 : 4);
    if (recovers) {
      EXPECT_TRUE(summary.notes.empty());
    } else {
      ASSERT_EQ(summary.notes.size(), 1u);
      EXPECT_NE(summary.notes[0].find("could not be saved"), std::string::npos) << summary.notes[0];
      expect_same(resume(at("run")), want, "run", "whole");
    }
  }
}

}  // namespace
}  // namespace weft::train
