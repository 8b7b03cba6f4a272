#include <cmath>
#include <set>

#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/reduce.h"
#include "kernels/reduce.h"
#include "support/gpu.h"
#include "support/variants.h"

namespace weft {
namespace {

using test::back;
using test::message_of;
using test::on;
using test::output;
using test::values;

class SumGpu : public test::GpuTest {};
WEFT_GPU_SUITE(SumGpu);
class ArgmaxGpu : public test::GpuTest {};
WEFT_GPU_SUITE(ArgmaxGpu);

constexpr Dtype kAllDtypes[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16,
                                Dtype::i64, Dtype::i32, Dtype::u8,  Dtype::boolean};

Dtype sum_dtype(Dtype dtype) { return is_floating(dtype) ? dtype : Dtype::i64; }

// Whole numbers of either sign that every dtype holds, and whose sums f32 holds: results are exact in any order, so
// that a term too many or too few shows whatever the length.
Tensor whole_numbers(const Shape& shape, Dtype dtype) {
  const std::int64_t count = shape.numel();
  std::vector<double> x(static_cast<std::size_t>(count));
  std::uint64_t state = 12345;
  for (double& value : x) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const auto draw = static_cast<int>(state >> 60);  // [0, 16)
    value = is_floating(dtype) || dtype == Dtype::i32 || dtype == Dtype::i64 ? draw - 6 : draw;
  }
  return cast(Tensor::from_vector(x, shape), dtype);
}

struct Operands {
  Tensor in, out, workspace;  // [A, R, B], [A, B]
  kernels::Sum args(Accumulate mode) const {
    return {.dtype = in.dtype(),
            .in = in.raw_data(),
            .out = out.raw_data(),
            .outer = in.size(0),
            .reduced = in.size(1),
            .inner = in.size(2),
            .mode = mode,
            .workspace = workspace.defined() ? workspace.raw_data() : nullptr};
  }
};
Tensor sum_workspace(Device device, const Tensor& in) {
  const std::int64_t bytes = kernels::sum_workspace_bytes(device, in.dtype(), in.size(0), in.size(1), in.size(2));
  return bytes > 0 ? Tensor::empty({bytes}, Dtype::u8, device) : Tensor();
}

// [A, R, B]
const std::vector<Shape>& row_shapes() {
  static const std::vector<Shape> kShapes = {
      {1, 1, 1},    {300, 1, 1},  {257, 3, 1},  {9, 4, 1},   {9, 16, 1},  {5, 31, 1},     {5, 32, 1},    {5, 33, 1},
      {3, 127, 1},  {3, 128, 1},  {3, 129, 1},  {3, 255, 1}, {3, 256, 1}, {3, 257, 1},    {2, 1023, 1},  {2, 1024, 1},
      {9, 1056, 1}, {2, 4100, 1}, {3, 4160, 1}, {4, 0, 1},   {0, 5, 1},   {1, 100003, 1}, {2, 40000, 1}, {3, 20011, 1},
  };
  return kShapes;
}
const std::vector<Shape>& column_shapes() {
  static const std::vector<Shape> kShapes = {
      {1, 1, 2},    {70, 1, 5},   {1, 5, 3},     {300, 3, 4},   {9, 13, 16},    {2, 7, 64}, {1, 100, 130},
      {2, 33, 257}, {1, 2, 1000}, {3, 65, 48},   {1, 600, 96},  {1, 301, 8},    {4, 0, 3},  {0, 3, 2},
      {2, 3, 0},    {1, 9000, 3}, {1, 2500, 16}, {2, 700, 160}, {1, 260, 1040},
  };
  return kShapes;
}

// Runs every variant that supports the shape, in both modes, against the cpu in f64. `offset` elements stand before the
// input.
std::set<std::string> check_sum(Device device, const Shape& shape, Dtype dtype, std::int64_t offset) {
  SCOPED_TRACE(shape.str() + " " + std::string(to_string(dtype)) + " from " + std::to_string(offset));
  const Tensor x = whole_numbers(shape, dtype);
  const Tensor padded = full({x.numel() + offset}, 1, dtype);
  copy_(padded.slice(0, offset, offset + x.numel()), x.flatten());
  Operands there{on(device, padded).slice(0, offset, offset + x.numel()).reshape(shape), {}, sum_workspace(device, x)};
  const Shape out_shape{shape[0], shape[2]};
  const Tensor exact = Tensor::empty(out_shape, Dtype::f64);
  const Tensor wide = cast(x, Dtype::f64);
  kernels::sum(Device{}, Operands{wide, exact, {}}.args(Accumulate::overwrite));
  std::set<std::string> names;
  for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
    const Tensor want = clone(exact);
    if (mode == Accumulate::add) kernels::sum(Device{}, Operands{wide, want, {}}.args(mode));  // twice the sum
    there.out = output(device, out_shape, sum_dtype(dtype));
    test::for_each_variant(WEFT_VARIANTS(sum, device), there.args(mode), [&](const auto& variant) {
      const auto got = test::in_every_order(device, [&] {
        there.out = mode == Accumulate::add ? on(device, cast(exact, sum_dtype(dtype)))
                                            : output(device, out_shape, sum_dtype(dtype));
        variant.run(current_stream(device), there.args(mode));
        return std::vector<Tensor>{back(there.out)};
      });
      // Adding starts from the sum as stored: exact but for 16-bit floats, which are rounded on the way there.
      if (mode == Accumulate::overwrite || element_bytes(dtype) != 2) {
        EXPECT_EQ(values(got[0]), values(cast(want, sum_dtype(dtype))));
      } else {
        EXPECT_LE(test::relative_error(values(got[0]), values(want)), dtype == Dtype::f16 ? 1e-3 : 8e-3);
      }
      names.insert(variant.name);
    });
  }
  return names;
}

