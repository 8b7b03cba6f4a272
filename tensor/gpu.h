#pragma once
// What a device with memory of its own offers: allocation and copies, in the order of its current stream.
#include <cstdint>

#include "tensor/allocator.h"
#include "tensor/device.h"
#include "tensor/stream.h"

namespace weft::gpu {

/// `bytes` bytes on `device`, usable by work enqueued from now on in its current stream; nullptr for 0 bytes.
/// Errors: OutOfMemory with the numbers; DeviceError "[empty] built without cuda".
void* allocate(Device device, std::int64_t bytes);
/// Gives memory back, as soon as the work enqueued so far in `stream` is done.
void free(Device device, void* memory, std::int64_t bytes, const Stream& stream) noexcept;

/// From host memory, which may be changed as soon as the call returns.
void copy_in(Device device, void* to, const void* from_host, std::int64_t bytes);
/// To host memory; waits until it is there, and so for all work of the current stream. Its errors are thrown here.
void copy_out(Device device, void* to_host, const void* from, std::int64_t bytes);
/// From one place to another on the device.
void copy_on(Device device, void* to, const void* from, std::int64_t bytes);
/// Sets bytes to 0.
void zero(Device device, void* memory, std::int64_t bytes);

/// Host memory that copies to and from `device` reach without a detour, and asynchronously. Errors: OutOfMemory.
class PinnedBuffer {
 public:
  PinnedBuffer(Device device, std::int64_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  void* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  Device device_;
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
};
/// As copy_in, but the buffer must stay as it is until the current stream has come by (record an Event behind the call).
void copy_in_async(Device device, void* to, const PinnedBuffer& from, std::int64_t bytes);

/// The numbers of the device's allocator.
MemoryStats memory_stats(Device device);
/// Lets peak_bytes start again from current_bytes.
void reset_peak_bytes(Device device);

}  // namespace weft::gpu
