#include "autograd/cross_entropy.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/gradcheck.h"
#include "autograd/layout.h"
#include "kernels/cross_entropy.h"
#include "support/compare.h"
#include "support/guarded.h"
#include "support/threads.h"

namespace weft {
namespace {

using test::bitwise_equal;
using test::Guarded;
using test::message_of;
using test::relative_error;
using test::rounding;
using test::values;

constexpr Dtype kDtypes[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Labels that do not repeat a pattern of the logits; every third row is ignored when asked for.
std::vector<std::int64_t> labels(std::int64_t rows, std::int64_t classes, bool ignore = false) {
  std::vector<std::int64_t> result;
  for (std::int64_t r = 0; r < rows; ++r) result.push_back(ignore && r % 3 == 1 ? -100 : (r * 7 + 3) % classes);
  return result;
}
Tensor targets(std::int64_t rows, std::int64_t classes, bool ignore = false) {
  return Tensor::from_vector(labels(rows, classes, ignore), {rows});
}

struct Reference {
  double sum = 0, counted = 0;
  std::vector<double> gradient;
};

// Plain loops in f64 over the values as stored.
Reference reference(const Tensor& logits, const std::vector<std::int64_t>& targets, std::int64_t classes) {
  const std::vector<double> x = values(logits);
  const auto V = static_cast<std::size_t>(classes);
  Reference ref{0, 0, std::vector<double>(x.size(), 0.0)};
  for (std::size_t r = 0; r < targets.size(); ++r) {
    if (targets[r] == -100) continue;
    double largest = x[r * V], total = 0;
    for (std::size_t v = 0; v < V; ++v) largest = std::max(largest, x[r * V + v]);
    for (std::size_t v = 0; v < V; ++v) total += std::exp(x[r * V + v] - largest);
    const auto target = static_cast<std::size_t>(targets[r]);
    ref.sum += std::log(total) + (largest - x[r * V + target]);
    ref.counted += 1;
    for (std::size_t v = 0; v < V; ++v)
      ref.gradient[r * V + v] = std::exp(x[r * V + v] - largest) / total - (v == target ? 1.0 : 0.0);
  }
  return ref;
}

void check(std::int64_t rows, std::int64_t classes, Dtype dtype, double spread) {
  SCOPED_TRACE(fmt::format("R={} V={} {} spread={}", rows, classes, to_string(dtype), spread));
  const std::vector<std::int64_t> label = labels(rows, classes, true);
  const Tensor x = cast(randn({rows, classes}, 1, Dtype::f64) * spread, dtype);
  Guarded gradient({rows, classes}, dtype), sum({1}, Dtype::f64), denominator({1}, Dtype::f64),
      lone_sum({1}, Dtype::f64);
  Guarded partials({kernels::cross_entropy_partials({}, rows, classes)}, Dtype::f64);
  kernels::CrossEntropyForward args{dtype,
                                    rows,
                                    classes,
                                    -100,
                                    x.raw_data(),
                                    label.data(),
                                    nullptr,
                                    gradient.data(),
                                    static_cast<double*>(sum.data()),
                                    static_cast<double*>(denominator.data()),
                                    static_cast<double*>(partials.data())};
  kernels::cross_entropy_forward({}, args);
  args.gradient = nullptr;
  args.sum = static_cast<double*>(lone_sum.data());
  kernels::cross_entropy_forward({}, args);
  for (const Guarded* buffer : {&gradient, &sum, &denominator, &partials}) EXPECT_TRUE(buffer->intact());

  const Reference ref = reference(x, label, classes);
  EXPECT_EQ(denominator.tensor().item<double>(), ref.counted);
  EXPECT_TRUE(bitwise_equal(sum.tensor(), lone_sum.tensor()));
  // An exponential is good to 2 roundings, a lane's sum of V/16 of them adds few; a row's term is rounded relative to
  // the largest of its parts, of which `spread` bounds the size.
  const double term =
      rounding(dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32) * (8 + std::sqrt(static_cast<double>(classes) / 8));
  const double size = ref.counted * (std::log(static_cast<double>(classes)) + 6 * spread + 1);
  EXPECT_NEAR(sum.tensor().item<double>(), ref.sum, term * size);
  // The probabilities relative to their own size; at the target p - 1, which cancels, relative to 1.
  const double stored = dtype == Dtype::f64 || dtype == Dtype::f32 ? 0 : rounding(dtype);
  std::vector<double> got = values(gradient.tensor()), want = ref.gradient;
  for (std::size_t r = 0; r < label.size(); ++r) {
    if (label[r] == -100) continue;
    const std::size_t at = r * static_cast<std::size_t>(classes) + static_cast<std::size_t>(label[r]);
    EXPECT_NEAR(got[at], want[at], term + stored * std::fabs(want[at]));
    got[at] = want[at] = 0;
  }
  EXPECT_LE(relative_error(got, want), 2 * term + stored);
}

TEST(CrossEntropy, SizesAndDtypes) {
  for (std::int64_t classes : {1, 2, 7, 8, 9, 10, 15, 16, 17, 33, 256, 1000, 2047, 2048, 2049, 5000})
    for (std::int64_t rows : {1, 2, 5, 20})
      for (Dtype dtype : kDtypes) check(rows, classes, dtype, 3);
}

TEST(CrossEntropy, LargeVocabularies) {
  for (Dtype dtype : kDtypes) check(3, 50257, dtype, 3);
  check(2, 200'003, Dtype::f32, 3);  // blocks grow with V
  check(5000, 10, Dtype::f32, 3);
}

TEST(CrossEntropy, LargeLogits) {
  for (Dtype dtype : kDtypes)
    for (std::int64_t classes : {10, 5000}) check(7, classes, dtype, 1e4);
  const Tensor x = set_requires_grad(Tensor::from_vector(std::vector<float>{1e4f, -1e4f, -1e4f, 1e4f}, {2, 2}));
  const Loss loss = cross_entropy(x, Tensor::from_vector(std::vector<std::int64_t>{0, 0}, {2}));
  EXPECT_EQ(loss.sum.item<double>(), 2e4);
  backward(loss.sum);
  EXPECT_EQ(values(grad(x)), (std::vector<double>{0, 0, -1, 1}));
}

TEST(CrossEntropy, MaskAndIgnoreIndexSelectRows) {
  const std::int64_t rows = 40;
  const Tensor base = randn({rows, 10}, 1);
  std::vector<std::int64_t> label = labels(rows, 10);
  std::vector<bool> keep(rows, true);
  std::vector<std::int64_t> kept;
  for (std::size_t r = 0; r < label.size(); ++r) {
    if (r % 5 == 0) keep[r] = false, label[r] = 1'000'000;  // excluded: the label must not be looked at
    if (r % 7 == 3) label[r] = 77;
    if (r % 11 == 2) base.data<float>()[r * 10 + 4] = r % 2 ? kInfinity : std::nanf("");
    if (r % 11 == 2) keep[r] = false;
    if (keep[r] && label[r] != 77) kept.push_back(static_cast<std::int64_t>(r));
  }
  const Tensor target = Tensor::from_vector(label, {rows});
  for (Dtype mask_dtype : {Dtype::boolean, Dtype::u8}) {
    const Tensor mask = cast(Tensor::from_vector(keep, {rows}), mask_dtype);
    const Tensor x = set_requires_grad(clone(base));
    const Loss loss = cross_entropy(x, target, {.ignore_index = 77, .mask = mask});
    backward(loss.sum);
    EXPECT_EQ(loss.denominator.item<double>(), static_cast<double>(kept.size()));
    // The rows that count, alone.
    double sum = 0;
    std::vector<bool> expected_zero(rows, true);
    for (std::int64_t r : kept) {
      const Tensor row = set_requires_grad(clone(base.slice(0, r, r + 1)));
      const Loss alone = cross_entropy(row, target.slice(0, r, r + 1));
      backward(alone.sum);
      sum += alone.sum.item<double>();
      EXPECT_TRUE(bitwise_equal(grad(x).slice(0, r, r + 1), grad(row)));
      expected_zero[static_cast<std::size_t>(r)] = false;
    }
    EXPECT_NEAR(loss.sum.item<double>(), sum, 1e-12 * sum);  // the same f64 terms, added in order
    for (std::int64_t r = 0; r < rows; ++r)
      if (expected_zero[static_cast<std::size_t>(r)]) {
        for (double v : values(grad(x)[r])) EXPECT_EQ(v, 0.0) << r;
      }
  }
}

TEST(CrossEntropy, NothingCounts) {
  const Tensor x = set_requires_grad(full({3, 4}, NAN));
  const Loss loss = cross_entropy(x, Tensor::from_vector(std::vector<std::int64_t>{-100, -100, -100}, {3}));
  EXPECT_EQ(loss.sum.item<double>(), 0.0);
  EXPECT_EQ(loss.denominator.item<double>(), 0.0);
  backward(loss.sum);
  EXPECT_EQ(values(grad(x)), std::vector<double>(12, 0.0));
  EXPECT_TRUE(std::isnan(cross_entropy(x, full({3}, -100, Dtype::i64)).mean().item<double>()));
}

TEST(CrossEntropy, NoRows) {
  const Tensor x = set_requires_grad(zeros({0, 4}));
  const Loss loss = cross_entropy(x, zeros({0}, Dtype::i64));
  EXPECT_EQ(loss.sum.item<double>(), 0.0);
  backward(loss.sum);
  EXPECT_EQ(grad(x).shape(), (Shape{0, 4}));
}

TEST(CrossEntropy, BadLabelsAreNamedAndChangeNothing) {
  for (int threads : {1, 2, 7}) {
    const test::Threads guard(threads);
    const Tensor x = set_requires_grad(randn({3000, 10}, 1));
    backward(cross_entropy(x, targets(3000, 10)).sum);
    const Tensor before = clone(grad(x));
    for (std::int64_t bad : {12, 10, -1}) {
      std::vector<std::int64_t> label = labels(3000, 10);
      label[5] = bad;
      label[2500] = 99;
      EXPECT_EQ(message_of<Error>([&] { cross_entropy(x, Tensor::from_vector(label, {3000})); }),
                fmt::format(
                    "[cross_entropy] target {} at row 5 is outside [0, 10): correct the label, mask the row, or set it "
                    "to ignore_index = -100",
                    bad));
    }
    EXPECT_TRUE(bitwise_equal(grad(x), before));
  }
}

TEST(CrossEntropy, IgnoreIndexMayBeAClass) {
  const Tensor x = randn({6, 3}, 1), target = Tensor::from_vector(std::vector<std::int64_t>{0, 1, 2, 0, 1, 2}, {6});
  const Loss loss = cross_entropy(x, target, {.ignore_index = 0});
  EXPECT_EQ(loss.denominator.item<double>(), 4.0);
  const Loss kept = cross_entropy(contiguous(x.slice(0, 1, 3)), target.slice(0, 1, 3));
  const Loss rest = cross_entropy(contiguous(x.slice(0, 4, 6)), target.slice(0, 4, 6));
  EXPECT_NEAR(loss.sum.item<double>(), kept.sum.item<double>() + rest.sum.item<double>(),
              1e-12);  // class 0 stays in the softmax
}

TEST(CrossEntropy, NonFiniteLogits) {
  for (std::int64_t classes : {5, 3000}) {
    const auto row = [&](std::int64_t at, float value, bool everywhere = false) {
      const Tensor x = everywhere ? full({1, classes}, value) : zeros({1, classes});
      x.data<float>()[at] = value;
      const Tensor leaf = set_requires_grad(x);
      const Loss loss = cross_entropy(leaf, zeros({1}, Dtype::i64));
      backward(loss.sum);
      return std::pair(loss.sum.item<double>(), values(grad(leaf)));
    };
    for (std::int64_t at : {std::int64_t{0}, classes - 1}) {
      EXPECT_TRUE(std::isnan(row(at, kInfinity).first));
      EXPECT_TRUE(std::isnan(row(at, std::nanf("")).first));
      EXPECT_TRUE(std::isnan(row(at, std::nanf("")).second[1]));
    }
    EXPECT_TRUE(std::isnan(row(0, -kInfinity, true).first));
    const auto [loss, gradient] = row(classes - 1, -kInfinity);  // a class that is ruled out
    EXPECT_NEAR(loss, std::log(static_cast<double>(classes - 1)), 1e-5);
    EXPECT_EQ(gradient.back(), 0.0);
    EXPECT_EQ(row(0, -kInfinity).first, std::numeric_limits<double>::infinity());  // and the right class ruled out
  }
  // A first block of -inf alone, before any finite logit.
  const Tensor x = full({1, 5000}, -kInfinity);
  for (std::int64_t v = 4000; v < 5000; ++v) x.data<float>()[v] = 0;
  const Tensor leaf = set_requires_grad(x);
  const Loss loss = cross_entropy(leaf, full({1}, 4500, Dtype::i64));
  EXPECT_NEAR(loss.sum.item<double>(), std::log(1000.0), 1e-5);
  backward(loss.sum);
  EXPECT_EQ(values(grad(leaf))[10], 0.0);
  EXPECT_NEAR(values(grad(leaf))[4001], 1e-3, 1e-8);
}

TEST(CrossEntropy, Gradcheck) {
  for (std::int64_t classes : {3, 20}) {
    const Tensor target = targets(4, classes, true);
    const auto f = [&](const std::vector<Tensor>& in) { return cross_entropy(in[0], target).sum; };
    const GradcheckResult result = gradcheck(f, {randn({4, classes}, 11, Dtype::f64)});
    EXPECT_TRUE(result.passed) << result.message;
  }
}

TEST(CrossEntropy, EqualsItsComposite) {
  const Tensor target = targets(12, 21, true).reshape({3, 4});
  std::vector<bool> keep(12, true);
  keep[6] = false;
  const CrossEntropyOptions options{.mask = Tensor::from_vector(keep, {3, 4})};
  const auto run = [&](auto&& f) {
    const Tensor x = set_requires_grad(randn({3, 4, 21}, 1, Dtype::f64));
    const Loss loss = f(x, target, options);
    backward(loss.sum * 0.37);
    return std::vector<Tensor>{loss.sum.alias(), loss.denominator, grad(x)};
  };
  const std::vector<Tensor> fused = run(cross_entropy), composite = run(cross_entropy_composite);
  for (std::size_t i = 0; i < fused.size(); ++i)
    EXPECT_LE(relative_error(fused[i], composite[i]), 1e-13) << i;  // a few hundred roundings of 2^-53
}

TEST(CrossEntropy, UpstreamScalesTheGradient) {
  const Tensor target = targets(9, 10);
  for (Dtype dtype : kDtypes) {
    const Tensor x = set_requires_grad(randn({9, 10}, 1, dtype));
    const Loss loss = cross_entropy(x, target);
    backward(loss.sum, {}, {.retain_graph = true});
    const Tensor once = clone(grad(x));
    backward(loss.sum, {}, {.retain_graph = true});  // the saved gradient was handed over: it must not have changed
    EXPECT_TRUE(bitwise_equal(grad(x), once + once));
    zero_grad(x);
    backward(loss.sum, scalar(-0.25, Dtype::f64));
    EXPECT_TRUE(bitwise_equal(grad(x), once * -0.25));
  }
}

TEST(CrossEntropy, MicroBatchesAddUpInAWindow) {
  const Tensor x = set_requires_grad(randn({10, 6}, 1)), target = targets(10, 6, true);
  Window whole, parts;
  whole.backward(cross_entropy(x, target));
  const Tensor expected = clone(grad(x));
  zero_grad(x);
  for (const auto& [begin, end] : {std::pair(0, 3), std::pair(3, 4), std::pair(4, 10)})
    parts.backward(cross_entropy(x.slice(0, begin, end), target.slice(0, begin, end)));
  EXPECT_EQ(parts.denominator().item<double>(), whole.denominator().item<double>());
  EXPECT_NEAR(parts.sum().item<double>(), whole.sum().item<double>(), 1e-12);
  EXPECT_TRUE(bitwise_equal(grad(x), expected));
}

TEST(CrossEntropy, BitwiseEqualForAnyThreadCount) {
  for (const Shape& shape : {Shape{3000, 10}, Shape{500, 257}, Shape{9, 50257}}) {
    std::vector<Tensor> expected;
    for (int threads : {1, 2, 7}) {
      const test::Threads guard(threads);
      const Tensor x = set_requires_grad(randn(shape, 1));
      const Loss loss = cross_entropy(x, targets(shape[0], shape[1], true));
      backward(loss.sum * 0.5);
      const std::vector<Tensor> got = {loss.sum.alias(), grad(x)};
      if (threads == 1) expected = got;
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_TRUE(bitwise_equal(got[i], expected[i])) << threads << " " << i;
    }
  }
}

TEST(CrossEntropy, StridedInputsAndOneRow) {
  const Tensor base = randn({10, 8}, 1), target = targets(8, 10);
  const Tensor dense = clone(base.t());
  EXPECT_TRUE(bitwise_equal(cross_entropy(base.t(), target).sum, cross_entropy(dense, target).sum));
  const Tensor doubled =
      Tensor::from_vector(std::vector<std::int64_t>{3, 9, 0, 9, 7, 9, 4, 9, 1, 9, 8, 9, 5, 9, 2, 9}, {16});
  EXPECT_TRUE(bitwise_equal(cross_entropy(dense, doubled.slice(0, 0, 16, 2)).sum, cross_entropy(dense, target).sum));
  EXPECT_TRUE(bitwise_equal(cross_entropy(dense[2], target[2]).sum,
                            cross_entropy(dense.slice(0, 2, 3), target.slice(0, 2, 3)).sum));
}

TEST(CrossEntropy, Errors) {
  const Tensor x = randn({128, 10}, 1), target = targets(128, 10);
  EXPECT_EQ(message_of<ShapeError>([&] { cross_entropy(x, targets(64, 10)); }),
            "[cross_entropy] targets must have shape [128] to go with logits of shape [128, 10] but has [64]");
  EXPECT_EQ(message_of<DtypeError>([&] { cross_entropy(x, cast(target, Dtype::i32)); }),
            "[cross_entropy] targets must be i64 but is i32: cast it");
  EXPECT_EQ(message_of<ShapeError>([&] { cross_entropy(x, target, {.mask = ones({5}, Dtype::u8)}); }),
            "[cross_entropy] mask must have shape [128] like targets but has [5]");
  EXPECT_EQ(message_of<DtypeError>([&] { cross_entropy(x, target, {.mask = ones({128})}); }),
            "[cross_entropy] mask must be bool or u8 but is f32");
  EXPECT_EQ(message_of<DtypeError>([&] { cross_entropy(target, target[0]); }),
            "[cross_entropy] logits must be f64, f32, f16 or bf16 but is i64");
  EXPECT_EQ(message_of<ShapeError>([&] {
              cross_entropy(zeros({3, 0}), zeros({3}, Dtype::i64));
            }),
            "[cross_entropy] logits must have shape [..., V] with V >= 1 but has [3, 0]");
}

TEST(Pointwise, ValuesAndGradients) {
  const Tensor x = Tensor::from_vector(std::vector<double>{0.25, 1, 4, 2.5}, {2, 2});
  EXPECT_EQ(values(rsqrt(x))[2], 0.5);
  EXPECT_EQ(values(exp(x.t()))[1], std::exp(4.0));
  EXPECT_EQ(values(log(x))[3], std::log(2.5));
  for (auto* f : {&rsqrt, static_cast<Tensor (*)(const Tensor&)>(&exp), static_cast<Tensor (*)(const Tensor&)>(&log)}) {
    const GradcheckResult result = gradcheck([&](const std::vector<Tensor>& in) { return f(in[0]); }, {x});
    EXPECT_TRUE(result.passed) << result.message;
  }
  EXPECT_EQ(message_of<DtypeError>([] { exp(arange(3)); }), "[exp] needs f64, f32, f16 or bf16 but has i64");
}

}  // namespace
}  // namespace weft
