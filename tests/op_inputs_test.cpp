// Inputs and bugs that have broken other libraries. Where each is tested:
//
//   empty tensors, extents of 1          OpCases (kinds empty and one of every operation); here: every layer
//   misaligned and strided views         Op, check "layouts"; *GpuTest AnyBase, RowsThatBeginAnywhere, MisalignedAndInPlace
//   cross-entropy, nothing counts        CrossEntropy.NothingCounts, CrossEntropyGpu.NoRowsAndNoneThatCounts
//   labels -100, -1, >= C                CrossEntropy.BadLabelsAreNamedAndChangeNothing, IgnoreIndexMayBeAClass,
//                                        CrossEntropyOptionsOn.BadLabels
//   logits of ±1e4, ±inf, NaN            CrossEntropy.LargeLogits, NonFiniteLogits (cpu and Gpu), softmax SpecialValues
//   BatchNorm of one element             BatchNorm.OneRowIsRefusedBeforeAnythingChanges; here: on every device
//   constant channel                     ConstantRowsGiveBeta, ConstantColumnsGiveBeta, ConstantGroupsGiveBeta...
//   huge mean                            HugeMean of the norms; OpCases (kind huge_mean)
//   C = 1, no multiple of 4 or 32,       OddSizesWithALargeMean, WideRows, RowsOfEveryLength; here: every operation over
//   above 8192                           channels
//   groups that do not divide            GroupNorm.Errors
//   AdamW: beta = 1, eps = 0, decay      Optimizer.RefusesWhatCannotBeUsed, EveryOptionCounts; here: first step, lr = 0
//   gradients of inf                     Optimizer.SkipsGradientsThatAreNotFinite; here: on every device
//   2^31 elements                        LayerNorm.MoreThanTwoToThe31Elements; here: offsets, element-wise
//
//   bugs of other libraries' LayerNorm and test harnesses
//    1 padded lanes enter the variance   LayerNorm(Gpu).OddSizesWithALargeMean
//    2 backward assumes two dimensions   LayerNorm.RanksOneToFour
//    3 scratch sized by the last axis    LayerNorm.NormalizedShapeIsTheFlattenedRow, ManyRows
//    4 gradients of absent parameters    LayerNorm(Gpu).GammaAndBetaCombinations, FrozenInputOrParameters
//    5 gradient written over its source  LayerNorm.GradientMayOverwriteItsSource, LayerNormGpu.InPlace; here: 100 times
//    6 dgamma summed in 16 bits          LayerNorm(Gpu).ManyRows
//    7 stale right answers               memory of the emulator and of Op's checks is NaN before each run
//    8 a tolerance that proves nothing   LayerNorm.TheComparisonNoticesSmallErrors; tests/mutants
//    9 `diff > tolerance` passes NaN     support/compare.h; TheComparisonNoticesSmallErrors
//   10 guard off by one                  Guarded memory and the emulator's fences; tests/mutants
//   11 32-bit index overflow             as 2^31 elements
//   12 no rows, a grid of 0              LayerNorm(Gpu).NoRows; here: every layer
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <sys/mman.h>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "autograd/batch_norm.h"
#include "autograd/cast.h"
#include "autograd/cross_entropy.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/group_norm.h"
#include "autograd/index.h"
#include "autograd/layer_norm.h"
#include "autograd/layout.h"
#include "autograd/matmul.h"
#include "autograd/reduce.h"
#include "autograd/rms_norm.h"
#include "autograd/softmax.h"
#include "kernels/layer_norm.h"
#include "nn/activation.h"
#include "nn/batch_norm.h"
#include "nn/embedding.h"
#include "nn/group_norm.h"
#include "nn/layer_norm.h"
#include "nn/linear.h"
#include "nn/rms_norm.h"
#include "nn/sequential.h"
#include "nn/softmax.h"
#include "optim/adamw.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/guarded.h"

