// The emulated device. Every copy and every free is work in its stream, as on a real one.
#include <cstdlib>
#include <memory>
#include <vector>

#include "simt/memory.h"
#include "simt/stream.h"
#include "tensor/gpu_backend.h"

namespace weft::gpu {
namespace {

simt::Stream& stream_of(void* handle) { return *static_cast<simt::Stream*>(handle); }
simt::Event& event_of(void* handle) { return *static_cast<simt::Event*>(handle); }

class SimtBackend final : public Backend {
 public:
  void* create_stream(Device) override { return new simt::Stream; }
  void destroy_stream(Device, void* stream) noexcept override { delete &stream_of(stream); }
  void synchronize(Device, void* stream) override { stream_of(stream).synchronize(); }
  void wait(Device, void* stream, void* event) override { stream_of(stream).wait(event_of(event)); }
  void* create_event(Device) override { return new simt::Event; }
  void destroy_event(Device, void* event) noexcept override { delete &event_of(event); }
  void record(Device, void* event, void* stream) override { event_of(event).record(stream_of(stream)); }
  bool done(Device, void* event) override { return event_of(event).done(); }
  void synchronize_event(Device, void* event) override { event_of(event).synchronize(); }

  void* allocate(Device, std::size_t bytes, void*) override { return simt::device_malloc(bytes); }
  void free(Device, void* memory, void* stream) noexcept override {
    try {
      stream_of(stream).enqueue([memory] { simt::device_free(memory); });
    } catch (...) {  // earlier work of the stream failed; the memory is free all the same
      try {
        simt::device_free(memory);
      } catch (...) {  // it already was
      }
    }
  }
  void copy_in(Device, void* to, const void* from_host, std::size_t bytes, void* stream) override {
    if (simt::stream_mode() == simt::StreamMode::immediate && stream_of(stream).idle())
      return simt::copy_to_device(to, from_host, bytes);
    const auto* first = static_cast<const std::byte*>(from_host);
    stream_of(stream).enqueue([to, data = std::make_shared<std::vector<std::byte>>(first, first + bytes)] {
      simt::copy_to_device(to, data->data(), data->size());
    });
  }
  void copy_in_async(Device, void* to, const void* pinned, std::size_t bytes, void* stream) override {
    stream_of(stream).enqueue([=] { simt::copy_to_device(to, pinned, bytes); });
  }
  void copy_out(Device, void* to_host, const void* from, std::size_t bytes, void* stream) override {
    stream_of(stream).enqueue([=] { simt::copy_to_host(to_host, from, bytes); });
    stream_of(stream).synchronize();
  }
  void copy_on(Device, void* to, const void* from, std::size_t bytes, void* stream) override {
    stream_of(stream).enqueue([=] { simt::copy_on_device(to, from, bytes); });
  }
  void zero(Device, void* memory, std::size_t bytes, void* stream) override {
    stream_of(stream).enqueue([=] { simt::fill_bytes(memory, 0, bytes); });
  }
  void* allocate_pinned(std::size_t bytes) override {
    return std::malloc(bytes);
  }                                                                        // NOLINT(cppcoreguidelines-no-malloc)
  void free_pinned(void* memory) noexcept override { std::free(memory); }  // NOLINT(cppcoreguidelines-no-malloc)
};

}  // namespace

Backend& simt_backend() {
  static SimtBackend backend;
  return backend;
}

}  // namespace weft::gpu
