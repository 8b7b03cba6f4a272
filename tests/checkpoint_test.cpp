#include "train/checkpoint.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "autograd/engine.h"
#include "autograd/factories.h"
#include "data/safetensors.h"
#include "nn/batch_norm.h"
#include "nn/init.h"
#include "nn/linear.h"
#include "nn/sequential.h"
#include "optim/adamw.h"
#include "optim/sgd.h"
#include "tests/support/compare.h"
#include "tests/support/npy_files.h"
#include "tests/support/points.h"

namespace weft::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using test::bitwise_equal;
using test::message_of;

#define EXPECT_SAYS(message, text) EXPECT_NE((message).find(text), std::string::npos) << (message)

/// A model and its optimizer after `updates` updates.
struct Trained {
  explicit Trained(int updates = 3, bool sgd = false) {
    nn::manual_seed(3);
    module = nn::Sequential{nn::Linear{test::kFeatures, 5}, nn::BatchNorm1d{5}, nn::Linear{5, test::kClasses}};
    parameters = nn::named_parameters(module);
    std::vector<Tensor> tensors;
    for (const auto& [name, tensor] : parameters) tensors.push_back(tensor);
    if (sgd)
      optimizer = std::make_unique<optim::SGD>(tensors, optim::SGDOptions{.lr = 0.1, .momentum = 0.9});
    else
      optimizer = std::make_unique<optim::AdamW>(tensors);
    const data::TensorDataset points = test::points(12, 1);
    const std::vector<std::int64_t> ids{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    for (int i = 0; i < updates; ++i) {
      const data::Batch batch = points.collate(ids);
      optimizer->zero_grad();
      backward(test::squared(module(batch.input), batch.target).mean());
      optimizer->step();
    }
    optimizer->zero_grad();
    run.update = updates;
    run.epochs.push_back({.epoch = 0, .updates = updates, .samples = 12 * updates});
  }
  Checkpoint checkpoint() {
    return {.run = run, .model = nn::state_dict(module), .optimizer = optimizer_state(*optimizer, parameters)};
  }
  nn::Sequential module;
  nn::NamedTensors parameters;
  std::unique_ptr<optim::Optimizer> optimizer;
  RunState run{.example = "test"};
};

class CheckpointTest : public ::testing::Test {
 protected:
  fs::path file() const { return folder_.path() / kCheckpointFile; }
  void save(Trained& trained) { save_checkpoint(file(), trained.checkpoint()); }
  /// Rewrites the file with its tensors and its state changed.
  template <class F>
  void change(F&& f) {
    data::SafeTensors stored = data::load_safetensors(file());
    Json state = Json::parse(stored.metadata.at("weft"));
    f(stored.tensors, state);
    stored.metadata["weft"] = state.dump();
    data::save_safetensors(file(), stored.tensors, stored.metadata);
  }
  static Tensor& find(data::NamedTensors& tensors, const std::string& name) {
    for (auto& [candidate, tensor] : tensors)
      if (candidate == name) return tensor;
    throw Error("no tensor " + name);
  }
  /// The error that restoring into `own` gives; `own` must be as it was then.
  std::string error(Trained& own) {
    const Checkpoint before = own.checkpoint();
    std::vector<std::vector<double>> values;
    for (const auto* part : {&before.model, &before.optimizer})
      for (const auto& named : *part) values.push_back(test::values(named.second));
    std::string message = message_of<IoError>(
        [&] { restore(file(), load_checkpoint(file()), nn::state_dict(own.module), *own.optimizer, own.parameters); });
    std::size_t i = 0;
    for (const auto* part : {&before.model, &before.optimizer})
      for (const auto& [name, tensor] : *part) EXPECT_EQ(test::values(tensor), values[i++]) << name;
    return message;
  }
  std::string error() {
    Trained own(0);
    return error(own);
  }
  std::string error_of_state(const std::string& key, const Json& value) {
    Trained trained;
    save(trained);
    change([&](data::NamedTensors&, Json& state) { state[key] = value; });
    return error();
  }

