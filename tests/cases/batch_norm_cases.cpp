#include <cmath>

#include "autograd/batch_norm.h"
#include "autograd/cast.h"
#include "autograd/layout.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

enum class Memory : std::uint8_t { side_by_side, channels_last };

struct Options {
  BatchNormMode mode = BatchNormMode::train;
  bool gamma = true, beta = true;
  double mean = 0, spread = 1;
  Memory memory = Memory::side_by_side;
};
constexpr BatchNormMode kEval = BatchNormMode::eval;

// Numbers that f32 holds exactly, so that every dtype is normalised by the same ones.
Tensor running(const Tensor& x, std::int64_t channels, double base, double step, int period) {
  std::vector<double> values;
  for (std::int64_t c = 0; c < channels; ++c) values.push_back(base + static_cast<double>(c % period) * step);
  const Tensor all = Tensor::from_vector(values, {channels});
  return to(cast(all, x.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32), x.device());
}

Shape in_memory(const Shape& shape, Memory memory) {
  if (memory == Memory::side_by_side) return shape;
  Shape last{shape[0]};
  for (int d = 2; d < shape.rank(); ++d) last.push_back(shape[d]);
  last.push_back(shape[1]);
  return last;
}
// The input as [N, C, ...].
Tensor as_called(const Tensor& x, Memory memory) {
  if (memory == Memory::side_by_side) return x;
  Dims order{0, x.rank() - 1};
  for (int d = 1; d + 1 < x.rank(); ++d) order.push_back(d);
  return x.permute(order);
}

// A result [N, C, ...] in the order of memory.
Tensor as_stored(const Tensor& y, Memory memory) {
  if (memory == Memory::side_by_side) return y;
  Dims order{0};
  for (int d = 2; d < y.rank(); ++d) order.push_back(d);
  order.push_back(1);
  return y.permute(order);
}

Sample sample(std::string name, Kind kind, const Shape& shape, const Options& options = {}) {
  const std::int64_t channels = shape[1];
  const auto terms = static_cast<double>(std::max<std::int64_t>(1, shape.numel() / channels));
  // Of two values, or of a channel without spread, nothing but rounding is left of dx: at most 1 / sqrt(eps) times the
  // difference of equal terms.
  const bool train = options.mode == BatchNormMode::train;
  const double scale = train && (terms <= 2 || options.spread == 0) ? 316 : 0;
  std::vector<Input> inputs{with_scale(normal(in_memory(shape, options.memory), options.mean, options.spread), scale)};
  if (options.gamma) inputs.push_back(with_scale(normal({channels}, 1, 0.5), scale));
  if (options.beta) inputs.push_back(normal({channels}));
  const auto with = [=](auto f) {
    return [=](const Tensors& x) {
      return f(as_called(x[0], options.memory), options.gamma ? x[1] : Tensor(),
               options.beta ? x[options.gamma ? 2 : 1] : Tensor(),
               running(x[0], channels, options.mean - 0.5, 0.125, 9), running(x[0], channels, 0.5, 0.25, 7),
               BatchNormOptions{.mode = options.mode});
    };
  };
  return {.name = std::move(name),
          .kind = kind,
          .inputs = std::move(inputs),
          .call = with([](const auto&... in) { return batch_norm(in...); }),
          .reference = with([](const auto&... in) { return batch_norm_composite(in...); }),
          .terms = terms,
          // dx is a difference of terms of the size of rstd * g, which two projections make smaller.
          .amplification = 4,
          .reference_amplification = 1 + std::fabs(options.mean),  // it subtracts a mean that is rounded
          .gradcheck = scale == 0};                                // else dx is all rounding
}

// `reads`, `backward_reads`: how often x, and x and dy together, are read. The small operands count once.
Workload workload(const Shape& shape, double bytes, Memory memory, int reads, int backward_reads) {
  const auto elems = static_cast<double>(shape.numel()), c = static_cast<double>(shape[1]);
  return {.inputs = {normal(in_memory(shape, memory)), normal({shape[1]}, 1, 0.5), normal({shape[1]})},
          // The gradient comes as the next layer would give it: in the memory format of the result.
          .call = [=](const Tensors& x) { return as_stored(batch_norm(as_called(x[0], memory), x[1], x[2]), memory); },
          .forward = {.bytes = elems * (reads + 1) * bytes + c * (2 * bytes + 8), .flops = 8 * elems},
          .backward = {.bytes = elems * (backward_reads + 1) * bytes + c * (3 * bytes + 8), .flops = 12 * elems}};
}

