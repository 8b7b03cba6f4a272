#include "data/zip.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <unordered_set>

#include <zlib.h>

#include "tensor/error.h"

namespace weft::data {
namespace {

constexpr std::uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50,
                        kLocator64 = 0x07064b50;
constexpr std::int64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kEnd64Bytes = 56, kLocator64Bytes = 20;
constexpr std::int64_t kIn16 = 0xffff, kIn32 = 0xffffffff;  // this in a field says: see zip64
constexpr int kEncrypted = 1 << 0, kDescriptor = 1 << 3, kStrongEncryption = 1 << 6, kUtf8 = 1 << 11,
              kHiddenHeaders = 1 << 13;
constexpr std::uint16_t kZip64Extra = 1;
constexpr int kVersion = 20, kVersion64 = 45;
constexpr int kFirstOfJanuary1980 = 1 << 5 | 1;
constexpr std::size_t kBufferBytes = 1 << 16;
constexpr std::int64_t kMostPerCall = 1 << 30;  // zlib counts in 32 bits

/// Takes numbers off the front of a run of bytes, whose length the caller has checked.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : bytes_(bytes) {}
  std::int64_t u16() { return take(2); }
  std::int64_t u32() { return take(4); }
  /// 2^63 - 1 stands for everything above.
  std::int64_t u64() {
    const std::int64_t value = take(8);
    return value < 0 ? std::numeric_limits<std::int64_t>::max() : value;
  }
  std::string_view bytes(std::int64_t count) {
    const std::string_view part = bytes_.substr(0, static_cast<std::size_t>(count));
    bytes_.remove_prefix(part.size());
    return part;
  }
  std::int64_t left() const { return static_cast<std::int64_t>(bytes_.size()); }

 private:
  std::int64_t take(std::size_t count) {
    std::uint64_t value = 0;
    for (std::size_t i = count; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes_[i]);
    bytes_.remove_prefix(count);
    return static_cast<std::int64_t>(value);
  }
  std::string_view bytes_;
};

void put(std::string& out, std::int64_t value, int count) {
  for (int i = 0; i < count; ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
}

std::string read_exactly(const InputFile& file, std::int64_t at, std::int64_t count, const char* op) {
  std::string bytes(static_cast<std::size_t>(count), '\0');
  require<IoError>(file.read_at(at, bytes.data(), count) == count, op, "{} changed while it was read", file.name());
  return bytes;
}

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const int more = lead < 0x80                   ? 0
                     : lead >= 0xc2 && lead < 0xe0 ? 1
                     : lead >= 0xe0 && lead < 0xf0 ? 2
                     : lead >= 0xf0 && lead < 0xf5 ? 3
                                                   : -1;
    if (more < 0 || i + static_cast<std::size_t>(more) >= text.size()) return false;
    std::uint32_t code = more == 0 ? lead : lead & (0x3fu >> more);
    for (int k = 1; k <= more; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + static_cast<std::size_t>(k)]);
      if ((byte & 0xc0) != 0x80) return false;
      code = code << 6 | (byte & 0x3fu);
    }
    constexpr std::uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
    if (code < kLeast[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
    i += static_cast<std::size_t>(more) + 1;
  }
  return true;
}

std::string printable(std::string_view name) {
  std::string out;
  for (const char c : name.substr(0, 80)) out += c >= ' ' && c <= '~' ? c : '?';
  return out;
}

/// The zip64 field among the extra fields, or none. `what` names the place in errors.
std::optional<Fields> zip64_extra(std::string_view extra, const char* op, const std::string& what) {
  std::optional<Fields> found;
  Fields fields(extra);
  while (fields.left() > 0) {
    require<IoError>(fields.left() >= 4, op, "{} has damaged extra fields; get the file anew", what);
    const std::int64_t id = fields.u16(), bytes = fields.u16();
    require<IoError>(fields.left() >= bytes, op, "{} has damaged extra fields; get the file anew", what);
    const std::string_view content = fields.bytes(bytes);
    if (id != kZip64Extra) continue;
    require<IoError>(!found, op, "{} has its zip64 sizes twice; get the file anew", what);
    found = Fields(content);
  }
  return found;
}

