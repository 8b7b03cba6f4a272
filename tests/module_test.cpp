#include "nn/module.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/reduce.h"
#include "nn/activation.h"
#include "nn/batch_norm.h"
#include "nn/init.h"
#include "nn/layer_norm.h"
#include "nn/linear.h"
#include "nn/sequential.h"
#include "support/compare.h"

namespace weft {
namespace {

using test::message_of;

struct Residual {  // what a user writes
  nn::LayerNorm norm{6};
  nn::Linear up{6, 12}, down{12, 6};
  Tensor operator()(const Tensor& x) { return x + down(relu(up(norm(x)))); }
  template <class V>
  void visit(V& v) {
    v("norm", norm);
    v("up", up);
    v("down", down);
  }
};

nn::Sequential small_model() {
  return nn::Sequential{nn::Flatten{}, nn::Linear{8, 6}, nn::BatchNorm1d{6}, nn::ReLU{}, Residual{}, nn::Linear{6, 3}};
}

std::vector<std::string> names(const nn::NamedTensors& tensors) {
  std::vector<std::string> out;
  for (const auto& [name, tensor] : tensors) out.push_back(name);
  return out;
}

TEST(Module, VisitGivesNamesInOrder) {
  nn::Sequential model = small_model();
  EXPECT_EQ(
      names(model.named_parameters()),
      (std::vector<std::string>{"1.weight", "1.bias", "2.weight", "2.bias", "4.norm.weight", "4.norm.bias",
                                "4.up.weight", "4.up.bias", "4.down.weight", "4.down.bias", "5.weight", "5.bias"}));
  EXPECT_EQ(names(nn::named_buffers(model)), (std::vector<std::string>{"2.running_mean", "2.running_var"}));
  EXPECT_EQ(nn::num_parameters(model), (8 * 6 + 6) + 12 + 12 + (6 * 12 + 12) + (12 * 6 + 6) + (6 * 3 + 3));
}

TEST(Module, ATrainedResidualModelLearns) {
  nn::manual_seed(1);
  nn::Sequential model = small_model();
  const Tensor x = randn({16, 2, 4}, 2), target = randn({16, 3}, 3);
  const auto loss = [&] {
    const Tensor error = model(x) - target;
    return sum(error * error);
  };
  const float before = loss().item<float>();
  for (int step = 0; step < 50; ++step) {
    backward(loss());
    const NoGrad guard;
    for (const Tensor& p : model.parameters()) {
      copy_(p, p - scale(grad(p), 0.005));
      zero_grad(p);
    }
  }
  EXPECT_LT(loss().item<float>(), 0.5f * before);
}

TEST(Module, InitialisationFollowsTheSeedAndPyTorchsBounds) {
  nn::manual_seed(5);
  nn::Linear a{100, 50};
  nn::Linear next{100, 50};
  nn::manual_seed(5);
  nn::Linear b{100, 50};
  EXPECT_TRUE(test::bitwise_equal(a.weight, b.weight));
  EXPECT_FALSE(test::bitwise_equal(a.weight, next.weight));
  double largest = 0, squares = 0;
  for (double value : test::values(a.weight)) {
    largest = std::max(largest, std::fabs(value));
    squares += value * value;
  }
  EXPECT_LE(largest, 0.1);  // 1/sqrt(100)
  EXPECT_GT(largest, 0.099);
  EXPECT_NEAR(squares / 5000, 0.01 / 3, 0.0002);  // variance of U(-b, b): b²/3
  EXPECT_FALSE(nn::Linear(4, 2, {.bias = false}).bias.defined());
}

TEST(Module, CloneSharesNothingAndCopyingTheStructSharesHandles) {
  Residual original;
  Residual deep = nn::clone(original), shallow = original;
  fill_(detach(original.up.bias), 42);
  EXPECT_EQ(shallow.up.bias.to_vector<float>()[0], 42);
  EXPECT_NE(deep.up.bias.to_vector<float>()[0], 42);
  EXPECT_TRUE(requires_grad(deep.up.weight));
  nn::Sequential model = small_model(), copy = model.clone();
  EXPECT_NE(model.parameters()[0].raw_data(), copy.parameters()[0].raw_data());
  EXPECT_TRUE(test::bitwise_equal(model.parameters()[0], copy.parameters()[0]));
}

TEST(Module, AMovedModelKeepsWorking) {
  nn::Sequential model = small_model();
  const std::vector<Tensor> held = model.parameters();
  nn::Sequential moved = std::move(model);
  EXPECT_TRUE(moved.parameters()[0].is_same(held[0]));
  EXPECT_EQ(moved(randn({4, 8}, 1)).shape(), (Shape{4, 3}));
}

TEST(Module, StateDictRoundTripsAndRejectsWhatDoesNotFit) {
  nn::manual_seed(1);
  nn::Sequential a = small_model(), b = small_model();
  b.load_state_dict(a.state_dict());
  a.eval();
  b.eval();
  const Tensor x = randn({5, 8}, 2);
  EXPECT_TRUE(test::bitwise_equal(a(x), b(x)));

  nn::NamedTensors state = a.state_dict();
  const Tensor kept = clone(detach(b.parameters()[0]));
  state[3].first = "2.beta";
  EXPECT_EQ(message_of<Error>([&] { b.load_state_dict(state); }),
            "[load_state_dict] the module has no tensor '2.beta'");
  state = a.state_dict();
  state[0].second = zeros({6, 9});
  EXPECT_EQ(message_of<Error>([&] { b.load_state_dict(state); }),
            "[load_state_dict] '1.weight' must be [6, 8] f32 but is [6, 9] f32");
  state = a.state_dict();
  state.pop_back();
  EXPECT_EQ(message_of<Error>([&] { b.load_state_dict(state); }),
            "[load_state_dict] the state has no tensor '2.running_var'");
  EXPECT_TRUE(test::bitwise_equal(kept, detach(b.parameters()[0])));
}

TEST(Module, TrainAndEvalReachEveryLayer) {
  nn::Sequential model = small_model();
  const Tensor x = randn({8, 8}, 1);
  model.eval();
  EXPECT_TRUE(test::bitwise_equal(model(x), model(x)));
  const Tensor before = clone(nn::named_buffers(model)[0].second);
  model.train();
  model(x);
  EXPECT_FALSE(test::bitwise_equal(before, nn::named_buffers(model)[0].second));
}

}  // namespace
}  // namespace weft
