// Element-wise operations: one templated case for all.
#include <cmath>
#include <limits>

#include "autograd/elementwise.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity(), kNan = std::numeric_limits<double>::quiet_NaN();
const std::vector<Extents> kTimed = {{1, 16}, {4096, 1024}}, kCounted = {{64, 4096}};

// Plain loops over the broadcast inputs, in f64.
template <std::size_t N, class F>
Call loops(F f) {
  return [f](const Tensors& x) {
    Shape shape = x[0].shape();
    for (const Tensor& input : x) shape = broadcast_shapes(shape, input.shape(), "loops");
    std::array<std::vector<double>, N> values;
    for (std::size_t n = 0; n < N; ++n) {
      const Tensor wide = x[n].alias().expand(shape);
      if (wide.dtype() == Dtype::boolean)
        for (const bool value : wide.to_vector<bool>()) values[n].push_back(value ? 1 : 0);
      else
        values[n] = wide.to_vector<double>();
    }
    std::vector<double> out(values[0].size());
    for (std::size_t i = 0; i < out.size(); ++i) {
      if constexpr (N == 1) out[i] = f(values[0][i]);
      if constexpr (N == 2) out[i] = f(values[0][i], values[1][i]);
      if constexpr (N == 3) out[i] = f(values[0][i], values[1][i], values[2][i]);
    }
    return Tensor::from_vector(out, shape);
  };
}

// What an operation is, whatever its operands.
struct Operation {
  std::string name;
  std::vector<std::string> functions = {};  // none: the name
  Call call = {};
  Call reference = {};
  /// The numbers that an operand is drawn from, away from the kinks and poles.
  std::function<Input(const Shape&)> operand = [](const Shape& shape) { return normal(shape); };
  /// Infinities, NaN, zeros of both signs, kinks; numbers whose result every dtype holds. Empty: none.
  std::vector<double> extreme = {kInf, -kInf, kNan, 0, -0.0, 1e4, -1e4, 1, -1, 0.5, -3};
  double roundings = 1;        // as Sample's: one more for each power of a saved result
  double amplification = 1;    // as Sample's
  double scale = 0;            // as Input's
  double backward_passes = 3;  // operands that the backward pass moves: dy, what was saved, dx
};

Sample sample_of(const Operation& op, std::string name, Kind kind, std::vector<Input> inputs) {
  return {.name = std::move(name),
          .kind = kind,
          .inputs = std::move(inputs),
          .call = op.call,
          .reference = op.reference,
          .amplification = op.amplification,
          .roundings = op.roundings};
}

OpCase case_of(const Operation& op) {
  return {.op = op.name, .stem = "elementwise", .tier = Tier::elementwise, .functions = op.functions};
}

OpCase unary_case(const Operation& op) {
  OpCase c = case_of(op);
  const auto add = [&](std::string name, Kind kind, const Shape& shape) {
    c.samples.push_back(sample_of(op, std::move(name), kind, {with_scale(op.operand(shape), op.scale)}));
  };
  add("[4, 8]", Kind::usual, {4, 8});
  add("[2, 3, 5]", Kind::odd, {2, 3, 5});
  add("[0, 3]", Kind::empty, {0, 3});
  add("scalar", Kind::one, {});
  add("[5, 33]", Kind::odd, {5, 33});
  add("[17, 1031]", Kind::large, {17, 1031});
  if (!op.extreme.empty()) c.samples.push_back(sample_of(op, "extreme", Kind::extreme, {listed({3, 11}, op.extreme)}));
  c.families = {{.extents = {"R", "C"},
                 .make =
                     [op](const Extents& e, double bytes) {
                       const double n = static_cast<double>(e[0] * e[1]);
                       return Workload{.inputs = {op.operand({e[0], e[1]})},
                                       .call = op.call,
                                       .forward = {.bytes = 2 * n * bytes},
                                       .backward = {.bytes = op.backward_passes * n * bytes}};
                     },
                 .timed = kTimed,
                 .counted = kCounted}};
  return c;
}

// An operand's gradient sums what it was stretched over: random terms of the size of 1, which may cancel.
Input stretched(Input input, double terms) {
  return with_scale(with_terms(std::move(input), terms), terms > 1 ? std::sqrt(terms) : 0);
}