/// Replaces the numbers that say so by those of the zip64 field, which must hold these and no more.
void resolve_zip64(std::string_view extra, std::initializer_list<std::int64_t*> numbers, const char* op,
                   const std::string& what) {
  std::optional<Fields> fields = zip64_extra(extra, op, what);
  for (std::int64_t* number : numbers) {
    if (*number != kIn32) continue;
    require<IoError>(fields && fields->left() >= 8, op, "{} lacks the zip64 sizes that it points to; get the file anew",
                     what);
    *number = fields->u64();
  }
  require<IoError>(!fields || fields->left() == 0, op, "{} has zip64 sizes that nothing points to; get the file anew",
                   what);
}

}  // namespace

std::string zip_name_problem(std::string_view name) {
  if (name.empty()) return "is empty";
  if (name.size() > 0xff00) return "is longer than 65280 bytes";
  if (!is_utf8(name)) return "is not UTF-8";
  for (const char c : name)
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f' || c == '\\')
      return "has a backslash or a control character";
  if (name.front() == '/' || (name.size() >= 2 && name[1] == ':')) return "is an absolute path";
  for (std::size_t at = 0; at <= name.size();) {
    const std::size_t end = std::min(name.find('/', at), name.size());
    const std::string_view part = name.substr(at, end - at);
    if (part.empty() || part == "." || part == "..") return "has an empty part, \".\" or \"..\" in its path";
    at = end + 1;
  }
  return "";
}

// --- reading ---------------------------------------------------------------------------------------------------------

struct ZipReader::End {
  std::int64_t count = 0, directory_bytes = 0, directory_at = 0;
};

ZipReader::ZipReader(const char* op, const std::filesystem::path& path) : op_(op), file_(op, path) {
  read_directory(find_end());
}

// The end record lies in the last 22 bytes: whoever searches for it, because a comment may follow, can be shown another one.
ZipReader::End ZipReader::find_end() const {
  const std::string& name = file_.name();
  require<IoError>(file_.bytes() > 0, op_, "{} is empty; get the file anew", name);
  const std::string start = read_exactly(file_, 0, std::min<std::int64_t>(4, file_.bytes()), op_);
  require<IoError>(start == std::string_view("PK\x03\x04", 4).substr(0, start.size()) || start == "PK\x05\x06" ||
                       start == "PK\x06\x06",
                   op_, "{} is not an npz file: it must start with 'PK' but starts with '{}'", name, printable(start));
  const std::int64_t at = file_.bytes() - kEndBytes;
  const std::string bytes = at < 0 ? std::string() : read_exactly(file_, at, kEndBytes, op_);
  Fields fields(bytes);
  require<IoError>(
      at >= 0 && fields.u32() == kEnd, op_,
      "{} does not end in a zip directory: it is truncated, or has a comment or other bytes behind it; get the file "
      "anew",
      name);
  const std::int64_t disk = fields.u16(), directory_disk = fields.u16(), count_here = fields.u16();
  End end{fields.u16(), fields.u32(), fields.u32()};
  const std::int64_t comment_bytes = fields.u16();
  require<IoError>(disk == 0 && directory_disk == 0 && count_here == end.count && comment_bytes == 0, op_,
                   "{} has a damaged end record, or is one part of several; get the file anew", name);

  std::int64_t directory_end = at;
  if (end.count == kIn16 || end.directory_bytes == kIn32 || end.directory_at == kIn32) {
    const auto damaged = [&](bool ok) {
      require<IoError>(ok, op_, "{} points to a zip64 end record that is missing or says otherwise; get the file anew",
                       name);
    };
    damaged(at >= kLocator64Bytes + kEnd64Bytes);
    directory_end = at - kLocator64Bytes - kEnd64Bytes;
    const std::string records = read_exactly(file_, directory_end, kEnd64Bytes + kLocator64Bytes, op_);
    Fields more(records);
    damaged(more.u32() == kEnd64 && more.u64() == kEnd64Bytes - 12);
    more.bytes(4);  // versions
    damaged(more.u32() == 0 && more.u32() == 0);
    const std::int64_t here = more.u64(), count = more.u64(), directory_bytes = more.u64(), directory_at = more.u64();
    damaged(here == count && (end.count == kIn16 || end.count == count));
    damaged(end.directory_bytes == kIn32 || end.directory_bytes == directory_bytes);
    damaged(end.directory_at == kIn32 || end.directory_at == directory_at);
    damaged(more.u32() == kLocator64 && more.u32() == 0 && more.u64() == directory_end && more.u32() == 1);
    end = {count, directory_bytes, directory_at};
  }
  require<IoError>(
      end.directory_at <= directory_end && end.directory_bytes == directory_end - end.directory_at, op_,
      "{} has a directory of {} bytes at {}, which does not end at {}: it is truncated or has bytes in between; get "
      "the file anew",
      name, end.directory_bytes, end.directory_at, directory_end);
  require<IoError>(end.count <= end.directory_bytes / kCentralBytes, op_,
                   "{} declares {} entries but its directory of {} bytes cannot hold them; get the file anew", name,
                   end.count, end.directory_bytes);
  return end;
}

