#pragma once
// What cuda and simt each implement. Handles are opaque: a cudaStream_t or a simt::Stream*, a cudaEvent_t or a simt::Event*.
#include <cstddef>
#include <cstdint>

#include "tensor/device.h"

namespace weft::gpu {

/// What weft asks of a device with memory of its own: CUDA's runtime, or the emulator.
class Backend {
 public:
  virtual void* create_stream(Device device) = 0;
  virtual void destroy_stream(Device device, void* stream) noexcept = 0;
  virtual void synchronize(Device device, void* stream) = 0;
  virtual void wait(Device device, void* stream, void* event) = 0;
  virtual void* create_event(Device device) = 0;
  virtual void destroy_event(Device device, void* event) noexcept = 0;
  virtual void record(Device device, void* event, void* stream) = 0;
  virtual bool done(Device device, void* event) = 0;
  virtual void synchronize_event(Device device, void* event) = 0;

  /// nullptr when there is no memory left.
  virtual void* allocate(Device device, std::size_t bytes, void* stream) = 0;
  virtual void free(Device device, void* memory, void* stream) noexcept = 0;
  /// The host memory may be changed when the call returns.
  virtual void copy_in(Device device, void* to, const void* from_host, std::size_t bytes, void* stream) = 0;
  /// The host memory, pinned, is read when the stream comes by.
  virtual void copy_in_async(Device device, void* to, const void* pinned, std::size_t bytes, void* stream) = 0;
  virtual void copy_out(Device device, void* to_host, const void* from, std::size_t bytes, void* stream) = 0;
  virtual void copy_on(Device device, void* to, const void* from, std::size_t bytes, void* stream) = 0;
  virtual void zero(Device device, void* memory, std::size_t bytes, void* stream) = 0;
  /// Host memory that the device copies from and to without a detour.
  virtual void* allocate_pinned(std::size_t bytes) = 0;
  virtual void free_pinned(void* memory) noexcept = 0;

 protected:
  ~Backend() = default;  // they live as long as the process
};

/// Errors: DeviceError on the cpu, "[gpu] built without cuda".
Backend& backend(Device device);

/// The emulator.
/// The emulator.
Backend& simt_backend();
#if defined(WEFT_CUDA)
Backend& cuda_backend();
#endif

}  // namespace weft::gpu
