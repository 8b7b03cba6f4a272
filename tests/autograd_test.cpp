#include <cmath>
#include <thread>

#include <gtest/gtest.h>

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/function.h"
#include "autograd/gradcheck.h"
#include "autograd/layout.h"
#include "autograd/reduce.h"
#include "autograd/step_context.h"
#include "autograd/window.h"
#include "support/compare.h"

namespace weft {
namespace {

using test::message_of;
using test::values;

Tensor leaf(const std::vector<double>& data) {
  return set_requires_grad(Tensor::from_vector(data, {static_cast<std::int64_t>(data.size())}));
}

TEST(Backward, GradientsOfADiamondAddUp) {
  const Tensor x = leaf({2, 3});
  const Tensor y = x * x;
  backward(sum(y * y + y));  // 4x³ + 2x
  EXPECT_EQ(values(grad(x)), (std::vector<double>{36, 114}));
}

TEST(Backward, TwoCallsOnTwoGraphsAccumulate) {
  const Tensor x = leaf({2});
  backward(x * x);
  backward(x * x);
  EXPECT_EQ(values(grad(x)), (std::vector<double>{8}));
  zero_grad(x);
  EXPECT_FALSE(grad(x).defined());
  backward(x * x);
  EXPECT_EQ(values(grad(x)), (std::vector<double>{4}));
}

TEST(Backward, TheSameGraphTwiceNeedsRetainGraph) {
  const Tensor x = leaf({3});
  const Tensor y = x * x;
  backward(y, {}, {.retain_graph = true});
  backward(y);
  EXPECT_EQ(values(grad(x)), (std::vector<double>{12}));
  EXPECT_EQ(
      message_of<AutogradError>([&] { backward(y); }),
      "[backward] the graph of 'mul' was released by an earlier backward: give that one retain_graph = true, or run "
      "forward again");
  EXPECT_EQ(values(grad(x)), (std::vector<double>{12}));  // untouched by the failed call
}

TEST(Backward, AViewMadeOnceServesManyGraphs) {
  const Tensor w = set_requires_grad(ones({2, 3}));
  const Tensor transposed = w.t();  // saves nothing: may be used again
  backward(sum(transposed * transposed));
  backward(sum(transposed * transposed));
  EXPECT_EQ(values(grad(w)), std::vector<double>(6, 4.0));
}

TEST(Backward, AChainOf100000OperationsDoesNotOverflow) {
  const Tensor x = leaf({1});
  Tensor y = x;
  for (int i = 0; i < 100000; ++i) y = y + x;
  backward(y);
  EXPECT_EQ(values(grad(x)), (std::vector<double>{100001}));
  y = Tensor();  // and neither does taking the graph apart
  Tensor z = x;
  for (int i = 0; i < 100000; ++i) z = scale(z, 1.0);
  z = Tensor();
}

TEST(Backward, InPlaceModificationOfASavedTensorIsDetected) {
  const Tensor x = leaf({1, 2}), factor = full({2}, 3, Dtype::f64);
  const Tensor y = x * factor;
  add_(factor, factor);
  EXPECT_EQ(message_of<AutogradError>([&] { backward(sum(y)); }),
            "[mul] a tensor of shape [2] that backward needs was modified in place after it was used (version 1, saved "
            "at 0): "
            "clone it first, or modify it after backward");
  const Tensor z = x + factor;  // add saves nothing
  add_(factor, factor);
  EXPECT_NO_THROW(backward(sum(z)));
}

TEST(Backward, ModificationThroughAViewIsDetectedToo) {
  const Tensor x = leaf({1, 2}), factor = full({4}, 3, Dtype::f64);
  const Tensor y = x * factor.slice(0, 0, 2);
  fill_(factor.slice(0, 2, 4), 0);  // other elements, but the version belongs to the memory as a whole
  EXPECT_THROW(backward(sum(y)), AutogradError);
}

TEST(Backward, ErrorsSayWhatToDo) {
  EXPECT_EQ(message_of<AutogradError>([] { backward(ones({1})); }),
            "[backward] the tensor depends on nothing that requires a gradient (or was computed under NoGrad)");
  const Tensor x = leaf({1, 2});
  EXPECT_EQ(message_of<ShapeError>([&] { backward(x * x); }),
            "[backward] a tensor of shape [2] needs a seed: only one element can do without");
  EXPECT_EQ(message_of<ShapeError>([&] { backward(x * x, ones({3}, Dtype::f64)); }),
            "[backward] the seed must be [2] f64 but is [3] f64");
  EXPECT_EQ(message_of<DtypeError>([] { set_requires_grad(arange(3)); }),
            "[set_requires_grad] needs a floating dtype but has i64");
  EXPECT_EQ(message_of<AutogradError>([&] { set_requires_grad(x * x); }),
            "[set_requires_grad] the tensor is the result of a recorded operation: detach it first");
}

TEST(GradMode, NoGradAndDetachCutTheGraph) {
  const Tensor x = leaf({2});
  {
    const NoGrad guard;
    EXPECT_FALSE(requires_grad(x * x));
    const GradModeGuard inner(true);
    EXPECT_TRUE(requires_grad(x * x));
  }
  EXPECT_TRUE(requires_grad(x * x));
  backward(x * detach(x * x));
  EXPECT_EQ(values(grad(x)), (std::vector<double>{4}));
  EXPECT_FALSE(requires_grad(detach(x)));
}

TEST(GradMode, BelongsToTheThread) {
  const NoGrad guard;
  bool other_thread_records = false;
  std::thread([&] { other_thread_records = grad_mode(); }).join();
  EXPECT_TRUE(other_thread_records);
  EXPECT_FALSE(grad_mode());
}

TEST(GradMode, TwoModelsTrainInTwoThreads) {
  std::vector<double> results(2);
  const auto train = [&](std::size_t i) {
    const Tensor x = leaf({static_cast<double>(i + 1)});
    for (int step = 0; step < 200; ++step) backward(x * x);
    results[i] = grad(x).item<double>();
  };
  std::thread first(train, 0), second(train, 1);
  first.join();
  second.join();
  EXPECT_EQ(results, (std::vector<double>{400, 800}));
}

TEST(Hooks, SeeTheWholeGradientOfACallAndMayReplaceIt) {
  const Tensor x = leaf({1, 2});
  std::vector<std::vector<double>> seen;
  add_grad_hook(x, [&](const Tensor& gradient) {
    seen.push_back(values(gradient));
    return scale(gradient, 10);
  });
  backward(sum(x * x + x));  // three uses of x, one gradient
  EXPECT_EQ(seen, (std::vector<std::vector<double>>{{3, 5}}));
  EXPECT_EQ(values(grad(x)), (std::vector<double>{30, 50}));
  backward(sum(x));
  EXPECT_EQ(seen.size(), 2u);
  EXPECT_EQ(values(grad(x)), (std::vector<double>{40, 60}));
  const Tensor bad = leaf({1});
  add_grad_hook(bad, [](const Tensor&) { return Tensor(); });
  EXPECT_EQ(message_of<AutogradError>([&] { backward(bad * bad); }),
            "[backward] a gradient hook must return a tensor of the gradient's shape [1]");
}

Loss squares(const Tensor& x) { return {sum(x * x), scalar(static_cast<double>(x.numel()), Dtype::f64)}; }

TEST(Window, AddsUpSumsDenominatorsAndGradients) {
  const Tensor w = leaf({1, 2, 3});
  Window window;
  window.backward(squares(w.slice(0, 0, 1)));
  window.backward(squares(w.slice(0, 1, 3)));
  EXPECT_EQ(window.micro_batches(), 2);
  EXPECT_EQ(window.sum().item<double>(), 14);
  EXPECT_EQ(window.denominator().item<double>(), 3);
  EXPECT_DOUBLE_EQ(window.mean_loss(), 14.0 / 3.0);
  EXPECT_EQ(values(grad(w)), (std::vector<double>{2, 4, 6}));  // of the sum: the optimizer divides, once
  EXPECT_EQ(grad_window(w), window.id());
}

TEST(Window, MixingWindowsThrows) {
  const Tensor w = leaf({1});
  Window first, second;
  first.backward(squares(w));
  EXPECT_EQ(message_of<AutogradError>([&] { second.backward(squares(w)); }),
            fmt::format(
                "[backward] a leaf of shape [1] holds a gradient of window {} but this backward belongs to window {}: "
                "step or zero_grad first",
                first.id(), second.id()));
  EXPECT_THROW(backward(w * w), AutogradError);
  zero_grad(w);
  EXPECT_NO_THROW(second.backward(squares(w)));
}

TEST(Window, TheMeanOfALossIsDifferentiable) {
  const Tensor w = leaf({1, 2});
  backward(squares(w).mean());
  EXPECT_EQ(values(grad(w)), (std::vector<double>{1, 2}));
}

struct Cube : Function<Cube> {
  static constexpr const char* kName = "cube";
  static Tensor forward(FunctionContext& context, const Tensor& x) {
    context.save(x);
    return x * x * x;
  }
  static std::vector<Tensor> backward(FunctionContext& context, const Tensor& dy) {
    const Tensor& x = context.saved(0);
    return {scale(dy * x * x, 3.0)};
  }
};

struct WrongCube : Function<WrongCube> {
  static constexpr const char* kName = "wrong_cube";
  static Tensor forward(FunctionContext& context, const Tensor& x) { return Cube::forward(context, x); }
  static std::vector<Tensor> backward(FunctionContext& context, const Tensor& dy) {
    return {scale(dy * context.saved(0) * context.saved(0), 3.0001)};
  }
};

TEST(Function, AUsersOwnOperationIsDifferentiatedAndChecked) {
  const Tensor x = randn({4}, 1, Dtype::f64);
  const auto right = gradcheck([](const std::vector<Tensor>& in) { return Cube::apply(in[0]); }, {x});
  EXPECT_TRUE(right.passed) << right.message;
  EXPECT_LT(right.worst_error, 1e-8);
  const auto wrong = gradcheck([](const std::vector<Tensor>& in) { return WrongCube::apply(in[0]); }, {x});
  EXPECT_FALSE(wrong.passed);
  EXPECT_NE(wrong.message.find("relative error 3.33e-05"), std::string::npos) << wrong.message;
}

struct WrongShape : Function<WrongShape> {
  static constexpr const char* kName = "wrong_shape";
  static Tensor forward(FunctionContext&, const Tensor& x) { return scale(x, 2.0); }
  static std::vector<Tensor> backward(FunctionContext&, const Tensor& dy) { return {dy.reshape({2, 2})}; }
};

// No element of the result: every gradient must be 0, whichever way is asked for.
TEST(Gradcheck, AnEmptyResult) {
  const Tensor x = randn({3, 2}, 1, Dtype::f64);
  for (const bool jacobian : {false, true}) {
    const auto nothing = [](const std::vector<Tensor>& in) { return mul(in[0], in[0]).slice(0, 3, 3); };
    const GradcheckResult result = gradcheck(nothing, {x}, {.jacobian = jacobian});
    EXPECT_TRUE(result.passed) << result.message;
    EXPECT_EQ(result.worst_error, 0);
  }
  // The full Jacobian does not depend on `projections`.
  const auto wrong = [](const std::vector<Tensor>& in) { return WrongCube::apply(in[0]); };
  EXPECT_FALSE(gradcheck(wrong, {x}, {.projections = 0, .jacobian = true}).passed);
}

TEST(Function, AGradientOfTheWrongShapeIsRefused) {
  const Tensor x = set_requires_grad(ones({4}));
  EXPECT_EQ(message_of<AutogradError>([&] { backward(WrongShape::apply(x), ones({4})); }),
            "[wrong_shape] backward must return a gradient of shape [4] for input 0 but returned [2, 2]");
  EXPECT_FALSE(grad(x).defined());
}

TEST(Function, ItsSavedTensorsAreGuardedToo) {
  const Tensor x = leaf({2}), factor = full({1}, 3, Dtype::f64);
  const Tensor y = Cube::apply(x * factor);
  backward(y);
  EXPECT_EQ(values(grad(x)), (std::vector<double>{324}));
  EXPECT_THROW(backward(y), AutogradError);
}

TEST(AnomalyMode, NamesTheFirstOperationWithANonFiniteValue) {
  const AnomalyMode mode;
  const Tensor x = leaf({1, 0});
  EXPECT_EQ(message_of<AutogradError>([&] { relu(div(x, x)); }),
            "[div] made a NaN at element 1 of a result of shape [2]");
}

TEST(StepContext, IsScopedAndThreadLocal) {
  EXPECT_EQ(StepContext::current(), nullptr);
  EXPECT_NE(message_of<Error>([] { StepContext::require("dropout"); }).find("[dropout] needs a StepContext"),
            std::string::npos);
  {
    const StepScope outer({.seed = 1});
    {
      const StepScope inner({.seed = 2});
      EXPECT_EQ(StepContext::current()->seed, 2u);
      const StepContext* elsewhere = StepContext::current();
      std::thread([&] { elsewhere = StepContext::current(); }).join();
      EXPECT_EQ(elsewhere, nullptr);
    }
    EXPECT_EQ(StepContext::require("test").seed, 1u);
  }
  EXPECT_EQ(StepContext::current(), nullptr);
}

}  // namespace
}  // namespace weft
