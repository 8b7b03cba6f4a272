#include "nn/rms_norm.h"

#include <algorithm>

#include "autograd/factories.h"
#include "autograd/rms_norm.h"

namespace weft::nn {

RmsNorm::RmsNorm(std::int64_t channels, RmsNormOptions options) : RmsNorm(Shape{channels}, options) {}

RmsNorm::RmsNorm(const Shape& shape, RmsNormOptions options) : normalized_shape(shape), eps(options.eps) {
  require<ShapeError>(shape.rank() >= 1 && *std::min_element(shape.begin(), shape.end()) >= 1, "rms_norm",
                      "normalized_shape must have extents of at least 1 but is {}", shape);
  if (options.affine) weight = parameter(ones(shape, options.dtype));
}

Tensor RmsNorm::operator()(const Tensor& x) { return weft::rms_norm(x, normalized_shape, weight, eps); }

}  // namespace weft::nn
