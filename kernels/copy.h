#pragma once
#include "kernels/common/contract.h"
#include "tensor/shape.h"

namespace weft::kernels {

/// out[...] = in[...], converted from one dtype to the other, any strides on both sides.
///   float -> integer truncates toward zero and saturates, NaN gives 0; anything -> bool is x != 0; bool -> number is
///   0 or 1.
/// Aliasing: out and in must not overlap, unless they are identical in address, strides and dtype.
/// Moves:    reads and writes every element once; on a GPU in 16-byte vectors where both sides are dense, through
///           shared memory where they are transposed. Equal dtypes move bits: a NaN keeps its payload.
struct Copy {
  Dtype out_dtype;
  Dtype in_dtype;
  void* out;       // out, shape with out_strides
  const void* in;  // in,  shape with in_strides (0 where broadcast)
  Shape shape;
  Strides out_strides;  // in elements, no 0 but for extents of 1
  Strides in_strides;
};
void copy(Device device, const Copy& args);
WEFT_GPU_OP(copy, Copy)

/// out[i] = value, converted as by Copy from f64. Moves: writes every element once.
struct Fill {
  Dtype dtype;
  void* out;  // out, [count] contiguous
  std::int64_t count;
  double value;
};
void fill(Device device, const Fill& args);
WEFT_GPU_OP(fill, Fill)

}  // namespace weft::kernels
