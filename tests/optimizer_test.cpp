// What the optimizers share (optim/optimizer.h): gradients of windows, skipped updates, state, errors.
#include "optim/optimizer.h"

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/reduce.h"
#include "optim/adamw.h"
#include "optim/sgd.h"
#include "support/compare.h"
#include "support/update_case.h"
#include "tensor/allocator.h"

namespace weft {
namespace {

using optim::AdamW;
using optim::SGD;
using test::bitwise_equal;
using test::message_of;

const double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

Tensor leaf(const Shape& shape, std::uint64_t seed, Dtype dtype = Dtype::f32) {
  return set_requires_grad(randn(shape, seed, dtype));
}

// Sum over samples of |w - x|² / 2 with the number of samples as denominator: d sum / d w = rows * w - sum of x.
Loss squares(const Tensor& w, const Tensor& x) {
  const Tensor difference = w - x;
  return {cast(sum(difference * difference) * 0.5, Dtype::f64), scalar(static_cast<double>(x.size(0)), Dtype::f64)};
}
Loss with_denominator(const Loss& loss, double denominator) { return {loss.sum, scalar(denominator, Dtype::f64)}; }

std::vector<Tensor> copies(const std::vector<Tensor>& tensors) {
  const NoGrad guard;
  std::vector<Tensor> result;
  result.reserve(tensors.size());
  for (const Tensor& tensor : tensors) result.push_back(clone(detach(tensor)));
  return result;
}
// Parameters, moments and counts of updates: what a skipped update must not touch. The counters do count it.
std::vector<Tensor> frozen(const optim::Optimizer& optimizer) {
  std::vector<Tensor> tensors = copies(optimizer.parameters());
  for (const auto& [name, tensor] : optimizer.state())
    if (name != "counters") tensors.push_back(tensor);
  return copies(tensors);
}
bool all_equal(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), bitwise_equal);
}

struct Both {  // every test of shared behaviour runs with each optimizer
  const char* name;
  std::function<std::unique_ptr<optim::Optimizer>(std::vector<Tensor>, double max_norm, int max_skipped)> make;
};
std::vector<Both> both() {
  return {{"adamw",
           [](std::vector<Tensor> parameters, double max_norm, int max_skipped) {
             return std::make_unique<AdamW>(
                 std::move(parameters),
                 optim::AdamWOptions{.lr = 0.1, .max_norm = max_norm, .max_skipped = max_skipped});
           }},
          {"sgd", [](std::vector<Tensor> parameters, double max_norm, int max_skipped) {
             return std::make_unique<SGD>(
                 std::move(parameters),
                 optim::SGDOptions{.lr = 0.1, .momentum = 0.9, .max_norm = max_norm, .max_skipped = max_skipped});
           }}};
}

TEST(Optimizer, RefusesWhatCannotBeUsed) {
  const Tensor w = leaf({3}, 1);
  const auto adamw = [&](optim::AdamWOptions options) { return message_of<OptionError>([&] { AdamW({w}, options); }); };
  EXPECT_EQ(adamw({.lr = kNan}), "[adamw] lr must be finite and at least 0 but is nan");
  EXPECT_EQ(adamw({.lr = -1}), "[adamw] lr must be finite and at least 0 but is -1");
  EXPECT_EQ(adamw({.lr = kInf}), "[adamw] lr must be finite and at least 0 but is inf");
  EXPECT_EQ(adamw({.beta1 = 1}), "[adamw] beta1 must be in [0, 1) but is 1");
  EXPECT_EQ(adamw({.beta2 = -0.5}), "[adamw] beta2 must be in [0, 1) but is -0.5");
  EXPECT_EQ(adamw({.beta2 = kNan}), "[adamw] beta2 must be in [0, 1) but is nan");
  EXPECT_EQ(adamw({.eps = -1e-8}), "[adamw] eps must be finite and at least 0 but is -1e-08");
  EXPECT_EQ(adamw({.weight_decay = kNan}), "[adamw] weight_decay must be finite and at least 0 but is nan");
  EXPECT_EQ(adamw({.max_norm = -1}), "[adamw] max_norm must be finite and at least 0 but is -1");
  EXPECT_EQ(adamw({.max_skipped = 0}), "[adamw] max_skipped must be at least 1 but is 0");
  const auto sgd = [&](optim::SGDOptions options) { return message_of<OptionError>([&] { SGD({w}, options); }); };
  EXPECT_EQ(sgd({.lr = kNan}), "[sgd] lr must be finite and at least 0 but is nan");
  EXPECT_EQ(sgd({.momentum = 1}), "[sgd] momentum must be in [0, 1) but is 1");
  EXPECT_EQ(sgd({.momentum = kNan}), "[sgd] momentum must be in [0, 1) but is nan");
  EXPECT_EQ(sgd({.weight_decay = -1}), "[sgd] weight_decay must be finite and at least 0 but is -1");
  EXPECT_EQ(sgd({.nesterov = true}), "[sgd] nesterov needs a momentum above 0 but momentum is 0");
}

