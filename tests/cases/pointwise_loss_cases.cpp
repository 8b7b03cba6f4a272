#include <cmath>
#include <functional>
#include <limits>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/pointwise_loss.h"
#include "autograd/reduce.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Which of weight, mask and pos_weight a sample has, with what shape; they stand behind input and target, in this order.
struct Asked {
  std::optional<Shape> weight = {}, mask = {}, pos_weight = {};
};

struct Operands {
  Tensor weight, mask, pos_weight;
};

Operands operands_of(const Asked& asked, const Tensors& x) {
  Operands operands;
  std::size_t next = 2;
  if (asked.weight) operands.weight = x[next++];
  if (asked.mask) operands.mask = x[next++];
  if (asked.pos_weight) operands.pos_weight = x[next++];
  return operands;
}

/// A loss, and its term from simple operations: of input, target and pos_weight (undefined: 1).
struct PointwiseLossKind {
  OpCase base;
  std::function<Loss(const Tensor& input, const Tensor& target, const Operands& operands)> loss;
  std::function<Tensor(const Tensor& input, const Tensor& target, const Tensor& pos_weight)> term;
};

Tensor magnitude(const Tensor& x) { return relu(x) + relu(-x); }
// With c = min(|d|, delta): c (|d| - c / 2).
Tensor huber_term(const Tensor& input, const Tensor& target, double delta) {
  const Tensor a = magnitude(input - target), c = a - relu(a - scalar(delta, a.dtype()));
  return c * (a - 0.5 * c);
}
Tensor softplus_reference(const Tensor& x) { return log(exp(x) + scalar(1, x.dtype())); }

std::vector<PointwiseLossKind> kinds() {
  using T = const Tensor&;
  using Options = PointwiseLossOptions;
  const auto with = [](auto f) {
    return [f](T x, T y, const Operands& o) { return f(x, y, Options{.weight = o.weight, .mask = o.mask}); };
  };
  return {
      {{.op = "mse_loss", .stem = "pointwise_loss", .functions = {"mse_loss"}},
       with([](T x, T y, const Options& o) { return mse_loss(x, y, o); }),
       [](T x, T y, T) { return (x - y) * (x - y); }},
      {{.op = "l1_loss", .stem = "pointwise_loss", .functions = {"l1_loss"}},
       with([](T x, T y, const Options& o) { return l1_loss(x, y, o); }),
       [](T x, T y, T) { return magnitude(x - y); }},
      {{.op = "huber_loss", .stem = "pointwise_loss", .functions = {"huber_loss"}},
       with([](T x, T y, const Options& o) { return huber_loss(x, y, 0.75, o); }),
       [](T x, T y, T) { return huber_term(x, y, 0.75); }},
      {{.op = "smooth_l1_loss", .stem = "pointwise_loss", .functions = {"smooth_l1_loss"}},
       with([](T x, T y, const Options& o) { return smooth_l1_loss(x, y, 0.5, o); }),
       [](T x, T y, T) { return 2.0 * huber_term(x, y, 0.5); }},
      {{.op = "binary_cross_entropy_with_logits",
        .stem = "pointwise_loss",
        .functions = {"binary_cross_entropy_with_logits"}},
       [](T x, T y, const Operands& o) {
         return binary_cross_entropy_with_logits(x, y,
                                                 {.weight = o.weight, .mask = o.mask, .pos_weight = o.pos_weight});
       },
       [](T x, T y, T pos_weight) {
         const Tensor positive = pos_weight.defined() ? y * pos_weight : y;
         return (scalar(1, y.dtype()) - y) * softplus_reference(x) + positive * softplus_reference(-x);
       }},
  };
}

