// The library must really hold GPU code: a build that silently compiled the .cu files as C++ would link, and run nothing.
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "tensor/device.h"

namespace weft {
namespace {

template <class T>
T read(const std::vector<char>& bytes, std::size_t at) {
  T value{};
  if (at + sizeof(T) <= bytes.size()) std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

/// For each fat binary in a file (one per translation unit with kernels): the architectures of its machine code.
std::vector<std::set<int>> machine_code(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  constexpr std::uint32_t kMagic = 0xBA55ED50;
  std::vector<std::set<int>> found;
  for (std::size_t at = 0; at + 16 <= bytes.size(); at += 2) {  // members of an archive start at even offsets
    if (read<std::uint32_t>(bytes, at) != kMagic || read<std::uint16_t>(bytes, at + 4) != 1) continue;
    const std::size_t header = read<std::uint16_t>(bytes, at + 6);
    const std::size_t end = at + header + static_cast<std::size_t>(read<std::uint64_t>(bytes, at + 8));
    std::set<int> architectures;
    for (std::size_t entry = at + header; entry + 64 <= end && end <= bytes.size();) {
      constexpr std::uint16_t kElf = 2;  // 1 is PTX
      if (read<std::uint16_t>(bytes, entry) == kElf) architectures.insert(read<std::int32_t>(bytes, entry + 28));
      const std::uint64_t entry_bytes = read<std::uint32_t>(bytes, entry + 4) + read<std::uint64_t>(bytes, entry + 8);
      if (entry_bytes == 0) break;
      entry += static_cast<std::size_t>(entry_bytes);
    }
    found.push_back(architectures);
  }
  return found;
}

TEST(CudaCode, LibraryHoldsMachineCodeOfEveryKernelFile) {
#if defined(WEFT_CUDA)
  std::size_t kernel_files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(WEFT_SOURCE_DIR "/kernels"))
    kernel_files += entry.path().extension() == ".cu" ? 1 : 0;
  ASSERT_GT(kernel_files, 0u);
  const auto found = machine_code(WEFT_LIBRARY_FILE);
  for (const int architecture : {WEFT_CUDA_ARCHITECTURES}) {
    std::size_t with_code = 0;
    for (const std::set<int>& architectures : found) with_code += architectures.count(architecture);
    EXPECT_GE(with_code, kernel_files) << "files with machine code for sm_" << architecture << " in "
                                       << WEFT_LIBRARY_FILE;
  }
#else
  GTEST_SKIP() << "built without cuda";
#endif
}

// The search itself must be able to find nothing.
TEST(CudaCode, PlainProgramsHoldNone) { EXPECT_TRUE(machine_code("/bin/sh").empty()); }

}  // namespace
}  // namespace weft
