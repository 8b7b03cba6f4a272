// What the options of cross_entropy mean, on every device: numbers from PyTorch, denominators, rows that do not count,
// bad labels, infinities.
#include <cmath>
#include <functional>
#include <limits>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/cross_entropy.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "nn/loss.h"
#include "support/gpu.h"
#include "tensor/status.h"

namespace weft {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

class CrossEntropyOptionsOn : public GpuTest {
 protected:
  Tensor here(const Tensor& x) const { return x.defined() ? on(device(), x) : x; }
  Tensor labels(const std::vector<std::int64_t>& y) const {
    return here(Tensor::from_vector(y, {static_cast<std::int64_t>(y.size())}));
  }
  Tensor numbers(const std::vector<double>& x, const Shape& shape, Dtype dtype = Dtype::f64) const {
    return here(cast(Tensor::from_vector(x, shape), dtype));
  }
  struct Result {
    double sum, denominator;
    std::vector<double> gradient;
  };
  Result run(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options, double dsum = 1) const {
    const Tensor x = set_requires_grad(clone(logits));
    const Loss loss = cross_entropy(x, targets, options);
    backward(loss.sum * dsum);
    return {back(loss.sum.alias()).item<double>(), back(loss.denominator).item<double>(), values(back(grad(x)))};
  }
};
#if defined(WEFT_CUDA)
const std::vector<DeviceKind> kDevices = {DeviceKind::cpu, DeviceKind::simt, DeviceKind::cuda};
#else
const std::vector<DeviceKind> kDevices = {DeviceKind::cpu, DeviceKind::simt};
#endif
INSTANTIATE_TEST_SUITE_P(Devices, CrossEntropyOptionsOn, ::testing::ValuesIn(kDevices),
                         [](const auto& info) -> std::string {
                           return info.param == DeviceKind::cpu ? "cpu" : device_name(info);
                         });

// PyTorch 1.13, float64:
//   x = torch.tensor([[1, -2, .5, 3], [0, .25, -1, 2], [-3, 1.5, 2, 0], [.75, -.5, 1, -1.5], [2, 2, -2, .5]])
//   y = torch.tensor([3, 0, -100, 2, 1]); w = torch.tensor([1, .5, 2, .25])
//   p = torch.tensor([[.1, .2, .3, .4], [0, 0, 1, 0], [.25, .25, .25, .25], [.7, .1, .1, .1], [.5, .5, 0, 0]])
//   m = F.cross_entropy(x, y or p, weight=w or None, label_smoothing=...); m.backward(); x.grad[0], x.grad[3]
//   F.cross_entropy(..., reduction="sum")
TEST_P(CrossEntropyOptionsOn, EqualsPyTorch) {
  const std::vector<double> x = {1, -2, .5, 3, 0, .25, -1, 2, -3, 1.5, 2, 0, .75, -.5, 1, -1.5, 2, 2, -2, .5};
  const std::vector<double> p = {.1, .2, .3, .4, 0, 0, 1, 0, .25, .25, .25, .25, .7, .1, .1, .1, .5, .5, 0, 0};
  const struct {
    const char* name;
    bool probabilities, weight;
    double smoothing, mean, sum;
    std::vector<double> gradient_0, gradient_3;
  } rows[] = {
      {"labels",
       false,
       false,
       0,
       1.0125860368360997,
       4.050344147344399,
       {0.02763843759043481, 0.00137603678189592, 0.01676355978515287, -0.04577803415748358},
       {0.09342548291430033, 0.026766849003926778, -0.13003930537171204, 0.00984697345348496}},
      {"smoothing",
       false,
       false,
       0.1,
       1.1250860368360998,
       4.500344147344399,
       {0.02138843759043481, -0.00487396321810408, 0.01051355978515287, -0.02702803415748359},
       {0.08717548291430033, 0.02051684900392678, -0.11128930537171204, 0.0035969734534849595}},
      {"class weights",
       false,
       true,
       0,
       1.1278374088683611,
       4.229390283256354,
       {0.00737025002411595, 0.00036694314183891, 0.0044702826093741, -0.01220747577532895},
       {0.1993076968838407, 0.057102611208377126, -0.27741718479298566, 0.021006876700767913}},
      {"class weights and smoothing",
       false,
       true,
       0.1,
       1.2554789383318017,
       4.708046018744256,
       {0.00273040211408117, -0.00286548082748872, -0.00763372300638136, 0.00776880171978892},
       {0.18205280882022, 0.05073570165459876, -0.2510127301841916, 0.018224219709372953}},
      {"probabilities",
       true,
       false,
       0,
       2.0018323679427765,
       10.009161839713883,
       {0.00211075007234784, -0.03889917057448327, -0.0465891521718777, 0.08337757267401313},
       {-0.06525961366855972, 0.0014134792031414195, 0.07596855570263038, -0.012122421237212036}},
      {"probabilities, class weights and smoothing",
       true,
       true,
       0.2,
       2.4535808516185034,
       12.267904258092518,
       {-0.00593449430934433, -0.02000099729634357, -0.10382965559597901, 0.1297651472016669},
       {-0.049688676224331534, 0.007717541129039326, 0.04084957764229489, 0.0011215574529973586}},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.name);
    const Tensor targets = row.probabilities ? numbers(p, {5, 4}) : labels({3, 0, -100, 2, 1});
    const Tensor weight = row.weight ? numbers({1, .5, 2, .25}, {4}) : Tensor();
    const Result got = run(numbers(x, {5, 4}), targets, {.weight = weight, .label_smoothing = row.smoothing});
    EXPECT_NEAR(got.sum, row.sum, 1e-14 * row.sum);
    EXPECT_NEAR(got.sum / got.denominator, row.mean, 1e-14 * row.mean);
    for (std::size_t v = 0; v < 4; ++v) {
      EXPECT_NEAR(got.gradient[v] / got.denominator, row.gradient_0[v], 4e-16);
      EXPECT_NEAR(got.gradient[12 + v] / got.denominator, row.gradient_3[v], 4e-16);
      if (!row.probabilities) { EXPECT_EQ(got.gradient[8 + v], 0.0); }
    }
    // The module says the same.
    const nn::CrossEntropyLoss loss{.weight = weight, .label_smoothing = row.smoothing};
    EXPECT_EQ(back(loss(numbers(x, {5, 4}), targets).sum).item<double>(), got.sum);
  }
}

