#pragma once
// A matrix product on a GPU: its operands, and how it is cut into blocks. The cut depends on the shape alone, never on
// the GPU, so that a sum has the same order, and the result the same bits, on every one of them.
#include <algorithm>
#include <cstdint>

#include "kernels/common/contract.h"

namespace weft::kernels {

/// Which index of an operand, k or the other one (m of A, n of B), has its elements side by side in memory.
enum class Contiguous : std::uint8_t { k, outer };

/// Where the matrices of a batch begin. The results lie behind each other; an operand's step is 0 along a dimension over
/// which it is shared.
struct MatmulBatch {
  static constexpr int kMostDims = 6;
  std::int64_t count = 1;                                 // matrices of C: the product of the extents
  int dims = 0;                                           // 0: one product
  std::int64_t extent[kMostDims]{};                       // the last one runs fastest
  std::int64_t a_step[kMostDims]{}, b_step[kMostDims]{};  // elements
};

/// C[m,n] = sum_k A(m,k) B(k,n), all of one dtype; C (=|+=), then bias and relu.
/// A lies in memory as [M, K] or [K, M], B as [N, K] or [K, N], by their Contiguous. C overlaps nothing.
struct Matmul {
  std::int64_t m, n, k;        // 0 allowed
  const void* a;               // in
  const void* b;               // in
  void* c;                     // out or inout, [M, N]
  const void* bias = nullptr;  // in, [N] or null; not with Accumulate::add
  bool relu = false;           // not with Accumulate::add
  Accumulate mode = Accumulate::overwrite;
  void* sums = nullptr;  // out or inout, [M] or null: the sums of A over k; for Contiguous::outer only
  Accumulate sums_mode = Accumulate::overwrite;
  void* partial = nullptr;            // workspace, [chunks, batch, M, N] and, with sums, [chunks, M], in compute type
  std::int64_t a_row = 0, b_row = 0;  // elements between an operand's rows in memory; 0: its rows have no gaps
  MatmulBatch batch = {};             // of more than one product only without sums
  std::int64_t batch_first = 0;       // of the matrices of C, the one that blockIdx.y = 0 computes
};

/// Elements between the rows of an operand as it lies in memory.
inline std::int64_t a_row_elems(const Matmul& args, Contiguous a) {
  return args.a_row != 0 ? args.a_row : a == Contiguous::k ? args.k : args.m;
}
inline std::int64_t b_row_elems(const Matmul& args, Contiguous b) {
  return args.b_row != 0 ? args.b_row : b == Contiguous::k ? args.k : args.n;
}

/// A grid of tiles of C, each cut along k into equal chunks (but for the last). More chunks than one leave partial
/// sums, which a second kernel adds in order.
struct MatmulPlan {
  std::int64_t tiles_m, tiles_n;
  std::int64_t chunk;   // k's of a chunk, a multiple of kMatmulChunkUnit
  std::int64_t chunks;  // >= 1, also for K = 0
};

inline constexpr std::int64_t kMatmulChunkUnit = 32;      // a multiple of every tile's depth
inline constexpr std::int64_t kMatmulWantedBlocks = 256;  // about two for each multiprocessor of the larger GPUs
inline constexpr std::int64_t kMatmulMostChunks = 128;    // what the second kernel adds up for one element

/// As many chunks as bring the grid of all of a batch's products near kMatmulWantedBlocks, none shorter than `least_chunk`.
inline MatmulPlan matmul_plan(std::int64_t tile_m, std::int64_t tile_n, std::int64_t least_chunk, std::int64_t m,
                              std::int64_t n, std::int64_t k, std::int64_t batch = 1) {
  const auto parts = [](std::int64_t whole, std::int64_t part) { return (whole + part - 1) / part; };
  MatmulPlan plan{parts(m, tile_m), parts(n, tile_n), 0, 1};
  const std::int64_t tiles = std::max<std::int64_t>(plan.tiles_m * plan.tiles_n * batch, 1);
  const std::int64_t most = std::clamp<std::int64_t>(k / least_chunk, 1, kMatmulMostChunks);
  const std::int64_t wanted = std::clamp<std::int64_t>(kMatmulWantedBlocks / tiles, 1, most);
  plan.chunk = std::max(parts(parts(k, wanted), kMatmulChunkUnit), std::int64_t{1}) * kMatmulChunkUnit;
  plan.chunks = std::max<std::int64_t>(parts(k, plan.chunk), 1);
  return plan;
}

/// Bytes of the partial sums of `elements` results; 0 for a single chunk.
inline std::int64_t partial_bytes(const MatmulPlan& plan, std::int64_t elements, Dtype dtype) {
  return plan.chunks == 1 ? 0 : plan.chunks * elements * (dtype == Dtype::f64 ? 8 : 4);
}

}  // namespace weft::kernels
