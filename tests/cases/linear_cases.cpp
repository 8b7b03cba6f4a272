#include <limits>

#include "autograd/linear.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

Sample sample(std::string name, Kind kind, const Shape& x, std::int64_t out, bool bias,
              Activation activation = Activation::none) {
  const std::int64_t in = x.back();
  const double rows = in == 0 ? 0 : static_cast<double>(x.numel()) / static_cast<double>(in);
  std::vector<Input> inputs{with_terms(normal(x), static_cast<double>(out)), with_terms(normal({out, in}), rows)};
  if (bias) inputs.push_back(with_terms(normal({out}), rows));
  using Linear = Tensor (*)(const Tensor&, const Tensor&, const Tensor&, Activation);
  const auto with = [=](Linear f) {
    return [=](const Tensors& t) { return f(t[0], t[1], bias ? t[2] : Tensor(), activation); };
  };
  const bool relu = activation == Activation::relu;
  return {.name = std::move(name),
          .kind = kind,
          .inputs = std::move(inputs),
          .call = with(linear),
          .reference = with(linear_composite),
          .terms = static_cast<double>(in) + 1,
          .gradcheck = !relu};  // a sum may lie next to relu's corner
}

// 0 * inf and inf - inf are NaN, and the other rows stay finite.
Sample infinities() {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  Sample s = sample("infinities and 1e4", Kind::extreme, {5, 4}, 3, true);
  s.inputs[0] = listed({5, 4}, {1, kInf, 2, 0, 1e4, -1, 0.5, 2, -kInf, 1, kInf, 3, 1, 2, 3, 4, -1, 0, 1, -kInf});
  s.inputs[1] = listed({3, 4}, {1, 2, 0, -1, 3, 1, 0, -2, 4, 0, 2, 1});
  s.gradients = false;
  return s;
}

Workload workload(const Extents& e, double bytes) {
  const std::int64_t rows = e[0], in = e[1], out = e[2];
  const auto x = static_cast<double>(rows * in), w = static_cast<double>(out * in), y = static_cast<double>(rows * out);
  const auto b = static_cast<double>(out);
  const double flops = 2 * y * static_cast<double>(in);
  return {.inputs = {normal({rows, in}), normal({out, in}), normal({out})},
          .call = [](const Tensors& t) { return linear(t[0], t[1], t[2]); },
          .forward = {.bytes = (x + w + y + b) * bytes, .flops = flops},
          .backward = {.bytes = (2 * x + 2 * w + y + b) * bytes, .flops = 2 * flops}};
}

}  // namespace

std::vector<OpCase> linear_cases() {
  constexpr Activation kRelu = Activation::relu;
  OpCase c{.op = "linear", .stem = "linear", .tier = Tier::mission, .functions = {"linear"}};
  c.samples = {
      sample("R=6 K=8 N=5", Kind::usual, {6, 8}, 5, true),
      sample("no bias", Kind::usual, {6, 8}, 5, false),
      sample("relu", Kind::usual, {6, 8}, 5, true, kRelu),
      sample("relu, no bias", Kind::usual, {6, 8}, 20, false, kRelu),
      sample("leading dimensions", Kind::usual, {2, 3, 2, 4}, 3, true),
      sample("one vector", Kind::usual, {12}, 7, true),
      sample("few rows", Kind::odd, {3, 35}, 9, true),
      sample("R=0", Kind::empty, {0, 8}, 5, true),
      sample("R=0, relu", Kind::empty, {0, 8}, 5, true, kRelu),
      sample("R=1 K=1 N=1", Kind::one, {1, 1}, 1, true),
      sample("R=1", Kind::one, {1, 16}, 5, true),
      sample("R=9 K=33 N=19", Kind::odd, {9, 33}, 19, true),
      sample("R=9 K=33 N=19, relu", Kind::odd, {9, 33}, 19, true, kRelu),
      sample("R=70 K=129 N=67", Kind::large, {70, 129}, 67, true),
      sample("a long sum, relu", Kind::large, {6, 1100}, 20, true, kRelu),
      sample("many rows, few outputs", Kind::large, {600, 12}, 10, true),
      infinities(),
  };
  c.families = {{.extents = {"R", "K", "N"},
                 .make = workload,
                 .timed = {{1, 784, 512},
                           {128, 784, 512},
                           {128, 512, 256},
                           {128, 256, 10},
                           {2048, 128, 512},
                           {2048, 384, 1536},
                           {1024, 1024, 1024}},
                 .counted = {{64, 64, 64}, {4, 64, 64}},
                 .small = {30, 70, 34},
                 .dtypes = {Dtype::f32, Dtype::bf16},
                 .memory_bound = false}};
  c.skips = {{.check = "huge_mean", .reason = "no statistics: a product has no mean that could cancel"}};
  return {c};
}

}  // namespace weft::cases