TEST(Optimizer, RefusesParametersThatCannotBeUpdated) {
  const Tensor w = leaf({3, 4}, 1);
  EXPECT_EQ(message_of<OptionError>([] { SGD({}); }), "[sgd] needs at least one parameter but got none");
  EXPECT_EQ(message_of<OptionError>([&] { SGD({w, Tensor()}); }), "[sgd] parameter 1 is an undefined tensor");
  EXPECT_EQ(message_of<AutogradError>([&] {
              SGD({w, zeros({2})});
            }),
            "[sgd] parameter 1 of shape [2] must be a leaf that requires a gradient (nn::parameter makes one)");
  EXPECT_THROW(SGD({w * 2.0}), AutogradError);
  EXPECT_EQ(message_of<OptionError>([&] {
              SGD({w, leaf({2}, 2), w});
            }),
            "[sgd] parameter 2 of shape [3, 4] shares memory with another one: give each parameter once");
  const Tensor part = set_requires_grad(detach(w).slice(0, 2, 3));
  EXPECT_THROW(SGD({part, w}), OptionError);
  EXPECT_EQ(message_of<DtypeError>([] { AdamW({set_requires_grad(zeros({2}, Dtype::bf16))}); }),
            "[adamw] parameters must be f32 or f64 but parameter 0 is bf16; keep it in f32 and cast where it is used");
  EXPECT_THROW(SGD({set_requires_grad(zeros({3, 4}).transpose(0, 1))}), ShapeError);
  EXPECT_NO_THROW(SGD({w, set_requires_grad(zeros({0})), set_requires_grad(zeros({0}))}));
}

// One or two updates of p = 1 by g = 1, where every option changes the result.
TEST(Optimizer, EveryOptionCounts) {
  const auto result = [](int updates, const auto& make) {
    const Tensor w = set_requires_grad(ones({1}, Dtype::f64));
    auto optimizer = make(w);
    for (int i = 0; i < updates; ++i) {
      set_grad(w, full({1}, i == 0 ? 1 : 2, Dtype::f64));
      optimizer.step();
    }
    return w.item<double>();
  };
  const auto adamw = [&](int updates, optim::AdamWOptions options) {
    return result(updates, [&](const Tensor& w) { return AdamW({w}, options); });
  };
  EXPECT_NEAR(adamw(1, {.lr = 0.5, .eps = 0, .weight_decay = 0}), 0.5, 1e-15);
  EXPECT_NEAR(adamw(1, {.lr = 0.5, .eps = 3, .weight_decay = 0}), 1 - 0.5 / (1 + 3), 1e-15);
  EXPECT_NEAR(adamw(1, {.lr = 0.5, .eps = 0, .weight_decay = 0.25}), 0.875 - 0.5, 1e-15);
  // m = 0.5 * 0.5 * 1 + 0.5 * 2, divided by 1 - 0.5²; v = 0.25 * 0.75 * 1 + 0.75 * 4, divided by 1 - 0.25²
  EXPECT_NEAR(adamw(2, {.lr = 0.5, .beta1 = 0.5, .beta2 = 0.25, .eps = 0, .weight_decay = 0}),
              0.5 - 0.5 * (1.25 / 0.75) / std::sqrt(3.1875 / 0.9375), 1e-15);
  const auto sgd = [&](int updates, optim::SGDOptions options) {
    return result(updates, [&](const Tensor& w) { return SGD({w}, options); });
  };
  EXPECT_EQ(sgd(1, {.lr = 0.5}), 0.5);
  EXPECT_EQ(sgd(1, {.lr = 0.5, .weight_decay = 0.25}), 1 - 0.5 * 1.25);
  EXPECT_EQ(sgd(2, {.lr = 0.5, .momentum = 0.5}), 0.5 - 0.5 * 2.5);
  EXPECT_EQ(sgd(1, {.lr = 0.5, .momentum = 0.5, .nesterov = true}), 1 - 0.5 * 1.5);
}

