#include <cmath>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/index.h"
#include "autograd/layout.h"
#include "autograd/linear.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

const std::vector<Dtype> kMoved = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i64, Dtype::u8};

// [N, V] with a 1 where column v is indices[n]: a product with it reads, or adds up, by index.
Tensor one_hot(const std::vector<std::int64_t>& indices, std::int64_t extent) {
  std::vector<double> values(indices.size() * static_cast<std::size_t>(extent), 0.0);
  for (std::size_t n = 0; n < indices.size(); ++n)
    values[n * static_cast<std::size_t>(extent) + static_cast<std::size_t>(indices[n])] = 1;
  return Tensor::from_vector(values, {static_cast<std::int64_t>(indices.size()), extent});
}
std::vector<std::int64_t> numbers(const Tensor& indices) {
  return cast(indices.alias(), Dtype::i64).to_vector<std::int64_t>();
}

// As often as one index is drawn of so many among `extent`, roughly: the terms of a gradient's sum.
double repeats(std::int64_t count, std::int64_t extent) {
  return std::ceil(2.0 * static_cast<double>(count) / static_cast<double>(std::max<std::int64_t>(extent, 1)));
}

// Rows by a product for small tables (a graph comes with it), else by copying them.
Tensor rows_of(const Tensor& table, const Tensor& indices) {
  const std::vector<std::int64_t> at = numbers(indices);
  const std::int64_t extent = table.size(0), width = table.size(1), count = static_cast<std::int64_t>(at.size());
  if (count * extent <= 4096) return linear(one_hot(at, extent), table.t());
  const std::vector<double> values = contiguous(table.alias()).to_vector<double>();
  std::vector<double> rows;
  for (const std::int64_t v : at) rows.insert(rows.end(), values.begin() + v * width, values.begin() + (v + 1) * width);
  return Tensor::from_vector(rows, {count, width});
}

// --- index_select ---------------------------------------------------------------------------------------------------

Sample select_sample(const std::string& name, Kind kind, const Shape& shape, int dim, std::int64_t count,
                     std::int64_t below, Dtype dtype = Dtype::i64) {
  const int d = dim < 0 ? dim + shape.rank() : dim;
  return {.name = name,
          .kind = kind,
          .inputs = {with_terms(normal(shape), repeats(count, below)), integers({count}, 0, below, dtype)},
          .call = [=](const Tensors& x) { return index_select(x[0], dim, x[1]); },
          .reference =
              [=](const Tensors& x) {
                const Tensor front = x[0].transpose(0, d);
                Shape result = front.shape();
                result[0] = count;
                const Tensor table = reshape(front, {shape[d], shape.numel() / std::max<std::int64_t>(shape[d], 1)});
                return contiguous(reshape(rows_of(table, x[1]), result).transpose(0, d));
              }};
}

OpCase select_case() {
  OpCase c{.op = "index_select", .stem = "index", .functions = {"index_select"}, .dtypes = kMoved};
  c.samples = {
      select_sample("rows", Kind::usual, {5, 8}, 0, 7, 5),
      select_sample("columns", Kind::usual, {3, 5}, 1, 4, 5),
      select_sample("in the middle", Kind::odd, {3, 5, 7}, -2, 9, 5),
      select_sample("i32 indices", Kind::usual, {5, 4}, 0, 6, 5, Dtype::i32),
      select_sample("one index only", Kind::usual, {5, 4}, 0, 12, 1),
      select_sample("no index", Kind::empty, {5, 4}, 0, 0, 5),
      select_sample("one", Kind::one, {1, 1}, 0, 1, 1),
      select_sample("no columns", Kind::empty, {5, 0}, 0, 3, 5),
      select_sample("rows of several blocks", Kind::large, {3, 5000}, 0, 4, 3),
      select_sample("many", Kind::large, {300, 20}, 0, 900, 300),
      select_sample("many of few, in the middle", Kind::large, {2, 3, 12}, 1, 1500, 2),
  };
  const auto workload = [](int dim) {
    return [dim](const Extents& e, double bytes) {
      const double moved = static_cast<double>(e[1] * e[2]) * 2 * bytes + static_cast<double>(e[1]) * 8;
      return Workload{
          .inputs = {normal(dim == 0 ? Shape{e[0], e[2]} : Shape{e[2] / 32, e[0], 32}), integers({e[1]}, 0, e[0])},
          .call = [dim](const Tensors& x) { return index_select(x[0], dim, x[1]); },
          .forward = {.bytes = moved}};
    };
  };
  c.families = {{.extents = {"V", "N", "D"},
                 .make = workload(0),
                 .timed = {{4096, 4096, 1024}},
                 .counted = {{512, 1024, 96}, {64, 32, 8192}},
                 .dtypes = {Dtype::f32, Dtype::bf16}},
                {.suffix = "_middle",
                 .extents = {"V", "N", "D"},
                 .make = workload(1),
                 .timed = {{512, 512, 1024}},
                 .counted = {{512, 1024, 96}}}};
  return c;
}

