#include "autograd/batch_norm.h"

#include <cmath>

#include "autograd/channel_vector.h"
#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "autograd/reduce.h"

namespace weft {
namespace {

using detail::data_or_null;
using detail::statistics_dtype;

Tensor workspace(const Tensor& x) {
  return Tensor::empty({kernels::batch_norm_partials(x.size(0), x.size(1), x.device())}, statistics_dtype(x.dtype()),
                       x.device());
}

struct BatchNormNode final : Node {
  const char* name() const override { return "batch_norm"; }

  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    const Tensor& input = x.get(name());
    const Tensor& weight = gamma.get(name());
    const Tensor& column_mean = mean.get(name());
    const Tensor& column_rstd = rstd.get(name());
    const Tensor gradient = contiguous(dy[0]);
    const std::int64_t rows = input.size(0), channels = input.size(1);
    const Dtype dtype = input.dtype();
    const Device device = input.device();
    const Tensor partials = workspace(input);
    Tensor dinput;
    if (dx.wanted(0)) dinput = Tensor::empty(input.shape(), dtype, device);
    Gradients::Target dgamma{}, dbeta{};
    if (dx.wanted(1)) dgamma = dx.target(1, {channels}, dtype, device);
    if (dx.wanted(2)) dbeta = dx.target(2, {channels}, dtype, device);
    kernels::batch_norm_backward(device, {.dtype = dtype,
                                          .mode = mode,
                                          .rows = rows,
                                          .channels = channels,
                                          .x = input.raw_data(),
                                          .gamma = data_or_null(weight),
                                          .dy = gradient.raw_data(),
                                          .mean = column_mean.raw_data(),
                                          .rstd = column_rstd.raw_data(),
                                          .dx = data_or_null(dinput),
                                          .dgamma = data_or_null(dgamma.tensor),
                                          .dbeta = data_or_null(dbeta.tensor),
                                          .dgamma_mode = dgamma.mode,
                                          .dbeta_mode = dbeta.mode,
                                          .partials = partials.raw_data()});
    if (dx.wanted(0)) dx.set(0, std::move(dinput));
  }
  void release() override {
    x.reset();
    gamma.reset();
    mean.reset();
    rstd.reset();
  }

  BatchNormMode mode = BatchNormMode::train;
  Saved x, gamma, mean, rstd;
};

void check(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& running_mean,
           const Tensor& running_var, const BatchNormOptions& options) {
  const char* op = "batch_norm";
  require<ShapeError>(x.rank() == 2 && x.size(1) >= 1, op, "x must have shape [R, C] with C >= 1 but has {}",
                      x.shape());
  require<DtypeError>(is_floating(x.dtype()), op, "x must be f64, f32, f16 or bf16 but is {}", to_string(x.dtype()));
  require<OptionError>(options.eps > 0 && std::isfinite(options.eps), op, "eps must be positive but is {}",
                       options.eps);
  require<OptionError>(options.momentum >= 0 && options.momentum <= 1, op, "momentum must be in [0, 1] but is {}",
                       options.momentum);
  const std::int64_t channels = x.size(1);
  detail::check_channel_vector(op, "gamma", gamma, channels, x.dtype(), x.device());
  detail::check_channel_vector(op, "beta", beta, channels, x.dtype(), x.device());
  const Dtype statistics = statistics_dtype(x.dtype());
  detail::check_channel_vector(op, "running_mean", running_mean, channels, statistics, x.device());
  detail::check_channel_vector(op, "running_var", running_var, channels, statistics, x.device());
  require<OptionError>(running_mean.defined() == running_var.defined(), op,
                       "running_mean and running_var must be given together or not at all");
  if (running_mean.defined())
    require<ShapeError>(running_mean.is_contiguous() && running_var.is_contiguous(), op,
                        "running_mean and running_var must be contiguous: they are updated in place");
  if (options.mode == BatchNormMode::eval)
    require<OptionError>(running_mean.defined(), op, "eval mode needs running_mean and running_var");
  else
    require<ShapeError>(x.size(0) >= 2, op,
                        "training needs at least 2 rows per channel but the input has shape {}: use a larger batch, or "
                        "eval mode",
                        x.shape());
}

}  // namespace

Tensor batch_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& running_mean,
                  const Tensor& running_var, BatchNormOptions options) {
  check(x, gamma, beta, running_mean, running_var, options);
  const Tensor input = contiguous(x);
  const Tensor weight = gamma.defined() ? contiguous(gamma) : gamma, bias = beta.defined() ? contiguous(beta) : beta;
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const Tensor partials = workspace(input);
  Tensor mean, rstd;
  if (detail::should_record({&input, &weight, &bias})) {
    mean = Tensor::empty({x.size(1)}, statistics_dtype(x.dtype()), x.device());
    rstd = Tensor::empty({x.size(1)}, statistics_dtype(x.dtype()), x.device());
  }
  kernels::batch_norm_forward(x.device(), {.dtype = x.dtype(),
                                           .mode = options.mode,
                                           .rows = x.size(0),
                                           .channels = x.size(1),
                                           .eps = options.eps,
                                           .momentum = options.momentum,
                                           .x = input.raw_data(),
                                           .gamma = data_or_null(weight),
                                           .beta = data_or_null(bias),
                                           .y = y.raw_data(),
                                           .running_mean = data_or_null(running_mean),
                                           .running_var = data_or_null(running_var),
                                           .mean = data_or_null(mean),
                                           .rstd = data_or_null(rstd),
                                           .partials = partials.raw_data()});
  if (options.mode == BatchNormMode::train && running_mean.defined()) {
    running_mean.bump_version();
    running_var.bump_version();
  }
  detail::check_anomaly("batch_norm", {&y});
  if (auto node = record<BatchNormNode>({&y}, {&input, &weight, &bias})) {
    node->mode = options.mode;
    node->x = input;
    node->gamma = weight;
    node->mean = mean;
    node->rstd = rstd;
  }
  return y;
}

Tensor batch_norm_composite(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& running_mean,
                            const Tensor& running_var, BatchNormOptions options) {
  check(x, gamma, beta, running_mean, running_var, options);
  const bool train = options.mode == BatchNormMode::train;
  const Tensor centred = x - (train ? mean(x, 0, KeepDim::yes) : running_mean.alias());
  const Tensor variance = train ? mean(centred * centred, 0, KeepDim::yes) : running_var.alias();
  Tensor y = centred * rsqrt(variance + scalar(options.eps, variance.dtype(), x.device()));
  if (gamma.defined()) y = y * gamma;
  if (beta.defined()) y = y + beta;
  return y;
}

}  // namespace weft
