#include "train/evaluation.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "autograd/node.h"
#include "data/sample_batches.h"
#include "nn/linear.h"
#include "nn/sequential.h"
#include "tests/support/points.h"

namespace weft::train {
namespace {

using test::kClasses;
using test::kFeatures;
using test::points;
using test::squared;

TEST(Evaluation, CountsEverySampleOnce) {
  // Logits that are the input; the label is the largest, except in the last row.
  const Tensor input = Tensor::from_vector<float>({3, 1, 0, 0, 2, 2, -1, 0, 5}, {3, 3});
  const Tensor target = Tensor::from_vector<std::int64_t>({0, 1, 0}, {3});
  nn::Mode mode = nn::Mode::train;
  bool evaluating = true;
  const Model model{.forward =
                        [&](const data::MicroBatch& micro) {
                          evaluating = evaluating && mode == nn::Mode::eval && !grad_mode();
                          return micro.input;
                        },
                    .set_mode = [&](nn::Mode m) { mode = m; },
                    .parameters = {},
                    .buffers = {}};
  const Evaluation result = evaluate(model, squared, data::TensorDataset{input, target}, {});
  EXPECT_TRUE(evaluating);
  EXPECT_EQ(mode, nn::Mode::train);
  EXPECT_EQ(result.samples, 3);
  EXPECT_EQ(result.predicted, (std::vector<std::int64_t>{0, 1, 2})) << "the first among equals";
  EXPECT_DOUBLE_EQ(*result.accuracy(), 2.0 / 3);
  // (4 + 1 + 0) + (0 + 1 + 4) + (4 + 0 + 25), exact in f32
  EXPECT_DOUBLE_EQ(result.loss, 39.0 / 3);
  EXPECT_NEAR(result.confidence[0], std::exp(3) / (std::exp(3) + std::exp(1) + 1), 1e-6) << "rounded to f32";
}

TEST(Evaluation, SurvivesLogitsThatAreNotFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor input = Tensor::from_vector<float>({0, nan, 1, nan, nan, nan}, {2, 3});
  const Model model{.forward = [](const data::MicroBatch& micro) { return micro.input; },
                    .set_mode = [](nn::Mode) {},
                    .parameters = {},
                    .buffers = {}};
  const Evaluation result =
      evaluate(model, squared, data::TensorDataset{input, Tensor::from_vector<std::int64_t>({1, 1}, {2})}, {});
  EXPECT_EQ(result.predicted, (std::vector<std::int64_t>{1, 0})) << "a NaN counts as the largest, as in argmax";
  EXPECT_TRUE(std::isnan(result.confidence[0]));
  EXPECT_TRUE(std::isnan(result.loss));
}

TEST(Evaluation, ManyBatches) {
  const data::TensorDataset dataset = points(2345, 9);
  nn::Sequential network{nn::Linear{kFeatures, kClasses}};
  const Evaluation result = evaluate(Model::of(network), squared, dataset, {});
  EXPECT_EQ(result.samples, 2345);
  EXPECT_EQ(result.truth.size(), 2345u);
  for (std::size_t i = 0; i < result.truth.size(); ++i)
    EXPECT_EQ(result.truth[i], static_cast<std::int64_t>(i) % kClasses);

  EXPECT_EQ(evaluate(Model::of(network), squared, dataset, {}, 1234).truth.size(), 1234u);
  EXPECT_EQ(evaluate(Model::of(network), squared, dataset, {}, 9999).samples, 2345);
}

TEST(Evaluation, OfASourceIsTheSameAndSeesWholeUpdates) {
  const auto dataset = std::make_shared<const data::TensorDataset>(points(95, 9));
  nn::Sequential network{nn::Linear{kFeatures, kClasses}};
  const Evaluation want = evaluate(Model::of(network), squared, *dataset, {});
  const auto source = std::make_shared<const data::SampleBatches>(
      dataset, data::PlanOptions{.batch = data::MiniBatch{10}, .accumulate = 3, .order = data::Order::sequential});
  const Evaluation got = evaluate(Model::of(network), squared, source, {});
  EXPECT_EQ(got.samples, 95);
  EXPECT_EQ(got.truth, want.truth);
  EXPECT_EQ(got.predicted, want.predicted);
  EXPECT_NEAR(got.loss, want.loss, 1e-5 * want.loss) << "the same sums of f32 numbers, cut otherwise";
  EXPECT_EQ(evaluate(Model::of(network), squared, source, {}, 21).samples, 30);
}

// A loss and a model may ask for the whole micro-batch.
TEST(Evaluation, ModelAndLossSeeTheMicroBatch) {
  struct Weighted {
    Tensor operator()(const data::MicroBatch& micro) { return micro.input; }
    void visit(nn::Visitor&) {}
  } module;
  std::int64_t rows = 0;
  const auto loss = [&](const Tensor& output, const data::MicroBatch& micro) {
    EXPECT_EQ(micro.sample_ids.numel(), output.size(0));
    rows += output.size(0);
    return squared(output.slice(1, 0, kClasses), micro.target);
  };
  evaluate(Model::of(module), loss, points(2345, 9), {});
  EXPECT_EQ(rows, 2345);
}

}  // namespace
}  // namespace weft::train
