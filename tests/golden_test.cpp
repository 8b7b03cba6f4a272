// A small MLP, its gradients and ten updates against what PyTorch computed (tests/golden/make_golden.py).
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "autograd/cast.h"
#include "autograd/cross_entropy.h"
#include "autograd/engine.h"
#include "nn/activation.h"
#include "nn/batch_norm.h"
#include "nn/layer_norm.h"
#include "nn/linear.h"
#include "nn/sequential.h"
#include "optim/adamw.h"
#include "optim/sgd.h"
#include "support/compare.h"

namespace weft {
namespace {

using nlohmann::json;

const json& golden() {
  static const json document = [] {
    std::ifstream file(WEFT_SOURCE_DIR "/tests/golden/mlp.json");
    return json::parse(file);
  }();
  return document;
}

Tensor tensor(const json& numbers, const Shape& shape, Dtype dtype) {
  return cast(Tensor::from_vector(numbers.get<std::vector<double>>(), shape), dtype);
}

// Batch, model and loss as in make_golden.py.
struct Setting {
  explicit Setting(Dtype dtype)
      : model{nn::Linear{12, 8, {.bias = false, .dtype = dtype}},
              nn::BatchNorm1d{8, {.dtype = dtype}},
              nn::ReLU{},
              nn::Linear{8, 6, {.dtype = dtype}},
              nn::LayerNorm{6, {.dtype = dtype}},
              nn::ReLU{},
              nn::Linear{6, 4, {.dtype = dtype}}},
        inputs(tensor(golden()["inputs"], {10, 12}, dtype)),
        targets(Tensor::from_vector(golden()["targets"].get<std::vector<std::int64_t>>(), {10})) {
    nn::NamedTensors state;
    for (const auto& [name, current] : model.state_dict())  // its order; the names must be PyTorch's
      state.emplace_back(name, tensor(golden()["initial"].at(name), current.shape(), dtype));
    EXPECT_EQ(state.size(), golden()["initial"].size());
    model.load_state_dict(state);
    model.train();
  }
  Loss loss() { return cross_entropy(model(inputs), targets, {.ignore_index = golden()["ignore_index"]}); }

  nn::Sequential model;
  Tensor inputs, targets;
};

// 64 half ulps. PyTorch's own float32 results are up to 12 half ulps away from its float64 ones after ten updates
// (norm-wise, worst tensor of all runs); another order of additions may be as far on the other side.
double tolerance(Dtype dtype) { return dtype == Dtype::f32 ? 64 * 0x1p-24 : 64 * 0x1p-53; }
const json& results(Dtype dtype) { return golden()[dtype == Dtype::f32 ? "float32" : "float64"]; }

void expect_close(const Tensor& got, const json& want, Dtype dtype, const std::string& what) {
  const std::vector<double> numbers = want.is_array() ? want.get<std::vector<double>>() : std::vector<double>{want};
  EXPECT_LE(test::relative_error(test::values(got), numbers), tolerance(dtype)) << what << " " << to_string(dtype);
}
void expect_close(double got, const json& want, Dtype dtype, const std::string& what) {
  EXPECT_NEAR(got, want.get<double>(), tolerance(dtype) * want.get<double>()) << what << " " << to_string(dtype);
}

TEST(Golden, ForwardAndRunningStatistics) {
  for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
    Setting setting(dtype);
    expect_close(setting.model(setting.inputs), results(dtype)["logits"], dtype, "logits");
    std::size_t buffers = 0;
    for (const auto& [name, buffer] : nn::named_buffers(setting.model)) {
      expect_close(buffer, results(dtype)["running_after_forward"].at(name), dtype, name);
      ++buffers;
    }
    EXPECT_EQ(buffers, results(dtype)["running_after_forward"].size());
  }
}

TEST(Golden, LossAndEveryGradient) {
  for (const Dtype dtype : {Dtype::f64, Dtype::f32})
    for (const char* reduction : {"sum", "mean"}) {
      Setting setting(dtype);
      const Loss loss = setting.loss();
      const Tensor root = std::string(reduction) == "sum" ? loss.sum : loss.mean();
      EXPECT_EQ(loss.denominator.item<double>(), 8);  // two of ten rows are ignored
      expect_close(root.item<double>(), results(dtype)[std::string("loss_") + reduction], dtype, reduction);
      backward(root);
      const json& gradients = results(dtype)[std::string("gradients_of_") + reduction];
      const nn::NamedTensors parameters = setting.model.named_parameters();
      EXPECT_EQ(parameters.size(), gradients.size());
      for (const auto& [name, parameter] : parameters) expect_close(grad(parameter), gradients.at(name), dtype, name);
    }
}

std::unique_ptr<optim::Optimizer> make_optimizer(const std::string& run, std::vector<Tensor> parameters) {
  const json& options = golden()["runs"].at(run);
  if (options.contains("betas"))
    return std::make_unique<optim::AdamW>(std::move(parameters),
                                          optim::AdamWOptions{.lr = options["lr"],
                                                              .beta1 = options["betas"][0],
                                                              .beta2 = options["betas"][1],
                                                              .eps = options["eps"],
                                                              .weight_decay = options["weight_decay"],
                                                              .max_norm = options["max_norm"]});
  return std::make_unique<optim::SGD>(std::move(parameters),
                                      optim::SGDOptions{.lr = options["lr"],
                                                        .momentum = options["momentum"],
                                                        .nesterov = options.value("nesterov", false),
                                                        .weight_decay = options["weight_decay"],
                                                        .max_norm = options["max_norm"]});
}

enum class Form { plain, window };

void check_run(const std::string& run, Dtype dtype, Form form) {
  Setting setting(dtype);
  const auto optimizer = make_optimizer(run, setting.model.parameters());
  const json& want = results(dtype)["runs"].at(run);
  for (std::size_t update = 1; update <= 10; ++update) {
    const std::string what = run + ", update " + std::to_string(update);
    const Loss loss = setting.loss();
    expect_close(loss.mean().item<double>(), want["losses"][update - 1], dtype, "loss of " + what);
    if (form == Form::plain) {
      backward(loss.mean());
      optimizer->step();
      optimizer->zero_grad();
    } else {
      Window window;
      window.backward(loss);
      optimizer->step(window);
    }
    expect_close(optimizer->grad_norm(), want["grad_norms"][update - 1], dtype, "norm of " + what);
    const auto written = want["parameters_after"].find(std::to_string(update));
    if (written == want["parameters_after"].end()) continue;
    for (const auto& [name, parameter] : setting.model.named_parameters())
      expect_close(parameter, written->at(name), dtype, fmt::format("{} of {}", name, what));
  }
  for (const auto& [name, buffer] : nn::named_buffers(setting.model))
    if (name == "1.running_var") expect_close(buffer, want["running_var_after"], dtype, name);
}

TEST(Golden, TenUpdatesOfEveryRun) {
  for (const auto& [run, options] : golden()["runs"].items())
    for (const Dtype dtype : {Dtype::f64, Dtype::f32})
      for (const Form form : {Form::plain, Form::window}) check_run(run, dtype, form);
}

}  // namespace
}  // namespace weft
