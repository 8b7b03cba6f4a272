#include "train/run_folder.h"

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include <sys/resource.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tensor/error.h"
#include "tests/support/compare.h"

namespace weft::train {
namespace {

namespace fs = std::filesystem;

class RunFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "weft_run_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    base_ = name;
  }
  void TearDown() override { fs::remove_all(base_); }

  static void put(const fs::path& path, const std::string& content) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << content;
  }
  static std::string get(const fs::path& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::string error(const fs::path& path) {
    return test::message_of<IoError>([&] {
      RunFolder folder(path);
      folder.open();
    });
  }

  fs::path base_;
};

TEST_F(RunFolderTest, LookingChangesNothing) {
  put(base_ / "run/metrics.jsonl", "old");
  const RunFolder existing(base_ / "run"), absent(base_ / "a/b/c");
  EXPECT_EQ(get(base_ / "run/metrics.jsonl"), "old");
  EXPECT_FALSE(fs::exists(base_ / "a"));
}

TEST_F(RunFolderTest, CreatesTheFoldersAbove) {
  RunFolder folder(base_ / "a/b c/ü/");
  folder.open();
  EXPECT_TRUE(fs::is_directory(base_ / "a/b c/ü"));
  EXPECT_TRUE(folder.moved_to().empty());
}

TEST_F(RunFolderTest, AnEarlierRunMovesAsideAndStaysWhole) {
  for (int i = 0; i < 3; ++i) {
    RunFolder folder(base_ / "run");
    folder.open();
    folder.write("summary.json", std::to_string(i));
    EXPECT_EQ(std::distance(fs::directory_iterator(base_ / "run"), fs::directory_iterator()), 1);
    if (i > 0) { EXPECT_EQ(folder.moved_to(), base_ / ("run." + std::to_string(i))); }
  }
  EXPECT_EQ(get(base_ / "run.1/summary.json"), "0");
  EXPECT_EQ(get(base_ / "run.2/summary.json"), "1");
  EXPECT_EQ(get(base_ / "run/summary.json"), "2");
}

TEST_F(RunFolderTest, AFreeNumberIsTakenAndNothingOverwritten) {
  put(base_ / "run/metrics.jsonl", "old");
  put(base_ / "run.1", "a file of somebody's");
  fs::create_symlink("nowhere", base_ / "run.2");
  RunFolder folder(base_ / "run");
  folder.open();
  EXPECT_EQ(get(base_ / "run.1"), "a file of somebody's");
  EXPECT_TRUE(fs::is_symlink(base_ / "run.2"));
  EXPECT_EQ(get(base_ / "run.3/metrics.jsonl"), "old");
}

TEST_F(RunFolderTest, AFolderWithOtherFilesIsLeftAlone) {
  put(base_ / "home/thesis.tex", "years of work");
  EXPECT_NE(error(base_ / "home").find("must be new, empty or an earlier run"), std::string::npos);
  EXPECT_EQ(get(base_ / "home/thesis.tex"), "years of work");
}

TEST_F(RunFolderTest, AnEmptyFolderIsUsed) {
  fs::create_directory(base_ / "empty");
  RunFolder folder(base_ / "empty");
  folder.open();
  EXPECT_TRUE(folder.moved_to().empty());
}

TEST_F(RunFolderTest, FilesInTheWayAreNamed) {
  put(base_ / "file", "x");
  EXPECT_EQ(error(base_ / "file"),
            fmt::format("--out must be a folder but '{}' is a file; give another --out or remove the file",
                        (base_ / "file").string()));
  EXPECT_NE(error(base_ / "file/run").find("is a file; give another --out"), std::string::npos)
      << error(base_ / "file/run");
  EXPECT_EQ(get(base_ / "file"), "x");
}

TEST_F(RunFolderTest, AFolderThatCannotBeWrittenIsRefusedAtOnce) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  fs::permissions(base_, fs::perms::owner_read | fs::perms::owner_exec);
  const std::string message = error(base_ / "run");
  fs::permissions(base_, fs::perms::owner_all);
  EXPECT_NE(message.find("cannot be written"), std::string::npos) << message;
}

