// Training on sequences, whatever the batching: over an epoch the data layer's own batches give the same gradient padded,
// bucketed, to a token budget and packed, however updates are cut; and dropout, keyed by sample and position, the same masks.
#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "autograd/cross_entropy.h"
#include "autograd/engine.h"
#include "data/loader.h"
#include "data/sequence_batches.h"
#include "data/text_documents.h"
#include "nn/init.h"
#include "support/byte_mlp.h"
#include "support/compare.h"
#include "support/devices.h"
#include "train/partition.h"

namespace weft {
namespace {

using data::Batching;
using data::LossMean;
using data::SequenceBatches;
using data::SequencePlanOptions;
using test::back;
using test::ByteMlp;
using test::relative_error;
using test::values;

ByteMlp make_model(Dtype dtype, double dropout) {
  return ByteMlp({.embedding = 4, .hidden = 16, .dtype = dtype, .dropout = dropout});
}

// Lines of 1 to 60 letters, and an empty end: 40 texts.
data::TextDocuments texts() {
  std::string all;
  for (std::size_t i = 0; i < 40; ++i) {
    for (std::size_t k = 0; k < 1 + i * 37 % 60; ++k) all += static_cast<char>('a' + (i * 7 + k * k) % 26);
    all += '\n';
  }
  return data::TextDocuments::from_text("lines", all, {.split = data::DocumentSplit::line, .end_of_text = true});
}

Loss loss_of(ByteMlp& model, const data::MicroBatch& micro) {
  return cross_entropy(model(micro.input, micro.segments), micro.target, {.token_weights = micro.weight});
}

struct Result {
  std::vector<double> gradient;
  double loss = 0, denominator = 0;
  std::int64_t tokens = 0, places = 0;
};

// The gradient of a whole epoch at fixed parameters: all updates in one window.
Result epoch_of(const SequencePlanOptions& plan, LossMean mean, Dtype dtype, Device device, double p = 0) {
  nn::manual_seed(7);
  ByteMlp model = make_model(dtype, p);
  nn::to(model, device);
  const data::Loader loader(std::make_shared<const SequenceBatches>(texts(), plan, mean), {.device = device});
  Result result;
  Window window;
  for (data::Update& update : loader.epoch(0)) {
    for (data::MicroBatch& micro : update) {
      micro.update =
          to(Tensor::from_vector<std::int64_t>({1}, {}), device);  // one key for all, as they are one batch here
      const auto scope = micro.scope();
      window.backward(loss_of(model, micro));
      result.places += micro.input.numel();
    }
    result.tokens += update.tokens();
  }
  result.loss = window.mean_loss();
  result.denominator = window.denominator().item<double>();
  for (const Tensor& parameter : nn::parameters(model))
    for (const double value : values(back(grad(parameter)))) result.gradient.push_back(value / result.denominator);
  return result;
}

class PackedTraining : public test::DeviceTest {};
WEFT_DEVICE_SUITE(PackedTraining);

TEST_P(PackedTraining, EveryBatchingGivesTheSameGradientOverAnEpoch) {
  const std::vector<std::pair<std::string, SequencePlanOptions>> plans = {
      {"full batch", {.batching = Batching::pad, .batch = data::FullBatch{}, .length = 64}},
      {"pad", {.batching = Batching::pad, .batch = data::MiniBatch{7}, .length = 64, .accumulate = 2}},
      {"pad to 64",
       {.batching = Batching::pad, .batch = data::MiniBatch{7}, .length = 64, .pad_to = data::PadTo::length}},
      {"bucket", {.batching = Batching::bucket, .batch = data::MiniBatch{6}, .length = 64}},
      {"tokens", {.batching = Batching::tokens, .batch = data::TokenBatch{200}, .length = 64}},
      {"best fit", {.batching = Batching::pack, .batch = data::MiniBatch{3}, .length = 64}},
      {"best fit, single rows",
       {.batching = Batching::pack, .batch = data::MiniBatch{3}, .length = 64, .accumulate = 3}},
      {"next fit",
       {.batching = Batching::pack, .batch = data::MiniBatch{2}, .length = 64, .packer = data::Packer::next_fit}},
      {"by samples",
       {.batching = Batching::pack, .batch = data::MiniBatch{9}, .unit = data::RowUnit::samples, .length = 128}},
  };
  const std::vector<Dtype> dtypes = emulated() ? std::vector{Dtype::f32} : std::vector{Dtype::f32, Dtype::f64};
  for (const Dtype dtype : dtypes)
    for (const LossMean mean : {LossMean::token, LossMean::sequence}) {
      if (emulated() && mean == LossMean::sequence) continue;
      const double p = mean == LossMean::token ? 0.2 : 0.0;
      const Result first = epoch_of(plans[0].second, mean, dtype, device(), p);
      for (const auto& [name, plan] : plans) {
        if (emulated() && name != "tokens" && name != "best fit" && name != "pad") continue;  // seconds
        SCOPED_TRACE(name + ", " + std::string(to_string(dtype)) + (mean == LossMean::token ? "" : ", sequences"));
        const Result result = epoch_of(plan, mean, dtype, device(), p);
        EXPECT_EQ(result.tokens, first.tokens);
        EXPECT_NEAR(result.denominator, first.denominator, mean == LossMean::token ? 0 : 1e-5);
        EXPECT_NEAR(result.loss, first.loss, dtype == Dtype::f32 ? 2e-6 : 1e-12);
        EXPECT_LE(relative_error(result.gradient, first.gradient), dtype == Dtype::f32 ? 1e-6 : 1e-12);
        if (name == "best fit") { EXPECT_LT(result.places, first.places / 1.5); }
      }
    }
}

// The example's certificate, on the batches that the data layer makes.
TEST(PackedTraining, TheCertificateHolds) {
  for (const Batching batching : {Batching::pad, Batching::bucket, Batching::tokens, Batching::pack})
    for (const LossMean mean : {LossMean::token, LossMean::sequence}) {
      SequencePlanOptions plan{.batching = batching, .batch = data::MiniBatch{8}, .length = 48, .accumulate = 3};
      if (batching == Batching::tokens) plan.batch = data::TokenBatch{300};
      const SequenceBatches source(texts(), plan, mean);  // texts of more than 48 bytes are split
      nn::manual_seed(7);
      ByteMlp model = make_model(Dtype::f64, 0.1);
      const auto report = train::verify_partition(
          model, [&](const data::MicroBatch& micro) { return loss_of(model, micro); }, source, {.index = 1});
      EXPECT_TRUE(report.passed()) << report.text();
    }
}

}  // namespace
}  // namespace weft
