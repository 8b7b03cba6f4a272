#include <cmath>
#include <set>

#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "kernels/elementwise.h"
#include "support/gpu.h"
#include "support/variants.h"

namespace weft {
namespace {

using kernels::BinaryOp;
using kernels::UnaryOp;
using test::back;
using test::on;
using test::output;
using test::values;

class BinaryGpu : public test::GpuTest {};
WEFT_GPU_SUITE(BinaryGpu);
class MapGpu : public test::GpuTest {};
WEFT_GPU_SUITE(MapGpu);

constexpr Dtype kFloats[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};
constexpr BinaryOp kOps[] = {BinaryOp::add, BinaryOp::sub, BinaryOp::mul, BinaryOp::div};

kernels::Binary binary_of(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) {
  const Tensor wide_a = a.expand(out.shape()), wide_b = b.expand(out.shape());
  return {op, out.dtype(), a.raw_data(), b.raw_data(), out.raw_data(), out.shape(), wide_a.strides(), wide_b.strides()};
}

// One rounding to the stored type of operands that are exact: correctly rounded on every device, so that bits agree.
Tensor reference(BinaryOp op, const Tensor& a, const Tensor& b, const Shape& shape) {
  Tensor out = Tensor::empty(shape, a.dtype());
  kernels::binary(Device{}, binary_of(op, a, b, out));
  return out;
}

struct Case {
  const char* name;
  const char* chosen;  // in f32
  Shape a, b, out;
};
const std::vector<Case>& cases() {
  static const std::vector<Case> kCases = {
      {"scalars", "vectorised", {}, {}, {}},
      {"dense, below a vector", "vectorised", {3}, {3}, {3}},
      {"dense with a rest", "vectorised", {17}, {17}, {17}},
      {"dense, several blocks", "vectorised", {9, 1025}, {9, 1025}, {9, 1025}},
      {"a scalar on the right", "vectorised", {33}, {}, {33}},
      {"a scalar on the left", "vectorised", {1}, {2, 17}, {2, 17}},
      {"rows share a bias", "vectorised", {5, 48}, {48}, {5, 48}},
      {"rows share a bias, odd", "scalar", {5, 33}, {33}, {5, 33}},
      {"columns share a factor", "vectorised", {5, 48}, {5, 1}, {5, 48}},
      {"columns share a factor, odd", "scalar", {5, 1}, {5, 31}, {5, 31}},
      {"outer product", "vectorised", {7, 1}, {1, 64}, {7, 64}},
      {"middle stretched", "vectorised", {3, 1, 32}, {4, 1}, {3, 4, 32}},
      {"five dimensions", "scalar", {3, 1, 2, 1, 2}, {4, 1, 5, 1}, {3, 4, 2, 5, 2}},
      {"a single column", "vectorised", {7, 1}, {7, 1}, {7, 1}},
  };
  return kCases;
}

// a and b are on the cpu; `view` makes the operands out of them on both sides.
std::set<std::string> check(Device device, const char* name, BinaryOp op, const Tensor& a, const Tensor& b,
                            const Shape& shape, const Tensor& a_there, const Tensor& b_there) {
  SCOPED_TRACE(std::string(name) + " " + std::string(to_string(a.dtype())) + " op " +
               std::to_string(static_cast<int>(op)));
  const Tensor expected = reference(op, a, b, shape);
  std::set<std::string> names;
  const Tensor first = output(device, shape, a.dtype());
  test::for_each_variant(
      WEFT_VARIANTS(binary, device), binary_of(op, a_there, b_there, first), [&](const auto& variant) {
        const auto got = test::in_every_order(device, [&] {
          const Tensor out = output(device, shape, a.dtype());
          variant.run(current_stream(device), binary_of(op, a_there, b_there, out));
          return std::vector<Tensor>{back(out)};
        });
        EXPECT_TRUE(test::bitwise_equal(got[0], expected)) << got[0].str() << "\n instead of\n" << expected.str();
        names.insert(variant.name);
      });
  return names;
}

TEST_P(BinaryGpu, EveryOpBroadcastAndFloat) {
  std::set<std::string> ran;
  for (const Case& c : cases())
    for (const Dtype dtype : kFloats) {
      const Tensor a = randn(c.a, 1, dtype), b = rand(c.b, 2, dtype) + scalar(0.5, dtype);
      const Tensor a_there = on(device(), a), b_there = on(device(), b), out = output(device(), c.out, dtype);
      if (dtype == Dtype::f32) {
        const kernels::Binary args = binary_of(BinaryOp::add, a_there, b_there, out);
        EXPECT_EQ(test::chosen(WEFT_VARIANTS(binary, device()), args), c.chosen) << c.name;
      }
      for (const BinaryOp op : kOps) ran.merge(check(device(), c.name, op, a, b, c.out, a_there, b_there));
    }
  EXPECT_EQ(ran, (std::set<std::string>{"vectorised", "scalar"}));
}

TEST_P(BinaryGpu, IntegersWrap) {
  for (const Dtype dtype : {Dtype::i64, Dtype::i32, Dtype::u8})
    for (const BinaryOp op : {BinaryOp::add, BinaryOp::sub, BinaryOp::mul}) {
      // Products that leave every width: 2^62 - 3 squared, and so on down.
      const double top = dtype == Dtype::i64 ? 0x1p62 : dtype == Dtype::i32 ? 2147483647.0 : 255.0;
      const Tensor a = full({19}, top, dtype), b = cast(arange(19), dtype);
      check(device(), "wrap", op, a, b, {19}, on(device(), a), on(device(), b));
    }
}

TEST_P(BinaryGpu, ViewsAndMisalignedOperands) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const Tensor x = randn({40, 48}, 3, dtype), y = randn({40, 48}, 4, dtype), dx = on(device(), x),
                 dy = on(device(), y);
    const auto both = [&](const char* name, auto a_view, auto b_view) {
      const Tensor a = a_view(x), b = b_view(y);
      check(device(), name, BinaryOp::sub, a, b, a.shape(), a_view(dx), b_view(dy));
    };
    const auto inner = [](const Tensor& t) { return t.slice(1, 16, 48); };
    const auto off_grid = [](const Tensor& t) { return t.slice(1, 1, 33); };
    both("inner parts", inner, inner);
    both("off the grid on the left", off_grid, inner);
    both("off the grid on the right", inner, off_grid);
    both(
        "transposed", [](const Tensor& t) { return t.t(); }, [](const Tensor& t) { return t.t(); });
    both(
        "one transposed", [](const Tensor& t) { return t.slice(0, 0, 32).t(); },
        [](const Tensor& t) {
          return t.flatten().slice(0, 0, 1536).reshape({48, 32});
        });
    both(
        "strided", [](const Tensor& t) { return t.slice(1, 0, 48, 3); },
        [](const Tensor& t) { return t.slice(1, 1, 48, 3); });
  }
  // An output off the grid, with a sentinel on either side.
  const Tensor a = randn({64}, 5), expected = full({66}, 9);
  copy_(expected.slice(0, 1, 65), reference(BinaryOp::add, a, a, {64}));
  const Tensor out = on(device(), full({66}, 9)), there = on(device(), a);
  kernels::binary(device(), binary_of(BinaryOp::add, there, there, out.slice(0, 1, 65)));
  EXPECT_TRUE(test::bitwise_equal(back(out), expected));
}

