#include "data/idx.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <string>
#include <string_view>

#include <zlib.h>

#include "data/file.h"

namespace weft::data {
namespace {

constexpr const char* kOp = "read_idx";

/// The bytes of a file as they are.
class PlainSource {
 public:
  explicit PlainSource(const InputFile& file) : file_(file) {}

  /// Reads up to `bytes` bytes; fewer only at the end.
  std::int64_t read(void* out, std::int64_t bytes) {
    const std::int64_t got = file_.read_at(at_, out, bytes);
    at_ += got;
    return got;
  }
  /// Refuses a number of values that the file cannot hold.
  void check_declared(const Shape& dims, std::int64_t header_bytes, std::int64_t declared) const {
    const std::int64_t following = file_.bytes() - header_bytes;
    require<IoError>(declared <= following, kOp,
                     "{} is truncated: its header {} declares {} bytes of values but {} follow; get the file anew",
                     file_.name(), dims, declared, following);
    require<IoError>(
        declared == following, kOp,
        "{} has trailing bytes: its header {} declares {} bytes of values but {} follow; get the file anew",
        file_.name(), dims, declared, following);
  }

 private:
  const InputFile& file_;
  std::int64_t at_ = 0;
};

/// The bytes of the one member of a gzip file.
class GzipSource {
 public:
  explicit GzipSource(const InputFile& file) : raw_(file), name_(file.name()), file_bytes_(file.bytes()) {
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
  const std::string& name_;
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
  const InputFile file(kOp, path);
  require<IoError>(file.bytes() > 0, kOp, "{} is empty; get the file anew", file.name());

  std::array<unsigned char, 2> start{};
  const bool gzip = file.read_at(0, start.data(), 2) == 2 && start[0] == 0x1f && start[1] == 0x8b;
  if (gzip) {
    const auto source = std::make_unique<GzipSource>(file);  // 64 KiB: not on the stack
    return parse(*source, file.name());
  }
  PlainSource source(file);
  return parse(source, file.name());
}

}  // namespace weft::data
