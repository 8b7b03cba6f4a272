#include "autograd/reduce.h"

#include "autograd/elementwise.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "kernels/reduce.h"

namespace weft {
namespace {

// Sizes before, of and after one dimension.
struct Split {
  std::int64_t outer = 1, reduced = 1, inner = 1;
};
Split split_at(const Shape& shape, int dim) {
  Split split;
  for (int d = 0; d < shape.rank(); ++d) (d < dim ? split.outer : d == dim ? split.reduced : split.inner) *= shape[d];
  return split;
}

Tensor run_sum(const Tensor& x, Split split, const Shape& shape) {
  const NoGrad guard;
  const Tensor dense = contiguous(x);
  Tensor y = Tensor::empty(shape, is_floating(x.dtype()) ? x.dtype() : Dtype::i64, x.device());
  const std::int64_t workspace_bytes =
      kernels::sum_workspace_bytes(x.device(), x.dtype(), split.outer, split.reduced, split.inner);
  Tensor workspace;
  if (workspace_bytes > 0) workspace = Tensor::empty({workspace_bytes}, Dtype::u8, x.device());
  kernels::sum(x.device(), {.dtype = x.dtype(),
                            .in = dense.raw_data(),
                            .out = y.raw_data(),
                            .outer = split.outer,
                            .reduced = split.reduced,
                            .inner = split.inner,
                            .workspace = workspace.defined() ? workspace.raw_data() : nullptr});
  return y;
}

struct SumNode final : Node {
  const char* name() const override { return "sum"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    dx.set(0, dy[0].reshape(kept).expand(x_shape));  // a view of stride 0: no memory until someone needs it dense
  }
  bool reusable() const override { return true; }
  Shape x_shape;
  Shape kept;  // the result's shape with the summed dimensions as 1
};

Tensor record_sum(Tensor y, const Tensor& x, const Shape& kept) {
  detail::check_anomaly("sum", {&y});
  if (!is_floating(x.dtype())) return y;
  if (auto node = record<SumNode>({&y}, {&x})) {
    node->x_shape = x.shape();
    node->kept = kept;
  }
  return y;
}

Shape drop(const Shape& shape, int dim, KeepDim keep) {
  Shape out = shape;
  if (keep == KeepDim::yes)
    out[dim] = 1;
  else
    out.erase(dim);
  return out;
}

void check_mean(const Tensor& x, std::int64_t count) {
  require<DtypeError>(is_floating(x.dtype()), "mean", "needs a floating dtype but has {}: cast first",
                      to_string(x.dtype()));
  require<ShapeError>(count > 0, "mean", "there is nothing to average in shape {}", x.shape());
}

}  // namespace

Tensor sum(const Tensor& x) { return record_sum(run_sum(x, {1, x.numel(), 1}, {}), x, Dims::filled(x.rank(), 1)); }

Tensor sum(const Tensor& x, int dim, KeepDim keep) {
  dim = normalise_dim(dim, x.rank(), "sum");
  return record_sum(run_sum(x, split_at(x.shape(), dim), drop(x.shape(), dim, keep)), x,
                    drop(x.shape(), dim, KeepDim::yes));
}

Tensor mean(const Tensor& x) {
  check_mean(x, x.numel());
  return scale(sum(x), 1.0 / static_cast<double>(x.numel()));
}

Tensor mean(const Tensor& x, int dim, KeepDim keep) {
  check_mean(x, x.size(dim));
  return scale(sum(x, dim, keep), 1.0 / static_cast<double>(x.size(dim)));
}

Tensor argmax(const Tensor& x, int dim, KeepDim keep) {
  dim = normalise_dim(dim, x.rank(), "argmax");
  require<ShapeError>(x.size(dim) > 0, "argmax", "dimension {} of shape {} is empty", dim, x.shape());
  const NoGrad guard;
  const Tensor dense = contiguous(x);
  Tensor y = Tensor::empty(drop(x.shape(), dim, keep), Dtype::i64, x.device());
  const Split split = split_at(x.shape(), dim);
  kernels::argmax(x.device(),
                  {x.dtype(), dense.raw_data(), y.data<std::int64_t>(), split.outer, split.reduced, split.inner});
  return y;
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  const int added = x.rank() - shape.rank();
  require<ShapeError>(added >= 0, "sum_to", "shape {} does not broadcast to {}", shape, x.shape());
  Tensor y = x;
  // A run of neighbouring dimensions is summed in one pass; the common case, a bias, is the leading run.
  for (int last = x.rank() - 1; last >= 0; --last) {
    const auto stretched = [&](int d) { return d < added || (shape[d - added] == 1 && y.size(d) != 1); };
    if (!stretched(last)) {
      require<ShapeError>(y.size(last) == shape[last - added], "sum_to", "shape {} does not broadcast to {}", shape,
                          x.shape());
      continue;
    }
    int first = last;
    while (first > 0 && stretched(first - 1)) --first;
    Split split{1, 1, 1};
    Shape kept = y.shape();
    for (int d = 0; d < y.rank(); ++d) {
      (d < first ? split.outer : d <= last ? split.reduced : split.inner) *= y.size(d);
      if (d >= first && d <= last) kept[d] = 1;
    }
    y = record_sum(run_sum(y, split, kept), y, kept);
    last = first;
  }
  return y.reshape(shape);
}

}  // namespace weft
