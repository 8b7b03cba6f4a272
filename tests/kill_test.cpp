// A training process that is killed at any moment, in and out of writing its checkpoint, goes on as if nothing had been.
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <spawn.h>

#include "nn/activation.h"
#include "nn/batch_norm.h"
#include "nn/dropout.h"
#include "nn/init.h"
#include "nn/linear.h"
#include "nn/sequential.h"
#include "tensor/philox.h"
#include "tests/support/compare.h"
#include "tests/support/idx_files.h"
#include "tests/support/points.h"
#include "train/trainer.h"

// Every call that a run makes to change a file passes through here, in place of the C library's function: the process can be
// killed, or the call made to fail, at any of them.
namespace {

enum class Fault { none, kill, fail };
Fault fault = Fault::none;
long calls_left = -1;  // before the fault
int fault_errno = 0;
long calls_made = 0;

/// Whether this call is to fail; never returns when it is to be the last.
bool strikes() {
  ++calls_made;
  if (fault == Fault::none || calls_left-- != 0) return false;
  if (fault == Fault::kill) ::kill(::getpid(), SIGKILL);
  errno = fault_errno;
  return true;
}

}  // namespace

// NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): the C library's have reserved names
extern "C" {
int fsync(int file) { return strikes() ? -1 : static_cast<int>(::syscall(SYS_fsync, file)); }
int fdatasync(int file) { return strikes() ? -1 : static_cast<int>(::syscall(SYS_fdatasync, file)); }
int rename(const char* from, const char* to) noexcept {
  return strikes() ? -1 : static_cast<int>(::syscall(SYS_rename, from, to));
}
int ftruncate(int file, off_t size) noexcept {
  return strikes() ? -1 : static_cast<int>(::syscall(SYS_ftruncate, file, size));
}
ssize_t pwrite(int file, const void* bytes, size_t count, off_t at) {
  return strikes() ? -1 : ::syscall(SYS_pwrite64, file, bytes, count, at);
}
ssize_t write(int file, const void* bytes, size_t count) {
  if (file > 2 && strikes()) return -1;
  return ::syscall(SYS_write, file, bytes, count);
}
}
// NOLINTEND(readability-inconsistent-declaration-parameter-name)

namespace weft::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

nn::Sequential make_model() {
  nn::manual_seed(3);
  return nn::Sequential{nn::Linear{test::kFeatures, 16}, nn::BatchNorm1d{16}, nn::ReLU{}, nn::Dropout{0.25},
                        nn::Linear{16, test::kClasses}};
}

Options options_for(const fs::path& run, std::int64_t epochs) {
  Options options;
  options.example = "test";
  options.out = run.string();
  options.batch_size = 10;
  options.epochs = epochs;
  options.lr = 0.05;
  options.seed = 5;
  options.threads = 1;
  options.save_every = 1;
  return options;
}

/// 25 samples: 3 updates in an epoch, each followed by a checkpoint.
Summary train(const Options& options) {
  nn::Sequential model = make_model();
  Trainer trainer(model, test::squared, test::points(25, 1), test::points(30, 2), options);
  return trainer.run();
}

