#pragma once
// Batches of matrix products of any orientation. Products are summed in f32 (f64 for f64) and rounded once.
#include "kernels/common/matmul_plan.h"

namespace weft::kernels {

/// C[b,m,n] (=|+=) sum_k A(b,m,k) B(b,k,n). K = 0 gives 0; M, N or no products: nothing is done.
/// A matrix of A lies in memory as [M, K] (Contiguous::k) or [K, M] (outer), one of B as [N, K] (k) or [K, N] (outer), with
/// a_row and b_row elements between its rows, at the offsets of `batch`.
/// Aliasing: c overlaps nothing. Moves: batch·(M·K + K·N + M·N) elements at the least, shared matrices once; 2·batch·M·N·K flop.
struct BatchedMatmul {
  Dtype dtype;
  std::int64_t m, n, k;  // 0 allowed
  const void* a;         // in
  const void* b;         // in
  void* c;               // out or inout, [batch, M, N]
  Contiguous a_order, b_order;
  std::int64_t a_row, b_row;  // at least the row's elements
  MatmulBatch batch;
  Accumulate mode;
  void* workspace;  // matmul_workspace() bytes, 16-byte aligned; null when that is 0
};
void matmul(Device device, const BatchedMatmul& args);
std::int64_t matmul_workspace(Device device, Dtype dtype, std::int64_t batch, std::int64_t m, std::int64_t n,
                              std::int64_t k);
WEFT_GPU_OP(matmul, BatchedMatmul)

}  // namespace weft::kernels
