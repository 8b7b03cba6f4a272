#include "kernels/common/update_table.h"

#include <algorithm>

#include "tensor/gpu.h"

namespace weft::kernels {

// What was sent last, and where it lies: the entries, then the chunks.
struct TableMirror::State {
  explicit State(const Stream& stream) : stream(stream) {}
  ~State() { release(); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void release() noexcept {
    if (memory != nullptr) gpu::free(stream.device(), memory, bytes, stream);
    memory = nullptr;
    bytes = entry_capacity = 0;
    entries.clear();
    chunks.clear();
  }

  Stream stream;  // the memory is written and read in this one only
  void* memory = nullptr;
  std::int64_t bytes = 0;
  std::int64_t entry_capacity = 0;
  std::vector<UpdateEntry> entries;
  std::vector<UpdateChunk> chunks;
};

DeviceTable TableMirror::update(const Stream& stream, std::span<const UpdateEntry> entries,
                                std::span<const UpdateChunk> chunks) {
  constexpr auto kEntryBytes = static_cast<std::int64_t>(sizeof(UpdateEntry));
  constexpr auto kChunkBytes = static_cast<std::int64_t>(sizeof(UpdateChunk));
  const auto entry_count = static_cast<std::int64_t>(entries.size());
  const auto chunk_count = static_cast<std::int64_t>(chunks.size());
  if (entry_count == 0) return {};
  const Device device = stream.device();
  const StreamScope scope(stream);  // allocation and copies are work of this stream
  // Another stream may still read the copy, or must not read it before it has arrived.
  if (state_ == nullptr || !(state_->stream == stream)) state_ = std::make_shared<State>(stream);
  State& state = *state_;
  if (entry_count > state.entry_capacity ||
      state.entry_capacity * kEntryBytes + chunk_count * kChunkBytes > state.bytes) {
    state.release();
    const std::int64_t bytes = entry_count * kEntryBytes + chunk_count * kChunkBytes;
    state.memory = gpu::allocate(device, bytes);
    state.bytes = bytes;
    state.entry_capacity = entry_count;
  }
  auto* const entry_memory = static_cast<UpdateEntry*>(state.memory);
  auto* const chunk_memory = reinterpret_cast<UpdateChunk*>(entry_memory + state.entry_capacity);
  // What is believed to be there is forgotten until the copy has been enqueued: a failure must not leave a stale table.
  if (!std::equal(entries.begin(), entries.end(), state.entries.begin(), state.entries.end())) {
    state.entries.clear();
    gpu::copy_in(device, entry_memory, entries.data(), entry_count * kEntryBytes);
    state.entries.assign(entries.begin(), entries.end());
  }
  if (!std::equal(chunks.begin(), chunks.end(), state.chunks.begin(), state.chunks.end())) {
    state.chunks.clear();
    gpu::copy_in(device, chunk_memory, chunks.data(), chunk_count * kChunkBytes);
    state.chunks.assign(chunks.begin(), chunks.end());
  }
  return {entry_memory, chunk_memory, entry_count, chunk_count};
}

}  // namespace weft::kernels
