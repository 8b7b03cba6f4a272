#include "autograd/linear.h"

#include <cmath>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/gradcheck.h"
#include "kernels/common/gemm.h"
#include "kernels/linear.h"
#include "support/compare.h"
#include "support/threads.h"

namespace weft {
namespace {

using test::message_of;
using test::values;

struct Problem {
  std::int64_t rows, in, out;
};
// Odd sizes, single rows and columns, sizes around a tile's edge, and one whose long sum is cut into chunks.
const std::vector<Problem> kProblems = {{1, 1, 1},      {1, 784, 512}, {2, 100, 30},    {4, 33, 100},
                                        {70, 3, 40},    {70, 40, 2},   {1, 7, 3},       {3, 1, 5},
                                        {5, 33, 17},    {64, 64, 64},  {65, 127, 129},  {128, 784, 10},
                                        {257, 300, 70}, {2, 5000, 11}, {300, 260, 520}, {9000, 12, 10}};

// Error of a sum of k products in a type with this epsilon; inputs of order 1, errors random: sqrt(k), with some room.
double tolerance(Dtype dtype, std::int64_t k) {
  const double epsilon = dtype == Dtype::f64   ? 0x1p-53
                         : dtype == Dtype::f32 ? 0x1p-24
                         : dtype == Dtype::f16 ? 0x1p-11
                                               : 0x1p-8;
  // 16-bit operands: the sum is in f32, only the stored result is rounded.
  return epsilon * (dtype == Dtype::f64 || dtype == Dtype::f32 ? 2 + std::sqrt(static_cast<double>(k)) : 1.5);
}

TEST(Linear, ForwardAndGradientsAgainstF64) {
  for (const Problem& p : kProblems)
    for (Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
      if (dtype != Dtype::f32 && p.rows * p.in * p.out > 20'000'000) continue;
      const Tensor x = set_requires_grad(randn({p.rows, p.in}, 1, dtype)),
                   w = set_requires_grad(randn({p.out, p.in}, 2, dtype));
      const Tensor b = set_requires_grad(randn({p.out}, 3, dtype)), dy = randn({p.rows, p.out}, 4, dtype);
      const Tensor y = linear(x, w, b);
      backward(y, dy);

      // The same in f64, on the inputs as they were stored, by three independent loops.
      const std::vector<double> vx = values(x), vw = values(w), vb = values(b), vdy = values(dy);
      std::vector<double> ry(static_cast<std::size_t>(p.rows * p.out)), rdx(vx.size()), rdw(vw.size()), rdb(vb.size());
      for (std::int64_t r = 0; r < p.rows; ++r)
        for (std::int64_t n = 0; n < p.out; ++n) {
          const auto rn = static_cast<std::size_t>(r * p.out + n);
          double total = vb[static_cast<std::size_t>(n)];
          for (std::int64_t k = 0; k < p.in; ++k) {
            const auto rk = static_cast<std::size_t>(r * p.in + k), nk = static_cast<std::size_t>(n * p.in + k);
            total += vx[rk] * vw[nk];
            rdx[rk] += vdy[rn] * vw[nk];
            rdw[nk] += vdy[rn] * vx[rk];
          }
          ry[rn] = total;
          rdb[static_cast<std::size_t>(n)] += vdy[rn];
        }
      const std::string what = fmt::format("{} x {} x {} {}", p.rows, p.in, p.out, to_string(dtype));
      EXPECT_LE(test::relative_error(values(y), ry), tolerance(dtype, p.in)) << what;
      EXPECT_LE(test::relative_error(values(grad(x)), rdx), tolerance(dtype, p.out)) << what;
      EXPECT_LE(test::relative_error(values(grad(w)), rdw), tolerance(dtype, p.rows)) << what;
      EXPECT_LE(test::relative_error(values(grad(b)), rdb), tolerance(dtype, p.rows)) << what;
    }
}

TEST(Linear, GradcheckWithAndWithoutBiasAndActivation) {
  const Tensor x = randn({2, 3, 5}, 1, Dtype::f64), w = randn({4, 5}, 2, Dtype::f64), b = randn({4}, 3, Dtype::f64);
  for (Activation activation : {Activation::none, Activation::relu}) {
    auto result =
        gradcheck([&](const std::vector<Tensor>& in) { return linear(in[0], in[1], in[2], activation); }, {x, w, b});
    EXPECT_TRUE(result.passed) << result.message;
    result = gradcheck([&](const std::vector<Tensor>& in) { return linear(in[0], in[1], {}, activation); }, {x, w});
    EXPECT_TRUE(result.passed) << result.message;
  }
}

TEST(Linear, EqualsItsComposite) {
  const Tensor x = randn({6, 9}, 1, Dtype::f64), w = randn({7, 9}, 2, Dtype::f64), b = randn({7}, 3, Dtype::f64);
  for (Activation activation : {Activation::none, Activation::relu})
    EXPECT_LE(test::relative_error(linear(x, w, b, activation), linear_composite(x, w, b, activation)), 1e-14);
}

TEST(Linear, FusedReluEqualsReluAfterwards) {
  for (Dtype dtype : {Dtype::f32, Dtype::f64}) {
    const Tensor x = set_requires_grad(randn({33, 70}, 1, dtype)), w = set_requires_grad(randn({40, 70}, 2, dtype));
    const Tensor b = set_requires_grad(randn({40}, 3, dtype)), dy = randn({33, 40}, 4, dtype);
    const Tensor fused = linear(x, w, b, Activation::relu);
    backward(fused, dy);
    const Tensor dx = grad(x).alias(), dw = grad(w).alias(), db = grad(b).alias();
    const std::vector<double> fused_dx = values(dx), fused_dw = values(dw), fused_db = values(db);
    for (const Tensor& leaf : {x, w, b}) zero_grad(leaf);
    const Tensor apart = relu(linear(x, w, b));
    backward(apart, dy);
    EXPECT_TRUE(test::bitwise_equal(fused, apart));
    EXPECT_EQ(fused_dx, values(grad(x)));
    EXPECT_EQ(fused_dw, values(grad(w)));
    EXPECT_EQ(fused_db, values(grad(b)));
  }
}

TEST(Linear, BitwiseEqualForAnyThreadCount) {
  for (const Problem& p :
       {Problem{128, 784, 512}, {300, 512, 256}, {128, 256, 10}, {60000, 20, 10}, {1, 784, 512}, {3, 512, 256}}) {
    const Tensor dy = randn({p.rows, p.out}, 4);
    std::vector<Tensor> first;
    for (int threads : {1, 2, 7}) {
      const test::Threads setting(threads);
      const Tensor x = set_requires_grad(randn({p.rows, p.in}, 1)), w = set_requires_grad(randn({p.out, p.in}, 2));
      const Tensor b = set_requires_grad(randn({p.out}, 3)), y = linear(x, w, b);
      backward(y, dy);
      const std::vector<Tensor> now = {y, grad(x), grad(w), grad(b)};
      if (first.empty()) first = now;
      for (std::size_t i = 0; i < now.size(); ++i)
        EXPECT_TRUE(test::bitwise_equal(first[i], now[i]))
            << p.rows << " rows, " << threads << " threads, result " << i;
    }
  }
}

TEST(Linear, WeightGradientsAddUpOverMicroBatches) {
  const Tensor x = randn({20, 6}, 1, Dtype::f64), dy = randn({20, 3}, 2, Dtype::f64);
  const Tensor w = set_requires_grad(randn({3, 6}, 3, Dtype::f64)), b = set_requires_grad(randn({3}, 4, Dtype::f64));
  backward(linear(x, w, b), dy);
  const std::vector<double> whole_w = values(grad(w)), whole_b = values(grad(b));
  zero_grad(w);
  zero_grad(b);
  for (std::int64_t at : {0, 7, 14}) backward(linear(x.slice(0, at, at + 7), w, b), dy.slice(0, at, at + 7));
  EXPECT_LE(test::relative_error(values(grad(w)), whole_w), 1e-14);
  EXPECT_LE(test::relative_error(values(grad(b)), whole_b), 1e-14);
}

TEST(Linear, EmptyBatchAndStridedInputs) {
  const Tensor w = set_requires_grad(randn({3, 4}, 1)), b = set_requires_grad(randn({3}, 2));
  const Tensor y = linear(zeros({0, 4}), w, b);
  EXPECT_EQ(y.shape(), (Shape{0, 3}));
  backward(y, zeros({0, 3}));
  EXPECT_EQ(values(grad(w)), std::vector<double>(12, 0.0));
  const Tensor x = randn({4, 6}, 3);
  EXPECT_LE(test::relative_error(linear(x.t(), w, b), linear(x.t().alias(), detach(w), detach(b))), 0);
}

TEST(Linear, ErrorsNameShapesAndDtypes) {
  EXPECT_EQ(message_of<ShapeError>([] {
              linear(zeros({128, 784}), zeros({512, 128}));
            }),
            "[linear] weight must have shape [N, 784] to take x of shape [128, 784] but has [512, 128]");
  EXPECT_EQ(message_of<ShapeError>([] {
              linear(zeros({2, 4}), zeros({3, 4}), zeros({4}));
            }),
            "[linear] bias must have shape [N]=[3] but has [4]");
  EXPECT_EQ(message_of<DtypeError>([] {
              linear(zeros({2, 4}), zeros({3, 4}, Dtype::f64));
            }),
            "[linear] x and weight must have one floating dtype but have f32 and f64");
#if !defined(WEFT_CUDA)
  kernels::LinearForward args{};
  EXPECT_EQ(message_of<DeviceError>([&] {
              kernels::linear_forward(Device{DeviceKind::cuda, 0}, args);
            }),
            "[linear] built without cuda");
#endif
}

// weft's own tile kernel must agree with oneDNN's, where that is built in, for every combination of options.
TEST(Gemm, OwnKernelAgreesWithTheLibrary) {
  const Tensor a = randn({37, 65}, 1), b = randn({65, 50}, 2), bias = randn({50}, 3), start = randn({37, 50}, 4);
  for (int option = 0; option < 4; ++option) {
    kernels::Gemm args{Dtype::f32, 37, 50, 65, a.raw_data(), 65, 1, b.raw_data(), 50, 1, nullptr, 50};
    if (option == 1) args.bias = bias.raw_data();
    if (option == 2) args.epilogue = kernels::Epilogue::relu;
    if (option == 3) args.mode = Accumulate::add;
    const Tensor own = Tensor::from_vector(start.to_vector<float>(), {37, 50});
    const Tensor library = Tensor::from_vector(start.to_vector<float>(), {37, 50});
    args.c = own.raw_data();
    kernels::detail::gemm_tile_own(args);
    args.c = library.raw_data();
    if (!kernels::detail::gemm_tile_onednn(args)) GTEST_SKIP() << "built without oneDNN";
    EXPECT_LE(test::relative_error(own, library), tolerance(Dtype::f32, 65)) << option;
  }
}

}  // namespace
}  // namespace weft
