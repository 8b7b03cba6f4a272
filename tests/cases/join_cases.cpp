#include "autograd/cast.h"
#include "autograd/join.h"
#include "autograd/layout.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

using Sizes = std::vector<std::int64_t>;

const std::vector<Dtype> kMoved = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i64, Dtype::u8};

// Where an element of a tensor of this shape is, row-major.
std::int64_t position(const Shape& shape, const Extents& index) {
  std::int64_t at = 0;
  for (int d = 0; d < shape.rank(); ++d) at = at * shape[d] + index[static_cast<std::size_t>(d)];
  return at;
}
// Calls f(index) for every index of the shape, in order.
template <class F>
void for_each_index(const Shape& shape, F&& f) {
  if (shape.numel() == 0) return;
  Extents index(static_cast<std::size_t>(shape.rank()), 0);
  for (;;) {
    f(index);
    int d = shape.rank() - 1;
    while (d >= 0 && ++index[static_cast<std::size_t>(d)] == shape[d]) index[static_cast<std::size_t>(d--)] = 0;
    if (d < 0) return;
  }
}

// An element of the result at an index, from the inputs.
using Element = std::function<double(const std::vector<std::vector<double>>& x, const Extents& index)>;

// Plain loops in f64.
Call loops(const Shape& shape, const Element& element) {
  return [=](const Tensors& x) {
    std::vector<std::vector<double>> values;
    for (const Tensor& tensor : x) values.push_back(tensor.alias().to_vector<double>());
    std::vector<double> result;
    for_each_index(shape, [&](const Extents& index) { result.push_back(element(values, index)); });
    return Tensor::from_vector(result, shape);
  };
}

// --- concat and stack ------------------------------------------------------------------------------------------------

Sample concat_sample(const std::string& name, Kind kind, const Shape& rest, int dim, const Sizes& sizes) {
  const int d = dim < 0 ? dim + rest.rank() : dim;
  Sample s{.name = name, .kind = kind};
  std::vector<Shape> shapes;
  Shape result = rest;
  result[d] = 0;
  for (const std::int64_t size : sizes) {
    Shape shape = rest;
    shape[d] = size;
    result[d] += size;
    shapes.push_back(shape);
    s.inputs.push_back(normal(shape));
  }
  s.call = [=](const Tensors& x) { return concat(x, dim); };
  s.reference = loops(result, [=](const auto& x, Extents index) {
    std::size_t n = 0;
    std::int64_t& at = index[static_cast<std::size_t>(d)];
    while (at >= sizes[n]) at -= sizes[n++];
    return x[n][static_cast<std::size_t>(position(shapes[n], index))];
  });
  return s;
}

OpCase concat_case() {
  OpCase c{.op = "concat", .stem = "copy", .functions = {"concat"}, .dtypes = kMoved, .exact = true};
  const Sample promoted{.name = "f32 with the dtype under test",
                        .inputs = {normal({2, 3}), constant(with_dtype(normal({2, 2}), Dtype::f32))},
                        .call =
                            [](const Tensors& x) {
                              return concat({x[0], x[1]}, 1);
                            },
                        .reference =
                            [](const Tensors& x) {
                              return loops({2, 5}, [](const auto& v, const Extents& i) {
                                return i[1] < 3 ? v[0][static_cast<std::size_t>(i[0] * 3 + i[1])]
                                                : v[1][static_cast<std::size_t>(i[0] * 2 + i[1] - 3)];
                              })({x[0], cast(x[1].alias(), Dtype::f64)});
                            }};
  c.samples = {
      concat_sample("dim 0", Kind::usual, {0, 4}, 0, {2, 3, 1}),
      concat_sample("dim 1", Kind::usual, {3, 0, 4}, 1, {2, 3}),
      concat_sample("dim -1", Kind::odd, {3, 5, 0}, -1, {2, 3, 7}),
      concat_sample("an empty one in between", Kind::usual, {3, 0}, 1, {2, 0, 3}),
      concat_sample("a single tensor", Kind::usual, {3, 0}, 1, {4}),
      concat_sample("nothing at all", Kind::empty, {0, 0}, 1, {2, 3}),
      concat_sample("one element each", Kind::one, {1, 0}, 1, {1, 1}),
      concat_sample("large", Kind::large, {70, 0}, 1, {129, 301}),
      promoted,
  };
  c.families = {{.extents = {"R", "C"},
                 .make =
                     [](const Extents& e, double bytes) {
                       const double moved = static_cast<double>(e[0] * e[1]) * 4 * bytes;
                       return Workload{.inputs = {normal({e[0], e[1]}), normal({e[0], e[1]})},
                                       .call =
                                           [](const Tensors& x) {
                                             return concat({x[0], x[1]}, 1);
                                           },
                                       .forward = {.bytes = moved},
                                       .backward = {.bytes = moved}};
                     },
                 .timed = {{2048, 768}, {8192, 1024}},
                 .counted = {{64, 1024}},
                 .dtypes = {Dtype::f32, Dtype::bf16}}};
  return c;
}