TEST(Optimizer, PlainFormEqualsTheWindow) {
  for (const Both& kind : both()) {
    const Tensor x = randn({8, 5}, 3);
    const Tensor a = leaf({5}, 1), b = leaf({5}, 1);
    const auto plain = kind.make({a}, 0.5, 10), windowed = kind.make({b}, 0.5, 10);
    for (int i = 0; i < 5; ++i) {
      backward(squares(a, x).mean());
      plain->step();
      EXPECT_TRUE(grad(a).defined());  // the plain form leaves them
      plain->zero_grad();
      EXPECT_FALSE(grad(a).defined());
      Window window;
      window.backward(squares(b, x));
      windowed->step(window);
      EXPECT_FALSE(grad(b).defined());
      EXPECT_EQ(window.denominator().item<double>(), 8);  // not cleared
      // Dividing by 8 is exact, wherever it is done.
      EXPECT_TRUE(bitwise_equal(a, b)) << kind.name;
      EXPECT_EQ(plain->grad_norm(), windowed->grad_norm());
    }
    EXPECT_EQ(plain->updates(), 5);
    EXPECT_EQ(plain->applied(), 5);
    EXPECT_EQ(plain->skipped(), 0);
  }
}

TEST(Optimizer, AnySplitIntoMicroBatchesIsTheSameUpdate) {
  for (const Both& kind : both())
    for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
      const Tensor x = randn({7, 5}, 3, dtype);
      Tensor want;
      for (const std::vector<std::int64_t>& split :
           {std::vector<std::int64_t>{7}, {3, 4}, {1, 5, 1}, {1, 1, 1, 1, 1, 1, 1}}) {
        const Tensor w = leaf({5}, 1, dtype);
        const auto optimizer = kind.make({w}, 1.0, 10);
        for (int i = 0; i < 3; ++i) {
          Window window;
          std::int64_t row = 0;
          for (const std::int64_t rows : split) {
            window.backward(squares(w, x.slice(0, row, row + rows)));
            row += rows;
          }
          optimizer->step(window);
        }
        if (!want.defined()) want = w;
        // Seven terms added in another order, three updates.
        EXPECT_LE(test::relative_error(w, want), dtype == Dtype::f32 ? 1e-6 : 1e-14) << kind.name << split.size();
      }
    }
}

TEST(Optimizer, TwoMayShareAWindow) {
  const Tensor x = randn({4, 5}, 3);
  const Tensor a = leaf({5}, 1), b = leaf({5}, 2);
  SGD first({a}, {.lr = 1}), second({b}, {.lr = 1});
  const std::vector<Tensor> before = copies({a, b});
  Window window;
  window.backward(squares(a + b, x));
  first.step(window);
  EXPECT_FALSE(grad(a).defined());
  EXPECT_TRUE(grad(b).defined());
  second.step(window);
  EXPECT_FALSE(grad(b).defined());
  EXPECT_GT(test::relative_error(a, before[0]), 1e-3);
  // Both saw the same gradient.
  EXPECT_LE(test::relative_error(before[0] - detach(a), before[1] - detach(b)), 1e-6);
}

