#pragma once
// Softmax and its logarithm over the rows of an [R, C] matrix. The formulas: autograd/softmax.h.
#include <cstdint>

#include "kernels/common/contract.h"

namespace weft::kernels {

/// y = exp(x - lse), or y = x - lse, with lse = ln sum_c exp(x) of the row; in f32, f64 for f64.
/// A row without a finite maximum, or with a NaN, gives NaN.
/// Traffic: reads R·C, writes R·C elements. cpu: a row is read from memory once and again from the cache; GPU: it stays
///          on chip up to 96 KiB (longer ones are read twice).
struct SoftmaxForward {
  Dtype dtype;            // of x and y
  std::int64_t rows;      // R, 0 allowed
  std::int64_t channels;  // C >= 1
  bool logarithm;         // y = x - lse
  const void* x;          // in,  [R, C]
  void* y;                // out, [R, C], `=`; may be x itself
};
void softmax_forward(Device device, const SoftmaxForward& args);
WEFT_GPU_OP(softmax_forward, SoftmaxForward)

/// dx = y * (dy - sum_c dy * y), or of the logarithm dx = dy - exp(y) * sum_c dy.
/// Traffic: reads 2·R·C, writes R·C elements. GPU, for C beyond 1024 vectors of 16 bytes (1024 elements where rows do
///          not start on 16 bytes): reads 4·R·C.
struct SoftmaxBackward {
  Dtype dtype;            // of all
  std::int64_t rows;      // R, 0 allowed
  std::int64_t channels;  // C >= 1
  bool logarithm;         // as in the forward pass
  const void* y;          // in,  [R, C]
  const void* dy;         // in,  [R, C]
  void* dx;               // out, [R, C], `=`; may be dy or y itself
};
void softmax_backward(Device device, const SoftmaxBackward& args);
WEFT_GPU_OP(softmax_backward, SoftmaxBackward)

}  // namespace weft::kernels
