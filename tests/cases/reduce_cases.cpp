#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/reduce.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

Sample sample(std::string name, Kind kind, Input input, Call call, Call reference, double terms) {
  return {.name = std::move(name),
          .kind = kind,
          .inputs = {std::move(input)},
          .call = std::move(call),
          .reference = std::move(reference),
          .terms = terms};
}

// A sum over dimension 1 of [A, R, B], term by term.
Tensor added_up(const Tensor& x) {
  Tensor total = zeros({x.size(0), x.size(2)}, x.dtype(), x.device());
  for (std::int64_t r = 0; r < x.size(1); ++r) total = total + x.select(1, r);
  return total;
}
// max(a, b) = b + relu(a - b): exact enough in f64.
Tensor largest(const Tensor& x) {
  Tensor best = x.select(1, 0);
  for (std::int64_t r = 1; r < x.size(1); ++r) best = x.select(1, r) + relu(best - x.select(1, r));
  return best;
}
Tensor variance(const Tensor& x, double correction) {
  const auto count = static_cast<double>(x.size(1));
  const Tensor mean = reshape(scale(added_up(x), 1 / count), {x.size(0), 1, x.size(2)});
  return scale(added_up((x - mean) * (x - mean)), 1 / (count - correction));
}

using F = std::function<Tensor(const Tensor&)>;
// Over dimension 1, over the last two, over all, and over two that are no neighbours.
std::vector<Sample> samples(const std::function<Tensor(const Tensor&, const std::vector<int>&, KeepDim)>& op,
                            const F& of_middle, bool empty_result_only) {
  std::vector<Sample> all;
  const auto add = [&](std::string name, Kind kind, const Shape& shape, const std::vector<int>& dims, KeepDim keep,
                       const F& to_middle, const Shape& result) {
    const auto elements = static_cast<double>(shape.numel());
    const double terms = result.numel() > 0 ? elements / static_cast<double>(result.numel()) : 1;
    all.push_back(sample(
        std::move(name), kind, normal(shape, 0.5), [=](const Tensors& x) { return op(x[0], dims, keep); },
        [=](const Tensors& x) { return reshape(of_middle(to_middle(x[0])), result); }, terms));
    all.back().amplification = 4;  // terms of both signs may cancel
  };
  const F itself = [](const Tensor& x) { return x; };
  add("middle of three", Kind::usual, {2, 5, 3}, {1}, KeepDim::no, itself, {2, 3});
  add("the last two, kept", Kind::odd, {3, 5, 7}, {2, -2}, KeepDim::yes,
      [](const Tensor& x) {
        return reshape(x, {3, 35, 1});
      },
      {3, 1, 1});
  add("all", Kind::usual, {4, 6}, {}, KeepDim::no, [](const Tensor& x) { return reshape(x, {1, 24, 1}); }, {});
  add("first and last", Kind::odd, {3, 4, 5}, {0, 2}, KeepDim::no,
      [](const Tensor& x) {
        return reshape(x.transpose(0, 1), {4, 15, 1});
      },
      {4});
  add("one element", Kind::one, {1, 2, 1}, {1}, KeepDim::no, itself, {1, 1});
  add("large", Kind::large, {3, 300, 70}, {1}, KeepDim::no, itself, {3, 70});
  all.back().gradcheck = false;
  if (empty_result_only) add("no outputs", Kind::empty, {0, 4, 3}, {1}, KeepDim::no, itself, {0, 3});
  return all;
}

Family family(std::string suffix, bool columns, const std::function<Tensor(const Tensor&, int)>& op,
              double index_bytes = 0) {
  return {.suffix = std::move(suffix),
          .extents = {"R", "C"},
          .make =
              [=](const Extents& e, double bytes) {
                const double elements = static_cast<double>(e[0]) * static_cast<double>(e[1]);
                const double out = static_cast<double>(columns ? e[1] : e[0]) * (index_bytes > 0 ? index_bytes : bytes);
                return Workload{.inputs = {normal({e[0], e[1]})},
                                .call = [=](const Tensors& x) { return op(x[0], columns ? 0 : 1); },
                                .forward = {.bytes = elements * bytes + out, .flops = elements}};
              },
          .timed = {{8192, 1024}},
          .counted = {{256, 1024}},
          .passes = Family::Passes::forward};
}

// The position of the largest (sign 1) or smallest (-1) element along dimension 1 of [A, R, B], the first among equals.
Tensor position(const Tensor& x, double sign) {
  const std::vector<double> in = x.to_vector<double>();
  const std::int64_t reduced = x.size(1), inner = x.size(2);
  std::vector<std::int64_t> out(static_cast<std::size_t>(x.size(0) * inner));
  for (std::int64_t i = 0; i < x.size(0) * inner; ++i) {
    const auto at = [&](std::int64_t r) {
      return sign * in[static_cast<std::size_t>((i / inner * reduced + r) * inner + i % inner)];
    };
    for (std::int64_t r = 1; r < reduced; ++r)
      if (at(r) > at(out[static_cast<std::size_t>(i)])) out[static_cast<std::size_t>(i)] = r;
  }
  return Tensor::from_vector(out, {x.size(0), inner});
}

