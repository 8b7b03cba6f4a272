#pragma once
// The places before each place, side by side, never across a segment. Formulas: autograd/causal_window.h.
#include <cstdint>

#include "kernels/common/contract.h"

namespace weft::kernels {

/// out[n, k·C + c] = in[n - (W - 1 - k), c] where that place is in the segment of n, else 0;  k in [0, W)
/// Aliasing: out overlaps nothing.
/// Traffic:  reads N·C, writes W·N·C elements; reads 4N + 4(S + 1) bytes of the table.
struct CausalWindowForward {
  Dtype dtype;                     // any
  std::int64_t places;             // N
  std::int64_t channels;           // C
  std::int64_t width;              // W >= 1
  std::int64_t segments;           // S
  const std::int32_t* cu_seqlens;  // in,  [S + 1], from 0 to N, increasing
  const std::int32_t* ids;         // in,  [N], the segment of each place
  const void* in;                  // in,  [N, C]
  void* out;                       // out, [N, W·C], `=`
};
void causal_window_forward(Device device, const CausalWindowForward& args);
WEFT_GPU_OP(causal_window_forward, CausalWindowForward)

/// dx[m, c] (`=` or `+=`) sum over j in [0, W) with place m + j in the segment of m, ascending, of
///   dy[m + j, (W - 1 - j)·C + c]; f32 sums (f64 for f64), rounded once.
/// Aliasing: dx overlaps nothing.
/// Traffic:  reads W·N·C elements (fewer: not those that stand for a 0), writes N·C (`+=`: reads them too); reads 4N +
///           4(S + 1) bytes of the table.
struct CausalWindowBackward {
  Dtype dtype;  // floating
  Accumulate mode;
  std::int64_t places;             // N
  std::int64_t channels;           // C
  std::int64_t width;              // W >= 1
  std::int64_t segments;           // S
  const std::int32_t* cu_seqlens;  // in,  [S + 1]
  const std::int32_t* ids;         // in,  [N]
  const void* dy;                  // in,  [N, W·C]
  void* dx;                        // inout, [N, C]
};
void causal_window_backward(Device device, const CausalWindowBackward& args);
WEFT_GPU_OP(causal_window_backward, CausalWindowBackward)

}  // namespace weft::kernels
