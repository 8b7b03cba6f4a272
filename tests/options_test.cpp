#include "train/options.h"

#include <map>

#include <gtest/gtest.h>

#include "tensor/parallel.h"
#include "tests/support/compare.h"
#include "tests/support/idx_files.h"
#include "train/checkpoint.h"

namespace weft::train {
namespace {

class OptionsTest : public ::testing::Test {
 protected:
  ~OptionsTest() override { set_num_threads(threads_); }

  Options parse(const std::vector<std::string>& arguments) {
    norm_ = "auto";
    CommandLine line("example", "shows options");
    line.choice("--norm", norm_, {"auto", "batch", "none"}, "normalisation");
    return line.parse(arguments);
  }
  std::string error(const std::vector<std::string>& arguments) {
    return test::message_of<OptionError>([&] { parse(arguments); });
  }

  std::string norm_;

 private:
  int threads_ = num_threads();
};

TEST_F(OptionsTest, DefaultsAreTheDocumentedOnes) {
  const Options options = parse({});
  EXPECT_EQ(options.batch_size, 128);
  EXPECT_EQ(options.accumulate, 1);
  EXPECT_EQ(options.epochs, 3);
  EXPECT_FALSE(options.max_updates.has_value());
  EXPECT_EQ(options.optimizer, OptimizerKind::adamw);
  EXPECT_EQ(options.lr, 1e-3);
  EXPECT_EQ(options.weight_decay, 0.01);
  EXPECT_EQ(options.schedule, ScheduleKind::constant);
  EXPECT_EQ(options.bn_accumulation, BatchNormAccumulation::refuse);
  EXPECT_EQ(options.out, "runs/example");
  EXPECT_EQ(options.log_every, 1);
  EXPECT_EQ(options.threads, num_threads());
  EXPECT_EQ(options.command, "./run example");
}

TEST_F(OptionsTest, AnExampleAddsFlagsAndNumbers) {
  bool flag = false;
  std::int64_t length = 512;
  double temperature = 0.8;
  const auto read = [&](const std::vector<std::string>& arguments) {
    CommandLine line("example", "shows options");
    line.flag("--verify-partition", flag, "verifies");
    line.number("--length", length, 1, 4096, "places of a row");
    line.number("--temperature", temperature, 0.0, 10.0, "of the sample");
    return line.parse(arguments);
  };
  read({});
  EXPECT_FALSE(flag);
  const Options options = read({"--verify-partition", "--length", "64", "--temperature=0.5"});
  EXPECT_TRUE(flag);
  EXPECT_EQ(length, 64);
  EXPECT_EQ(temperature, 0.5);
  std::map<std::string, Value> config;
  for (const Setting& setting : options.config) config[setting.name] = setting.value;
  EXPECT_EQ(config.at("verify_partition"), Value(true));
  EXPECT_EQ(config.at("length"), Value(std::int64_t{64}));
  EXPECT_EQ(config.at("temperature"), Value(0.5));
  const auto error_of = [&](const std::vector<std::string>& arguments) {
    return test::message_of<OptionError>([&] { read(arguments); });
  };
  EXPECT_EQ(error_of({"--length", "0"}), "--length must be a whole number from 1 to 4096 but is '0'");
  EXPECT_EQ(error_of({"--length", "1e3"}), "--length must be a whole number from 1 to 4096 but is '1e3'");
  EXPECT_EQ(error_of({"--temperature", "nan"}), "--temperature must be a number from 0 to 10 but is 'nan'");
}

TEST_F(OptionsTest, ReadsEveryOption) {
  const Options options =
      parse({"--batch-size",   "full", "--accumulate=20",   "--drop-last", "--epochs",   "7",
             "--max-updates",  "9",    "--optimizer",       "sgd",         "--lr",       "5e-2",
             "--weight-decay", "0",    "--momentum",        ".9",          "--schedule", "cosine",
             "--warmup",       "3",    "--bn-accumulation", "micro",       "--seed",     "18446744073709551615",
             "--threads",      "1",    "--device",          "cpu",         "--data-dir", "a b",
             "--out",          "x",    "--log-every",       "10",          "--profile",  "--json",
             "--norm",         "none"});
  EXPECT_FALSE(options.batch_size.has_value());
  EXPECT_EQ(options.accumulate, 20);
  EXPECT_TRUE(options.drop_last);
  EXPECT_EQ(options.epochs, 7);
  EXPECT_EQ(options.max_updates, 9);
  EXPECT_EQ(options.optimizer, OptimizerKind::sgd);
  EXPECT_EQ(options.lr, 5e-2);
  EXPECT_EQ(options.weight_decay, 0);
  EXPECT_EQ(options.momentum, 0.9);
  EXPECT_EQ(options.schedule, ScheduleKind::cosine);
  EXPECT_EQ(options.warmup, 3);
  EXPECT_EQ(options.bn_accumulation, BatchNormAccumulation::micro);
  EXPECT_EQ(options.seed, 18446744073709551615u);
  EXPECT_EQ(options.threads, 1);
  EXPECT_EQ(num_threads(), 1);
  EXPECT_EQ(options.device, Device{});
  EXPECT_EQ(options.data_dir, "a b");
  EXPECT_EQ(options.out, "x");
  EXPECT_EQ(options.log_every, 10);
  EXPECT_TRUE(options.profile);
  EXPECT_TRUE(options.json);
  EXPECT_EQ(norm_, "none");
}

TEST_F(OptionsTest, TheConfigurationNamesEveryOption) {
  const Options options = parse({"--batch-size", "full", "--norm", "batch", "--lr", "0.25"});
  std::map<std::string, Value> config;
  for (const Setting& setting : options.config)
    EXPECT_TRUE(config.emplace(setting.name, setting.value).second) << setting.name << " is there twice";
  EXPECT_EQ(config.size(), 28u) << "27 common options and --norm";
  EXPECT_EQ(config.at("norm"), Value(std::string("batch")));
  EXPECT_EQ(config.at("batch_size"), Value(std::string("full")));
  EXPECT_EQ(config.at("lr"), Value(0.25));
  EXPECT_EQ(config.at("drop_last"), Value(false));
}

TEST_F(OptionsTest, TheCommandCanBeTypedAgain) {
  EXPECT_EQ(parse({"--out", "it's a run", "--epochs", "2"}).command, "./run example --out 'it'\\''s a run' --epochs 2");
}

TEST_F(OptionsTest, WrongValuesAreNamedWithTheRule) {
  const std::string batch = "--batch-size must be a number of samples from 1 up, or 'full', but is ";
  EXPECT_EQ(error({"--batch-size", "-1"}), batch + "'-1'");
  EXPECT_EQ(error({"--batch-size=0"}), batch + "'0'");
  EXPECT_EQ(error({"--batch-size", "abc"}), batch + "'abc'");
  EXPECT_EQ(error({"--batch-size", "12x"}), batch + "'12x'");
  EXPECT_EQ(error({"--batch-size", "99999999999999999999"}), batch + "'99999999999999999999'");
  for (const char* value : {"nan", "inf", "-1", "1e400", "0x1", "1,5", " 1"})
    EXPECT_EQ(error({"--lr", value}), fmt::format("--lr must be a finite number from 0 up but is '{}'", value));
  EXPECT_EQ(error({"--momentum", "1", "--optimizer", "sgd"}), "--momentum must be a number in [0, 1) but is '1'");
  EXPECT_EQ(error({"--epochs", "0"}), "--epochs must be a whole number from 1 up but is '0'");
  EXPECT_EQ(error({"--max-updates", "0"}), "--max-updates must be a number of updates from 1 up but is '0'");
  EXPECT_EQ(error({"--threads", "0"}), "--threads must be a whole number from 1 to 1024 but is '0'");
  EXPECT_EQ(error({"--seed", "-1"}), "--seed must be a whole number from 0 to 2^64 - 1 but is '-1'");
  EXPECT_EQ(error({"--optimizer", "adam"}), "--optimizer must be adamw or sgd but is 'adam'");
  EXPECT_EQ(error({"--norm", "group"}), "--norm must be auto, batch or none but is 'group'");
  EXPECT_EQ(error({"--lr"}), "--lr needs a value; --help lists the options");
  EXPECT_EQ(error({"--lr", "1", "--lr", "2"}), "--lr was given 2 times; give it once");
  EXPECT_EQ(error({"--json=maybe"}), "--json takes no value but got 'maybe'");
}

TEST_F(OptionsTest, AForgottenValueDoesNotSwallowTheNextOptionSilently) {
  EXPECT_EQ(error({"--batch-size", "--epochs", "3"}),
            "--batch-size must be a number of samples from 1 up, or 'full', but is '--epochs'");
}

TEST_F(OptionsTest, UnknownOptionsNameTheNearest) {
  EXPECT_EQ(error({"--epoch", "3"}), "unknown option '--epoch'; did you mean --epochs?");
  EXPECT_EQ(error({"--batchsize=3"}), "unknown option '--batchsize'; did you mean --batch-size?");
  EXPECT_EQ(error({"--nrom", "none"}), "unknown option '--nrom'; did you mean --norm?");
  EXPECT_EQ(error({"--zebra"}), "unknown option '--zebra'; --help lists the options");
  EXPECT_EQ(error({"-x"}), "unknown option '-x'; --help lists the options");
  EXPECT_EQ(error({"train"}), "unexpected argument 'train'; --help lists the options");
}

TEST_F(OptionsTest, OptionsThatNeedACheckpointNameTheRunThatHasNone) {
  const test::TemporaryFolder folder;
  const std::string there = folder.path().string(), absent = there + "/run";
  EXPECT_EQ(error({"--resume", "--out", absent}),
            "--resume needs a run but there is no '" + absent + "'; check the path");
  EXPECT_EQ(error({"--eval", there}), "--eval needs a checkpoint but '" + there +
                                          "' has no checkpoint.safetensors; give the folder of a run that saved one");
  EXPECT_EQ(error({"--predict=a.npy", "--out", absent}),
            "--predict needs a run but there is no '" + absent + "'; check the path");
  EXPECT_EQ(error({"--resume", "--eval", there}),
            "--resume trains, --eval RUN evaluates and --predict FILE predicts: give one of them");
  EXPECT_EQ(error({"--eval", ""}), "--eval must name the folder of a run but is empty");
  EXPECT_EQ(error({"--save-every", "0"}), "--save-every must be a number of updates from 1 up but is '0'");
  EXPECT_EQ(error({"--workers", "-1"}), "--workers must be a whole number from 0 to 1024 but is '-1'");
  EXPECT_EQ(error({"--prefetch", "-1"}), "--prefetch must be a whole number from 0 to 65536 but is '-1'");
}

TEST_F(OptionsTest, ARunThatIsUsedLendsItsOptions) {
  const test::TemporaryFolder folder;
  const std::string run = folder.path().string();
  const auto save = [&](const Options& options) {
    save_checkpoint(folder.path() / kCheckpointFile,
                    {.run = {.example = "example", .config = options.config}, .model = {}, .optimizer = {}});
  };
  save(parse({"--batch-size",
              "full",
              "--lr",
              "0.1",
              "--drop-last",
              "--optimizer",
              "sgd",
              "--momentum",
              "0.9",
              "--norm",
              "none",
              "--max-updates",
              "7",
              "--threads",
              "1",
              "--workers",
              "3",
              "--epochs",
              "9",
              "--seed",
              "18446744073709551615",
              "--schedule",
              "cosine",
              "--data-dir",
              "a b",
              "--save-every",
              "5",
              "--profile"}));
  const Options resumed = parse({"--resume", "--out", run, "--epochs", "2"});
  EXPECT_FALSE(resumed.batch_size.has_value());
  EXPECT_EQ(resumed.lr, 0.1);
  EXPECT_TRUE(resumed.drop_last);
  EXPECT_EQ(resumed.optimizer, OptimizerKind::sgd);
  EXPECT_EQ(resumed.momentum, 0.9);
  EXPECT_EQ(norm_, "none");
  EXPECT_EQ(resumed.epochs, 2) << "what is given counts";
  EXPECT_EQ(resumed.seed, 18446744073709551615u);
  EXPECT_EQ(resumed.schedule, ScheduleKind::cosine);
  EXPECT_EQ(resumed.data_dir, "a b");
  EXPECT_EQ(resumed.save_every, 5);
  EXPECT_FALSE(resumed.max_updates.has_value()) << "where and how far it ran is not the next run's";
  EXPECT_EQ(resumed.workers, 0);
  EXPECT_FALSE(resumed.profile);
  EXPECT_EQ(resumed.out, run);
  EXPECT_EQ(parse({"--eval", run}).lr, 0.1);
  EXPECT_EQ(norm_, "none");
  CommandLine other("other", "another example");
  EXPECT_EQ(test::message_of<OptionError>([&] {
              other.parse(std::vector<std::string>{"--eval", run});
            }),
            "--eval needs a run of other but '" + run + "' is one of example");
}

TEST_F(OptionsTest, MomentumIsSgds) {
  EXPECT_EQ(error({"--momentum", "0.9"}),
            "--momentum is an option of --optimizer sgd but the optimizer is adamw; leave one of them out");
}

TEST_F(OptionsTest, DevicesThatAreNotThereAreRefusedWithTheReason) {
  EXPECT_NE(error({"--device", "gpu"}).find("'gpu' is no device; use auto, cpu, cuda or simt"), std::string::npos);
  if (!cuda_status().usable) {
    EXPECT_NE(error({"--device", "cuda"}).find(cuda_status().reason), std::string::npos);
    EXPECT_EQ(parse({"--device", "auto"}).device, Device{});
  }
}

TEST_F(OptionsTest, TheEmulatorTrainsAndEvaluatesLittleUnlessTold) {
  const Options short_run = parse({"--device", "simt"});
  EXPECT_EQ(short_run.device, (Device{DeviceKind::simt, 0}));
  EXPECT_EQ(short_run.max_updates, 20);
  EXPECT_EQ(short_run.eval_samples, 256);
  ASSERT_EQ(short_run.notices.size(), 1u);
  EXPECT_NE(short_run.notices[0].find("20 updates, evaluated on 256 samples"), std::string::npos);
  const Options told = parse({"--device", "simt", "--max-updates", "7", "--eval-samples", "9"});
  EXPECT_EQ(told.max_updates, 7);
  EXPECT_EQ(told.eval_samples, 9);
  EXPECT_FALSE(parse({"--device", "cpu"}).eval_samples.has_value());
  EXPECT_NE(error({"--eval-samples", "0"}).find("--eval-samples must be a number of samples from 1 up"),
            std::string::npos);
}

TEST_F(OptionsTest, AWrongOptionChangesNoThreads) {
  const int before = num_threads();
  EXPECT_NE(error({"--threads", "3", "--lr", "nan"}), "no exception");
  EXPECT_EQ(num_threads(), before);
}

TEST_F(OptionsTest, HelpListsEveryOptionWithItsDefault) {
  const std::string help = test::message_of<HelpRequested>([&] { parse({"--help"}); });
  for (const char* text : {"--batch-size N|full", "[128]", "--lr X", "[0.001]", "--norm auto|batch|none", "--json",
                           "--resume", "--save-every N", "--eval RUN", "--predict FILE", "--workers N", "--prefetch N"})
    EXPECT_NE(help.find(text), std::string::npos) << text;
}

TEST_F(OptionsTest, AnExampleMayChangeDefaults) {
  CommandLine line("example", "shows options");
  line.options.batch_size.reset();
  line.options.epochs = 100;
  const Options options = line.parse(std::vector<std::string>{});
  EXPECT_FALSE(options.batch_size.has_value());
  EXPECT_EQ(options.epochs, 100);
}

TEST_F(OptionsTest, AnExampleMayDecideCommonOptionsItself) {
  CommandLine line("test", "for tests");
  line.without({"--batch-size"});
  EXPECT_EQ(test::message_of<OptionError>([&] {
              line.parse(std::vector<std::string>{"--batch-size", "3"});
            }).substr(0, 30),
            "unknown option '--batch-size';");
  const Options options = line.parse(std::vector<std::string>{"--epochs", "2"});
  for (const Setting& setting : options.config) EXPECT_NE(setting.name, "batch_size");
}

TEST(RunExample, TurnsExceptionsIntoExitStatus) {
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(run_example([] { return 7; }), 7);
  EXPECT_EQ(run_example([]() -> int { fail<OptionError>("op", "bad option"); }), 2);
  EXPECT_EQ(run_example([]() -> int { fail<IoError>("op", "bad file"); }), 1);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "error: [op] bad option\nerror: [op] bad file\n");
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(run_example([]() -> int { throw HelpRequested("the help\n"); }), 0);
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "the help\n");
}

}  // namespace
}  // namespace weft::train