OpCase binary_case(const Operation& op, const std::function<Input(const Shape&)>& right, double backward_operands = 6) {
  OpCase c = case_of(op);
  const auto add = [&](std::string name, Kind kind, const Shape& a, const Shape& b, double terms_a = 1,
                       double terms_b = 1) {
    c.samples.push_back(
        sample_of(op, std::move(name), kind, {stretched(op.operand(a), terms_a), stretched(right(b), terms_b)}));
  };
  add("[4, 8]", Kind::usual, {4, 8}, {4, 8});
  add("[0, 3] with [3]", Kind::empty, {0, 3}, {3});
  add("scalars", Kind::one, {}, {});
  add("[5, 33] with [33]", Kind::odd, {5, 33}, {33}, 1, 5);
  add("[5, 33] with [5, 1]", Kind::odd, {5, 33}, {5, 1}, 1, 33);
  add("[16, 1] with [1, 32]", Kind::usual, {16, 1}, {1, 32}, 32, 16);
  add("[2, 3, 5] with a scalar", Kind::odd, {2, 3, 5}, {}, 1, 30);
  add("[3, 1] with [2, 1, 5]", Kind::odd, {3, 1}, {2, 1, 5}, 10, 3);
  add("[17, 1031]", Kind::large, {17, 1031}, {17, 1031});
  if (!op.extreme.empty()) {
    // Every pair of the values.
    const auto n = static_cast<std::int64_t>(op.extreme.size());
    Sample sample = sample_of(op, "extreme", Kind::extreme, {listed({n, 1}, op.extreme), listed({n}, op.extreme)});
    sample.gradients = false;  // sums of infinities and NaN
    c.samples.push_back(sample);
  }
  c.families = {{.extents = {"R", "C"},
                 .make =
                     [op, right, backward_operands](const Extents& e, double bytes) {
                       const double n = static_cast<double>(e[0] * e[1]);
                       return Workload{.inputs = {op.operand({e[0], e[1]}), right({e[0], e[1]})},
                                       .call = op.call,
                                       .forward = {.bytes = 3 * n * bytes},
                                       .backward = {.bytes = backward_operands * n * bytes}};
                     },
                 .timed = kTimed,
                 .counted = kCounted}};
  return c;
}

// The operands of comparisons: small integers of the dtype under test, so that equal ones occur.
Input few(const Shape& shape) {
  return {.shape = shape, .fill = Input::Fill::integers, .a = -2, .b = 3, .differentiable = false};
}

// The same of two operands without a gradient, in every dtype; `bytes_out` of an element of the result, 0 for the dtype's.
OpCase exact_case(const Operation& op, std::vector<Dtype> dtypes, double bytes_out) {
  OpCase c = case_of(op);
  c.dtypes = std::move(dtypes);
  c.differentiable = false;
  c.exact = true;
  const auto add = [&](std::string name, Kind kind, const Shape& a, const Shape& b) {
    c.samples.push_back(sample_of(op, std::move(name), kind, {op.operand(a), op.operand(b)}));
  };
  add("[4, 8]", Kind::usual, {4, 8}, {4, 8});
  add("[0, 3] with [3]", Kind::empty, {0, 3}, {3});
  add("scalars", Kind::one, {}, {});
  add("[5, 33] with [33]", Kind::odd, {5, 33}, {33});
  add("[16, 1] with [1, 32]", Kind::usual, {16, 1}, {1, 32});
  add("[3, 1] with [2, 1, 5]", Kind::odd, {3, 1}, {2, 1, 5});
  add("[17, 1031]", Kind::large, {17, 1031}, {17, 1031});
  if (!op.extreme.empty()) {
    const auto n = static_cast<std::int64_t>(op.extreme.size());
    c.samples.push_back(sample_of(op, "extreme", Kind::extreme,
                                  {constant(listed({n, 1}, op.extreme)), constant(listed({n}, op.extreme))}));
  }
  c.families = {{.extents = {"R", "C"},
                 .make =
                     [op, bytes_out](const Extents& e, double bytes) {
                       const double n = static_cast<double>(e[0] * e[1]);
                       return Workload{.inputs = {op.operand({e[0], e[1]}), op.operand({e[0], e[1]})},
                                       .call = op.call,
                                       .forward = {.bytes = n * (2 * bytes + (bytes_out > 0 ? bytes_out : bytes))}};
                     },
                 .timed = kTimed,
                 .counted = kCounted,
                 .dtypes = {c.dtypes.front()},
                 .passes = Family::Passes::forward}};
  return c;
}

using OneTensor = Tensor (*)(const Tensor&);
using TwoTensors = Tensor (*)(const Tensor&, const Tensor&);
using TensorAndNumber = Tensor (*)(const Tensor&, double);

template <class F>
Call on_one(F f) {
  return [f](const Tensors& x) { return f(x[0]); };
}
template <class F>
Call on_two(F f) {
  return [f](const Tensors& x) { return f(x[0], x[1]); };
}

