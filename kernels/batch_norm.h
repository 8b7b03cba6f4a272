#pragma once
// Batch normalisation of the columns of an [R, C] matrix. The formula and its source: autograd/batch_norm.h.
#include <cstdint>

#include "kernels/common/contract.h"

namespace weft {

/// train: normalise by the batch's statistics and update the running ones; eval: normalise by the running ones.
enum class BatchNormMode : std::uint8_t { train, eval };

}  // namespace weft

namespace weft::kernels {

/// y = (x - mean) * rstd * gamma + beta, column by column. "Statistics type" is f32, or f64 for f64.
/// Traffic: writes R·C elements and reads R·C; in training 2·R·C on the cpu when x is larger than 768 KiB, on a GPU
///          beyond 2048 rows (1024 of f64, and of an x whose rows do not start on 16 bytes).
struct BatchNormForward {
  Dtype dtype;  // of x, gamma, beta and y
  BatchNormMode mode;
  std::int64_t rows;      // R >= 2 in training
  std::int64_t channels;  // C >= 1
  double eps;             // added to the variance
  double momentum;        // weight of the new value in the running statistics
  const void* x;          // in,    [R, C]
  const void* gamma;      // in,    [C], null for 1
  const void* beta;       // in,    [C], null for 0
  void* y;                // out,   [R, C], `=`; may be x itself
  void* running_mean;     // inout, [C] in the statistics type; only read in eval; may be null in training
  void* running_var;      // inout, [C] in the statistics type; only read in eval; may be null in training
  void* mean;             // out,   [C] in the statistics type, `=`: the one that was used; null when not wanted
  void* rstd;             // out,   [C] in the statistics type, `=`: the one that was used; null when not wanted
  void* partials;  // workspace, batch_norm_partials(R, C, device) elements of the statistics type, 16-byte aligned
};
void batch_norm_forward(Device device, const BatchNormForward& args);
WEFT_GPU_OP(batch_norm_forward, BatchNormForward)

/// With xhat = (x - mean) * rstd:
///   dgamma = sum_r dy * xhat,  dbeta = sum_r dy,
///   train: dx = gamma * rstd * (dy - dbeta / R - xhat * dgamma / R),  eval: dx = gamma * rstd * dy.
/// Traffic: writes R·C elements and reads 2·R·C; on the cpu 4·R·C when x is larger than 768 KiB, in eval 3·R·C; on a
///          GPU 4·R·C in training beyond 1024 rows (512 where they do not start on 16 bytes), R·C in eval when neither
///          dgamma nor dbeta is wanted.
struct BatchNormBackward {
  Dtype dtype;            // of all but mean, rstd and partials
  BatchNormMode mode;     // as in forward
  std::int64_t rows;      // R
  std::int64_t channels;  // C >= 1
  const void* x;          // in,  [R, C]
  const void* gamma;      // in,  [C], null for 1
  const void* dy;         // in,  [R, C]
  const void* mean;       // in,  [C] in the statistics type, from forward
  const void* rstd;       // in,  [C] in the statistics type, from forward
  void* dx;               // out, [R, C], `=`; may be dy itself (not x); null when not wanted
  void* dgamma;           // out or inout, [C], by dgamma_mode; null when not wanted
  void* dbeta;            // out or inout, [C], by dbeta_mode; null when not wanted
  Accumulate dgamma_mode;
  Accumulate dbeta_mode;
  void* partials;  // workspace, batch_norm_partials(R, C, device) elements of the statistics type, 16-byte aligned
};
void batch_norm_backward(Device device, const BatchNormBackward& args);
WEFT_GPU_OP(batch_norm_backward, BatchNormBackward)

/// Elements of the workspace: three numbers per column for every chunk of rows; on a GPU chunks are of
/// kBatchNormChunkRows rows, and there are three numbers per column more.
std::int64_t batch_norm_partials(std::int64_t rows, std::int64_t channels, Device device);
inline constexpr std::int64_t kBatchNormChunkRows = 512;

}  // namespace weft::kernels
