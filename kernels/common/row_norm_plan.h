#pragma once
// How a GPU cuts the backward passes of layer_norm and rms_norm. It depends on the shape alone, so that every GPU adds in
// the same order.
#include <algorithm>
#include <cstdint>

namespace weft::kernels {

struct RowNormPlan {
  int teams;            // rows that a block works on at a time
  std::int64_t blocks;  // P; block p takes rows [p·teams, (p + 1)·teams), then those P·teams further on, and so forth
};

inline RowNormPlan row_norm_backward_plan(std::int64_t rows, std::int64_t channels) {
  // Eight elements per thread: a row takes 8 threads up to 64 elements, a warp up to 256, then a block of 128 to 512.
  const int teams = channels <= 64 ? 16 : channels <= 256 ? 4 : 1;
  // As many blocks as 132 processors hold at a time; fewer rows than four per team would be mostly partial sums.
  const std::int64_t most = channels <= 1024 ? 4 * 132 : channels <= 2048 ? 2 * 132 : 132;
  return {teams, std::min(most, (rows + 4 * teams - 1) / (4 * teams))};
}
/// Elements from one row of partial sums to the next.
constexpr std::int64_t row_norm_partial_stride(std::int64_t channels) { return (channels + 15) / 16 * 16; }

}  // namespace weft::kernels
