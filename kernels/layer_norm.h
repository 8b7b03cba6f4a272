#pragma once
// Layer normalisation of the rows of an [R, C] matrix. The formula and its source: autograd/layer_norm.h.
#include <cstdint>

#include "kernels/common/contract.h"

namespace weft::kernels {

/// y = (x - mean) * rstd * gamma + beta, row by row. "Statistics type" is f32, or f64 for f64.
/// Traffic: reads R·C, writes R·C elements (+ 8R bytes). cpu: a row is read from memory once and twice more from the
///          cache; GPU: it stays on chip up to 96 KiB (longer ones are read again, 3·R·C in all).
struct LayerNormForward {
  Dtype dtype;            // of x, gamma, beta and y
  std::int64_t rows;      // R, 0 allowed
  std::int64_t channels;  // C >= 1
  double eps;             // added to the variance
  const void* x;          // in,  [R, C]
  const void* gamma;      // in,  [C], null for 1
  const void* beta;       // in,  [C], null for 0
  void* y;                // out, [R, C], `=`; may be x itself
  void* mean;             // out, [R] in the statistics type, `=`; null when not wanted
  void* rstd;             // out, [R] in the statistics type, `=`; null when not wanted
};
void layer_norm_forward(Device device, const LayerNormForward& args);
WEFT_GPU_OP(layer_norm_forward, LayerNormForward)

/// With g = dy * gamma and xhat = (x - mean) * rstd:
///   dx = rstd * (g - mean_c(g) - xhat * mean_c(g * xhat)),  dgamma = sum_r dy * xhat,  dbeta = sum_r dy.
/// Traffic: reads 2·R·C, writes R·C elements (+ 8R bytes and the partial sums, 2·P·C written and read). GPU, for
///          C > 16384 (8192 of f64, and where rows do not start on 16 bytes): reads 4·R·C.
struct LayerNormBackward {
  Dtype dtype;            // of all but mean, rstd and partials
  std::int64_t rows;      // R, 0 allowed
  std::int64_t channels;  // C >= 1
  const void* x;          // in,  [R, C]
  const void* gamma;      // in,  [C], null for 1
  const void* dy;         // in,  [R, C]
  const void* mean;       // in,  [R] in the statistics type
  const void* rstd;       // in,  [R] in the statistics type
  void* dx;               // out, [R, C], `=`; may be dy itself (not x); null when not wanted
  void* dgamma;           // out or inout, [C], by dgamma_mode; null when not wanted
  void* dbeta;            // out or inout, [C], by dbeta_mode; null when not wanted
  Accumulate dgamma_mode;
  Accumulate dbeta_mode;
  void* partials;  // workspace, layer_norm_partials(R, C, device) elements of the statistics type, 16-byte aligned;
                   // null on the cpu when neither dgamma nor dbeta is wanted
};
void layer_norm_backward(Device device, const LayerNormBackward& args);
WEFT_GPU_OP(layer_norm_backward, LayerNormBackward)

/// Elements of the workspace: two rows of C sums for every chunk of rows; on a GPU for every one of P blocks, and three
/// numbers for every row.
std::int64_t layer_norm_partials(std::int64_t rows, std::int64_t channels, Device device);

}  // namespace weft::kernels