TEST_P(BinaryGpu, InPlaceEmptyAndRefused) {
  for (const std::int64_t count : {1, 4, 33, 4097}) {
    const Tensor a = randn({count}, 6), b = randn({count}, 7);
    const Tensor into_a = on(device(), a), into_b = on(device(), b), keep_a = on(device(), a), keep_b = on(device(), b);
    kernels::binary(device(), binary_of(BinaryOp::sub, into_a, keep_b, into_a));
    kernels::binary(device(), binary_of(BinaryOp::sub, keep_a, into_b, into_b));
    const Tensor expected = reference(BinaryOp::sub, a, b, {count});
    EXPECT_TRUE(test::bitwise_equal(back(into_a), expected)) << count;
    EXPECT_TRUE(test::bitwise_equal(back(into_b), expected)) << count;
    const Tensor total = on(device(), a);
    kernels::add_into(device(), {Dtype::f32, total.raw_data(), keep_b.raw_data(), count});
    EXPECT_TRUE(test::bitwise_equal(back(total), reference(BinaryOp::add, a, b, {count}))) << count;
  }
  const Tensor empty = output(device(), {0, 3}, Dtype::f32);
  kernels::binary(device(), binary_of(BinaryOp::add, empty, empty, empty));
  const Tensor flags = output(device(), {2}, Dtype::boolean), numbers = output(device(), {2}, Dtype::i32);
  EXPECT_THROW(kernels::binary(device(), binary_of(BinaryOp::add, flags, flags, flags)), DtypeError);
  EXPECT_THROW(kernels::binary(device(), binary_of(BinaryOp::div, numbers, numbers, numbers)), DtypeError);
}

