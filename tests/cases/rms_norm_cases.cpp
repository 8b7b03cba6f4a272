#include "autograd/rms_norm.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

struct Options {
  Shape normalized = {};  // none: the last axis
  bool gamma = true;
  std::optional<double> eps = 1e-5;
  double mean = 0, spread = 1;
};

// Without gamma, or with one element, y has nearly the same length for any x: with a small eps all but rounding would
// cancel in what gradcheck differentiates.
constexpr double kLargeEps = 0.5;

Sample sample(std::string name, Kind kind, const Shape& shape, const Options& options = {}) {
  const Shape normalized = options.normalized.rank() > 0 ? options.normalized : Shape{shape.back()};
  const std::int64_t channels = normalized.numel();
  const auto rows = static_cast<double>(shape.numel()) / static_cast<double>(channels);
  // dx is a difference of terms rrms g. Of a row whose elements are all alike, or of one element, two equal ones.
  const double scale = channels == 1 || options.spread == 0 ? 1 : 0;
  std::vector<Input> inputs{with_scale(normal(shape, options.mean, options.spread), scale)};
  if (options.gamma) inputs.push_back(with_terms(normal(normalized, 1, 0.5), rows));
  const auto with = [=](auto f) {
    return [=](const Tensors& x) { return f(x[0], options.gamma ? x[1] : Tensor(), options.eps); };
  };
  const bool last = options.normalized.rank() == 0;
  return {.name = std::move(name),
          .kind = kind,
          .inputs = std::move(inputs),
          .call = with([=](const Tensor& x, const Tensor& g, std::optional<double> eps) {
            return last ? rms_norm(x, g, eps) : rms_norm(x, normalized, g, eps);
          }),
          .reference = with([=](const Tensor& x, const Tensor& g, std::optional<double> eps) {
            return rms_norm_composite(x, normalized, g, eps);
          }),
          .terms = static_cast<double>(channels),
          // dx is a difference of terms of the size of rrms * g, which a projection makes smaller.
          .amplification = 4};
}

Workload workload(const Extents& e, double bytes) {
  const auto r = static_cast<double>(e[0]), c = static_cast<double>(e[1]);
  return {.inputs = {normal({e[0], e[1]}), normal({e[1]}, 1, 0.5)},
          .call = [](const Tensors& x) { return rms_norm(x[0], x[1]); },
          .forward = {.bytes = r * c * 2 * bytes + r * 4 + c * bytes, .flops = 4 * r * c},
          .backward = {.bytes = r * c * 3 * bytes + r * 4 + c * 2 * bytes, .flops = 9 * r * c}};
}

}  // namespace

std::vector<OpCase> rms_norm_cases() {
  OpCase c{.op = "rms_norm", .stem = "rms_norm", .tier = Tier::mission, .functions = {"rms_norm"}};
  c.samples = {
      sample("R=3 C=8", Kind::usual, {3, 8}),
      sample("no gamma", Kind::usual, {4, 6}, {.gamma = false}),
      sample("eps of f64", Kind::usual, {4, 6}, {.normalized = {6}, .eps = 0x1p-52}),
      sample("three leading dimensions", Kind::odd, {2, 3, 2, 5}, {.spread = 2}),
      sample("normalised over [3, 4]", Kind::usual, {2, 2, 3, 4}, {.normalized = {3, 4}}),
      sample("normalised over all", Kind::odd, {3, 5, 3}, {.normalized = {3, 5, 3}, .gamma = false, .eps = kLargeEps}),
      sample("R=0", Kind::empty, {0, 8}),
      sample("R=1 C=1", Kind::one, {1, 1}, {.eps = kLargeEps, .mean = 3}),
      sample("R=5 C=33", Kind::odd, {5, 33}, {.mean = 10}),
      sample("R=70 C=257", Kind::large, {70, 257}),
      sample("R=3 C=8195", Kind::large, {3, 8195}),
      sample("mean 1e6", Kind::huge_mean, {5, 64}, {.mean = 1e6}),
      sample("constant rows", Kind::extreme, {3, 16}, {.mean = 7, .spread = 0}),
  };
  c.families = {{.extents = {"R", "C"},
                 .make = workload,
                 .timed = {{128, 512}, {2048, 768}, {8192, 1024}},
                 .counted = {{16384, 256}},
                 .dtypes = {Dtype::f32, Dtype::bf16}},
                {.suffix = "_wide",
                 .extents = {"R", "C"},
                 .make = workload,
                 .counted = {{256, 1024}},
                 .dtypes = {Dtype::f32, Dtype::bf16},
                 .passes = Family::Passes::forward}};  // so few rows leave partial sums of a fifth of the floor
  return {c};
}

}  // namespace weft::cases
