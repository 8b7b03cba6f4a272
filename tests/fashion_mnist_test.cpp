#include "data/fashion_mnist.h"

#include <cmath>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <set>

#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): POSIX

#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/idx_files.h"
#include "support/threads.h"

namespace weft::data {
namespace {

using test::gzip;
using test::idx_bytes;
using test::message_of;
using test::pattern_bytes;

constexpr std::int64_t kPixels = 28 * 28;

/// Sets or clears an environment variable for the lifetime of the object.
class Environment {
 public:
  Environment(const char* name, const std::optional<std::string>& value) : name_(name) {
    if (const char* old = std::getenv(name)) before_ = old;
    set(value);
  }
  ~Environment() { set(before_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  void set(const std::optional<std::string>& value) const {
    if (value)
      setenv(name_, value->c_str(), 1);
    else
      unsetenv(name_);
  }
  const char* name_;
  std::optional<std::string> before_;
};

std::string labels(std::size_t count) {
  std::string bytes(count, '\0');
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>((i * 7 + 3) % 10);
  return bytes;
}

/// A small set in a folder: 50 training images with .gz, 20 test images without.
class SmallFashionMnist : public testing::Test {
 protected:
  SmallFashionMnist() {
    folder_.write("train-images-idx3-ubyte.gz", gzip(idx_bytes({50, 28, 28}, train_)));
    folder_.write("train-labels-idx1-ubyte.gz", gzip(idx_bytes({50}, labels(50))));
    folder_.write("t10k-images-idx3-ubyte", idx_bytes({20, 28, 28}, pattern_bytes(20 * kPixels, 2)));
    folder_.write("t10k-labels-idx1-ubyte", idx_bytes({20}, labels(20)));
  }
  std::string train_error() {
    return message_of<IoError>([&] { FashionMnist::train(folder_.path()); });
  }
  std::string file(const std::string& name) const { return (folder_.path() / name).string(); }

  test::TemporaryFolder folder_;
  std::string train_ = pattern_bytes(50 * kPixels);
};

TEST_F(SmallFashionMnist, ReadsPlainAndGzip) {
  const FashionMnist train = FashionMnist::train(folder_.path()), test = FashionMnist::test(folder_.path());
  EXPECT_EQ(train.size(), 50);
  EXPECT_EQ(test.size(), 20);
  EXPECT_EQ(train.name(), "fashion_mnist/train");
  EXPECT_EQ(test.name(), "fashion_mnist/test");
  const auto bytes = train.images().to_vector<std::uint8_t>();
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), train_);
  EXPECT_EQ(train.labels().to_vector<std::int64_t>()[4], 1);
  EXPECT_EQ(train.fingerprint(), FashionMnist::train(folder_.path()).fingerprint());
  EXPECT_NE(train.fingerprint(), test.fingerprint());
}

TEST_F(SmallFashionMnist, CollatesNormalisedRowsInTheOrderAsked) {
  const FashionMnist set = FashionMnist::train(folder_.path());
  const auto image = set.images().to_vector<std::uint8_t>();
  for (const std::size_t rows : {0, 1, 3, 41, 42, 50}) {  // a chunk is 41 rows
    std::vector<std::int64_t> ids(rows);
    for (std::size_t i = 0; i < rows; ++i) ids[i] = static_cast<std::int64_t>((i * 17 + 49) % 50);
    const Batch batch = set.collate(ids);
    ASSERT_EQ(batch.input.shape(), (Shape{static_cast<std::int64_t>(rows), 28, 28}));
    ASSERT_EQ(batch.input.dtype(), Dtype::f32);
    ASSERT_EQ(batch.target.shape(), (Shape{static_cast<std::int64_t>(rows)}));
    const auto x = batch.input.to_vector<float>();
    const auto y = batch.target.to_vector<std::int64_t>();
    for (std::size_t r = 0; r < rows; ++r) {
      ASSERT_EQ(y[r], (ids[r] * 7 + 3) % 10);
      for (std::size_t i = 0; i < kPixels; ++i) {
        const double want = (image[static_cast<std::size_t>(ids[r]) * kPixels + i] / 255.0 - 0.2860) / 0.3530;
        // Values up to 2.1 (half an ulp is 1.2e-7), three roundings of the constants and two of the result.
        ASSERT_NEAR(x[r * kPixels + i], want, 5e-7);
      }
    }
  }
  const std::vector<std::int64_t> repeated{7, 7, 7}, outside{0, 1, 50}, negative{-1};
  EXPECT_EQ(set.collate(repeated).target.to_vector<std::int64_t>(), (std::vector<std::int64_t>{2, 2, 2}));
  EXPECT_EQ(message_of<ShapeError>([&] { set.collate(outside); }),
            "[collate] sample ids must be in [0, 50) but row 2 asks for 50");
  EXPECT_EQ(message_of<ShapeError>([&] { set.collate(negative); }),
            "[collate] sample ids must be in [0, 50) but row 0 asks for -1");
}

TEST_F(SmallFashionMnist, CollatesTheSameBitsOnAnyNumberOfThreads) {
  const FashionMnist set = FashionMnist::train(folder_.path());
  std::vector<std::int64_t> ids(333);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>((i * 29) % 50);
  Batch want;
  for (const int threads : {1, 2, 7}) {
    const test::Threads guard(threads);
    const Batch batch = set.collate(ids);
    if (!want.input.defined()) want = batch;
    EXPECT_TRUE(test::bitwise_equal(batch.input, want.input)) << threads;
    EXPECT_TRUE(test::bitwise_equal(batch.target, want.target)) << threads;
  }
}

TEST_F(SmallFashionMnist, FindsItsFolder) {
  const Environment environment("WEFT_DATA_DIR", folder_.path().string());
  EXPECT_EQ(FashionMnist::train().size(), 50);
  const test::TemporaryFolder empty;
  const std::string message =
      "[fashion_mnist] there is neither train-images-idx3-ubyte nor train-images-idx3-ubyte.gz in " +
      empty.path().string() +
      ": install the Debian package dataset-fashion-mnist, or name the folder that holds them with "
      "--data-dir or WEFT_DATA_DIR";
  EXPECT_EQ(message_of<IoError>([&] { FashionMnist::train(empty.path()); }), message) << "what is given wins";
  const Environment other("WEFT_DATA_DIR", empty.path().string());
  EXPECT_EQ(message_of<IoError>([&] { FashionMnist::train(); }), message);
}

TEST_F(SmallFashionMnist, RefusesFilesThatDoNotFitTogether) {
  folder_.write("train-labels-idx1-ubyte.gz", gzip(idx_bytes({49}, labels(49))));
  EXPECT_EQ(train_error(), "[fashion_mnist] there must be one label per image but " +
                               file("train-images-idx3-ubyte.gz") + " holds 50 images and " +
                               file("train-labels-idx1-ubyte.gz") + " holds 49 labels; get the files anew");
  std::string wrong = labels(50);
  wrong[17] = 11;
  folder_.write("train-labels-idx1-ubyte.gz", gzip(idx_bytes({50}, wrong)));
  EXPECT_EQ(train_error(), "[fashion_mnist] labels must be in [0, 10) but row 17 of " +
                               file("train-labels-idx1-ubyte.gz") + " is 11; get the file anew");
  wrong[17] = static_cast<char>(255);
  folder_.write("train-labels-idx1-ubyte.gz", gzip(idx_bytes({50}, wrong)));
  EXPECT_NE(train_error().find("row 17 of"), std::string::npos);
  EXPECT_NE(train_error().find("is 255"), std::string::npos);
  folder_.write("train-labels-idx1-ubyte.gz", gzip(idx_bytes({5, 10}, labels(50))));
  EXPECT_EQ(train_error(), "[fashion_mnist] labels must have shape [N] but " + file("train-labels-idx1-ubyte.gz") +
                               " holds [5, 10]: give the folder of Fashion-MNIST");
  folder_.write("train-images-idx3-ubyte.gz", gzip(idx_bytes({50, 14, 56}, train_)));
  EXPECT_EQ(train_error(), "[fashion_mnist] images must have shape [N, 28, 28] but " +
                               file("train-images-idx3-ubyte.gz") +
                               " holds [50, 14, 56]: give the folder of Fashion-MNIST");
  folder_.write("train-images-idx3-ubyte.gz", gzip(idx_bytes({50, 28, 28}, train_)).substr(0, 1000));
  EXPECT_NE(train_error().find("[read_idx] " + file("train-images-idx3-ubyte.gz") + " is truncated"),
            std::string::npos);
  // A plain file comes before a compressed one.
  folder_.write("train-images-idx3-ubyte", "");
  EXPECT_EQ(train_error(), "[read_idx] " + file("train-images-idx3-ubyte") + " is empty; get the file anew");
}

TEST(FashionMnist, TheRealDataSetIsWhatItIsSaidToBe) {
  std::optional<FashionMnist> train, test;
  try {
    train = FashionMnist::train();
    test = FashionMnist::test();
  } catch (const IoError& error) { GTEST_SKIP() << error.what(); }
  ASSERT_EQ(train->size(), 60'000);
  ASSERT_EQ(test->size(), 10'000);
  const auto train_labels = train->labels().to_vector<std::int64_t>(),
             test_labels = test->labels().to_vector<std::int64_t>();
  EXPECT_EQ(std::vector<std::int64_t>(train_labels.begin(), train_labels.begin() + 10),
            (std::vector<std::int64_t>{9, 0, 0, 3, 0, 2, 7, 2, 5, 5}));
  EXPECT_EQ(std::vector<std::int64_t>(test_labels.begin(), test_labels.begin() + 10),
            (std::vector<std::int64_t>{9, 2, 1, 1, 6, 1, 4, 6, 5, 7}));
  EXPECT_EQ(FashionMnist::kClassNames[9], "Ankle boot");
  for (std::int64_t label = 0; label < 10; ++label) {
    EXPECT_EQ(std::count(train_labels.begin(), train_labels.end(), label), 6000);
    EXPECT_EQ(std::count(test_labels.begin(), test_labels.end(), label), 1000);
  }

  std::vector<std::int64_t> ids(60'000);
  std::iota(ids.begin(), ids.end(), 0);
  const Tensor input = train->collate(ids).input;
  const auto* x = input.data<float>();
  double sum = 0, squares = 0;
  for (std::int64_t i = 0; i < input.numel(); ++i) sum += x[i];
  const double mean = sum / static_cast<double>(input.numel());
  for (std::int64_t i = 0; i < input.numel(); ++i) squares += (x[i] - mean) * (x[i] - mean);
  // The constants have four digits: half of the last one is 5e-5 / 0.353 = 1.4e-4 for both.
  EXPECT_NEAR(mean, 0, 2e-4);
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(input.numel())), 1, 2e-4);
}

}  // namespace
}  // namespace weft::data