  test::TemporaryFolder folder_;
};

TEST_F(CheckpointTest, GivesBackEveryBit) {
  for (const bool sgd : {false, true}) {
    Trained trained(3, sgd), other(0, sgd);
    trained.run = {.example = "an example, \xc3\xbc",
                   .config = {{"lr", 0.1},
                              {"seed", std::uint64_t{1} << 63},
                              {"norm", std::string("layer")},
                              {"none", {}},
                              {"drop_last", true},
                              {"epochs", std::int64_t{3}}},
                   .data = "points",
                   .data_samples = 12,
                   .plan_hash = ~std::uint64_t{0},
                   .seed = ~std::uint64_t{0} - 1,
                   .epoch = 1,
                   .cursor = 4,
                   .update = 3,
                   .variants_hash = 17,
                   .metrics_bytes = 1234,
                   .samples = 36,
                   .tokens = 99,
                   .wall_s = 0.1 + 0.2,
                   .epochs = {{.epoch = 0,
                               .updates = 2,
                               .samples = 24,
                               .tokens = 66,
                               .complete = true,
                               .seconds = 1.0 / 3,
                               .train_loss = 0.7,
                               .test_loss = 0.5,
                               .test_accuracy = 1.0 / 7},
                              {.epoch = 1,
                               .updates = 1,
                               .samples = 12,
                               .tokens = 33,
                               .train_loss = std::numeric_limits<double>::quiet_NaN()}},
                   .loss_sum = 1e-300,
                   .losses = 5,
                   .history = {}};
    for (int update = 1; update <= 5000; ++update)
      trained.run.history.add(update, update == 7 ? std::nan("") : 1.0 / update);
    save(trained);

    const Checkpoint got = load_checkpoint(file());
    const RunState &a = got.run, &b = trained.run;
    EXPECT_EQ(a.example, b.example);
    EXPECT_EQ(changed_options(a.config, b.config, {}), "");
    EXPECT_EQ(a.config.size(), b.config.size());
    EXPECT_EQ(a.data, b.data);
    EXPECT_EQ(std::tie(a.data_samples, a.plan_hash, a.seed, a.epoch, a.cursor, a.update, a.variants_hash,
                       a.metrics_bytes, a.samples, a.tokens, a.wall_s, a.loss_sum, a.losses),
              std::tie(b.data_samples, b.plan_hash, b.seed, b.epoch, b.cursor, b.update, b.variants_hash,
                       b.metrics_bytes, b.samples, b.tokens, b.wall_s, b.loss_sum, b.losses));
    ASSERT_EQ(a.epochs.size(), 2u);
    EXPECT_EQ(a.epochs[0].seconds, b.epochs[0].seconds);
    EXPECT_EQ(a.epochs[0].tokens, 66);
    EXPECT_TRUE(a.epochs[0].complete);
    EXPECT_EQ(a.epochs[0].test_accuracy, b.epochs[0].test_accuracy);
    EXPECT_TRUE(std::isnan(a.epochs[1].train_loss));
    EXPECT_FALSE(a.epochs[1].test_loss.has_value());
    ASSERT_EQ(a.history.points().size(), b.history.points().size());
    EXPECT_EQ(a.history.stride(), b.history.stride());
    EXPECT_EQ(a.history.in_last(), b.history.in_last());
    EXPECT_EQ(a.history.bad(), 1);
    for (std::size_t i = 0; i < a.history.points().size(); ++i)
      EXPECT_EQ(a.history.points()[i].mean, b.history.points()[i].mean);
    EXPECT_EQ(load_run_state(file()).update, 3);

    EXPECT_TRUE(restore(file(), got, nn::state_dict(other.module), *other.optimizer, other.parameters).empty());
    const Checkpoint want = trained.checkpoint(), restored = other.checkpoint();
    ASSERT_EQ(restored.optimizer.size(), want.optimizer.size());
    for (std::size_t i = 0; i < want.optimizer.size(); ++i)
      EXPECT_TRUE(bitwise_equal(restored.optimizer[i].second, want.optimizer[i].second)) << want.optimizer[i].first;
    for (std::size_t i = 0; i < want.model.size(); ++i)
      EXPECT_TRUE(bitwise_equal(restored.model[i].second, want.model[i].second)) << want.model[i].first;
    EXPECT_EQ(other.optimizer->updates(), 3);
  }
}

// Names that say what a tensor is, in a file that other programs open.
TEST_F(CheckpointTest, NamesItsTensors) {
  Trained trained;
  save(trained);
  std::map<std::string, Shape> shapes;
  for (const auto& [name, tensor] : data::load_safetensors(file()).tensors) shapes.emplace(name, tensor.shape());
  EXPECT_EQ(shapes.at("model.0.weight"), Shape({5, 8}));
  EXPECT_EQ(shapes.at("model.1.running_mean"), Shape({5}));
  EXPECT_EQ(shapes.at("optimizer.0.weight.m"), Shape({5, 8}));
  EXPECT_EQ(shapes.at("optimizer.2.bias.v"), Shape({3}));
  EXPECT_EQ(shapes.at("optimizer.step"), Shape({6}));
  EXPECT_EQ(shapes.at("optimizer.counters"), Shape({5}));
}

TEST_F(CheckpointTest, OtherModels) {
  Trained trained;
  save(trained);
  const auto changed = [&](const auto& f) {
    save(trained);
    change([&](data::NamedTensors& tensors, Json&) { f(tensors); });
    return error();
  };
  const auto erase = [](data::NamedTensors& tensors, const std::string& name) {
    std::erase_if(tensors, [&](const auto& named) { return named.first == name; });
  };
  EXPECT_SAYS(changed([&](auto& t) { erase(t, "model.2.bias"); }), "has no tensor '2.bias' f32 [3] for the model");
  EXPECT_SAYS(changed([&](auto& t) { erase(t, "model.1.running_var"); }), "has no tensor '1.running_var'");
  EXPECT_SAYS(changed([](auto& t) { t.emplace_back("model.3.weight", zeros({2})); }),
              "has the tensor '3.weight' f32 [2], which the model has not");
  EXPECT_SAYS(changed([](auto& t) {
                find(t, "model.0.weight") = zeros({8, 5});
              }),
              "has '0.weight' as f32 [8, 5] but the model has f32 [5, 8]");
  EXPECT_SAYS(changed([](auto& t) { find(t, "model.0.weight") = zeros({5, 8}, Dtype::f64); }), "as f64 [5, 8] but");
  EXPECT_SAYS(changed([](auto& t) { t.emplace_back("extra", zeros({2})); }),
              "the tensor 'extra', which is of no known part");
}

TEST_F(CheckpointTest, OtherOptimizers) {
  Trained trained, sgd(0, true);
  save(trained);
  EXPECT_SAYS(error(sgd), "has no tensor '0.weight.momentum' f32 [5, 8] for the optimizer");
  Trained with_momentum(3, true);
  save(with_momentum);
  EXPECT_SAYS(error(), "has no tensor '0.weight.m' f32 [5, 8] for the optimizer");
  const auto changed = [&](const auto& f) {
    save(trained);
    change([&](data::NamedTensors& tensors, Json&) { f(tensors); });
    return error();
  };
  EXPECT_SAYS(changed([](auto& t) { find(t, "optimizer.step") = zeros({7}, Dtype::i64); }),
              "has 'step' as i64 [7] but the optimizer has i64 [6]");
  EXPECT_SAYS(changed([](auto& t) { find(t, "optimizer.step").template data<std::int64_t>()[1] = -1; }),
              "the state's step of parameter 1 must be in [0, 3], the updates that were applied, but is -1");
  EXPECT_SAYS(
      changed([](auto& t) { find(t, "optimizer.step").template data<std::int64_t>()[5] = std::int64_t{1} << 62; }),
      "but is 4611686018427387904");
  const auto counters = [&](std::vector<std::int64_t> values) {
    return changed([&](auto& t) { find(t, "optimizer.counters") = Tensor::from_vector(values, {5}); });
  };
  EXPECT_SAYS(counters({4, 4, 0, 0, 0}), "holds an optimizer that made 4 updates in a run that made 3");
  EXPECT_SAYS(counters({3, -1, 0, 0, 0}), "the state's counters cannot be: 3 updates, -1 applied");
  EXPECT_SAYS(counters({3, 4, 0, 0, 0}), "counters cannot be");
  EXPECT_SAYS(counters({3, 2, 0, 0, 0}), "counters cannot be");
  EXPECT_SAYS(counters({3, 2, 1, 0, 2}), "counters cannot be");
  EXPECT_SAYS(counters({3, 2, std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::max(), 1}),
              "counters cannot be");
}

TEST_F(CheckpointTest, StatesThatCannotBe) {
  EXPECT_SAYS(error_of_state("version", 2),
              "was written by a newer weft: its format is version 2 but this one reads up to 1");
  EXPECT_SAYS(error_of_state("version", 0), "of version 0, which is none");
  EXPECT_SAYS(error_of_state("version", "1"), "whose 'version' must be a whole number");
  EXPECT_SAYS(error_of_state("update", -1), "whose 'update' must be a whole number in [0, 2^63) but is -1");
  EXPECT_SAYS(error_of_state("update", 1e30), "whose 'update' must be a whole number");
  EXPECT_SAYS(error_of_state("update", ~std::uint64_t{0}), "but is 18446744073709551615");
  EXPECT_SAYS(error_of_state("update", 4), "with 3 updates in its epochs but 4 made");
  EXPECT_SAYS(error_of_state("update", 2), "with more updates in its epochs than the 2 that it has made");
  EXPECT_SAYS(error_of_state("cursor", nullptr), "whose 'cursor' must be a whole number in [0, 2^63) but is null");
  EXPECT_SAYS(error_of_state("epochs", Json::object()), "whose 'epochs' is no list");
  EXPECT_SAYS(error_of_state("epochs", Json::array({1})), "a state that is no object");
  EXPECT_SAYS(error_of_state("config", 3), "whose 'config' is no object");
  EXPECT_SAYS(error_of_state("seed", -3), "whose 'seed' must be a number but is -3");
  EXPECT_SAYS(error_of_state("example", 3), "whose 'example' must be a text but is 3");
  EXPECT_SAYS(error_of_state("loss_sum", "much"), "whose 'loss_sum' must be a number but is \"much\"");
  Trained trained;
  save(trained);
  change([](data::NamedTensors&, Json& state) { state.erase("metrics_bytes"); });
  EXPECT_SAYS(error(), "a state without 'metrics_bytes'");
  save(trained);
  change([](data::NamedTensors& tensors, Json&) { find(tensors, "history.values") = zeros({1, 3}); });
  EXPECT_SAYS(error(), "holds no loss curve");
}

TEST_F(CheckpointTest, FilesThatAreNoCheckpoint) {
  data::save_safetensors(file(), {{"x", zeros({2})}}, {{"format", "pt"}});
  EXPECT_SAYS(error(), "is no checkpoint: its metadata has no 'weft'; give the checkpoint.safetensors of a run");
  data::save_safetensors(file(), {}, {{"weft", "{"}});
  EXPECT_SAYS(error(), "holds a state that is no valid JSON");
  data::save_safetensors(file(), {}, {{"weft", "[]"}});
  EXPECT_SAYS(error(), "holds a state that is no object");
  fs::remove(file());
  EXPECT_SAYS(error(), "there is no file");
}

TEST_F(CheckpointTest, WeightsThatAreNotFiniteAreLoadedWithAWarning) {
  Trained trained, other(0);
  trained.parameters[0].second.data<float>()[3] = std::numeric_limits<float>::quiet_NaN();
  trained.parameters[0].second.data<float>()[4] = std::numeric_limits<float>::infinity();
  save(trained);
  const auto warnings = restore_model(file(), load_checkpoint(file()), nn::state_dict(other.module));
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_SAYS(warnings[0], "warning: 2 of 40 values of '0.weight' are not finite in ");
  EXPECT_TRUE(bitwise_equal(other.parameters[0].second, trained.parameters[0].second));
}

TEST_F(CheckpointTest, MovesBetweenDevices) {
  Trained trained, other(0);
  save(trained);
  nn::to(other.module, Device{DeviceKind::simt});
  const Checkpoint checkpoint = load_checkpoint(file());
  restore(file(), checkpoint, nn::state_dict(other.module), *other.optimizer, other.parameters);
  save_checkpoint(folder_.path() / "again.safetensors",
                  {.run = checkpoint.run,
                   .model = nn::state_dict(other.module),
                   .optimizer = optimizer_state(*other.optimizer, other.parameters)});
  EXPECT_EQ(test::file_bytes(folder_.path() / "again.safetensors"), test::file_bytes(file()));
}

TEST(ChangedOptions, AreNamedWithBothValues) {
  const std::vector<Setting> then{
      {"lr", 0.1}, {"norm", std::string("layer")}, {"max_updates", {}}, {"seed", std::uint64_t{3}}};
  EXPECT_EQ(changed_options(then, then, {}), "");
  EXPECT_EQ(changed_options({{"seed", std::int64_t{3}}, {"new", true}}, then, {}), "")
      << "3 is 3; what it had not, it had not";
  EXPECT_EQ(changed_options({{"lr", 1.0}, {"norm", std::string("batch")}, {"max_updates", std::int64_t{4}}}, then, {}),
            "--lr is 1.0 but was 0.1, --norm is 'batch' but was 'layer', --max-updates is 4 but was not given");
  EXPECT_EQ(changed_options({{"lr", 1.0}, {"max_updates", std::int64_t{4}}}, then, {"max_updates", "lr"}), "");
}

}  // namespace
}  // namespace weft::train