// Small integers, so that equal ones occur, zeros of both signs and a NaN.
Tensor ties(const Shape& shape, std::uint64_t seed, Dtype dtype) {
  Tensor x = cast(cast(randn(shape, seed) * 2.0, Dtype::i32), dtype);
  if (!is_floating(dtype) || x.numel() < 8) return x;
  const Tensor flat = x.flatten();
  fill_(flat.slice(0, 2, 3), NAN);
  fill_(flat.slice(0, 5, 6), -0.0);
  return x;
}

// Every variant of an op with an output of `dtype` must give `want`, at most `tolerance` away, between sentinels.
template <class Variants, class Make>
void check_all(Device device, const Variants& variants, const Tensor& want, double tolerance, Make&& make,
               std::set<std::string>& ran) {
  const std::int64_t count = want.numel();
  const Tensor first = output(device, {count}, want.dtype());
  test::for_each_variant(variants, make(first), [&](const auto& variant) {
    const auto got = test::in_every_order(device, [&] {
      const Tensor out = on(device, full({count + 1}, 1, want.dtype()));
      variant.run(current_stream(device), make(out));
      return std::vector<Tensor>{back(out)};
    });
    ran.insert(variant.name);
    const std::vector<double> all = values(got[0]), expected = values(want);
    EXPECT_EQ(all.back(), 1) << "behind the output";
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const bool same = std::isnan(expected[i]) ? std::isnan(all[i])
                                                : all[i] == expected[i] || std::fabs(all[i] - expected[i]) <=
                                                                               tolerance * (1 + std::fabs(expected[i]));
      EXPECT_TRUE(same) << "element " << i << ": " << all[i] << " instead of " << expected[i];
    }
  });
}

TEST_P(BinaryGpu, MinimumMaximumAndTheirGradientsShareTies) {
  using kernels::BinaryGradientOp;
  std::set<std::string> ran;
  for (const Case& c : cases())
    for (const Dtype dtype : kFloats) {
      const Tensor a = ties(c.a, 1, dtype), b = ties(c.b, 2, dtype), dy = randn(c.out, 3, dtype);
      const Tensor a_there = on(device(), a), b_there = on(device(), b), dy_there = on(device(), dy);
      for (const BinaryOp op : {BinaryOp::minimum, BinaryOp::maximum})
        ran.merge(check(device(), c.name, op, a, b, c.out, a_there, b_there));
      for (const BinaryGradientOp op :
           {BinaryGradientOp::div_b, BinaryGradientOp::minimum_a, BinaryGradientOp::maximum_a}) {
        const auto make = [&](const Tensor& left, const Tensor& right, const Tensor& gradient, const Tensor& out) {
          return kernels::BinaryGradient{op,
                                         dtype,
                                         gradient.raw_data(),
                                         left.raw_data(),
                                         right.raw_data(),
                                         out.raw_data(),
                                         c.out,
                                         contiguous_strides(c.out),
                                         left.expand(c.out).strides(),
                                         right.expand(c.out).strides()};
        };
        const Tensor want = Tensor::empty({c.out.numel()}, dtype);
        kernels::binary_gradient(Device{}, make(a, b, dy, want));
        SCOPED_TRACE(std::string(c.name) + " " + std::string(to_string(dtype)) + " gradient " +
                     std::to_string(static_cast<int>(op)));
        check_all(
            device(), WEFT_VARIANTS(binary_gradient, device()), want, 0,
            [&](const Tensor& out) { return make(a_there, b_there, dy_there, out); }, ran);
      }
    }
  EXPECT_EQ(ran, (std::set<std::string>{"vectorised", "scalar"}));
}

