#include "data/idx.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>

#include <zlib.h>

namespace weft::data {
namespace {

constexpr const char* kOp = "read_idx";

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using FilePointer = std::unique_ptr<std::FILE, CloseFile>;

FilePointer open_regular(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  require<IoError>(status.type() != std::filesystem::file_type::not_found, kOp,
                   "there is no file {}: check the path, or the folder given with --data-dir", path.string());
  require<IoError>(!error, kOp, "{} cannot be read: {}; check the permissions", path.string(), error.message());
  // A folder opens but cannot be read, and a pipe would block: neither has a size to hold the header against.
  require<IoError>(std::filesystem::is_regular_file(status), kOp,
                   "{} is not a regular file: give the path of an IDX file", path.string());
  FilePointer file(std::fopen(path.c_str(), "rb"));
  require<IoError>(file != nullptr, kOp, "{} cannot be read: {}; check the permissions", path.string(),
                   std::generic_category().message(errno));
  return file;
}

/// The bytes of a file as they are.
class PlainSource {
 public:
  PlainSource(FilePointer file, const std::filesystem::path& path, std::int64_t file_bytes)
      : file_(std::move(file)), name_(path.string()), file_bytes_(file_bytes) {}

  /// Reads up to `bytes` bytes; fewer only at the end.
  std::int64_t read(void* out, std::int64_t bytes) {
    const std::size_t got = std::fread(out, 1, static_cast<std::size_t>(bytes), file_.get());
    require<IoError>(std::ferror(file_.get()) == 0, kOp, "{} cannot be read: {}", name_,
                     std::generic_category().message(errno));
    return static_cast<std::int64_t>(got);
  }
  /// Refuses a number of values that the file cannot hold.
  void check_declared(const Shape& dims, std::int64_t header_bytes, std::int64_t declared) const {
    const std::int64_t following = file_bytes_ - header_bytes;
    require<IoError>(declared <= following, kOp,
                     "{} is truncated: its header {} declares {} bytes of values but {} follow; get the file anew",
                     name_, dims, declared, following);
    require<IoError>(
        declared == following, kOp,
        "{} has trailing bytes: its header {} declares {} bytes of values but {} follow; get the file anew", name_,
        dims, declared, following);
  }

 private:
  FilePointer file_;
  std::string name_;
  std::int64_t file_bytes_;
};

/// The bytes of the one member of a gzip file.
class GzipSource {
 public:
  GzipSource(FilePointer file, const std::filesystem::path& path, std::int64_t file_bytes)
      : raw_(std::move(file), path, file_bytes), name_(path.string()), file_bytes_(file_bytes) {
    // 16 + the window size: the gzip wrapper only; zlib then compares its checksum and length too.
    require<IoError>(inflateInit2(&stream_, 16 + MAX_WBITS) == Z_OK, kOp, "{}: zlib cannot start", name_);
  }
  ~GzipSource() { inflateEnd(&stream_); }
  GzipSource(const GzipSource&) = delete;
  GzipSource& operator=(const GzipSource&) = delete;

  std::int64_t read(void* out, std::int64_t bytes) {
    constexpr std::int64_t kMostPerCall = 1 << 30;  // zlib counts in 32 bits
    std::int64_t got = 0;
    while (got < bytes && !ended_) {
      const auto room = static_cast<uInt>(std::min(bytes - got, kMostPerCall));
      stream_.next_out = static_cast<Bytef*>(out) + got;
      stream_.avail_out = room;
      inflate_some();
      got += room - stream_.avail_out;
    }
    return got;
  }
  void check_declared(const Shape& dims, std::int64_t /*header_bytes*/, std::int64_t declared) const {
    // Deflate spends at least two bits on a run of 258 bytes: 1032 to 1 (zlib's technical notes). Whoever declares more than
    // that would only make us allocate.
    constexpr std::int64_t kMostExpansion = 1032;
    const std::int64_t most = file_bytes_ * kMostExpansion;
    require<IoError>(
        declared <= most, kOp,
        "{} is truncated: its header {} declares {} bytes of values but {} compressed bytes cannot hold more "
        "than {}; get the file anew",
        name_, dims, declared, file_bytes_, most);
  }

 private:
  // Unpacks as much as the input at hand gives, into avail_out.
  void inflate_some() {
    require<IoError>(has_input(), kOp,
                     "{} is truncated: its gzip stream breaks off after {} unpacked bytes; get the file anew", name_,
                     stream_.total_out);
    const int status = inflate(&stream_, Z_NO_FLUSH);
    if (status == Z_STREAM_END) {
      ended_ = true;
      check_nothing_follows();
      return;
    }
    const std::string_view reason = stream_.msg != nullptr ? stream_.msg : zError(status);
    require<IoError>(
        reason != "incorrect data check" && reason != "incorrect length check", kOp,
        "{} is damaged: its content does not have the checksum that it states (gzip: {}); get the file anew", name_,
        reason);
    require<IoError>(status == Z_OK || status == Z_BUF_ERROR, kOp, "{} is damaged (gzip: {}); get the file anew", name_,
                     reason);
  }
  // Whether a byte of the file is left; reads on when the buffer is used up.
  bool has_input() {
    if (stream_.avail_in > 0) return true;
    stream_.next_in = input_.data();
    stream_.avail_in = static_cast<uInt>(raw_.read(input_.data(), static_cast<std::int64_t>(input_.size())));
    return stream_.avail_in > 0;
  }
  void check_nothing_follows() {
    std::array<unsigned, 2> next{};  // what starts another member: 0x1f 0x8b; may lie across the end of the buffer
    for (unsigned& byte : next)
      if (has_input()) {
        byte = *stream_.next_in++;
        --stream_.avail_in;
      } else if (&byte == &next[0]) {
        return;
      }
    require<IoError>(next[0] != 0x1f || next[1] != 0x8b, kOp,
                     "{} consists of several gzip members but must be a single one: unpack it and compress it anew",
                     name_);
    fail<IoError>(kOp, "{} has trailing bytes behind its gzip stream (the first is 0x{:02x}); get the file anew", name_,
                  next[0]);
  }