TEST_P(CrossEntropyOptionsOn, DenominatorIsTheWeightOfTheRowsThatCount) {
  const Tensor x = here(randn({6, 3}, 1, Dtype::f64)), y = labels({0, 1, 2, -100, 1, 0});
  const Tensor weight = numbers({1, 0.5, 4}, {3}), tokens = numbers({1, 2, 0, 5, 0.25, 3}, {6}, Dtype::f32);
  const Tensor mask = here(cast(Tensor::from_vector(std::vector<double>{1, 1, 1, 1, 1, 0}, {6}), Dtype::boolean));
  EXPECT_EQ(run(x, y, {}).denominator, 5);
  EXPECT_EQ(run(x, y, {.label_smoothing = 0.3, .z_loss = 0.1}).denominator, 5);
  EXPECT_EQ(run(x, y, {.weight = weight}).denominator, 1 + 0.5 + 4 + 0.5 + 1);
  EXPECT_EQ(run(x, y, {.token_weights = tokens}).denominator, 1 + 2 + 0.25 + 3);
  EXPECT_EQ(run(x, y, {.mask = mask, .weight = weight, .token_weights = tokens}).denominator, 1 + 2 * 0.5 + 0.25 * 0.5);
  const Tensor p = here(full({6, 3}, 0.25, Dtype::f64));
  EXPECT_EQ(run(x, p, {}).denominator, 6);
  EXPECT_EQ(run(x, p, {.weight = weight}).denominator, 6);
  EXPECT_EQ(run(x, p, {.mask = mask, .weight = weight, .token_weights = tokens}).denominator, 1 + 2 + 5 + 0.25);
}