TEST_P(SumGpu, RowsOfEveryLengthAndDtype) {
  std::set<std::string> ran;
  for (const Shape& shape : row_shapes())
    for (const Dtype dtype : kAllDtypes) {
      if (shape.numel() > 30000 && dtype != Dtype::f32 && dtype != Dtype::bf16 && dtype != Dtype::u8) continue;
      for (const std::int64_t offset : {0, 1}) {
        if (offset > 0 && shape.numel() > 20000) continue;
        ran.merge(check_sum(device(), shape, dtype, offset));
      }
    }
  EXPECT_EQ(ran, (std::set<std::string>{"rows_vectorised", "rows", "columns"}));  // rows are columns too, of width 1
}

TEST_P(SumGpu, ColumnsOfEveryShapeAndDtype) {
  std::set<std::string> ran;
  for (const Shape& shape : column_shapes())
    for (const Dtype dtype : kAllDtypes) {
      if (shape.numel() > 30000 && dtype != Dtype::f32 && dtype != Dtype::bf16 && dtype != Dtype::u8) continue;
      for (const std::int64_t offset : {0, 1}) {
        if (offset > 0 && shape.numel() > 20000) continue;
        ran.merge(check_sum(device(), shape, dtype, offset));
      }
    }
  EXPECT_EQ(ran, (std::set<std::string>{"columns_vectorised", "columns"}));
}

TEST_P(SumGpu, LongSumsStayAccurate) {
  // One running sum in f32 would be wrong by 1e-2 here. A lane adds at most about 1024 terms in f32, which random signs
  // of the rounding bring to sqrt(1024) / 2 * 2^-24 = 1e-6 of the sum.
  for (const auto& shape : {Shape{1, 1000000, 1}, Shape{1, 250000, 4}, Shape{1, 100000, 10}}) {
    const Tensor x = full(shape, 0.1), there = on(device(), x);
    const double want = static_cast<double>(0.1f) * static_cast<double>(shape[1]);
    const auto sums = values(back(sum(there, 1)));
    for (const double got : sums) EXPECT_LE(std::fabs(got / want - 1), 1e-6) << shape.str();
  }
  const Tensor x = full({300000}, 1.0, Dtype::bf16);  // in bf16 the sum would stall at 256
  EXPECT_TRUE(test::bitwise_equal(back(sum(on(device(), x))), scalar(300000, Dtype::bf16)));
}

