#include "nn/activation.h"

#include "autograd/elementwise.h"
#include "autograd/layout.h"

namespace weft::nn {

Tensor ReLU::operator()(const Tensor& x) { return relu(x); }

Tensor Flatten::operator()(const Tensor& x) {
  require<ShapeError>(x.rank() >= 1, "flatten", "needs a batch dimension but the input is a scalar");
  std::int64_t features = 1;  // not -1: a batch of 0 rows could not be inferred
  for (int d = 1; d < x.rank(); ++d) features *= x.size(d);
  return reshape(x, {x.size(0), features});
}

}  // namespace weft::nn