// A weight is a factor of the row; 0 is a row that is not there.
TEST_P(CrossEntropyOptionsOn, TokenWeightsScaleRows) {
  for (const std::int64_t classes : {5, 40, 1500})
    for (const bool soft : {false, true}) {
      SCOPED_TRACE(fmt::format("V={} soft={}", classes, soft));
      const Tensor x = here(randn({3, classes}, 1));
      const Tensor targets =
          soft ? here(rand({3, classes}, 2) * (2.0 / static_cast<double>(classes))) : labels({1, 4, 2});
      const CrossEntropyOptions options{.label_smoothing = 0.1, .z_loss = 1e-3};
      CrossEntropyOptions weighted = options;
      weighted.token_weights = numbers({0, 0.5, 2}, {3}, Dtype::f32);
      const Result got = run(x, targets, weighted);
      double sum = 0;
      for (const std::int64_t r : {1, 2}) {
        const Result alone = run(contiguous(x.slice(0, r, r + 1)), contiguous(targets.slice(0, r, r + 1)), options);
        const double factor = r == 1 ? 0.5 : 2;
        sum += factor * alone.sum;
        // A row that begins elsewhere is added up in another order.
        for (std::int64_t v = 0; v < classes; ++v) {
          const double want = factor * alone.gradient[static_cast<std::size_t>(v)];
          EXPECT_NEAR(got.gradient[static_cast<std::size_t>(r * classes + v)], want,
                      16 * 0x1p-24 * (std::fabs(want) + factor / static_cast<double>(classes)));
        }
      }
      EXPECT_NEAR(got.sum, sum, 16 * 0x1p-24 * sum);
      for (std::int64_t v = 0; v < classes; ++v) EXPECT_EQ(got.gradient[static_cast<std::size_t>(v)], 0.0);
    }
}

