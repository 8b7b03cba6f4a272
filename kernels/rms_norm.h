#pragma once
// Root-mean-square normalisation of the rows of an [R, C] matrix. The formula and its source: autograd/rms_norm.h.
#include <cstdint>

#include "kernels/common/contract.h"

namespace weft::kernels {

/// y = x * rrms * gamma, row by row, rrms = 1 / sqrt(mean of x² + eps). "Statistics type" is f32, or f64 for f64.
/// Traffic: reads R·C, writes R·C elements (+ 4R bytes). cpu: a row is read from memory once and once more from the
///          cache; GPU: it stays on chip up to 96 KiB (longer ones are read again, 3·R·C in all).
struct RmsNormForward {
  Dtype dtype;            // of x, gamma and y
  std::int64_t rows;      // R, 0 allowed
  std::int64_t channels;  // C >= 1
  double eps;             // added to the mean of the squares
  const void* x;          // in,  [R, C]
  const void* gamma;      // in,  [C], null for 1
  void* y;                // out, [R, C], `=`; may be x itself
  void* rrms;             // out, [R] in the statistics type, `=`; null when not wanted
};
void rms_norm_forward(Device device, const RmsNormForward& args);
WEFT_GPU_OP(rms_norm_forward, RmsNormForward)

/// With g = dy * gamma and xhat = x * rrms: dx = rrms * (g - xhat * mean_c(g * xhat)),  dgamma = sum_r dy * xhat.
/// Traffic: reads 2·R·C, writes R·C elements (+ 4R bytes and the partial sums, P·C written and read). GPU, for
///          C > 16384 (8192 of f64, and where rows do not start on 16 bytes): reads 4·R·C.
struct RmsNormBackward {
  Dtype dtype;            // of all but rrms and partials
  std::int64_t rows;      // R, 0 allowed
  std::int64_t channels;  // C >= 1
  const void* x;          // in,  [R, C]
  const void* gamma;      // in,  [C], null for 1
  const void* dy;         // in,  [R, C]
  const void* rrms;       // in,  [R] in the statistics type
  void* dx;               // out, [R, C], `=`; may be dy itself (not x); null when not wanted
  void* dgamma;           // out or inout, [C], by dgamma_mode; null when not wanted
  Accumulate dgamma_mode;
  void* partials;  // workspace, rms_norm_partials(R, C, device) elements of the statistics type, 16-byte aligned;
                   // null on the cpu when dgamma is not wanted
};
void rms_norm_backward(Device device, const RmsNormBackward& args);
WEFT_GPU_OP(rms_norm_backward, RmsNormBackward)

/// Elements of the workspace: a row of C sums for every chunk of rows; on a GPU for every one of P blocks, and a number
/// for every row.
std::int64_t rms_norm_partials(std::int64_t rows, std::int64_t channels, Device device);

}  // namespace weft::kernels
