#pragma once
// Words that every kernel's argument struct shares.
#include <cstdint>

#include "tensor/device.h"
#include "tensor/dtype.h"

namespace weft {

/// Whether a kernel writes its output (`=`) or adds to what is there (`+=`).
enum class Accumulate : std::uint8_t { overwrite, add };

}  // namespace weft

namespace weft::kernels {

/// Whether `device` is the cpu; throws DeviceError "[op] built without cuda" for a device whose kernels are not built in.
/// Every op's device switch goes through here until the other builds of the kernels exist.
inline void require_cpu(const char* op, Device device) {
  if (device.kind != DeviceKind::cpu) not_built(op, device);
}

}  // namespace weft::kernels
