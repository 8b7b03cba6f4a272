#include "data/token_shards.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

#include "data/fingerprint.h"
#include "tensor/error.h"
#include "tensor/parallel.h"

namespace weft::data {
namespace {

static_assert(std::endian::native == std::endian::little, "tokens are read and written as they lie in memory");

constexpr const char* kOp = "token_shards";
constexpr std::int32_t kMagic16 = 20240520, kVersion16 = 1, kMagic32 = 20240801, kVersion32 = 7, kMagicEval = 20240522;
using Header = std::array<std::int32_t, 256>;
constexpr std::int64_t kHeaderBytes = sizeof(Header);
constexpr std::int64_t kScanTokens = 1 << 18;  // read at once when everything is read

std::int64_t as_i64(std::size_t value) { return static_cast<std::int64_t>(value); }

/// The number of ids that so many bytes hold.
std::int64_t ids_of(std::int64_t token_bytes) { return std::int64_t{1} << (8 * token_bytes); }

/// Widens tokens; returns the largest. In blocks of a fixed length, which the compiler turns into vector code.
template <class T>
std::int64_t widen(const std::byte* from, std::span<std::int64_t> out) {
  constexpr std::size_t kBlock = 16;
  std::array<T, kBlock> tokens{}, largest{};
  std::size_t i = 0;
  for (; i + kBlock <= out.size(); i += kBlock) {
    std::memcpy(tokens.data(), from + i * sizeof(T), sizeof tokens);
    std::int64_t* to = out.data() + i;
    for (std::size_t k = 0; k < kBlock; ++k) to[k] = tokens[k];
    for (std::size_t k = 0; k < kBlock; ++k) largest[k] = std::max(largest[k], tokens[k]);
  }
  for (; i < out.size(); ++i) {
    std::memcpy(tokens.data(), from + i * sizeof(T), sizeof(T));
    out[i] = tokens[0];
    largest[0] = std::max(largest[0], tokens[0]);
  }
  return *std::max_element(largest.begin(), largest.end());
}

}  // namespace

/// An open file, checked.
struct TokenShards::Shard {
  Shard(const std::filesystem::path& path, const ShardOptions& options) : file(kOp, path) {
    require<IoError>(file.bytes() > 0, kOp, "{} is empty; get the file anew", file.name());
    if (options.format == ShardFormat::llmc)
      read_header();
    else
      size_up();
    vocabulary = options.vocabulary == 0 ? ids_of(token_bytes) : options.vocabulary;
  }

  /// Writes the tokens from `begin` on and checks them.
  void read(std::int64_t begin, std::span<std::int64_t> out) const {
    std::array<std::byte, 8192> buffer;
    for (std::size_t done = 0; done < out.size();) {
      const std::span<std::int64_t> part =
          out.subspan(done, std::min(out.size() - done, buffer.size() / static_cast<std::size_t>(token_bytes)));
      read_part(begin + as_i64(done), part, buffer.data());
      done += part.size();
    }
  }

  void read_header() {
    require<IoError>(
        file.bytes() >= kHeaderBytes, kOp,
        "{} is truncated: {} bytes do not hold llm.c's header of {}; get the file anew, or is it in nanoGPT's "
        "format?",
        file.name(), file.bytes(), kHeaderBytes);
    Header header{};
    const std::int64_t got = file.read_at(0, header.data(), kHeaderBytes);
    require<IoError>(got == kHeaderBytes, kOp, "{} became shorter while it was opened; get the file anew", file.name());
    require<IoError>(header[0] != kMagicEval, kOp,
                     "{} is an evaluation set of llm.c (its first number is {}), not a shard of tokens", file.name(),
                     kMagicEval);
    require<IoError>(header[0] == kMagic16 || header[0] == kMagic32, kOp,
                     "{} is no shard of llm.c: its first number must be {} or {} but is {}; is it in nanoGPT's format?",
                     file.name(), kMagic16, kMagic32, header[0]);
    const std::int32_t version = header[0] == kMagic16 ? kVersion16 : kVersion32;
    require<IoError>(header[1] == version, kOp,
                     "{} must have the version {} behind its first number {} but has {}: write it again", file.name(),
                     version, header[0], header[1]);
    for (std::size_t i = 3; i < header.size(); ++i)
      require<IoError>(header[i] == 0, kOp, "{} must have a 0 at number {} of its header but has {}; get the file anew",
                       file.name(), i, header[i]);
    token_bytes = header[0] == kMagic16 ? 2 : 4;
    data_at = kHeaderBytes;
    tokens = header[2];
    require<IoError>(tokens > 0, kOp, "{} must hold tokens but its header declares {}; get the file anew", file.name(),
                     tokens);
    const std::int64_t declared = tokens * token_bytes, following = file.bytes() - kHeaderBytes;
    require<IoError>(declared <= following, kOp,
                     "{} is truncated: its header declares {} tokens, {} bytes, but {} follow; get the file anew",
                     file.name(), tokens, declared, following);
    require<IoError>(declared == following, kOp,
                     "{} has trailing bytes: its header declares {} tokens, {} bytes, but {} follow; get the file anew",
                     file.name(), tokens, declared, following);
  }
  void size_up() {
    require<IoError>(file.bytes() % token_bytes == 0, kOp,
                     "{} is truncated: {} bytes are no whole number of 16-bit tokens; get the file anew", file.name(),
                     file.bytes());
    tokens = file.bytes() / token_bytes;
    std::int32_t first = 0;
    if (file.bytes() < kHeaderBytes || file.read_at(0, &first, sizeof first) != sizeof first) return;
    require<IoError>(first != kMagic16 && first != kMagic32, kOp,
                     "{} starts with llm.c's number {}: read it in that format", file.name(), first);
  }

