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

// How x lies in memory, and the extents that the kernels see.
struct Layout {
  explicit Layout(const Tensor& x)
      : channels(x.size(1)), batch(x.size(0)), spatial(channels > 0 && batch > 0 ? x.numel() / batch / channels : 1) {
    if (batch == 0)
      for (int d = 2; d < x.rank(); ++d) spatial *= x.size(d);
    channels_last = x.rank() > 2 && !x.is_contiguous() && with_channels_last(x).is_contiguous();
    planes = spatial != 1 && !channels_last;
  }
  // The view [N, *, C] of [N, C, *], and back.
  static Tensor with_channels_last(const Tensor& x) {
    Tensor y = x.alias();
    for (int d = 1; d + 1 < x.rank(); ++d) y = y.transpose(d, d + 1);
    return y;
  }
  static Tensor with_channels_second(const Tensor& x) {
    Tensor y = x.alias();
    for (int d = x.rank() - 1; d > 1; --d) y = y.transpose(d, d - 1);
    return y;
  }
  // x itself where it lies like this already.
  Tensor arrange(const Tensor& x) const {
    if (!channels_last) return contiguous(x);
    const Tensor last = with_channels_last(x);
    return last.is_contiguous() ? x : with_channels_second(contiguous(last));
  }
  Tensor empty_like(const Tensor& x) const {
    if (!channels_last) return Tensor::empty(x.shape(), x.dtype(), x.device());
    return with_channels_second(Tensor::empty(with_channels_last(x).shape(), x.dtype(), x.device()));
  }
  std::int64_t rows() const { return batch * spatial; }
  Tensor workspace(const Tensor& x) const {
    const std::int64_t count = planes ? kernels::batch_norm_nchw_partials(batch, channels, spatial)
                                      : kernels::batch_norm_partials(rows(), channels, x.device());
    return Tensor::empty({count}, statistics_dtype(x.dtype()), x.device());
  }
  std::int64_t channels, batch, spatial;
  bool channels_last;
  bool planes;  // planes side by side; else rows of channels
};

struct BatchNormNode final : Node {
  const char* name() const override { return "batch_norm"; }

  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    const Tensor& input = x.get(name());
    const Tensor& weight = gamma.get(name());
    const Tensor& column_mean = mean.get(name());
    const Tensor& column_rstd = rstd.get(name());
    const Layout layout(input);
    const Tensor gradient = layout.arrange(dy[0]);
    const std::int64_t channels = layout.channels;
    const Dtype dtype = input.dtype();
    const Device device = input.device();
    const Tensor partials = layout.workspace(input);
    Tensor dinput;
    if (dx.wanted(0)) dinput = layout.empty_like(input);
    Gradients::Target dgamma{}, dbeta{};
    if (dx.wanted(1)) dgamma = dx.target(1, {channels}, dtype, device);
    if (dx.wanted(2)) dbeta = dx.target(2, {channels}, dtype, device);
    if (layout.planes)
      kernels::batch_norm_nchw_backward(device, {.dtype = dtype,
                                                 .mode = mode,
                                                 .batch = layout.batch,
                                                 .channels = channels,
                                                 .spatial = layout.spatial,
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
    else
      kernels::batch_norm_backward(device, {.dtype = dtype,
                                            .mode = mode,
                                            .rows = layout.rows(),
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
  bool planes = true;  // none of them is empty
  for (int d = 2; d < x.rank(); ++d) planes = planes && x.size(d) >= 1;
  require<ShapeError>(
      x.rank() >= 2 && x.rank() <= 5 && x.size(1) >= 1 && planes, op,
      "x must have shape [R, C] or [N, C, ...] of up to 5 dimensions, all but the first at least 1, but "
      "has {}",
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
  else if (x.rank() > 2)
    require<ShapeError>(x.numel() / channels >= 2, op,
                        "training needs at least 2 values per channel but the input has shape {}: use a larger batch, "
                        "or eval mode",
                        x.shape());
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
  const Layout layout(x);
  const Tensor input = layout.arrange(x);
  const Tensor weight = gamma.defined() ? contiguous(gamma) : gamma, bias = beta.defined() ? contiguous(beta) : beta;
  Tensor y = layout.empty_like(x);
  const Tensor partials = layout.workspace(input);
  Tensor mean, rstd;
  if (detail::should_record({&input, &weight, &bias})) {
    mean = Tensor::empty({x.size(1)}, statistics_dtype(x.dtype()), x.device());
    rstd = Tensor::empty({x.size(1)}, statistics_dtype(x.dtype()), x.device());
  }
  if (layout.planes)
    kernels::batch_norm_nchw_forward(x.device(), {.dtype = x.dtype(),
                                                  .mode = options.mode,
                                                  .batch = layout.batch,
                                                  .channels = layout.channels,
                                                  .spatial = layout.spatial,
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
  else
    kernels::batch_norm_forward(x.device(), {.dtype = x.dtype(),
                                             .mode = options.mode,
                                             .rows = layout.rows(),
                                             .channels = layout.channels,
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
  std::vector<int> others{0};  // every dimension but the channels'
  Shape along = Shape::filled(x.rank(), 1);
  along[1] = x.size(1);
  for (int d = 2; d < x.rank(); ++d) others.push_back(d);
  const Tensor centred = x - (train ? mean(x, others, KeepDim::yes) : reshape(running_mean.alias(), along));
  const Tensor variance = train ? mean(centred * centred, others, KeepDim::yes) : reshape(running_var.alias(), along);
  Tensor y = centred * rsqrt(variance + scalar(options.eps, variance.dtype(), x.device()));
  if (gamma.defined()) y = y * reshape(gamma, along);
  if (beta.defined()) y = y + reshape(beta, along);
  return y;
}

}  // namespace weft
