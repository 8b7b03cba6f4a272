#include "nn/layer_norm.h"

#include <algorithm>

#include "autograd/factories.h"
#include "autograd/layer_norm.h"

namespace weft::nn {
namespace {

Shape one_axis(std::int64_t channels) {
  require<ShapeError>(channels >= 1, "layer_norm", "needs at least one channel but has {}", channels);
  return {channels};
}

}  // namespace

LayerNorm::LayerNorm(std::int64_t channels, LayerNormOptions options) : LayerNorm(one_axis(channels), options) {}

LayerNorm::LayerNorm(const Shape& shape, LayerNormOptions options) : normalized_shape(shape), eps(options.eps) {
  require<ShapeError>(shape.rank() >= 1 && *std::min_element(shape.begin(), shape.end()) >= 1, "layer_norm",
                      "normalized_shape must have extents of at least 1 but is {}", shape);
  if (!options.affine) return;
  weight = parameter(ones(shape, options.dtype));
  bias = parameter(zeros(shape, options.dtype));
}

Tensor LayerNorm::operator()(const Tensor& x) { return weft::layer_norm(x, normalized_shape, weight, bias, eps); }

}  // namespace weft::nn
