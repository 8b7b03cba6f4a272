#include "autograd/reduce.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
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

void check_floating(const char* op, const Tensor& x) {
  require<DtypeError>(is_floating(x.dtype()), op, "needs a floating dtype but has {}: cast first",
                      to_string(x.dtype()));
}

// x as [A, R, B], R being the dimensions to reduce: a view where they are neighbours, else they go last.
struct Over {
  Over(const char* op, const Tensor& x_, const std::vector<int>& dims, KeepDim keep) : x(x_) {
    const int rank = x.rank();
    bool reduced[Shape::kMaxRank] = {};
    for (int named : dims) {
      const int dim = normalise_dim(named, rank, op);
      require<ShapeError>(!reduced[dim], op, "dimension {} is named twice", dim);
      reduced[dim] = true;
    }
    if (dims.empty()) std::fill_n(reduced, rank, true);
    Split split;
    int changes = 0;
    for (int d = 0; d < rank; ++d) {
      if (!reduced[d]) shape.push_back(x.size(d));
      if (reduced[d] && keep == KeepDim::yes) shape.push_back(1);
      changes += reduced[d] != (d > 0 && reduced[d - 1]);
    }
    if (changes <= 2) {
      bool before = true;
      for (int d = 0; d < rank; ++d) {
        if (reduced[d]) before = false;
        (reduced[d] ? split.reduced : before ? split.outer : split.inner) *= x.size(d);
      }
    } else {
      std::vector<int> now(static_cast<std::size_t>(rank));
      std::iota(now.begin(), now.end(), 0);
      int at = 0;
      for (int d = 0; d < rank; ++d) {  // those that stay come first, in their order
        (reduced[d] ? split.reduced : split.outer) *= x.size(d);
        if (reduced[d]) continue;
        const auto from = static_cast<int>(std::find(now.begin(), now.end(), d) - now.begin());
        if (from != at) x = x.transpose(at, from);
        std::swap(now[static_cast<std::size_t>(at++)], now[static_cast<std::size_t>(from)]);
      }
    }
    x = weft::reshape(x, {split.outer, split.reduced, split.inner});
  }
  Tensor finish(const Tensor& y) const { return y.reshape(shape); }
  template <class F>
  Tensor apply(F&& f) const {
    return finish(f(x));
  }

  Tensor x;     // [A, R, B]
  Shape shape;  // of the result
};

struct ExtremeNode final : Node {
  explicit ExtremeNode() = default;
  const char* name() const override { return op; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    const Tensor& input = x.get(op);
    const Tensor& result = y.get(op);
    const Shape& shape = input.shape();
    Tensor mask = Tensor::empty(shape, input.dtype(), input.device());
    kernels::equal_mask(input.device(), {.dtype = input.dtype(),
                                         .in = input.raw_data(),
                                         .value = result.raw_data(),
                                         .mask = mask.raw_data(),
                                         .outer = shape[0],
                                         .reduced = shape[1],
                                         .inner = shape[2]});
    // Counted in f32: f16 would overflow, bf16 round.
    const Dtype wide = input.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
    const Tensor equal = cast(mask, wide);
    const Tensor share = cast(dy[0], wide) / sum(equal, 1);
    dx.set(0, cast(equal * reshape(share, {shape[0], 1, shape[2]}), input.dtype()));
  }
  void release() override {
    x.reset();
    y.reset();
  }
  Saved x, y;
  const char* op = "max";
};

// The largest or smallest of [A, R, B] over R, [A, B].
Tensor extreme(const char* op, const Tensor& x, bool smallest) {
  require<ShapeError>(x.size(1) > 0, op, "there is nothing to compare in shape {}", x.shape());
  const Tensor dense = contiguous(x);
  Tensor y = Tensor::empty({x.size(0), x.size(2)}, x.dtype(), x.device());
  kernels::argmax(x.device(), {.dtype = x.dtype(),
                               .in = dense.raw_data(),
                               .out = nullptr,
                               .outer = x.size(0),
                               .reduced = x.size(1),
                               .inner = x.size(2),
                               .values = y.raw_data(),
                               .smallest = smallest});
  detail::check_anomaly(op, {&y});
  if (!is_floating(x.dtype())) return y;
  if (auto node = record<ExtremeNode>({&y}, {&dense})) {
    node->x = dense;
    node->y = y;
    node->op = op;
  }
  return y;
}

// x, with the largest finite number of its sign for an infinity: subtracting that keeps what infinities and NaN mean.
Tensor clamped(const Tensor& x) {
  const NoGrad guard;
  const double most = x.dtype() == Dtype::f64 ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max();
  const Tensor pair = Tensor::empty({1, 2, x.numel()}, x.dtype(), x.device());
  copy_(pair.select(1, 0), reshape(x, {1, x.numel()}));
  fill_(pair.select(1, 1), -most);
  copy_(pair.select(1, 0), extreme("logsumexp", pair, false));
  fill_(pair.select(1, 1), most);
  return reshape(extreme("logsumexp", pair, true), x.shape());
}