TEST_P(BinaryGpu, ComparisonsOfEveryDtype) {
  using kernels::CompareOp;
  std::set<std::string> ran;
  for (const Case& c : cases())
    for (const Dtype dtype :
         {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i64, Dtype::i32, Dtype::u8, Dtype::boolean})
      for (const CompareOp op :
           {CompareOp::eq, CompareOp::ne, CompareOp::lt, CompareOp::le, CompareOp::gt, CompareOp::ge})
        for (const bool with_number : {false, true}) {
          const Tensor a = ties(c.a, 1, dtype), b = ties(c.b, 2, dtype);
          const Tensor a_there = on(device(), a), b_there = on(device(), b);
          const auto make = [&](const Tensor& left, const Tensor& right, const Tensor& out) {
            return kernels::Compare{op,
                                    dtype,
                                    left.raw_data(),
                                    with_number ? nullptr : right.raw_data(),
                                    out.data<bool>(),
                                    c.out,
                                    left.expand(c.out).strides(),
                                    right.expand(c.out).strides(),
                                    1};
          };
          const Tensor want = Tensor::empty({c.out.numel()}, Dtype::boolean);
          kernels::compare(Device{}, make(a, b, want));
          SCOPED_TRACE(std::string(c.name) + " " + std::string(to_string(dtype)) + " comparison " +
                       std::to_string(static_cast<int>(op)));
          check_all(
              device(), WEFT_VARIANTS(compare, device()), want, 0,
              [&](const Tensor& out) { return make(a_there, b_there, out); }, ran);
        }
  EXPECT_EQ(ran, (std::set<std::string>{"vectorised", "scalar"}));
}

TEST_P(BinaryGpu, WhereOfEveryDtypeAndMisalignedCondition) {
  std::set<std::string> ran;
  for (const Case& c : cases())
    for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::bf16, Dtype::u8})
      for (const std::int64_t offset : {0, 1}) {
        const Tensor a = ties(c.a, 1, dtype), b = ties(c.b, 2, dtype);
        Tensor flags = cast(ties({c.out.numel() + 1}, 3, Dtype::i32), Dtype::boolean);
        const Tensor a_there = on(device(), a), b_there = on(device(), b), flags_there = on(device(), flags);
        const auto make = [&](const Tensor& condition, const Tensor& left, const Tensor& right, const Tensor& out) {
          return kernels::Where{dtype,
                                condition.data<bool>() + offset,
                                left.raw_data(),
                                right.raw_data(),
                                out.raw_data(),
                                c.out,
                                contiguous_strides(c.out),
                                left.expand(c.out).strides(),
                                right.expand(c.out).strides()};
        };
        const Tensor want = Tensor::empty({c.out.numel()}, dtype);
        kernels::where(Device{}, make(flags, a, b, want));
        SCOPED_TRACE(std::string(c.name) + " " + std::string(to_string(dtype)) + " from " + std::to_string(offset));
        check_all(
            device(), WEFT_VARIANTS(where, device()), want, 0,
            [&](const Tensor& out) { return make(flags_there, a_there, b_there, out); }, ran);
      }
  EXPECT_EQ(ran, (std::set<std::string>{"vectorised", "scalar"}));
}

TEST_P(BinaryGpu, TrafficIsEveryOperandOnce) {
  const Tensor a = on(device(), randn({64, 512}, 8)), b = on(device(), randn({64, 512}, 9)),
               bias = on(device(), randn({512}, 10));
  const Tensor factor = on(device(), randn({64, 1}, 11)), out = output(device(), {64, 512}, Dtype::f32);
  const double bytes = 4.0 * 64 * 512;
  const auto traffic = [&](const Tensor& right, double floor) {
    test::expect_traffic(device(), floor, [&] { kernels::binary(device(), binary_of(BinaryOp::mul, a, right, out)); });
  };
  traffic(b, 3 * bytes);
  traffic(bias, 2 * bytes + 2048);
  traffic(factor, 2 * bytes + 256);
  if (!emulated()) return;
  const simt::TrafficScope scope;
  kernels::binary(device(), binary_of(BinaryOp::add, a, bias, out));
  for (const char* operand : {"a", "b", "out"})
    EXPECT_EQ(scope.launches().at(0).find(operand)->widest_access_bytes, 16) << operand;
}

// --- one or two dense operands -------------------------------------------------------------------------------------

// Numbers of all kinds; `count` of them, from a place off the 16-byte grid when `offset` is not 0.
Tensor numbers(std::int64_t count, Dtype dtype) {
  Tensor x = randn({count}, 12, dtype);
  for (std::int64_t i = 0; i < count; i += 7) fill_(x.slice(0, i, i + 1), i % 3 == 0 ? 0.0 : i % 3 == 1 ? -0.0 : NAN);
  return x;
}

