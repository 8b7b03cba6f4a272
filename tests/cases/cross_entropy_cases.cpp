#include <cmath>
#include <limits>

#include "autograd/cast.h"
#include "autograd/cross_entropy.h"
#include "autograd/factories.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What a sample asks for; tensors among the options are inputs of the sample, in this order behind logits and targets.
struct Asked {
  bool probabilities = false;
  bool weight = false;
  bool token_weights = false;
  bool mask = false;
  double label_smoothing = 0;
  double z_loss = 0;
  bool some_ignored = false;  // labels of -100 among the others
};

CrossEntropyOptions options_of(const Asked& asked, const Tensors& x) {
  CrossEntropyOptions options{.label_smoothing = asked.label_smoothing, .z_loss = asked.z_loss};
  std::size_t next = 2;
  if (asked.weight) options.weight = x[next++];
  if (asked.token_weights) options.token_weights = x[next++];
  if (asked.mask) options.mask = x[next++];
  return options;
}

std::vector<Input> inputs_of(const Shape& rows, std::int64_t classes, const Asked& asked, Input logits) {
  std::vector<Input> inputs{std::move(logits)};
  const std::int64_t middle = classes / 2;
  if (asked.probabilities) {  // not normalised: nothing in the formula needs it. Some are 0.
    inputs.push_back(constant(listed(inputs[0].shape, {0.5, 0, 0.25, 0.125, 0.75, 0.0625, 0})));
  } else if (asked.some_ignored) {
    inputs.push_back(constant(with_dtype(
        listed(rows, {0, -100, static_cast<double>(classes - 1), static_cast<double>(middle)}), Dtype::i64)));
  } else {
    inputs.push_back(integers(rows, 0, classes));
  }
  if (asked.weight) inputs.push_back(constant(uniform({classes}, 0.25, 2)));
  if (asked.token_weights) inputs.push_back(constant(with_dtype(listed(rows, {1, 0.5, 0, 2, 0.25}), Dtype::f32)));
  if (asked.mask) inputs.push_back(constant(with_dtype(listed(rows, {1, 1, 1, 0}), Dtype::u8)));
  return inputs;
}

Sample sample(std::string name, Kind kind, const Shape& rows, std::int64_t classes, const Asked& asked,
              std::optional<Input> logits = {}) {
  Shape shape = rows;
  shape.push_back(classes);
  const auto count = static_cast<double>(rows.numel());
  if (!logits) logits = normal(shape, 0, 2);
  // An element of the gradient is a difference of numbers up to 1 (the target's p - 1), times the row's weight.
  const double factor = 1 + asked.z_loss * 20;
  logits->scale = factor / std::sqrt(static_cast<double>(classes));
  return {
      .name = std::move(name),
      .kind = kind,
      .inputs = inputs_of(rows, classes, asked, *logits),
      .call = [asked](const Tensors& x) { return cross_entropy(x[0], x[1], options_of(asked, x)).sum; },
      .reference = [asked](const Tensors& x) { return cross_entropy_composite(x[0], x[1], options_of(asked, x)).sum; },
      // A row's term is a difference of log-sum-exp and logits, of up to that size.
      .terms = static_cast<double>(classes),
      .scale = std::max(1.0, count) * (3 + std::log(static_cast<double>(classes))) * (asked.z_loss > 0 ? 2 : 1),
      .amplification = 2};
}

Workload plain(const Extents& e, double bytes) {
  const auto r = static_cast<double>(e[0]), v = static_cast<double>(e[1]);
  return {.inputs = {normal({e[0], e[1]}, 0, 2), integers({e[0]}, 0, e[1])},
          .call = [](const Tensors& x) { return cross_entropy(x[0], x[1]).sum; },
          .forward = {.bytes = r * v * 2 * bytes + r * 8, .flops = 6 * r * v}};
}
Workload smoothed(const Extents& e, double bytes) {
  const auto r = static_cast<double>(e[0]), v = static_cast<double>(e[1]);
  return {.inputs = {normal({e[0], e[1]}, 0, 2), integers({e[0]}, 0, e[1]), constant(uniform({e[1]}, 0.25, 2))},
          .call =
              [](const Tensors& x) {
                return cross_entropy(x[0], x[1], {.weight = x[2], .label_smoothing = 0.1, .z_loss = 1e-4}).sum;
              },
          .forward = {.bytes = r * v * 2 * bytes + r * 8 + v * 4, .flops = 12 * r * v}};
}
// The probabilities are read once more for the gradient; on a device that read finds them in a cache.
Workload soft(const Extents& e, double bytes) {
  const auto r = static_cast<double>(e[0]), v = static_cast<double>(e[1]);
  return {.inputs = {normal({e[0], e[1]}, 0, 2), constant(uniform({e[0], e[1]}, 0, 1))},
          .call = [](const Tensors& x) { return cross_entropy(x[0], x[1]).sum; },
          .forward = {.bytes = r * v * 4 * bytes, .flops = 10 * r * v}};
}

}  // namespace