std::function<Input(const Shape&)> between(double low, double high) {
  return [=](const Shape& shape) { return uniform(shape, low, high); };
}
Input any(const Shape& shape) { return normal(shape); }

double sigmoid_of(double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }

// Φ(x) and x φ(x) cancel at x = -0.75, where each is about a quarter.
constexpr double kGeluTerm = 0.25;

std::vector<Operation> unary_operations() {
  const std::vector<double> from_zero = {kInf, -kInf, kNan, 0, -0.0, 1, -1, 0.5, 4, 100, 1e4};
  std::vector<Operation> all;
  const auto add = [&](Operation op) {
    if (op.functions.empty()) op.functions = {op.name};
    all.push_back(std::move(op));
  };
  const auto simple = [&](const char* name, OneTensor f, double (*reference)(double)) {
    return Operation{.name = name, .call = on_one(f), .reference = loops<1>(reference)};
  };
  Operation op = simple("exp", exp, [](double x) { return std::exp(x); });
  op.roundings = 2;
  add(op);
  op = simple("log", log, [](double x) { return std::log(x); });
  op.operand = between(0.3, 4);
  op.extreme = from_zero;
  add(op);
  op = simple("sqrt", sqrt, [](double x) { return std::sqrt(x); });
  op.operand = between(0.3, 4);
  op.extreme = from_zero;
  op.roundings = 2;
  add(op);
  op = simple("rsqrt", rsqrt, [](double x) { return 1 / std::sqrt(x); });
  op.operand = between(0.3, 4);
  op.extreme = from_zero;
  op.roundings = 4;
  add(op);
  add(simple("abs", abs, [](double x) { return std::fabs(x); }));
  op = simple("neg", neg, [](double x) { return -x; });
  op.backward_passes = 2;
  add(op);
  add(simple("relu", relu, [](double x) { return x < 0 ? 0 : x; }));
  op = simple("sigmoid", sigmoid, sigmoid_of);
  op.roundings = 2;
  add(op);
  op = simple("tanh", tanh, [](double x) { return std::tanh(x); });
  op.roundings = 3;  // 1 - y²
  add(op);
  add(simple("silu", silu, [](double x) { return x * sigmoid_of(x); }));
  add({.name = "leaky_relu",
       .call = on_one([](const Tensor& x) { return leaky_relu(x, 0.1); }),
       .reference = loops<1>([](double x) { return x > 0 ? x : 0.1 * x; })});
  add({.name = "gelu",
       .call = on_one([](const Tensor& x) { return gelu(x); }),
       .reference = loops<1>([](double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }),
       .scale = kGeluTerm});
  add({.name = "gelu_tanh",
       .functions = {"gelu"},
       .call = on_one([](const Tensor& x) { return gelu(x, Gelu::tanh); }),
       .reference = loops<1>([](double x) {
         // 1 + tanh(u) cancels where u is far below 0.
         return x * sigmoid_of(2 * 0.79788456080286535588 * (x + 0.044715 * x * x * x));
       }),
       .scale = kGeluTerm});
  add({.name = "softplus",
       .call = on_one([](const Tensor& x) { return softplus(x, 2, 3); }),
       .reference = loops<1>([](double x) { return 2 * x > 3 ? x : std::log1p(std::exp(2 * x)) / 2; })});
  add({.name = "softplus_default",
       .functions = {"softplus"},
       .call = on_one([](const Tensor& x) { return softplus(x); }),
       .reference = loops<1>([](double x) { return x > 20 ? x : std::log1p(std::exp(x)); })});
  add({.name = "clamp",
       .call = on_one([](const Tensor& x) { return clamp(x, -0.75, 0.5); }),  // both ends are among the extreme values
       .reference = loops<1>([](double x) { return x < -0.75 ? -0.75
                                                   : x > 0.5 ? 0.5
                                                             : x; }),
       .extreme = {kInf, -kInf, kNan, 0, -0.0, 0.5, -0.75, 1e4, -1e4, 0.25, -1}});
  add({.name = "add_number",
       .functions = {"add"},
       .call = on_one([](const Tensor& x) { return 1.5 + x; }),
       .reference = loops<1>([](double x) { return x + 1.5; }),
       .backward_passes = 2});
  add({.name = "subtract_from_number",
       .functions = {"sub"},
       .call = on_one([](const Tensor& x) { return 1.5 - x; }),
       .reference = loops<1>([](double x) { return 1.5 - x; }),
       .backward_passes = 2});
  add({.name = "number_divided",
       .functions = {"div"},
       .call = on_one([](const Tensor& x) { return 1.5 / x; }),
       .reference = loops<1>([](double x) { return 1.5 / x; }),
       .operand = between(0.3, 4),
       .extreme = {kInf, -kInf, kNan, 0, -0.0, 0.5, -4, 100, -100, 8, -1}});
  add({.name = "scale",
       .call = on_one([](const Tensor& x) { return scale(x, -0.75); }),
       .reference = loops<1>([](double x) { return x * -0.75; }),
       .backward_passes = 2});
  add({.name = "square",
       .functions = {"pow"},
       .call = on_one([](const Tensor& x) { return pow(x, 2); }),
       .reference = loops<1>([](double x) { return std::pow(x, 2); }),
       .extreme = {kInf, -kInf, kNan, 0, -0.0, 100, -100, 1, -1, 0.5, -3}});
  add({.name = "pow_of_number",
       .functions = {"pow"},
       .call = on_one([](const Tensor& x) { return pow(x, -1.5); }),
       .reference = loops<1>([](double x) { return std::pow(x, -1.5); }),
       .operand = between(0.3, 4),
       .extreme = {kInf, -kInf, kNan, 0, -0.0, 100, -100, 1, -1, 4, -3}});
  return all;
}