Tensor position(const char* op, const Tensor& x, int dim, KeepDim keep, bool smallest) {
  dim = normalise_dim(dim, x.rank(), op);
  require<ShapeError>(x.size(dim) > 0, op, "dimension {} of shape {} is empty", dim, x.shape());
  const NoGrad guard;
  const Tensor dense = contiguous(x);
  Tensor y = Tensor::empty(drop(x.shape(), dim, keep), Dtype::i64, x.device());
  const Split split = split_at(x.shape(), dim);
  kernels::argmax(x.device(), {.dtype = x.dtype(),
                               .in = dense.raw_data(),
                               .out = y.data<std::int64_t>(),
                               .outer = split.outer,
                               .reduced = split.reduced,
                               .inner = split.inner,
                               .smallest = smallest});
  return y;
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

Tensor argmax(const Tensor& x, int dim, KeepDim keep) { return position("argmax", x, dim, keep, false); }
Tensor argmin(const Tensor& x, int dim, KeepDim keep) { return position("argmin", x, dim, keep, true); }

// Over several dimensions: over the middle one of [A, R, B].

Tensor sum(const Tensor& x, const std::vector<int>& dims, KeepDim keep) {
  const Over over("sum", x, dims, keep);
  return over.finish(sum(over.x, 1));
}
Tensor mean(const Tensor& x, const std::vector<int>& dims, KeepDim keep) {
  const Over over("mean", x, dims, keep);
  check_mean(x, over.x.size(1));
  return over.finish(scale(sum(over.x, 1), 1.0 / static_cast<double>(over.x.size(1))));
}

Tensor max(const Tensor& x, const std::vector<int>& dims, KeepDim keep) {
  return Over("max", x, dims, keep).apply([](const Tensor& t) { return extreme("max", t, false); });
}
Tensor max(const Tensor& x) { return max(x, std::vector<int>{}); }
Tensor max(const Tensor& x, int dim, KeepDim keep) { return max(x, std::vector<int>{dim}, keep); }
Tensor min(const Tensor& x, const std::vector<int>& dims, KeepDim keep) {
  return Over("min", x, dims, keep).apply([](const Tensor& t) { return extreme("min", t, true); });
}
Tensor min(const Tensor& x) { return min(x, std::vector<int>{}); }
Tensor min(const Tensor& x, int dim, KeepDim keep) { return min(x, std::vector<int>{dim}, keep); }

Tensor var(const Tensor& x, const std::vector<int>& dims, double correction, KeepDim keep) {
  check_floating("var", x);
  require<OptionError>(correction >= 0, "var", "correction must not be negative but is {}", correction);
  const Over over("var", x, dims, keep);
  const auto count = static_cast<double>(over.x.size(1));
  const Dtype wide = x.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  const Tensor input = cast(over.x, wide);
  if (count == 0)
    return over.finish(
        cast(sum(input, 1) + scalar(std::numeric_limits<double>::quiet_NaN(), wide, x.device()), x.dtype()));
  // Any constant near the mean will do for the shift: the result, and so the gradient, does not depend on it.
  const Tensor difference = input - scale(sum(detach(input), 1, KeepDim::yes), 1.0 / count);
  const Tensor rest = sum(difference, 1);
  const Tensor squares = sum(difference * difference, 1) - scale(rest * rest, 1.0 / count);
  const Tensor divisor = scalar(std::max(count - correction, 0.0), wide, x.device());
  return over.finish(cast(squares / divisor, x.dtype()));
}
Tensor var(const Tensor& x, double correction) { return var(x, std::vector<int>{}, correction); }
Tensor var(const Tensor& x, int dim, double correction, KeepDim keep) {
  return var(x, std::vector<int>{dim}, correction, keep);
}

Tensor logsumexp(const Tensor& x, const std::vector<int>& dims, KeepDim keep) {
  check_floating("logsumexp", x);
  return Over("logsumexp", x, dims, keep).apply([&](const Tensor& t) {
    const Tensor input = cast(t, x.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32);
    const Tensor shift = clamped(extreme("logsumexp", detach(input), false));
    const Tensor total = sum(exp(input - reshape(shift, {input.size(0), 1, input.size(2)})), 1);
    return cast(log(total) + shift, x.dtype());
  });
}
Tensor logsumexp(const Tensor& x) { return logsumexp(x, std::vector<int>{}); }
Tensor logsumexp(const Tensor& x, int dim, KeepDim keep) { return logsumexp(x, std::vector<int>{dim}, keep); }

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
