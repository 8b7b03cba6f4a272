#pragma once
// The scalars of an optimizer's update. They live in device memory, where the kernels read and write them: an update
// needs no word from the host, neither to learn the denominator nor to decide that a gradient is unusable.
#include <cstdint>
#include <type_traits>

namespace weft::kernels {

/// One per optimizer. grad_norm fills it for an update; the optimizer's kernel reads it. Every field has eight bytes,
/// so that the whole can lie in an i64 tensor and its counters be a slice of that tensor.
struct StepState {
  // Set by the host when it changes:
  double lr = 0;
  // Of the last update:
  double sum_of_squares = 0;  // of the gradients as accumulated, not yet divided
  double denominator = 1;     // what they are divided by
  double norm = 0;            // sqrt(sum_of_squares) / |denominator|: after scaling, before clipping
  double scale = 1;           // clip coefficient / denominator: what each gradient element is multiplied by
  std::int64_t apply = 0;     // 1: the update is made; 0: parameters, moments and their counts stay as they are
  // Counters since the start:
  std::int64_t updates = 0;                   // asked for
  std::int64_t applied = 0;                   // made
  std::int64_t skipped_zero_denominator = 0;  // nothing was counted: all targets masked
  std::int64_t skipped_not_finite = 0;        // NaN or infinity in a gradient or in the denominator
  std::int64_t skipped_in_a_row = 0;          // up to and including the last update
};

inline constexpr std::int64_t kStepStateWords = sizeof(StepState) / 8;
inline constexpr std::int64_t kStepStateFirstCounter = 6;  // index of `updates` among the words
static_assert(std::is_trivially_copyable_v<StepState> && sizeof(StepState) == 11 * 8);

}  // namespace weft::kernels
