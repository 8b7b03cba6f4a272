#include "autograd/join.h"

#include <algorithm>

#include "autograd/cast.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/node.h"

namespace weft {
namespace {

std::vector<const Tensor*> refs(std::span<const Tensor> tensors) {
  std::vector<const Tensor*> all;
  all.reserve(tensors.size());
  for (const Tensor& tensor : tensors) all.push_back(&tensor);
  return all;
}

// "[2, *, 4]"
std::string shape_but(const Shape& shape, int dim) {
  std::string text = "[";
  for (int d = 0; d < shape.rank(); ++d)
    text += (d > 0 ? ", " : "") + (d == dim ? std::string("*") : std::to_string(shape[d]));
  return text + "]";
}

// --- concat --------------------------------------------------------------------------------------------------------

struct ConcatNode final : Node {
  const char* name() const override { return "concat"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    std::int64_t at = 0;
    for (std::size_t n = 0; n < extents.size(); ++n) {
      const std::int64_t end = at + extents[n];
      if (dx.wanted(static_cast<int>(n))) dx.set(static_cast<int>(n), cast(dy[0].slice(dim, at, end), dtypes[n]));
      at = end;
    }
  }
  bool reusable() const override { return true; }

  int dim = 0;
  std::vector<std::int64_t> extents;  // of the inputs, along dim
  std::vector<Dtype> dtypes;
};

// `op` is concat or stack.
void check_devices(const char* op, std::span<const Tensor> tensors) {
  require(!tensors.empty(), op, "needs at least one tensor");
  for (std::size_t n = 1; n < tensors.size(); ++n)
    require<DeviceError>(tensors[n].device() == tensors[0].device(), op,
                         "tensor {} must be on {} like tensor 0 but is on {}", n, tensors[0].device(),
                         tensors[n].device());
}

// --- split ---------------------------------------------------------------------------------------------------------

struct SplitNode final : Node {
  const char* name() const override { return "split"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    Tensor whole = Tensor::empty(base, dtype, device);
    std::int64_t at = 0;
    for (std::size_t n = 0; n < dy.size(); ++n) {
      const Tensor part = whole.slice(dim, at, at + extents[n]);
      at += extents[n];
      if (dy[n].defined())
        copy_(part, dy[n]);
      else
        fill_(part, 0);
    }
    dx.set(0, std::move(whole));
  }
  bool reusable() const override { return true; }

  int dim = 0;
  std::vector<std::int64_t> extents;
  Shape base;
  Dtype dtype = Dtype::f32;
  Device device;
};

// --- pad -----------------------------------------------------------------------------------------------------------

struct Sides {
  std::int64_t before, after;
};

std::vector<Sides> negated(std::vector<Sides> sides) {
  for (Sides& side : sides) side = {-side.before, -side.after};
  return sides;
}

// The part of x that stays where sides are negative.
Tensor cropped(const Tensor& x, const std::vector<Sides>& sides) {
  Tensor part = x;
  for (int d = 0; d < x.rank(); ++d) {
    const auto [before, after] = sides[static_cast<std::size_t>(d)];
    if (before < 0 || after < 0)
      part = part.slice(d, std::max<std::int64_t>(-before, 0), x.size(d) - std::max<std::int64_t>(-after, 0));
  }
  return part;
}

// Every element of y is written once: slabs of the constant from the outermost dimension inwards, then x.
Tensor padded(const Tensor& x, const std::vector<Sides>& sides, double value) {
  Shape shape = x.shape();
  for (int d = 0; d < x.rank(); ++d)
    shape[d] += sides[static_cast<std::size_t>(d)].before + sides[static_cast<std::size_t>(d)].after;
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  Tensor inside = y;
  for (int d = 0; d < x.rank(); ++d) {
    const std::int64_t before = std::max<std::int64_t>(sides[static_cast<std::size_t>(d)].before, 0),
                       end = shape[d] - std::max<std::int64_t>(sides[static_cast<std::size_t>(d)].after, 0);
    if (before > 0) fill_(inside.slice(d, 0, before), value);
    if (end < shape[d]) fill_(inside.slice(d, end, shape[d]), value);
    inside = inside.slice(d, before, end);
  }
  copy_(inside, cropped(x, sides));
  return y;
}

struct PadNode final : Node {
  const char* name() const override { return "pad"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    const std::vector<Sides> back = negated(sides);
    const bool cut = std::any_of(back.begin(), back.end(), [](const Sides& s) { return s.before > 0 || s.after > 0; });
    dx.set(0, cut ? padded(dy[0], back, 0) : cropped(dy[0], back));
  }
  bool reusable() const override { return true; }