TEST_F(RunFolderTest, ASystemFolderThatTakesNoFilesIsRefused) {
  if (!fs::exists("/proc/self")) GTEST_SKIP() << "needs /proc";
  EXPECT_NE(error("/proc/weft").find("'/proc/weft' cannot be"), std::string::npos) << error("/proc/weft");
}

TEST_F(RunFolderTest, TwoRunsInOneFolderAreRefused) {
  RunFolder first(base_ / "run");
  first.open();
  first.write("summary.json", "first");
  EXPECT_NE(error(base_ / "run").find("is being written by another run"), std::string::npos);
  EXPECT_EQ(get(base_ / "run/summary.json"), "first");
}

TEST_F(RunFolderTest, AFileIsWrittenWholeOrNotAtAll) {
  RunFolder folder(base_ / "run");
  folder.open();
  folder.write("summary.json", "old");
  // Files may grow to 4 KiB only: what a full disk does to a write, without filling one.
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = test::message_of<IoError>([&] { folder.write("summary.json", std::string(10000, 'x')); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(message.find("summary.json' cannot be written: File too large"), std::string::npos) << message;
  EXPECT_EQ(get(base_ / "run/summary.json"), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(base_ / "run"), fs::directory_iterator()), 1);
}

TEST_F(RunFolderTest, LinesAreThereAtOnce) {
  const fs::path path = base_ / "metrics.jsonl";
  LineFile file(path);
  file.append("{\"a\":1}\n");
  EXPECT_EQ(get(path), "{\"a\":1}\n");
  file.append("{\"a\":2}\n");
  EXPECT_EQ(get(path), "{\"a\":1}\n{\"a\":2}\n");
  EXPECT_NE(test::message_of<IoError>([&] { LineFile again(path); }).find("cannot be created"), std::string::npos);
}

TEST_F(RunFolderTest, LinesGoOnBehindThoseThatAreKept) {
  const fs::path path = base_ / "metrics.jsonl";
  put(path, "one\ntwo\nthr");
  {
    LineFile file(path, 4);
    EXPECT_EQ(file.bytes(), 4);
    file.append("2\n");
    EXPECT_EQ(file.bytes(), 6);
  }
  EXPECT_EQ(get(path), "one\n2\n");
  EXPECT_NE(test::message_of<IoError>([&] { LineFile file(path, 7); }).find("has 6 bytes but had 7"),
            std::string::npos);
  EXPECT_NE(test::message_of<IoError>([&] { LineFile file(path, 5); }).find("has no end of a line at byte 5"),
            std::string::npos);
  EXPECT_NE(test::message_of<IoError>([&] { LineFile file(base_ / "none", 0); }).find("cannot be opened"),
            std::string::npos);
  EXPECT_EQ(get(path), "one\n2\n") << "what is refused is not changed";
  LineFile(path, 0).append("new\n");
  EXPECT_EQ(get(path), "new\n");
}

TEST_F(RunFolderTest, ToResumeTheFolderStaysWhatItIs) {
  put(base_ / "run/metrics.jsonl", "old");
  put(base_ / "run/.checkpoint.safetensors.7-0.part", "half");
  RunFolder folder(base_ / "run", Opening::resume);
  EXPECT_TRUE(fs::exists(base_ / "run/.checkpoint.safetensors.7-0.part")) << "looking changes nothing";
  folder.open();
  EXPECT_TRUE(folder.moved_to().empty());
  EXPECT_EQ(get(base_ / "run/metrics.jsonl"), "old");
  EXPECT_FALSE(fs::exists(base_ / "run/.checkpoint.safetensors.7-0.part"));
  EXPECT_NE(error(base_ / "run").find("is being written by another run"), std::string::npos);
}

TEST_F(RunFolderTest, AFullDiskIsReportedWithItsReason) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "needs /dev/full";
  EXPECT_NE(test::message_of<IoError>([&] {
              RunFolder folder(base_ / "run");
              folder.open();
              fs::create_symlink("/dev/full", base_ / "run/.report.html.part");
              folder.write("report.html", "x");
            }).find("No space left on device"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(base_ / "run/report.html"));
}

}  // namespace
}  // namespace weft::train