TEST_P(SumGpu, PublicFunctionsOnTheDevice) {
  const Tensor x = whole_numbers({6, 35, 4}, Dtype::f32), there = on(device(), x);
  EXPECT_EQ(values(back(sum(there))), values(sum(x)));
  for (int dim = 0; dim < 3; ++dim) {
    EXPECT_EQ(values(back(sum(there, dim))), values(sum(x, dim))) << dim;
    EXPECT_EQ(values(back(sum(there.transpose(0, 2), dim))), values(sum(x.transpose(0, 2), dim))) << dim;
    EXPECT_LE(test::relative_error(back(mean(there, dim)), mean(x, dim)), 1e-7) << dim;
  }
  EXPECT_EQ(values(back(sum_to(there, {35, 1}))), values(sum_to(x, {35, 1})));
}

TEST_P(SumGpu, PlansCoverRAndTheWorkspaceIsAskedFor) {
  for (const std::int64_t outer : {1, 3, 100, 5000})
    for (const std::int64_t reduced : {0, 1, 127, 128, 4097, 100000, 123456789})
      for (const std::int64_t inner : {1, 2, 3, 100, 128, 129, 4096, 100000}) {
        const kernels::SumPlan plan = kernels::sum_plan(outer, reduced, inner);
        EXPECT_GE(plan.pieces, 1);
        EXPECT_GE(plan.pieces * plan.rows, reduced);
        EXPECT_LE(plan.rows, 262144);
        if (plan.pieces == 1) continue;
        EXPECT_LT((plan.pieces - 1) * plan.rows, reduced);  // no empty piece
        EXPECT_EQ(plan.rows % 16, 0);
        EXPECT_GE(plan.rows, 128);
      }
  EXPECT_EQ(kernels::sum_workspace_bytes(Device{}, Dtype::f32, 1, 1000000, 1), 0);
  EXPECT_GT(kernels::sum_workspace_bytes(device(), Dtype::f32, 1, 1000000, 1), 0);
  const Tensor in = output(device(), {1, 100000, 1}, Dtype::f32), out = output(device(), {1, 1}, Dtype::f32);
  EXPECT_EQ(message_of<Error>([&] {
              kernels::sum(device(), Operands{in, out, {}}.args(Accumulate::overwrite));
            }),
            "[sum] a workspace of sum_workspace_bytes() is needed for [1, 100000, 1]");
}

TEST_P(SumGpu, TrafficIsTheInputOnce) {
  const auto traffic = [&](const Shape& shape, Dtype dtype) {
    const Tensor in = on(device(), whole_numbers(shape, dtype)),
                 out = output(device(), {shape[0], shape[2]}, sum_dtype(dtype));
    const Operands operands{in, out, sum_workspace(device(), in)};
    test::expect_traffic(device(), static_cast<double>(in.nbytes() + out.nbytes()),
                         [&] { kernels::sum(device(), operands.args(Accumulate::overwrite)); });
  };
  traffic({64, 1024, 1}, Dtype::f32);
  traffic({64, 4096, 1}, Dtype::bf16);
  traffic({4096, 24, 1}, Dtype::f32);
  traffic({1, 200000, 1}, Dtype::f32);
  traffic({1, 512, 512}, Dtype::f32);
  traffic({1, 512, 512}, Dtype::bf16);
  traffic({8, 64, 256}, Dtype::f32);
  traffic({1, 8192, 12}, Dtype::f32);
}

// --- argmax --------------------------------------------------------------------------------------------------------

