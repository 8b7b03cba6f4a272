#include "nn/batch_norm.h"

#include "autograd/batch_norm.h"
#include "autograd/factories.h"

namespace weft::nn {

BatchNorm1d::BatchNorm1d(std::int64_t channels, BatchNormOptions options)
    : eps(options.eps), momentum(options.momentum) {
  require<ShapeError>(channels >= 1, "batch_norm", "needs at least one channel but has {}", channels);
  if (options.affine) {
    weight = parameter(ones({channels}, options.dtype));
    bias = parameter(zeros({channels}, options.dtype));
  }
  const Dtype statistics = options.dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  running_mean = zeros({channels}, statistics);
  running_var = ones({channels}, statistics);
}

Tensor BatchNorm1d::operator()(const Tensor& x) {
  const BatchNormMode batch_mode = mode == Mode::train ? BatchNormMode::train : BatchNormMode::eval;
  return weft::batch_norm(x, weight, bias, running_mean, running_var, {batch_mode, momentum, eps});
}

}  // namespace weft::nn