OpCase stack_case() {
  OpCase c{.op = "stack", .stem = "copy", .functions = {"stack"}, .dtypes = kMoved, .exact = true};
  const auto sample = [](const std::string& name, Kind kind, const Shape& shape, int dim, std::int64_t count) {
    const int d = dim < 0 ? dim + shape.rank() + 1 : dim;
    Shape result = shape;
    result.insert(d, count);
    return Sample{.name = name,
                  .kind = kind,
                  .inputs = std::vector<Input>(static_cast<std::size_t>(count), normal(shape)),
                  .call = [=](const Tensors& x) { return stack(x, dim); },
                  .reference = loops(result, [=](const auto& x, Extents index) {
                    const auto n = static_cast<std::size_t>(index[static_cast<std::size_t>(d)]);
                    index.erase(index.begin() + d);
                    return x[n][static_cast<std::size_t>(position(shape, index))];
                  })};
  };
  c.samples = {
      sample("dim 0", Kind::usual, {2, 4}, 0, 3),       sample("dim 1", Kind::odd, {3, 5}, 1, 3),
      sample("dim -1", Kind::usual, {3, 4}, -1, 2),     sample("scalars", Kind::one, {}, 0, 2),
      sample("no elements", Kind::empty, {0, 3}, 1, 2), sample("large", Kind::large, {150, 120}, 0, 2),
  };
  c.families = {{.extents = {"R", "C"},
                 .make =
                     [](const Extents& e, double bytes) {
                       return Workload{.inputs = {normal({e[0], e[1]}), normal({e[0], e[1]})},
                                       .call =
                                           [](const Tensors& x) {
                                             return stack({x[0], x[1]});
                                           },
                                       .forward = {.bytes = static_cast<double>(e[0] * e[1]) * 4 * bytes}};
                     },
                 .timed = {{2048, 768}}}};
  return c;
}

// --- split ----------------------------------------------------------------------------------------------------------

// The pieces in reverse order, joined again: shows which piece is which.
Sample split_sample(const std::string& name, Kind kind, const Shape& shape, int dim, const Sizes& sizes, bool equal,
                    bool only_the_last = false) {
  const int d = dim < 0 ? dim + shape.rank() : dim;
  Shape result = shape;
  if (only_the_last) result[d] = sizes.back();
  return {.name = name,
          .kind = kind,
          .inputs = {normal(shape)},
          .call =
              [=](const Tensors& x) {
                std::vector<Tensor> parts = equal ? split(x[0], sizes[0], dim) : split(x[0], std::span(sizes), dim);
                if (only_the_last) return clone(parts.back());
                return concat(std::vector<Tensor>(parts.rbegin(), parts.rend()), dim);
              },
          .reference = loops(result, [=](const auto& x, Extents index) {
            std::int64_t& at = index[static_cast<std::size_t>(d)];
            std::int64_t first = shape[d];  // of the piece at hand
            for (std::size_t n = sizes.size(); n-- > 0; at -= sizes[n]) {
              first -= sizes[n];
              if (only_the_last || at < sizes[n]) break;
            }
            at += first;
            return x[0][static_cast<std::size_t>(position(shape, index))];
          })};
}

