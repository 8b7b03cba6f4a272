#include "data/idx.h"

#include <unistd.h>

#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/idx_files.h"
#include "tensor/allocator.h"

namespace weft::data {
namespace {

using test::gzip;
using test::idx_bytes;
using test::message_of;
using test::pattern_bytes;

class IdxTest : public testing::Test {
 protected:
  /// The error that reading these bytes gives, with the file's path replaced by FILE.
  std::string error_of(const std::string& bytes) {
    const std::filesystem::path path = folder_.write("file", bytes);
    std::string message = message_of<IoError>([&] { read_idx(path); });
    const std::size_t at = message.find(path.string());
    if (at != std::string::npos) message.replace(at, path.string().size(), "FILE");
    return message;
  }
  std::string read_back(const std::string& bytes, const Shape& shape) {
    const Tensor values = read_idx(folder_.write("file", bytes));
    EXPECT_EQ(values.shape(), shape);
    EXPECT_EQ(values.dtype(), Dtype::u8);
    const auto vector = values.to_vector<std::uint8_t>();
    return {vector.begin(), vector.end()};
  }

  test::TemporaryFolder folder_;
};

TEST_F(IdxTest, ReadsPlainAndGzipOfEveryRank) {
  const std::string values = pattern_bytes(2 * 3 * 4 * 5);
  const std::vector<std::vector<std::uint32_t>> shapes{{120}, {40, 3}, {10, 3, 4}, {2, 3, 4, 5}, {1, 120, 1}};
  for (const auto& extents : shapes) {
    Shape shape;
    for (const std::uint32_t extent : extents) shape.push_back(extent);
    EXPECT_EQ(read_back(idx_bytes(extents, values), shape), values);
    EXPECT_EQ(read_back(gzip(idx_bytes(extents, values)), shape), values);
  }
}

TEST_F(IdxTest, ReadsMoreThanOneBuffer) {
  const std::string values = pattern_bytes(3 * 100'003);  // hardly compressible, larger than the 64 KiB input buffer
  EXPECT_EQ(read_back(gzip(idx_bytes({3, 100'003}, values)), {3, 100'003}), values);
  const std::string zeros(5'000'000, '\0');  // near the most that deflate can pack
  EXPECT_EQ(read_back(gzip(idx_bytes({5'000'000}, zeros)), {5'000'000}), zeros);
}

TEST_F(IdxTest, ReadsFilesWithoutValues) {
  EXPECT_EQ(read_back(idx_bytes({0, 28, 28}, ""), {0, 28, 28}), "");
  EXPECT_EQ(read_back(gzip(idx_bytes({0}, "")), {0}), "");
}

TEST_F(IdxTest, RefusesPathsThatAreNoReadableFile) {
  const std::string missing = (folder_.path() / "absent").string();
  EXPECT_EQ(message_of<IoError>([&] { read_idx(missing); }),
            "[read_idx] there is no file " + missing + ": check the path");
  EXPECT_EQ(message_of<IoError>([&] { read_idx(folder_.path()); }),
            "[read_idx] " + folder_.path().string() + " is not a regular file: give the path of one");
  EXPECT_EQ(message_of<IoError>([&] { read_idx("/dev/null"); }),
            "[read_idx] /dev/null is not a regular file: give the path of one");
}

TEST_F(IdxTest, RefusesFilesWithoutPermission) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read every file";
  const std::filesystem::path path = folder_.write("secret", idx_bytes({1}, "x"));
  std::filesystem::permissions(path, std::filesystem::perms::none);
  EXPECT_EQ(message_of<IoError>([&] { read_idx(path); }),
            "[read_idx] " + path.string() + " cannot be read: Permission denied; check the permissions");
}

TEST_F(IdxTest, RefusesWrongHeaders) {
  EXPECT_EQ(error_of(""), "[read_idx] FILE is empty; get the file anew");
  EXPECT_EQ(error_of(gzip("")),
            "[read_idx] FILE is truncated: 0 bytes do not hold a 4-byte magic number; get the file anew");
  EXPECT_EQ(
      error_of("\x89PNG\r\n"),
      "[read_idx] FILE is not an IDX file: the magic number must start with 00 00 but is 89 50 4e 47; give an IDX "
      "file, plain or gzip");
  EXPECT_EQ(
      error_of(gzip("PK\x03\x04 and so on")),
      "[read_idx] FILE is not an IDX file: the magic number must start with 00 00 but is 50 4b 03 04; give an IDX "
      "file, plain or gzip");
  EXPECT_EQ(
      error_of(idx_bytes({1}, "abcd", 0x0D)),
      "[read_idx] FILE must hold unsigned bytes (type code 0x08) but has type code 0x0d (32-bit floats); convert its "
      "values to bytes");
  EXPECT_EQ(
      error_of(idx_bytes({1}, "a", 0x00)),
      "[read_idx] FILE must hold unsigned bytes (type code 0x08) but has type code 0x00; convert its values to bytes");
  EXPECT_EQ(error_of(idx_bytes({}, "abc")),
            "[read_idx] FILE must have 1 to 4 dimensions but its header says 0; get the file anew");
  EXPECT_EQ(error_of(idx_bytes({1, 1, 1, 1, 1}, "a")),
            "[read_idx] FILE must have 1 to 4 dimensions but its header says 5; get the file anew");
  EXPECT_EQ(error_of(idx_bytes(std::vector<std::uint32_t>(255, 1), "a")),
            "[read_idx] FILE must have 1 to 4 dimensions but its header says 255; get the file anew");
}

TEST_F(IdxTest, RefusesSizesThatOverflowOrLieBeforeAllocating) {
  EXPECT_EQ(
      error_of(idx_bytes({0xffffffffu, 0xffffffffu, 28, 28}, "a")),
      "[read_idx] FILE declares [4294967295, 4294967295, 28, 28] in its header: more values than any memory holds; get "
      "the file anew");
  // 2^64: the product is 0 again in 64 bits.
  EXPECT_NE(error_of(idx_bytes({65536, 65536, 65536, 65536}, "")).find("more values than any memory holds"),
            std::string::npos);
  // A zero does not hide the others.
  EXPECT_NE(
      error_of(idx_bytes({0, 0xffffffffu, 0xffffffffu, 0xffffffffu}, "")).find("more values than any memory holds"),
      std::string::npos);

  const std::int64_t allocations = cpu_memory_stats().allocations;
  EXPECT_EQ(
      error_of(idx_bytes({0xffffffffu, 28, 28}, "abc")),
      "[read_idx] FILE is truncated: its header [4294967295, 28, 28] declares 3367254359280 bytes of values but 3 "
      "follow; get the file anew");
  const std::string packed = gzip(idx_bytes({0x7fffffffu, 28, 28}, "abc"));
  EXPECT_EQ(error_of(packed),
            "[read_idx] FILE is truncated: its header [2147483647, 28, 28] declares 1683627179248 bytes of "
            "values but " +
                std::to_string(packed.size()) + " compressed bytes cannot hold more than " +
                std::to_string(packed.size() * 1032) + "; get the file anew");
  EXPECT_EQ(cpu_memory_stats().allocations, allocations);
}

TEST_F(IdxTest, RefusesTooFewAndTooManyBytes) {
  const std::string good = idx_bytes({2, 3}, "abcdef");
  EXPECT_EQ(
      error_of(good.substr(0, good.size() - 1)),
      "[read_idx] FILE is truncated: its header [2, 3] declares 6 bytes of values but 5 follow; get the file anew");
  EXPECT_EQ(
      error_of(good + "g"),
      "[read_idx] FILE has trailing bytes: its header [2, 3] declares 6 bytes of values but 7 follow; get the file "
      "anew");
  EXPECT_EQ(
      error_of(gzip(good.substr(0, good.size() - 1))),
      "[read_idx] FILE is truncated: its header [2, 3] declares 6 bytes of values but 5 follow; get the file anew");
  EXPECT_EQ(
      error_of(gzip(good + "g")),
      "[read_idx] FILE has trailing bytes: its header [2, 3] declares 6 bytes of values but more follow; get the file "
      "anew");
}

TEST_F(IdxTest, RefusesEveryTruncation) {
  const std::string plain = idx_bytes({3, 5}, pattern_bytes(15));
  for (const std::string& whole : {plain, gzip(plain)})
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const std::string message = error_of(whole.substr(0, length));
      EXPECT_EQ(message.rfind("[read_idx] FILE is ", 0), 0u) << length << ": " << message;
      // Two bytes of a gzip file are enough to tell it from a plain one.
      const bool told = whole == plain || length >= 2;
      EXPECT_TRUE(!told || message.find(length == 0 ? "is empty" : "is truncated") != std::string::npos)
          << length << ": " << message;
    }
}

TEST_F(IdxTest, RefusesDamagedGzip) {
  const std::string good = idx_bytes({3, 5}, pattern_bytes(15)), packed = gzip(good);
  const std::string damaged =
      "[read_idx] FILE is damaged: its content does not have the checksum that it states (gzip: ";
  std::string wrong = packed;
  wrong[packed.size() - 8] ^= 1;  // CRC-32
  EXPECT_EQ(error_of(wrong), damaged + "incorrect data check); get the file anew");
  wrong = packed;
  wrong[packed.size() - 1] ^= 1;  // length
  EXPECT_EQ(error_of(wrong), damaged + "incorrect length check); get the file anew");
  wrong = packed;
  wrong[10] = 0x07;  // a block of the reserved type
  EXPECT_EQ(error_of(wrong), "[read_idx] FILE is damaged (gzip: invalid block type); get the file anew");
  EXPECT_EQ(
      error_of(packed + packed),
      "[read_idx] FILE consists of several gzip members but must be a single one: unpack it and compress it anew");
  EXPECT_EQ(
      error_of(gzip(good.substr(0, 10)) + gzip(good.substr(10))),
      "[read_idx] FILE consists of several gzip members but must be a single one: unpack it and compress it anew");
  EXPECT_EQ(error_of(packed + "x"),
            "[read_idx] FILE has trailing bytes behind its gzip stream (the first is 0x78); get the file anew");
  EXPECT_EQ(error_of(packed + std::string(512, '\0')),
            "[read_idx] FILE has trailing bytes behind its gzip stream (the first is 0x00); get the file anew");
}

// Whatever bit is flipped, the file is refused or (a flag or time stamp of gzip's header) reads as before.
TEST_F(IdxTest, NeverAcceptsDamagedValues) {
  const std::string values = pattern_bytes(15), packed = gzip(idx_bytes({3, 5}, values));
  int refused = 0;
  for (std::size_t bit = 0; bit < packed.size() * 8; ++bit) {
    std::string wrong = packed;
    wrong[bit / 8] = static_cast<char>(wrong[bit / 8] ^ (1 << (bit % 8)));
    try {
      const auto read = read_idx(folder_.write("file", wrong)).to_vector<std::uint8_t>();
      EXPECT_EQ(std::string(read.begin(), read.end()), values) << "bit " << bit;
    } catch (const IoError&) { ++refused; }
  }
  EXPECT_GT(refused, static_cast<int>(packed.size() - 10) * 8 - 1);  // all but bits of the 10-byte header
}

}  // namespace
}  // namespace weft::data