void ZipReader::read_directory(const End& end) {
  const std::string& name = file_.name();
  const std::string directory = read_exactly(file_, end.directory_at, end.directory_bytes, op_);
  Fields fields(directory);
  std::unordered_set<std::string> names;
  struct Place {
    std::int64_t at;
    std::size_t entry;
    int flags;
  };
  std::vector<Place> places;
  for (std::int64_t i = 0; i < end.count; ++i) {
    require<IoError>(fields.left() >= kCentralBytes && fields.u32() == kCentral, op_,
                     "{} declares {} entries but has {} in its directory; get the file anew", name, end.count, i);
    ZipEntry entry;
    fields.bytes(4);  // versions
    const auto flags = static_cast<int>(fields.u16());
    const std::int64_t method = fields.u16();
    fields.bytes(4);  // time and date
    entry.crc = static_cast<std::uint32_t>(fields.u32());
    entry.packed_bytes = fields.u32();
    entry.bytes = fields.u32();
    const std::int64_t name_bytes = fields.u16(), extra_bytes = fields.u16(), comment_bytes = fields.u16();
    const std::int64_t disk = fields.u16();
    fields.bytes(6);  // attributes
    std::int64_t at = fields.u32();
    require<IoError>(fields.left() >= name_bytes + extra_bytes + comment_bytes, op_,
                     "{} has a directory whose entry {} breaks off; get the file anew", name, i);
    entry.name = fields.bytes(name_bytes);
    const std::string_view extra = fields.bytes(extra_bytes);
    fields.bytes(comment_bytes);

    const std::string what = fmt::format("{}: entry '{}'", name, printable(entry.name));
    const std::string problem = zip_name_problem(entry.name);
    require<IoError>(problem.empty(), op_, "{} has a name that {}; get the file from someone you trust", what, problem);
    require<IoError>(
        (flags & kUtf8) != 0 || std::all_of(entry.name.begin(), entry.name.end(), [](char c) { return c > 0; }), op_,
        "{} has a name that is neither ASCII nor marked as UTF-8; save it again with numpy.savez", what);
    require<IoError>(names.insert(entry.name).second, op_, "{} appears twice; get the file anew", what);
    require<IoError>((flags & (kEncrypted | kStrongEncryption | kHiddenHeaders)) == 0, op_,
                     "{} is encrypted: save it again without", what);
    require<IoError>((flags & kDescriptor) == 0, op_,
                     "{} was written to a stream (its sizes come behind its data): save it again to a file", what);
    require<IoError>(method == 0 || method == 8, op_,
                     "{} is packed by method {} but must be stored (0) or deflated (8): save it again with numpy.savez",
                     what, method);
    entry.method = static_cast<ZipMethod>(method);
    require<IoError>(disk == 0, op_, "{} lies on another disk; get the file anew", what);
    resolve_zip64(extra, {&entry.bytes, &entry.packed_bytes, &at}, op_, what);
    require<IoError>(at <= end.directory_at && entry.packed_bytes <= end.directory_at - at, op_,
                     "{} declares {} packed bytes from {} on but the directory starts at {}; get the file anew", what,
                     entry.packed_bytes, at, end.directory_at);
    require<IoError>(entry.method != ZipMethod::stored || entry.bytes == entry.packed_bytes, op_,
                     "{} is stored but declares {} bytes in {}; get the file anew", what, entry.bytes,
                     entry.packed_bytes);
    // Deflate spends at least two bits on a run of 258 bytes: 1032 to 1 (zlib's technical notes). Whoever declares more than
    // that would only make us allocate.
    constexpr std::int64_t kMostExpansion = 1032;
    require<IoError>(entry.bytes / kMostExpansion <= entry.packed_bytes, op_,
                     "{} declares {} bytes but {} packed bytes cannot hold more than {}; get the file anew", what,
                     entry.bytes, entry.packed_bytes, entry.packed_bytes * kMostExpansion);
    places.push_back({at, entries_.size(), flags});
    entries_.push_back(std::move(entry));
  }
  require<IoError>(fields.left() == 0, op_,
                   "{} declares {} entries but its directory has {} more bytes; get the file anew", name, end.count,
                   fields.left());

  std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) { return a.at < b.at; });
  std::int64_t expected = 0;
  for (const Place& place : places) {
    ZipEntry& entry = entries_[place.entry];
    require<IoError>(place.at == expected, op_,
                     "{}: entry '{}' starts at {} but the one before it ends at {}; get the file anew", name,
                     printable(entry.name), place.at, expected);
    check_local_header(entry, place.at, end.directory_at, place.flags);
    expected = entry.data_at + entry.packed_bytes;
  }
  require<IoError>(expected == end.directory_at, op_,
                   "{} has a directory at {} but its last entry ends at {}; get the file anew", name, end.directory_at,
                   expected);
}

