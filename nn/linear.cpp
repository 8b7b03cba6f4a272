#include "nn/linear.h"

#include "autograd/linear.h"
#include "nn/init.h"

namespace weft::nn {

Linear::Linear(std::int64_t in, std::int64_t out, LinearOptions options) {
  require<ShapeError>(in >= 1 && out >= 1, "linear", "needs at least one input and one output but has {} and {}", in,
                      out);
  weight = parameter(Tensor::empty({out, in}, options.dtype));
  init::default_(weight, in);
  if (options.bias) {
    bias = parameter(Tensor::empty({out}, options.dtype));
    init::default_(bias, in);
  }
}

Tensor Linear::operator()(const Tensor& x) { return weft::linear(x, weight, bias); }

}  // namespace weft::nn
