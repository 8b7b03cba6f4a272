#pragma once
#include "kernels/common/contract.h"

namespace weft::kernels {

enum class LinearActivation : std::uint8_t { none, relu };

/// y[r,n] = act(sum_k x[r,k] weight[n,k] + bias[n]).
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
};
void linear_forward(Device device, const LinearForward& args);

/// dx[r,k] = sum_n dz[r,n] weight[n,k]. Overwrites dx, which overlaps nothing. 2·R·K·N flop.
struct LinearBackwardInput {
  Dtype dtype;
  const void* dz;      // in,  [R, N], gradient before the activation
  const void* weight;  // in,  [N, K]
  void* dx;            // out, [R, K]
  std::int64_t rows;
  std::int64_t in;
  std::int64_t out;
};
void linear_backward_input(Device device, const LinearBackwardInput& args);

/// dweight[n,k] (=|+=) sum_r dz[r,n] x[r,k]. 2·R·K·N flop.
struct LinearBackwardWeight {
  Dtype dtype;
  const void* dz;  // in,  [R, N]
  const void* x;   // in,  [R, K]
  void* dweight;   // out or inout, [N, K]
  std::int64_t rows;
  std::int64_t in;
  std::int64_t out;
  Accumulate mode;
};
void linear_backward_weight(Device device, const LinearBackwardWeight& args);

/// dbias[n] (=|+=) sum_r dz[r,n]. Moves: reads R·N elements once.
struct LinearBackwardBias {
  Dtype dtype;
  const void* dz;  // in,  [R, N]
  void* dbias;     // out or inout, [N]
  std::int64_t rows;
  std::int64_t out;
  Accumulate mode;
};
void linear_backward_bias(Device device, const LinearBackwardBias& args);

}  // namespace weft::kernels
