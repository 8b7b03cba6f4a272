// What the cases cannot say of the losses over elements: numbers from PyTorch, denominators, infinities, errors, and the
// kernel itself on memory that is misaligned or shared.
#include <cmath>
#include <functional>
#include <limits>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/pointwise_loss.h"
#include "kernels/pointwise_loss.h"
#include "nn/loss.h"
#include "support/gpu.h"

namespace weft {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)
using kernels::PointwiseLossOp;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

class PointwiseLossOn : public GpuTest {
 protected:
  Tensor here(const Tensor& x) const { return x.defined() ? on(device(), x) : x; }
  Tensor numbers(const std::vector<double>& x, const Shape& shape, Dtype dtype = Dtype::f64) const {
    return here(cast(Tensor::from_vector(x, shape), dtype));
  }
  Tensor row(const std::vector<double>& x) const { return numbers(x, {static_cast<std::int64_t>(x.size())}); }
};
#if defined(WEFT_CUDA)
const std::vector<DeviceKind> kDevices = {DeviceKind::cpu, DeviceKind::simt, DeviceKind::cuda};
#else
const std::vector<DeviceKind> kDevices = {DeviceKind::cpu, DeviceKind::simt};
#endif
INSTANTIATE_TEST_SUITE_P(Devices, PointwiseLossOn, ::testing::ValuesIn(kDevices), [](const auto& info) -> std::string {
  return info.param == DeviceKind::cpu ? "cpu" : device_name(info);
});

void expect_near(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 4e-16 * (1 + std::fabs(want[i]))) << i;
}

// PyTorch 1.13, float64:
//   i = torch.tensor([-1.5, 0, .5, 2, -40, 8]); q = torch.tensor([0, 1, .25, 1, 1, .5])
//   s = F.mse_loss(i, q, reduction="sum"); s.backward(); i.grad, q.grad
//   huber_loss(delta=.75), smooth_l1_loss(beta=.5), binary_cross_entropy_with_logits(), the same with
//   weight=torch.tensor([1, .5, 2, 0, 1, .25]), pos_weight=torch.tensor(3.)
TEST_P(PointwiseLossOn, EqualsPyTorch) {
  const std::vector<double> input = {-1.5, 0, .5, 2, -40, 8}, target = {0, 1, .25, 1, 1, .5};
  const Tensor weight = row({1, .5, 2, 0, 1, .25}), pos_weight = here(scalar(3, Dtype::f64));
  using Tensors = const Tensor&;
  const struct {
    const char* name;
    std::function<Loss(Tensors, Tensors)> loss;
    double sum;
    std::vector<double> dinput, dtarget;
  } rows[] = {
      {"mse", nn::MSELoss{}, 1741.5625, {-3, -2, .5, 2, -82, 15}, {3, 2, -.5, -2, 82, -15}},
      {"l1", nn::L1Loss{}, 52.25, {-1, -1, 1, 1, -1, 1}, {1, 1, -1, -1, 1, -1}},
      {"huber",
       nn::HuberLoss{.delta = .75},
       37.625,
       {-.75, -.75, .25, .75, -.75, .75},
       {.75, .75, -.25, -.75, .75, -.75}},
      {"smooth l1", nn::SmoothL1Loss{.beta = .5}, 50.8125, {-1, -1, .5, 1, -1, 1}, {1, 1, -.5, -1, 1, -1}},
      {"bce",
       nn::BCEWithLogitsLoss{},
       45.870900860138676,
       {0.18242552380635635, -0.5, 0.3724593312018546, -0.11920292202211769, -1.0, 0.49966464986953363},
       {1.5, 0, -.5, -2, 40, -8}},
      {"bce, weighted",
       nn::BCEWithLogitsLoss{.weight = weight, .pos_weight = pos_weight},
       124.41353270454944,
       {0.18242552380635635, -0.75, 0.3673779936055639, 0, -3, 0.12483232493476681},
       {4.902826555965506, 0.6931471805599452, 0.8963079367204267, 0, 120, -1.9998322968135522}},
  };
  for (const auto& expected : rows) {
    SCOPED_TRACE(expected.name);
    const Tensor x = set_requires_grad(row(input)), y = set_requires_grad(row(target));
    const Loss loss = expected.loss(x, y);
    EXPECT_NEAR(back(loss.sum.alias()).item<double>(), expected.sum, 4e-16 * expected.sum);
    backward(loss.sum);
    expect_near(values(back(grad(x))), expected.dinput);
    expect_near(values(back(grad(y))), expected.dtarget);
  }
}