// --- gather and scatter_add -----------------------------------------------------------------------------------------

// Where element e of index points to in a dense tensor of `shape`.
std::vector<std::int64_t> places(const Shape& shape, int dim, const Tensor& index) {
  const std::vector<std::int64_t> at = numbers(index);
  const Strides strides = contiguous_strides(shape), own = contiguous_strides(index.shape());
  std::vector<std::int64_t> result;
  for (std::size_t e = 0; e < at.size(); ++e) {
    std::int64_t place = at[e] * strides[dim];
    for (int d = 0; d < shape.rank(); ++d)
      if (d != dim) place += static_cast<std::int64_t>(e) / own[d] % index.size(d) * strides[d];
    result.push_back(place);
  }
  return result;
}
Tensor as_indices(const std::vector<std::int64_t>& at) {
  return Tensor::from_vector(at, {static_cast<std::int64_t>(at.size())});
}

Sample gather_sample(const std::string& name, Kind kind, const Shape& shape, int dim, const Shape& index) {
  const int d = dim < 0 ? dim + shape.rank() : dim;
  return {.name = name,
          .kind = kind,
          .inputs = {with_terms(normal(shape), repeats(index[d], shape[d])), integers(index, 0, shape[d])},
          .call = [=](const Tensors& x) { return gather(x[0], dim, x[1]); },
          .reference =
              [=](const Tensors& x) {
                return reshape(rows_of(reshape(x[0], {shape.numel(), 1}), as_indices(places(shape, d, x[1]))), index);
              }};
}

OpCase gather_case() {
  OpCase c{.op = "gather", .stem = "index", .functions = {"gather"}, .dtypes = kMoved};
  c.samples = {
      gather_sample("rows", Kind::usual, {5, 4}, 0, {7, 4}),
      gather_sample("columns", Kind::usual, {3, 5}, 1, {3, 2}),
      gather_sample("in the middle, index shorter elsewhere", Kind::odd, {3, 5, 7}, -2, {2, 9, 5}),
      gather_sample("a vector", Kind::usual, {6}, 0, {11}),
      gather_sample("one", Kind::one, {1, 1}, 1, {1, 1}),
      gather_sample("empty", Kind::empty, {3, 4}, 1, {3, 0}),
      gather_sample("large", Kind::large, {70, 60}, 1, {70, 50}),
      gather_sample("many of few", Kind::large, {3, 2}, 0, {1700, 2}),
  };
  c.families = {{.extents = {"R", "C"},
                 .make =
                     [](const Extents& e, double bytes) {
                       return Workload{.inputs = {normal({e[0], e[1]}), integers({e[0], 1}, 0, e[1])},
                                       .call = [](const Tensors& x) { return gather(x[0], 1, x[1]); },
                                       .forward = {.bytes = static_cast<double>(e[0]) * (2 * bytes + 8)}};
                     },
                 .timed = {{8192, 1024}}}};
  return c;
}

Sample scatter_sample(const std::string& name, Kind kind, const Shape& shape, int dim, const Shape& index,
                      const Shape& source) {
  const int d = dim < 0 ? dim + shape.rank() : dim;
  const double terms = 1 + repeats(index[d], shape[d]);
  return {
      .name = name,
      .kind = kind,
      .inputs = {normal(shape), integers(index, 0, shape[d]), normal(source)},
      .call = [=](const Tensors& x) { return scatter_add(x[0], dim, x[1], x[2]); },
      .reference =
          [=](const Tensors& x) {
            Tensor used = x[2];
            for (int k = 0; k < used.rank(); ++k) used = used.slice(k, 0, index[k]);
            const std::vector<std::int64_t> at = places(shape, d, x[1]);
            if (static_cast<std::int64_t>(at.size()) * shape.numel() <= 4096)
              return x[0] + reshape(linear(reshape(used, {1, index.numel()}), one_hot(at, shape.numel()).t()), shape);
            std::vector<double> y = x[0].alias().to_vector<double>();
            const std::vector<double> added = contiguous(used.alias()).to_vector<double>();
            for (std::size_t e = 0; e < at.size(); ++e) y[static_cast<std::size_t>(at[e])] += added[e];
            return Tensor::from_vector(y, shape);
          },
      .terms = terms,
      .scale = std::sqrt(terms)};
}