std::vector<OpCase> cross_entropy_cases() {
  OpCase c{.op = "cross_entropy", .stem = "cross_entropy", .tier = Tier::mission, .functions = {"cross_entropy"}};
  const Asked everything{.weight = true,
                         .token_weights = true,
                         .mask = true,
                         .label_smoothing = 0.1,
                         .z_loss = 1e-2,
                         .some_ignored = true};
  Asked soft_everything = everything;
  soft_everything.probabilities = true;
  soft_everything.some_ignored = false;
  c.samples = {
      sample("R=4 V=6", Kind::usual, {4}, 6, {}),
      sample("ignored rows and a mask", Kind::usual, {5}, 4, {.mask = true, .some_ignored = true}),
      sample("class weights", Kind::usual, {5}, 6, {.weight = true}),
      sample("token weights", Kind::usual, {6}, 5, {.token_weights = true}),
      sample("both weights", Kind::usual, {6}, 5, {.weight = true, .token_weights = true}),
      sample("smoothing", Kind::usual, {5}, 6, {.label_smoothing = 0.1}),
      sample("smoothing, class weights, ignored", Kind::usual, {5}, 6,
             {.weight = true, .label_smoothing = 0.2, .some_ignored = true}),
      sample("smoothing of 1", Kind::usual, {3}, 6, {.label_smoothing = 1}),
      sample("z-loss", Kind::usual, {5}, 6, {.z_loss = 0.05}),
      sample("z-loss, both weights", Kind::usual, {5}, 6, {.weight = true, .token_weights = true, .z_loss = 0.05}),
      sample("every option", Kind::usual, {7}, 6, everything),
      sample("probabilities", Kind::usual, {5}, 6, {.probabilities = true}),
      sample("probabilities, class weights, smoothing", Kind::usual, {5}, 6,
             {.probabilities = true, .weight = true, .label_smoothing = 0.1}),
      sample("probabilities, every option", Kind::usual, {7}, 6, soft_everything),
      sample("three leading dimensions", Kind::odd, {2, 3, 2}, 5, everything),
      sample("probabilities, two leading dimensions", Kind::odd, {3, 4}, 5, soft_everything),
      sample("R=0", Kind::empty, {0}, 8, {}),
      sample("R=0, every option", Kind::empty, {0}, 8, everything),
      sample("R=0, probabilities", Kind::empty, {0}, 8, soft_everything),
      sample("R=1 V=1", Kind::one, {1}, 1, {}),
      sample("R=1 V=1, smoothing and z-loss", Kind::one, {1}, 1, {.label_smoothing = 0.1, .z_loss = 0.01}),
      sample("R=1 V=1, probabilities", Kind::one, {1}, 1, {.probabilities = true}),
      sample("one row without leading dimensions", Kind::odd, {}, 9, {}),
      sample("R=7 V=33", Kind::odd, {7}, 33, {}),
      sample("R=7 V=33, every option", Kind::odd, {7}, 33, everything),
      sample("R=7 V=33, probabilities", Kind::odd, {7}, 33, soft_everything),
      sample("R=5 V=1031, every option", Kind::odd, {5}, 1031, everything),
      sample("R=5 V=1031, probabilities", Kind::odd, {5}, 1031, soft_everything),
      sample("R=70 V=257", Kind::large, {70}, 257, {}),
      sample("R=300 V=10, every option", Kind::large, {300}, 10, everything),
      sample("R=70 V=257, every option", Kind::large, {70}, 257, everything),
      sample("R=20 V=5003, smoothing", Kind::large, {20}, 5003, {.label_smoothing = 0.1}),
      sample("R=20 V=5003, every option", Kind::large, {20}, 5003, everything),
      sample("R=20 V=5003, probabilities", Kind::large, {20}, 5003, soft_everything),
      sample("R=2 V=60001, every option", Kind::large, {2}, 60001, everything),  // f32: no row fits in shared memory
  };
  // Terms of 1e4 whose difference is the loss: rounded relative to that.
  for (const bool is_soft : {false, true}) {
    Sample far = sample(is_soft ? "probabilities, logits of 1e4" : "logits of 1e4, every option", Kind::extreme, {6}, 9,
                        is_soft ? soft_everything : everything,
                        listed({6, 9}, {1e4, -1e4, 9984, 0, -1e4, 1e4, 1e4, 16, -9984, 1e4, 0}));
    for (Input& input : far.inputs) input.scale = 1e-2 * 2e4;  // 2 z_loss L
    far.scale = 6 * 1e-2 * 1e8;                                // z_loss L²
    c.samples.push_back(std::move(far));
  }
  // A row's logits may share any offset: what is left of the loss is rounded relative to it.
  Sample offset = sample("logits of 1e4 + noise", Kind::huge_mean, {5}, 33, {}, normal({5, 33}, 1e4, 1));
  offset.scale = 5 * 1e4;
  c.samples.push_back(std::move(offset));
  Sample masked = sample("all masked, logits not finite", Kind::extreme, {3}, 5, {.mask = true, .label_smoothing = 0.1},
                         listed({3, 5}, {NAN, kInfinity, 1, -kInfinity, NAN}));
  masked.inputs[2] = constant(with_dtype(listed({3}, {0}), Dtype::u8));
  masked.reference = [](const Tensors& x) { return scalar(0, Dtype::f64, x[0].device()); };
  c.samples.push_back(std::move(masked));
  c.families = {{.extents = {"R", "V"},
                 .make = plain,
                 .timed = {{128, 10}, {2048, 256}, {2048, 50257}},
                 .counted = {{128, 2048}, {1024, 256}, {4, 50257}},
                 .dtypes = {Dtype::f32, Dtype::bf16},
                 .passes = Family::Passes::forward},
                {.suffix = "_smoothed",
                 .extents = {"R", "V"},
                 .make = smoothed,
                 .timed = {{128, 10}, {2048, 256}, {2048, 50257}},
                 .counted = {{128, 2048}, {256, 256}},
                 .passes = Family::Passes::forward},
                {.suffix = "_soft",
                 .extents = {"R", "V"},
                 .make = soft,
                 .timed = {{128, 10}, {2048, 256}},
                 .counted = {{128, 2048}, {256, 256}},
                 .passes = Family::Passes::forward}};
  return {c};
}

}  // namespace weft::cases