std::set<std::string> check_argmax(Device device, const Tensor& x, std::int64_t offset) {
  const Shape shape = x.shape();
  SCOPED_TRACE(shape.str() + " " + std::string(to_string(x.dtype())) + " from " + std::to_string(offset));
  const Tensor padded = full({x.numel() + offset}, 1, x.dtype());
  copy_(padded.slice(0, offset, offset + x.numel()), x.flatten());
  const Tensor in = on(device, padded).slice(0, offset, offset + x.numel());
  const auto args = [&](const Tensor& from, const Tensor& out) {
    return kernels::Argmax{x.dtype(), from.raw_data(), out.data<std::int64_t>(), shape[0], shape[1], shape[2]};
  };
  const Tensor want = Tensor::empty({shape[0], shape[2]}, Dtype::i64);
  kernels::argmax(Device{}, args(x, want));
  std::set<std::string> names;
  const Tensor first = output(device, want.shape(), Dtype::i64);
  test::for_each_variant(WEFT_VARIANTS(argmax, device), args(in, first), [&](const auto& variant) {
    const auto got = test::in_every_order(device, [&] {
      const Tensor out = output(device, want.shape(), Dtype::i64);
      variant.run(current_stream(device), args(in, out));
      return std::vector<Tensor>{back(out)};
    });
    EXPECT_TRUE(test::bitwise_equal(got[0], want)) << got[0].str() << " instead of " << want.str();
    names.insert(variant.name);
  });
  return names;
}

TEST_P(ArgmaxGpu, EveryShapeAndDtypeWithTies) {
  std::set<std::string> ran;
  for (const auto* shapes : {&row_shapes(), &column_shapes()})
    for (const Shape& shape : *shapes)
      for (const Dtype dtype : kAllDtypes) {
        if (shape[1] == 0 || (shape.numel() > 30000 && dtype != Dtype::f32 && dtype != Dtype::u8)) continue;
        // Sixteen values: the largest of a row comes several times, and its first place counts.
        for (const std::int64_t offset : {0, 1}) ran.merge(check_argmax(device(), whole_numbers(shape, dtype), offset));
      }
  EXPECT_EQ(ran, (std::set<std::string>{"rows_vectorised", "rows", "columns"}));
}

TEST_P(ArgmaxGpu, TheLargestMayBeAnywhereAndNegative) {
  for (const Shape& shape : {Shape{1, 37, 1}, Shape{1, 300, 1}, Shape{1, 1100, 1}, Shape{1, 1100, 2}, Shape{1, 19, 40}})
    for (std::int64_t at = 0; at < shape[1]; at += shape[1] < 100 ? 1 : 61) {
      const Tensor x = full(shape, -5);
      fill_(x.slice(1, at, at + 1), -4);
      check_argmax(device(), x, 0);
    }
}

TEST_P(ArgmaxGpu, NanIsTheLargestAndTheFirstOfThemWins) {
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::bf16})
    for (const Shape& shape : {Shape{3, 40, 1}, Shape{2, 1500, 1}, Shape{2, 90, 3}}) {
      const Tensor x = whole_numbers(shape, dtype);
      fill_(x.slice(1, 7, 8), HUGE_VAL);
      for (const std::int64_t at : {std::int64_t{1}, std::int64_t{33}, shape[1] - 1}) {
        const Tensor with = clone(x);
        fill_(with.slice(1, at, at + 1), NAN);
        if (at > 1) fill_(with.slice(1, at - 2, at - 1), NAN);
        check_argmax(device(), with, 0);
      }
      const Tensor lowest = full(shape, -HUGE_VAL, dtype);
      check_argmax(device(), lowest, 0);
    }
}

TEST_P(ArgmaxGpu, ThroughThePublicFunction) {
  const Tensor x = randn({33, 10}, 3), there = on(device(), x);
  EXPECT_TRUE(test::bitwise_equal(back(argmax(there)), argmax(x)));
  EXPECT_TRUE(test::bitwise_equal(back(argmax(there.t())), argmax(x.t())));
  EXPECT_TRUE(test::bitwise_equal(back(argmax(there, 0)), argmax(x, 0)));
}

TEST_P(ArgmaxGpu, TrafficIsTheInputOnce) {
  const Tensor in = on(device(), randn({64, 1024}, 4)), out = output(device(), {64}, Dtype::i64);
  test::expect_traffic(device(), static_cast<double>(in.nbytes() + out.nbytes()), [&] {
    kernels::argmax(device(), {Dtype::f32, in.raw_data(), out.data<std::int64_t>(), 64, 1024, 1});
  });
}

}  // namespace
}  // namespace weft
