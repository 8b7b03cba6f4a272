// Whatever the bytes are: they are read, or refused with an IoError.
#include <cstdint>
#include <string_view>

#include "data/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    weft::data::parse_safetensors("input", {reinterpret_cast<const char*>(data), size});
  } catch (const weft::IoError&) {  // anything else is a finding
  }
  return 0;
}
