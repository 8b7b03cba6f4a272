#include "nn/batch_norm.h"

#include "autograd/batch_norm.h"
#include "autograd/factories.h"

namespace weft::nn {

BatchNorm::BatchNorm(std::int64_t channels, const BatchNormOptions& options)
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

Tensor BatchNorm::normalise(const Tensor& x) const {
  const BatchNormMode batch_mode = mode == Mode::train ? BatchNormMode::train : BatchNormMode::eval;
  return weft::batch_norm(x, weight, bias, running_mean, running_var, {batch_mode, momentum, eps});
}

BatchNorm1d::BatchNorm1d(std::int64_t channels, BatchNormOptions options) : BatchNorm(channels, options) {}

Tensor BatchNorm1d::operator()(const Tensor& x) {
  require<ShapeError>(x.rank() == 2 || x.rank() == 3, "batch_norm",
                      "BatchNorm1d takes x of shape [N, C] or [N, C, L] but x has {}", x.shape());
  return normalise(x);
}

BatchNorm2d::BatchNorm2d(std::int64_t channels, BatchNormOptions options) : BatchNorm(channels, options) {}

Tensor BatchNorm2d::operator()(const Tensor& x) {
  require<ShapeError>(x.rank() == 4, "batch_norm", "BatchNorm2d takes x of shape [N, C, H, W] but x has {}", x.shape());
  return normalise(x);
}

}  // namespace weft::nn