// Runs `make(in, out)` through every variant; the output lies between sentinels. want: on the cpu, or f64 within
// `tolerance`.
template <class Make, class Variants>
void check_map(Device device, Dtype dtype, std::int64_t count, std::int64_t offset, double tolerance,
               const Variants& variants, const Tensor& input, Make&& make, const Tensor& want) {
  SCOPED_TRACE(std::string(to_string(dtype)) + " " + std::to_string(count) + " from " + std::to_string(offset));
  const Tensor padded = full({count + offset}, 5, dtype);
  copy_(padded.slice(0, offset, offset + count), input);
  const Tensor in = on(device, padded).slice(0, offset, offset + count);
  const Tensor first = output(device, {count + offset + 1}, dtype);
  const auto run = [&](const auto& variant) {
    const auto got = test::in_every_order(device, [&] {
      const Tensor out = on(device, full({count + offset + 1}, 5, dtype));
      variant.run(current_stream(device), make(in, out.slice(0, offset, offset + count)));
      return std::vector<Tensor>{back(out)};
    });
    const std::vector<double> all = values(got[0]), expected = values(want);
    for (std::int64_t i = 0; i < offset; ++i) EXPECT_EQ(all[static_cast<std::size_t>(i)], 5) << "before the output";
    EXPECT_EQ(all.back(), 5) << "behind the output";
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double value = all[i + static_cast<std::size_t>(offset)];
      const bool same = std::isnan(expected[i]) ? std::isnan(value)
                                                : value == expected[i] || std::fabs(value - expected[i]) <=
                                                                              tolerance * std::fabs(expected[i]);
      EXPECT_TRUE(same) << "element " << i << ": " << value << " instead of " << expected[i];
    }
  };
  const int ran = test::for_each_variant(variants, make(in, first.slice(0, offset, offset + count)), run);
  const bool on_grid = offset * element_bytes(dtype) % 16 == 0;
  EXPECT_EQ(ran, on_grid ? 2 : 1);
}

constexpr std::int64_t kCounts[] = {1, 2, 3, 4, 7, 8, 9, 1023, 1024, 1025, 4097};

// One rounding of the result, and what the two mathematical libraries differ by: 2 ulp of the compute type.
double map_tolerance(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64: return 5e-16;
    case Dtype::f32: return 3e-7;
    case Dtype::f16: return 1.0e-3;
    default: return 7.9e-3;
  }
}

TEST_P(MapGpu, ScaleByHostAndDeviceFactor) {
  const Tensor factor = on(device(), full({1}, -0.37, Dtype::f64));
  for (const Dtype dtype : kFloats)
    for (const std::int64_t count : kCounts)
      for (const std::int64_t offset : {0, 1}) {
        const Tensor x = numbers(count, dtype), want = Tensor::empty({count}, dtype);
        kernels::scale(Device{}, {dtype, x.raw_data(), want.raw_data(), count, -0.37});
        for (const double* device_factor :
             {static_cast<const double*>(nullptr), static_cast<const double*>(factor.data<double>())})
          check_map(
              device(), dtype, count, offset, 0, WEFT_VARIANTS(scale, device()), x,
              [&](const Tensor& in, const Tensor& out) {
                return kernels::Scale{
                    dtype,        in.raw_data(), out.raw_data(), count, device_factor != nullptr ? 99.0 : -0.37,
                    device_factor};
              },
              want);
      }
}

TEST_P(MapGpu, ReluForwardAndBackward) {
  for (const Dtype dtype : kFloats)
    for (const std::int64_t count : kCounts)
      for (const std::int64_t offset : {0, 1}) {
        const Tensor x = numbers(count, dtype), want = Tensor::empty({count}, dtype);
        kernels::relu_forward(Device{}, {dtype, x.raw_data(), want.raw_data(), count});
        check_map(
            device(), dtype, count, offset, 0, WEFT_VARIANTS(relu_forward, device()), x,
            [&](const Tensor& in, const Tensor& out) {
              return kernels::Relu{dtype, in.raw_data(), out.raw_data(), count};
            },
            want);
        // dx where y > 0, and none where it is 0 or NaN; y on the grid like dy or off it like dy.
        const Tensor dy = randn({count}, 13, dtype), dx = Tensor::empty({count}, dtype);
        kernels::relu_backward(Device{}, {dtype, dy.raw_data(), want.raw_data(), dx.raw_data(), count});
        const Tensor padded = full({count + offset}, 1, dtype);
        copy_(padded.slice(0, offset, offset + count), want);
        const Tensor y = on(device(), padded).slice(0, offset, offset + count);
        check_map(
            device(), dtype, count, offset, 0, WEFT_VARIANTS(relu_backward, device()), dy,
            [&](const Tensor& in, const Tensor& out) {
              return kernels::ReluBackward{dtype, in.raw_data(), y.raw_data(), out.raw_data(), count};
            },
            dx);
      }
}