  void read_part(std::int64_t begin, std::span<std::int64_t> out, std::byte* buffer) const {
    const std::int64_t want = as_i64(out.size()) * token_bytes;
    const std::int64_t got = file.read_at(data_at + begin * token_bytes, buffer, want);
    require<IoError>(
        got == want, kOp,
        "{} became shorter after it was opened: {} of {} bytes are left at place {}; do not write to a shard in "
        "use",
        file.name(), got, want, begin);
    const std::int64_t largest =
        token_bytes == 2 ? widen<std::uint16_t>(buffer, out) : widen<std::uint32_t>(buffer, out);
    if (largest < vocabulary) return;
    const auto bad = std::find_if(out.begin(), out.end(), [&](std::int64_t token) { return token >= vocabulary; });
    fail<IoError>(
        kOp,
        "{} holds the id {} at place {} but ids must be in [0, {}); give its own vocabulary, or the format that it "
        "was written in",
        file.name(), *bad, begin + (bad - out.begin()), vocabulary);
  }

  /// Calls f(part, tokens, begin) for all tokens, in parallel, in parts of a fixed size.
  template <class F>
  void scan(F&& f) const {
    parallel_ranges(tokens, kScanTokens, [&](std::int64_t begin, std::int64_t end) {
      std::vector<std::int64_t> part(static_cast<std::size_t>(end - begin));
      read(begin, part);
      f(static_cast<std::size_t>(begin / kScanTokens), std::span<const std::int64_t>(part), begin);
    });
  }
  std::size_t parts() const { return static_cast<std::size_t>((tokens + kScanTokens - 1) / kScanTokens); }

  /// Where documents start.
  void find_documents(const ShardOptions& options) {
    const std::int64_t id = options.ends_with ? *options.ends_with : *options.starts_with;
    const std::int64_t behind = options.ends_with ? 1 : 0;
    std::vector<std::vector<std::int64_t>> found(parts());
    scan([&](std::size_t part, std::span<const std::int64_t> values, std::int64_t begin) {
      for (std::size_t i = 0; i < values.size(); ++i)
        if (values[i] == id) found[part].push_back(begin + as_i64(i) + behind);
    });
    starts = {0};
    for (const auto& part : found)
      for (const std::int64_t start : part)
        if (start > 0 && start < tokens) starts.push_back(start);
  }