// The header before an entry's data repeats the directory: another program may go by this one.
void ZipReader::check_local_header(ZipEntry& entry, std::int64_t at, std::int64_t end, int flags) const {
  const std::string what = fmt::format("{}: entry '{}'", file_.name(), printable(entry.name));
  const auto damaged = [&](bool ok) {
    require<IoError>(ok, op_, "{} has a header at {} that is damaged or differs from the directory; get the file anew",
                     what, at);
  };
  damaged(end - at >= kLocalBytes);
  const std::string bytes = read_exactly(file_, at, kLocalBytes, op_);
  Fields fields(bytes);
  damaged(fields.u32() == kLocal);
  fields.bytes(2);  // version
  damaged(fields.u16() == flags && fields.u16() == static_cast<std::int64_t>(entry.method));
  fields.bytes(4);  // time and date
  damaged(fields.u32() == entry.crc);
  std::int64_t packed_bytes = fields.u32(), unpacked_bytes = fields.u32();
  const std::int64_t name_bytes = fields.u16(), extra_bytes = fields.u16();
  damaged(end - at - kLocalBytes >= name_bytes + extra_bytes);
  const std::string rest = read_exactly(file_, at + kLocalBytes, name_bytes + extra_bytes, op_);
  Fields more(rest);
  damaged(more.bytes(name_bytes) == entry.name);
  // Here zip64 holds both sizes or none; Python writes it beside numbers that would have fitted.
  if (std::optional<Fields> sizes = zip64_extra(more.bytes(extra_bytes), op_, what)) {
    damaged(sizes->left() == 16);
    for (std::int64_t* number : {&unpacked_bytes, &packed_bytes}) {
      const std::int64_t size = sizes->u64();
      damaged(*number == kIn32 || *number == size);
      *number = size;
    }
  }
  damaged(unpacked_bytes == entry.bytes && packed_bytes == entry.packed_bytes);
  entry.data_at = at + kLocalBytes + name_bytes + extra_bytes;
  damaged(end - entry.data_at >= entry.packed_bytes);
}

ZipEntryReader::ZipEntryReader(const char* op, const InputFile& file, const ZipEntry& entry)
    : op_(op), file_(file), entry_(entry) {
  if (entry.method == ZipMethod::stored) return;
  input_.resize(kBufferBytes);
  stream_ = std::make_unique<z_stream>();
  require<IoError>(inflateInit2(stream_.get(), -MAX_WBITS) == Z_OK, op, "{}: zlib cannot start", file.name());
}

ZipEntryReader::~ZipEntryReader() {
  if (entry_.method == ZipMethod::deflate) inflateEnd(stream_.get());
}

std::int64_t ZipEntryReader::read(void* out, std::int64_t count) {
  auto* to = static_cast<unsigned char*>(out);
  std::int64_t got = 0;
  if (entry_.method == ZipMethod::stored) {
    got = file_.read_at(entry_.data_at + taken_, out, std::min(count, entry_.packed_bytes - taken_));
    taken_ += got;
  } else {
    while (got < count && !ended_) got += inflate_some(to + got, std::min(count - got, kMostPerCall));
  }
  for (std::int64_t at = 0; at < got; at += kMostPerCall)
    crc_ = static_cast<std::uint32_t>(crc32(crc_, to + at, static_cast<uInt>(std::min(got - at, kMostPerCall))));
  given_ += got;
  return got;
}

