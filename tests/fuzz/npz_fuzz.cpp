// NumPy's npz files: the zip archive, and the npy files in it.
// instruments: data/npy.cpp data/zip.cpp
#include <set>

#include "data/npz.h"
#include "fuzz.h"

using namespace weft;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::MemoryFile file;
  constexpr std::int64_t kMostBytes = 1 << 22;
  data::NamedTensors tensors;
  if (!fuzz::accepted([&] { tensors = data::load_npz(file.holding(data, size), kMostBytes); })) return 0;
  std::set<std::string> names;
  std::int64_t bytes = 0;
  for (const auto& [name, tensor] : tensors) {
    fuzz::demand(names.insert(name).second, "names appear once");
    bytes += tensor.nbytes();
  }
  fuzz::demand(bytes <= kMostBytes, "no more bytes than were allowed");
  return 0;
}