std::string text(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

// The child of the tests below, in a process of its own.
TEST(KillTestChild, DISABLED_Trains) {
  const char* run = std::getenv("WEFT_TEST_RUN");
  if (run == nullptr) GTEST_SKIP() << "only as the child of another test";
  Options options = options_for(run, std::atol(std::getenv("WEFT_TEST_EPOCHS")));
  options.resume = fs::exists(fs::path(run) / kCheckpointFile);
  if (const char* at = std::getenv("WEFT_TEST_KILL_AT")) {
    fault = Fault::kill;
    calls_left = std::atol(at);
  }
  train(options);
}

class KillTest : public ::testing::Test {
 protected:
  void SetUp() override { ::testing::internal::CaptureStdout(); }
  void TearDown() override {
    const std::string out = ::testing::internal::GetCapturedStdout();
    if (HasFailure()) std::fputs(out.c_str(), stdout);  // what failed is in there too
  }
  fs::path run(const std::string& name = "run") const { return folder_.path() / name; }

  /// Starts a process that trains in `run`, or goes on there when it holds a checkpoint.
  static pid_t start(const fs::path& run, std::int64_t epochs, long kill_at = -1) {
    std::vector<std::string> environment{"WEFT_TEST_RUN=" + run.string(), "WEFT_TEST_EPOCHS=" + std::to_string(epochs)};
    if (kill_at >= 0) environment.push_back("WEFT_TEST_KILL_AT=" + std::to_string(kill_at));
    for (char** variable = environ; *variable != nullptr; ++variable)
      if (std::string_view(*variable).substr(0, 10) != "WEFT_TEST_" &&
          std::string_view(*variable).substr(0, 6) != "GTEST_")
        environment.emplace_back(*variable);
    std::vector<char*> variables;
    variables.reserve(environment.size() + 1);
    for (std::string& variable : environment) variables.push_back(variable.data());
    variables.push_back(nullptr);
    std::string program = "/proc/self/exe", filter = "--gtest_filter=KillTestChild.DISABLED_Trains",
                disabled = "--gtest_also_run_disabled_tests";
    char* arguments[] = {program.data(), filter.data(), disabled.data(), nullptr};
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions, 2, (run.string() + ".stderr").c_str(), O_WRONLY | O_CREAT | O_APPEND,
                                       0666);
    pid_t child = 0;
    const int error = ::posix_spawn(&child, program.c_str(), &actions, nullptr, arguments, variables.data());
    ::posix_spawn_file_actions_destroy(&actions);
    EXPECT_EQ(error, 0);
    return child;
  }
  /// Waits for it; whether it came to its end, rather than being killed.
  static bool finished(pid_t child, const fs::path& run) {
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return false;
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status << ": " << text(run.string() + ".stderr");
    return true;
  }
  /// What a killed process left: a checkpoint that is whole, with all of its lines before it, and no sample lost or repeated
  /// in the lines that are there.
  static void check_left(const fs::path& run, const std::string& want) {
    const std::string lines = text(run / "metrics.jsonl");
    const std::string whole = lines.substr(0, lines.rfind('\n') + 1);
    EXPECT_EQ(want.substr(0, whole.size()), whole) << "the lines are a beginning of those of the uninterrupted run";
    if (!fs::exists(run / kCheckpointFile)) return;
    const Checkpoint checkpoint = load_checkpoint(run / kCheckpointFile);
    ASSERT_LE(checkpoint.run.metrics_bytes, static_cast<std::int64_t>(whole.size()));
    std::istringstream stream(whole.substr(0, static_cast<std::size_t>(checkpoint.run.metrics_bytes)));
    std::int64_t update = 0, samples = 0;
    for (std::string line; std::getline(stream, line);) {
      const Json event = Json::parse(line);
      if (event["event"] != "update") continue;
      EXPECT_EQ(event["update"], ++update);
      samples += update % 3 == 0 ? 5 : 10;
      EXPECT_EQ(event["samples"], samples);
    }
    EXPECT_EQ(update, checkpoint.run.update);
    EXPECT_EQ(samples, checkpoint.run.samples);
  }
  static void expect_same(const fs::path& run, const fs::path& reference) {
    EXPECT_EQ(text(run / "metrics.jsonl"), text(reference / "metrics.jsonl"));
    const Json got = Json::parse(text(run / "summary.json")), want = Json::parse(text(reference / "summary.json"));
    for (const char* key : {"parameters_hash", "updates", "samples", "train_loss", "test_loss", "stopped_by", "notes"})
      EXPECT_EQ(got[key], want[key]) << key;
    for (const auto& entry : fs::directory_iterator(run))
      EXPECT_EQ(entry.path().filename().string().find(".part"), std::string::npos) << entry.path();
  }

  test::TemporaryFolder folder_;
};

