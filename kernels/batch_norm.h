#pragma once
// Batch normalisation of the columns of an [R, C] matrix (batch_norm), and of the channels of [N, C, P], whose planes of P
// elements lie side by side (batch_norm_nchw). The formula and its source: autograd/batch_norm.h.
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

/// batch_norm_forward for x [N, C, P]: statistics of each channel over its N·P elements.
/// Traffic: reads 2·N·C·P elements, N·C·P in eval, writes N·C·P (+ three numbers for every 2048 elements of a channel). On
///          the cpu a channel of up to 256 KiB is read from memory once and twice more from the cache.
struct BatchNormNchwForward {
  Dtype dtype;  // of x, gamma, beta and y
  BatchNormMode mode;
  std::int64_t batch;     // N; N·P >= 2 in training
  std::int64_t channels;  // C >= 1
  std::int64_t spatial;   // P >= 1
  double eps;             // added to the variance
  double momentum;        // weight of the new value in the running statistics
  const void* x;          // in,    [N, C, P]
  const void* gamma;      // in,    [C], null for 1
  const void* beta;       // in,    [C], null for 0
  void* y;                // out,   [N, C, P], `=`; may be x itself
  void* running_mean;     // inout, [C] in the statistics type; only read in eval; may be null in training
  void* running_var;      // inout, [C] in the statistics type; only read in eval; may be null in training
  void* mean;             // out,   [C] in the statistics type, `=`: the one that was used; null when not wanted
  void* rstd;             // out,   [C] in the statistics type, `=`: the one that was used; null when not wanted
  void* partials;         // workspace, batch_norm_nchw_partials(N, C, P) elements of the statistics type
};
void batch_norm_nchw_forward(Device device, const BatchNormNchwForward& args);
WEFT_GPU_OP(batch_norm_nchw_forward, BatchNormNchwForward)

/// batch_norm_backward for x [N, C, P], with R = N·P.
/// Traffic: reads 4·N·C·P elements, writes N·C·P (+ three numbers for every 2048 elements of a channel); in eval reads
///          3·N·C·P, or N·C·P when neither dgamma nor dbeta is wanted. On the cpu x and dy of a channel of up to 256 KiB
///          each are read from memory once.
struct BatchNormNchwBackward {
  Dtype dtype;            // of all but mean, rstd and partials
  BatchNormMode mode;     // as in forward
  std::int64_t batch;     // N
  std::int64_t channels;  // C >= 1
  std::int64_t spatial;   // P >= 1
  const void* x;          // in,  [N, C, P]
  const void* gamma;      // in,  [C], null for 1
  const void* dy;         // in,  [N, C, P]
  const void* mean;       // in,  [C] in the statistics type, from forward
  const void* rstd;       // in,  [C] in the statistics type, from forward
  void* dx;               // out, [N, C, P], `=`; may be dy itself (not x); null when not wanted
  void* dgamma;           // out or inout, [C], by dgamma_mode; null when not wanted
  void* dbeta;            // out or inout, [C], by dbeta_mode; null when not wanted
  Accumulate dgamma_mode;
  Accumulate dbeta_mode;
  void* partials;  // workspace, batch_norm_nchw_partials(N, C, P) elements of the statistics type
};
void batch_norm_nchw_backward(Device device, const BatchNormNchwBackward& args);
WEFT_GPU_OP(batch_norm_nchw_backward, BatchNormNchwBackward)

/// How the elements of a channel are cut into chunks, by the shape alone, so that every device cuts alike: as many whole
/// planes as make up at most kElems elements; of larger planes pieces of kElems.
struct BatchNormPlanes {
  static constexpr std::int64_t kElems = 2048;
  constexpr BatchNormPlanes(std::int64_t batch, std::int64_t channels, std::int64_t spatial)
      : batch(batch),
        channels(channels),
        spatial(spatial),
        samples(spatial < kElems ? kElems / spatial : 1),
        pieces((spatial + kElems - 1) / kElems),
        chunks((batch + samples - 1) / samples * pieces) {}
  constexpr std::int64_t row_elems() const { return batch * spatial; }
  std::int64_t batch, channels, spatial;
  std::int64_t samples;  // of a chunk
  std::int64_t pieces;   // of a plane
  std::int64_t chunks;   // of a channel
};
/// Elements of the workspace: three numbers for every channel, three for every chunk.
constexpr std::int64_t batch_norm_nchw_partials(std::int64_t batch, std::int64_t channels, std::int64_t spatial) {
  return 3 * channels * (1 + BatchNormPlanes(batch, channels, spatial).chunks);
}

}  // namespace weft::kernels
