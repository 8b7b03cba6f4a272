#include "nn/layer_norm.h"

#include "autograd/factories.h"
#include "autograd/layer_norm.h"

namespace weft::nn {

LayerNorm::LayerNorm(std::int64_t channels, LayerNormOptions options) : eps(options.eps) {
  require<ShapeError>(channels >= 1, "layer_norm", "needs at least one channel but has {}", channels);
  if (!options.affine) return;
  weight = parameter(ones({channels}, options.dtype));
  bias = parameter(zeros({channels}, options.dtype));
}

Tensor LayerNorm::operator()(const Tensor& x) { return weft::layer_norm(x, weight, bias, eps); }

}  // namespace weft::nn
