#include "autograd/group_norm.h"

#include <cmath>

#include "autograd/channel_vector.h"
#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "autograd/reduce.h"
#include "kernels/group_norm.h"

namespace weft {
namespace {

using detail::data_or_null;
using detail::statistics_dtype;
using kernels::GroupNormShape;

struct GroupNormNode final : Node {
  const char* name() const override { return "group_norm"; }

  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    const Tensor& input = x.get(name());
    const Tensor& weight = gamma.get(name());
    const Tensor& group_mean = mean.get(name());
    const Tensor& group_rstd = rstd.get(name());
    const Tensor gradient = contiguous(dy[0]);
    const Dtype dtype = input.dtype();
    const Device device = input.device();
    Tensor dinput;
    if (dx.wanted(0)) dinput = Tensor::empty(input.shape(), dtype, device);
    const Tensor partials =
        Tensor::empty({kernels::group_norm_backward_partials(shape)}, statistics_dtype(dtype), device);
    Gradients::Target dgamma{}, dbeta{};
    if (dx.wanted(1)) dgamma = dx.target(1, {shape.channels}, dtype, device);
    if (dx.wanted(2)) dbeta = dx.target(2, {shape.channels}, dtype, device);
    kernels::group_norm_backward(device, {.dtype = dtype,
                                          .shape = shape,
                                          .x = input.raw_data(),
                                          .gamma = data_or_null(weight),
                                          .dy = gradient.raw_data(),
                                          .mean = group_mean.raw_data(),
                                          .rstd = group_rstd.raw_data(),
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

  Saved x, gamma, mean, rstd;
  GroupNormShape shape{};
};

GroupNormShape check(const Tensor& x, std::int64_t groups, const Tensor& gamma, const Tensor& beta, double eps) {
  const char* op = "group_norm";
  require<ShapeError>(x.rank() >= 2 && x.size(1) >= 1, op, "x must have shape [N, C, ...] with C >= 1 but has {}",
                      x.shape());
  require<DtypeError>(is_floating(x.dtype()), op, "x must be f64, f32, f16 or bf16 but is {}", to_string(x.dtype()));
  const std::int64_t batch = x.size(0), channels = x.size(1);
  require<OptionError>(groups >= 1, op, "num_groups must be at least 1 but is {}", groups);
  require<ShapeError>(channels % groups == 0, op, "num_groups must divide the {} channels of x but is {}", channels,
                      groups);
  require<OptionError>(eps > 0 && std::isfinite(eps), op, "eps must be positive but is {}", eps);
  std::int64_t spatial = 1;
  for (int i = 2; i < x.rank(); ++i) {
    require<ShapeError>(x.size(i) >= 1, op, "x must have extents of at least 1 behind [N, C] but has {}", x.shape());
    spatial *= x.size(i);
  }
  const GroupNormShape shape{batch, channels, groups, spatial};
  constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 1;  // so that a kernel divides 32-bit numbers
  require<ShapeError>(shape.rows() <= kMost && shape.row_elems() <= kMost, op,
                      "at most 2^31 - 1 groups of as many elements are supported but x {} has {} of {}", x.shape(),
                      shape.rows(), shape.row_elems());
  detail::check_channel_vector(op, "gamma", gamma, channels, x.dtype(), x.device());
  detail::check_channel_vector(op, "beta", beta, channels, x.dtype(), x.device());
  return shape;
}

}  // namespace

Tensor group_norm(const Tensor& x, std::int64_t num_groups, const Tensor& gamma, const Tensor& beta, double eps) {
  const GroupNormShape shape = check(x, num_groups, gamma, beta, eps);
  const Tensor input = contiguous(x);
  const Tensor weight = gamma.defined() ? contiguous(gamma) : gamma, bias = beta.defined() ? contiguous(beta) : beta;
  const Dtype statistics = statistics_dtype(x.dtype());
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  Tensor mean, rstd, partials;
  if (detail::should_record({&input, &weight, &bias})) {
    mean = Tensor::empty({shape.batch, num_groups}, statistics, x.device());
    rstd = Tensor::empty({shape.batch, num_groups}, statistics, x.device());
  }
  if (const std::int64_t count = kernels::group_norm_forward_partials(shape, x.dtype(), x.device()); count > 0)
    partials = Tensor::empty({count}, statistics, x.device());
  kernels::group_norm_forward(x.device(), {.dtype = x.dtype(),
                                           .shape = shape,
                                           .eps = eps,
                                           .x = input.raw_data(),
                                           .gamma = data_or_null(weight),
                                           .beta = data_or_null(bias),
                                           .y = y.raw_data(),
                                           .mean = data_or_null(mean),
                                           .rstd = data_or_null(rstd),
                                           .partials = data_or_null(partials)});
  detail::check_anomaly("group_norm", {&y});
  if (auto node = record<GroupNormNode>({&y}, {&input, &weight, &bias})) {
    node->x = input;
    node->gamma = weight;
    node->mean = mean;
    node->rstd = rstd;
    node->shape = shape;
  }
  return y;
}

Tensor group_norm_composite(const Tensor& x, std::int64_t num_groups, const Tensor& gamma, const Tensor& beta,
                            double eps) {
  const GroupNormShape shape = check(x, num_groups, gamma, beta, eps);
  const Tensor rows = reshape(x, {shape.rows(), shape.row_elems()});
  const Tensor centred = rows - mean(rows, -1, KeepDim::yes);
  const Tensor variance = mean(centred * centred, -1, KeepDim::yes);
  Tensor y = centred * rsqrt(variance + scalar(eps, x.dtype(), x.device()));
  y = reshape(y, {shape.batch, shape.channels, shape.spatial});
  if (gamma.defined()) y = y * reshape(gamma, {shape.channels, 1});
  if (beta.defined()) y = y + reshape(beta, {shape.channels, 1});
  return reshape(y, x.shape());
}

}  // namespace weft