  std::vector<Sides> sides;  // of each dimension
};

}  // namespace

Tensor concat(std::span<const Tensor> tensors, int dim) {
  check_devices("concat", tensors);
  const Tensor& first = tensors[0];
  require<ShapeError>(first.rank() >= 1, "concat", "scalars have no dimension to be joined along: stack them");
  dim = normalise_dim(dim, first.rank(), "concat");
  Shape shape = first.shape();
  Dtype dtype = first.dtype();
  shape[dim] = 0;
  for (std::size_t n = 0; n < tensors.size(); ++n) {
    const Tensor& x = tensors[n];
    bool fits = x.rank() == first.rank();
    for (int d = 0; fits && d < x.rank(); ++d) fits = d == dim || x.shape()[d] == shape[d];
    require<ShapeError>(fits, "concat", "tensor {} must have shape {} like tensor 0 but has {}", n,
                        shape_but(first.shape(), dim), x.shape());
    shape[dim] += x.shape()[dim];
    dtype = promote(dtype, x.dtype());
  }
  Tensor y = Tensor::empty(shape, dtype, first.device());
  std::int64_t at = 0;
  for (const Tensor& x : tensors) {
    copy_(y.slice(dim, at, at + x.shape()[dim]), x);
    at += x.shape()[dim];
  }
  const Tensor* const outputs[] = {&y};
  if (!is_floating(dtype)) return y;
  if (auto node = record<ConcatNode>(outputs, refs(tensors))) {
    node->dim = dim;
    for (const Tensor& x : tensors) {
      node->extents.push_back(x.shape()[dim]);
      node->dtypes.push_back(x.dtype());
    }
  }
  return y;
}

Tensor stack(std::span<const Tensor> tensors, int dim) {
  check_devices("stack", tensors);
  dim = normalise_dim(dim, tensors[0].rank() + 1, "stack");
  std::vector<Tensor> rows;
  rows.reserve(tensors.size());
  for (std::size_t n = 0; n < tensors.size(); ++n) {
    require<ShapeError>(tensors[n].shape() == tensors[0].shape(), "stack",
                        "tensor {} must have shape {} like tensor 0 but has {}", n, tensors[0].shape(),
                        tensors[n].shape());
    rows.push_back(tensors[n].unsqueeze(dim));
  }
  return concat(rows, dim);
}

std::vector<Tensor> split(const Tensor& x, std::span<const std::int64_t> sizes, int dim) {
  dim = normalise_dim(dim, x.rank(), "split");
  std::int64_t total = 0;
  bool negative = false;
  for (const std::int64_t size : sizes) {
    total += size;
    negative = negative || size < 0;
  }
  if (negative || total != x.size(dim)) {
    std::string text = "[";
    for (std::size_t n = 0; n < sizes.size(); ++n) text += (n > 0 ? ", " : "") + std::to_string(sizes[n]);
    text += "]";
    require<ShapeError>(!negative, "split", "sizes must not be negative but are {}", text);
    fail<ShapeError>("split", "sizes {} add up to {} but dimension {} of shape {} has {}", text, total, dim, x.shape(),
                     x.size(dim));
  }
  const Tensor base = x.alias();
  std::vector<Tensor> parts;
  parts.reserve(sizes.size());
  std::int64_t at = 0;
  for (const std::int64_t size : sizes) {
    parts.push_back(base.slice(dim, at, at + size));
    at += size;
  }
  const Tensor* const inputs[] = {&x};
  if (!is_floating(x.dtype())) return parts;
  if (auto node = record<SplitNode>(refs(parts), inputs)) {
    node->dim = dim;
    node->extents.assign(sizes.begin(), sizes.end());
    node->base = x.shape();
    node->dtype = x.dtype();
    node->device = x.device();
  }
  return parts;
}

std::vector<Tensor> split(const Tensor& x, std::int64_t size, int dim) {
  dim = normalise_dim(dim, x.rank(), "split");
  require<ShapeError>(size >= 1, "split", "the size must be at least 1 but is {}", size);
  const std::int64_t extent = x.size(dim);
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(extent / size), size);
  if (extent % size != 0 || extent == 0) sizes.push_back(extent % size);
  return split(x, sizes, dim);
}

Tensor pad(const Tensor& x, std::span<const std::int64_t> padding, double value) {
  require<ShapeError>(padding.size() % 2 == 0 && padding.size() <= 2 * static_cast<std::size_t>(x.rank()), "pad",
                      "needs {{before, after}} for at most {} dimensions but has {} numbers", x.rank(), padding.size());
  std::vector<Sides> sides(static_cast<std::size_t>(x.rank()), Sides{0, 0});
  for (std::size_t i = 0; i < padding.size() / 2; ++i) {
    const std::int64_t before = padding[2 * i], after = padding[2 * i + 1];
    const int d = x.rank() - 1 - static_cast<int>(i);
    const std::int64_t kept = x.size(d) - std::max<std::int64_t>(-before, 0) - std::max<std::int64_t>(-after, 0);
    require<ShapeError>(kept >= 0, "pad", "{{{}, {}}} leaves a negative extent of dimension {} of shape {}", before,
                        after, d, x.shape());
    sides[static_cast<std::size_t>(d)] = {before, after};
  }
  Tensor y = padded(x.alias(), sides, value);
  if (!is_floating(y.dtype())) return y;
  if (auto node = record<PadNode>({&y}, {&x})) node->sides = std::move(sides);
  return y;
}

}  // namespace weft
