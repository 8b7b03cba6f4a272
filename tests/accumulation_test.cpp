// The central promise of the data layer: however an update is cut into micro-batches, its gradient is the whole batch's.
#include <cmath>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/cross_entropy.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/linear.h"
#include "data/loader.h"
#include "data/tensor_dataset.h"
#include "nn/activation.h"
#include "nn/init.h"
#include "nn/layer_norm.h"
#include "nn/linear.h"
#include "nn/sequential.h"
#include "support/compare.h"

namespace weft {
namespace {

constexpr std::int64_t kSamples = 1000, kFeatures = 50, kClasses = 10;

// The example's MLP at a smaller width.
nn::Sequential mlp(bool layer_norm, Dtype dtype) {
  nn::manual_seed(3);
  nn::Sequential model{nn::Linear{kFeatures, 64, {.dtype = dtype}}};
  if (layer_norm) model.push(nn::LayerNorm{64, {.dtype = dtype}});
  model.push(nn::ReLU{});
  model.push(nn::Linear{64, 32, {.dtype = dtype}});
  if (layer_norm) model.push(nn::LayerNorm{32, {.dtype = dtype}});
  model.push(nn::ReLU{});
  model.push(nn::Linear{32, kClasses, {.dtype = dtype}});
  return model;
}

struct Result {
  std::vector<std::vector<double>> gradients;  // of the sum, per parameter
  double sum = 0, denominator = 0;
};

// One full-batch update in K micro-batches. Every seventh target is masked, so that micro-batches count differently.
Result full_batch(bool layer_norm, Dtype dtype, std::int64_t accumulate) {
  nn::Sequential model = mlp(layer_norm, dtype);
  const Tensor targets = Tensor::empty({kSamples}, Dtype::i64);
  for (std::int64_t i = 0; i < kSamples; ++i) targets.data<std::int64_t>()[i] = i % 7 == 0 ? -100 : i * 31 % kClasses;
  const data::Loader loader{data::TensorDataset{randn({kSamples, kFeatures}, 4, dtype), targets},
                            {.batch = data::FullBatch{}, .accumulate = accumulate}};
  Result result;
  for (data::Update& update : loader.epoch(0)) {
    for (const data::MicroBatch& micro : update) update.backward(cross_entropy(model(micro.input), micro.target));
    result.sum = update.window().sum().item<double>();
    result.denominator = update.window().denominator().item<double>();
  }
  for (const Tensor& parameter : model.parameters()) result.gradients.push_back(test::values(grad(parameter)));
  return result;
}

TEST(Accumulation, AnySplitGivesTheGradientOfTheFullBatch) {
  for (const bool layer_norm : {true, false})
    for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
      const Result whole = full_batch(layer_norm, dtype, 1);
      EXPECT_EQ(whole.denominator, 857);  // 143 of 1000 are masked
      // Equal parts, ragged parts, single samples.
      for (const std::int64_t accumulate : {2, 20, 7, 13, 999, 1000}) {
        const Result split = full_batch(layer_norm, dtype, accumulate);
        EXPECT_EQ(split.denominator, whole.denominator);
        EXPECT_NEAR(split.sum, whole.sum, std::fabs(whole.sum) * (dtype == Dtype::f32 ? 1e-6 : 1e-13));
        std::vector<double> all_split, all_whole;
        for (std::size_t p = 0; p < whole.gradients.size(); ++p) {
          // A tensor's own error can exceed the whole's: small gradients are sums of large terms that cancel.
          EXPECT_LE(test::relative_error(split.gradients[p], whole.gradients[p]), dtype == Dtype::f32 ? 5e-6 : 5e-12)
              << "parameter " << p << ", K = " << accumulate << ", " << to_string(dtype);
          all_split.insert(all_split.end(), split.gradients[p].begin(), split.gradients[p].end());
          all_whole.insert(all_whole.end(), whole.gradients[p].begin(), whole.gradients[p].end());
        }
        const double error = test::relative_error(all_split, all_whole);
        EXPECT_LE(error, dtype == Dtype::f32 ? 1e-6 : 1e-12) << "K = " << accumulate << ", " << to_string(dtype);
        RecordProperty(fmt::format("error_{}_{}_k{}", layer_norm ? "layer" : "none", to_string(dtype), accumulate),
                       fmt::format("{:.3g}", error));
      }
    }
}

// The mistake that the contract prevents: the mean of the micro-batches' means.
TEST(Accumulation, TheMeanOfMeansWouldBeWrong) {
  const Result whole = full_batch(false, Dtype::f64, 1);
  nn::Sequential model = mlp(false, Dtype::f64);
  const Tensor x = randn({kSamples, kFeatures}, 4, Dtype::f64), targets = Tensor::empty({kSamples}, Dtype::i64);
  for (std::int64_t i = 0; i < kSamples; ++i) targets.data<std::int64_t>()[i] = i % 7 == 0 ? -100 : i * 31 % kClasses;
  for (const auto& [first, last] : {std::pair<std::int64_t, std::int64_t>{0, 900}, {900, 1000}})
    backward(cross_entropy(model(x.slice(0, first, last)), targets.slice(0, first, last)).mean(),
             full({}, 0.5, Dtype::f64));
  std::vector<double> naive = test::values(grad(model.parameters()[0])), right = whole.gradients[0];
  for (double& value : right) value /= whole.denominator;
  EXPECT_GT(test::relative_error(naive, right), 0.1);
}

}  // namespace
}  // namespace weft
