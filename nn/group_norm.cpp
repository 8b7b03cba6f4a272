#include "nn/group_norm.h"

#include "autograd/factories.h"
#include "autograd/group_norm.h"

namespace weft::nn {

GroupNorm::GroupNorm(std::int64_t num_groups, std::int64_t num_channels, GroupNormOptions options)
    : num_groups(num_groups), num_channels(num_channels), eps(options.eps) {
  require<ShapeError>(num_channels >= 1, "group_norm", "needs at least one channel but has {}", num_channels);
  require<OptionError>(num_groups >= 1, "group_norm", "num_groups must be at least 1 but is {}", num_groups);
  require<ShapeError>(num_channels % num_groups == 0, "group_norm", "num_groups must divide num_channels {} but is {}",
                      num_channels, num_groups);
  if (!options.affine) return;
  weight = parameter(ones({num_channels}, options.dtype));
  bias = parameter(zeros({num_channels}, options.dtype));
}

Tensor GroupNorm::operator()(const Tensor& x) {
  require<ShapeError>(x.rank() >= 2 && x.size(1) == num_channels, "group_norm",
                      "x must have {} channels but has shape {}", num_channels, x.shape());
  return weft::group_norm(x, num_groups, weight, bias, eps);
}

}  // namespace weft::nn
