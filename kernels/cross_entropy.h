#pragma once
// Softmax cross-entropy of [R, V] logits with the gradient from the same read. Formula: autograd/cross_entropy.h.
#include <cstdint>

#include "kernels/common/contract.h"
#include "tensor/status.h"

namespace weft::kernels {

/// For every row r that counts (mask[r] is not 0 and targets[r] is not ignore_index):
///   sum += log(sum_v exp(x[r,v])) - x[r,target],  gradient[r,v] = softmax(x[r])[v] - (v == target),
/// for the others nothing and a row of zeros; their logits are not read.
/// Traffic: reads R·V elements (of rows that count) + 9R bytes, writes R·V elements when a gradient is asked for. On a
/// GPU a row that does not fit in a block's shared memory is read twice when a gradient is asked for.
/// Errors: Error "[cross_entropy] target 12 at row 5 is outside [0, 10) ..." for the first such row that counts, before
/// anything is written. On a GPU it goes to the status word, and such rows are treated as rows that do not count.
struct CrossEntropyForward {
  Dtype dtype;           // of logits and gradient
  std::int64_t rows;     // R, 0 allowed
  std::int64_t classes;  // V >= 1
  std::int64_t ignore_index;
  const void* logits;              // in,  [R, V]
  const std::int64_t* targets;     // in,  [R]
  const std::uint8_t* mask;        // in,  [R], 0: does not count; null: all count
  void* gradient;                  // out, [R, V], `=`; not logits; null when not wanted
  double* sum;                     // out, [], `=`
  double* denominator;             // out, [], `=`: the number of rows that count
  double* partials;                // workspace, cross_entropy_partials(...) elements; may be sum itself when that is 1
  DeviceStatus* status = nullptr;  // inout, the device's status word; null on the cpu
};
void cross_entropy_forward(Device device, const CrossEntropyForward& args);
WEFT_GPU_OP(cross_entropy_forward, CrossEntropyForward)

/// Elements of the workspace. cpu: one sum per chunk of rows, at least 1; GPU: three numbers per block.
std::int64_t cross_entropy_partials(Device device, std::int64_t rows, std::int64_t classes);

/// Blocks of a GPU's forward at the most; each takes as many rows as that needs.
inline constexpr std::int64_t kCrossEntropyBlocks = 2048;

/// dlogits = gradient * scale. Traffic: reads and writes `count` elements.
struct CrossEntropyBackward {
  Dtype dtype;  // of gradient and dlogits
  std::int64_t count;
  const void* gradient;  // in,  [count], from forward
  const double* scale;   // in,  []
  void* dlogits;         // out, [count], `=`; may be gradient itself
};
void cross_entropy_backward(Device device, const CrossEntropyBackward& args);
WEFT_GPU_OP(cross_entropy_backward, CrossEntropyBackward)

}  // namespace weft::kernels
