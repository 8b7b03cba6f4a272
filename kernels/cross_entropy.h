#pragma once
// Softmax cross-entropy of [R, V] logits with the gradient from the same read. Formula: autograd/cross_entropy.h.
#include <cstdint>

#include "kernels/common/contract.h"
#include "tensor/status.h"

namespace weft::kernels {

/// For every row r that counts (mask[r] and token_weights[r] are not 0 and targets[r] is not ignore_index), with
/// t = token_weights[r], w = class_weights (1 where null), L = log(sum_v exp(x[r,v])), and the mass that the target
/// puts on class v:
///   labels:         a[v] = (1 - label_smoothing) w[target] (v == target) + label_smoothing / V w[v]
///   probabilities:  a[v] = w[v] ((1 - label_smoothing) p[r,v] + label_smoothing / V)
///   sum += t (sum_v a[v] (L - x[r,v]) + z_loss L²)
///   gradient[r,v] = t ((sum_u a[u] + 2 z_loss L) softmax(x[r])[v] - a[v])
///   denominator += t w[target] (labels), t (probabilities)
/// A class with a[v] == 0 adds nothing, even where x[r,v] is -inf. For the other rows, and for those whose weights
/// leave nothing (w[target] == 0 without smoothing and z-loss), nothing and a row of zeros; their logits are not read.
/// Traffic: reads R·V elements (of rows that count) + 9R bytes, writes R·V elements when a gradient is asked for. On a
/// GPU a row that does not fit in a block's shared memory is read twice when a gradient is asked for. Probabilities are
/// read twice with a gradient (the second read finds the row in a cache), token weights add 4R bytes.
/// Errors: Error "[cross_entropy] target 12 at row 5 is outside [0, 10) ..." for the first such row that counts, before
/// anything is written. On a GPU it goes to the status word, and such rows are treated as rows that do not count.
struct CrossEntropyForward {
  Dtype dtype;           // of logits, probabilities and gradient
  std::int64_t rows;     // R, 0 allowed
  std::int64_t classes;  // V >= 1
  std::int64_t ignore_index;
  const void* logits;              // in,  [R, V]
  const std::int64_t* targets;     // in,  [R]; null with probabilities
  const std::uint8_t* mask;        // in,  [R], 0: does not count; null: all count
  void* gradient;                  // out, [R, V], `=`; not logits; null when not wanted
  double* sum;                     // out, [], `=`
  double* denominator;             // out, [], `=`: the number of rows that count, or their weight
  double* partials;                // workspace, cross_entropy_partials(...) elements; may be sum itself when that is 1
  DeviceStatus* status = nullptr;  // inout, the device's status word; null on the cpu
  const void* probabilities = nullptr;   // in,  [R, V]; null: labels
  const void* class_weights = nullptr;   // in,  [V], f32 (f64 for f64), >= 0; null: 1
  const float* token_weights = nullptr;  // in,  [R], 0: does not count; null: 1
  double label_smoothing = 0;            // [0, 1]
  double z_loss = 0;                     // >= 0
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
