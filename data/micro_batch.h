#pragma once
// What goes through the model at once: the rows of a micro-batch and all that operations may ask about them.
#include <cstdint>

#include "autograd/step_context.h"
#include "tensor/segments.h"
#include "tensor/tensor.h"

namespace weft::data {

/// A part of an update that goes through the model at once.
struct MicroBatch {
  Tensor input;            // [B, ...]; sequences: i64 [B, T] token ids (padding: id 0, never to be told by its value)
  Tensor target;           // [B, ...]; sequences: i64 [B, T], -100 where there is no label
  Tensor weight;           // f32, of target's shape: the weight of each label; undefined where all weigh 1
  Tensor sample_ids;       // i64 [B], or [B, T] where rows hold several samples: the data set's id of each
  Tensor positions;        // i64 [B, T], position of each token in its sample; undefined where rows are whole samples
  Segments segments;       // of the B*T places of packed or padded sequences; undefined where rows are whole samples
  std::int64_t index = 0;  // [0, K) within the update
  Tensor update;           // i64 []: the update's number
  std::uint64_t seed = 0;

  /// Opens the StepContext that keys this micro-batch's randomness: by seed, update, sample ids and positions, so that no
  /// mask depends on how the update was cut.
  StepScope scope() const;
};

}  // namespace weft::data
