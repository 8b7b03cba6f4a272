#include <algorithm>
#include <limits>
#include <utility>

#include "autograd/matmul.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

enum class Of : std::uint8_t { neither, a, b, both };

// The operands as the call takes them, or stored with their last two dimensions exchanged: then it transposes the view.
Sample sample(std::string name, Kind kind, const Shape& a, const Shape& b, Of transposed = Of::neither) {
  const auto stored = [](Shape shape, bool exchange) {
    if (exchange) std::swap(shape[shape.rank() - 1], shape[shape.rank() - 2]);
    return shape;
  };
  const bool a_transposed = transposed == Of::a || transposed == Of::both;
  const bool b_transposed = transposed == Of::b || transposed == Of::both;
  const double m = a.rank() == 1 ? 1 : static_cast<double>(a[a.rank() - 2]), k = static_cast<double>(a.back());
  const double n = b.rank() == 1 ? 1 : static_cast<double>(b.back());
  const double a_count = static_cast<double>(a.numel()) / std::max(m * k, 1.0);
  const double b_count = static_cast<double>(b.numel()) / std::max(n * k, 1.0);
  const double products = std::max(std::max(a_count, b_count), 1.0);  // that share a matrix, at the most
  const auto with = [=](Tensor (*f)(const Tensor&, const Tensor&)) {
    return [=](const Tensors& x) {
      return f(a_transposed ? x[0].transpose(-2, -1) : x[0], b_transposed ? x[1].transpose(-2, -1) : x[1]);
    };
  };
  return {.name = std::move(name),
          .kind = kind,
          .inputs = {with_terms(normal(stored(a, a_transposed)), n * products),
                     with_terms(normal(stored(b, b_transposed)), m * products)},
          .call = with(matmul),
          .reference = with(matmul_composite),
          .terms = k,
          // A gradient that is summed over a batch is rounded before the sum and after it.
          .roundings = 2};
}

// 0 * inf is NaN, inf - inf is NaN, and all else stays finite.
Sample infinities() {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  Sample s = sample("infinities and 1e4", Kind::extreme, {3, 4}, {4, 5});
  s.inputs[0] = listed({3, 4}, {1, kInf, 2, 0, 1e4, -1, 0.5, 2, -kInf, 1, kInf, 3});
  s.inputs[1] = listed({4, 5}, {1, 2, 0, -1, 3, 1, 0, -2, 4, 1, 2, 1, 1, 0, -1, 0, 1, -1, 2, 5});
  s.gradients = false;
  return s;
}

// Attention's scores: heads are slices of one tensor [B, T, H, D], matrices with gaps between their rows.
Sample heads() {
  const auto with = [](Tensor (*f)(const Tensor&, const Tensor&)) {
    return [=](const Tensors& x) { return f(x[0].transpose(1, 2), x[1].transpose(1, 2).transpose(-2, -1)); };
  };
  return {.name = "heads",
          .kind = Kind::usual,
          .inputs = {with_terms(normal({2, 5, 3, 8}), 6), with_terms(normal({2, 6, 3, 8}), 5)},
          .call = with(matmul),
          .reference = with(matmul_composite),
          .terms = 8};
}

// e: [M, K, N], or [B, M, K, N].
Workload workload(const Extents& e, double bytes) {
  const bool batched = e.size() == 4;
  const std::int64_t m = e[e.size() - 3], k = e[e.size() - 2], n = e[e.size() - 1];
  const double b = batched ? static_cast<double>(e[0]) : 1;
  const double operands = b * static_cast<double>(m * k + k * n), result = b * static_cast<double>(m * n);
  const double flops = 2 * result * static_cast<double>(k);
  return {
      .inputs = {normal(batched ? Shape{e[0], m, k} : Shape{m, k}), normal(batched ? Shape{e[0], k, n} : Shape{k, n})},
      .call = [](const Tensors& x) { return matmul(x[0], x[1]); },
      .forward = {.bytes = (operands + result) * bytes, .flops = flops},
      .backward = {.bytes = (2 * operands + result) * bytes, .flops = 2 * flops}};
}

}  // namespace

std::vector<OpCase> matmul_cases() {
  OpCase c{.op = "matmul", .stem = "matmul", .tier = Tier::mission, .functions = {"matmul"}};
  c.samples = {
      sample("M=3 K=4 N=5", Kind::usual, {3, 4}, {4, 5}),
      sample("a transposed", Kind::usual, {5, 9}, {9, 7}, Of::a),
      sample("b transposed", Kind::usual, {5, 9}, {9, 7}, Of::b),
      sample("both transposed", Kind::usual, {5, 9}, {9, 7}, Of::both),
      sample("aligned, both transposed", Kind::usual, {16, 24}, {24, 8}, Of::both),
      sample("vector x vector", Kind::usual, {7}, {7}),
      sample("vector x matrix", Kind::usual, {7}, {7, 5}),
      sample("matrix x vector", Kind::usual, {9, 7}, {7}),
      sample("vector x matrices", Kind::usual, {7}, {3, 7, 2}),
      sample("matrices x vector", Kind::usual, {2, 9, 7}, {7}),
      sample("batch", Kind::usual, {3, 4, 8}, {3, 8, 4}),
      sample("batch, a transposed", Kind::odd, {2, 5, 3}, {2, 3, 7}, Of::a),
      sample("batch, both transposed", Kind::odd, {2, 5, 3}, {2, 3, 7}, Of::both),
      sample("matrices x matrix", Kind::odd, {2, 2, 3, 5}, {5, 4}),
      sample("matrix x matrices", Kind::odd, {3, 5}, {4, 5, 2}),
      sample("batches broadcast both ways", Kind::odd, {2, 1, 3, 4}, {3, 4, 2}),
      sample("a batch of one", Kind::odd, {1, 3, 4}, {2, 4, 3}),
      sample("K=1", Kind::odd, {6, 1}, {1, 9}),
      sample("K=0", Kind::empty, {3, 0}, {0, 4}),
      sample("M=0", Kind::empty, {0, 3}, {3, 4}),
      sample("no products", Kind::empty, {0, 3, 2}, {0, 2, 4}),
      sample("M=1 K=1 N=1", Kind::one, {1, 1}, {1, 1}),
      sample("M=5 K=33 N=17", Kind::odd, {5, 33}, {33, 17}),
      sample("M=70 K=129 N=65", Kind::large, {70, 129}, {129, 65}),
      sample("a long sum", Kind::large, {6, 1100}, {1100, 9}),
      sample("both transposed, a long sum", Kind::large, {20, 600}, {600, 12}, Of::both),
      sample("a batch of large ones", Kind::large, {3, 66, 40}, {3, 40, 68}),
      sample("a batch of long sums", Kind::large, {2, 6, 600}, {2, 600, 9}),
      heads(),
      infinities(),
  };
  c.families = {{.extents = {"M", "K", "N"},
                 .make = workload,
                 .timed = {{128, 784, 512}, {1024, 1024, 1024}},
                 .counted = {{64, 64, 64}},
                 .small = {30, 70, 34},
                 .dtypes = {Dtype::f32, Dtype::bf16},
                 .memory_bound = false},
                {.suffix = "_batched",
                 .extents = {"B", "M", "K", "N"},
                 .make = workload,
                 .timed = {{64, 128, 32, 128}, {64, 128, 128, 32}},
                 .counted = {{4, 64, 32, 64}},
                 .small = {3, 30, 17, 34},
                 .memory_bound = false}};
  c.skips = {{.check = "huge_mean", .reason = "no statistics: a product has no mean that could cancel"}};
  return {c};
}

}  // namespace weft::cases
