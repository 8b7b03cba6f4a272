#pragma once
// The matrix product on the cpu, the one place that every product goes through.
//   Products with few rows or short sums have kernels of their own (gemm_thin.cpp). For all others, C is cut into a grid of tiles that depends on the shape alone; a tile is computed by one thread, with oneDNN for f32
//   where it is built in, else with weft's own kernel. A product with few tiles and a long sum is also cut along K into
//   fixed chunks, whose partial products are added in order. Hence the same bits for any number of threads: a library that
//   divides the work by its thread count (oneDNN's own threading does) cannot promise that.
#include "kernels/common/contract.h"

namespace weft::kernels {

enum class Epilogue : std::uint8_t { none, relu };

/// C[m,n] = epilogue(sum_k A(m,k) B(k,n) + bias[n]), or C += the sum. One of each operand's two strides is 1.
/// Aliasing: C overlaps no operand. Moves: at least m·k + k·n + m·n elements; 2·m·n·k flop.
struct Gemm {
  Dtype dtype;     // of all operands; products are summed in f32 (f64 for f64)
  std::int64_t m;  // rows of C, 0 allowed
  std::int64_t n;  // columns of C
  std::int64_t k;  // 0 gives C = epilogue(bias)
  const void* a;   // in, A(m,k) = a[m * a_row + k * a_col]
  std::int64_t a_row, a_col;
  const void* b;  // in, B(k,n) = b[k * b_row + n * b_col]
  std::int64_t b_row, b_col;
  void* c;  // out or inout, C(m,n) = c[m * c_row + n]
  std::int64_t c_row;
  const void* bias = nullptr;  // in, [n] or null; not with Accumulate::add
  Epilogue epilogue = Epilogue::none;
  Accumulate mode = Accumulate::overwrite;
};
void gemm_cpu(const Gemm& args);

namespace detail {
/// The whole product when it has at most four rows, or sums of at most four terms; false (and nothing done) otherwise.
bool gemm_thin(const Gemm& args);
/// One tile on the calling thread. Returns false where oneDNN is not built in or does not take the operands.
bool gemm_tile_onednn(const Gemm& tile);
void gemm_tile_own(const Gemm& tile);
}  // namespace detail

/// "oneDNN 2.6.3" or "own", for summaries.
const char* gemm_backend();

}  // namespace weft::kernels
