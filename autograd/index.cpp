#include "autograd/index.h"

#include "autograd/cast.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "kernels/index.h"
#include "tensor/status.h"

namespace weft {
namespace {

constexpr std::int64_t kMostKeys = (std::int64_t{1} << 31) - 2;

DeviceStatus* status_of(Device device) { return device.kind == DeviceKind::cpu ? nullptr : status_word(device); }
// The emulator's status word is read at once: it costs nothing there.
void check_at_once(Device device) {
  if (device.kind == DeviceKind::simt) check_status(device);
}

// The indices as the kernels take them.
Tensor checked_indices(const char* op, const Tensor& indices, const Tensor& x) {
  require<DtypeError>(indices.dtype() == Dtype::i64 || indices.dtype() == Dtype::i32, op,
                      "indices must be i64 or i32 but are {}: cast them", to_string(indices.dtype()));
  require<DeviceError>(indices.device() == x.device(), op, "indices must be on {} like x but are on {}", x.device(),
                       indices.device());
  return contiguous(cast(indices.alias(), Dtype::i64));
}

void check_countable(const char* op, std::int64_t elements, const char* what) {
  require(elements <= kMostKeys, op, "{} must be below 2^31 - 1 for its sums by index but is {}", what, elements);
}

// --- sums by index ---------------------------------------------------------------------------------------------------

// Where the sums go and what they are of: rows [outer, count, inner] of `source` to rows [outer, extent, inner] of
// `out`.
struct Sums {
  const char* op;
  std::int64_t outer, extent, count, inner;
  std::int64_t skip = -1;
};

// Exactly one of `indices` (i64) and `unsorted` (i32) is given.
void add_by_index(const Sums& sums, const std::int64_t* indices, const std::int32_t* unsorted, const Tensor& source,
                  const Tensor& out, Accumulate mode) {
  check_countable(sums.op, sums.count, "the number of indices");
  check_countable(sums.op, sums.extent, "the number of places");
  const Device device = out.device();
  const auto ints = [&](std::int64_t count) { return Tensor::empty({count}, Dtype::i32, device); };
  const Tensor keys = ints(sums.count), order = ints(sums.count),
               workspace = ints(kernels::index_sort_workspace(device, sums.count, sums.extent));
  kernels::index_sort(device, {.count = sums.count,
                               .extent = sums.extent,
                               .skip = sums.skip,
                               .indices = indices,
                               .unsorted = unsorted,
                               .keys = keys.data<std::int32_t>(),
                               .order = order.data<std::int32_t>(),
                               .workspace = workspace.data<std::int32_t>()});
  const Tensor partials = Tensor::empty({kernels::index_add_partials(sums.outer, sums.count, sums.inner)},
                                        out.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32, device);
  kernels::index_add(device, {.dtype = out.dtype(),
                              .mode = mode,
                              .outer = sums.outer,
                              .extent = sums.extent,
                              .count = sums.count,
                              .inner = sums.inner,
                              .keys = keys.data<std::int32_t>(),
                              .order = order.data<std::int32_t>(),
                              .source = source.raw_data(),
                              .out = out.raw_data(),
                              .partials = partials.raw_data()});
}

// --- index_select and embedding -------------------------------------------------------------------------------------

// A shape seen as [outer, extent of dim, inner].
struct Around {
  std::int64_t outer = 1, inner = 1;
  Around(const Shape& shape, int dim) {
    for (int d = 0; d < shape.rank(); ++d) (d < dim ? outer : inner) *= d == dim ? 1 : shape[d];
  }
};

struct IndexSelectNode final : Node {
  const char* name() const override { return op; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    if (!dx.wanted(0)) return;
    const Tensor& at = indices.get(name());
    const Tensor source = contiguous(dy[0]);
    const auto [out, mode] = dx.target(0, base, source.dtype(), source.device());
    const Around around(base, dim);
    add_by_index({.op = op,
                  .outer = around.outer,
                  .extent = base[dim],
                  .count = at.numel(),
                  .inner = around.inner,
                  .skip = skip},
                 at.data<std::int64_t>(), nullptr, source, out, mode);
  }
  void release() override { indices.reset(); }