// Whatever stands in rows that do not count, nothing of it arrives; -100 is ignored whatever else is asked for.
TEST_P(CrossEntropyOptionsOn, RowsThatDoNotCountAreNotRead) {
  for (const std::int64_t classes : {3, 50, 1500})
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16})
      for (const bool soft : {false, true}) {
        SCOPED_TRACE(fmt::format("V={} {} soft={}", classes, to_string(dtype), soft));
        const Tensor base = randn({4, classes}, 3, dtype), p = rand({4, classes}, 4, dtype);
        for (const std::int64_t r : {0, 2, 3})
          for (std::int64_t v = 0; v < classes; ++v) {
            fill_(base[r].slice(0, v, v + 1), v % 3 == 0 ? kNaN : v % 3 == 1 ? kInfinity : -kInfinity);
            fill_(p[r].slice(0, v, v + 1), kNaN);
          }
        const Tensor mask = here(Tensor::from_vector(std::vector<std::uint8_t>{0, 1, 1, 0}, {4}));
        const CrossEntropyOptions options{.mask = mask,
                                          .weight = here(rand({classes}, 5)),
                                          .token_weights = numbers({1, 1.5, 0, kNaN}, {4}, Dtype::f32),
                                          .label_smoothing = 0.1,
                                          .z_loss = 1e-3};
        const Result got = run(here(base), soft ? here(p) : labels({1, 2, 1'000'000, -1}), options, -0.5);
        EXPECT_TRUE(std::isfinite(got.sum));
        EXPECT_GT(got.sum, 0);
        for (std::int64_t r = 0; r < 4; ++r)
          for (std::int64_t v = 0; v < classes; ++v) {
            const double gradient = got.gradient[static_cast<std::size_t>(r * classes + v)];
            EXPECT_EQ(r != 1, gradient == 0.0) << r << " " << v;
            EXPECT_TRUE(std::isfinite(gradient));
          }
        CrossEntropyOptions nothing = options;
        nothing.mask = here(zeros({4}, Dtype::u8));
        const Result none = run(here(base), soft ? here(p) : labels({7'000, -7, -100, 3}), nothing);
        EXPECT_EQ(none.sum, 0);
        EXPECT_EQ(none.denominator, 0);
        for (const double g : none.gradient) EXPECT_EQ(g, 0.0);
      }
}

// A class without weight leaves nothing of its rows, unless smoothing or z-loss do.
TEST_P(CrossEntropyOptionsOn, ClassesWithoutWeight) {
  const Tensor x = here(full({2, 4}, kNaN)), weight = numbers({1, 0, 1, 1}, {4});
  const Result nothing = run(x, labels({1, 1}), {.weight = weight});
  EXPECT_EQ(nothing.sum, 0);
  EXPECT_EQ(nothing.denominator, 0);
  EXPECT_EQ(nothing.gradient, std::vector<double>(8, 0.0));
  EXPECT_TRUE(std::isnan(run(x, labels({1, 1}), {.weight = weight, .label_smoothing = 0.1}).sum));
  EXPECT_TRUE(std::isnan(run(x, labels({1, 1}), {.weight = weight, .z_loss = 0.1}).sum));
  // One that is ruled out by -inf and has no weight adds nothing to the smoothed loss either.
  const Tensor ruled_out = numbers({1, -kInfinity, 1, 1}, {1, 4});
  EXPECT_NEAR(run(ruled_out, labels({0}), {.weight = weight, .label_smoothing = 0.4}).sum, 0.9 * std::log(3.0), 1e-14);
  EXPECT_NEAR(run(ruled_out, labels({1}), {.weight = weight, .label_smoothing = 0.4}).sum, 0.3 * std::log(3.0), 1e-14);
}

TEST_P(CrossEntropyOptionsOn, BadLabels) {
  const std::int64_t rows = 9;
  for (const std::int64_t classes : {4, 40, 1500}) {
    const Tensor x = here(randn({rows, classes}, 1)), weight = here(ones({classes})), tokens = here(ones({rows}));
    const CrossEntropyOptions all[] = {
        {},
        {.weight = weight},
        {.token_weights = tokens},
        {.label_smoothing = 0.1},
        {.z_loss = 1e-3},
        {.weight = weight, .token_weights = tokens, .label_smoothing = 0.1, .z_loss = 1e-3}};
    for (const CrossEntropyOptions& options : all)
      for (const std::int64_t bad : {std::int64_t{-1}, classes, std::int64_t{-100'000}, std::int64_t{1} << 40}) {
        std::vector<std::int64_t> y(static_cast<std::size_t>(rows), 2);
        y[1] = -100;
        y[5] = bad;
        y[7] = classes + 1;
        const auto message = message_of<Error>([&] {
          cross_entropy(x, labels(y), options);
          check_status(device());  // on cpu and simt it has been thrown before
        });
        EXPECT_EQ(message.find(fmt::format("[cross_entropy] target {} at row 5 is outside [0, {})", bad, classes)), 0U)
            << message;
        check_status(device());  // cleared
        y[5] = y[7] = -100;
        EXPECT_EQ(run(x, labels(y), options).denominator, 6);
        y[5] = y[7] = -1;  // now the ignored label; and -100 is a bad one
        CrossEntropyOptions other = options;
        other.ignore_index = -1;
        EXPECT_NE(message_of<Error>([&] {
                    cross_entropy(x, labels(y), other);
                    check_status(device());
                  }).find("target -100 at row 1 is outside"),
                  std::string::npos);
      }
  }
}

TEST_P(CrossEntropyOptionsOn, InfiniteLogits) {
  for (const std::int64_t classes : {6, 60, 1500})
    for (const bool soft : {false, true}) {
      SCOPED_TRACE(fmt::format("V={} soft={}", classes, soft));
      const auto with = [&](double value, double smoothing, double at_value) {
        const Tensor x = zeros({1, classes});
        fill_(x[0].slice(0, 2, 3), value);
        const Tensor p = zeros({1, classes});
        fill_(p[0].slice(0, 0, 1), 1 - at_value);
        fill_(p[0].slice(0, 2, 3), at_value);
        return run(here(x), soft ? here(p) : labels({at_value == 1 ? 2 : 0}),
                   {.label_smoothing = smoothing, .z_loss = 1e-3});
      };
      // A class that is ruled out, without a part of the target: as if it were not there.
      const double log_sum = std::log(static_cast<double>(classes - 1));
      const Result ruled_out = with(-kInfinity, 0, 0);
      EXPECT_NEAR(ruled_out.sum, log_sum + 1e-3 * log_sum * log_sum, 1e-5);
      EXPECT_EQ(ruled_out.gradient[2], 0.0);
      // With a part of it: an infinite loss, and a gradient that says where to go.
      for (const auto& [smoothing, at_value] : {std::pair(0.1, 0.0), std::pair(0.0, 1.0)}) {
        const Result wrong = with(-kInfinity, smoothing, at_value);
        EXPECT_EQ(wrong.sum, kInfinity);
        EXPECT_LT(wrong.gradient[2], 0.0);
        EXPECT_TRUE(std::isfinite(wrong.gradient[0]));
      }
      for (const double bad : {kInfinity, kNaN})
        for (const double smoothing : {0.0, 0.1}) {
          const Result result = with(bad, smoothing, 0);
          EXPECT_TRUE(std::isnan(result.sum));
          EXPECT_TRUE(std::isnan(result.gradient[0]));
        }
    }
}

// One class: nothing to learn but the size of the logit.
TEST_P(CrossEntropyOptionsOn, OneClass) {
  const Result got =
      run(numbers({3, -1e4}, {2, 1}, Dtype::f32), labels({0, 0}), {.label_smoothing = 0.1, .z_loss = 0.5});
  EXPECT_EQ(got.sum, 0.5 * (9 + 1e8));
  EXPECT_EQ(got.gradient, (std::vector<double>{3, -1e4}));
  EXPECT_EQ(run(numbers({3}, {1, 1}), numbers({0.25}, {1, 1}), {}).sum, 0);
}

TEST_P(CrossEntropyOptionsOn, Errors) {
  const Tensor x = here(randn({8, 5}, 1)), y = labels({0, 1, 2, 3, 4, 0, 1, 2});
  const auto error = [&](const Tensor& targets, const CrossEntropyOptions& options) {
    return message_of<Error>([&] { cross_entropy(x, targets, options); });
  };
  EXPECT_EQ(error(y, {.weight = here(ones({4}))}), "[cross_entropy] weight must have shape [V]=[5] but has [4]");
  EXPECT_EQ(error(y, {.weight = here(ones({5}, Dtype::i64))}),
            "[cross_entropy] weight must be f64, f32, f16 or bf16 but is i64");
  EXPECT_EQ(error(y, {.token_weights = here(ones({5}))}),
            "[cross_entropy] token_weights must have shape [8] like targets but has [5]");
  EXPECT_EQ(error(y, {.token_weights = here(ones({8}, Dtype::u8))}),
            "[cross_entropy] token_weights must be f64, f32, f16 or bf16 but is u8");
  EXPECT_EQ(error(y, {.label_smoothing = 1.5}), "[cross_entropy] label_smoothing must be in [0, 1] but is 1.5");
  EXPECT_EQ(error(y, {.label_smoothing = kNaN}), "[cross_entropy] label_smoothing must be in [0, 1] but is nan");
  EXPECT_EQ(error(y, {.z_loss = -1}), "[cross_entropy] z_loss must be finite and >= 0 but is -1");
  EXPECT_EQ(error(here(ones({8})), {}),
            "[cross_entropy] probabilities must have shape [8, 5] like logits but have [8]");
  EXPECT_EQ(error(here(ones({8, 5}, Dtype::f64)), {}),
            "[cross_entropy] probabilities must be f32 like logits but are f64: cast them");
  EXPECT_EQ(error(set_requires_grad(here(ones({8, 5}))), {}),
            "[cross_entropy] no gradient is computed for probabilities, but targets require one: alias() them");
}

}  // namespace
}  // namespace weft