std::int64_t ZipEntryReader::inflate_some(void* out, std::int64_t count) {
  if (stream_->avail_in == 0) {
    const std::int64_t wanted = std::min<std::int64_t>(kBufferBytes, entry_.packed_bytes - taken_);
    stream_->next_in = input_.data();
    stream_->avail_in = static_cast<uInt>(file_.read_at(entry_.data_at + taken_, input_.data(), wanted));
    taken_ += stream_->avail_in;
    require<IoError>(
        stream_->avail_in > 0, op_,
        "{}: entry '{}' is damaged: its deflate stream breaks off after {} unpacked bytes; get the file anew",
        file_.name(), printable(entry_.name), stream_->total_out);
  }
  stream_->next_out = static_cast<Bytef*>(out);
  stream_->avail_out = static_cast<uInt>(count);
  const int status = inflate(stream_.get(), Z_NO_FLUSH);
  ended_ = status == Z_STREAM_END;
  require<IoError>(ended_ || status == Z_OK || status == Z_BUF_ERROR, op_,
                   "{}: entry '{}' is damaged (deflate: {}); get the file anew", file_.name(), printable(entry_.name),
                   stream_->msg != nullptr ? stream_->msg : zError(status));
  return count - stream_->avail_out;
}

void ZipEntryReader::check_end() {
  unsigned char extra = 0;
  const bool all = given_ == entry_.bytes && read(&extra, 1) == 0 && taken_ == entry_.packed_bytes &&
                   (stream_ == nullptr || stream_->avail_in == 0);
  require<IoError>(all, op_, "{}: entry '{}' declares {} bytes in {} packed ones but holds others; get the file anew",
                   file_.name(), printable(entry_.name), entry_.bytes, entry_.packed_bytes);
  require<IoError>(crc_ == entry_.crc, op_,
                   "{}: entry '{}' is damaged: its CRC-32 is {:08x} but should be {:08x}; get the file anew",
                   file_.name(), printable(entry_.name), crc_, entry_.crc);
}

// --- writing ---------------------------------------------------------------------------------------------------------

ZipWriter::ZipWriter(const char* op, const std::filesystem::path& path, std::int64_t zip64_from)
    : op_(op), file_(op, path), zip64_from_(zip64_from) {}

void ZipWriter::deflate_part(z_stream& stream, std::string_view part, int flush) {
  std::vector<unsigned char> packed(kBufferBytes);
  do {
    const auto now = static_cast<uInt>(std::min<std::size_t>(part.size(), static_cast<std::size_t>(kMostPerCall)));
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(part.data()));
    stream.avail_in = now;
    part.remove_prefix(now);
    do {
      stream.next_out = packed.data();
      stream.avail_out = static_cast<uInt>(packed.size());
      deflate(&stream, part.empty() ? flush : Z_NO_FLUSH);
      file_.write(packed.data(), static_cast<std::int64_t>(packed.size()) - stream.avail_out);
    } while (stream.avail_out == 0);
  } while (!part.empty());
}

