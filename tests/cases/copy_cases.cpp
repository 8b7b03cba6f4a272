// Copies between layouts and dtypes, and the views whose gradients they carry.
#include <algorithm>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

const std::vector<Dtype> kMoved = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i64, Dtype::u8};

double elements(const Extents& e) { return static_cast<double>(e[0] * e[1]); }

OpCase clone_case() {
  OpCase c{.op = "copy", .stem = "copy", .functions = {"clone"}, .dtypes = kMoved, .exact = true};
  const auto sample = [](const std::string& name, Kind kind, const Shape& shape) {
    return Sample{
        .name = name, .kind = kind, .inputs = {normal(shape)}, .call = [](const Tensors& x) { return clone(x[0]); }};
  };
  c.samples = {sample("R=3 C=8", Kind::usual, {3, 8}), sample("a scalar", Kind::one, {}),
               sample("R=1 C=1", Kind::usual, {1, 1}), sample("R=0", Kind::empty, {0, 8}),
               sample("R=5 C=33", Kind::odd, {5, 33}), sample("rank 4", Kind::usual, {2, 3, 2, 5}),
               sample("large", Kind::large, {70, 257})};
  c.families = {{.extents = {"R", "C"},
                 .make =
                     [](const Extents& e, double bytes) {
                       return Workload{.inputs = {normal({e[0], e[1]})},
                                       .call = [](const Tensors& x) { return clone(x[0]); },
                                       .forward = {.bytes = elements(e) * 2 * bytes}};
                     },
                 .timed = {{2048, 768}, {8192, 4096}},
                 .counted = {{64, 4096}},
                 .dtypes = {Dtype::f32, Dtype::bf16}}};
  return c;
}

// contiguous() of views: each moves its elements another way, and carries the gradient back.
OpCase contiguous_case() {
  OpCase c{.op = "copy_transposed", .stem = "copy", .functions = {"contiguous"}, .dtypes = kMoved, .exact = true};
  using View = std::function<Tensor(const Tensor&)>;
  const auto sample = [](const std::string& name, Kind kind, const Shape& shape, const View& view) {
    return Sample{.name = name, .kind = kind, .inputs = {normal(shape)}, .call = [=](const Tensors& x) {
                    const Tensor y = contiguous(view(x[0]));
                    return y.storage() == x[0].storage() ? clone(y) : y;
                  }};
  };
  const View transposed = [](const Tensor& x) { return x.t(); };
  c.samples = {
      sample("transposed", Kind::usual, {6, 8}, transposed),
      sample("transposed, ragged", Kind::odd, {37, 33}, transposed),
      sample("transposed, large", Kind::large, {150, 129}, transposed),
      sample("transposed, empty", Kind::empty, {0, 3}, transposed),
      sample("transposed, one", Kind::one, {1, 1}, transposed),
      sample("outer dimensions", Kind::usual, {3, 4, 5}, [](const Tensor& x) { return x.transpose(0, 1); }),
      sample("heads to the front", Kind::usual, {2, 3, 4, 5},
             [](const Tensor& x) {
               return x.permute({0, 2, 1, 3});
             }),
      sample("a cycle of three", Kind::usual, {3, 4, 5},
             [](const Tensor& x) {
               return x.permute({2, 0, -2});
             }),
      sample("channels last", Kind::odd, {2, 3, 5, 7},
             [](const Tensor& x) {
               return x.permute({0, 2, 3, 1});
             }),
      sample("part of each row", Kind::usual, {5, 12}, [](const Tensor& x) { return x.slice(1, 3, 10); }),
      sample("every second", Kind::usual, {5, 12}, [](const Tensor& x) { return x.slice(1, 1, 12, 2); }),
      sample("a column", Kind::usual, {5, 6}, [](const Tensor& x) { return x.select(1, -1); }),
  };
  c.families = {{.extents = {"R", "C"},
                 .make =
                     [](const Extents& e, double bytes) {
                       return Workload{.inputs = {normal({e[0], e[1]})},
                                       .call = [](const Tensors& x) { return contiguous(x[0].t()); },
                                       .forward = {.bytes = elements(e) * 2 * bytes}};
                     },
                 .timed = {{2048, 768}, {4096, 4096}},
                 .counted = {{256, 512}},
                 .dtypes = {Dtype::f32, Dtype::bf16}}};
  return c;
}

