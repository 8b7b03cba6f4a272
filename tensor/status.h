#pragma once
// What only the device can see goes wrong there: a label outside its range, say. The kernel notes the first such thing in
// a status word in device memory. While it is set, optimizer kernels change nothing; the host throws it at the next point
// where it waits for the device anyway.
#include <cstdint>

#include "tensor/device.h"

namespace weft {

/// Who set the status word, and so what its numbers mean.
enum class StatusCode : std::int32_t {
  none,
  cross_entropy_target,
  // An index that is outside its dimension; named after the operation.
  index_select,
  gather,
  scatter_add,
  embedding,
};

/// One per device, in device memory.
struct DeviceStatus {
  std::int32_t code;  // a StatusCode; 0 while all is well. The one field that is set atomically, first
  std::int32_t unused;
  std::int64_t row;    // where
  std::int64_t value;  // what was found there
  std::int64_t bound;  // what it should have been below
};

/// The device's status word, made at the first call. Errors: DeviceError on the cpu.
DeviceStatus* status_word(Device device);
/// Throws what the status word says, and clears it; waits for the current stream. Nothing on the cpu.
/// Errors: Error "[cross_entropy] target 12 at row 5 is outside [0, 10)".
void check_status(Device device);
/// Throws what a status word with these numbers says, for a cpu kernel that found the same.
[[noreturn]] void fail_status(StatusCode code, std::int64_t row, std::int64_t value, std::int64_t bound);

}  // namespace weft