template <class F>
Operation comparison(const char* name, TwoTensors f, F reference) {
  return {.name = name,
          .functions = {name},
          .call = on_two(f),
          .reference = loops<2>([reference](double a, double b) { return reference(a, b) ? 1.0 : 0.0; }),
          .operand = few,
          .extreme = {kInf, -kInf, kNan, 0, -0.0, 1, -1}};
}

OpCase where_case() {
  const auto flags = [](const Shape& shape) { return integers(shape, 0, 2, Dtype::boolean); };
  const Operation op{
      .name = "where",
      .functions = {"where"},
      .call = [](const Tensors& x) { return where(x[0], x[1], x[2]); },
      .reference = loops<3>([](double condition, double a, double b) { return condition != 0 ? a : b; })};
  OpCase c = case_of(op);
  const auto add = [&](std::string name, Kind kind, const Shape& condition, const Shape& a, const Shape& b,
                       double terms_a = 1, double terms_b = 1) {
    c.samples.push_back(sample_of(op, std::move(name), kind,
                                  {flags(condition), stretched(any(a), terms_a), stretched(any(b), terms_b)}));
  };
  add("[4, 8]", Kind::usual, {4, 8}, {4, 8}, {4, 8});
  add("[0, 3]", Kind::empty, {0, 3}, {3}, {0, 3});
  add("scalars", Kind::one, {}, {}, {});
  add("[5, 33], [33] and a scalar", Kind::odd, {5, 33}, {33}, {}, 5, 165);
  add("[5, 1], [5, 33] and [33]", Kind::odd, {5, 1}, {5, 33}, {33}, 1, 5);
  add("[16, 1], [1, 32] and [16, 32]", Kind::usual, {16, 1}, {1, 32}, {16, 32}, 16, 1);
  add("[3, 1], [2, 1, 5] and a scalar", Kind::odd, {3, 1}, {2, 1, 5}, {}, 3, 30);
  add("[17, 1031]", Kind::large, {17, 1031}, {17, 1031}, {17, 1031});
  c.samples.push_back(sample_of(op, "extreme", Kind::extreme,
                                {flags({3, 11}), listed({3, 11}, op.extreme), listed({11}, {kNan, kInf, -kInf, 1})}));
  c.samples.back().gradients = false;  // as those of any other sample: they do not depend on a and b
  c.families = {{.extents = {"R", "C"},
                 .make =
                     [op, flags](const Extents& e, double bytes) {
                       const double n = static_cast<double>(e[0] * e[1]);
                       const Shape shape{e[0], e[1]};
                       return Workload{.inputs = {flags(shape), normal(shape), normal(shape)},
                                       .call = op.call,
                                       .forward = {.bytes = n * (1 + 3 * bytes)},
                                       .backward = {.bytes = 2 * n * (1 + 2 * bytes)}};
                     },
                 .timed = kTimed,
                 .counted = kCounted}};
  return c;
}

}  // namespace

