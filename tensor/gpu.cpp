#include "tensor/gpu.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>

#include "tensor/error.h"
#include "tensor/gpu_backend.h"

namespace weft {
namespace gpu {
namespace {

struct Counts {
  std::atomic<std::int64_t> current{0}, peak{0}, allocations{0};
};

Counts& counts(Device device) {
  static std::array<std::array<Counts, 64>, 2> table;
  return table[device.kind == DeviceKind::cuda ? 0 : 1].at(static_cast<std::size_t>(device.index));
}

std::size_t size(std::int64_t bytes) { return static_cast<std::size_t>(bytes); }

}  // namespace

Backend& backend(Device device) {
#if defined(WEFT_CUDA)
  if (device.kind == DeviceKind::cuda) return cuda_backend();
#endif
  if (device.kind != DeviceKind::simt) not_built("gpu", device);
  return simt_backend();
}

void* allocate(Device device, std::int64_t bytes) {
  if (bytes == 0) return nullptr;
  const Stream& stream = current_stream(device);
  void* memory = backend(device).allocate(device, size(bytes), stream.native());
  Counts& count = counts(device);
  if (memory == nullptr)
    throw OutOfMemory(fmt::format("[empty] out of memory on {}: {} bytes asked for, {} bytes in use", device, bytes,
                                  count.current.load()),
                      bytes, count.current, 0);
  const std::int64_t current = count.current += bytes;
  ++count.allocations;
  for (std::int64_t peak = count.peak; peak < current && !count.peak.compare_exchange_weak(peak, current);) {}
  return memory;
}

void free(Device device, void* memory, std::int64_t bytes, const Stream& stream) noexcept {
  if (memory == nullptr) return;
  backend(device).free(device, memory, stream.native());
  counts(device).current -= bytes;
}

void copy_in(Device device, void* to, const void* from_host, std::int64_t bytes) {
  if (bytes > 0) backend(device).copy_in(device, to, from_host, size(bytes), current_stream(device).native());
}
void copy_in_async(Device device, void* to, const PinnedBuffer& from, std::int64_t bytes) {
  require<ShapeError>(bytes <= from.bytes(), "copy", "{} bytes were asked for but the pinned buffer has {}", bytes,
                      from.bytes());
  if (bytes > 0) backend(device).copy_in_async(device, to, from.data(), size(bytes), current_stream(device).native());
}
void copy_out(Device device, void* to_host, const void* from, std::int64_t bytes) {
  if (bytes > 0) backend(device).copy_out(device, to_host, from, size(bytes), current_stream(device).native());
}
void copy_on(Device device, void* to, const void* from, std::int64_t bytes) {
  if (bytes > 0) backend(device).copy_on(device, to, from, size(bytes), current_stream(device).native());
}
void zero(Device device, void* memory, std::int64_t bytes) {
  if (bytes > 0) backend(device).zero(device, memory, size(bytes), current_stream(device).native());
}

PinnedBuffer::PinnedBuffer(Device device, std::int64_t bytes) : device_(device), bytes_(bytes) {
  if (bytes == 0) return;
  data_ = backend(device).allocate_pinned(size(bytes));
  if (data_ == nullptr)
    throw OutOfMemory(fmt::format("[pinned] out of pinned host memory: {} bytes asked for", bytes), bytes, 0, 0);
}
PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) backend(device_).free_pinned(data_);
}

MemoryStats memory_stats(Device device) {
  const Counts& count = counts(device);
  return {.current_bytes = count.current, .peak_bytes = count.peak, .allocations = count.allocations};
}

void reset_peak_bytes(Device device) { counts(device).peak = counts(device).current.load(); }

}  // namespace gpu

// --- streams and events ------------------------------------------------------------------------------------------------

namespace {

constexpr std::size_t kMaxDevices = 64;  // of one kind

std::size_t slot(Device device) {
  require<DeviceError>(device.kind != DeviceKind::cpu, "stream", "the cpu has no streams: its work is done on return");
  const auto index = static_cast<std::size_t>(device.index);
  require<DeviceError>(index < kMaxDevices, "stream", "device index {} is too large", device.index);
  return (device.kind == DeviceKind::cuda ? 0 : kMaxDevices) + index;
}

thread_local std::array<const Stream*, 2 * kMaxDevices> scoped_streams{};

const Stream& default_stream(std::size_t at, Device device) {
  // Never destroyed: tensors with static lifetime may still give memory back when the process ends.
  static std::array<std::atomic<const Stream*>, 2 * kMaxDevices> streams{};
  static std::mutex mutex;
  if (const Stream* stream = streams[at].load(std::memory_order_acquire)) return *stream;
  const std::scoped_lock lock(mutex);
  if (streams[at] == nullptr) streams[at] = new Stream(device);
  return *streams[at];
}

}  // namespace

Stream::State::State(Device on) : device(on) {
  slot(device);  // refuses the cpu
  native = gpu::backend(device).create_stream(device);
}
Stream::State::~State() { gpu::backend(device).destroy_stream(device, native); }
Stream::Stream(Device device) : state_(std::make_shared<State>(device)) {}
void Stream::synchronize() const { gpu::backend(device()).synchronize(device(), native()); }
void Stream::wait(const Event& event) const { gpu::backend(device()).wait(device(), native(), event.native()); }

Event::State::State(Device on) : device(on) {
  slot(device);
  native = gpu::backend(device).create_event(device);
}
Event::State::~State() { gpu::backend(device).destroy_event(device, native); }
Event::Event(Device device) : state_(std::make_shared<State>(device)) {}
void Event::record(const Stream& stream) {
  require<DeviceError>(stream.device() == state_->device, "event", "an event of {} cannot record a stream of {}",
                       state_->device, stream.device());
  gpu::backend(state_->device).record(state_->device, native(), stream.native());
}
bool Event::done() const { return gpu::backend(state_->device).done(state_->device, native()); }
void Event::synchronize() const { gpu::backend(state_->device).synchronize_event(state_->device, native()); }

const Stream& current_stream(Device device) {
  const std::size_t at = slot(device);
  return scoped_streams[at] != nullptr ? *scoped_streams[at] : default_stream(at, device);
}

StreamScope::StreamScope(Stream stream) : stream_(std::move(stream)) {
  const Stream*& current = scoped_streams[slot(stream_.device())];
  before_ = current;
  current = &stream_;
}
StreamScope::~StreamScope() { scoped_streams[slot(stream_.device())] = before_; }

void synchronize(Device device) {
  if (device.kind != DeviceKind::cpu) current_stream(device).synchronize();
}

}  // namespace weft