  PlainSource raw_;
  std::string name_;
  std::int64_t file_bytes_;
  z_stream stream_{};
  std::array<unsigned char, 1 << 16> input_;
  bool ended_ = false;
};

std::string_view type_name(unsigned code) {
  switch (code) {
    case 0x09: return " (signed bytes)";
    case 0x0B: return " (16-bit integers)";
    case 0x0C: return " (32-bit integers)";
    case 0x0D: return " (32-bit floats)";
    case 0x0E: return " (64-bit floats)";
    default: return "";
  }
}

template <class Source>
Tensor parse(Source& source, const std::string& name) {
  std::array<unsigned char, 4> magic{};
  const std::int64_t magic_bytes = source.read(magic.data(), 4);
  require<IoError>(magic_bytes == 4, kOp,
                   "{} is truncated: {} bytes do not hold a 4-byte magic number; get the file anew", name, magic_bytes);
  require<IoError>(
      magic[0] == 0 && magic[1] == 0, kOp,
      "{} is not an IDX file: the magic number must start with 00 00 but is {:02x} {:02x} {:02x} {:02x}; give "
      "an IDX file, plain or gzip",
      name, magic[0], magic[1], magic[2], magic[3]);
  require<IoError>(magic[2] == 0x08, kOp,
                   "{} must hold unsigned bytes (type code 0x08) but has type code 0x{:02x}{}; "
                   "convert its values to bytes",
                   name, magic[2], type_name(magic[2]));
  const int rank = magic[3];
  require<IoError>(rank >= 1 && rank <= 4, kOp,
                   "{} must have 1 to 4 dimensions but its header says {}; get the file anew", name, rank);

  std::array<unsigned char, 16> extents{};
  const std::int64_t extent_bytes = source.read(extents.data(), 4 * rank);
  require<IoError>(extent_bytes == 4 * rank, kOp,
                   "{} is truncated: {} dimensions need {} bytes but {} follow the magic number; get the file anew",
                   name, rank, 4 * rank, extent_bytes);
  Shape dims;
  for (std::size_t i = 0; i < extents.size() && dims.rank() < rank; i += 4)
    dims.push_back(std::int64_t{extents[i]} << 24 | extents[i + 1] << 16 | extents[i + 2] << 8 | extents[i + 3]);
  std::int64_t declared = 1;
  bool has_values = true;
  for (const std::int64_t extent : dims) {
    has_values = has_values && extent > 0;
    // An extent of 0 does not excuse the others: strides are products of them.
    const std::int64_t factor = std::max<std::int64_t>(extent, 1);
    require<IoError>(factor <= std::numeric_limits<std::int64_t>::max() / declared, kOp,
                     "{} declares {} in its header: more values than any memory holds; get the file anew", name, dims);
    declared *= factor;
  }
  if (!has_values) declared = 0;
  source.check_declared(dims, 4 + 4 * rank, declared);

  Tensor values = Tensor::empty(dims, Dtype::u8);
  const std::int64_t got = source.read(values.raw_data(), declared);
  require<IoError>(got == declared, kOp,
                   "{} is truncated: its header {} declares {} bytes of values but {} follow; get the file anew", name,
                   dims, declared, got);
  std::byte extra{};
  require<IoError>(
      source.read(&extra, 1) == 0, kOp,
      "{} has trailing bytes: its header {} declares {} bytes of values but more follow; get the file anew", name, dims,
      declared);
  return values;
}

}  // namespace

Tensor read_idx(const std::filesystem::path& path) {
  FilePointer file = open_regular(path);
  std::error_code error;
  const auto file_bytes = static_cast<std::int64_t>(std::filesystem::file_size(path, error));
  require<IoError>(!error, kOp, "{} cannot be read: {}", path.string(), error.message());
  require<IoError>(file_bytes > 0, kOp, "{} is empty; get the file anew", path.string());

  std::array<unsigned char, 2> start{};
  const bool gzip = std::fread(start.data(), 1, 2, file.get()) == 2 && start[0] == 0x1f && start[1] == 0x8b;
  std::rewind(file.get());
  if (gzip) {
    const auto source = std::make_unique<GzipSource>(std::move(file), path, file_bytes);  // 64 KiB: not on the stack
    return parse(*source, path.string());
  }
  PlainSource source(std::move(file), path, file_bytes);
  return parse(source, path.string());
}

}  // namespace weft::data
