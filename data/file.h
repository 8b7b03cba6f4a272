#pragma once
// Files read from the start to a known size, and files written so that nobody ever sees half of one.
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace weft::data {

/// A regular file open for reading. `op` names the caller in errors.
/// Errors:  IoError when there is no such file, when it is a folder, a pipe or a device, or cannot be read.
class InputFile {
 public:
  InputFile(const char* op, const std::filesystem::path& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  /// Reads `bytes` bytes from offset `at`; fewer only at the end of the file. Does not move anything.
  std::int64_t read_at(std::int64_t at, void* out, std::int64_t bytes) const;
  /// The size when it was opened.
  std::int64_t bytes() const { return bytes_; }
  /// The path, for messages.
  const std::string& name() const { return name_; }

 private:
  const char* op_;
  std::string name_;
  int descriptor_ = -1;
  std::int64_t bytes_ = 0;
};

/// A file that appears whole or not at all: written under a temporary name of its own in the same folder, forced to the disk,
/// then renamed. An existing file stays as it was until then, and for good when anything fails or commit() is never called.
/// The new file has an existing one's permissions; a symbolic link is replaced, not followed.
/// Errors:  IoError naming the path and the system's reason.
class AtomicFile {
 public:
  AtomicFile(const char* op, std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends.
  void write(const void* bytes, std::int64_t count);
  /// Overwrites what was written before.
  void write_at(std::int64_t at, const void* bytes, std::int64_t count);
  /// Bytes appended so far.
  std::int64_t bytes() const { return bytes_; }
  /// Puts the file in its place; nothing may be written after.
  void commit();

 private:
  [[noreturn]] void refuse(int error);

  const char* op_;
  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
  std::int64_t bytes_ = 0;
};

}  // namespace weft::data
