#include "tensor/status.h"

#include <array>
#include <mutex>

#include "tensor/error.h"
#include "tensor/gpu.h"

namespace weft {
namespace {

constexpr std::size_t kMaxDevices = 64;

struct Words {
  std::mutex mutex;
  std::array<std::array<DeviceStatus*, kMaxDevices>, 2> table{};
};
Words& words() {
  static Words words;
  return words;
}
DeviceStatus*& word(Words& all, Device device) {
  require<DeviceError>(device.kind != DeviceKind::cpu, "status", "the cpu has no status word: its errors are thrown");
  return all.table[device.kind == DeviceKind::cuda ? 0 : 1].at(static_cast<std::size_t>(device.index));
}

}  // namespace

DeviceStatus* status_word(Device device) {
  Words& all = words();
  const std::scoped_lock lock(all.mutex);
  DeviceStatus*& status = word(all, device);
  if (status == nullptr) {
    status = static_cast<DeviceStatus*>(gpu::allocate(device, sizeof(DeviceStatus)));
    gpu::zero(device, status, sizeof(DeviceStatus));
  }
  return status;
}

void check_status(Device device) {
  if (device.kind == DeviceKind::cpu) return;
  {
    Words& all = words();
    const std::scoped_lock lock(all.mutex);
    if (word(all, device) == nullptr) return;  // no kernel that could set it was ever started
  }
  DeviceStatus* const status = status_word(device);
  DeviceStatus seen{};
  gpu::copy_out(device, &seen, status, sizeof(seen));
  if (seen.code == 0) return;
  gpu::zero(device, status, sizeof(DeviceStatus));
  switch (static_cast<StatusCode>(seen.code)) {
    case StatusCode::cross_entropy_target:
      fail("cross_entropy",
           "target {} at row {} is outside [0, {}): correct the label, mask the row, or set it to ignore_index",
           seen.value, seen.row, seen.bound);
    case StatusCode::none: break;
  }
  fail("device", "status {} of {} at row {} (value {}, bound {})", seen.code, device, seen.row, seen.value, seen.bound);
}

}  // namespace weft
