#include "nn/activation.h"

#include "autograd/elementwise.h"
#include "autograd/layout.h"

namespace weft::nn {

Tensor ReLU::operator()(const Tensor& x) { return relu(x); }
Tensor LeakyReLU::operator()(const Tensor& x) { return leaky_relu(x, negative_slope); }
Tensor GELU::operator()(const Tensor& x) { return gelu(x, approximate); }
Tensor SiLU::operator()(const Tensor& x) { return silu(x); }
Tensor Sigmoid::operator()(const Tensor& x) { return sigmoid(x); }
Tensor Tanh::operator()(const Tensor& x) { return tanh(x); }
Tensor Softplus::operator()(const Tensor& x) { return softplus(x, beta, threshold); }
Tensor Identity::operator()(const Tensor& x) { return x; }

Tensor Flatten::operator()(const Tensor& x) {
  require<ShapeError>(x.rank() >= 1, "flatten", "needs a batch dimension but the input is a scalar");
  std::int64_t features = 1;  // not -1: a batch of 0 rows could not be inferred
  for (int d = 1; d < x.rank(); ++d) features *= x.size(d);
  return reshape(x, {x.size(0), features});
}

}  // namespace weft::nn
