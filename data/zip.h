#pragma once
// The part of the zip format that npz files use, read strictly and written plainly.
//   Own code on zlib: libzip and minizip are made to open every archive that is out there (they search for the directory, skip
//   what they do not know, let entries overlap and local headers differ from the directory), and each of these liberties
//   is a way to make two programs see two different contents. Refusing them on top of a library takes the same parser again.
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/file.h"

struct z_stream_s;  // zlib's; its header stays inside

namespace weft::data {

/// How an entry is packed; the numbers are those of the format.
enum class ZipMethod : std::uint16_t { stored = 0, deflate = 8 };

/// One entry of the directory.
struct ZipEntry {
  std::string name;
  ZipMethod method = ZipMethod::stored;
  std::uint32_t crc = 0;
  std::int64_t packed_bytes = 0;
  std::int64_t bytes = 0;
  std::int64_t data_at = 0;  // where its packed bytes start
};

/// Why `name` cannot be an entry's name, or empty.
std::string zip_name_problem(std::string_view name);

/// The entries of a zip file, after all of its structure was checked. Errors: IoError, see load_npz.
class ZipReader {
 public:
  ZipReader(const char* op, const std::filesystem::path& path);
  const std::vector<ZipEntry>& entries() const { return entries_; }
  const InputFile& file() const { return file_; }

 private:
  struct End;
  End find_end() const;
  void read_directory(const End& end);
  void check_local_header(ZipEntry& entry, std::int64_t at, std::int64_t end, int flags) const;

  const char* op_;
  InputFile file_;
  std::vector<ZipEntry> entries_;
};

/// The unpacked bytes of one entry, from its start.
class ZipEntryReader {
 public:
  ZipEntryReader(const char* op, const InputFile& file, const ZipEntry& entry);
  ~ZipEntryReader();
  ZipEntryReader(const ZipEntryReader&) = delete;
  ZipEntryReader& operator=(const ZipEntryReader&) = delete;

  /// The next `count` bytes; fewer only at the end.
  std::int64_t read(void* out, std::int64_t count);
  /// That all was read, and was what the directory promises.
  void check_end();

 private:
  std::int64_t inflate_some(void* out, std::int64_t count);

  const char* op_;
  const InputFile& file_;
  const ZipEntry& entry_;
  std::int64_t taken_ = 0, given_ = 0;  // packed bytes read, unpacked bytes handed out
  std::uint32_t crc_ = 0;
  std::unique_ptr<z_stream_s> stream_;  // none for what is stored
  bool ended_ = false;
  std::vector<unsigned char> input_;
};

/// Writes a zip file; nothing is seen of it before commit().
class ZipWriter {
 public:
  /// `zip64_from`: sizes and offsets from here on are written as zip64 has them; smaller in tests only.
  ZipWriter(const char* op, const std::filesystem::path& path, std::int64_t zip64_from = 0xffffffff);
  /// Adds an entry whose content is the two parts, one behind the other.
  void add(const std::string& name, ZipMethod method, std::string_view first, std::string_view second);
  void commit();

 private:
  struct Written {
    ZipEntry entry;
    std::int64_t header_at;
  };
  void write(std::string_view bytes) { file_.write(bytes.data(), static_cast<std::int64_t>(bytes.size())); }
  void deflate_part(z_stream_s& stream, std::string_view part, int flush);

  const char* op_;
  AtomicFile file_;
  std::int64_t zip64_from_;
  std::vector<Written> entries_;
};

}  // namespace weft::data
