// Every layer and loss, forward and backward, against what PyTorch computed (tests/golden/make_layers.py).
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "autograd/cast.h"
#include "autograd/engine.h"
#include "autograd/matmul.h"
#include "nn/activation.h"
#include "nn/batch_norm.h"
#include "nn/embedding.h"
#include "nn/group_norm.h"
#include "nn/layer_norm.h"
#include "nn/linear.h"
#include "nn/loss.h"
#include "nn/rms_norm.h"
#include "nn/softmax.h"
#include "support/compare.h"
#include "support/devices.h"

namespace weft {
namespace {

using nlohmann::json;
using test::DeviceTest;
using test::relative_error;
using test::values;

const json& golden() {
  static const json document = [] {
    std::ifstream file(WEFT_SOURCE_DIR "/tests/golden/layers.json");
    return json::parse(file);
  }();
  return document;
}

// {"shape", "values"} of the file.
Shape shape_of(const json& written) {
  const auto extents = written.at("shape").get<std::vector<std::int64_t>>();
  return Shape(std::span(extents));
}

// What a layer left: the result, the tensors whose gradients the file has, and those that the call changes.
struct Computed {
  Tensor output;
  std::map<std::string, Tensor> leaves, after;
};

// The inputs of an entry, in the dtype and on the device under test.
struct Given {
  const json& entry;
  Dtype dtype;
  Device device;

  Tensor floats(const std::string& name) const { return to(host_floats(name), device); }
  Tensor integers(const std::string& name) const {
    const json& written = entry.at("inputs").at(name);
    return to(Tensor::from_vector(written.at("values").get<std::vector<std::int64_t>>(), shape_of(written)), device);
  }
  Tensor leaf(const std::string& name) const { return set_requires_grad(floats(name)); }
  // Loads the entry's tensors into a module, by their PyTorch names, and moves it.
  template <class M>
  void load(M& module) const {
    nn::NamedTensors state;
    for (const auto& [name, tensor] : nn::state_dict(module)) state.emplace_back(name, host_floats(name));
    nn::load_state_dict(module, state);
    nn::to(module, device);
  }

