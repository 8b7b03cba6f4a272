#pragma once
// Streams and events of the devices that have them: cuda and simt. Work on the cpu is done when its call returns.
#include <memory>

#include "tensor/device.h"

namespace weft {

class Event;

/// Work in order on one device. Copies of the handle are the same stream. Kernels and copies of a thread go to
/// current_stream(device): a default stream per device, unless a StreamScope says otherwise.
class Stream {
 public:
  /// A new stream. Errors: DeviceError on the cpu, or when the device cannot be used.
  explicit Stream(Device device);

  Device device() const { return state_->device; }
  /// Waits until all work enqueued so far is done; errors of that work are thrown here.
  void synchronize() const;
  /// Work enqueued from now on waits for the event.
  void wait(const Event& event) const;
  /// The cudaStream_t, or the simt::Stream*.
  void* native() const { return state_->native; }
  friend bool operator==(const Stream& a, const Stream& b) { return a.state_ == b.state_; }

 private:
  friend class Event;
  struct State {
    explicit State(Device on);
    ~State();
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    Device device;
    void* native = nullptr;
  };
  std::shared_ptr<State> state_;
};

/// A point in a stream's work.
class Event {
 public:
  explicit Event(Device device);
  void record(const Stream& stream);
  /// Whether the work before the last record() is done; true when nothing was recorded.
  bool done() const;
  void synchronize() const;
  void* native() const { return state_->native; }

 private:
  friend class Stream;
  struct State {
    explicit State(Device on);
    ~State();
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    Device device;
    void* native = nullptr;
  };
  std::shared_ptr<State> state_;
};

/// The stream that this thread's work on `device` goes to. Errors: DeviceError on the cpu.
const Stream& current_stream(Device device);

/// Makes `stream` current on its device, for this thread and the scope's lifetime.
class StreamScope {
 public:
  explicit StreamScope(Stream stream);
  ~StreamScope();
  StreamScope(const StreamScope&) = delete;
  StreamScope& operator=(const StreamScope&) = delete;

 private:
  Stream stream_;
  const Stream* before_;
};

/// Waits for all of this thread's current stream on `device`; nothing on the cpu.
void synchronize(Device device);

}  // namespace weft
