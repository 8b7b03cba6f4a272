// Laws that hold for every input, on random shapes, axes and broadcasts. Case i draws from the seed WEFT_PROPERTY_SEED + i
// (a fixed default, so that runs repeat); a failure says which seed makes it the first case of a run.
//
// Elements are multiples of 1/64 in [-4, 4): sums and products of the few that meet here are exact in f32, and most laws
// hold to the last bit in whatever order a kernel adds.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/cross_entropy.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/index.h"
#include "autograd/join.h"
#include "autograd/layer_norm.h"
#include "autograd/layout.h"
#include "autograd/linear.h"
#include "autograd/matmul.h"
#include "autograd/reduce.h"
#include "autograd/rms_norm.h"
#include "autograd/softmax.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/guarded.h"
#include "tensor/philox.h"

namespace weft {
namespace {

using test::back;
using test::DeviceTest;
using test::max_error;

std::uint64_t first_seed() {
  const char* given = std::getenv("WEFT_PROPERTY_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : 20240917;
}

std::vector<double> numbers(const Tensor& x) { return test::values(back(x.alias())); }

// Everything random about one case.
class Draw {
 public:
  Draw(std::uint64_t seed, Dtype dtype, Device device) : dtype(dtype), device(device), random_(seed) {}

  std::int64_t integer(std::int64_t low, std::int64_t high) {  // [low, high]
    return low + static_cast<std::int64_t>(random_.next_u64() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool coin() { return integer(0, 1) == 1; }
  int axis(const Shape& shape) { return static_cast<int>(integer(0, shape.rank() - 1)); }
  /// Extents mostly of 1 to 5, at times a longer one, and 0 once in 25 where that is allowed.
  std::int64_t extent(std::int64_t least = 0) {
    const std::int64_t kind = integer(0, 24);
    if (kind == 0) return least;
    return kind == 1 ? integer(6, 40) : integer(1, 5);
  }
  Shape shape(int least_rank, int most_rank, std::int64_t least_extent = 0) {
    Shape made;
    for (std::int64_t rank = integer(least_rank, most_rank); rank > 0; --rank) made.push_back(extent(least_extent));
    return made;
  }
  /// A shape that broadcasts to `full`: leading dimensions left out, others of extent 1.
  Shape narrowed(const Shape& full) {
    Shape made;
    for (int d = static_cast<int>(integer(0, full.rank())); d < full.rank(); ++d)
      made.push_back(integer(0, 2) == 0 ? 1 : full[d]);
    return made;
  }
  Tensor tensor(const Shape& shape) {
    std::vector<double> elements(static_cast<std::size_t>(shape.numel()));
    for (double& x : elements) x = static_cast<double>(integer(-256, 255)) / 64;
    return laid_out(to(cast(Tensor::from_vector(elements, shape), dtype), device));
  }
  Tensor indices(const Shape& shape, std::int64_t end) {  // [0, end)
    std::vector<std::int64_t> elements(static_cast<std::size_t>(shape.numel()));
    for (std::int64_t& i : elements) i = integer(0, end - 1);
    return to(Tensor::from_vector(elements, shape), device);
  }
  Dims permutation(int rank) {
    Dims order;
    for (int d = 0; d < rank; ++d) order.push_back(d);
    for (int d = rank - 1; d > 0; --d) std::swap(order[d], order[static_cast<int>(integer(0, d))]);
    return order;
  }

  const Dtype dtype;
  const Device device;

 private:
  // The same elements, once in three lying in memory in another order.
  Tensor laid_out(const Tensor& x) {
    if (x.rank() < 2 || integer(0, 2) != 0) return x;
    const int a = axis(x.shape()), b = axis(x.shape());
    return clone(x.transpose(a, b)).transpose(a, b);
  }
  Philox random_;
};

/// Base of the suites: each(law) calls law(draw) for the cases of this device, in f64 and f32.
class PropertiesOn : public DeviceTest {
 protected:
  template <class Law>
  void each(Law&& law) {
    const std::uint64_t first = first_seed();
    const std::uint64_t cases = emulated() ? 20 : 200;
    const std::string test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    for (std::uint64_t i = 0; i < cases; ++i)
      for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
        SCOPED_TRACE(
            fmt::format("{}, case {}; to begin with it: WEFT_PROPERTY_SEED={} weft_tests "
                        "--gtest_filter='*PropertiesOn.{}'",
                        to_string(dtype), i, first + i, test));
        try {
          Draw draw(first + i, dtype, device());
          law(draw);
        } catch (const std::exception& error) { ADD_FAILURE() << error.what(); }
        if (HasFailure()) return;
      }
  }
};

// --- plain indexing --------------------------------------------------------------------------------------------------

using Position = std::vector<std::int64_t>;

Position position(std::int64_t flat, const Shape& shape) {
  Position at(static_cast<std::size_t>(shape.rank()));
  for (int d = shape.rank() - 1; d >= 0; --d) {
    at[static_cast<std::size_t>(d)] = flat % shape[d];
    flat /= shape[d];
  }
  return at;
}
std::size_t flat(const Position& at, const Shape& shape) {
  std::int64_t index = 0;
  for (int d = 0; d < shape.rank(); ++d) index = index * shape[d] + at[static_cast<std::size_t>(d)];
  return static_cast<std::size_t>(index);
}
// The element of `shape` that is read where it is broadcast to `full`.
std::size_t broadcast(const Position& at, const Shape& full, const Shape& shape) {
  Position own;
  for (int d = 0; d < shape.rank(); ++d)
    own.push_back(
        shape[d] == 1 ? 0 : at[static_cast<std::size_t>(full.rank() - shape.rank()) + static_cast<std::size_t>(d)]);
  return flat(own, shape);
}

void expect_elements(const Tensor& got, const Shape& shape, const std::vector<double>& want) {
  ASSERT_EQ(got.shape().str(), shape.str());
  EXPECT_EQ(numbers(got), want) << shape.str();
}
void expect_same(const Tensor& got, const Tensor& want) { expect_elements(got, want.shape(), numbers(want)); }
void expect_close(const Tensor& got, const Tensor& want, double allowed) {
  ASSERT_EQ(got.shape().str(), want.shape().str());
  EXPECT_LE(max_error(numbers(got), numbers(want)), allowed) << "shape " << want.shape().str() << "\n"
                                                             << back(contiguous(got.alias())) << "\n instead of\n"
                                                             << back(contiguous(want.alias()));
}
double dot(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = numbers(a), y = numbers(b);
  return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
}

// --- the laws ----------------------------------------------------------------------------------------------------------

TEST_P(PropertiesOn, BinaryOperationsFollowBroadcasting) {
  struct Operation {
    Tensor (*ours)(const Tensor&, const Tensor&);
    double (*plain)(double, double);
  };
  constexpr std::array<Operation, 6> kOperations = {{{add, [](double a, double b) { return a + b; }},
                                                     {sub, [](double a, double b) { return a - b; }},
                                                     {mul, [](double a, double b) { return a * b; }},
                                                     {div, [](double a, double b) { return a / b; }},
                                                     {minimum, [](double a, double b) { return std::min(a, b); }},
                                                     {maximum, [](double a, double b) { return std::max(a, b); }}}};
  each([&](Draw& draw) {
    const Shape full = draw.shape(0, 4);
    Shape first = full, second = draw.narrowed(full);
    if (draw.coin()) std::swap(first, second);
    const Tensor a = draw.tensor(first);
    const Tensor b = draw.tensor(second) + 1.0 / 128;  // never 0
    const Operation& operation = kOperations[static_cast<std::size_t>(draw.integer(0, 5))];
    const std::vector<double> x = numbers(a), y = numbers(b);
    std::vector<double> want;
    for (std::int64_t i = 0; i < full.numel(); ++i) {
      const Position at = position(i, full);
      const double exact = operation.plain(x[broadcast(at, full, first)], y[broadcast(at, full, second)]);
      want.push_back(draw.dtype == Dtype::f32 ? static_cast<double>(static_cast<float>(exact)) : exact);
    }
    expect_elements(operation.ours(a, b), full, want);
  });
}

TEST_P(PropertiesOn, ReductionsOverAnyAxes) {
  each([&](Draw& draw) {
    const Shape shape = draw.shape(1, 4, 1);
    const Tensor x = draw.tensor(shape);
    const Dims order = draw.permutation(shape.rank());
    std::vector<int> dims;
    for (std::int64_t d = draw.integer(1, shape.rank()); d > 0; --d)
      dims.push_back(static_cast<int>(order[static_cast<int>(d) - 1]));
    const KeepDim keep = draw.coin() ? KeepDim::yes : KeepDim::no;
    Shape kept = shape, dropped;
    for (const int d : dims) kept[d] = 1;
    for (int d = 0; d < shape.rank(); ++d)
      if (std::find(dims.begin(), dims.end(), d) == dims.end()) dropped.push_back(shape[d]);
    const std::vector<double> elements = numbers(x);
    std::vector<double> sums(static_cast<std::size_t>(kept.numel()), 0), largest(sums.size(), -INFINITY);
    for (std::int64_t i = 0; i < shape.numel(); ++i) {
      const std::size_t to = broadcast(position(i, shape), shape, kept);
      sums[to] += elements[static_cast<std::size_t>(i)];
      largest[to] = std::max(largest[to], elements[static_cast<std::size_t>(i)]);
    }
    const Shape result = keep == KeepDim::yes ? kept : dropped;
    expect_elements(sum(x, dims, keep), result, sums);
    expect_elements(max(x, dims, keep), result, largest);
    // The first of the largest.
    const int dim = draw.axis(shape);
    Shape one = shape;
    one[dim] = 1;
    std::vector<double> places;
    for (std::int64_t i = 0; i < one.numel(); ++i) {
      Position at = position(i, one);
      std::int64_t best = 0;
      for (std::int64_t c = 0; c < shape[dim]; ++c) {
        Position candidate = at;
        candidate[static_cast<std::size_t>(dim)] = c;
        at[static_cast<std::size_t>(dim)] = best;
        if (elements[flat(candidate, shape)] > elements[flat(at, shape)]) best = c;
      }
      places.push_back(static_cast<double>(best));
    }
    expect_elements(argmax(x, dim, KeepDim::yes), one, places);
  });
}

TEST_P(PropertiesOn, ConcatUndoesSplit) {
  each([&](Draw& draw) {
    const Tensor x = draw.tensor(draw.shape(1, 4));
    const int dim = draw.axis(x.shape());
    std::vector<std::int64_t> sizes;
    for (std::int64_t left = x.size(dim); left > 0 || sizes.empty();) {
      sizes.push_back(draw.integer(0, left));
      left -= sizes.back();
    }
    expect_same(concat(split(x, sizes, dim), dim), x);
    expect_same(concat(split(x, draw.integer(1, 4), dim), dim), x);
  });
}

TEST_P(PropertiesOn, LayoutChangesAreUndone) {
  each([&](Draw& draw) {
    const Tensor x = draw.tensor(draw.shape(1, 5));
    const Dims order = draw.permutation(x.rank());
    Dims inverse = order;
    for (int d = 0; d < x.rank(); ++d) inverse[static_cast<int>(order[d])] = d;
    const Tensor permuted = x.permute(order);
    expect_same(permuted.permute(inverse), x);
    const std::vector<double> elements = numbers(x);
    std::vector<double> want;
    for (std::int64_t i = 0; i < permuted.numel(); ++i) {
      const Position at = position(i, permuted.shape());
      Position from(at.size());
      for (int d = 0; d < x.rank(); ++d) from[static_cast<std::size_t>(order[d])] = at[static_cast<std::size_t>(d)];
      want.push_back(elements[flat(from, x.shape())]);
    }
    expect_elements(contiguous(permuted), permuted.shape(), want);
    expect_elements(reshape(permuted, {permuted.numel()}), {permuted.numel()}, want);
    expect_same(reshape(reshape(permuted, {permuted.numel()}), permuted.shape()).permute(inverse), x);
    const int a = draw.axis(x.shape()), b = draw.axis(x.shape());
    expect_same(clone(x.transpose(a, b)).transpose(a, b), x);
  });
}

// <gather(x), y> = <x, scatter_add(0, y)>.
TEST_P(PropertiesOn, GatherAndScatterAddAreAdjoint) {
  each([&](Draw& draw) {
    const Tensor x = draw.tensor(draw.shape(1, 3, 1));
    const int dim = draw.axis(x.shape());
    Shape shape = x.shape();
    for (int d = 0; d < shape.rank(); ++d) shape[d] = d == dim ? draw.extent() : draw.integer(1, shape[d]);
    const Tensor index = draw.indices(shape, x.size(dim)), y = draw.tensor(shape);
    EXPECT_EQ(dot(gather(x, dim, index), y), dot(x, scatter_add(zeros_like(x), dim, index, y)))
        << x.shape().str() << ", dimension " << dim << ", index " << shape.str();
  });
}

// (A B)^T = B^T A^T, and (A B) C = A (B C).
TEST_P(PropertiesOn, MatrixProducts) {
  each([&](Draw& draw) {
    const Shape batch = draw.shape(0, 2);
    const auto matrix = [&](std::int64_t rows, std::int64_t columns) {
      Shape shape = draw.narrowed(batch);
      shape.push_back(rows);
      shape.push_back(columns);
      return draw.tensor(shape);
    };
    const std::int64_t M = draw.extent(), K = draw.extent(), N = draw.extent(), P = draw.extent();
    const Tensor a = matrix(M, K), b = matrix(K, N), c = matrix(N, P);
    expect_same(matmul(a, b).t(), matmul(b.t(), a.t()));
    // |terms| <= 64, K N of them; each order rounds on its own.
    const double allowed = test::rounding(draw.dtype) * 64 * static_cast<double>(2 * K * N + 2);
    expect_close(matmul(matmul(a, b), c), matmul(a, matmul(b, c)), allowed);
  });
}

// With eps scaled along, x -> 2^k x + b changes no bit of what is divided and subtracted but the rounding of the mean.
TEST_P(PropertiesOn, LayerNormIgnoresShiftAndScale) {
  each([&](Draw& draw) {
    Shape shape = draw.shape(0, 3);
    shape.push_back(draw.extent(1));
    const Tensor x = draw.tensor(shape);
    const double factor = std::ldexp(draw.coin() ? 1 : -1, static_cast<int>(draw.integer(-2, 4)));
    const double shift = static_cast<double>(draw.integer(-512, 512)) / 16;
    const double eps = 1e-3;
    const double allowed = 64 * test::rounding(draw.dtype) * std::sqrt(static_cast<double>(shape.back()));
    expect_close(layer_norm(x * factor + shift, {}, {}, eps * factor * factor),
                 layer_norm(x, {}, {}, eps) * (factor > 0 ? 1.0 : -1.0), allowed);
    // RMSNorm ignores the scale alone.
    expect_close(rms_norm(x * factor, {}, eps * factor * factor), rms_norm(x, {}, eps) * (factor > 0 ? 1.0 : -1.0),
                 allowed);
  });
}

TEST_P(PropertiesOn, SoftmaxSumsToOneAndIgnoresShift) {
  each([&](Draw& draw) {
    const Tensor x = draw.tensor(draw.shape(1, 4, 1));
    const int dim = draw.axis(x.shape());
    const Tensor y = softmax(x, dim);
    const Tensor sums = sum(y, dim);
    expect_close(sums, ones(sums.shape(), draw.dtype), 32 * test::rounding(draw.dtype));
    // Differences of up to 8 are exact; what exp makes of their rounding is within 16 half ulps.
    const double shift = static_cast<double>(draw.integer(-512, 512)) / 16;
    expect_close(softmax(x + shift, dim), y, 64 * test::rounding(draw.dtype));
    expect_close(exp(log_softmax(x, dim)), y, 64 * test::rounding(draw.dtype));
  });
}

TEST_P(PropertiesOn, CrossEntropyOfMicroBatchesAddsUp) {
  each([&](Draw& draw) {
    const std::int64_t rows = draw.integer(1, 12), classes = draw.extent(1);
    const Tensor logits = set_requires_grad(contiguous(draw.tensor({rows, classes})));
    CrossEntropyOptions options;
    if (draw.coin()) options.label_smoothing = static_cast<double>(draw.integer(0, 4)) / 4;
    if (draw.coin()) options.weight = abs(draw.tensor({classes}));
    if (draw.coin()) options.ignore_index = draw.integer(0, classes - 1);
    if (draw.coin()) options.z_loss = 0.125;
    const Tensor labels = draw.indices({rows}, classes);
    const Loss whole = cross_entropy(logits, labels, options);
    backward(whole.sum);
    const Tensor together = clone(grad(logits));
    zero_grad(logits);
    double total = 0, denominator = 0;
    for (std::int64_t start = 0; start < rows;) {
      const std::int64_t end = draw.integer(start + 1, rows);
      const Loss part = cross_entropy(logits.slice(0, start, end), labels.slice(0, start, end), options);
      backward(part.sum);
      total += numbers(part.sum)[0];
      denominator += numbers(part.denominator)[0];
      start = end;
    }
    const double want = numbers(whole.sum)[0];
    EXPECT_LE(std::fabs(total - want), 16 * test::rounding(draw.dtype) * (1 + std::fabs(want))) << total << " " << want;
    EXPECT_EQ(denominator, numbers(whole.denominator)[0]);  // multiples of 1/64
    expect_close(grad(logits), together, 64 * test::rounding(draw.dtype) * static_cast<double>(classes));
  });
}

// dx(a dy1 + b dy2) = a dx(dy1) + b dx(dy2), whatever the operation.
TEST_P(PropertiesOn, GradientsAreLinearInDy) {
  using Call = std::function<Tensor(const Tensor& x, const Tensor& other)>;
  struct Operation {
    const char* name;
    Call call;
  };
  each([&](Draw& draw) {
    const Shape shape = draw.shape(2, 3, 1);
    const int dim = draw.axis(shape);
    const Shape small = draw.narrowed(shape);
    const Tensor index = draw.indices(shape, shape[dim]);
    const Tensor weight = draw.tensor({3, shape.back()});
    const std::array<Operation, 14> operations = {{
        {"add", [](const Tensor& x, const Tensor& y) { return x + y; }},
        {"mul", [](const Tensor& x, const Tensor& y) { return x * y; }},
        {"div", [](const Tensor& x, const Tensor& y) { return y / (x * x + 1.0); }},
        {"maximum", [](const Tensor& x, const Tensor& y) { return maximum(x, y); }},
        {"sum", [dim](const Tensor& x, const Tensor& y) { return sum(x * y, dim); }},
        {"max", [dim](const Tensor& x, const Tensor&) { return max(x, dim); }},
        {"softmax", [dim](const Tensor& x, const Tensor&) { return softmax(x, dim); }},
        {"log_softmax", [dim](const Tensor& x, const Tensor&) { return log_softmax(x, dim); }},
        {"layer_norm", [](const Tensor& x, const Tensor&) { return layer_norm(x, {}, {}, 1.0); }},
        {"rms_norm", [](const Tensor& x, const Tensor&) { return rms_norm(x, {}, 1.0); }},
        {"gelu", [](const Tensor& x, const Tensor&) { return gelu(x); }},
        {"matmul", [](const Tensor& x, const Tensor&) { return matmul(x, x.t()); }},
        {"linear", [&](const Tensor& x, const Tensor&) { return linear(x, weight); }},
        {"gather", [&](const Tensor& x, const Tensor&) { return gather(x, dim, index); }},
    }};
    const Operation& operation = operations[static_cast<std::size_t>(draw.integer(0, operations.size() - 1))];
    SCOPED_TRACE(operation.name);
    const Tensor x = set_requires_grad(contiguous(draw.tensor(shape)));
    const Tensor other = set_requires_grad(contiguous(draw.tensor(small)));
    Shape result;
    std::vector<Tensor> gradients;
    const auto gradient_for = [&](const Tensor& dy) {
      zero_grad(x);
      zero_grad(other);
      const Tensor y = operation.call(x, other);
      backward(y, dy);
      return std::array<Tensor, 2>{clone(grad(x)), grad(other).defined() ? clone(grad(other)) : zeros_like(other)};
    };
    {
      const NoGrad guard;
      result = operation.call(x, other).shape();
    }
    const Tensor first = draw.tensor(result), second = draw.tensor(result);
    const double a = static_cast<double>(draw.integer(-3, 3)), b = 0.5;
    const auto combined = gradient_for(contiguous(first * a + second * b));
    const auto one = gradient_for(contiguous(first)), two = gradient_for(contiguous(second));
    for (std::size_t i = 0; i < combined.size(); ++i) {
      const Tensor want = one[i] * a + two[i] * b;
      double largest = 16;  // |dy|: what may cancel inside
      for (const Tensor& part : {one[i] * a, two[i] * b})
        for (const double g : numbers(part)) largest = std::max(largest, std::fabs(g));
      expect_close(combined[i], want, 64 * test::rounding(draw.dtype) * largest);
    }
  });
}

WEFT_DEVICE_SUITE(PropertiesOn);

}  // namespace
}  // namespace weft
