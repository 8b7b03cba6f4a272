#pragma once
#include "kernels/common/contract.h"
#include "tensor/shape.h"

namespace weft::kernels {

enum class BinaryOp : std::uint8_t { add, sub, mul, div, minimum, maximum, pow };

/// out = a op b, element-wise, operands of one dtype broadcast to `shape` by strides of 0. bool, and div and pow of
/// integers, are not taken (promote first). Integer overflow wraps. minimum and maximum: NaN where an operand is NaN.
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

/// What BinaryGradient computes:
///   div_b            -dy a / b²
///   minimum_a        dy where a < b or either is NaN, dy / 2 where a = b, else 0; maximum_a the other way round. The
///                    gradient of b is that of a with the operands swapped.
///   pow_a, pow_b     dy b a^(b-1), 0 where b = 0;  dy a^b ln(a), 0 where a = 0 and b >= 0
enum class BinaryGradientOp : std::uint8_t { div_b, minimum_a, maximum_a, pow_a, pow_b };

/// out = gradient of one operand, before it is summed to that operand's shape. Floats.
/// Aliasing: none of the inputs. Moves: reads dy, a and b, writes out once, as a Binary.
struct BinaryGradient {
  BinaryGradientOp op;
  Dtype dtype;
  const void* dy;  // in,  shape with dy_strides
  const void* a;   // in,  shape with a_strides
  const void* b;   // in,  shape with b_strides
  void* out;       // out, shape, contiguous
  Shape shape;
  Strides dy_strides;  // in elements, 0 where broadcast
  Strides a_strides;
  Strides b_strides;
};
void binary_gradient(Device device, const BinaryGradient& args);
WEFT_GPU_OP(binary_gradient, BinaryGradient)

enum class CompareOp : std::uint8_t { eq, ne, lt, le, gt, ge };

/// out = a op b as bool, operands of one dtype (bool too) broadcast as in a Binary; with a null b, a op scalar, which is
/// rounded to the dtype. Comparisons with NaN are false, ne is true.
/// Aliasing: none. Moves: reads a and b, writes out (a byte per element) once.
struct Compare {
  CompareOp op;
  Dtype dtype;
  const void* a;  // in,  shape with a_strides
  const void* b;  // in,  shape with b_strides, or null
  bool* out;      // out, shape, contiguous
  Shape shape;
  Strides a_strides;  // in elements, 0 where broadcast
  Strides b_strides;
  double scalar = 0;
};
void compare(Device device, const Compare& args);
WEFT_GPU_OP(compare, Compare)

/// out = condition ? a : b, bit for bit, operands broadcast as in a Binary. Any dtype.
/// Aliasing: none. Moves: reads condition (a byte per element), a and b, writes out once.
struct Where {
  Dtype dtype;
  const bool* condition;  // in,  shape with condition_strides
  const void* a;          // in,  shape with a_strides
  const void* b;          // in,  shape with b_strides
  void* out;              // out, shape, contiguous
  Shape shape;
  Strides condition_strides;  // in elements, 0 where broadcast
  Strides a_strides;
  Strides b_strides;
};
void where(Device device, const Where& args);
WEFT_GPU_OP(where, Where)

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

/// With the parameters p and q of a Unary:
///   exp log sqrt rsqrt abs sigmoid tanh silu         no parameters
///   add_scalar x + p        subtract_from p - x      divide p / x       pow x^p
///   clamp min(max(x, p), q)                          leaky_relu x > 0 ? x : p x
///   gelu x Φ(x)             gelu_tanh                softplus p x > q ? x : ln(1 + e^(p x)) / p
enum class UnaryOp : std::uint8_t {
  exp,
  log,
  sqrt,
  rsqrt,
  abs,
  sigmoid,
  tanh,
  silu,
  add_scalar,
  subtract_from,
  divide,
  pow,
  clamp,
  leaky_relu,
  gelu,
  gelu_tanh,
  softplus
};

/// out[i] = op(in[i]) in the compute type of a floating dtype. out may be in. Outside of the function's domain IEEE
/// 754's inf or NaN; a NaN stays one. Moves: reads in, writes out once.
struct Unary {
  UnaryOp op;
  Dtype dtype;
  const void* in;  // in,  [count]
  void* out;       // out, [count]
  std::int64_t count;
  double p = 0, q = 0;
};
void unary(Device device, const Unary& args);
WEFT_GPU_OP(unary, Unary)

/// Whether the derivative is written with the result (exp, sqrt, rsqrt, sigmoid, tanh) instead of the input.
constexpr bool saves_result(UnaryOp op) {
  return op == UnaryOp::exp || op == UnaryOp::sqrt || op == UnaryOp::rsqrt || op == UnaryOp::sigmoid ||
         op == UnaryOp::tanh;
}

/// dx[i] = dy[i] op'(x[i]), in the compute type; at a kink as PyTorch: abs 0 at 0, clamp 1 at its ends, leaky_relu p at
/// 0. Not for add_scalar and subtract_from, whose derivatives are constants. dx may be dy. Moves: reads both, writes dx
/// once.
struct UnaryBackward {
  UnaryOp op;
  Dtype dtype;
  const void* dy;     // in,  [count]
  const void* saved;  // in,  [count]: the result where saves_result(op), else the input
  void* dx;           // out, [count]
  std::int64_t count;
  double p = 0, q = 0;
};
void unary_backward(Device device, const UnaryBackward& args);
WEFT_GPU_OP(unary_backward, UnaryBackward)

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