TEST_P(MapGpu, ExpLogRsqrtAgainstFloat64) {
  const std::pair<UnaryOp, double (*)(double)> ops[] = {{UnaryOp::exp, [](double x) { return std::exp(x); }},
                                                        {UnaryOp::log, [](double x) { return std::log(x); }},
                                                        {UnaryOp::rsqrt, [](double x) { return 1 / std::sqrt(x); }}};
  for (const Dtype dtype : kFloats)
    for (const std::int64_t count : {1, 5, 8, 1031})
      for (const auto& [op, exact] : ops)
        for (const std::int64_t offset : {0, 1}) {
          // Negative numbers, both zeros and NaN too: infinities and NaN where the function has them.
          const Tensor x = numbers(count, dtype);
          std::vector<double> expected = values(x);
          for (double& value : expected) value = exact(value);
          check_map(
              device(), dtype, count, offset, map_tolerance(dtype), WEFT_VARIANTS(unary, device()), x,
              [&, op = op](const Tensor& in, const Tensor& out) {
                return kernels::Unary{op, dtype, in.raw_data(), out.raw_data(), count};
              },
              Tensor::from_vector(expected, {count}));
        }
}

TEST_P(MapGpu, EveryUnaryOpAndItsGradientAgainstTheCpu) {
  struct Op {
    UnaryOp op;
    double p, q;
  };
  // clamp: 0 is at one of its ends. softplus: some numbers are beyond the threshold, and all of 100 times them.
  const Op ops[] = {{UnaryOp::exp, 0, 0},           {UnaryOp::log, 0, 0},        {UnaryOp::sqrt, 0, 0},
                    {UnaryOp::rsqrt, 0, 0},         {UnaryOp::abs, 0, 0},        {UnaryOp::sigmoid, 0, 0},
                    {UnaryOp::tanh, 0, 0},          {UnaryOp::silu, 0, 0},       {UnaryOp::add_scalar, 1.5, 0},
                    {UnaryOp::subtract_from, 2, 0}, {UnaryOp::divide, 2, 0},     {UnaryOp::pow, 2, 0},
                    {UnaryOp::pow, 3, 0},           {UnaryOp::pow, 0, 0},        {UnaryOp::clamp, 0, 1},
                    {UnaryOp::leaky_relu, 0.1, 0},  {UnaryOp::gelu, 0, 0},       {UnaryOp::gelu_tanh, 0, 0},
                    {UnaryOp::softplus, 2, 1},      {UnaryOp::softplus, 100, 20}};
  std::set<std::string> ran;
  for (const Dtype dtype : kFloats)
    for (const std::int64_t count : {1, 8, 1031})
      for (const std::int64_t offset : {0, 1})
        for (const Op& op : ops) {
          SCOPED_TRACE(std::string(to_string(dtype)) + " op " + std::to_string(static_cast<int>(op.op)) + ", " +
                       std::to_string(count) + " from " + std::to_string(offset));
          const Tensor x = numbers(count + 1, dtype), dy = randn({count + 1}, 13, dtype);
          const Tensor x_there = on(device(), x), dy_there = on(device(), dy);
          const auto from = [&](const Tensor& t) { return t.slice(0, offset, count + offset).raw_data(); };
          const auto forward = [&](const Tensor& in, const Tensor& out) {
            return kernels::Unary{op.op, dtype, from(in), out.raw_data(), count, op.p, op.q};
          };
          const auto gradient = [&](const Tensor& gradients, const Tensor& saved, const Tensor& out) {
            return kernels::UnaryBackward{op.op, dtype, from(gradients), from(saved), out.raw_data(), count,
                                          op.p,  op.q};
          };
          const Tensor y = Tensor::empty({count}, dtype), dx = Tensor::empty({count}, dtype);
          kernels::unary(Device{}, forward(x, y));
          check_all(
              device(), WEFT_VARIANTS(unary, device()), y, 4 * map_tolerance(dtype),
              [&](const Tensor& out) { return forward(x_there, out); }, ran);
          if (op.op == UnaryOp::add_scalar || op.op == UnaryOp::subtract_from) continue;
          kernels::unary_backward(Device{}, gradient(dy, x, dx));  // any number may be the saved one
          check_all(
              device(), WEFT_VARIANTS(unary_backward, device()), dx, 4 * map_tolerance(dtype),
              [&](const Tensor& out) { return gradient(dy_there, x_there, out); }, ran);
        }
  EXPECT_EQ(ran, (std::set<std::string>{"vectorised", "scalar"}));
  // dx over dy.
  const Tensor x = numbers(1027, Dtype::f32), dy = randn({1027}, 13), want = Tensor::empty({1027});
  const auto args = [&](const Tensor& gradients, const Tensor& saved, const Tensor& out) {
    return kernels::UnaryBackward{UnaryOp::abs,     Dtype::f32,     gradients.raw_data(),
                                  saved.raw_data(), out.raw_data(), 1027};
  };
  kernels::unary_backward(Device{}, args(dy, x, want));
  const Tensor over = on(device(), dy), x_there = on(device(), x);
  kernels::unary_backward(device(), args(over, x_there, over));
  EXPECT_TRUE(test::bitwise_equal(back(over), want));
}

