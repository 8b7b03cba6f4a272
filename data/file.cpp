#include "data/file.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tensor/error.h"

namespace weft::data {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

// Linux moves at most 2 GiB in one call.
constexpr std::int64_t kMostPerCall = 1 << 30;

}  // namespace

InputFile::InputFile(const char* op, const std::filesystem::path& path) : op_(op), name_(path.string()) {
  // Without O_NONBLOCK the open of a pipe would wait for its writer.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  const int error = errno;
  require<IoError>(descriptor_ >= 0 || error != ENOENT, op, "there is no file {}: check the path", name_);
  require<IoError>(descriptor_ >= 0, op, "{} cannot be read: {}; check the permissions", name_, reason(error));
  struct stat status {};
  const bool known = ::fstat(descriptor_, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    fail<IoError>(op, "{} is not a regular file: give the path of one", name_);
  }
  bytes_ = status.st_size;
}

InputFile::~InputFile() { ::close(descriptor_); }

std::int64_t InputFile::read_at(std::int64_t at, void* out, std::int64_t bytes) const {
  std::int64_t got = 0;
  while (got < bytes) {
    const auto count = static_cast<std::size_t>(std::min(bytes - got, kMostPerCall));
    const ssize_t now = ::pread(descriptor_, static_cast<char*>(out) + got, count, at + got);
    if (now < 0 && errno == EINTR) continue;
    require<IoError>(now >= 0, op_, "{} cannot be read: {}", name_, reason(errno));
    if (now == 0) break;
    got += now;
  }
  return got;
}

AtomicFile::AtomicFile(const char* op, std::filesystem::path path) : op_(op), path_(std::move(path)) {
  // A folder of this name would only be noticed by the rename, after all was written.
  std::error_code ignored;
  require<IoError>(!std::filesystem::is_directory(path_, ignored) && path_.has_filename(), op_,
                   "{} is a folder: give the path of a file", path_.string());
  // A name of its own, even when two threads or two processes save to one path.
  static std::atomic<unsigned> counter{0};
  do {
    const std::string suffix = fmt::format(".{}-{}.part", ::getpid(), counter++);
    temporary_ = path_.parent_path() / ("." + path_.filename().string() + suffix);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EEXIST);  // left behind by a process of this number that was killed
  if (descriptor_ < 0) {
    temporary_.clear();
    refuse(errno);
  }
  struct stat before {};
  if (::stat(path_.c_str(), &before) == 0 && S_ISREG(before.st_mode))
    ::fchmod(descriptor_, before.st_mode & 0777);  // a file system without permissions is no reason not to save
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::refuse(int error) {
  fail<IoError>(op_, "{} cannot be written: {}; what was there before is unchanged", path_.string(), reason(error));
}

void AtomicFile::write(const void* bytes, std::int64_t count) {
  write_at(bytes_, bytes, count);
  bytes_ += count;
}

void AtomicFile::write_at(std::int64_t at, const void* bytes, std::int64_t count) {
  for (std::int64_t done = 0; done < count;) {
    const auto part = static_cast<std::size_t>(std::min(count - done, kMostPerCall));
    const ssize_t now = ::pwrite(descriptor_, static_cast<const char*>(bytes) + done, part, at + done);
    if (now < 0 && errno == EINTR) continue;
    if (now < 0) refuse(errno);
    done += now;
  }
}

void AtomicFile::commit() {
  // Without the first fsync a power cut after the rename can leave a file of zeros; the second makes the rename last.
  if (::fsync(descriptor_) != 0) refuse(errno);
  if (::close(std::exchange(descriptor_, -1)) != 0) refuse(errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) refuse(errno);
  temporary_.clear();
  const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;  // a folder that may be written but not read: the file is in its place all the same
  const int error =
      ::fsync(descriptor) == 0 || errno == EINVAL ? 0 : errno;  // EINVAL: no such thing in this file system
  ::close(descriptor);
  require<IoError>(error == 0, op_, "{} is in its place, but its folder could not be forced to the disk: {}",
                   path_.string(), reason(error));
}

}  // namespace weft::data