TEST(Optimizer, RefusesGradientsOfAnotherWindow) {
  for (const Both& kind : both()) {
    const Tensor x = randn({4, 5}, 3);
    const Tensor a = leaf({5}, 1), b = leaf({5}, 2);
    const auto optimizer = kind.make({a, b}, 0, 10);
    const std::vector<Tensor> before = frozen(*optimizer);
    Window window, other;
    window.backward(squares(a, x));
    other.backward(squares(b, x));
    EXPECT_EQ(message_of<AutogradError>([&] { optimizer->step(window); }),
              fmt::format("[{}] the gradient of parameter 1 belongs to window {} but this step to window {}", kind.name,
                          other.id(), window.id()));
    EXPECT_EQ(
        message_of<AutogradError>([&] { optimizer->step(); }),
        fmt::format("[{}] the gradient of parameter 0 belongs to window {} but this step to none: pass the window, "
                    "step(window)",
                    kind.name, window.id()));
    zero_grad(b);
    set_grad(b, ones({5}));
    EXPECT_EQ(message_of<AutogradError>([&] { optimizer->step(window); }),
              fmt::format("[{}] the gradient of parameter 1 belongs to no window but this step to window {}: use "
                          "window.backward, or step() for plain gradients",
                          kind.name, window.id()));
    const Window empty;
    EXPECT_EQ(message_of<AutogradError>([&] { optimizer->step(empty); }),
              fmt::format("[{}] the window is empty: call window.backward(loss) before step(window)", kind.name));
    // A refused step is none, and the optimizer goes on.
    EXPECT_EQ(optimizer->updates(), 0);
    EXPECT_TRUE(all_equal(frozen(*optimizer), before));
    zero_grad(b);
    optimizer->step(window);
    EXPECT_EQ(optimizer->applied(), 1);
  }
}

// Runs a step that is to be skipped and returns what it printed.
std::string skipped_step(const std::function<void()>& step) {
  testing::internal::CaptureStderr();
  EXPECT_NO_THROW(step());
  return testing::internal::GetCapturedStderr();
}

TEST(Optimizer, SkipsAWindowWithoutTargets) {
  for (const Both& kind : both()) {
    const Tensor x = randn({4, 5}, 3);
    const Tensor w = leaf({5}, 1);
    const auto optimizer = kind.make({w}, 1, 3);
    const auto step = [&](double denominator) {
      Window window;
      window.backward(with_denominator(squares(w, x), denominator));
      optimizer->step(window);
    };
    step(4);
    const std::vector<Tensor> before = frozen(*optimizer);
    EXPECT_EQ(skipped_step([&] { step(0); }),
              fmt::format("[{}] warning: update 2 is skipped, nothing was changed: the window's denominator is 0 (all "
                          "targets are masked); 1 in a row, an error at 3\n",
                          kind.name));
    EXPECT_NE(skipped_step([&] { step(0); }).find("2 in a row"), std::string::npos);
    EXPECT_TRUE(all_equal(frozen(*optimizer), before));
    EXPECT_FALSE(grad(w).defined());  // of no use to the next window
    step(4);                          // ends the row
    EXPECT_FALSE(all_equal(frozen(*optimizer), before));
    for (int i = 0; i < 2; ++i) skipped_step([&] { step(0); });
    testing::internal::CaptureStderr();
    EXPECT_EQ(
        message_of<Error>([&] { step(0); }),
        fmt::format("[{}] 3 updates in a row were skipped, the last one because the window's denominator is 0 (all "
                    "targets are masked)",
                    kind.name));
    testing::internal::GetCapturedStderr();
    EXPECT_EQ(optimizer->updates(), 7);
    EXPECT_EQ(optimizer->applied(), 2);
    EXPECT_EQ(optimizer->skipped(), 5);
    step(4);  // the optimizer is as usable as before the error
    EXPECT_EQ(optimizer->applied(), 3);
  }
}

TEST(Optimizer, SkipsGradientsThatAreNotFinite) {
  for (const Both& kind : both())
    for (const float bad : {static_cast<float>(kNan), static_cast<float>(kInf)}) {
      const Tensor a = leaf({5}, 1), b = leaf({70000}, 2);
      const auto optimizer = kind.make({a, b}, 1, 2);
      const auto step = [&](float value) {
        std::vector<float> gradient(70000, 1.0f);
        gradient[69999] = value;
        set_grad(a, ones({5}));
        set_grad(b, Tensor::from_vector(gradient, {70000}));
        optimizer->step();
      };
      step(1);
      const std::vector<Tensor> before = frozen(*optimizer);
      const std::string warning = skipped_step([&] { step(bad); });
      EXPECT_NE(warning.find("update 2 is skipped, nothing was changed: the gradient is not finite (norm "),
                std::string::npos)
          << warning;
      EXPECT_TRUE(all_equal(frozen(*optimizer), before)) << kind.name << bad;
      EXPECT_TRUE(grad(a).defined());  // the plain form never zeroes
      testing::internal::CaptureStderr();
      EXPECT_THROW(step(bad), Error);
      testing::internal::GetCapturedStderr();
      step(1);
      EXPECT_EQ(optimizer->skipped(), 2);
      EXPECT_EQ(optimizer->applied(), 2);
    }
}

