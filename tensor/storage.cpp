#include "tensor/storage.h"

#include <mutex>
#include <utility>
#include <vector>

#include "tensor/allocator.h"
#include "tensor/error.h"
#include "tensor/gpu.h"

namespace weft {

struct Storage::Gpu {
  explicit Gpu(Stream stream) : home(std::move(stream)) {}
  Stream home;  // where the memory was allocated, and is freed
  std::mutex mutex;
  std::vector<Stream> others;
};

Storage::Storage(std::int64_t bytes, Device device) : bytes_(bytes), device_(device) {
  if (device.kind == DeviceKind::cpu) {
    data_ = static_cast<std::byte*>(cpu_allocate(bytes));
    return;
  }
  gpu_ = std::make_unique<Gpu>(current_stream(device));
  data_ = static_cast<std::byte*>(gpu::allocate(device, bytes));
}

Storage::Storage(void* data, std::int64_t bytes, Device device, std::function<void()> release)
    : data_(static_cast<std::byte*>(data)),
      bytes_(bytes),
      device_(device),
      release_(std::move(release)),
      owned_(false) {}

Storage::~Storage() {
  if (!owned_) {
    if (release_) release_();
  } else if (gpu_ == nullptr) {
    cpu_free(data_, bytes_);
  } else {
    try {
      for (const Stream& other : gpu_->others) {
        Event reached(device_);
        reached.record(other);
        gpu_->home.wait(reached);
      }
    } catch (const std::exception&) {  // the device is in a state where nothing runs any more: nothing to wait for
    }
    gpu::free(device_, data_, bytes_, gpu_->home);
  }
}

void Storage::record_stream(const Stream& stream) {
  if (gpu_ == nullptr || stream == gpu_->home) return;
  require<DeviceError>(stream.device() == device_, "record_stream", "the memory is on {} but the stream on {}", device_,
                       stream.device());
  const std::scoped_lock lock(gpu_->mutex);
  for (const Stream& known : gpu_->others)
    if (known == stream) return;
  gpu_->others.push_back(stream);
}

}  // namespace weft
