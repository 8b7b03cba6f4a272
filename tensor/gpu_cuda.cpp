// The CUDA runtime: stream-ordered memory pools, streams, events, copies. Compiled only where the toolkit is; starts only
// where a driver is.
#if defined(WEFT_CUDA)
#include <array>
#include <cstdint>
#include <cstdio>
#include <mutex>

#include <cuda_runtime_api.h>

#include "tensor/error.h"
#include "tensor/gpu_backend.h"

namespace weft::gpu {
namespace {

cudaStream_t stream_of(void* handle) { return static_cast<cudaStream_t>(handle); }
cudaEvent_t event_of(void* handle) { return static_cast<cudaEvent_t>(handle); }

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // not to be met again by the next call
  fail<DeviceError>("cuda", "{} failed: {} ({})", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

// Makes the device current for this thread, and its pool keep what is given back: a training step asks for the same sizes
// again and again, and returning memory to the driver at every synchronisation would cost more than the kernels.
void activate(Device device) {
  thread_local int current = -1;
  if (current == device.index) return;
  check(cudaSetDevice(device.index), "selecting the device");
  static std::mutex mutex;
  static std::array<bool, 64> prepared{};
  {
    const std::scoped_lock lock(mutex);
    auto& done = prepared.at(static_cast<std::size_t>(device.index));
    if (!done) {
      cudaMemPool_t pool = nullptr;
      check(cudaDeviceGetDefaultMemPool(&pool, device.index), "finding the memory pool");
      std::uint64_t keep = UINT64_MAX;
      check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "configuring the memory pool");
      done = true;
    }
  }
  current = device.index;
}

class CudaBackend final : public Backend {
 public:
  void* create_stream(Device device) override {
    activate(device);
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
    return stream;
  }
  void destroy_stream(Device, void* stream) noexcept override { cudaStreamDestroy(stream_of(stream)); }
  void synchronize(Device device, void* stream) override {
    activate(device);
    check(cudaStreamSynchronize(stream_of(stream)), "waiting for a stream");
  }
  void wait(Device device, void* stream, void* event) override {
    activate(device);
    check(cudaStreamWaitEvent(stream_of(stream), event_of(event), 0), "waiting for an event");
  }
  void* create_event(Device device) override {
    activate(device);
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
    return event;
  }
  void destroy_event(Device, void* event) noexcept override { cudaEventDestroy(event_of(event)); }
  void record(Device device, void* event, void* stream) override {
    activate(device);
    check(cudaEventRecord(event_of(event), stream_of(stream)), "recording an event");
  }
  bool done(Device device, void* event) override {
    activate(device);
    const cudaError_t error = cudaEventQuery(event_of(event));
    if (error == cudaErrorNotReady) return false;
    check(error, "asking for an event");
    return true;
  }
  void synchronize_event(Device device, void* event) override {
    activate(device);
    check(cudaEventSynchronize(event_of(event)), "waiting for an event");
  }

  void* allocate(Device device, std::size_t bytes, void* stream) override {
    activate(device);
    void* memory = nullptr;
    const cudaError_t error = cudaMallocAsync(&memory, bytes, stream_of(stream));
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      return nullptr;
    }
    check(error, "allocating memory");
    return memory;
  }
  void free(Device device, void* memory, void* stream) noexcept override {
    try {
      activate(device);
      check(cudaFreeAsync(memory, stream_of(stream)), "freeing memory");
    } catch (const std::exception& error) {  // after a sticky error, or when the driver is already gone at exit
      if (cudaGetLastError() != cudaErrorCudartUnloading) std::fprintf(stderr, "%s\n", error.what());
    }
  }
  void copy_in(Device device, void* to, const void* from_host, std::size_t bytes, void* stream) override {
    activate(device);
    check(cudaMemcpyAsync(to, from_host, bytes, cudaMemcpyHostToDevice, stream_of(stream)), "copying to the device");
    // From pageable memory the driver has staged the bytes when the call returns.
  }
  void copy_in_async(Device device, void* to, const void* pinned, std::size_t bytes, void* stream) override {
    activate(device);
    check(cudaMemcpyAsync(to, pinned, bytes, cudaMemcpyHostToDevice, stream_of(stream)), "copying to the device");
  }
  void copy_out(Device device, void* to_host, const void* from, std::size_t bytes, void* stream) override {
    activate(device);
    check(cudaMemcpyAsync(to_host, from, bytes, cudaMemcpyDeviceToHost, stream_of(stream)), "copying to the host");
    check(cudaStreamSynchronize(stream_of(stream)), "copying to the host");
  }
  void copy_on(Device device, void* to, const void* from, std::size_t bytes, void* stream) override {
    activate(device);
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_of(stream)), "copying on the device");
  }
  void zero(Device device, void* memory, std::size_t bytes, void* stream) override {
    activate(device);
    check(cudaMemsetAsync(memory, 0, bytes, stream_of(stream)), "zeroing memory");
  }
  void* allocate_pinned(std::size_t bytes) override {
    void* memory = nullptr;
    const cudaError_t error = cudaMallocHost(&memory, bytes);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      return nullptr;
    }
    check(error, "allocating pinned memory");
    return memory;
  }
  void free_pinned(void* memory) noexcept override { cudaFreeHost(memory); }
};

}  // namespace

Backend& cuda_backend() {
  static CudaBackend backend;
  return backend;
}

}  // namespace weft::gpu
#endif
