#include "autograd/matmul.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "kernels/matmul.h"
#include "support/compare.h"
#include "support/gpu.h"

namespace weft {
namespace {

using test::back;
using test::message_of;
using test::on;
using test::values;

TEST(Matmul, SaysWhatIsWrong) {
  EXPECT_EQ(message_of<ShapeError>([] {
              matmul(zeros({3, 4}), zeros({5, 6}));
            }),
            "[matmul] a must have shape [..., M, K] and b [..., K, N] but they have [3, 4] and [5, 6]: 4 and 5 differ");
  EXPECT_EQ(message_of<ShapeError>([] {
              matmul(zeros({3}), zeros({2, 4, 6}));
            }),
            "[matmul] a must have shape [..., M, K] and b [..., K, N] but they have [3] and [2, 4, 6]: 3 and 4 differ");
  EXPECT_EQ(message_of<ShapeError>([] { matmul(zeros({}), zeros({3})); }),
            "[matmul] a and b must have at least one dimension but have [] and [3]");
  EXPECT_EQ(message_of<DtypeError>([] { matmul(zeros({3}), zeros({3}, Dtype::f64)); }),
            "[matmul] a and b must have one floating dtype but have f32 and f64");
  EXPECT_EQ(message_of<DtypeError>([] { matmul(zeros({3}, Dtype::i64), zeros({3}, Dtype::i64)); }),
            "[matmul] a and b must have one floating dtype but have i64 and i64");
  EXPECT_EQ(message_of<DeviceError>([] {
              matmul(zeros({3}), zeros({3}, Dtype::f32, Device{DeviceKind::simt, 0}));
            }),
            "[matmul] a and b must be on one device but are on cpu and simt");
  EXPECT_NE(message_of<ShapeError>([] {
              matmul(zeros({2, 3, 4}), zeros({3, 4, 5}));
            }).find("[matmul]"),
            std::string::npos);
}

TEST(Matmul, ShapesFollowPyTorch) {
  const auto shape = [](const Shape& a, const Shape& b) { return matmul(zeros(a), zeros(b)).shape().str(); };
  EXPECT_EQ(shape({3}, {3}), "[]");
  EXPECT_EQ(shape({2, 3}, {3}), "[2]");
  EXPECT_EQ(shape({3}, {3, 4}), "[4]");
  EXPECT_EQ(shape({5, 2, 3}, {3}), "[5, 2]");
  EXPECT_EQ(shape({3}, {5, 3, 4}), "[5, 4]");
  EXPECT_EQ(shape({6, 1, 2, 3}, {5, 3, 4}), "[6, 5, 2, 4]");
  EXPECT_EQ(shape({0, 2, 3}, {3, 4}), "[0, 2, 4]");
}

class MatmulGpu : public test::GpuTest {};

// Heads are slices of one tensor [B, T, H, D]: matrices with gaps between their rows, in two dimensions of batch.
TEST_P(MatmulGpu, ReadsHeadsWhereTheyLie) {
  const Tensor all = randn({2, 5, 3, 8}, 1), other = randn({2, 6, 3, 8}, 2);
  const auto scores = [&](const Tensor& q, const Tensor& k) {
    return matmul(q.transpose(1, 2), k.transpose(1, 2).transpose(-2, -1));
  };
  const Tensor want = matmul(contiguous(all.transpose(1, 2)), contiguous(other.transpose(1, 2).transpose(-2, -1)));
  const Tensor got = back(scores(on(device(), all), on(device(), other)));
  EXPECT_LE(test::relative_error(got, want), 1e-6);
}

// A kernel's own view of it: adding to what is there, an operand off the grid of vectors, gaps between rows.
TEST_P(MatmulGpu, AddsToWhatIsThere) {
  constexpr std::int64_t kM = 5, kK = 9, kN = 6, kRow = 11;
  const Tensor a = randn({2 * kM * kRow + 1}, 1), b = randn({kN * kK}, 2), c = randn({2, kM, kN}, 3);
  const std::vector<double> va = values(a), vb = values(b);
  std::vector<double> want = values(c);
  for (std::int64_t p = 0; p < 2; ++p)
    for (std::int64_t m = 0; m < kM; ++m)
      for (std::int64_t n = 0; n < kN; ++n)
        for (std::int64_t k = 0; k < kK; ++k)
          want[static_cast<std::size_t>((p * kM + m) * kN + n)] +=
              va[static_cast<std::size_t>(1 + (p * kM + m) * kRow + k)] * vb[static_cast<std::size_t>(n * kK + k)];
  const auto check = [&](Device where) {
    const Tensor da = on(where, a), db = on(where, b), dc = on(where, clone(c));
    kernels::BatchedMatmul args{.dtype = Dtype::f32,
                                .m = kM,
                                .n = kN,
                                .k = kK,
                                .a = da.slice(0, 1, da.numel()).raw_data(),
                                .b = db.raw_data(),
                                .c = dc.raw_data(),
                                .a_order = kernels::Contiguous::k,
                                .b_order = kernels::Contiguous::k,
                                .a_row = kRow,
                                .b_row = kK,
                                .batch = {},
                                .mode = Accumulate::add,
                                .workspace = nullptr};
    args.batch.count = args.batch.extent[0] = 2;
    args.batch.dims = 1;
    args.batch.a_step[0] = kM * kRow;
    kernels::matmul(where, args);
    EXPECT_LE(test::relative_error(values(back(dc)), want), 1e-6) << where.str();
  };
  check(Device{});
  check(device());
}

TEST_P(MatmulGpu, MoreProductsThanALaunchTakes) {
  const std::int64_t products = 65537;
  const Tensor a = on(device(), randn({products, 1, 2}, 1)), b = on(device(), randn({products, 2, 1}, 2));
  const Tensor want = matmul(back(a), back(b));
  EXPECT_LE(test::relative_error(back(matmul(a, b)), want), 1e-6);
}

// As IEEE has it, on every path of the cpu (few rows, few terms, tiles, vectors) and in every tile.
TEST_P(MatmulGpu, ZeroTimesInfinityIsNaN) {
  for (const Device where : {Device{}, device()})
    for (const auto& [m, k, n] : {std::tuple<int, int, int>{1, 8, 8}, {9, 2, 9}, {40, 40, 40}, {40, 40, 1}}) {
      const Tensor a = full({m, k}, 0), b = full({k, n}, std::numeric_limits<double>::infinity());
      for (const double value : values(back(matmul(on(where, a), on(where, b)))))
        ASSERT_TRUE(std::isnan(value)) << where.str() << " " << m << ' ' << k << ' ' << n;
    }
}

// One leaf on both sides: both gradients end in it.
TEST_P(MatmulGpu, ATensorTimesItself) {
  const Tensor a = set_requires_grad(on(device(), randn({6, 6}, 1))), dy = randn({6, 6}, 2);
  backward(matmul(a, a), on(device(), dy));
  const Tensor plain = back(a.alias());
  const Tensor left = matmul(dy, plain.t()), right = matmul(plain.t(), dy);
  std::vector<double> want = values(left);
  const std::vector<double> more = values(right);
  for (std::size_t i = 0; i < want.size(); ++i) want[i] += more[i];
  EXPECT_LE(test::relative_error(values(back(grad(a))), want), 1e-6);
}

WEFT_GPU_SUITE(MatmulGpu);

}  // namespace
}  // namespace weft
