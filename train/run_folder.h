#pragma once
// The folder that a run writes to. Nothing of another run is ever overwritten or mixed in, and no file is seen half-written.
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace weft::train {

/// What a run makes of a folder: a new one, moving an earlier run aside, or the one that holds the run it goes on with.
enum class Opening : std::uint8_t { anew, resume };

/// An output folder, in two steps, so that a wrong path is reported before anything is computed and a wrong input leaves
/// the folder as it was:
///   train::RunFolder folder(options.out);  // looks, changes nothing
///   ... read the data, build the model ...
///   folder.open();                         // moves an existing run aside, creates the folder, locks it
class RunFolder {
 public:
  /// Checks that `path` can become the folder of a run, or, to resume, is one. Changes nothing.
  /// Errors: IoError "--out must be a folder but 'x' is a file; ...", or when it holds other files, or cannot be written.
  explicit RunFolder(const std::filesystem::path& path, Opening opening = Opening::anew);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  /// Renames an existing run to path.1, path.2, ... (the first free one) and creates the folder anew, with the folders above;
  /// or, to resume, takes the folder as it is. Files that a killed process was writing are removed.
  /// Errors: IoError with path and reason; also when another process is writing a run there.
  void open();

  const std::filesystem::path& path() const { return path_; }
  /// Where open() moved an earlier run, empty when there was none.
  const std::filesystem::path& moved_to() const { return moved_to_; }

  /// Writes a whole file: under a temporary name, flushed to the disk, then renamed. Errors: IoError; no file is left then.
  void write(const std::string& name, std::string_view content) const;

 private:
  void lock();
  void close();
  void sweep() const;
  Opening opening_;
  std::filesystem::path path_, moved_to_;
  int lock_ = -1;  // descriptor of the folder, holding an exclusive lock
};

/// A file that grows by whole lines, each handed to the operating system at once: what a killed run wrote can be read.
class LineFile {
 public:
  /// Creates the file, which must not exist yet. Errors: IoError with path and reason.
  explicit LineFile(std::filesystem::path path);
  /// Goes on with an existing file behind its first `keep` bytes; what follows them is dropped.
  /// Errors: IoError when it does not hold `keep` bytes, or these do not end with a line.
  LineFile(std::filesystem::path path, std::int64_t keep);
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;

  /// Appends `line`, which ends with a newline. Errors: IoError with path and reason (a full disk).
  void append(std::string_view line);
  /// Forces what was appended to the disk. Errors: IoError with path and reason.
  void sync();
  /// The size of the file.
  std::int64_t bytes() const { return bytes_; }

 private:
  std::filesystem::path path_;
  int file_ = -1;
  std::int64_t bytes_ = 0;
};

}  // namespace weft::train