Sample sample(const PointwiseLossKind& kind, std::string name, Kind what, const Shape& shape, const Asked& asked) {
  const bool is_bce = kind.base.op == "binary_cross_entropy_with_logits";
  // Away from the corners of |d|, of which no central difference may step over one.
  std::vector<Input> inputs{normal(shape, 0, 1.5), is_bce ? uniform(shape, 0.05, 0.95) : normal(shape, 0.25, 1)};
  if (asked.weight) inputs.push_back(constant(listed(*asked.weight, {1, 0.5, 0, 2, 0.25, 1.5, 1})));
  if (asked.mask) inputs.push_back(constant(with_dtype(listed(*asked.mask, {1, 0, 1, 1, 1}), Dtype::u8)));
  if (asked.pos_weight) inputs.push_back(constant(listed(*asked.pos_weight, {1, 3, 0.5})));
  // A gradient is a difference of terms of about 1.
  for (std::size_t i : {0, 1}) inputs[i].scale = 1;
  const auto count = static_cast<double>(shape.numel());
  return {.name = std::move(name),
          .kind = what,
          .inputs = std::move(inputs),
          .call = [=](const Tensors& x) { return kind.loss(x[0], x[1], operands_of(asked, x)).sum; },
          .reference =
              [=](const Tensors& x) {
                const Operands operands = operands_of(asked, x);
                Tensor term = kind.term(x[0], x[1], operands.pos_weight);
                if (operands.weight.defined()) term = term * operands.weight;
                if (operands.mask.defined()) term = term * cast(operands.mask, term.dtype());
                return cast(sum(term), Dtype::f64);
              },
          .terms = std::max(1.0, count),
          // Both input and target are rounded before: a difference of two numbers of about 1.
          .scale = std::max(1.0, count),
          .amplification = 2};
}

// Elements that do not count hold infinities and NaN; those that count, 1e4 and an infinite distance.
Sample extreme(const PointwiseLossKind& kind, bool masked) {
  const Shape shape{2, 3};
  Sample s = sample(kind, masked ? "masked infinities and NaN" : "1e4", Kind::extreme, shape,
                    masked ? Asked{.weight = shape, .mask = shape} : Asked{});
  if (masked) {
    s.inputs[0] = listed(shape, {NAN, kInfinity, -kInfinity, 1, kInfinity, 2});
    s.inputs[1] = listed(shape, {0, kInfinity, NAN, 0, 1, 1});
    s.inputs[2] = constant(listed(shape, {1, 0, 0, 1, 1, 2}));
    s.inputs[3] = constant(with_dtype(listed(shape, {0, 1, 0, 1, 0, 1}), Dtype::u8));
    s.reference = [=](const Tensors& x) {
      const Tensors counted =
          make_inputs({listed({2}, {1, 2}), listed({2}, {0, 1}), listed({2}, {1, 2})}, x[0].dtype());
      return cast(sum(kind.term(counted[0], counted[1], {}) * counted[2]), Dtype::f64);
    };
  } else {
    s.inputs[0] = listed(shape, {1e4, -1e4, 9984, 0, -1e4, 0});
    s.inputs[1] = listed(shape, {1, 0, 0, 1, 1, 0});
    s.reference = [=](const Tensors& x) {  // softplus of 1e4 overflows in the simple form
      if (kind.base.op != "binary_cross_entropy_with_logits") return cast(sum(kind.term(x[0], x[1], {})), Dtype::f64);
      return scalar(9984 + 1e4 + 2 * std::log(2.0), Dtype::f64);
    };
    s.inputs[0].scale = s.inputs[1].scale = 2e4;
    s.scale = kind.base.op == "mse_loss" ? 1e8 : 1e4;
  }
  return s;
}

