#include "tensor/storage.h"

#include "tensor/allocator.h"

namespace weft {

Storage::Storage(std::int64_t bytes, Device device) : bytes_(bytes), device_(device) {
  if (device.kind != DeviceKind::cpu) not_built("empty", device);
  data_ = static_cast<std::byte*>(cpu_allocate(bytes));
}

Storage::Storage(void* data, std::int64_t bytes, Device device, std::function<void()> release)
    : data_(static_cast<std::byte*>(data)),
      bytes_(bytes),
      device_(device),
      release_(std::move(release)),
      owned_(false) {}

Storage::~Storage() {
  if (owned_)
    cpu_free(data_, bytes_);
  else if (release_)
    release_();
}

}  // namespace weft