  InputFile file;
  std::int64_t token_bytes = 2, data_at = 0, tokens = 0;
  std::int64_t vocabulary = 0;
  std::int64_t first_sequence = 0, sequences = 1;
  std::vector<std::int64_t> starts = {};  // of documents, where these were asked for
};

TokenShards::TokenShards(std::span<const std::filesystem::path> files, const ShardOptions& options, std::string name)
    : name_(std::move(name)), options_(options) {
  require<OptionError>(!files.empty(), kOp, "{} needs at least one file", name_);
  require<OptionError>(options.vocabulary >= 0 && options.vocabulary <= ids_of(4), kOp,
                       "vocabulary must be in [0, 2^32] but is {}", options.vocabulary);
  require<OptionError>(options.chunk >= 0, kOp, "chunk must not be negative but is {}", options.chunk);
  const int cuts = (options.ends_with ? 1 : 0) + (options.starts_with ? 1 : 0) + (options.chunk > 0 ? 1 : 0);
  require<OptionError>(cuts <= 1, kOp, "at most one of ends_with, starts_with and chunk can be given");
  for (const std::filesystem::path& file : files) {
    auto shard = std::make_unique<Shard>(file, options);
    shard->first_sequence = sequences_;
    if (options.chunk > 0) shard->sequences = (shard->tokens - 1) / options.chunk + 1;
    if (options.ends_with || options.starts_with) {
      shard->find_documents(options);
      shard->sequences = as_i64(shard->starts.size());
    }
    sequences_ += shard->sequences;
    tokens_ += shard->tokens;
    vocabulary_ = std::max(vocabulary_, shard->vocabulary);
    shards_.push_back(std::move(shard));
  }
  for (const auto& cut : {options.ends_with, options.starts_with})
    require<OptionError>(!cut || (*cut >= 0 && *cut < vocabulary_), kOp,
                         "the id between documents must be in [0, {}) but is {}", vocabulary_, cut.value_or(0));
}

TokenShards::TokenShards(const std::filesystem::path& file, const ShardOptions& options)
    : TokenShards({&file, 1}, options, file.filename().string()) {}

TokenShards::~TokenShards() = default;

TokenShards::Place TokenShards::find(std::int64_t id) const {
  require<ShapeError>(id >= 0 && id < sequences_, kOp, "the id of a sequence of {} must be in [0, {}) but is {}", name_,
                      sequences_, id);
  const auto after = std::upper_bound(shards_.begin(), shards_.end(), id,
                                      [](std::int64_t at, const auto& shard) { return at < shard->first_sequence; });
  const Shard& shard = **std::prev(after);
  const std::int64_t within = id - shard.first_sequence;
  std::int64_t begin = within * options_.chunk, end = options_.chunk > 0 ? begin + options_.chunk : shard.tokens;
  if (!shard.starts.empty()) {
    const auto i = static_cast<std::size_t>(within);
    begin = shard.starts[i];
    end = i + 1 < shard.starts.size() ? shard.starts[i + 1] : shard.tokens;
  }
  return {&shard, begin, std::min(end, shard.tokens) - begin};
}

std::int64_t TokenShards::length(std::int64_t id) const { return find(id).tokens; }

void TokenShards::read(std::int64_t id, std::int64_t offset, std::span<std::int64_t> out) const {
  const Place place = find(id);
  const std::int64_t count = as_i64(out.size());
  require<ShapeError>(offset >= 0 && offset <= place.tokens && count <= place.tokens - offset, kOp,
                      "sequence {} of {} has {} tokens: [{}, {}) is not within it", id, name_, place.tokens, offset,
                      offset + count);
  place.shard->read(place.begin + offset, out);
}

std::string TokenShards::place(std::int64_t id) const {
  const Place place = find(id);
  return fmt::format("{}:{}", place.shard->file.name(), place.begin);
}

std::uint64_t TokenShards::fingerprint() const {
  const auto of = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
  std::uint64_t hash = hash_combine(of(sequences_), of(vocabulary_));
  for (const auto& shard : shards_) {
    std::vector<std::uint64_t> parts(shard->parts());
    shard->scan([&](std::size_t part, std::span<const std::int64_t> values, std::int64_t) {
      parts[part] = hash_bytes({reinterpret_cast<const char*>(values.data()), values.size_bytes()});
    });
    hash = hash_combine(hash_combine(hash, of(shard->tokens)), of(options_.chunk));
    for (const std::int64_t start : shard->starts) hash = hash_combine(hash, of(start));
    for (const std::uint64_t part : parts) hash = hash_combine(hash, part);
  }
  return hash;
}

TokenShardWriter::TokenShardWriter(const std::filesystem::path& path, ShardFormat format, std::int64_t token_bytes)
    : format_(format), token_bytes_(token_bytes), name_(path.string()), file_(kOp, path) {
  require<OptionError>(token_bytes == 2 || (token_bytes == 4 && format == ShardFormat::llmc), kOp,
                       "a token takes 2 bytes, or 4 with llm.c's header, but token_bytes is {}", token_bytes);
  if (format_ == ShardFormat::nanogpt) return;
  const Header header{token_bytes == 2 ? kMagic16 : kMagic32, token_bytes == 2 ? kVersion16 : kVersion32};
  file_.write(header.data(), kHeaderBytes);
}

void TokenShardWriter::append(std::span<const std::int64_t> tokens) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  require<ShapeError>(format_ == ShardFormat::nanogpt || as_i64(tokens.size()) <= kMost - tokens_, kOp,
                      "{} would hold more than the {} tokens that llm.c's header can declare: write several shards",
                      name_, kMost);
  for (const std::int64_t token : tokens)
    require<ShapeError>(token >= 0 && token < ids_of(token_bytes_), kOp,
                        "a token of {} bytes must be in [0, {}) but is {}", token_bytes_, ids_of(token_bytes_), token);
  constexpr std::size_t kBufferBytes = 1 << 16;
  for (const std::int64_t token : tokens) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&token);
    buffer_.insert(buffer_.end(), bytes, bytes + token_bytes_);
    if (buffer_.size() >= kBufferBytes) flush();
  }
  tokens_ += as_i64(tokens.size());
}

void TokenShardWriter::flush() {
  file_.write(buffer_.data(), as_i64(buffer_.size()));
  buffer_.clear();
}

void TokenShardWriter::commit() {
  require<IoError>(tokens_ > 0, kOp, "{} would hold no tokens: nothing was written", name_);
  flush();
  const auto count = static_cast<std::int32_t>(tokens_);
  if (format_ == ShardFormat::llmc) file_.write_at(2 * sizeof(std::int32_t), &count, sizeof count);
  file_.commit();
}

}  // namespace weft::data
