#include "kernels/linear.h"

#include "kernels/common/gemm.h"
#include "kernels/reduce.h"

namespace weft::kernels {

void linear_forward(Device device, const LinearForward& args) {
  require_cpu("linear", device);
  Gemm product{args.dtype, args.rows, args.out, args.in, args.x, args.in, 1, args.weight, 1, args.in, args.y, args.out};
  product.bias = args.bias;
  product.epilogue = args.activation == LinearActivation::relu ? Epilogue::relu : Epilogue::none;
  gemm_cpu(product);
}

void linear_backward_input(Device device, const LinearBackwardInput& args) {
  require_cpu("linear", device);
  gemm_cpu({args.dtype, args.rows, args.in, args.out, args.dz, args.out, 1, args.weight, args.in, 1, args.dx, args.in});
}

void linear_backward_weight(Device device, const LinearBackwardWeight& args) {
  require_cpu("linear", device);
  Gemm product{args.dtype, args.out, args.in, args.rows, args.dz,      1,
               args.out,   args.x,   args.in, 1,         args.dweight, args.in};
  product.mode = args.mode;
  gemm_cpu(product);
}

void linear_backward_bias(Device device, const LinearBackwardBias& args) {
  sum(device, {args.dtype, args.dz, args.dbias, 1, args.rows, args.out, args.mode});
}

}  // namespace weft::kernels
