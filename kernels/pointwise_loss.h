#pragma once
// Losses that are a sum over elements, with their gradients from the same read. Formulas: autograd/pointwise_loss.h.
#include <cstdint>
#include <limits>

#include "kernels/common/contract.h"

namespace weft::kernels {

enum class PointwiseLossOp : std::uint8_t { squared, absolute, huber, smooth_l1, bce_with_logits };

/// An operand of fewer elements than the loss has: element i of the loss meets data[i / divide % modulo]. divide 1 and
/// modulo `count`: as many; divide 1: it fills the last dimensions; modulo 1: one for all.
struct SpreadOperand {
  const void* data = nullptr;  // in, [modulo]; null: 1 for all
  std::int64_t divide = 1;
  std::int64_t modulo = std::numeric_limits<std::int64_t>::max();
};

/// For every element i that counts (mask and weight are not 0), with w its weight and f the loss of op:
///   sum += w f(input, target),  denominator += w,  dinput = w df/dinput,  dtarget = w df/dtarget
/// for the others nothing and a gradient of 0, whatever input and target hold. Terms are added in f64, in an order that
/// `count` fixes alone.
/// Traffic: reads input and target, and weight, mask and pos_weight as far as they are full; writes the gradients asked
/// for, once each. On a GPU in 16-byte vectors where input, target and gradients are aligned to them.
struct PointwiseLoss {
  PointwiseLossOp op;
  Dtype dtype;  // of all but mask and sums
  std::int64_t count;
  double parameter;    // huber: delta > 0; smooth_l1: beta >= 0
  const void* input;   // in,  [count]
  const void* target;  // in,  [count]
  SpreadOperand weight;
  SpreadOperand mask;        // u8
  SpreadOperand pos_weight;  // bce_with_logits alone
  void* dinput;              // out, [count], `=`; may be input; null when not wanted
  void* dtarget;             // out, [count], `=`; may be target; null when not wanted
  double* sum;               // out, [], `=`
  double* denominator;       // out, [], `=`
  double* partials;          // workspace, pointwise_loss_partials(...) elements
};
void pointwise_loss(Device device, const PointwiseLoss& args);
WEFT_GPU_OP(pointwise_loss, PointwiseLoss)

/// Elements of the workspace: two sums for each chunk (cpu) or block (GPU), at least two.
std::int64_t pointwise_loss_partials(Device device, std::int64_t count);

/// Blocks of a GPU's launch at the most.
inline constexpr std::int64_t kPointwiseLossBlocks = 1024;

}  // namespace weft::kernels
