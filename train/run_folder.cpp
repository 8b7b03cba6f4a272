#include "train/run_folder.h"

#include <cerrno>
#include <cstring>
#include <system_error>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tensor/error.h"
#include "train/checkpoint.h"

namespace weft::train {
namespace {

namespace fs = std::filesystem;

std::string reason(int error) { return std::generic_category().message(error); }

template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw IoError(fmt::format(format, std::forward<Args>(args)...));
}

/// Whether the folder holds the files of a run (or of one that was killed early), so that it may be moved aside.
bool holds_run(const fs::path& path) {
  for (const char* file : {"metrics.jsonl", "summary.json", kCheckpointFile})
    if (fs::exists(path / file)) return true;
  return false;
}

/// Writes all of `content`; false with errno set.
bool write_all(int file, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written = ::write(file, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

RunFolder::RunFolder(const fs::path& path, Opening opening)
    : opening_(opening), path_(fs::absolute(path).lexically_normal()) {
  if (!path_.has_filename()) path_ = path_.parent_path();  // "runs/a/"
  const std::string shown = path.string();
  try {
    if (fs::exists(path_)) {
      if (!fs::is_directory(path_))
        refuse("--out must be a folder but '{}' is a file; give another --out or remove the file", shown);
      if (!fs::is_empty(path_) && !holds_run(path_))
        refuse("--out must be new, empty or an earlier run but '{}' holds other files; give another --out", shown);
    }
    fs::path existing = path_;
    while (!fs::exists(existing) && existing.has_relative_path()) existing = existing.parent_path();
    if (!fs::is_directory(existing))
      refuse("--out '{}' cannot be created because '{}' is a file; give another --out", shown, existing.string());
    const bool moves = opening == Opening::anew && existing == path_ && !fs::is_empty(path_);
    const fs::path changed = moves ? path_.parent_path() : existing;
    if (::access(changed.c_str(), W_OK | X_OK) != 0)
      refuse("--out '{}' cannot be written: {}: {}; give another --out", shown, changed.string(), reason(errno));
  } catch (const fs::filesystem_error& error) {
    refuse("--out '{}' cannot be used: {}; give another --out", shown, error.code().message());
  }
}

RunFolder::~RunFolder() { close(); }

void RunFolder::close() {
  if (lock_ >= 0) ::close(lock_);
  lock_ = -1;
}

// The lock goes with the folder when it is renamed.
void RunFolder::lock() {
  lock_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ < 0) refuse("--out '{}' cannot be opened: {}; give another --out", path_.string(), reason(errno));
  // Where the file system knows no locks, two runs in one folder stay undetected.
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    refuse("--out '{}' is being written by another run; wait for it or give another --out", path_.string());
}

// Only names that write() and data::AtomicFile make for a run's own files, and only under the lock: none is in use.
void RunFolder::sweep() const {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_, ignored)) {
    const std::string name = entry.path().filename().string();
    const bool own = name.starts_with(std::string(".") + kCheckpointFile + ".") || name.starts_with(".summary.json.") ||
                     name.starts_with(".report.html.");
    if (own && name.ends_with(".part")) fs::remove(entry.path(), ignored);
  }
}

void RunFolder::open() {
  try {
    if (fs::exists(path_) && !fs::is_empty(path_)) {
      lock();
      sweep();
      if (opening_ == Opening::resume) return;
      int number = 1;
      while (fs::symlink_status(path_.string() + "." + std::to_string(number)).type() != fs::file_type::not_found)
        ++number;
      moved_to_ = path_.string() + "." + std::to_string(number);
      fs::rename(path_, moved_to_);
      close();
    }
    fs::create_directories(path_);
  } catch (const fs::filesystem_error& error) {
    refuse("--out '{}' cannot be created: {}; give another --out", path_.string(), error.code().message());
  }
  lock();
}

void RunFolder::write(const std::string& name, std::string_view content) const {
  const fs::path target = path_ / name, temporary = path_ / ("." + name + ".part");
  const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) refuse("'{}' cannot be written: {}", target.string(), reason(errno));
  int error = write_all(file, content) && ::fsync(file) == 0 ? 0 : errno;
  if (::close(file) != 0 && error == 0) error = errno;
  if (error == 0 && ::rename(temporary.c_str(), target.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(temporary.c_str());
    refuse("'{}' cannot be written: {}; free some space or give another --out", target.string(), reason(error));
  }
}

LineFile::LineFile(fs::path path) : path_(std::move(path)) {
  file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0) refuse("'{}' cannot be created: {}", path_.string(), reason(errno));
}

LineFile::LineFile(fs::path path, std::int64_t keep) : path_(std::move(path)), bytes_(keep) {
  file_ = ::open(path_.c_str(), O_RDWR | O_APPEND | O_CLOEXEC);
  if (file_ < 0) refuse("'{}' cannot be opened: {}", path_.string(), reason(errno));
  std::string problem;
  struct stat status {};
  char last = '\n';
  if (::fstat(file_, &status) != 0 || !S_ISREG(status.st_mode))
    problem = "is not a regular file";
  else if (status.st_size < keep)
    problem = fmt::format("has {} bytes but had {} when the checkpoint was written", status.st_size, keep);
  else if (keep > 0 && (::pread(file_, &last, 1, keep - 1) != 1 || last != '\n'))
    problem = fmt::format("has no end of a line at byte {}, where the checkpoint was written", keep);
  else if (::ftruncate(file_, keep) != 0)
    problem = fmt::format("cannot be shortened: {}", reason(errno));
  if (problem.empty()) return;
  ::close(file_);
  refuse("'{}' {}; put the file back, or start anew without --resume", path_.string(), problem);
}

LineFile::~LineFile() {
  if (file_ >= 0) ::close(file_);
}

void LineFile::append(std::string_view line) {
  if (!write_all(file_, line))
    refuse("'{}' cannot be written: {}; free some space or give another --out", path_.string(), reason(errno));
  bytes_ += static_cast<std::int64_t>(line.size());
}

void LineFile::sync() {
  if (::fdatasync(file_) != 0 && errno != EINVAL)  // EINVAL: a file that has no disk behind it
    refuse("'{}' cannot be forced to the disk: {}", path_.string(), reason(errno));
}

}  // namespace weft::train
