// IDX files, plain and gzip.
#include "data/idx.h"
#include "fuzz.h"

using namespace weft;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::MemoryFile file;
  Tensor values;
  if (!fuzz::accepted([&] { values = data::read_idx(file.holding(data, size)); })) return 0;
  fuzz::demand(values.dtype() == Dtype::u8 && values.rank() >= 1 && values.rank() <= 4,
               "a u8 tensor of 1 to 4 dimensions");
  if (data[0] != 0x1f) {
    const std::size_t header = 4 + 4 * static_cast<std::size_t>(values.rank());
    const auto bytes = values.to_vector<std::uint8_t>();
    fuzz::demand(size == header + bytes.size() && std::equal(bytes.begin(), bytes.end(), data + header),
                 "the values are the bytes behind the header");
  }
  return 0;
}