  const char* op = "index_select";
  Saved indices;  // i64, contiguous
  Shape base;     // of x
  int dim = 0;
  std::int64_t skip = -1;  // padding_idx
};

// `shape` is that of the result.
Tensor select(const char* op, StatusCode code, const Tensor& x_, int dim, const Tensor& at, const Shape& shape,
              std::int64_t skip) {
  const Tensor x = contiguous(x_);
  const Device device = x.device();
  const Around around(x.shape(), dim);
  Tensor y = Tensor::empty(shape, x.dtype(), device);
  kernels::index_select(device, {.dtype = x.dtype(),
                                 .outer = around.outer,
                                 .extent = x.shape()[dim],
                                 .count = at.numel(),
                                 .inner = around.inner,
                                 .in = x.raw_data(),
                                 .indices = at.data<std::int64_t>(),
                                 .out = y.raw_data(),
                                 .code = code,
                                 .status = status_of(device)});
  check_at_once(device);
  if (!is_floating(y.dtype())) return y;
  detail::check_anomaly(op, {&y});
  if (auto node = record<IndexSelectNode>({&y}, {&x})) {
    node->op = op;
    node->indices = at;
    node->base = x.shape();
    node->dim = dim;
    node->skip = skip;
  }
  return y;
}

// --- gather and scatter_add -----------------------------------------------------------------------------------------

void check_index_shape(const char* op, const Shape& index, const Shape& x, int dim, const char* name) {
  bool fits = index.rank() == x.rank();
  for (int d = 0; fits && d < x.rank(); ++d) fits = d == dim || index[d] <= x[d];
  if (fits) return;
  if (dim >= 0)
    fail<ShapeError>(op, "index must not be longer than {} of shape {} but for dimension {}, but has {}", name, x, dim,
                     index);
  fail<ShapeError>(op, "index must not be longer than {} of shape {} but has {}", name, x, index);
}

// What the kernel needs to find the places of x that `index` names.
kernels::Gather places(StatusCode code, Dtype dtype, const Shape& x_shape, const Strides& x_strides, int dim,
                       const Tensor& index) {
  Strides strides = x_strides;
  strides[dim] = 0;
  return {.dtype = dtype,
          .shape = index.shape(),
          .in_strides = strides,
          .index_stride = x_strides[dim],
          .extent = x_shape[dim],
          .in = nullptr,
          .index = index.data<std::int64_t>(),
          .out = nullptr,
          .keys = nullptr,
          .code = code,
          .status = status_of(index.device())};
}

// out (`=` or `+=`) the elements of source, at the places of a dense tensor of out's shape that `index` names.
void scatter(const char* op, StatusCode code, const Tensor& out, int dim, const Tensor& index, const Tensor& source,
             Accumulate mode) {
  check_countable(op, out.numel(), "the number of elements");
  check_countable(op, index.numel(), "the number of indices");
  const Tensor keys = Tensor::empty(index.shape(), Dtype::i32, index.device());
  kernels::Gather at = places(code, out.dtype(), out.shape(), contiguous_strides(out.shape()), dim, index);
  at.keys = keys.data<std::int32_t>();
  kernels::gather(out.device(), at);
  add_by_index({.op = op, .outer = 1, .extent = out.numel(), .count = index.numel(), .inner = 1}, nullptr,
               keys.data<std::int32_t>(), source, out, mode);
}

struct GatherNode final : Node {
  const char* name() const override { return "gather"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    if (!dx.wanted(0)) return;
    const Tensor source = contiguous(dy[0]);
    const auto [out, mode] = dx.target(0, base, source.dtype(), source.device());
    scatter(name(), StatusCode::gather, out, dim, index.get(name()), source, mode);
  }
  void release() override { index.reset(); }

