#pragma once
// The folder that a run writes to. Nothing of another run is ever overwritten or mixed in, and no file is seen half-written.
#include <filesystem>
#include <string>
#include <string_view>

namespace weft::train {

/// An output folder, in two steps, so that a wrong path is reported before anything is computed and a wrong input leaves
/// the folder as it was:
///   train::RunFolder folder(options.out);  // looks, changes nothing
///   ... read the data, build the model ...
///   folder.open();                         // moves an existing run aside, creates the folder, locks it
class RunFolder {
 public:
  /// Checks that `path` can become the folder of a run. Changes nothing.
  /// Errors: IoError "--out must be a folder but 'x' is a file; ...", or when it holds other files, or cannot be written.
  explicit RunFolder(const std::filesystem::path& path);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  /// Renames an existing run to path.1, path.2, ... (the first free one) and creates the folder anew, with the folders above.
  /// Errors: IoError with path and reason; also when another process is writing a run there.
  void open();

  const std::filesystem::path& path() const { return path_; }
  /// Where open() moved an earlier run, empty when there was none.
  const std::filesystem::path& moved_to() const { return moved_to_; }

  /// Writes a whole file: under a temporary name, flushed to the disk, then renamed. Errors: IoError; no file is left then.
  void write(const std::string& name, std::string_view content) const;

 private:
  void close();
  std::filesystem::path path_, moved_to_;
  int lock_ = -1;  // descriptor of the folder, holding an exclusive lock
};

/// A file that grows by whole lines, each handed to the operating system at once: what a killed run wrote can be read.
class LineFile {
 public:
  /// Creates the file, which must not exist yet. Errors: IoError with path and reason.
  explicit LineFile(std::filesystem::path path);
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;

  /// Appends `line`, which ends with a newline. Errors: IoError with path and reason (a full disk).
  void append(std::string_view line);

 private:
  std::filesystem::path path_;
  int file_ = -1;
};

}  // namespace weft::train
