#include "data/token_shards.h"

#include <filesystem>
#include <set>

#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/idx_files.h"
#include "tensor/allocator.h"
#include "tensor/error.h"
#include "tensor/philox.h"

namespace weft::data {
namespace {

using test::message_of;
using Tokens = std::vector<std::int64_t>;

std::string little_endian(const Tokens& numbers, int bytes) {
  std::string text;
  for (const std::int64_t number : numbers)
    for (int i = 0; i < bytes; ++i) text += static_cast<char>(number >> (8 * i));
  return text;
}
std::string llmc_bytes(const Tokens& tokens, std::int64_t declared, std::int64_t magic = 20240520,
                       std::int64_t version = 1, int bytes = 2) {
  Tokens header(256);
  header[0] = magic;
  header[1] = version;
  header[2] = declared;
  return little_endian(header, 4) + little_endian(tokens, bytes);
}
std::string llmc_bytes(const Tokens& tokens) { return llmc_bytes(tokens, static_cast<std::int64_t>(tokens.size())); }

Tokens tokens_of(const SequenceDataset& data, std::int64_t id) {
  Tokens tokens(static_cast<std::size_t>(data.length(id)), -1);
  data.read(id, 0, tokens);
  return tokens;
}
std::vector<Tokens> all_of(const SequenceDataset& data) {
  std::vector<Tokens> all;
  for (std::int64_t id = 0; id < data.size(); ++id) all.push_back(tokens_of(data, id));
  return all;
}
Tokens random_tokens(Philox& random, std::size_t count, std::uint32_t below) {
  Tokens tokens(count);
  for (std::int64_t& token : tokens) token = random.next_u32() % below;
  return tokens;
}

constexpr ShardOptions kNanogpt{.format = ShardFormat::nanogpt};

class TokenShardsTest : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& bytes) const { return folder_.write("shard.bin", bytes); }
  /// The error that opening these bytes gives, with the file's path replaced by FILE.
  std::string error_of(const std::string& bytes, const ShardOptions& options = {}) const {
    return named(message_of<IoError>([&] { TokenShards shards(write(bytes), options); }));
  }
  std::string named(std::string message) const {
    const std::string path = (folder_.path() / "shard.bin").string();
    const std::size_t at = message.find(path);
    if (at != std::string::npos) message.replace(at, path.size(), "FILE");
    return message;
  }

  test::TemporaryFolder folder_;
};