TEST_P(MapGpu, InPlaceAndEmpty) {
  const Tensor x = numbers(1027, Dtype::f32), there = on(device(), x), want = clone(x);
  kernels::scale(Device{}, {Dtype::f32, want.raw_data(), want.raw_data(), 1027, 3.0});
  kernels::relu_forward(Device{}, {Dtype::f32, want.raw_data(), want.raw_data(), 1027});
  kernels::scale(device(), {Dtype::f32, there.raw_data(), there.raw_data(), 1027, 3.0});
  kernels::relu_forward(device(), {Dtype::f32, there.raw_data(), there.raw_data(), 1027});
  kernels::relu_backward(Device{}, {Dtype::f32, want.raw_data(), x.raw_data(), want.raw_data(), 1027});
  const Tensor y = on(device(), x);
  kernels::relu_backward(device(), {Dtype::f32, there.raw_data(), y.raw_data(), there.raw_data(), 1027});
  EXPECT_TRUE(test::bitwise_equal(back(there), want));
  const Tensor empty = output(device(), {0}, Dtype::f32);
  kernels::scale(device(), {Dtype::f32, empty.raw_data(), empty.raw_data(), 0, 3.0});
  kernels::unary(device(), {UnaryOp::exp, Dtype::f32, empty.raw_data(), empty.raw_data(), 0});
  kernels::relu_forward(device(), {Dtype::f32, empty.raw_data(), empty.raw_data(), 0});
  kernels::relu_backward(device(), {Dtype::f32, empty.raw_data(), empty.raw_data(), empty.raw_data(), 0});
}

TEST_P(MapGpu, PublicFunctionsOnTheDevice) {
  const Tensor x = rand({5, 7}, 14) + scalar(0.1), there = on(device(), x);
  EXPECT_LE(test::relative_error(back(exp(there)), exp(x)), 3e-7);
  EXPECT_LE(test::relative_error(back(log(there.t())), log(x.t())), 3e-7);
  EXPECT_LE(test::relative_error(back(rsqrt(there)), rsqrt(x)), 3e-7);
  EXPECT_TRUE(test::bitwise_equal(back(relu(there - scalar(0.5, Dtype::f32, device()))), relu(x - scalar(0.5))));
}

TEST_P(MapGpu, TrafficIsEveryOperandOnce) {
  const Tensor x = on(device(), randn({32768}, 15)), y = on(device(), randn({32768}, 16)),
               out = output(device(), {32768}, Dtype::f32);
  const Tensor factor = on(device(), full({1}, 2, Dtype::f64));
  const double bytes = 4.0 * 32768;
  test::expect_traffic(device(), 2 * bytes, [&] {
    kernels::scale(device(), {Dtype::f32, x.raw_data(), out.raw_data(), 32768, 1, factor.data<double>()});
  });
  test::expect_traffic(device(), 2 * bytes, [&] {
    kernels::relu_forward(device(), {Dtype::f32, x.raw_data(), out.raw_data(), 32768});
  });
  test::expect_traffic(device(), 3 * bytes, [&] {
    kernels::relu_backward(device(), {Dtype::f32, x.raw_data(), y.raw_data(), out.raw_data(), 32768});
  });
}

}  // namespace
}  // namespace weft
