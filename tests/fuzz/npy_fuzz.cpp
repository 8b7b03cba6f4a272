// NumPy's npy files.
#include "autograd/layout.h"
#include "data/npy.h"
#include "fuzz.h"

using namespace weft;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::MemoryFile file;
  Tensor values;
  if (!fuzz::accepted([&] { values = data::load_npy(file.holding(data, size)); })) return 0;
  const Tensor dense = contiguous(values.alias());
  fuzz::demand(static_cast<std::size_t>(dense.nbytes()) < size, "no more values than the file has bytes");
  if (values.is_contiguous()) {
    const auto* behind = data + size - dense.nbytes();
    fuzz::demand(
        dense.nbytes() == 0 || std::equal(behind, data + size, reinterpret_cast<const std::uint8_t*>(dense.raw_data())),
        "the values are the last bytes of the file");
  }
  return 0;
}