OpCase reshape_case() {
  OpCase c{.op = "reshape", .stem = "copy", .functions = {"reshape"}, .dtypes = kMoved, .exact = true, .view = true};
  const auto sample = [](const std::string& name, Kind kind, const Shape& shape, bool transpose, const Shape& to) {
    return Sample{.name = name, .kind = kind, .inputs = {normal(shape)}, .call = [=](const Tensors& x) {
                    return contiguous(reshape(transpose ? x[0].t() : x[0], to));
                  }};
  };
  c.samples = {sample("a view", Kind::usual, {3, 8}, false, {2, 12}),
               sample("inferred", Kind::odd, {3, 5, 7}, false, {-1, 7}),
               sample("a copy", Kind::usual, {3, 8}, true, {2, 12}),
               sample("one", Kind::one, {1, 1}, false, {}),
               sample("empty", Kind::empty, {0, 8}, false, {4, 0}),
               sample("large, a copy", Kind::large, {150, 130}, true, {-1})};
  c.families = {{.suffix = "_copy",
                 .extents = {"R", "C"},
                 .make =
                     [](const Extents& e, double bytes) {
                       return Workload{.inputs = {normal({e[0], e[1]})},
                                       .call = [](const Tensors& x) { return reshape(x[0].t(), {-1}); },
                                       .forward = {.bytes = elements(e) * 2 * bytes}};
                     },
                 .timed = {{2048, 768}}}};
  return c;
}

// The backward of expand sums over what was stretched.
OpCase expand_case() {
  OpCase c{.op = "expand", .stem = "reduce", .functions = {"clone"}};
  const auto sample = [](const std::string& name, Kind kind, const Shape& shape, const Shape& to) {
    const double copies =
        static_cast<double>(to.numel()) / static_cast<double>(std::max<std::int64_t>(shape.numel(), 1));
    return Sample{.name = name,
                  .kind = kind,
                  .inputs = {with_terms(normal(shape), copies)},
                  .call = [=](const Tensors& x) { return clone(x[0].expand(to)); },
                  .reference = [=](const Tensors& x) { return zeros(to, Dtype::f64) + x[0]; }};
  };
  c.samples = {sample("a row over rows", Kind::usual, {1, 6}, {4, 6}),
               sample("a column over columns", Kind::usual, {4, 1}, {4, 6}),
               sample("leading dimensions", Kind::odd, {3, 1}, {2, 5, 3, 7}),
               sample("in the middle", Kind::usual, {2, 1, 3}, {2, 4, 3}),
               sample("one", Kind::one, {1}, {1}),
               sample("empty", Kind::empty, {0, 1}, {0, 5}),
               sample("large", Kind::large, {1, 129}, {150, 129})};
  c.families = {{.extents = {"R", "C"},
                 .make =
                     [](const Extents& e, double bytes) {
                       return Workload{.inputs = {normal({1, e[1]})},
                                       .call =
                                           [rows = e[0]](const Tensors& x) {
                                             return clone(x[0].expand({rows, x[0].size(1)}));
                                           },
                                       .forward = {.bytes = (elements(e) + static_cast<double>(e[1])) * bytes}};
                     },
                 .timed = {{2048, 768}}}};
  return c;
}

