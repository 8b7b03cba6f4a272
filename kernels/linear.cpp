#include "kernels/linear.h"

#include "kernels/common/gemm.h"
#include "kernels/common/linear_plan.h"
#include "kernels/reduce.h"

namespace weft::kernels {

void linear_forward(Device device, const LinearForward& args) {
  if (WEFT_ON_GPU("linear", linear_forward, device, args)) return;
  Gemm product{args.dtype, args.rows, args.out, args.in, args.x, args.in, 1, args.weight, 1, args.in, args.y, args.out};
  product.bias = args.bias;
  product.epilogue = args.activation == LinearActivation::relu ? Epilogue::relu : Epilogue::none;
  gemm_cpu(product);
}

void linear_backward_input(Device device, const LinearBackwardInput& args) {
  if (WEFT_ON_GPU("linear", linear_backward_input, device, args)) return;
  gemm_cpu({args.dtype, args.rows, args.in, args.out, args.dz, args.out, 1, args.weight, args.in, 1, args.dx, args.in});
}

void linear_backward_weight(Device device, const LinearBackwardWeight& args) {
  if (WEFT_ON_GPU("linear", linear_backward_weight, device, args)) return;
  Gemm product{args.dtype, args.out, args.in, args.rows, args.dz,      1,
               args.out,   args.x,   args.in, 1,         args.dweight, args.in};
  product.mode = args.mode;
  gemm_cpu(product);
  if (args.dbias != nullptr)
    linear_backward_bias(device,
                         {args.dtype, args.dz, args.dbias, args.rows, args.out, args.dbias_mode, args.workspace});
}

void linear_backward_bias(Device device, const LinearBackwardBias& args) {
  if (WEFT_ON_GPU("linear", linear_backward_bias, device, args)) return;
  sum(device, {args.dtype, args.dz, args.dbias, 1, args.rows, args.out, args.mode});
}

std::int64_t linear_forward_workspace(Device device, Dtype dtype, std::int64_t rows, std::int64_t in,
                                      std::int64_t out) {
  if (device.kind == DeviceKind::cpu) return 0;
  const std::int64_t elements = rows * out;
  const std::int64_t square = linear_plan::square_tile_bytes(dtype, rows, out, in, elements);
  if (out > linear_plan::kNarrow) return square;
  return std::max(square, partial_bytes(linear_plan::narrow_n_plan(rows, out, in), elements, dtype));
}

std::int64_t linear_backward_input_workspace(Device device, Dtype dtype, std::int64_t rows, std::int64_t in,
                                             std::int64_t out) {
  if (device.kind == DeviceKind::cpu) return 0;
  const std::int64_t square = linear_plan::square_tile_bytes(dtype, rows, in, out, rows * in);
  return rows > linear_plan::kFewRows ? square : std::max(square, linear_plan::columns_bytes(dtype, rows, out, in));
}

std::int64_t linear_backward_weight_workspace(Device device, Dtype dtype, std::int64_t rows, std::int64_t in,
                                              std::int64_t out) {
  if (device.kind == DeviceKind::cpu) return 0;
  const std::int64_t elements = out * in + out;  // the weights' and the bias' gradients
  const std::int64_t tiles = std::max(
      linear_plan::square_tile_bytes(dtype, out, in, rows, elements),
      out > linear_plan::kNarrow ? 0 : partial_bytes(linear_plan::narrow_m_plan(out, in, rows), elements, dtype));
  return std::max(tiles, linear_backward_bias_workspace(device, dtype, rows, out));
}

std::int64_t linear_backward_bias_workspace(Device device, Dtype dtype, std::int64_t rows, std::int64_t out) {
  return device.kind == DeviceKind::cpu ? 0 : linear_plan::columns_bytes(dtype, 1, rows, out);
}

}  // namespace weft::kernels