void ZipWriter::add(const std::string& name, ZipMethod method, std::string_view first, std::string_view second) {
  Written written{{}, file_.bytes()};
  ZipEntry& entry = written.entry;
  entry.name = name;
  entry.method = method;
  entry.bytes = static_cast<std::int64_t>(first.size() + second.size());
  for (const std::string_view part : {first, second})
    for (std::size_t at = 0; at < part.size(); at += static_cast<std::size_t>(kMostPerCall))
      entry.crc = static_cast<std::uint32_t>(
          crc32(entry.crc, reinterpret_cast<const Bytef*>(part.data()) + at,
                static_cast<uInt>(std::min<std::size_t>(part.size() - at, static_cast<std::size_t>(kMostPerCall)))));
  // What does not shrink grows by 5 bytes in 16 KiB: whether the packed size needs zip64 must be known before it is.
  const bool zip64 = entry.bytes + entry.bytes / 1024 + 64 >= zip64_from_;
  const auto header = [&] {
    std::string bytes;
    put(bytes, kLocal, 4);
    put(bytes, zip64 ? kVersion64 : kVersion, 2);
    put(bytes, kUtf8, 2);
    put(bytes, static_cast<int>(method), 2);
    put(bytes, 0, 2);
    put(bytes, kFirstOfJanuary1980, 2);
    put(bytes, entry.crc, 4);
    put(bytes, zip64 ? kIn32 : entry.packed_bytes, 4);
    put(bytes, zip64 ? kIn32 : entry.bytes, 4);
    put(bytes, static_cast<std::int64_t>(name.size()), 2);
    put(bytes, zip64 ? 20 : 0, 2);
    bytes += name;
    if (zip64) {
      put(bytes, kZip64Extra, 2);
      put(bytes, 16, 2);
      put(bytes, entry.bytes, 8);
      put(bytes, entry.packed_bytes, 8);
    }
    return bytes;
  };
  write(header());
  entry.data_at = file_.bytes();
  if (method == ZipMethod::stored) {
    write(first);
    write(second);
  } else {
    z_stream stream{};
    require<IoError>(
        deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK, op_,
        "zlib cannot start");
    const std::unique_ptr<z_stream, int (*)(z_stream*)> close(&stream, [](z_stream* s) { return deflateEnd(s); });
    deflate_part(stream, first, Z_NO_FLUSH);
    deflate_part(stream, second, Z_FINISH);
  }
  entry.packed_bytes = file_.bytes() - entry.data_at;
  const std::string final_header = header();
  file_.write_at(written.header_at, final_header.data(), static_cast<std::int64_t>(final_header.size()));
  entries_.push_back(std::move(written));
}

void ZipWriter::commit() {
  const std::int64_t directory_at = file_.bytes();
  for (const auto& [entry, header_at] : entries_) {
    std::string zip64, bytes;
    const auto in32 = [&](std::int64_t number) {  // the number, or a sign and the number in the zip64 field
      if (number < zip64_from_) return number;
      put(zip64, number, 8);
      return kIn32;
    };
    const std::int64_t unpacked_bytes = in32(entry.bytes), packed_bytes = in32(entry.packed_bytes),
                       at = in32(header_at);
    put(bytes, kCentral, 4);
    put(bytes, kVersion64, 2);
    put(bytes, zip64.empty() ? kVersion : kVersion64, 2);
    put(bytes, kUtf8, 2);
    put(bytes, static_cast<int>(entry.method), 2);
    put(bytes, 0, 2);
    put(bytes, kFirstOfJanuary1980, 2);
    put(bytes, entry.crc, 4);
    put(bytes, packed_bytes, 4);
    put(bytes, unpacked_bytes, 4);
    put(bytes, static_cast<std::int64_t>(entry.name.size()), 2);
    put(bytes, zip64.empty() ? 0 : static_cast<std::int64_t>(zip64.size()) + 4, 2);
    for (const int count : {2, 2, 2, 4}) put(bytes, 0, count);  // comment, disk, attributes
    put(bytes, at, 4);
    bytes += entry.name;
    if (!zip64.empty()) {
      put(bytes, kZip64Extra, 2);
      put(bytes, static_cast<std::int64_t>(zip64.size()), 2);
      bytes += zip64;
    }
    write(bytes);
  }
  const std::int64_t end64_at = file_.bytes(), directory_bytes = end64_at - directory_at;
  const auto count = static_cast<std::int64_t>(entries_.size());
  std::string bytes;
  const bool zip64 = count >= kIn16 || directory_bytes >= zip64_from_ || directory_at >= zip64_from_;
  if (zip64) {
    put(bytes, kEnd64, 4);
    put(bytes, kEnd64Bytes - 12, 8);
    put(bytes, kVersion64, 2);
    put(bytes, kVersion64, 2);
    put(bytes, 0, 4 + 4);
    for (const std::int64_t number : {count, count, directory_bytes, directory_at}) put(bytes, number, 8);
    put(bytes, kLocator64, 4);
    put(bytes, 0, 4);
    put(bytes, end64_at, 8);
    put(bytes, 1, 4);
  }
  put(bytes, kEnd, 4);
  put(bytes, 0, 2 + 2);
  for (int i = 0; i < 2; ++i) put(bytes, std::min(count, kIn16), 2);
  put(bytes, directory_bytes >= zip64_from_ ? kIn32 : directory_bytes, 4);
  put(bytes, directory_at >= zip64_from_ ? kIn32 : directory_at, 4);
  put(bytes, 0, 2);
  write(bytes);
  file_.commit();
}

}  // namespace weft::data