TEST_F(TokenShardsTest, ReadsEveryLayout) {
  const Tokens small{1, 2, 50256, 65535, 0}, large{1, 128'000, 0xffffffff, 0};
  EXPECT_EQ(all_of(TokenShards(write(llmc_bytes(small)))), (std::vector<Tokens>{small}));
  EXPECT_EQ(all_of(TokenShards(write(llmc_bytes(large, 4, 20240801, 7, 4)))), (std::vector<Tokens>{large}));
  EXPECT_EQ(all_of(TokenShards(write(little_endian(small, 2)), kNanogpt)), (std::vector<Tokens>{small}));
  EXPECT_EQ(TokenShards(write(llmc_bytes(small))).vocabulary(), 65536);
  EXPECT_EQ(TokenShards(write(llmc_bytes(large, 4, 20240801, 7, 4))).vocabulary(), std::int64_t{1} << 32);
  EXPECT_EQ(TokenShards(write(llmc_bytes({1, 2})), {.vocabulary = 257}).vocabulary(), 257);
}

TEST_F(TokenShardsTest, CutsDocuments) {
  const std::filesystem::path path = write(llmc_bytes({9, 1, 2, 9, 9, 3, 9}));
  EXPECT_EQ(all_of(TokenShards(path, {.ends_with = 9})), (std::vector<Tokens>{{9}, {1, 2, 9}, {9}, {3, 9}}));
  EXPECT_EQ(all_of(TokenShards(path, {.starts_with = 9})), (std::vector<Tokens>{{9, 1, 2}, {9}, {9, 3}, {9}}));
  EXPECT_EQ(all_of(TokenShards(path, {.chunk = 3})), (std::vector<Tokens>{{9, 1, 2}, {9, 9, 3}, {9}}));
  EXPECT_EQ(all_of(TokenShards(path, {.chunk = 7})).size(), 1u);
  EXPECT_EQ(all_of(TokenShards(path, {.ends_with = 8})).size(), 1u);  // none ends: all is one
  // What stands before the first start, or behind the last end, is a document too.
  EXPECT_EQ(all_of(TokenShards(write(llmc_bytes({1, 9, 2})), {.ends_with = 9})), (std::vector<Tokens>{{1, 9}, {2}}));
  EXPECT_EQ(all_of(TokenShards(path, {.starts_with = 9})), (std::vector<Tokens>{{1}, {9, 2}}));
}

// Whatever the shards, the widths and the cuts: the sequences one behind the other are the tokens, and any part of any
// sequence can be read.
TEST_F(TokenShardsTest, LosesNothing) {
  const std::uint64_t seed = 20261127;
  SCOPED_TRACE(seed);
  Philox random(seed);
  for (int round = 0; round < 60; ++round) {
    SCOPED_TRACE(round);
    Tokens whole;
    std::vector<std::filesystem::path> files;
    for (std::uint32_t shard = 0; shard <= random.next_u32() % 3; ++shard) {
      const Tokens tokens = random_tokens(random, 1 + random.next_u32() % 5000, 40);
      whole.insert(whole.end(), tokens.begin(), tokens.end());
      const bool wide = random.next_u32() % 2 == 0;
      const auto count = static_cast<std::int64_t>(tokens.size());
      files.push_back(
          folder_.write(std::to_string(shard), wide ? llmc_bytes(tokens, count, 20240801, 7, 4) : llmc_bytes(tokens)));
    }
    const ShardOptions cuts[] = {{}, {.ends_with = 7}, {.starts_with = 7}, {.chunk = 1 + random.next_u32() % 100}};
    for (const ShardOptions& options : cuts) {
      const TokenShards shards(files, options);
      EXPECT_EQ(shards.tokens(), static_cast<std::int64_t>(whole.size()));
      Tokens together;
      for (std::int64_t id = 0; id < shards.size(); ++id) {
        const Tokens tokens = tokens_of(shards, id);
        ASSERT_FALSE(tokens.empty());
        const auto offset = random.next_u32() % tokens.size();
        Tokens part(random.next_u32() % (tokens.size() - offset + 1));
        shards.read(id, offset, part);
        EXPECT_TRUE(std::equal(part.begin(), part.end(), tokens.begin() + offset));
        together.insert(together.end(), tokens.begin(), tokens.end());
      }
      EXPECT_EQ(together, whole);
    }
  }
}

TEST_F(TokenShardsTest, FindsDocumentsOfMoreThanOneScannedPart) {
  Tokens tokens(600'000, 1);
  const std::int64_t ends[] = {0, 262'143, 262'144, 524'288, 599'999};  // around the parts' ends
  for (const std::int64_t end : ends) tokens[static_cast<std::size_t>(end)] = 2;
  const TokenShards shards(write(llmc_bytes(tokens)), {.ends_with = 2});
  ASSERT_EQ(shards.size(), 5);
  for (std::int64_t id = 0, begin = 0; id < 5; begin = ends[id++] + 1)
    EXPECT_EQ(shards.length(id), ends[id] + 1 - begin);
  EXPECT_EQ(shards.place(3), (folder_.path() / "shard.bin").string() + ":262145");
}

TEST_F(TokenShardsTest, RefusesPathsThatAreNoReadableFile) {
  const std::string missing = (folder_.path() / "absent").string();
  EXPECT_EQ(message_of<IoError>([&] { TokenShards shards(missing); }),
            "[token_shards] there is no file " + missing + ": check the path");
  EXPECT_NE(message_of<IoError>([&] { TokenShards shards(folder_.path()); }).find("is not a regular file"),
            std::string::npos);
  EXPECT_EQ(message_of<OptionError>([&] { TokenShards shards(std::span<const std::filesystem::path>{}, {}); }),
            "[token_shards] tokens needs at least one file");
}

TEST_F(TokenShardsTest, RefusesWrongHeaders) {
  EXPECT_EQ(error_of(""), "[token_shards] FILE is empty; get the file anew");
  EXPECT_EQ(
      error_of("short"),
      "[token_shards] FILE is truncated: 5 bytes do not hold llm.c's header of 1024; get the file anew, or is it in "
      "nanoGPT's format?");
  EXPECT_EQ(
      error_of(llmc_bytes({1}, 1, 7)),
      "[token_shards] FILE is no shard of llm.c: its first number must be 20240520 or 20240801 but is 7; is it in "
      "nanoGPT's format?");
  EXPECT_EQ(error_of(llmc_bytes({1}, 1, 20240522)),
            "[token_shards] FILE is an evaluation set of llm.c (its first number is 20240522), not a shard of tokens");
  EXPECT_EQ(error_of(llmc_bytes({1}, 1, 20240520, 2)),
            "[token_shards] FILE must have the version 1 behind its first number 20240520 but has 2: write it again");
  EXPECT_NE(error_of(llmc_bytes({1}, 1, 20240801, 1, 4)).find("must have the version 7"), std::string::npos);
  std::string reserved = llmc_bytes({1});
  reserved[4 * 255] = 5;
  EXPECT_EQ(error_of(reserved),
            "[token_shards] FILE must have a 0 at number 255 of its header but has 5; get the file anew");
  EXPECT_EQ(error_of(llmc_bytes({1}, 1), kNanogpt),
            "[token_shards] FILE starts with llm.c's number 20240520: read it in that format");
  EXPECT_EQ(error_of("abc", kNanogpt),
            "[token_shards] FILE is truncated: 3 bytes are no whole number of 16-bit tokens; get the file anew");
}

TEST_F(TokenShardsTest, RefusesCountsThatLieBeforeAllocating) {
  const std::int64_t allocations = cpu_memory_stats().allocations;
  EXPECT_EQ(error_of(llmc_bytes({}, 0)),
            "[token_shards] FILE must hold tokens but its header declares 0; get the file anew");
  EXPECT_EQ(error_of(llmc_bytes({1}, -1)),
            "[token_shards] FILE must hold tokens but its header declares -1; get the file anew");
  EXPECT_EQ(
      error_of(llmc_bytes({1, 2}, 0x7fffffff)),
      "[token_shards] FILE is truncated: its header declares 2147483647 tokens, 4294967294 bytes, but 4 follow; get "
      "the file anew");
  EXPECT_EQ(
      error_of(llmc_bytes({1, 2}, 1)),
      "[token_shards] FILE has trailing bytes: its header declares 1 tokens, 2 bytes, but 4 follow; get the file anew");
  EXPECT_EQ(cpu_memory_stats().allocations, allocations);
}

TEST_F(TokenShardsTest, RefusesEveryTruncation) {
  const std::string whole = llmc_bytes({1, 2, 3});
  for (std::size_t length = 0; length < whole.size(); ++length)
    EXPECT_NE(error_of(whole.substr(0, length)).find(length == 0 ? "is empty" : "is truncated"), std::string::npos)
        << length;
}

TEST_F(TokenShardsTest, RefusesIdsOutsideTheVocabularyNamingShardAndPlace) {
  Tokens tokens(5000, 3);
  tokens[4321] = 300;
  const std::filesystem::path path = write(llmc_bytes(tokens));
  const std::string message =
      "[token_shards] FILE holds the id 300 at place 4321 but ids must be in [0, 257); give its own vocabulary, or the "
      "format that it was written in";
  const TokenShards lazy(path, {.vocabulary = 257, .chunk = 1000});
  EXPECT_EQ(tokens_of(lazy, 0), Tokens(1000, 3));  // what is not read is not seen
  EXPECT_EQ(named(message_of<IoError>([&] { tokens_of(lazy, 4); })), message);
  // Looking for documents looks at every token.
  EXPECT_EQ(error_of(llmc_bytes(tokens), {.vocabulary = 257, .ends_with = 256}), message);
}

// No SIGBUS, no stale tokens.
TEST_F(TokenShardsTest, NoticesAFileThatBecomesShorter) {
  const Tokens tokens(5000, 3);
  const std::filesystem::path path = write(llmc_bytes(tokens));
  const TokenShards shards(path, {.chunk = 1000});
  std::filesystem::resize_file(path, 1024 + 2 * 2500);
  EXPECT_EQ(tokens_of(shards, 1), Tokens(1000, 3));
  EXPECT_EQ(
      named(message_of<IoError>([&] { tokens_of(shards, 2); })),
      "[token_shards] FILE became shorter after it was opened: 1000 of 2000 bytes are left at place 2000; do not write "
      "to a shard in use");
  EXPECT_NE(message_of<IoError>([&] { shards.fingerprint(); }).find("became shorter"), std::string::npos);
  // A file that is replaced, as AtomicFile does, stays as it was for those who have it open.
  const TokenShards open(write(llmc_bytes(tokens)));
  TokenShardWriter writer(path);
  writer.append(Tokens{1});
  writer.commit();
  EXPECT_EQ(tokens_of(open, 0), tokens);
}

TEST_F(TokenShardsTest, RefusesWrongOptionsAndPlaces) {
  const std::filesystem::path path = write(llmc_bytes({1, 2, 3}));
  const auto refused = [&](const ShardOptions& options) {
    return message_of<OptionError>([&] { TokenShards shards(path, options); });
  };
  EXPECT_EQ(refused({.ends_with = 1, .chunk = 5}),
            "[token_shards] at most one of ends_with, starts_with and chunk can be given");
  EXPECT_EQ(refused({.chunk = -1}), "[token_shards] chunk must not be negative but is -1");
  EXPECT_EQ(refused({.vocabulary = -1}), "[token_shards] vocabulary must be in [0, 2^32] but is -1");
  EXPECT_EQ(refused({.vocabulary = 10, .ends_with = 10}),
            "[token_shards] the id between documents must be in [0, 10) but is 10");
  const TokenShards shards(path);
  Tokens out(3);
  EXPECT_EQ(message_of<ShapeError>([&] { shards.read(0, 1, out); }),
            "[token_shards] sequence 0 of shard.bin has 3 tokens: [1, 4) is not within it");
  EXPECT_EQ(message_of<ShapeError>([&] { shards.length(-1); }),
            "[token_shards] the id of a sequence of shard.bin must be in [0, 1) but is -1");
}

TEST_F(TokenShardsTest, TheFingerprintIsThatOfTheSequences) {
  const auto of = [&](const Tokens& tokens, const ShardOptions& options = {}) {
    return TokenShards(write(llmc_bytes(tokens)), options).fingerprint();
  };
  EXPECT_EQ(of({1, 2, 3}), of({1, 2, 3}));
  const std::set<std::uint64_t> all{of({1, 2, 3}),
                                    of({1, 2, 4}),
                                    of({1, 2}),
                                    of({1, 2, 3}, {.vocabulary = 9}),
                                    of({1, 2, 3}, {.chunk = 2}),
                                    of({1, 2, 3}, {.ends_with = 2}),
                                    of({1, 2, 3}, {.starts_with = 2})};
  EXPECT_EQ(all.size(), 7u);
}

TEST_F(TokenShardsTest, WritesWhatItReads) {
  Philox random(7);
  const Tokens tokens = random_tokens(random, 100'000, 65536);
  const std::filesystem::path path = folder_.path() / "shard.bin";
  for (const ShardFormat format : {ShardFormat::llmc, ShardFormat::nanogpt}) {
    TokenShardWriter writer(path, format);
    for (std::size_t at = 0; at < tokens.size(); at += 777)
      writer.append(std::span(tokens).subspan(at, std::min<std::size_t>(777, tokens.size() - at)));
    EXPECT_EQ(writer.tokens(), 100'000);
    writer.commit();
    EXPECT_EQ(all_of(TokenShards(path, {.format = format})), (std::vector<Tokens>{tokens}));
  }
  // Byte for byte what llm.c's write_datafile writes.
  const auto written = [&](const Tokens& values, std::int64_t bytes) {
    TokenShardWriter writer(path, ShardFormat::llmc, bytes);
    writer.append(values);
    writer.commit();
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  EXPECT_EQ(written({5, 50256}, 2), llmc_bytes({5, 50256}));
  EXPECT_EQ(written({5, 128'001}, 4), llmc_bytes({5, 128'001}, 2, 20240801, 7, 4));
}

TEST_F(TokenShardsTest, WritesNothingThatIsWrong) {
  const std::filesystem::path path = write("what was there before");
  {
    TokenShardWriter writer(path);
    writer.append(Tokens{1});
    EXPECT_EQ(message_of<ShapeError>([&] {
                writer.append(Tokens{2, 65536});
              }),
              "[token_shards] a token of 2 bytes must be in [0, 65536) but is 65536");
    EXPECT_EQ(writer.tokens(), 1);  // nothing of a refused call was taken
  }
  EXPECT_EQ(named(message_of<IoError>([&] { TokenShardWriter(path).commit(); })),
            "[token_shards] FILE would hold no tokens: nothing was written");
  EXPECT_EQ(std::filesystem::file_size(path), 21u);
  EXPECT_EQ(message_of<OptionError>([&] { TokenShardWriter writer(path, ShardFormat::nanogpt, 4); }),
            "[token_shards] a token takes 2 bytes, or 4 with llm.c's header, but token_bytes is 4");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), std::filesystem::directory_iterator()),
            1);
}

}  // namespace
}  // namespace weft::data