OpCase position_case(const std::string& name, Tensor (*op)(const Tensor&, int, KeepDim), double sign) {
  OpCase c{.op = name, .stem = "reduce", .functions = {name}, .differentiable = false, .exact = true};
  const auto add = [&](std::string what, Kind kind, const Shape& shape) {
    c.samples.push_back(sample(
        std::move(what), kind, normal(shape), [op](const Tensors& x) { return op(x[0], 1, KeepDim::no); },
        [sign](const Tensors& x) { return position(x[0], sign); }, 1));
  };
  add("columns", Kind::usual, {2, 6, 3});
  add("rows", Kind::odd, {5, 33, 1});
  add("one", Kind::one, {1, 1, 1});
  add("no outputs", Kind::empty, {0, 4, 3});
  add("long rows", Kind::large, {3, 5003, 1});
  add("many columns", Kind::large, {2, 40, 300});
  c.families = {family(
      "", false, [op](const Tensor& x, int dim) { return op(x, dim, KeepDim::no); }, 8)};
  return c;
}

OpCase make(std::string name, std::vector<Sample> samples, std::vector<Family> families = {}) {
  OpCase c{.op = name, .stem = "reduce", .functions = {name}};
  c.samples = std::move(samples);
  c.families = std::move(families);
  return c;
}

}  // namespace

std::vector<OpCase> reduce_cases() {
  std::vector<OpCase> all;
  all.push_back(
      make("sum",
           samples([](const Tensor& x, const std::vector<int>& d, KeepDim k) { return sum(x, d, k); }, added_up, true),
           {family("", false, [](const Tensor& x, int dim) { return sum(x, dim); }),
            family("_columns", true, [](const Tensor& x, int dim) { return sum(x, dim); })}));
  all.push_back(make(
      "mean", samples([](const Tensor& x, const std::vector<int>& d, KeepDim k) { return mean(x, d, k); },
                      [](const Tensor& x) { return scale(added_up(x), 1 / static_cast<double>(x.size(1))); }, true)));
  all.push_back(make(
      "max", samples([](const Tensor& x, const std::vector<int>& d, KeepDim k) { return max(x, d, k); }, largest, true),
      {family("", false, [](const Tensor& x, int dim) { return max(x, dim); })}));
  all.push_back(make("min", samples([](const Tensor& x, const std::vector<int>& d, KeepDim k) { return min(x, d, k); },
                                    [](const Tensor& x) { return -largest(-x); }, true)));
  std::vector<Sample> variances =
      samples([](const Tensor& x, const std::vector<int>& d, KeepDim k) { return var(x, d, 0, k); },
              [](const Tensor& x) { return variance(x, 0); }, true);
  variances.push_back(sample(
      "correction 1, mean 1e6", Kind::huge_mean, normal({3, 40, 2}, 1e6), [](const Tensors& x) { return var(x[0], 1); },
      [](const Tensors& x) { return variance(x[0], 1); }, 40));
  variances.back().amplification = 4;
  variances.back().reference_amplification = 1e6;  // it subtracts a mean that is rounded
  for (Sample& s : variances)
    if (s.kind == Kind::one) s.inputs[0] = with_scale(s.inputs[0], 1);  // two elements that may lie close
  all.push_back(make("var", std::move(variances)));
  all.push_back(make("logsumexp",
                     samples([](const Tensor& x, const std::vector<int>& d, KeepDim k) { return logsumexp(x, d, k); },
                             [](const Tensor& x) { return log(added_up(exp(x))); }, true)));
  all.push_back(position_case("argmax", argmax, 1));
  all.push_back(position_case("argmin", argmin, -1));
  // Composed of several passes, or the kernel of max again: timed, not counted.
  const auto timed = [&](const char* op, const std::function<Tensor(const Tensor&, int)>& f) {
    Family of = family("", false, f);
    of.counted.clear();
    of.memory_bound = false;
    for (OpCase& c : all)
      if (c.op == op) c.families.push_back(of);
  };
  timed("mean", [](const Tensor& x, int dim) { return mean(x, dim); });
  timed("min", [](const Tensor& x, int dim) { return min(x, dim); });
  timed("var", [](const Tensor& x, int dim) { return var(x, dim); });
  timed("logsumexp", [](const Tensor& x, int dim) { return logsumexp(x, dim); });
  return all;
}

}  // namespace weft::cases