TEST_P(PointwiseLossOn, DenominatorIsTheWeightOfTheElementsThatCount) {
  const Tensor x = here(randn({2, 3}, 1, Dtype::f64)), y = here(randn({2, 3}, 2, Dtype::f64));
  const auto denominator = [&](const Tensor& weight, const Tensor& mask) {
    return back(mse_loss(x, y, {.weight = weight, .mask = mask}).denominator).item<double>();
  };
  const Tensor none, mask = here(Tensor::from_vector(std::vector<bool>{true, false, true}, {3}));
  EXPECT_EQ(denominator(none, none), 6);
  EXPECT_EQ(denominator(none, mask), 4);
  EXPECT_EQ(denominator(numbers({2, 0.5}, {2, 1}), none), 7.5);
  EXPECT_EQ(denominator(numbers({2, 0.5}, {2, 1}), mask), 5);
  EXPECT_EQ(denominator(numbers({0}, {1}), none), 0);
  EXPECT_EQ(back(mse_loss(x, y).mean()).item<double>(), back(mse_loss(x, y).sum).item<double>() / 6);
  const Tensor empty = here(zeros({0, 3}));
  EXPECT_EQ(back(mse_loss(empty, empty).denominator).item<double>(), 0);
  EXPECT_EQ(back(mse_loss(empty, empty).sum).item<double>(), 0);
}

// Whatever stands in elements that do not count, nothing of it arrives, at any upstream gradient.
TEST_P(PointwiseLossOn, ElementsThatDoNotCount) {
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16})
    for (const auto& loss : {mse_loss, l1_loss}) {
      const Tensor x = set_requires_grad(numbers({kNaN, 1, kInfinity, 3, -kInfinity, 2}, {6}, dtype));
      const Tensor y = set_requires_grad(numbers({1, kNaN, kInfinity, 1, 0, kNaN}, {6}, dtype));
      const Tensor mask = here(Tensor::from_vector(std::vector<std::uint8_t>{1, 0, 0, 1, 0, 1}, {6}));
      const Loss masked = loss(x, y, {.weight = numbers({0, 1, 1, 0.5, 1, 0}, {6}, dtype), .mask = mask});
      EXPECT_EQ(back(masked.sum.alias()).item<double>(), loss == &mse_loss ? 2 : 1);
      EXPECT_EQ(back(masked.denominator).item<double>(), 0.5);
      backward(masked.sum * 2.0);
      const double slope = loss == &mse_loss ? 4 : 1;
      EXPECT_EQ(values(back(grad(x))), (std::vector<double>{0, 0, 0, slope, 0, 0}));
      EXPECT_EQ(values(back(grad(y))), (std::vector<double>{0, 0, 0, -slope, 0, 0}));
    }
}

TEST_P(PointwiseLossOn, CornersAndInfinities) {
  const auto run = [&](auto loss, double input, double target) {
    const Tensor x = set_requires_grad(row({input}));
    const Loss result = loss(x, row({target}));
    backward(result.sum);
    return std::pair(back(result.sum.alias()).item<double>(), back(grad(x)).item<double>());
  };
  EXPECT_EQ(run(nn::L1Loss{}, 2, 2), std::pair(0.0, 0.0));
  EXPECT_EQ(run(nn::HuberLoss{}, 3, 2), std::pair(0.5, 1.0));  // on the corner
  EXPECT_EQ(run(nn::SmoothL1Loss{}, 3, 2), std::pair(0.5, 1.0));
  EXPECT_EQ(run(nn::SmoothL1Loss{.beta = 0}, 2, 2), std::pair(0.0, 0.0));
  EXPECT_EQ(run(nn::SmoothL1Loss{.beta = 0}, 2, 5), std::pair(3.0, -1.0));
  EXPECT_EQ(run(nn::HuberLoss{}, kInfinity, 2), std::pair(kInfinity, 1.0));
  EXPECT_TRUE(std::isnan(run(nn::MSELoss{}, kInfinity, kInfinity).first));
  for (const double target : {0.0, kNaN}) {
    EXPECT_TRUE(std::isnan(run(nn::L1Loss{}, kNaN, target).second));
    EXPECT_TRUE(std::isnan(run(nn::HuberLoss{}, kNaN, target).first));
  }
  // Certain and right: nothing; certain and wrong: as much as the logit says, and no overflow on the way.
  const nn::BCEWithLogitsLoss bce;
  for (const double x : {1e4, kInfinity}) {
    EXPECT_EQ(run(bce, x, 1), std::pair(0.0, 0.0));
    EXPECT_EQ(run(bce, -x, 0), std::pair(0.0, 0.0));
    EXPECT_EQ(run(bce, x, 0), std::pair(x, 1.0));
    EXPECT_EQ(run(bce, -x, 1), std::pair(x, -1.0));
  }
  // A gradient far out does not cancel to 0.
  EXPECT_NEAR(run(bce, -40, 0).second, std::exp(-40.0), 1e-15 * std::exp(-40.0));
  EXPECT_NEAR(run(bce, 40, 1).second, -std::exp(-40.0), 1e-15 * std::exp(-40.0));
  EXPECT_NEAR(run(bce, -40, 0).first, std::exp(-40.0), 1e-15 * std::exp(-40.0));
  EXPECT_TRUE(std::isnan(run(bce, kNaN, 0).first));
}