namespace weft {
namespace {

using test::back;
using test::bitwise_equal;
using test::DeviceTest;
using test::message_of;
using test::relative_error;
using test::values;

class OpInputsOn : public DeviceTest {};

struct Layer {
  std::string name;
  nn::Sequential module;
};
// Every layer that takes floats, for inputs [B, C, T] of C channels; over the last axis where there is one.
std::vector<Layer> layers(std::int64_t channels, std::int64_t length, Device device) {
  std::vector<Layer> all;
  const auto add = [&](const char* name, auto module) { all.push_back({name, nn::Sequential{std::move(module)}}); };
  add("Linear", nn::Linear(length, 3));
  add("LayerNorm", nn::LayerNorm(length));
  add("LayerNorm over two axes", nn::LayerNorm(Shape{channels, length}));
  add("RmsNorm", nn::RmsNorm(length));
  add("GroupNorm", nn::GroupNorm(1, channels));
  add("Softmax", nn::Softmax{});
  add("Softmax over channels", nn::Softmax{1});
  add("LogSoftmax", nn::LogSoftmax{});
  add("ReLU", nn::ReLU{});
  add("LeakyReLU", nn::LeakyReLU{});
  add("GELU", nn::GELU{});
  add("SiLU", nn::SiLU{});
  add("Sigmoid", nn::Sigmoid{});
  add("Tanh", nn::Tanh{});
  add("Softplus", nn::Softplus{});
  add("Identity", nn::Identity{});
  add("Flatten", nn::Flatten{});
  for (Layer& layer : all) layer.module.to(device);
  return all;
}

TEST_P(OpInputsOn, EveryLayerTakesAnEmptyBatch) {
  const auto check = [&](Layer& layer, const Shape& shape) {
    SCOPED_TRACE(layer.name);
    const Tensor x = set_requires_grad(here(zeros(shape)));
    const Tensor y = layer.module(x);
    EXPECT_EQ(y.size(0), 0);
    backward(y, zeros_like(y));
    EXPECT_EQ(grad(x).shape().str(), shape.str());
    for (const auto& [name, parameter] : layer.module.named_parameters()) {
      if (!grad(parameter).defined()) continue;  // nothing was added
      EXPECT_EQ(values(back(grad(parameter))), std::vector<double>(static_cast<std::size_t>(parameter.numel()), 0.0))
          << name;
    }
  };
  for (Layer& layer : layers(4, 6, device())) check(layer, {0, 4, 6});
  Layer batch_norm{"BatchNorm1d", nn::Sequential{nn::BatchNorm1d(5)}};
  batch_norm.module.to(device());
  batch_norm.module.eval();
  check(batch_norm, {0, 5});
  nn::Embedding embedding(7, 3);
  nn::to(embedding, device());
  EXPECT_EQ(embedding(here(zeros({0, 4}, Dtype::i64))).shape().str(), "[0, 4, 3]");
}

TEST_P(OpInputsOn, EveryLayerTakesExtentsOfOne) {
  for (Layer& layer : layers(1, 1, device())) {
    SCOPED_TRACE(layer.name);
    const Tensor x = set_requires_grad(here(full({1, 1, 1}, 1.5)));
    const Tensor y = layer.module(x);
    backward(y, here(full(y.shape(), 2)));
    for (const double element : values(back(y.alias()))) EXPECT_TRUE(std::isfinite(element));
    EXPECT_TRUE(std::isfinite(values(back(grad(x)))[0]));
    // One element is its own mean.
    if (layer.name.starts_with("LayerNorm") || layer.name == "GroupNorm") {
      EXPECT_EQ(values(back(y.alias())), std::vector<double>{0});
      EXPECT_EQ(values(back(grad(x))), std::vector<double>{0});
    }
    if (layer.name.starts_with("Softmax")) { EXPECT_EQ(values(back(y.alias())), std::vector<double>{1}); }
  }
}

TEST_P(OpInputsOn, BatchNormOfOneElementIsRefused) {
  nn::BatchNorm1d module(3);
  nn::to(module, device());
  const std::string message = message_of<ShapeError>([&] { module(here(ones({1, 3}))); });
  EXPECT_NE(message.find("[batch_norm] training needs at least 2 rows per channel but the input has shape [1, 3]"),
            std::string::npos)
      << message;
  EXPECT_EQ(values(back(module.running_mean)), std::vector<double>(3, 0.0));
  EXPECT_EQ(values(back(module.running_var)), std::vector<double>(3, 1.0));
  module.mode = nn::Mode::eval;
  EXPECT_EQ(module(here(ones({1, 3}))).shape().str(), "[1, 3]");
}

// Each number of channels belongs to another path of a kernel: below a vector, ragged vectors, ragged warps, rows that do
// not fit into registers or a block.
TEST_P(OpInputsOn, AnyNumberOfChannels) {
  using Call = std::function<Tensor(const Tensor&)>;
  const std::pair<const char*, Call> calls[] = {
      {"layer_norm", [](const Tensor& x) { return layer_norm(x); }},
      {"rms_norm", [](const Tensor& x) { return rms_norm(x, {}, 1e-5); }},
      {"group_norm", [](const Tensor& x) { return group_norm(x, 1); }},
      {"instance_norm", [](const Tensor& x) { return group_norm(x.t().unsqueeze(0), x.size(1)); }},
      {"batch_norm", [](const Tensor& x) { return batch_norm(x); }},
      {"softmax", [](const Tensor& x) { return softmax(x); }},
      {"log_softmax", [](const Tensor& x) { return log_softmax(x, 0); }},
      {"sum", [](const Tensor& x) { return sum(x, 1); }},
      {"cross_entropy", [](const Tensor& x) {
         return cross_entropy(x, to(zeros({x.size(0)}, Dtype::i64), x.device()), {.label_smoothing = 0.1}).sum;
       }}};
  for (const std::int64_t channels : {1, 2, 3, 5, 31, 33, 63, 127, 1023, 8193})
    for (const auto& [name, call] : calls) {
      SCOPED_TRACE(fmt::format("{}, C={}", name, channels));
      const Tensor x = cast(randn({5, channels}, 7, Dtype::f64) + 3.0, Dtype::f32);
      const auto run = [&, &f = call](const Tensor& input) {  // a lambda of C++20 captures no binding by default
        const Tensor leaf = set_requires_grad(input.alias());
        const Tensor y = f(leaf);
        backward(y, to(cast(cast(randn(y.shape(), 8, Dtype::f64), Dtype::f32), y.dtype()), y.device()));
        return std::vector<Tensor>{back(y.alias()), back(grad(leaf))};
      };
      const std::vector<Tensor> got = run(here(x)), want = run(cast(x, Dtype::f64));
      // One element has the gradient 0, and what is left of it where eps is small is rounding alone.
      EXPECT_LE(relative_error(got[0], want[0]), 64 * test::rounding(Dtype::f32));
      double largest = 0;
      for (const double g : values(want[1])) largest = std::max(largest, std::fabs(g));
      EXPECT_LE(test::max_error(values(got[1]), values(want[1])), 256 * test::rounding(Dtype::f32) * (1 + largest));
    }
}

// Read and written in the same place, with the operands of every run where those of the last one were.
TEST_P(OpInputsOn, AGradientOverItsSourceIsTheSameAHundredTimes) {
  const std::int64_t rows = 7, channels = 65;
  const Tensor x = here(randn({rows, channels}, 1)), dy = randn({rows, channels}, 2);
  const Tensor y = here(zeros({rows, channels})), mean = here(zeros({rows})), rstd = here(zeros({rows}));
  kernels::layer_norm_forward(device(), {Dtype::f32, rows, channels, 1e-5, x.raw_data(), nullptr, nullptr, y.raw_data(),
                                         mean.raw_data(), rstd.raw_data()});
  const Tensor dgamma = here(zeros({channels})), dbeta = here(zeros({channels}));
  const Tensor partials = here(zeros({kernels::layer_norm_partials(rows, channels, device())}));
  const auto run = [&](const Tensor& source, const Tensor& dx) {
    kernels::layer_norm_backward(
        device(), {Dtype::f32, rows, channels, x.raw_data(), nullptr, source.raw_data(), mean.raw_data(),
                   rstd.raw_data(), dx.raw_data(), dgamma.raw_data(), dbeta.raw_data(), Accumulate::overwrite,
                   Accumulate::overwrite, partials.raw_data()});
    return std::vector<Tensor>{back(dx), back(dgamma), back(dbeta)};
  };
  const std::vector<Tensor> want = run(here(dy), here(full({rows, channels}, NAN)));
  for (int i = 0; i < 100; ++i) {
    const Tensor both = here(clone(dy));
    const std::vector<Tensor> got = run(both, both);
    for (std::size_t t = 0; t < got.size(); ++t) ASSERT_TRUE(bitwise_equal(got[t], want[t])) << i << " " << t;
  }
}

// A step of AdamW from m = v = 0 has the length lr whatever the gradient; with lr = 0 nothing moves, decay included.
TEST_P(OpInputsOn, AdamWAtItsEnds) {
  const auto step = [&](const optim::AdamWOptions& options, double gradient) {
    const Tensor p = set_requires_grad(here(full({5}, 1)));
    optim::AdamW adamw({p}, options);
    set_grad(p, here(full({5}, gradient)));
    adamw.step();
    return values(back(p.alias()));
  };
  for (const double gradient : {1e-6, 3.0, 1e6})
    for (const double element : step({.lr = 0.25, .eps = 0, .weight_decay = 0}, gradient))
      EXPECT_NEAR(element, 0.75, 4 * 0x1p-24) << gradient;
  EXPECT_EQ(step({.lr = 0, .weight_decay = 0.5}, 3), std::vector<double>(5, 1.0));
  // Without a gradient decay is all.
  EXPECT_EQ(step({.lr = 0.5, .weight_decay = 0.5}, 0), std::vector<double>(5, 0.75));
}

TEST_P(OpInputsOn, AnInfiniteGradientSkipsTheUpdate) {
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    const Tensor p = set_requires_grad(here(full({5}, 1))), q = set_requires_grad(here(full({3}, 2)));
    optim::AdamW adamw({p, q}, {.lr = 0.25});
    set_grad(p, here(full({5}, bad)));
    set_grad(q, here(full({3}, 1)));
    testing::internal::CaptureStderr();
    adamw.step();
    EXPECT_EQ(adamw.skipped(), 1);
    EXPECT_NE(testing::internal::GetCapturedStderr().find("is skipped"), std::string::npos);
    EXPECT_EQ(values(back(p.alias())), std::vector<double>(5, 1.0));
    EXPECT_EQ(values(back(q.alias())), std::vector<double>(3, 2.0));
  }
}

// A view moves between devices as its elements, and its gradient comes back.
TEST_P(OpInputsOn, AStridedTensorMoves) {
  const Tensor x = set_requires_grad(randn({3, 4}, 1));
  const Tensor moved = to(x.t(), device());
  EXPECT_EQ(values(back(moved.alias())), values(clone(x.alias().t())));
  EXPECT_EQ(values(to(moved.alias().t(), Device{})), values(x.alias()));
  backward(moved.t(), here(full({3, 4}, 2)));
  EXPECT_EQ(values(grad(x)), std::vector<double>(12, 2.0));
}

WEFT_DEVICE_SUITE(OpInputsOn);

// Views whose elements lie more than 2^31 elements apart, in memory that is reserved but hardly touched. On the cpu: the
// emulator's memory is filled.
TEST(OpInputs, OffsetsBeyondTwoToThe31) {
  constexpr std::int64_t kStep = (std::int64_t{1} << 30) + 64, kRows = 3, kColumns = 5;
  constexpr std::size_t kBytes = static_cast<std::size_t>(kRows * kStep) * sizeof(float);
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) GTEST_SKIP() << "12.9 GB of address space are not to be had";
  const Tensor all =
      Tensor::from_blob(static_cast<float*>(memory), {kRows, kStep}, [memory] { munmap(memory, kBytes); });
  const Tensor far = all.slice(1, 0, kColumns);
  const Tensor near = randn({kRows, kColumns}, 1), other = randn({kColumns, 4}, 2);
  copy_(far, near);
  EXPECT_EQ(all.data<float>()[2 * kStep + 4], near.data<float>()[2 * kColumns + 4]);
  EXPECT_TRUE(bitwise_equal(clone(far), near));
  EXPECT_TRUE(bitwise_equal(far + near, near + near));
  EXPECT_TRUE(bitwise_equal(mul(far.t(), near.t()), mul(near.t(), near.t())));
  EXPECT_TRUE(bitwise_equal(matmul(far, other), matmul(near, other)));
  EXPECT_TRUE(bitwise_equal(layer_norm(far), layer_norm(near)));
  EXPECT_TRUE(bitwise_equal(cast(far, Dtype::f64), cast(near, Dtype::f64)));
  const Tensor index = Tensor::from_vector(std::vector<std::int64_t>{2, 0, 2, 1, 2}, {1, kColumns});
  EXPECT_TRUE(bitwise_equal(gather(far, 0, index), gather(near, 0, index)));
  EXPECT_TRUE(bitwise_equal(sum(far, 0), sum(near, 0)));
}

TEST(OpInputs, MoreThanTwoToThe31Elements) {
  if (std::getenv("WEFT_BIG_TESTS") == nullptr) GTEST_SKIP() << "needs 4.3 GB: set WEFT_BIG_TESTS=1 to run it";
  const std::int64_t count = (std::int64_t{1} << 31) + 5;
  const Tensor x = zeros({count}, Dtype::u8);
  fill_(x.slice(0, count - 3, count - 1), 7);
  const Tensor other = ne(x, 0.0);
  EXPECT_EQ(values(other.slice(0, count - 5, count)), (std::vector<double>{0, 0, 1, 1, 0}));
  EXPECT_EQ(sum(x).item<std::int64_t>(), 14);
  EXPECT_EQ(argmax(x).item<std::int64_t>(), count - 3);
}

}  // namespace
}  // namespace weft
