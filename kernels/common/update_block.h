#pragma once
// How the optimizers' kernels walk an UpdateTable: a fixed number of blocks per chunk, one launch for all tensors,
// whatever their dtypes.
#include <cmath>

#include "kernels/common/launch.h"
#include "kernels/common/status.h"
#include "kernels/common/step_state.h"
#include "kernels/common/update_table.h"

namespace weft::kernels::WEFT_BACKEND {

inline constexpr int kUpdateThreads = 256;
// 4096 elements per block: a model of a million parameters already keeps every multiprocessor of a large GPU busy.
inline constexpr int kBlocksPerChunk = 4;
inline constexpr int kUpdateBlockElements = static_cast<int>(UpdateTable::kChunkElements) / kBlocksPerChunk;

/// The elements of one tensor that a block works on: pointers to the first of them.
template <class T>
struct UpdateBlock {
  T* parameter;
  const T* gradient;
  T* moment1;  // null: none
  T* moment2;
  int elements;

  /// Whether all arrays allow vectors of 16 bytes. Null does.
  WEFT_DEVICE bool is_aligned() const {
    return (reinterpret_cast<std::uintptr_t>(parameter) | reinterpret_cast<std::uintptr_t>(gradient) |
            reinterpret_cast<std::uintptr_t>(moment1) | reinterpret_cast<std::uintptr_t>(moment2)) %
               16 ==
           0;
  }
};

/// Calls f(block, entry) with an UpdateBlock<float> or <double>; not at all for a block past the end of a short chunk.
/// All threads of the block take the same way.
template <class F>
WEFT_DEVICE void with_update_block(const DeviceTable& table, F&& f) {
  const std::int64_t number = static_cast<std::int64_t>(blockIdx.x);
  const UpdateChunk* const chunk = table.chunks + number / kBlocksPerChunk;
  const std::int64_t begin = load_one<Cache::readonly>(&chunk->begin) + number % kBlocksPerChunk * kUpdateBlockElements;
  const std::int64_t rest = load_one<Cache::readonly>(&chunk->end) - begin;
  if (rest <= 0) return;
  const int elements = rest < kUpdateBlockElements ? static_cast<int>(rest) : kUpdateBlockElements;
  const UpdateEntry* const entry = table.entries + load_one<Cache::readonly>(&chunk->entry);
  void* const parameter = load_one<Cache::readonly>(&entry->parameter);
  const void* const gradient = load_one<Cache::readonly>(&entry->gradient);
  void* const moment1 = load_one<Cache::readonly>(&entry->moment1);
  void* const moment2 = load_one<Cache::readonly>(&entry->moment2);
  const auto call = [&]<class T>(T) {
    const auto at = [&](auto* first) { return first != nullptr ? first + begin : first; };
    f(UpdateBlock<T>{at(static_cast<T*>(parameter)), static_cast<const T*>(gradient) + begin,
                     at(static_cast<T*>(moment1)), at(static_cast<T*>(moment2)), elements},
      entry);
  };
  if (load_one<Cache::readonly>(&entry->dtype) == Dtype::f64)
    call(0.0);
  else
    call(0.0f);
}

/// The elements that a thread takes, `kWidth` at a time: at first, first + stride, ... below end.
struct Sweep {
  int first, stride, end;
};

/// Vectors of 16 bytes, as far as the arrays allow them...
template <class T>
WEFT_DEVICE Sweep vector_sweep(const UpdateBlock<T>& block) {
  constexpr int kWidth = kVectorWidth<T>;
  return {static_cast<int>(threadIdx.x) * kWidth, kUpdateThreads * kWidth,
          block.is_aligned() ? block.elements / kWidth * kWidth : 0};
}
/// ... and the rest, one by one.
template <class T>
WEFT_DEVICE Sweep element_sweep(const UpdateBlock<T>& block, const Sweep& vectors) {
  return {vectors.end + static_cast<int>(threadIdx.x), kUpdateThreads, block.elements};
}

/// Whether the update is made.
WEFT_DEVICE bool may_apply(const StepState* state, const DeviceStatus* status) {
  return load_one(&state->apply) != 0 && !is_set(status);
}

/// Blocks of a launch over the table.
inline Extent update_grid(const DeviceTable& table) { return {table.chunk_count * kBlocksPerChunk}; }

inline Operand entries_operand(const DeviceTable& table) {
  return {"entries", table.entries, table.entry_count * static_cast<std::int64_t>(sizeof(UpdateEntry)),
          OperandKind::broadcast};
}
inline Operand chunks_operand(const DeviceTable& table) {
  return {"chunks", table.chunks, table.chunk_count * static_cast<std::int64_t>(sizeof(UpdateChunk)),
          OperandKind::broadcast};
}
inline Operand state_operand(const StepState* state) {
  return {"state", state, static_cast<std::int64_t>(sizeof(StepState)), OperandKind::broadcast};
}

}  // namespace weft::kernels::WEFT_BACKEND