TEST_P(PointwiseLossOn, MicroBatchesAddUpInAWindow) {
  const Tensor x = set_requires_grad(here(randn({10, 6}, 1))), y = here(randn({10, 6}, 2));
  Window whole, parts;
  whole.backward(huber_loss(x, y));
  const Tensor expected = clone(grad(x));
  zero_grad(x);
  for (const auto& [begin, end] : {std::pair(0, 3), std::pair(3, 4), std::pair(4, 10)})
    parts.backward(huber_loss(x.slice(0, begin, end), y.slice(0, begin, end)));
  EXPECT_EQ(back(parts.denominator()).item<double>(), 60);
  EXPECT_NEAR(back(parts.sum()).item<double>(), back(whole.sum()).item<double>(), 1e-12);
  EXPECT_TRUE(bitwise_equal(back(grad(x)), back(expected)));
}

// A second backward pass finds the gradients that the first one handed over as they were.
TEST_P(PointwiseLossOn, SavedGradientsStay) {
  const Tensor x = set_requires_grad(here(randn({50}, 1)));
  const Loss loss = mse_loss(x, here(randn({50}, 2)));
  backward(loss.sum, {}, {.retain_graph = true});
  const Tensor once = clone(grad(x));
  backward(loss.sum, {}, {.retain_graph = true});
  EXPECT_TRUE(bitwise_equal(back(grad(x)), back(once + once)));
}

// The kernel: addresses off the vectors' grid, gradients in place of input and target, nothing written beside them.
TEST_P(PointwiseLossOn, MisalignedAndInPlace) {
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16})
    for (const std::int64_t count : {0, 1, 7, 8, 9, 255, 1200, 4099})
      for (const std::int64_t offset : {0, 1})
        for (const bool in_place : {false, true}) {
          SCOPED_TRACE(fmt::format("{} count={} offset={} {}", to_string(dtype), count, offset, in_place));
          const auto inner = [&](const Tensor& x) { return x.slice(0, offset, offset + count); };
          const Tensor x = randn({offset + count + 1}, 1, dtype), y = randn({offset + count + 1}, 2, dtype);
          const Tensor mask = here(cast(rand({count}, 3) * 2.0, Dtype::u8));
          const Tensor input = on(device(), x), target = on(device(), y);
          const Tensor dinput = in_place ? input : on(device(), x), dtarget = in_place ? target : on(device(), y);
          const Tensor sums = here(full({2}, kNaN, Dtype::f64));
          const Tensor partials = here(zeros({kernels::pointwise_loss_partials(device(), count)}, Dtype::f64));
          const Tensor want_x = set_requires_grad(clone(inner(x))), want_y = set_requires_grad(clone(inner(y)));
          const Loss want = mse_loss(want_x, want_y, {.mask = back(mask)});
          backward(want.sum);
          kernels::pointwise_loss(device(), {.op = PointwiseLossOp::squared,
                                             .dtype = dtype,
                                             .count = count,
                                             .parameter = 0,
                                             .input = inner(input).raw_data(),
                                             .target = inner(target).raw_data(),
                                             .weight = {},
                                             .mask = {mask.raw_data(), 1, count},
                                             .pos_weight = {},
                                             .dinput = inner(dinput).raw_data(),
                                             .dtarget = inner(dtarget).raw_data(),
                                             .sum = sums.data<double>(),
                                             .denominator = sums.data<double>() + 1,
                                             .partials = partials.data<double>()});
          const std::vector<double> got = values(back(sums));
          EXPECT_NEAR(got[0], want.sum.item<double>(), 1e-12 * static_cast<double>(count));
          EXPECT_EQ(got[1], want.denominator.item<double>());
          const Tensor all_dx = back(dinput), all_dy = back(dtarget);
          EXPECT_TRUE(bitwise_equal(clone(inner(all_dx)), grad(want_x)));
          EXPECT_TRUE(bitwise_equal(clone(inner(all_dy)), grad(want_y)));
          for (const auto& [got_all, before] : {std::pair(all_dx, x), std::pair(all_dy, y)}) {
            EXPECT_TRUE(bitwise_equal(clone(got_all.slice(0, 0, offset)), clone(before.slice(0, 0, offset))));
            EXPECT_TRUE(bitwise_equal(clone(got_all.slice(0, offset + count, offset + count + 1)),
                                      clone(before.slice(0, offset + count, offset + count + 1))));
          }
        }
}