OpCase cast_case() {
  OpCase c{.op = "cast", .stem = "copy", .functions = {"cast"}, .exact = true};
  const auto sample = [](const std::string& name, Kind kind, const Shape& shape, Dtype to, double spread = 1) {
    Sample s{.name = name, .kind = kind, .inputs = {normal(shape, 0, spread)}, .gradcheck = false};
    s.call = [=](const Tensors& x) {
      const Tensor y = cast(x[0], to);
      return y.storage() == x[0].storage() ? clone(y) : y;
    };
    s.gradients = is_floating(to);
    return s;
  };
  c.samples = {sample("to f32", Kind::usual, {3, 8}, Dtype::f32),
               sample("to f64", Kind::odd, {5, 33}, Dtype::f64),
               sample("to f16", Kind::usual, {5, 33}, Dtype::f16),
               sample("to bf16", Kind::usual, {3, 8}, Dtype::bf16),
               sample("to i64", Kind::usual, {3, 8}, Dtype::i64, 100),
               sample("to u8, saturated", Kind::usual, {3, 8}, Dtype::u8, 300),
               sample("to bool", Kind::usual, {3, 8}, Dtype::boolean),
               sample("one", Kind::one, {1}, Dtype::f32),
               sample("empty", Kind::empty, {0, 3}, Dtype::f32),
               sample("large", Kind::large, {70, 257}, Dtype::f32)};
  c.families = {{.suffix = "_f32_to_bf16",
                 .extents = {"R", "C"},
                 .make =
                     [](const Extents& e, double) {
                       return Workload{.inputs = {with_dtype(normal({e[0], e[1]}), Dtype::f32)},
                                       .call = [](const Tensors& x) { return cast(x[0], Dtype::bf16); },
                                       .forward = {.bytes = elements(e) * 6},
                                       .backward = {.bytes = elements(e) * 6}};
                     },
                 .timed = {{2048, 768}, {8192, 4096}},
                 .counted = {{64, 4096}}}};
  return c;
}

// Writes in place are no operations of the graph: they are made on a new tensor, which is the result.
OpCase writes_case() {
  OpCase c{
      .op = "write", .stem = "copy", .functions = {"copy_", "fill_", "add_"}, .differentiable = false, .exact = true};
  const auto sample = [](const std::string& name, Kind kind, const Shape& shape) {
    return Sample{.name = name,
                  .kind = kind,
                  .inputs = {normal(shape), normal(shape)},
                  .call =
                      [=](const Tensors& x) {
                        Shape wide = shape;
                        wide[wide.rank() - 1] += 2;
                        Tensor y = Tensor::empty(wide, x[0].dtype(), x[0].device());
                        fill_(y, 2);
                        fill_(y.slice(-1, 0, 1), -3);
                        copy_(y.slice(-1, 1, shape.back() + 1), x[0]);
                        add_(y, clone(y));
                        const Tensor z = clone(x[1]);
                        add_(z, x[0]);
                        copy_(y.slice(-1, 2, shape.back() + 2), z);
                        return y;
                      },
                  .reference =
                      [=](const Tensors& x) {
                        const std::vector<double> a = x[0].alias().to_vector<double>(),
                                                  b = x[1].alias().to_vector<double>();
                        const auto columns = static_cast<std::size_t>(shape.back());
                        std::vector<double> y;
                        for (std::size_t i = 0; i < a.size(); i += columns) {
                          y.push_back(-6);
                          y.push_back(2 * a[i]);
                          for (std::size_t c = 0; c < columns; ++c) y.push_back(a[i + c] + b[i + c]);
                        }
                        Shape wide = shape;
                        wide[wide.rank() - 1] += 2;
                        return Tensor::from_vector(y, wide);
                      }};
  };
  c.samples = {sample("R=3 C=8", Kind::usual, {3, 8}), sample("R=5 C=33", Kind::odd, {5, 33}),
               sample("one", Kind::one, {1, 1}), sample("R=0", Kind::empty, {0, 8}),
               sample("large", Kind::large, {70, 257})};
  c.families = {{.suffix = "_fill",
                 .extents = {"R", "C"},
                 .make =
                     [](const Extents& e, double bytes) {
                       return Workload{.inputs = {constant(normal({e[0], e[1]}))},
                                       .call =
                                           [](const Tensors& x) {
                                             fill_(x[0], 1.5);
                                             return x[0];
                                           },
                                       .forward = {.bytes = elements(e) * bytes}};
                     },
                 .timed = {{2048, 768}},
                 .counted = {{64, 4096}}}};
  return c;
}

}  // namespace

std::vector<OpCase> copy_cases() {
  return {clone_case(), contiguous_case(), reshape_case(), expand_case(), cast_case(), writes_case()};
}

}  // namespace weft::cases
