#pragma once
// Files of token ids, as llm.c and nanoGPT keep them: read without being loaded, and written.
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/file.h"
#include "data/sequence_dataset.h"

namespace weft::data {

/// The layout of a shard; numbers are little-endian.
///   llmc     a header of 256 numbers of 32 bits (20240520, 1, how many tokens, then zeros) and the tokens with 16 bits each;
///            with 20240801 and 7 for the first two, 32 bits each
///   nanogpt  nothing but the tokens with 16 bits each
enum class ShardFormat { llmc, nanogpt };

/// How token files become sequences. At most one of ends_with, starts_with and chunk: with none a shard is one sequence.
struct ShardOptions {
  ShardFormat format = ShardFormat::llmc;
  /// Token ids must be below it; 0 takes every id that the file can hold (2^16 or 2^32).
  std::int64_t vocabulary = 0;
  /// The id behind every document (nanoGPT's 50256): a document ends with it.
  std::optional<std::int64_t> ends_with = {};
  /// The id before every document (llm.c's 50256): a document starts with it.
  std::optional<std::int64_t> starts_with = {};
  /// Sequences of so many tokens; the last one of a shard is shorter.
  std::int64_t chunk = 0;
};

/// The token sequences in one or more shards, in this order.
///   data::TokenShards texts({"train_000001.bin", "train_000002.bin"}, {.starts_with = 50256});
/// A document that goes on in the next shard (llm.c cuts them so) is two sequences.
/// Errors:  IoError naming the shard, the place, the value found and the remedy, for a file that is missing, cannot be read, is
///          empty, has another magic number or version, numbers other than 0 in the rest of its header, no tokens, fewer or
///          more bytes than it declares, or half a token; and, when the token is read (with ends_with or starts_with: at once,
///          as every token is looked at), "[token_shards] val.bin holds the id 50257 at place 17 but ids must be in [0, 50257);
///          give its own vocabulary, or the format that it was written in". OptionError for options that do not fit together.
/// Cost:    opening reads the headers only; with ends_with or starts_with everything, once, in parallel. A read is one pread.
/// Memory:  nothing of the tokens; with ends_with or starts_with 8 bytes per document.
/// Safety:  the file's size is held against its header before anything is read or allocated. The file is not mapped: what a
///          mapping gives (no copy of the file in the process, the kernel's cache shared by all processes) a pread gives too,
///          but where a mapped file becomes shorter the process dies of SIGBUS, and here it gets an IoError that names the
///          shard. A mapping that asks for the file's size before each access costs as much and still leaves a gap: reading
///          512 tokens took 400 ns mapped, 746 ns mapped and asked, 655 ns by pread (one thread of an Intel Xeon, 200 MB in the
///          cache, November 2026).
/// Source:  github.com/karpathy/llm.c, dev/data/data_common.py; github.com/karpathy/nanoGPT, data/openwebtext/prepare.py.
class TokenShards final : public SequenceDataset {
 public:
  TokenShards(std::span<const std::filesystem::path> files, const ShardOptions& options, std::string name = "tokens");
  explicit TokenShards(const std::filesystem::path& file, const ShardOptions& options = {});
  ~TokenShards() override;
  TokenShards(const TokenShards&) = delete;
  TokenShards& operator=(const TokenShards&) = delete;

  std::int64_t size() const override { return sequences_; }
  std::string name() const override { return name_; }
  /// Reads everything, in parallel.
  std::uint64_t fingerprint() const override;
  std::int64_t vocabulary() const override { return vocabulary_; }
  std::int64_t length(std::int64_t id) const override;
  void read(std::int64_t id, std::int64_t offset, std::span<std::int64_t> out) const override;

  /// Tokens of all shards.
  std::int64_t tokens() const { return tokens_; }
  /// Where sequence `id` starts, for messages: "val.bin:1024", in tokens from the start of the shard.
  std::string place(std::int64_t id) const;

 private:
  struct Shard;
  struct Place {
    const Shard* shard;
    std::int64_t begin, tokens;  // in the shard
  };
  Place find(std::int64_t id) const;

  std::string name_;
  ShardOptions options_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::int64_t vocabulary_ = 0, sequences_ = 0, tokens_ = 0;
};

/// Writes a shard that TokenShards and llm.c or nanoGPT read; it appears whole or not at all (AtomicFile).
///   data::TokenShardWriter out("fortunes.bin");
///   out.append(tokens);
///   out.commit();
/// Errors:  ShapeError for an id that a token of `token_bytes` bytes cannot hold, or for more than 2^31 - 1 tokens with llm.c's
///          header; OptionError for token_bytes other than 2, or 4 with llm.c's header; IoError when it cannot be written, and
///          for a shard without tokens.
class TokenShardWriter {
 public:
  explicit TokenShardWriter(const std::filesystem::path& path, ShardFormat format = ShardFormat::llmc,
                            std::int64_t token_bytes = 2);
  void append(std::span<const std::int64_t> tokens);
  std::int64_t tokens() const { return tokens_; }
  /// Puts the file in its place; nothing may be appended after.
  void commit();

 private:
  void flush();

  ShardFormat format_;
  std::int64_t token_bytes_, tokens_ = 0;
  std::string name_;
  AtomicFile file_;
  std::vector<std::byte> buffer_;
};

}  // namespace weft::data