Workload workload(const PointwiseLossKind& kind, const Extents& e, double bytes, bool weighted) {
  const auto n = static_cast<double>(e[0] * e[1]);
  const bool is_bce = kind.base.op == "binary_cross_entropy_with_logits";
  std::vector<Input> inputs{normal({e[0], e[1]}),
                            constant(is_bce ? uniform({e[0], e[1]}, 0, 1) : normal({e[0], e[1]}))};
  const Asked asked{.weight = weighted ? std::optional(Shape{e[0], e[1]}) : std::nullopt,
                    .mask = weighted ? std::optional(Shape{e[0], 1}) : std::nullopt,
                    .pos_weight = weighted && is_bce ? std::optional(Shape{e[1]}) : std::nullopt};
  if (asked.weight) inputs.push_back(constant(uniform(*asked.weight, 0.5, 1)));
  if (asked.mask) inputs.push_back(constant(with_dtype(listed(*asked.mask, {1, 1, 1, 0}), Dtype::u8)));
  if (asked.pos_weight) inputs.push_back(constant(uniform(*asked.pos_weight, 0.5, 2)));
  return {.inputs = std::move(inputs),
          .call = [=](const Tensors& x) { return kind.loss(x[0], x[1], operands_of(asked, x)).sum; },
          .forward = {.bytes = n * (weighted ? 4 : 3) * bytes + static_cast<double>(weighted ? e[0] : 0),
                      .flops = (is_bce ? 30 : 4) * n}};
}

}  // namespace

std::vector<OpCase> pointwise_loss_cases() {
  std::vector<OpCase> cases;
  for (const PointwiseLossKind& kind : kinds()) {
    OpCase c = kind.base;
    const bool is_bce = kind.base.op == "binary_cross_entropy_with_logits";
    const auto add = [&](const char* name, Kind what, const Shape& shape, const Asked& asked) {
      c.samples.push_back(sample(kind, name, what, shape, asked));
    };
    add("[3, 8]", Kind::usual, {3, 8}, {});
    add("scalar", Kind::one, {}, {});
    add("[1, 1], weight and mask", Kind::one, {1, 1}, {.weight = Shape{1}, .mask = Shape{1, 1}});
    add("[0, 5]", Kind::empty, {0, 5}, {.weight = Shape{5}});
    add("weight and mask of the full shape", Kind::usual, {3, 5}, {.weight = Shape{3, 5}, .mask = Shape{3, 5}});
    add("weight [C], mask [R, 1]", Kind::usual, {4, 7}, {.weight = Shape{7}, .mask = Shape{4, 1}});
    add("weight [B, 1, 1], mask in the middle", Kind::odd, {2, 3, 5}, {.weight = Shape{2, 1, 1}, .mask = Shape{3, 1}});
    add("weight of one, mask with a gap", Kind::odd, {2, 3, 5}, {.weight = Shape{1}, .mask = Shape{2, 1, 5}});
    add("[5, 33]", Kind::odd, {5, 33}, {.mask = Shape{33}});
    add("[70, 601]", Kind::large, {70, 601}, {});
    add("[70, 601], weight and mask", Kind::large, {70, 601}, {.weight = Shape{70, 601}, .mask = Shape{601}});
    if (is_bce) {
      add("pos_weight [C]", Kind::usual, {4, 3}, {.pos_weight = Shape{3}});
      add("pos_weight [C], weight, mask", Kind::odd, {5, 13},
          {.weight = Shape{5, 13}, .mask = Shape{13}, .pos_weight = Shape{13}});
      add("[70, 601], pos_weight", Kind::large, {70, 601}, {.pos_weight = Shape{601}});
    }
    c.samples.push_back(extreme(kind, false));
    c.samples.push_back(extreme(kind, true));
    const auto family = [&](const char* suffix, bool weighted) {
      Family f{.suffix = suffix,
               .extents = {"R", "C"},
               .make = [=](const Extents& e, double bytes) { return workload(kind, e, bytes, weighted); },
               .timed = {{128, 10}, {2048, 256}, {8192, 1024}},
               .counted = {{256, 1024}},
               .passes = Family::Passes::forward};
      if (kind.base.op == "mse_loss" || is_bce) f.dtypes = {Dtype::f32, Dtype::bf16};
      return f;
    };
    c.families = {family("", false), family("_weighted", true)};
    cases.push_back(std::move(c));
  }
  return cases;
}

}  // namespace weft::cases