OpCase split_case() {
  OpCase c{.op = "split", .stem = "copy", .functions = {"split"}, .dtypes = kMoved, .exact = true};
  c.samples = {
      split_sample("by size", Kind::usual, {6, 4}, 0, {2, 2, 2}, true),
      split_sample("by size, a short last one", Kind::odd, {3, 7}, 1, {3, 3, 1}, true),
      split_sample("by sizes", Kind::usual, {2, 6, 3}, -2, {1, 0, 5}, false),
      split_sample("the rest unused", Kind::usual, {3, 7}, 1, {2, 2, 3}, false, true),
      split_sample("nothing", Kind::empty, {3, 0}, 1, {0}, false),
      split_sample("one", Kind::one, {1}, 0, {1}, true),
      split_sample("large", Kind::large, {150, 192}, 1, {64, 64, 64}, true),
  };
  c.families = {{.suffix = "_backward_of_three",
                 .extents = {"R", "C"},
                 .make =
                     [](const Extents& e, double bytes) {
                       const double moved = static_cast<double>(e[0] * e[1]) * 2 * bytes;
                       return Workload{.inputs = {normal({e[0], e[1]})},
                                       .call =
                                           [](const Tensors& x) {
                                             const std::vector<Tensor> parts = split(x[0], x[0].size(1) / 3, 1);
                                             return concat({parts[0], parts[1], parts[2]}, 1);
                                           },
                                       .forward = {.bytes = moved},
                                       .backward = {.bytes = moved}};
                     },
                 .timed = {{2048, 2304}},
                 .counted = {{64, 1536}}}};
  return c;
}

// --- pad ------------------------------------------------------------------------------------------------------------

Sample pad_sample(const std::string& name, Kind kind, const Shape& shape, const Sizes& padding, double value) {
  Shape result = shape;
  Extents before(static_cast<std::size_t>(shape.rank()), 0);
  for (std::size_t i = 0; i < padding.size() / 2; ++i) {
    const int d = shape.rank() - 1 - static_cast<int>(i);
    result[d] += padding[2 * i] + padding[2 * i + 1];
    before[static_cast<std::size_t>(d)] = padding[2 * i];
  }
  return {.name = name,
          .kind = kind,
          .inputs = {normal(shape)},
          .call = [=](const Tensors& x) { return pad(x[0], std::span(padding), value); },
          .reference = loops(result, [=](const auto& x, Extents index) {
            for (std::size_t d = 0; d < index.size(); ++d) {
              index[d] -= before[d];
              if (index[d] < 0 || index[d] >= shape[static_cast<int>(d)]) return value;
            }
            return x[0][static_cast<std::size_t>(position(shape, index))];
          })};
}

OpCase pad_case() {
  OpCase c{.op = "pad", .stem = "copy", .functions = {"pad"}, .dtypes = kMoved, .exact = true};
  c.samples = {
      pad_sample("last dimension", Kind::usual, {3, 4}, {1, 2}, 0.5),
      pad_sample("two dimensions", Kind::odd, {2, 3, 5}, {1, 0, 2, 3}, 3),
      pad_sample("three dimensions", Kind::usual, {2, 3, 4}, {1, 1, 1, 1, 1, 1}, 0),
      pad_sample("cut off", Kind::usual, {4, 5}, {-1, -2}, 9),
      pad_sample("cut off and padded", Kind::usual, {4, 5}, {-1, 2, 1, -3}, 4),
      pad_sample("nothing to do", Kind::usual, {4, 5}, {}, 4),
      pad_sample("around nothing", Kind::empty, {0, 3}, {1, 1}, 2),
      pad_sample("rows around nothing", Kind::usual, {0, 3}, {0, 0, 1, 1}, 2),
      pad_sample("one", Kind::one, {1}, {1, 1}, 2),
      pad_sample("large", Kind::large, {70, 257}, {3, 5, 2, 2}, 1),
  };
  c.families = {{.extents = {"R", "C"},
                 .make =
                     [](const Extents& e, double bytes) {
                       const double inner = static_cast<double>(e[0] * e[1]) * bytes,
                                    whole = static_cast<double>((e[0] + 4) * (e[1] + 64)) * bytes;
                       return Workload{.inputs = {normal({e[0], e[1]})},
                                       .call =
                                           [](const Tensors& x) {
                                             return pad(x[0], {32, 32, 2, 2}, 1);
                                           },
                                       .forward = {.bytes = inner + whole},
                                       .backward = {.bytes = 2 * inner}};
                     },
                 .timed = {{2048, 768}},
                 .counted = {{128, 1024}},
                 .dtypes = {Dtype::f32, Dtype::bf16}}};
  return c;
}

}  // namespace

std::vector<OpCase> join_cases() { return {concat_case(), stack_case(), split_case(), pad_case()}; }

}  // namespace weft::cases