OpCase rows_case() {
  OpCase c{.op = "batch_norm", .stem = "batch_norm", .tier = Tier::mission, .functions = {"batch_norm"}};
  c.samples = {
      sample("R=4 C=3", Kind::usual, {4, 3}),
      sample("no gamma, no beta", Kind::usual, {5, 4}, {.gamma = false, .beta = false}),
      sample("gamma alone", Kind::usual, {5, 4}, {.beta = false}),
      sample("beta alone", Kind::usual, {5, 4}, {.gamma = false}),
      sample("eval R=4 C=3", Kind::usual, {4, 3}, {.mode = kEval}),
      sample("eval, no gamma, no beta", Kind::usual, {5, 4}, {.mode = kEval, .gamma = false, .beta = false}),
      sample("eval, gamma alone", Kind::usual, {5, 4}, {.mode = kEval, .beta = false}),
      sample("eval, beta alone", Kind::usual, {5, 4}, {.mode = kEval, .gamma = false}),
      sample("eval R=0", Kind::empty, {0, 5}, {.mode = kEval}),
      sample("eval, one element", Kind::one, {1, 1}, {.mode = kEval}),
      sample("one column", Kind::one, {7, 1}),
      sample("two rows", Kind::odd, {2, 5}),
      sample("R=65 C=33", Kind::odd, {65, 33}, {.mean = 10}),
      sample("eval R=65 C=33", Kind::odd, {65, 33}, {.mode = kEval}),
      sample("R=700 C=40", Kind::large, {700, 40}),
      sample("R=2305 C=20", Kind::large, {2305, 20}),
      sample("mean 1e6", Kind::huge_mean, {300, 8}, {.mean = 1e6}),
      sample("constant columns", Kind::extreme, {40, 6}, {.mean = 7, .spread = 0}),
  };
  // Resident up to 2048 rows forward, 1024 backward.
  c.families = {
      {.extents = {"R", "C"},
       .make =
           [](const Extents& e, double bytes) {
             return workload({e[0], e[1]}, bytes, Memory::side_by_side, e[0] > 2048 ? 2 : 1, e[0] > 1024 ? 4 : 2);
           },
       .timed = {{128, 512}, {4096, 512}},
       .counted = {{128, 512}, {4096, 64}},
       .dtypes = {Dtype::f32, Dtype::bf16}}};
  return c;
}

