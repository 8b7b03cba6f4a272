#include "autograd/matmul.h"

#include <algorithm>

#include "autograd/channel_vector.h"
#include "autograd/elementwise.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "autograd/reduce.h"
#include "kernels/matmul.h"

namespace weft {
namespace {

using kernels::Contiguous;

Shape leading(const Tensor& x) {
  Shape shape;
  for (int d = 0; d + 2 < x.rank(); ++d) shape.push_back(x.size(d));
  return shape;
}

// How the matrices of a tensor lie in memory.
struct Layout {
  bool rows_dense, columns_dense;  // neither: a kernel cannot read them
  std::int64_t row, column;        // elements between the rows (columns) where they are dense
};
Layout layout_of(const Tensor& x) {
  const std::int64_t rows = x.size(-2), columns = x.size(-1);
  const std::int64_t row = x.strides()[x.rank() - 2], column = x.strides()[x.rank() - 1];
  // The stride of a single element means nothing.
  const std::int64_t between_rows = rows > 1 ? row : std::max<std::int64_t>(columns, 1);
  const std::int64_t between_columns = columns > 1 ? column : std::max<std::int64_t>(rows, 1);
  return {.rows_dense = (column == 1 || columns <= 1) && between_rows >= columns,
          .columns_dense = (row == 1 || rows <= 1) && between_columns >= rows,
          .row = between_rows,
          .column = between_columns};
}
Tensor readable(const Tensor& x) {
  const Layout layout = layout_of(x);
  return layout.rows_dense || layout.columns_dense ? x : contiguous(x);
}

// The dimensions of the batch; those over which all operands step evenly are one.
kernels::MatmulBatch batch_of(const Shape& shape, const Tensor& a, const Tensor& b) {
  kernels::MatmulBatch batch;
  batch.count = shape.numel();
  const auto step = [&](const Tensor& x, int d) {  // d counts from the last leading dimension
    const int own = x.rank() - 3 - d;
    return own < 0 || x.size(own) == 1 ? 0 : x.strides()[own];
  };
  for (int d = shape.rank() - 1; d >= 0; --d) {
    const std::int64_t extent = shape[d];
    if (extent == 1) continue;
    const std::int64_t a_step = step(a, shape.rank() - 1 - d), b_step = step(b, shape.rank() - 1 - d);
    const int last = batch.dims - 1;  // the one just inside, for now in reverse order
    if (last >= 0 && a_step == batch.a_step[last] * batch.extent[last] &&
        b_step == batch.b_step[last] * batch.extent[last]) {
      batch.extent[last] *= extent;
      continue;
    }
    batch.extent[batch.dims] = extent;
    batch.a_step[batch.dims] = a_step;
    batch.b_step[batch.dims] = b_step;
    ++batch.dims;
  }
  std::reverse(batch.extent, batch.extent + batch.dims);
  std::reverse(batch.a_step, batch.a_step + batch.dims);
  std::reverse(batch.b_step, batch.b_step + batch.dims);
  return batch;
}

// c (=|+=) a b for readable operands of at least two dimensions; c is contiguous.
void multiply(const Tensor& a, const Tensor& b, const Tensor& c, Accumulate mode) {
  const Layout a_layout = layout_of(a), b_layout = layout_of(b);
  const std::int64_t m = a.size(-2), k = a.size(-1), n = b.size(-1);
  const kernels::MatmulBatch batch = batch_of(leading(c), a, b);
  const std::int64_t bytes = kernels::matmul_workspace(c.device(), c.dtype(), batch.count, m, n, k);
  const Tensor scratch = bytes > 0 ? Tensor::empty({bytes}, Dtype::u8, c.device()) : Tensor();
  kernels::matmul(c.device(), {.dtype = c.dtype(),
                               .m = m,
                               .n = n,
                               .k = k,
                               .a = a.raw_data(),
                               .b = b.raw_data(),
                               .c = c.raw_data(),
                               .a_order = a_layout.rows_dense ? Contiguous::k : Contiguous::outer,
                               .b_order = b_layout.rows_dense ? Contiguous::outer : Contiguous::k,
                               .a_row = a_layout.rows_dense ? a_layout.row : a_layout.column,
                               .b_row = b_layout.rows_dense ? b_layout.row : b_layout.column,
                               .batch = batch,
                               .mode = mode,
                               .workspace = detail::data_or_null(scratch)});
}

struct MatmulNode final : Node {
  const char* name() const override { return "matmul"; }

  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    const Tensor dc = readable(dy[0]);
    if (dx.wanted(0)) gradient(0, dc, b.get(name()).transpose(-2, -1), a_shape, dx);
    if (dx.wanted(1)) gradient(1, a.get(name()).transpose(-2, -1), dc, b_shape, dx);
  }
  void release() override {
    a.reset();
    b.reset();
  }