TEST(Optimizer, ParametersWithoutGradientAreLeftAlone) {
  const Tensor a = leaf({5}, 1), b = leaf({5}, 2);
  AdamW both_parameters({a, b}, {.lr = 0.5, .eps = 0, .weight_decay = 0.5});
  const std::vector<Tensor> before = copies({b});
  for (int i = 0; i < 20; ++i) {
    set_grad(a, ones({5}));
    both_parameters.step();
  }
  EXPECT_TRUE(bitwise_equal(b, before[0]));
  // As if it were new: its first update is that of an optimizer of its own.
  const Tensor alone = set_requires_grad(clone(before[0]));
  AdamW one({alone}, {.lr = 0.5, .eps = 0, .weight_decay = 0.5});
  both_parameters.zero_grad();
  set_grad(b, ones({5}));
  set_grad(alone, ones({5}));
  both_parameters.step();
  one.step();
  EXPECT_TRUE(bitwise_equal(b, alone));
  const auto state = both_parameters.state();
  EXPECT_EQ(state[4].second.to_vector<std::int64_t>(), (std::vector<std::int64_t>{20, 1}));
}

TEST(Optimizer, ClipsTheScaledGradientOfAllParametersTogether) {
  const Tensor a = set_requires_grad(zeros({1})), b = set_requires_grad(zeros({1}, Dtype::f64));
  SGD sgd({a, b}, {.lr = 1, .max_norm = 1});
  set_grad(a, full({1}, 3));
  set_grad(b, full({1}, 4, Dtype::f64));
  sgd.step();
  EXPECT_EQ(sgd.grad_norm(), 5);
  EXPECT_NEAR(a.item<double>(), -0.6, 1e-6);  // clip_grad_norm_ divides by norm + 1e-6
  EXPECT_NEAR(b.item<double>(), -0.8, 1e-6);
}

TEST(Optimizer, LearningRateCanBeSet) {
  const Tensor w = set_requires_grad(zeros({3}));
  SGD sgd({w}, {.lr = 0.25});
  EXPECT_EQ(sgd.lr(), 0.25);
  set_grad(w, ones({3}));
  sgd.set_lr(0.5);
  sgd.step();
  EXPECT_EQ(w.to_vector<float>()[0], -0.5f);
  sgd.set_lr(0);
  sgd.step();
  EXPECT_EQ(w.to_vector<float>()[0], -0.5f);
  EXPECT_EQ(message_of<OptionError>([&] { sgd.set_lr(kNan); }), "[sgd] lr must be finite and at least 0 but is nan");
  EXPECT_THROW(sgd.set_lr(-1), OptionError);
  EXPECT_EQ(sgd.lr(), 0);
}

TEST(Optimizer, StepIsAModificationThatBackwardNotices) {
  const Tensor w = leaf({3}, 1);
  SGD sgd({w}, {.lr = 0.5});
  const Tensor loss = sum(w * w);  // saves w
  set_grad(w, ones({3}));
  sgd.step();
  sgd.zero_grad();
  EXPECT_THROW(backward(loss), AutogradError);
}

TEST(Optimizer, FollowsASwappedStorage) {
  const Tensor w = set_requires_grad(zeros({3}));
  SGD sgd({w}, {.lr = 0.5});
  w.replace_storage(full({3}, 7));
  set_grad(w, ones({3}));
  sgd.step();
  EXPECT_EQ(w.to_vector<float>(), (std::vector<float>{6.5f, 6.5f, 6.5f}));
}