  Saved index;
  Shape base;  // of x
  int dim = 0;
};

Tensor gathered(StatusCode code, const Tensor& x, int dim, const Tensor& at) {
  Tensor y = Tensor::empty(at.shape(), x.dtype(), x.device());
  kernels::Gather args = places(code, x.dtype(), x.shape(), x.strides(), dim, at);
  args.in = x.raw_data();
  args.out = y.raw_data();
  if (at.numel() > 0) kernels::gather(x.device(), args);
  return y;
}

struct ScatterAddNode final : Node {
  const char* name() const override { return "scatter_add"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    if (dx.wanted(0)) dx.set(0, dy[0]);
    if (dx.wanted(1)) dx.set(1, gathered(StatusCode::scatter_add, dy[0], dim, index.get(name())));
  }
  void release() override { index.reset(); }

  Saved index;
  int dim = 0;
};

}  // namespace

Tensor index_select(const Tensor& x, int dim, const Tensor& indices) {
  const char* const op = "index_select";
  dim = normalise_dim(dim, x.rank(), op);
  require<ShapeError>(indices.rank() <= 1, op, "indices must have shape [N] but have {}", indices.shape());
  const Tensor at = checked_indices(op, indices, x);
  Shape shape = x.shape();
  shape[dim] = at.numel();
  return select(op, StatusCode::index_select, x, dim, at, shape, -1);
}

Tensor embedding(const Tensor& weight, const Tensor& indices, std::optional<std::int64_t> padding_idx) {
  const char* const op = "embedding";
  require<ShapeError>(weight.rank() == 2, op, "weight must have shape [V, D] but has {}", weight.shape());
  require<DtypeError>(is_floating(weight.dtype()), op, "weight must be f64, f32, f16 or bf16 but is {}",
                      to_string(weight.dtype()));
  if (padding_idx)
    require<OptionError>(*padding_idx >= 0 && *padding_idx < weight.size(0), op,
                         "padding_idx must be in [0, {}) but is {}", weight.size(0), *padding_idx);
  const Tensor at = checked_indices(op, indices, weight);
  Shape shape = at.shape();
  shape.push_back(weight.size(1));
  return select(op, StatusCode::embedding, weight, 0, at, shape, padding_idx.value_or(-1));
}

Tensor gather(const Tensor& x, int dim, const Tensor& index) {
  dim = normalise_dim(dim, x.rank(), "gather");
  const Tensor at = checked_indices("gather", index, x);
  check_index_shape("gather", at.shape(), x.shape(), dim, "x");
  Tensor y = gathered(StatusCode::gather, x, dim, at);
  check_at_once(x.device());
  if (!is_floating(y.dtype())) return y;
  detail::check_anomaly("gather", {&y});
  if (auto node = record<GatherNode>({&y}, {&x})) {
    node->index = at;
    node->base = x.shape();
    node->dim = dim;
  }
  return y;
}

Tensor scatter_add(const Tensor& x, int dim, const Tensor& index, const Tensor& source_) {
  const char* const op = "scatter_add";
  dim = normalise_dim(dim, x.rank(), op);
  require<DtypeError>(is_floating(x.dtype()), op, "x must be f64, f32, f16 or bf16 but is {}", to_string(x.dtype()));
  require<DtypeError>(source_.dtype() == x.dtype(), op, "source must be {} like x but is {}", to_string(x.dtype()),
                      to_string(source_.dtype()));
  require<DeviceError>(source_.device() == x.device(), op, "source must be on {} like x but is on {}", x.device(),
                       source_.device());
  const Tensor at = checked_indices(op, index, x);
  check_index_shape(op, at.shape(), x.shape(), dim, "x");
  check_index_shape(op, at.shape(), source_.shape(), -1, "source");
  Tensor source = source_;  // as long as the index; a view, so that the rest gets the gradient 0
  for (int d = 0; d < source.rank(); ++d)
    if (source.size(d) > at.size(d)) source = source.slice(d, 0, at.size(d));
  source = contiguous(source);
  Tensor y = clone(x.alias());
  scatter(op, StatusCode::scatter_add, y, dim, at, source, Accumulate::add);
  check_at_once(x.device());
  detail::check_anomaly(op, {&y});
  if (auto node = record<ScatterAddNode>({&y}, {&x, &source})) {
    node->index = at;
    node->dim = dim;
  }
  return y;
}

}  // namespace weft
