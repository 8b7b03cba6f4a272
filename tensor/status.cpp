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
  fail_status(static_cast<StatusCode>(seen.code), seen.row, seen.value, seen.bound);
}

void fail_status(StatusCode code, std::int64_t row, std::int64_t value, std::int64_t bound) {
  const auto bad_index = [&](const char* op) {
    fail(op, "index {} at position {} is outside [0, {})", value, row, bound);
  };
  switch (code) {
    case StatusCode::cross_entropy_target:
      fail("cross_entropy",
           "target {} at row {} is outside [0, {}): correct the label, mask the row, or set it to ignore_index", value,
           row, bound);
    case StatusCode::index_select: bad_index("index_select"); break;
    case StatusCode::gather: bad_index("gather"); break;
    case StatusCode::scatter_add: bad_index("scatter_add"); break;
    case StatusCode::embedding: bad_index("embedding"); break;
    case StatusCode::none: break;
  }
  fail("device", "status {} at row {} (value {}, bound {})", static_cast<std::int32_t>(code), row, value, bound);
}

}  // namespace weft
