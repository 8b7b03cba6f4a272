#include <cmath>
#include <limits>

#include "autograd/softmax.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

using Op = Tensor (*)(const Tensor&, int);

Sample sample(std::string name, Kind kind, Input input, Op op, Op composite, int dim = -1) {
  const Shape shape = input.shape;
  const auto channels = static_cast<double>(shape[dim < 0 ? shape.rank() + dim : dim]);
  // dx is a difference of terms of the size of y dy, or of dy: of a row of one element nothing but rounding is left.
  input = with_scale(std::move(input), channels == 1 ? 1 : 0);
  return {.name = std::move(name),
          .kind = kind,
          .inputs = {std::move(input)},
          .call = [op, dim](const Tensors& x) { return op(x[0], dim); },
          .reference = [composite, dim](const Tensors& x) { return composite(x[0], dim); },
          .terms = channels,
          .amplification = 4,  // the difference; y = exp(x - max) carries the rounding of x - max
          .roundings = 2};     // of y, which the backward pass reads as stored
}

template <bool kLogarithm>
Workload workload(const Extents& e, double bytes) {
  const auto elements = static_cast<double>(e[0]) * static_cast<double>(e[1]);
  return {.inputs = {normal({e[0], e[1]})},
          .call = [](const Tensors& x) { return kLogarithm ? log_softmax(x[0]) : softmax(x[0]); },
          .forward = {.bytes = elements * 2 * bytes, .flops = 4 * elements},
          .backward = {.bytes = elements * 3 * bytes, .flops = 4 * elements}};
}

OpCase make(std::string name, Op op, Op composite, bool logarithm) {
  OpCase c{.op = name, .stem = "softmax", .tier = Tier::mission, .functions = {name}};
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const auto add = [&](std::string what, Kind kind, Input input, int dim = -1) -> Sample& {
    c.samples.push_back(sample(std::move(what), kind, std::move(input), op, composite, dim));
    return c.samples.back();
  };
  add("R=3 C=8", Kind::usual, normal({3, 8}));
  add("dim 0", Kind::usual, normal({5, 3}), 0);
  add("dim 1 of 3", Kind::odd, normal({2, 5, 3}), 1);
  add("R=0", Kind::empty, normal({0, 8}));
  add("R=1 C=1", Kind::one, normal({1, 1}));
  add("R=5 C=33", Kind::odd, normal({5, 33}, 0, 2));
  add("R=70 C=257", Kind::large, normal({70, 257}));
  add("R=2 C=1100", Kind::large, normal({2, 1100}));                      // a block per row
  add("R=2 C=2500", Kind::large, normal({2, 2500}));                      // beyond the registers, one element at a time
  add("R=1 C=33001", Kind::large, normal({1, 33001})).gradcheck = false;  // read again
  add("mean 1e6", Kind::huge_mean, normal({5, 64}, 1e6, 1));
  add("constant rows", Kind::extreme, normal({3, 16}, 7, 0));
  add("±1e4", Kind::extreme, listed({2, 4}, {1e4, -1e4, 0, 1e4, -1e4, -1e4, -1e4, -1e4}));
  Sample& masked =
      add("-inf and NaN", Kind::extreme,
          listed({5, 4},
                 {-kInfinity, 1, 2,         -kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity, 1, std::nan(""),
                  0,          1, kInfinity, 0,          1,          2,          3,          2,          1, 0}));
  masked.gradients = false;
  masked.gradcheck = false;
  const auto work = logarithm ? workload<true> : workload<false>;
  c.families = {{.extents = {"R", "C"},
                 .make = work,
                 .timed = {{128, 512}, {2048, 768}, {8192, 1024}},
                 .counted = {{256, 1024}},
                 .dtypes = {Dtype::f32, Dtype::bf16}}};
  return c;
}

}  // namespace

std::vector<OpCase> softmax_cases() {
  return {make("softmax", softmax, softmax_composite, false),
          make("log_softmax", log_softmax, log_softmax_composite, true)};
}

}  // namespace weft::cases