OpCase scatter_case() {
  OpCase c{.op = "scatter_add", .stem = "index", .functions = {"scatter_add"}};
  c.samples = {
      scatter_sample("rows", Kind::usual, {5, 4}, 0, {7, 4}, {7, 4}),
      scatter_sample("columns, a longer source", Kind::usual, {3, 5}, 1, {3, 2}, {4, 3}),
      scatter_sample("in the middle", Kind::odd, {3, 5, 7}, -2, {2, 4, 5}, {2, 4, 5}),
      scatter_sample("all to one place", Kind::usual, {1}, 0, {40}, {40}),
      scatter_sample("one", Kind::one, {1, 1}, 1, {1, 1}, {1, 1}),
      scatter_sample("empty", Kind::empty, {3, 4}, 1, {3, 0}, {3, 2}),
      scatter_sample("large", Kind::large, {70, 60}, 1, {70, 50}, {70, 50}),
      scatter_sample("many to few", Kind::large, {3, 2}, 0, {1700, 2}, {1700, 2}),
  };
  c.families = {{.extents = {"R", "C"},
                 .make =
                     [](const Extents& e, double bytes) {
                       return Workload{
                           .inputs = {normal({e[0], e[1]}), integers({e[0], e[1]}, 0, e[0]), normal({e[0], e[1]})},
                           .call = [](const Tensors& x) { return scatter_add(x[0], 0, x[1], x[2]); },
                           .forward = {.bytes = static_cast<double>(e[0] * e[1]) * (3 * bytes + 8)}};
                     },
                 .timed = {{1024, 1024}}}};
  return c;
}

// --- embedding ------------------------------------------------------------------------------------------------------

Sample embedding_sample(const std::string& name, Kind kind, const Shape& weight, const Shape& indices,
                        std::int64_t below, std::optional<std::int64_t> padding_idx = {}) {
  return {
      .name = name,
      .kind = kind,
      .inputs = {with_terms(normal(weight), repeats(indices.numel(), below)), integers(indices, 0, below)},
      .call = [=](const Tensors& x) { return embedding(x[0], x[1], padding_idx); },
      .reference =
          [=](const Tensors& x) {
            Shape result = indices;
            result.push_back(weight[1]);
            Tensor rows = rows_of(x[0], x[1]);
            if (padding_idx) {  // its row as a constant
              std::vector<double> counts;
              for (const std::int64_t v : numbers(x[1])) counts.push_back(v == *padding_idx ? 0 : 1);
              const Tensor trained = Tensor::from_vector(counts, {indices.numel(), 1});
              rows = rows * trained + rows_of(x[0].alias(), x[1]) * (ones({indices.numel(), 1}, Dtype::f64) - trained);
            }
            return reshape(rows, result);
          },
      // The row of padding_idx does have a derivative, which is left out on purpose.
      .gradcheck = !padding_idx};
}

OpCase embedding_case() {
  OpCase c{.op = "embedding", .stem = "index", .functions = {"embedding"}};
  c.samples = {
      embedding_sample("V=5 N=2x3 D=8", Kind::usual, {5, 8}, {2, 3}, 5),
      embedding_sample("padding", Kind::usual, {4, 6}, {3, 4}, 4, 1),
      embedding_sample("V=1", Kind::usual, {1, 4}, {9}, 1),
      embedding_sample("a scalar index", Kind::usual, {3, 4}, {}, 3),
      embedding_sample("one", Kind::one, {1, 1}, {1}, 1),
      embedding_sample("no index", Kind::empty, {3, 4}, {0, 2}, 3),
      embedding_sample("V=7 N=13 D=33", Kind::odd, {7, 33}, {13}, 7),
      embedding_sample("two passes", Kind::large, {300, 40}, {700}, 300),
      embedding_sample("three passes", Kind::large, {66000, 2}, {500}, 66000),
      embedding_sample("one id for all", Kind::large, {5, 36}, {3, 700}, 1),
      embedding_sample("long runs side by side", Kind::large, {9, 130}, {2500}, 4),
      embedding_sample("long runs, one column", Kind::large, {40, 1}, {5000}, 9, 3),
  };
  // Backward is not counted: what it moves beyond dy and dweight are the integers of the sort (some 60 bytes per
  // index), and the digits of neighbouring indices meet in the same bank as chance will have it.
  c.families = {{.extents = {"V", "N", "D"},
                 .make =
                     [](const Extents& e, double bytes) {
                       const auto v = static_cast<double>(e[0]), n = static_cast<double>(e[1]),
                                  d = static_cast<double>(e[2]);
                       return Workload{.inputs = {normal({e[0], e[2]}), integers({e[1]}, 0, e[0])},
                                       .call = [](const Tensors& x) { return embedding(x[0], x[1]); },
                                       .forward = {.bytes = n * d * 2 * bytes + n * 8},
                                       .backward = {.bytes = (n + v) * d * bytes + n * 8}};
                     },
                 .timed = {{50304, 4096, 768}, {1024, 16384, 256}},
                 .counted = {{1024, 2048, 64}},
                 .dtypes = {Dtype::f32, Dtype::bf16},
                 .passes = Family::Passes::forward}};
  return c;
}

}  // namespace

std::vector<OpCase> index_cases() { return {select_case(), gather_case(), scatter_case(), embedding_case()}; }

}  // namespace weft::cases
