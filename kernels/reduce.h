#pragma once
#include "kernels/common/contract.h"

namespace weft::kernels {

/// out[a, b] = sum over r of in[a, r, b]. Floats accumulate in f32 lanes (f64 for f64) over fixed pieces of r, whose
/// partial sums are added in order in f64; integers and bool are summed in i64.
/// Aliasing: none. Moves: reads A·R·B, writes A·B elements. R = 0 gives 0.
struct Sum {
  Dtype dtype;           // of in; out has the same for floats, i64 for the others
  const void* in;        // in,  [A, R, B] contiguous
  void* out;             // out, [A, B]
  std::int64_t outer;    // A
  std::int64_t reduced;  // R
  std::int64_t inner;    // B
  Accumulate mode = Accumulate::overwrite;
  void* workspace = nullptr;  // sum_workspace_bytes(...) bytes, 16-byte aligned; null when that is 0
};
void sum(Device device, const Sum& args);
WEFT_GPU_OP(sum, Sum)

/// How a GPU cuts R: by the shape alone, so that the result is the same on every GPU.
struct SumPlan {
  std::int64_t pieces;  // partial sums per output, at least 1
  std::int64_t rows;    // r per piece, but for the last; a multiple of 16 where there are several
};
SumPlan sum_plan(std::int64_t outer, std::int64_t reduced, std::int64_t inner);
/// What Sum::workspace must hold: on a GPU the partial sums where an output has several (each of at least 128
/// elements); 0 on the cpu.
std::int64_t sum_workspace_bytes(Device device, Dtype dtype, std::int64_t outer, std::int64_t reduced,
                                 std::int64_t inner);

/// out[a, b] = index r of the largest (smallest) in[a, r, b], the first among equals; a NaN comes before any number.
/// values[a, b] = that element.
/// Moves: reads A·R·B elements, writes 8·A·B bytes for `out` and A·B elements for `values`. R >= 1. A GPU gives each output's row, or each tile of columns, to
/// one block: made for many outputs (a prediction per row), slow for few outputs over a long R.
struct Argmax {
  Dtype dtype;
  const void* in;     // in,  [A, R, B] contiguous
  std::int64_t* out;  // out, [A, B]; null when not wanted
  std::int64_t outer;
  std::int64_t reduced;
  std::int64_t inner;
  void* values = nullptr;  // out, [A, B] of `dtype`; null when not wanted
  bool smallest = false;
};
void argmax(Device device, const Argmax& args);
WEFT_GPU_OP(argmax, Argmax)

/// mask[a, r, b] = 1 where in[a, r, b] equals value[a, b], or both are NaN, else 0: who shares a maximum's gradient.
/// Moves: reads and writes A·R·B elements.
struct EqualMask {
  Dtype dtype;        // of all, floating
  const void* in;     // in,  [A, R, B] contiguous
  const void* value;  // in,  [A, B]
  void* mask;         // out, [A, R, B]; may be `in`
  std::int64_t outer;
  std::int64_t reduced;
  std::int64_t inner;
};
void equal_mask(Device device, const EqualMask& args);
WEFT_GPU_OP(equal_mask, EqualMask)

}  // namespace weft::kernels
