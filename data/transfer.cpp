#include "data/transfer.h"

#include <cstring>
#include <utility>

#include "autograd/layout.h"

namespace weft::data::detail {
namespace {

std::array<Tensor*, 5> tensors_of(MicroBatch& micro) {
  return {&micro.input, &micro.target, &micro.weight, &micro.sample_ids, &micro.positions};
}

}  // namespace

std::unique_ptr<Transfer::Stage> Transfer::acquire() {
  std::unique_ptr<Stage> stage;
  {
    const std::scoped_lock lock(mutex_);
    if (free_.empty() || made_ < stages_) {
      stage = std::make_unique<Stage>(device_);
      ++made_;
    } else {
      stage = std::move(free_.front());
      free_.pop_front();
    }
  }
  stage->sent.synchronize();  // its buffers may still be read
  return stage;
}

void Transfer::release(std::unique_ptr<Stage> stage) {
  const std::scoped_lock lock(mutex_);
  free_.push_back(std::move(stage));
}

std::int64_t Transfer::allocations() const {
  const std::scoped_lock lock(mutex_);
  return allocations_;
}

void Transfer::copy(Tensor& tensor, std::unique_ptr<gpu::PinnedBuffer>& buffer) {
  const Tensor from = contiguous(tensor);
  Tensor to = Tensor::empty(from.shape(), from.dtype(), device_);
  if (const std::int64_t bytes = from.nbytes(); bytes > 0) {
    if (buffer == nullptr || buffer->bytes() < bytes) {
      buffer.reset();
      buffer = std::make_unique<gpu::PinnedBuffer>(device_, bytes);
      const std::scoped_lock lock(mutex_);
      ++allocations_;
    }
    std::memcpy(buffer->data(), from.raw_data(), static_cast<std::size_t>(bytes));
    gpu::copy_in_async(device_, to.raw_data(), *buffer, bytes);
  }
  tensor = std::move(to);
}

void Transfer::send(MicroBatch& micro, std::optional<Event>& ready) {
  const StreamScope scope(stream_);
  std::unique_ptr<Stage> stage = acquire();
  // On its way back whatever happens: what was enqueued before an error still reads the buffers.
  struct Return {
    Transfer* transfer;
    std::unique_ptr<Stage>* stage;
    ~Return() {
      try {
        (*stage)->sent.record(transfer->stream_);
        transfer->release(std::move(*stage));
      } catch (const std::exception&) { static_cast<void>(stage->release()); }  // a broken stream: its buffers are lost
    }
  };
  {
    const Return back{this, &stage};
    const std::array<Tensor*, kTensors> tensors = tensors_of(micro);
    for (std::size_t i = 0; i < kTensors; ++i)
      if (tensors[i]->defined()) copy(*tensors[i], stage->buffers[i]);
    micro.segments = micro.segments.to(device_);
  }
  ready.emplace(device_);
  ready->record(stream_);
}

void Transfer::receive(const MicroBatch& micro, const Event& ready) {
  MicroBatch received = micro;  // handles
  const Stream& stream = current_stream(micro.sample_ids.device());
  stream.wait(ready);
  for (const Tensor* tensor : tensors_of(received))
    if (tensor->defined()) tensor->storage()->record_stream(stream);
  if (micro.segments.defined()) {
    micro.segments.cu_seqlens().storage()->record_stream(stream);
    micro.segments.ids().storage()->record_stream(stream);
  }
}

}  // namespace weft::data::detail