 private:
  Tensor host_floats(const std::string& name) const {
    const json& written = entry.at("inputs").at(name);
    return cast(Tensor::from_vector(written.at("values").get<std::vector<double>>(), shape_of(written)), dtype);
  }
};

using Handler = std::function<Computed(const Given&)>;

// A module without parameters.
template <class M>
Handler plain(M module) {
  return [module](const Given& given) mutable {
    const Tensor x = given.leaf("x");
    return Computed{module(x), {{"x", x}}, {}};
  };
}

// A module with parameters, made for the dtype.
template <class Make>
Handler layer(Make make) {
  return [make](const Given& given) {
    auto module = make(given.dtype);
    given.load(module);
    const Tensor x = given.leaf("x");
    Computed computed{module(x), {{"x", x}}, {}};
    for (const auto& [name, parameter] : nn::named_parameters(module)) computed.leaves.emplace(name, parameter);
    for (const auto& [name, buffer] : nn::named_buffers(module)) computed.after.emplace(name, buffer);
    return computed;
  };
}
template <class M>
Handler batch_norm(nn::Mode mode) {
  return layer([mode](Dtype dtype) {
    M module(3, {.momentum = 0.1, .dtype = dtype});
    module.mode = mode;
    return module;
  });
}

// The file has the mean: sum / denominator. Ours is PyTorch's for all of them: with class weights the sum of the labels'
// weights, but the number of rows where targets are probabilities (autograd/cross_entropy.h).
enum class Weighted : bool { no, yes };
Handler cross_entropy(const char* target, double label_smoothing, Weighted weighted = Weighted::no) {
  return [=](const Given& given) {
    const nn::CrossEntropyLoss loss{.weight = weighted == Weighted::yes ? given.floats("weight") : Tensor(),
                                    .label_smoothing = label_smoothing};
    const Tensor logits = given.leaf("logits");
    const bool labels = std::string(target) == "labels";
    return Computed{
        loss(logits, labels ? given.integers(target) : given.floats(target)).mean(), {{"logits", logits}}, {}};
  };
}
template <class L>
Handler pointwise(L loss) {
  return [loss](const Given& given) {
    const Tensor input = given.leaf("input"), target = given.leaf("target");
    return Computed{loss(input, target).mean(), {{"input", input}, {"target", target}}, {}};
  };
}
Handler binary_cross_entropy(Weighted weighted) {
  return [=](const Given& given) {
    const nn::BCEWithLogitsLoss loss{.pos_weight = weighted == Weighted::yes ? given.floats("pos_weight") : Tensor()};
    const Tensor input = given.leaf("input");
    return Computed{loss(input, given.floats("target")).mean(), {{"input", input}}, {}};
  };
}

Computed matrix_product(const Given& given) {
  const Tensor a = given.leaf("a"), b = given.leaf("b");
  return {matmul(a, b), {{"a", a}, {"b", b}}, {}};
}
Computed embedding_of_indices(const Given& given) {
  nn::Embedding module(5, 3, {.padding_idx = 2, .dtype = given.dtype});
  given.load(module);
  return {module(given.integers("indices")), {{"weight", module.weight}}, {}};
}

// Options as in make_layers.py.
const std::map<std::string, Handler>& handlers() {
  static const std::map<std::string, Handler> kHandlers = {
      {"relu", plain(nn::ReLU{})},
      {"leaky_relu", plain(nn::LeakyReLU{0.1})},
      {"gelu", plain(nn::GELU{})},
      {"gelu_tanh", plain(nn::GELU{Gelu::tanh})},
      {"silu", plain(nn::SiLU{})},
      {"sigmoid", plain(nn::Sigmoid{})},
      {"tanh", plain(nn::Tanh{})},
      {"softplus", plain(nn::Softplus{.beta = 2, .threshold = 3})},
      {"softmax", plain(nn::Softmax{})},
      {"softmax_dim0", plain(nn::Softmax{0})},
      {"log_softmax", plain(nn::LogSoftmax{})},
      {"linear", layer([](Dtype dtype) { return nn::Linear(5, 4, {.dtype = dtype}); })},
      {"layer_norm", layer([](Dtype dtype) { return nn::LayerNorm(6, {.dtype = dtype}); })},
      {"layer_norm_2d", layer([](Dtype dtype) {
         return nn::LayerNorm(Shape{3, 4}, {.eps = 1e-3, .dtype = dtype});
       })},
      {"rms_norm", layer([](Dtype dtype) { return nn::RmsNorm(6, {.eps = 1e-6, .dtype = dtype}); })},
      {"group_norm", layer([](Dtype dtype) { return nn::GroupNorm(2, 4, {.dtype = dtype}); })},
      {"matmul", matrix_product},
      {"embedding", embedding_of_indices},
      {"batch_norm_1d_train", batch_norm<nn::BatchNorm1d>(nn::Mode::train)},
      {"batch_norm_1d_eval", batch_norm<nn::BatchNorm1d>(nn::Mode::eval)},
      {"batch_norm_2d_train", batch_norm<nn::BatchNorm2d>(nn::Mode::train)},
      {"batch_norm_2d_eval", batch_norm<nn::BatchNorm2d>(nn::Mode::eval)},
      {"cross_entropy", cross_entropy("labels", 0)},
      {"cross_entropy_smoothed", cross_entropy("labels", 0.1)},
      {"cross_entropy_weighted", cross_entropy("labels", 0, Weighted::yes)},
      {"cross_entropy_weighted_smoothed", cross_entropy("labels", 0.1, Weighted::yes)},
      {"cross_entropy_soft", cross_entropy("soft", 0)},
      {"cross_entropy_soft_smoothed", cross_entropy("soft", 0.2)},
      {"cross_entropy_soft_weighted", cross_entropy("soft", 0, Weighted::yes)},
      {"mse_loss", pointwise(nn::MSELoss{})},
      {"l1_loss", pointwise(nn::L1Loss{})},
      {"huber_loss", pointwise(nn::HuberLoss{.delta = 0.75})},
      {"binary_cross_entropy_with_logits", binary_cross_entropy(Weighted::no)},
      {"binary_cross_entropy_with_logits_weighted", binary_cross_entropy(Weighted::yes)},
  };
  return kHandlers;
}

double tolerance(Dtype dtype) { return dtype == Dtype::f64 ? 1e-12 : 1e-5; }

void expect_close(const Tensor& got, const json& want, Dtype dtype, const std::string& what) {
  ASSERT_TRUE(got.defined()) << what;
  EXPECT_EQ(got.shape().str(), shape_of(want).str()) << what;
  EXPECT_LE(relative_error(values(test::back(got.alias())), want.at("values").get<std::vector<double>>()),
            tolerance(dtype))
      << what;
}

// Every tensor of the file has one of ours, and the other way round.
void expect_same_names(const std::map<std::string, Tensor>& ours, const json& theirs, const char* what) {
  for (const auto& [name, tensor] : ours) EXPECT_TRUE(theirs.contains(name)) << what << " " << name;
  for (const auto& [name, written] : theirs.items()) EXPECT_TRUE(ours.contains(name)) << what << " " << name;
}

class GoldenLayersOn : public DeviceTest {};

TEST_P(GoldenLayersOn, EqualPyTorch) {
  for (const json& entry : golden().at("entries")) {
    const auto handler = handlers().find(entry.at("name"));
    if (handler == handlers().end()) continue;  // EveryEntryIsHandled
    for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
      SCOPED_TRACE(fmt::format("{} {}", handler->first, to_string(dtype)));
      const Computed computed = handler->second(Given{entry, dtype, device()});
      const json& dy = entry.at("dy");
      const Tensor seed = Tensor::from_vector(dy.at("values").get<std::vector<double>>(), shape_of(dy));
      backward(computed.output, here(cast(seed, computed.output.dtype())));
      expect_close(computed.output, entry.at("output"), dtype, "output");
      expect_same_names(computed.leaves, entry.at("gradients"), "gradient");
      for (const auto& [name, gradient] : entry.at("gradients").items())
        expect_close(grad(computed.leaves.at(name)), gradient, dtype, "gradient of " + name);
      const json after = entry.value("after", json::object());
      expect_same_names(computed.after, after, "after");
      for (const auto& [name, tensor] : after.items())
        expect_close(computed.after.at(name), tensor, dtype, name + " after");
    }
  }
}

WEFT_DEVICE_SUITE(GoldenLayersOn);

TEST(GoldenLayers, EveryEntryIsHandled) {
  std::set<std::string> written;
  for (const json& entry : golden().at("entries")) {
    const auto name = entry.at("name").get<std::string>();
    EXPECT_TRUE(written.insert(name).second) << name << " is in layers.json twice";
    EXPECT_TRUE(handlers().contains(name)) << name << " needs a handler";
  }
  for (const auto& [name, handler] : handlers())
    EXPECT_TRUE(written.contains(name)) << name << " is not in layers.json";
}

}  // namespace
}  // namespace weft