TEST(Optimizer, StateContinuesElsewhere) {
  for (const Both& kind : both()) {
    const Tensor x = randn({4, 5}, 3);
    const auto step = [&](optim::Optimizer& optimizer) {
      Window window;
      window.backward(squares(optimizer.parameters()[0] + optimizer.parameters()[1], x));
      optimizer.step(window);
    };
    const auto optimizer = kind.make({leaf({5}, 1), leaf({4, 5}, 2)}, 0.5, 10);
    for (int i = 0; i < 3; ++i) step(*optimizer);
    const std::vector<Tensor> values = copies(optimizer->parameters());
    const auto resumed = kind.make({set_requires_grad(values[0]), set_requires_grad(values[1])}, 0.5, 10);
    const auto from = optimizer->state(), to = resumed->state();
    ASSERT_EQ(from.size(), to.size());
    for (std::size_t i = 0; i < from.size(); ++i) {
      EXPECT_EQ(from[i].first, to[i].first);
      to[i].second.copy_bytes_from(from[i].second);
    }
    for (int i = 0; i < 3; ++i) {
      step(*optimizer);
      step(*resumed);
    }
    EXPECT_TRUE(all_equal(frozen(*optimizer), frozen(*resumed))) << kind.name;
    EXPECT_EQ(resumed->updates(), 6);
    EXPECT_EQ(resumed->lr(), 0.1);  // an option, not state
  }
}

TEST(Optimizer, StateHasNames) {
  const auto names = [](const optim::Optimizer& optimizer) {
    std::string text;
    for (const auto& [name, tensor] : optimizer.state()) text += name + tensor.shape().str() + " ";
    return text;
  };
  const std::vector<Tensor> parameters{leaf({2, 3}, 1), leaf({4}, 2)};
  EXPECT_EQ(names(AdamW(parameters)), "0.m[2, 3] 0.v[2, 3] 1.m[4] 1.v[4] step[2] counters[5] ");
  EXPECT_EQ(names(SGD(parameters, {.momentum = 0.5})), "0.momentum[2, 3] 1.momentum[4] step[2] counters[5] ");
  EXPECT_EQ(names(SGD(parameters)), "step[2] counters[5] ");
}

TEST(Optimizer, StepsWithoutAllocating) {
  for (const Both& kind : both()) {
    const Tensor w = leaf({100000}, 1);
    const auto optimizer = kind.make({w}, 1, 10);
    std::int64_t allocated = 0;
    for (int i = 0; i < 5; ++i) {
      Window window;
      window.backward({cast(sum(w), Dtype::f64), scalar(4, Dtype::f64)});
      const std::int64_t before = cpu_memory_stats().allocations;
      optimizer->step(window);
      if (i > 0) allocated += cpu_memory_stats().allocations - before;
    }
    EXPECT_EQ(allocated, 0) << kind.name;
  }
}

TEST(Optimizer, MovesButDoesNotCopy) {
  static_assert(!std::is_copy_constructible_v<AdamW> && std::is_move_constructible_v<AdamW>);
  const Tensor w = set_requires_grad(zeros({3}));
  SGD first({w}, {.lr = 0.5});
  SGD second = std::move(first);
  set_grad(w, ones({3}));
  second.step();
  EXPECT_EQ(w.to_vector<float>()[0], -0.5f);
}

TEST(Optimizer, SameBitsForAnyNumberOfThreads) {
  for (const Both& kind : both()) {
    std::vector<std::vector<Tensor>> results;
    for (const int threads : {1, 2, 7}) {
      const test::ThreadsGuard guard(threads);
      const Tensor a = leaf({300, 401}, 1), b = leaf({401}, 2);
      const auto optimizer = kind.make({a, b}, 0.01, 10);
      for (std::uint64_t i = 0; i < 3; ++i) {
        set_grad(a, randn({300, 401}, 10 + i));
        set_grad(b, randn({401}, 20 + i));
        optimizer->step();
      }
      results.push_back(frozen(*optimizer));
    }
    EXPECT_TRUE(all_equal(results[0], results[1])) << kind.name;
    EXPECT_TRUE(all_equal(results[0], results[2])) << kind.name;
  }
}

}  // namespace
}  // namespace weft
