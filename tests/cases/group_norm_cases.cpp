#include <cmath>

#include "autograd/group_norm.h"
#include "autograd/layout.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

struct Options {
  bool gamma = true, beta = true;
  double mean = 0, spread = 1;
};

Sample sample(std::string name, Kind kind, const Shape& shape, std::int64_t groups, const Options& options = {}) {
  const std::int64_t channels = shape[1];
  const std::int64_t spatial = shape.numel() > 0 ? shape.numel() / shape[0] / channels : 1;
  const auto terms = static_cast<double>(channels * spatial) / static_cast<double>(groups);
  const auto per_channel = static_cast<double>(shape[0] * spatial);
  // Of a group without spread nothing but rounding is left of dx: 1 / sqrt(eps) times the difference of equal terms.
  const double scale = terms == 1 || options.spread == 0 ? 316 : 0;
  std::vector<Input> inputs{with_scale(normal(shape, options.mean, options.spread), scale)};
  if (options.gamma) inputs.push_back(with_scale(with_terms(normal({channels}, 1, 0.5), per_channel), scale));
  if (options.beta) inputs.push_back(with_terms(normal({channels}), per_channel));
  const auto with = [=](auto f) {
    return [=](const Tensors& x) {
      return f(x[0], groups, options.gamma ? x[1] : Tensor(), options.beta ? x[options.gamma ? 2 : 1] : Tensor(), 1e-5);
    };
  };
  return {.name = std::move(name),
          .kind = kind,
          .inputs = std::move(inputs),
          .call = with([](const auto&... in) { return group_norm(in...); }),
          .reference = with([](const auto&... in) { return group_norm_composite(in...); }),
          .terms = terms,
          // dx is a difference of terms of the size of rstd * g, which two projections make smaller.
          .amplification = 4,
          .reference_amplification = 1 + std::fabs(options.mean)};  // it subtracts a mean that is rounded
}

// [N, H, W, C] in memory.
Sample channels_last() {
  Sample s = sample("channels last", Kind::usual, {2, 6, 3, 5}, 3);
  s.inputs[0].shape = {2, 3, 5, 6};
  const auto turned = [](const Tensor& x) { return x.transpose(2, 3).transpose(1, 2); };
  const auto with = [=](const Call& call) {
    return [=](const Tensors& x) {
      Tensors all = x;
      all[0] = turned(x[0]);
      return call(all);
    };
  };
  s.call = with(s.call);
  s.reference = with(s.reference);
  return s;
}

Workload workload(const Extents& e, double bytes) {
  const std::int64_t groups = e[2];
  const auto n = static_cast<double>(e[0]), c = static_cast<double>(e[1]), g = static_cast<double>(e[2]);
  const double elems = n * c * static_cast<double>(e[3]);
  return {.inputs = {normal({e[0], e[1], e[3]}), normal({e[1]}, 1, 0.5), normal({e[1]})},
          .call = [=](const Tensors& x) { return group_norm(x[0], groups, x[1], x[2]); },
          .forward = {.bytes = elems * 2 * bytes + n * g * 8 + c * 2 * bytes, .flops = 8 * elems},
          .backward = {.bytes = elems * 3 * bytes + n * g * 8 + c * 3 * bytes, .flops = 12 * elems}};
}

// A group that does not fit on chip: x once more forward, x and dy once more backward.
Workload large_workload(const Extents& e, double bytes) {
  Workload w = workload(e, bytes);
  const auto elems = static_cast<double>(e[0] * e[1] * e[3]);
  w.forward.bytes += elems * bytes;
  w.backward.bytes += elems * 2 * bytes;
  return w;
}

}  // namespace

std::vector<OpCase> group_norm_cases() {
  OpCase c{.op = "group_norm", .stem = "group_norm", .tier = Tier::mission, .functions = {"group_norm"}};
  c.samples = {
      sample("N=2 C=4 G=2 S=6", Kind::usual, {2, 4, 2, 3}, 2),
      sample("no gamma, no beta", Kind::usual, {2, 4, 4}, 2, {.gamma = false, .beta = false}),
      sample("gamma alone", Kind::usual, {2, 4, 4}, 4, {.beta = false}),
      sample("beta alone", Kind::usual, {2, 4, 4}, 1, {.gamma = false}),
      sample("no spatial dimension", Kind::odd, {3, 10}, 2),
      sample("flat groups of 32", Kind::usual, {5, 96}, 3, {.mean = 10}),
      sample("flat groups of 17, no beta", Kind::odd, {7, 51}, 3, {.beta = false}),
      sample("flat groups, no gamma", Kind::usual, {4, 40}, 2, {.gamma = false}),
      sample("three spatial dimensions", Kind::odd, {2, 6, 2, 3, 5}, 3),
      channels_last(),
      sample("N=0", Kind::empty, {0, 4, 3}, 2),
      sample("one element", Kind::one, {1, 1, 1}, 1, {.mean = 3}),
      sample("planes of 7x7", Kind::odd, {2, 6, 7, 7}, 2, {.mean = 10}),
      sample("planes of 14x14", Kind::large, {3, 16, 14, 14}, 2),
      sample("planes of several units", Kind::large, {1, 6, 37, 61}, 3),
      sample("channels 8195, no plane", Kind::large, {2, 8195}, 1),
      sample("a group over several blocks", Kind::large, {2, 8, 92, 92}, 1),
      sample("odd groups over several blocks", Kind::large, {1, 6, 111, 113}, 2),
      sample("mean 1e6", Kind::huge_mean, {2, 4, 16}, 2, {.mean = 1e6}),
      sample("constant groups", Kind::extreme, {2, 4, 9}, 2, {.mean = 7, .spread = 0}),
  };
  c.families = {{.extents = {"N", "C", "G", "S"},
                 .make = workload,
                 .timed = {{8, 64, 16, 784}, {16, 256, 32, 784}, {32, 128, 32, 3136}},
                 .counted = {{16, 32, 8, 784}},
                 .dtypes = {Dtype::f32, Dtype::bf16}},
                {.suffix = "_large",
                 .extents = {"N", "C", "G", "S"},
                 .make = large_workload,
                 .timed = {{2, 64, 1, 3136}},
                 .counted = {{2, 32, 1, 3136}},
                 .dtypes = {Dtype::f32, Dtype::bf16}}};
  return {c};
}

}  // namespace weft::cases