// More elements than the grid takes at once, and more blocks than the last launch has threads. Misaligned: one element
// per thread makes blocks of the fewest.
TEST_P(PointwiseLossOn, MoreThanOneRoundOfTheGrid) {
  const std::int64_t count = kernels::kPointwiseLossBlocks * 512 + 1000;
  const Tensor x = here(arange(count + 1, Dtype::f32)).slice(0, 1, count + 1);
  const Tensor sums = here(full({2}, kNaN, Dtype::f64));
  const Tensor partials = here(zeros({kernels::pointwise_loss_partials(device(), count)}, Dtype::f64));
  const Tensor target = here(zeros({count + 1})).slice(0, 1, count + 1);
  kernels::pointwise_loss(device(), {.op = PointwiseLossOp::absolute,
                                     .dtype = Dtype::f32,
                                     .count = count,
                                     .parameter = 0,
                                     .input = x.raw_data(),
                                     .target = target.raw_data(),
                                     .weight = {},
                                     .mask = {},
                                     .pos_weight = {},
                                     .dinput = nullptr,
                                     .dtarget = nullptr,
                                     .sum = sums.data<double>(),
                                     .denominator = sums.data<double>() + 1,
                                     .partials = partials.data<double>()});
  const auto n = static_cast<double>(count);
  EXPECT_EQ(values(back(sums)), (std::vector<double>{n * (n + 1) / 2, n}));
}

TEST_P(PointwiseLossOn, Errors) {
  const Tensor x = here(randn({8, 4}, 1));
  EXPECT_EQ(message_of<ShapeError>([&] { mse_loss(x, here(zeros({8}))); }),
            "[mse_loss] target must have shape [8, 4] like input but has [8]");
  EXPECT_EQ(message_of<DtypeError>([&] {
              l1_loss(x, here(zeros({8, 4}, Dtype::f64)));
            }),
            "[l1_loss] target must be f32 like input but is f64: cast it");
  EXPECT_EQ(message_of<DtypeError>([&] { l1_loss(here(zeros({2}, Dtype::i64)), here(zeros({2}, Dtype::i64))); }),
            "[l1_loss] input must be f64, f32, f16 or bf16 but is i64");
  EXPECT_EQ(message_of<ShapeError>([&] { mse_loss(x, x, {.weight = here(ones({3}))}); }),
            "[mse_loss] weight of shape [3] does not broadcast to [8, 4]");
  EXPECT_EQ(message_of<ShapeError>([&] {
              mse_loss(x, x, {.weight = here(ones({1, 8, 4}))});
            }),
            "[mse_loss] weight of shape [1, 8, 4] does not broadcast to [8, 4]");
  EXPECT_EQ(message_of<DtypeError>([&] { mse_loss(x, x, {.weight = here(ones({4}, Dtype::bf16))}); }),
            "[mse_loss] weight must be f32 like input but is bf16: cast it");
  EXPECT_EQ(message_of<DtypeError>([&] { mse_loss(x, x, {.mask = here(ones({4}))}); }),
            "[mse_loss] mask must be bool or u8 but is f32");
  EXPECT_EQ(message_of<ShapeError>([&] { binary_cross_entropy_with_logits(x, x, {.pos_weight = here(ones({8}))}); }),
            "[binary_cross_entropy_with_logits] pos_weight of shape [8] does not broadcast to [8, 4]");
  EXPECT_EQ(message_of<OptionError>([&] { huber_loss(x, x, 0); }), "[huber_loss] delta must be positive but is 0");
  EXPECT_EQ(message_of<OptionError>([&] { smooth_l1_loss(x, x, -1); }),
            "[smooth_l1_loss] beta must not be negative but is -1");
}

}  // namespace
}  // namespace weft
