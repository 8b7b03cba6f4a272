#pragma once
// The products of y = act(x W^T + b) and of its backward. Products are summed in f32 (f64 for f64) and rounded once.
// On a GPU, the traffic below is the least: a product of several tiles reads its first operand once for every 64 or
// 128 columns of the result, and the second once for every 64 or 128 rows, mostly from the L2. A product with few
// tiles and a long sum leaves partial sums in the workspace, whose size follows from the shape alone.
#include "kernels/common/contract.h"

namespace weft::kernels {

enum class LinearActivation : std::uint8_t { none, relu };

/// y[r,n] = act(sum_k x[r,k] weight[n,k] + bias[n]). K = 0 gives act(bias), or 0.
/// Aliasing: y overlaps nothing. Moves: R·K + N·K + R·N elements at the least; 2·R·K·N flop.
struct LinearForward {
  Dtype dtype;
  const void* x;       // in,  [R, K]
  const void* weight;  // in,  [N, K]
  const void* bias;    // in,  [N] or null
  void* y;             // out, [R, N]
  std::int64_t rows;   // R, 0 allowed
  std::int64_t in;     // K
  std::int64_t out;    // N
  LinearActivation activation;
  void* workspace;  // linear_forward_workspace() bytes, 16-byte aligned; null when that is 0
};
void linear_forward(Device device, const LinearForward& args);
std::int64_t linear_forward_workspace(Device device, Dtype dtype, std::int64_t rows, std::int64_t in, std::int64_t out);
WEFT_GPU_OP(linear_forward, LinearForward)

/// dx[r,k] = sum_n dz[r,n] weight[n,k]. Overwrites dx.
/// Aliasing: dx overlaps nothing. Moves: R·N + N·K + R·K elements at the least; 2·R·K·N flop.
struct LinearBackwardInput {
  Dtype dtype;
  const void* dz;      // in,  [R, N], gradient before the activation
  const void* weight;  // in,  [N, K]
  void* dx;            // out, [R, K]
  std::int64_t rows;
  std::int64_t in;
  std::int64_t out;
  void* workspace;  // linear_backward_input_workspace() bytes, 16-byte aligned; null when that is 0
};
void linear_backward_input(Device device, const LinearBackwardInput& args);
std::int64_t linear_backward_input_workspace(Device device, Dtype dtype, std::int64_t rows, std::int64_t in,
                                             std::int64_t out);
WEFT_GPU_OP(linear_backward_input, LinearBackwardInput)

/// dweight[n,k] (=|+=) sum_r dz[r,n] x[r,k], and dbias[n] (=|+=) sum_r dz[r,n] from the same reads of dz.
/// Aliasing: the outputs overlap nothing. Moves: R·N + R·K + N·K elements at the least; 2·R·K·N flop.
struct LinearBackwardWeight {
  Dtype dtype;
  const void* dz;  // in,  [R, N]
  const void* x;   // in,  [R, K]
  void* dweight;   // out or inout, [N, K]
  std::int64_t rows;
  std::int64_t in;
  std::int64_t out;
  Accumulate mode;  // of dweight
  void* dbias;      // out or inout, [N], or null
  Accumulate dbias_mode;
  void* workspace;  // linear_backward_weight_workspace() bytes, 16-byte aligned; null when that is 0
};
void linear_backward_weight(Device device, const LinearBackwardWeight& args);
std::int64_t linear_backward_weight_workspace(Device device, Dtype dtype, std::int64_t rows, std::int64_t in,
                                              std::int64_t out);
WEFT_GPU_OP(linear_backward_weight, LinearBackwardWeight)

/// dbias[n] (=|+=) sum_r dz[r,n], for a layer whose weights want no gradient. Moves: reads R·N elements once.
struct LinearBackwardBias {
  Dtype dtype;
  const void* dz;  // in,  [R, N]
  void* dbias;     // out or inout, [N]
  std::int64_t rows;
  std::int64_t out;
  Accumulate mode;
  void* workspace;  // linear_backward_bias_workspace() bytes, 16-byte aligned; null when that is 0
};
void linear_backward_bias(Device device, const LinearBackwardBias& args);
std::int64_t linear_backward_bias_workspace(Device device, Dtype dtype, std::int64_t rows, std::int64_t out);
WEFT_GPU_OP(linear_backward_bias, LinearBackwardBias)

}  // namespace weft::kernels