  // left right, summed to the shape of an input.
  static void gradient(int input, const Tensor& left, const Tensor& right, const Shape& shape, Gradients& dx) {
    Shape whole = broadcast_shapes(leading(left), leading(right), "matmul");
    whole.push_back(left.size(-2));
    whole.push_back(right.size(-1));
    if (whole == shape) {
      const Gradients::Target target = dx.target(input, shape, left.dtype(), left.device());
      return multiply(left, right, target.tensor, target.mode);
    }
    const Tensor product = Tensor::empty(whole, left.dtype(), left.device());
    multiply(left, right, product, Accumulate::overwrite);
    dx.set(input, sum_to(product, shape));
  }

  Saved a, b;  // without a graph
  Shape a_shape, b_shape;
};

// Of matrices: at least two dimensions each.
Tensor product(const Tensor& a_, const Tensor& b_) {
  const Tensor a = readable(a_), b = readable(b_);
  Shape shape = broadcast_shapes(leading(a), leading(b), "matmul");
  shape.push_back(a.size(-2));
  shape.push_back(b.size(-1));
  Tensor c = Tensor::empty(shape, a.dtype(), a.device());
  multiply(a, b, c, Accumulate::overwrite);
  detail::check_anomaly("matmul", {&c});
  if (auto node = record<MatmulNode>({&c}, {&a, &b})) {
    node->a = a;
    node->b = b;
    node->a_shape = a.shape();
    node->b_shape = b.shape();
  }
  return c;
}

void check(const Tensor& a, const Tensor& b) {
  require<ShapeError>(a.rank() >= 1 && b.rank() >= 1, "matmul",
                      "a and b must have at least one dimension but have {} and {}", a.shape(), b.shape());
  const std::int64_t k = a.size(-1), other = b.size(b.rank() == 1 ? 0 : -2);
  require<ShapeError>(k == other, "matmul",
                      "a must have shape [..., M, K] and b [..., K, N] but they have {} and {}: {} and {} differ",
                      a.shape(), b.shape(), k, other);
  require<DtypeError>(is_floating(a.dtype()) && a.dtype() == b.dtype(), "matmul",
                      "a and b must have one floating dtype but have {} and {}", to_string(a.dtype()),
                      to_string(b.dtype()));
  require<DeviceError>(a.device() == b.device(), "matmul", "a and b must be on one device but are on {} and {}",
                       a.device(), b.device());
}

// Without the dimensions that stood in for those of a vector.
Shape result_shape(const Tensor& c, bool a_is_vector, bool b_is_vector) {
  Shape shape = leading(c);
  if (!a_is_vector) shape.push_back(c.size(-2));
  if (!b_is_vector) shape.push_back(c.size(-1));
  return shape;
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  check(a, b);
  const bool a_is_vector = a.rank() == 1, b_is_vector = b.rank() == 1;
  const Tensor left = a_is_vector ? a.unsqueeze(0) : a, right = b_is_vector ? b.unsqueeze(1) : b;
  // Many matrices times one are one tall matrix times it: one product, and a gradient of b that is summed inside it.
  if (left.rank() > 2 && right.rank() == 2 && left.is_contiguous() && left.numel() > 0) {
    const Tensor c = product(left.reshape({-1, left.size(-1)}), right);
    Shape shape = leading(left);
    shape.push_back(left.size(-2));
    if (!b_is_vector) shape.push_back(right.size(-1));
    return c.reshape(shape);
  }
  const Tensor c = product(left, right);
  return a_is_vector || b_is_vector ? c.reshape(result_shape(c, a_is_vector, b_is_vector)) : c;
}

Tensor matmul_composite(const Tensor& a, const Tensor& b) {
  check(a, b);
  const bool a_is_vector = a.rank() == 1, b_is_vector = b.rank() == 1;
  const Tensor left = a_is_vector ? a.unsqueeze(0) : a, right = b_is_vector ? b.unsqueeze(1) : b;
  // [..., M, K, 1] * [..., 1, K, N], summed over K.
  const Tensor c = sum(mul(left.unsqueeze(-1), right.unsqueeze(-3)), -2);
  return a_is_vector || b_is_vector ? reshape(c, result_shape(c, a_is_vector, b_is_vector)) : c;
}

}  // namespace weft