std::vector<OpCase> elementwise_cases() {
  std::vector<OpCase> all;
  for (const Operation& op : unary_operations()) all.push_back(unary_case(op));

  const auto binary = [&](const char* name, TwoTensors f, double (*reference)(double, double)) {
    return Operation{.name = name, .functions = {name}, .call = on_two(f), .reference = loops<2>(reference)};
  };
  // The gradients of a sum are copies of dy; those of the others one launch each that reads dy and what it needs.
  all.push_back(binary_case(binary("add", add, [](double a, double b) { return a + b; }), any, 4));
  all.push_back(binary_case(binary("sub", sub, [](double a, double b) { return a - b; }), any, 4));
  Operation op = binary("mul", mul, [](double a, double b) { return a * b; });
  op.roundings = 2;  // of the product before it is summed
  op.extreme = {kInf, -kInf, kNan, 0, -0.0, 100, -100, 1, -3};
  all.push_back(binary_case(op, any));
  op = binary("div", div, [](double a, double b) { return a / b; });
  op.roundings = 2;
  op.extreme = {kInf, -kInf, kNan, 0, -0.0, 100, -100, 1, -3};
  all.push_back(binary_case(op, between(0.5, 2), 7));
  op = binary("pow", pow, [](double a, double b) { return std::pow(a, b); });
  op.roundings = 2;
  op.operand = between(0.3, 3);
  op.extreme = {kInf, -kInf, kNan, 0, -0.0, 1, -1, 2, -3, 0.5};
  all.push_back(binary_case(op, between(-2, 2), 8));
  const auto least = [](double a, double b) { return std::isnan(a) || std::isnan(b) ? kNan : b < a ? b : a; };
  const auto most = [](double a, double b) { return std::isnan(a) || std::isnan(b) ? kNan : b > a ? b : a; };
  for (Operation of : {binary("minimum", minimum, least), binary("maximum", maximum, most)}) {
    of.roundings = 2;
    OpCase c = binary_case(of, any, 8);
    // Ties and NaN, whose gradients are shared: the operands have one shape, so that nothing is summed.
    Sample ties = sample_of(of, "ties", Kind::extreme,
                            {listed({3, 4}, {1, 2, 3, kNan, 0, -0.0}), listed({3, 4}, {1, 3, 2, 1, -0.0})});
    c.samples.push_back(ties);
    all.push_back(c);
  }

  all.push_back(where_case());

  const std::vector<Dtype> every = {Dtype::f32, Dtype::f64, Dtype::f16, Dtype::bf16,
                                    Dtype::i64, Dtype::i32, Dtype::u8,  Dtype::boolean};
  for (const Operation& of : {comparison("eq", eq, [](double a, double b) { return a == b; }),
                              comparison("ne", ne, [](double a, double b) { return a != b; }),
                              comparison("lt", lt, [](double a, double b) { return a < b; }),
                              comparison("le", le, [](double a, double b) { return a <= b; }),
                              comparison("gt", gt, [](double a, double b) { return a > b; }),
                              comparison("ge", ge, [](double a, double b) { return a >= b; })})
    all.push_back(exact_case(of, every, 1));
  // With a number: `b` is not used.
  Operation number = comparison("compare_with_number", eq, [](double a, double) { return a < 1; });
  number.functions = {"lt"};
  number.call = [](const Tensors& x) { return lt(x[0], 1.0); };
  number.reference = loops<1>([](double a) { return a < 1 ? 1.0 : 0.0; });
  OpCase with_number = exact_case(number, every, 1);
  for (Sample& sample : with_number.samples) sample.inputs.pop_back();
  with_number.families[0].make = [number](const Extents& e, double bytes) {
    return Workload{.inputs = {few({e[0], e[1]})},
                    .call = number.call,
                    .forward = {.bytes = static_cast<double>(e[0] * e[1]) * (bytes + 1)}};
  };
  all.push_back(with_number);
  Operation logic = comparison("logical", eq, [](double a, double b) { return (a != 0 && b != 0) || !(a != 0); });
  logic.functions = {"logical_and", "logical_or", "logical_not"};
  logic.call = [](const Tensors& x) { return logical_or(logical_and(x[0], x[1]), logical_not(x[0])); };
  OpCase logical = exact_case(logic, every, 1);
  logical.families[0].counted = {};  // several launches
  all.push_back(logical);

  // Integers wrap; the same kernels as above. The reference of f64 is the case of the same name without _integers.
  const auto on_integers = [&](const char* name, const char* function, TwoTensors f) {
    const Operation of{
        .name = name,
        .functions = {function},
        .call = on_two(f),
        .reference = {},
        .operand =
            [](const Shape& shape) {
              return Input{.shape = shape, .fill = Input::Fill::integers, .a = -100, .b = 120, .differentiable = false};
            },
        .extreme = {}};
    all.push_back(exact_case(of, {Dtype::i32, Dtype::i64, Dtype::u8}, 0));
  };
  on_integers("add_integers", "add", add);
  on_integers("sub_integers", "sub", sub);
  on_integers("mul_integers", "mul", mul);
  on_integers("minimum_integers", "minimum", minimum);
  on_integers("maximum_integers", "maximum", maximum);
  return all;
}

}  // namespace weft::cases
