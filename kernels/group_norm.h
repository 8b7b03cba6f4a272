#pragma once
// Group normalisation of x [N, C, S]: S the product of the spatial extents, G groups of D = C / G channels, so that sample
// n's group g is a row of D·S elements side by side. The formula and its source: autograd/group_norm.h.
#include <cstdint>

#include "kernels/common/contract.h"

namespace weft::kernels {

/// The extents; C a multiple of G.
struct GroupNormShape {
  std::int64_t batch;                                                  // N, 0 allowed
  std::int64_t channels;                                               // C >= 1
  std::int64_t groups;                                                 // G >= 1
  std::int64_t spatial;                                                // S >= 1
  constexpr std::int64_t rows() const { return batch * groups; }       // R
  constexpr std::int64_t planes() const { return channels / groups; }  // D
  constexpr std::int64_t row_elems() const { return planes() * spatial; }
};

/// y = (x - mean) * rstd * gamma + beta, with the mean and variance of each group. "Statistics type" is f32, or f64 for
/// f64.
/// Traffic: reads N·C·S, writes N·C·S elements (+ 8R bytes). cpu: a group of up to 256 KiB is read from memory once and
///          twice more from the cache; GPU: it stays on chip up to 96 KiB. Larger groups are cut over several blocks
///          (chunks of the thread pool on the cpu) and read twice (three times).
struct GroupNormForward {
  Dtype dtype;  // of x, gamma, beta and y
  GroupNormShape shape;
  double eps;         // added to the variance
  const void* x;      // in,  [N, C, S]
  const void* gamma;  // in,  [C], null for 1
  const void* beta;   // in,  [C], null for 0
  void* y;            // out, [N, C, S], `=`; may be x itself
  void* mean;         // out, [N, G] in the statistics type, `=`; null when not wanted
  void* rstd;         // out, [N, G] in the statistics type, `=`; null when not wanted
  void* partials;     // workspace, group_norm_forward_partials(...) elements of the statistics type; null for 0 of them
};
void group_norm_forward(Device device, const GroupNormForward& args);
WEFT_GPU_OP(group_norm_forward, GroupNormForward)

/// With g = dy * gamma, xhat = (x - mean) * rstd, and means over a group:
///   dx = rstd * (g - mean(g) - xhat * mean(g * xhat)),  dgamma = sum_ns dy * xhat,  dbeta = sum_ns dy.
/// Traffic: reads 2·N·C·S, writes N·C·S elements (+ 8R bytes and three sums for every channel of every sample, or for
///          every 1024 of its elements, written and read twice). GPU: where x and dy of a group do not fit 192 KiB
///          together, reads 4·N·C·S.
struct GroupNormBackward {
  Dtype dtype;  // of all but mean, rstd and partials
  GroupNormShape shape;
  const void* x;      // in,  [N, C, S]
  const void* gamma;  // in,  [C], null for 1
  const void* dy;     // in,  [N, C, S]
  const void* mean;   // in,  [N, G] in the statistics type
  const void* rstd;   // in,  [N, G] in the statistics type
  void* dx;           // out, [N, C, S], `=`; may be dy itself (not x); null when not wanted
  void* dgamma;       // out or inout, [C], by dgamma_mode; null when not wanted
  void* dbeta;        // out or inout, [C], by dbeta_mode; null when not wanted
  Accumulate dgamma_mode;
  Accumulate dbeta_mode;
  void* partials;  // workspace, group_norm_backward_partials(shape) elements of the statistics type
};
void group_norm_backward(Device device, const GroupNormBackward& args);
WEFT_GPU_OP(group_norm_backward, GroupNormBackward)

/// Elements of the workspaces. Forward: 0 where every group is small; else three numbers for every group and every part.
std::int64_t group_norm_forward_partials(const GroupNormShape& shape, Dtype dtype, Device device);
/// Three factors for every group, three sums for every unit.
std::int64_t group_norm_backward_partials(const GroupNormShape& shape);

/// The backward pass sums over units: a channel of a sample, or each 1024 elements of it. By the shape alone, so that
/// every device cuts alike.
inline constexpr std::int64_t kGroupNormUnit = 1024;
constexpr std::int64_t group_norm_pieces(const GroupNormShape& shape) {
  return (shape.spatial + kGroupNormUnit - 1) / kGroupNormUnit;
}
/// Elements of a part of a large group in the forward pass: what a GPU's block keeps in registers, read one by one.
inline constexpr std::int64_t kGroupNormPart = 2048;

}  // namespace weft::kernels
