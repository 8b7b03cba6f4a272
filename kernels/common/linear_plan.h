#pragma once
// Which kernel computes which product (of a linear layer, or of a batch) on a GPU, and the workspace that takes. By the
// shape alone.
// The bounds are reasoned from the sizes of the larger GPUs, not measured.
#include <string_view>

#include "kernels/common/matmul_plan.h"

namespace weft::kernels::linear_plan {

inline constexpr std::int64_t kFewRows = 4;         // "rows": the weights are read once for all of them
inline constexpr std::int64_t kNarrow = 16;         // "narrow": outputs
inline constexpr std::int64_t kEnoughBlocks = 128;  // about one for each multiprocessor: below, smaller tiles win

inline MatmulPlan tile_128_plan(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t batch = 1) {
  return matmul_plan(128, 128, 256, m, n, k, batch);
}
inline MatmulPlan tile_64_plan(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t batch = 1) {
  return matmul_plan(64, 64, 128, m, n, k, batch);
}
inline MatmulPlan narrow_n_plan(std::int64_t m, std::int64_t n, std::int64_t k) {
  return matmul_plan(128, kNarrow, 128, m, n, k);
}
inline MatmulPlan narrow_m_plan(std::int64_t m, std::int64_t n, std::int64_t k) {
  return matmul_plan(kNarrow, 128, 128, m, n, k);
}
/// For sums down the columns of a [count, columns] matrix: strips of 32 lanes with 16 bytes each.
inline MatmulPlan columns_plan(Dtype dtype, std::int64_t count, std::int64_t columns) {
  return matmul_plan(1, 32 * 16 / element_bytes(dtype), 64, 1, columns, count);
}

/// "tile_128" where its blocks fill a GPU and the edges waste at most a quarter more than those of 64 x 64; "tile_64".
inline std::string_view square_tile(Dtype dtype, std::int64_t m, std::int64_t n, std::int64_t k,
                                    std::int64_t batch = 1) {
  const MatmulPlan large = tile_128_plan(m, n, k, batch), small = tile_64_plan(m, n, k, batch);
  const bool fills = large.tiles_m * large.tiles_n * large.chunks * batch >= kEnoughBlocks;
  const bool fits = large.tiles_m * large.tiles_n * 4 * 4 <= small.tiles_m * small.tiles_n * 5;
  return dtype != Dtype::f64 && fills && fits ? "tile_128" : "tile_64";
}

// What each op prefers.
inline std::string_view forward_variant(Dtype dtype, std::int64_t rows, std::int64_t in, std::int64_t out) {
  if (rows <= kFewRows) return "rows";
  if (out <= kNarrow) return "narrow";
  return square_tile(dtype, rows, out, in);
}
inline std::string_view backward_input_variant(Dtype dtype, std::int64_t rows, std::int64_t in, std::int64_t out) {
  return rows <= kFewRows ? "rows" : square_tile(dtype, rows, in, out);
}
inline std::string_view backward_weight_variant(Dtype dtype, std::int64_t rows, std::int64_t in, std::int64_t out) {
  return out <= kNarrow ? "narrow" : square_tile(dtype, out, in, rows);
}

/// Enough for every variant, so that any can be run.
inline std::int64_t square_tile_bytes(Dtype dtype, std::int64_t m, std::int64_t n, std::int64_t k,
                                      std::int64_t elements, std::int64_t batch = 1) {
  return std::max(partial_bytes(tile_128_plan(m, n, k, batch), elements, dtype),
                  partial_bytes(tile_64_plan(m, n, k, batch), elements, dtype));
}
inline std::int64_t columns_bytes(Dtype dtype, std::int64_t rows, std::int64_t count, std::int64_t columns) {
  return partial_bytes(columns_plan(dtype, count, columns), rows * columns, dtype);
}

}  // namespace weft::kernels::linear_plan