OpCase planes_case() {
  OpCase c{.op = "batch_norm_nchw", .stem = "batch_norm", .tier = Tier::mission, .functions = {"batch_norm"}};
  c.samples = {
      sample("N=2 C=3 2x3", Kind::usual, {2, 3, 2, 3}),
      sample("no gamma, no beta", Kind::usual, {2, 2, 4}, {.gamma = false, .beta = false}),
      sample("gamma alone", Kind::usual, {2, 2, 4}, {.beta = false}),
      sample("beta alone", Kind::usual, {2, 2, 4}, {.gamma = false}),
      sample("eval", Kind::usual, {2, 3, 2, 3}, {.mode = kEval}),
      sample("eval, no gamma, no beta", Kind::usual, {2, 2, 4}, {.mode = kEval, .gamma = false, .beta = false}),
      sample("eval, gamma alone", Kind::usual, {2, 2, 4}, {.mode = kEval, .beta = false}),
      sample("eval, beta alone", Kind::usual, {2, 2, 4}, {.mode = kEval, .gamma = false}),
      sample("one sample", Kind::usual, {1, 3, 4, 4}),
      sample("three spatial dimensions", Kind::odd, {2, 3, 2, 3, 5}),
      sample("eval N=0", Kind::empty, {0, 3, 2, 2}, {.mode = kEval}),
      sample("eval, one element", Kind::one, {1, 1, 1, 1}, {.mode = kEval}),
      sample("planes of one element", Kind::one, {6, 3, 1, 1}),
      sample("two values", Kind::odd, {1, 5, 1, 2}),
      sample("planes of 7x7", Kind::odd, {5, 6, 7, 7}, {.mean = 10}),
      sample("eval, planes of 7x7", Kind::odd, {5, 6, 7, 7}, {.mode = kEval}),
      sample("planes of 14x14", Kind::large, {23, 8, 14, 14}),
      sample("planes of several chunks", Kind::large, {2, 3, 68, 66}),
      sample("odd planes of several chunks", Kind::large, {3, 2, 47, 49}),
      sample("a channel beyond the cache", Kind::large, {5, 1, 129, 128}),
      sample("mean 1e6", Kind::huge_mean, {13, 3, 16, 16}, {.mean = 1e6}),
      sample("constant channels", Kind::extreme, {3, 4, 3, 3}, {.mean = 7, .spread = 0}),
  };
  // Twice through x, twice through x and dy.
  c.families = {{.extents = {"N", "C", "H", "W"},
                 .make =
                     [](const Extents& e, double bytes) {
                       return workload({e[0], e[1], e[2], e[3]}, bytes, Memory::side_by_side, 2, 4);
                     },
                 .timed = {{32, 64, 28, 28}},
                 .counted = {{4, 32, 56, 56}},
                 .dtypes = {Dtype::f32, Dtype::bf16}}};
  return c;
}

OpCase channels_last_case() {
  OpCase c{.op = "batch_norm_nhwc", .stem = "batch_norm", .tier = Tier::mission, .functions = {"batch_norm"}};
  const auto last = [](std::string name, Kind kind, const Shape& shape, Options options = {}) {
    options.memory = Memory::channels_last;
    return sample(std::move(name), kind, shape, options);
  };
  c.samples = {
      last("N=2 C=3 2x3", Kind::usual, {2, 3, 2, 3}),
      last("no gamma, no beta", Kind::usual, {2, 2, 4}, {.gamma = false, .beta = false}),
      last("gamma alone", Kind::usual, {2, 2, 4}, {.beta = false}),
      last("beta alone", Kind::usual, {2, 2, 4}, {.gamma = false}),
      last("eval", Kind::usual, {2, 3, 2, 3}, {.mode = kEval}),
      last("eval, no gamma, no beta", Kind::usual, {2, 2, 4}, {.mode = kEval, .gamma = false, .beta = false}),
      last("eval N=0", Kind::empty, {0, 3, 2, 2}, {.mode = kEval}),
      last("eval, one element", Kind::one, {1, 1, 1, 1}, {.mode = kEval}),
      last("one channel", Kind::one, {3, 1, 2, 2}),
      last("three spatial dimensions", Kind::odd, {2, 3, 2, 3, 5}),
      last("planes of 7x7", Kind::odd, {5, 6, 7, 7}, {.mean = 10}),
      last("eval, planes of 7x7", Kind::odd, {5, 6, 7, 7}, {.mode = kEval}),
      last("planes of 14x14", Kind::large, {13, 8, 14, 14}),
      last("mean 1e6", Kind::huge_mean, {3, 3, 16, 16}, {.mean = 1e6}),
      last("constant channels", Kind::extreme, {3, 4, 3, 3}, {.mean = 7, .spread = 0}),
  };
  c.families = {
      {.extents = {"N", "C", "H", "W"},
       .make =
           [](const Extents& e, double bytes) {
             return workload({e[0], e[1], e[2], e[3]}, bytes, Memory::channels_last, 2, 4);
           },
       .timed = {{32, 64, 28, 28}},
       .counted = {{4, 64, 28, 28}},
       .dtypes = {Dtype::f32, Dtype::bf16},
       // The backward pass is that of the rows. Here the input is a permuted leaf, whose gradient is copied once
       // more; a layer's input is not.
       .passes = Family::Passes::forward}};
  return c;
}

}  // namespace

std::vector<OpCase> batch_norm_cases() { return {rows_case(), planes_case(), channels_last_case()}; }

}  // namespace weft::cases
