#pragma once
// The way of a micro-batch to a device with memory of its own: through pinned memory, on a stream of its own, while the
// device computes and the next one is made.
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "data/micro_batch.h"
#include "tensor/gpu.h"
#include "tensor/stream.h"

namespace weft::data::detail {

/// Sends micro-batches to a device. Any number of threads may send at once.
class Transfer {
 public:
  /// `stages` micro-batches at most are on their way: each has pinned buffers, which are allocated once and grow with the
  /// largest micro-batch. Two for each thread that sends let it fill one while the other is read.
  Transfer(Device device, std::size_t stages) : device_(device), stages_(stages), stream_(device) {}

  /// Replaces the micro-batch's tensors by ones on the device, whose content has arrived when `ready` has. Waits only when
  /// all stages are on their way.
  void send(MicroBatch& micro, std::optional<Event>& ready);
  /// Lets the current stream of this thread wait for a sent micro-batch, whose memory then outlives what the stream does
  /// with it. The host does not wait.
  static void receive(const MicroBatch& micro, const Event& ready);

  /// Pinned buffers that were allocated since the start.
  std::int64_t allocations() const;

 private:
  static constexpr std::size_t kTensors = 5;  // of a MicroBatch, the table of segments aside
  struct Stage {
    explicit Stage(Device device) : sent(device) {}
    std::array<std::unique_ptr<gpu::PinnedBuffer>, kTensors> buffers;
    Event sent;
  };
  std::unique_ptr<Stage> acquire();
  void release(std::unique_ptr<Stage> stage);
  void copy(Tensor& tensor, std::unique_ptr<gpu::PinnedBuffer>& buffer);

  const Device device_;
  const std::size_t stages_;
  const Stream stream_;
  mutable std::mutex mutex_;
  std::deque<std::unique_ptr<Stage>> free_;  // the one that was sent first in front
  std::size_t made_ = 0;
  std::int64_t allocations_ = 0;
};

}  // namespace weft::data::detail
