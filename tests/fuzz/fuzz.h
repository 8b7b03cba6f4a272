#pragma once
// What the fuzz targets share. A target is tests/fuzz/<format>_fuzz.cpp, which defines LLVMFuzzerTestOneInput: it reads `data` as a
// file of that format, which must either be refused with an IoError or be what its reader promises. driver.cpp runs it over
// corpus/<format>/ and seeded mutations of what lies there; with WEFT_FUZZ=ON, libFuzzer runs it (./run fuzz).
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <sys/mman.h>
#include <unistd.h>

#include "tensor/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace weft::fuzz {

/// A file that lies in memory: the readers get a path, as from any caller, and no disk is written to.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("weft_fuzz", MFD_CLOEXEC)) {
    if (descriptor_ < 0) {
      std::perror("memfd_create");
      std::exit(1);
    }
    path_ = "/proc/self/fd/" + std::to_string(descriptor_);
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  /// The path, after the file's content was made `data`.
  const std::filesystem::path& holding(const std::uint8_t* data, std::size_t size) const {
    if (ftruncate(descriptor_, 0) != 0 || pwrite(descriptor_, data, size, 0) != static_cast<ssize_t>(size)) {
      std::perror("writing the input");
      std::exit(1);
    }
    return path_;
  }

 private:
  int descriptor_;
  std::filesystem::path path_;
};

/// Ends the program, which both drivers report with the input.
inline void demand(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

/// Calls read(); whether it came back. An IoError must say more than nothing; anything else that is thrown ends the program.
template <class F>
bool accepted(F&& read) {
  try {
    read();
    return true;
  } catch (const IoError& error) {
    demand(std::string(error.what()).size() > 20, "an error says what is wrong");
    return false;
  }
}

}  // namespace weft::fuzz
