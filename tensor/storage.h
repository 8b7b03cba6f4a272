#pragma once
// A block of memory on one device, shared by all the tensors that view it.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "tensor/device.h"
#include "tensor/stream.h"

namespace weft {

/// A block of memory on one device, shared by all the tensors that view it.
class Storage {
 public:
  /// Uninitialised memory of `bytes` bytes on `device`. Errors: OutOfMemory; DeviceError when the device is not built in.
  Storage(std::int64_t bytes, Device device);
  /// Memory of someone else; `release` is called when the last tensor lets go (it may be empty).
  Storage(void* data, std::int64_t bytes, Device device, std::function<void()> release);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

  /// Work on `stream` uses this memory too: it is given back only after what that stream holds by then. Memory is tied to
  /// the stream that was current when it was allocated; any other must be told here. Nothing on the cpu.
  void record_stream(const Stream& stream);

  /// Counts in-place writes; autograd compares it with the count at the time a tensor was saved for backward.
  std::uint64_t version() const { return version_.load(std::memory_order_relaxed); }
  void bump_version() { version_.fetch_add(1, std::memory_order_relaxed); }

 private:
  std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
  Device device_;
  std::function<void()> release_;
  bool owned_ = true;
  struct Gpu;  // the streams; none on the cpu
  std::unique_ptr<Gpu> gpu_;
  std::atomic<std::uint64_t> version_{0};
};

}  // namespace weft