TEST_F(KillTest, AtFiftyRandomMoments) {
  constexpr std::int64_t kEpochs = 8;
  constexpr int kKills = 50;
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(finished(start(run("whole"), kEpochs), run("whole")));
  const auto whole_us =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin).count();
  const std::string want = text(run("whole") / "metrics.jsonl");
  const std::uint64_t seed = 20261126;
  Philox random(seed);
  int kills = 0, runs = 0, resumed = 0;
  while (kills < kKills) {
    const fs::path here = run(fmt::format("run{}", runs++));
    for (int life = 0;; ++life) {
      resumed += fs::exists(here / kCheckpointFile) ? 1 : 0;
      const pid_t child = start(here, kEpochs);
      if (kills < kKills) {
        // Long enough for the process to start, short enough that a run takes several lives.
        std::this_thread::sleep_for(std::chrono::microseconds(
            static_cast<std::int64_t>(random.uniform() * 0.6 * static_cast<double>(whole_us))));
        ::kill(child, SIGKILL);
      }
      if (finished(child, here)) break;
      ++kills;
      check_left(here, want);
      ASSERT_LT(life, 200);
    }
    expect_same(here, run("whole"));
  }
  EXPECT_GT(resumed, kKills / 4) << "most lives must get as far as a checkpoint, or nothing was shown";
  RecordProperty("seed", std::to_string(seed));
  RecordProperty("runs", runs);
  RecordProperty("resumed", resumed);
}

// Before each call that changes a file, from the start of a run on: every write, flush and rename of two checkpoints, the
// evaluation, the summary.
TEST_F(KillTest, BeforeEveryCallThatChangesAFile) {
  EXPECT_TRUE(finished(start(run("whole"), 1), run("whole")));
  const std::string want = text(run("whole") / "metrics.jsonl");
  long deaths = 0;
  for (long at = 0;; at += at < 80 ? 1 : 9) {  // a checkpoint makes 34 calls
    SCOPED_TRACE(at);
    const fs::path here = run("run");
    fs::remove_all(here);
    if (finished(start(here, 1, at), here)) break;
    ++deaths;
    check_left(here, want);
    EXPECT_TRUE(finished(start(here, 1), here));
    expect_same(here, run("whole"));
    ASSERT_LT(at, 5000);
  }
  EXPECT_GT(deaths, 80);
}

// The disk refuses any one call of a checkpoint: it is told, the earlier checkpoint is whole and nothing is left over.
TEST_F(KillTest, EveryCallThatFailsLeavesTheEarlierCheckpoint) {
  const fs::path file = folder_.path() / kCheckpointFile;
  nn::Sequential model = make_model();
  Checkpoint checkpoint{.run = {.example = "test"}, .model = nn::state_dict(model)};
  save_checkpoint(file, checkpoint);
  checkpoint.run.seed = 7;
  const std::string before = text(file);
  int failures = 0;
  for (long at = 0;; ++at) {
    SCOPED_TRACE(at);
    fault = Fault::fail;
    calls_left = at;
    fault_errno = at % 2 == 0 ? ENOSPC : EIO;
    const std::string message = test::message_of<IoError>([&] { save_checkpoint(file, checkpoint); });
    const bool struck = calls_left < 0;
    fault = Fault::none;
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()), 1);
    if (!struck) {
      EXPECT_EQ(message, "no exception");
      break;
    }
    ++failures;
    if (text(file) == before) {
      EXPECT_NE(message.find(at % 2 == 0 ? "No space left on device" : "Input/output error"), std::string::npos)
          << message;
      continue;
    }
    // The last call: the new file is in its place, and whole, but the folder could not be forced to the disk.
    EXPECT_NE(message.find("its folder could not be forced to the disk"), std::string::npos) << message;
    EXPECT_EQ(load_run_state(file).seed, 7u);
  }
  EXPECT_GE(failures, 12);
  EXPECT_EQ(load_run_state(file).seed, 7u);
}

}  // namespace
}  // namespace weft::train
