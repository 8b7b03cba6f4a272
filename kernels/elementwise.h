#pragma once
#include "kernels/common/contract.h"
#include "tensor/shape.h"

namespace weft::kernels {

enum class BinaryOp : std::uint8_t { add, sub, mul, div };

/// out = a op b, element-wise, operands of one dtype broadcast to `shape` by strides of 0. bool and div of integers are
/// not taken (promote first). Integer overflow wraps.
/// Aliasing: out may be a or b where their strides are those of out. Moves: reads a and b, writes out once (a broadcast
/// operand once if the cache holds it); on a GPU in 16-byte vectors where the innermost dimension and the addresses
/// allow.
struct Binary {
  BinaryOp op;
  Dtype dtype;
  const void* a;  // in,  shape with a_strides
  const void* b;  // in,  shape with b_strides
  void* out;      // out, shape, contiguous
  Shape shape;
  Strides a_strides;  // in elements, 0 where broadcast
  Strides b_strides;
};
void binary(Device device, const Binary& args);
WEFT_GPU_OP(binary, Binary)

/// out[i] += in[i]. Floats and integers but bool. Runs as a Binary. Moves: reads both, writes out once.
struct AddInto {
  Dtype dtype;
  void* out;       // inout, [count]
  const void* in;  // in,    [count]
  std::int64_t count;
};
void add_into(Device device, const AddInto& args);

/// out[i] = in[i] * factor in the compute type of a floating dtype. out may be in. Moves: reads in, writes out once.
/// `device_factor` is used instead of `factor` when it is not null: an f64 in device memory.
struct Scale {
  Dtype dtype;
  const void* in;  // in,  [count]
  void* out;       // out, [count]
  std::int64_t count;
  double factor;
  const double* device_factor = nullptr;  // in, [1] or null
};
void scale(Device device, const Scale& args);
WEFT_GPU_OP(scale, Scale)

enum class UnaryOp : std::uint8_t { exp, log, rsqrt };

/// out[i] = op(in[i]) in the compute type of a floating dtype: e^x, ln x, 1/sqrt(x). out may be in. Outside of the
/// function's domain IEEE 754's inf or NaN. Moves: reads in, writes out once.
struct Unary {
  UnaryOp op;
  Dtype dtype;
  const void* in;  // in,  [count]
  void* out;       // out, [count]
  std::int64_t count;
};
void unary(Device device, const Unary& args);
WEFT_GPU_OP(unary, Unary)

/// Forward: out[i] = max(in[i], 0), NaN stays NaN. out may be in. Moves: reads in, writes out once.
struct Relu {
  Dtype dtype;
  const void* in;  // in,  [count]
  void* out;       // out, [count]
  std::int64_t count;
};
void relu_forward(Device device, const Relu& args);
WEFT_GPU_OP(relu_forward, Relu)

/// Backward: dx[i] = y[i] > 0 ? dy[i] : 0, with y the output of the forward. dx may be dy. Moves: reads both, writes dx
///           once.
struct ReluBackward {
  Dtype dtype;
  const void* dy;  // in,  [count]
  const void* y;   // in,  [count]
  void* dx;        // out, [count]
  std::int64_t count;
};
void relu_backward(Device device, const ReluBackward& args);
WEFT_GPU_OP(relu_backward, ReluBackward)

}  // namespace weft::kernels
