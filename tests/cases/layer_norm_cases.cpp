#include <cmath>

#include "autograd/layer_norm.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

Sample sample(std::string name, Kind kind, const Shape& shape, double mean, double spread, bool gamma, bool beta) {
  const std::int64_t channels = shape.back();
  const auto rows = static_cast<double>(shape.numel()) / static_cast<double>(channels);
  // Of a row without spread nothing but rounding is left of dx: 1 / sqrt(eps) times the difference of equal terms.
  const double scale = channels == 1 || spread == 0 ? 316 : 0;
  std::vector<Input> inputs{with_scale(normal(shape, mean, spread), scale)};
  if (gamma) inputs.push_back(with_scale(with_terms(normal({channels}, 1, 0.5), rows), scale));
  if (beta) inputs.push_back(with_terms(normal({channels}), rows));
  const auto with = [=](auto f) {
    return [=](const Tensors& x) { return f(x[0], gamma ? x[1] : Tensor(), beta ? x[gamma ? 2 : 1] : Tensor(), 1e-5); };
  };
  return {.name = std::move(name),
          .kind = kind,
          .inputs = std::move(inputs),
          .call = with(
              [](const Tensor& x, const Tensor& g, const Tensor& b, double eps) { return layer_norm(x, g, b, eps); }),
          .reference = with([](const Tensor& x, const Tensor& g, const Tensor& b, double eps) {
            return layer_norm_composite(x, g, b, eps);
          }),
          .terms = static_cast<double>(channels),
          // dx is a difference of terms of the size of rstd * g, which two projections make smaller.
          .amplification = 4,
          .reference_amplification = 1 + std::fabs(mean)};  // it subtracts a mean that is rounded
}

// Over all axes of `normalized`, with any of scale and shift.
Sample over(std::string name, Kind kind, const Shape& shape, const Shape& normalized, bool gamma, bool beta,
            double mean = 0) {
  const std::int64_t channels = normalized.numel();
  const double rows = static_cast<double>(shape.numel()) / static_cast<double>(channels);
  std::vector<Input> inputs{normal(shape, mean, 1)};
  if (gamma) inputs.push_back(with_terms(normal(normalized, 1, 0.5), rows));
  if (beta) inputs.push_back(with_terms(normal(normalized), rows));
  const auto with = [=](auto f) {
    return [=](const Tensors& x) {
      return f(x[0], normalized, gamma ? x[1] : Tensor(), beta ? x[gamma ? 2 : 1] : Tensor(), 1e-5);
    };
  };
  Sample s = sample(std::move(name), kind, {1, channels}, mean, 1, false, false);
  s.inputs = std::move(inputs);
  s.call = with([](const auto&... in) { return layer_norm(in...); });
  s.reference = with([](const auto&... in) { return layer_norm_composite(in...); });
  return s;
}

Workload workload(const Extents& e, double bytes) {
  const auto r = static_cast<double>(e[0]), c = static_cast<double>(e[1]);
  return {.inputs = {normal({e[0], e[1]}), normal({e[1]}, 1, 0.5), normal({e[1]})},
          .call = [](const Tensors& x) { return layer_norm(x[0], x[1], x[2]); },
          .forward = {.bytes = r * c * 2 * bytes + r * 8 + c * 2 * bytes, .flops = 8 * r * c},
          .backward = {.bytes = r * c * 3 * bytes + r * 8 + c * 3 * bytes, .flops = 12 * r * c}};
}

}  // namespace

std::vector<OpCase> layer_norm_cases() {
  OpCase c{.op = "layer_norm", .stem = "layer_norm", .tier = Tier::mission, .functions = {"layer_norm"}};
  c.samples = {
      sample("R=3 C=8", Kind::usual, {3, 8}, 0, 1, true, true),
      sample("no gamma, no beta", Kind::usual, {4, 6}, 0, 1, false, false),
      sample("gamma alone", Kind::usual, {4, 6}, 0, 1, true, false),
      sample("beta alone", Kind::usual, {4, 6}, 0, 1, false, true),
      sample("three leading dimensions", Kind::odd, {2, 3, 2, 5}, 1, 2, true, true),
      sample("R=0", Kind::empty, {0, 8}, 0, 1, true, true),
      sample("R=1 C=1", Kind::one, {1, 1}, 3, 1, true, true),
      sample("R=5 C=33", Kind::odd, {5, 33}, 10, 1, true, true),
      sample("R=70 C=257", Kind::large, {70, 257}, 0, 1, true, true),
      sample("mean 1e6", Kind::huge_mean, {5, 64}, 1e6, 1, true, true),
      over("over [3, 4]", Kind::usual, {2, 2, 3, 4}, {3, 4}, true, true),
      over("over [2, 3, 5], gamma alone", Kind::odd, {3, 2, 3, 5}, {2, 3, 5}, true, false),
      over("over [5, 3], beta alone", Kind::odd, {2, 5, 3}, {5, 3}, false, true, 10),
      over("over [4, 4], neither", Kind::usual, {2, 4, 4}, {4, 4}, false, false),
      over("over all of rank 4", Kind::odd, {2, 3, 2, 5}, {2, 3, 2, 5}, true, true),
      over("over the last axis of rank 1", Kind::odd, {9}, {9}, true, true),
      over("over [3, 4], no rows", Kind::empty, {0, 3, 4}, {3, 4}, true, true),
      over("over [33, 65], 300 rows", Kind::large, {300, 33, 65}, {33, 65}, true, true),
      sample("constant rows", Kind::extreme, {3, 16}, 7, 0, true, true),
  };
  using enum Family::Passes;
  // Fewer rows leave partial sums that are no small part of the floor.
  c.families = {{.extents = {"R", "C"},
                 .make = workload,
                 .timed = {{128, 512}, {2048, 128}, {2048, 768}, {8192, 1024}},
                 .counted = {{256, 1024}},
                 .dtypes = {Dtype::f32, Dtype::bf16},
                 .passes = forward},
                {.extents = {"R", "C"}, .make = workload, .counted = {{16384, 256}}, .passes = backward},
                {.extents = {"R", "C"},
                 .make = workload,
                 .counted = {{32768, 256}},
                 .dtypes = {Dtype::bf16},
                 .passes = backward}};
  return {c};
}

}  // namespace weft::cases
