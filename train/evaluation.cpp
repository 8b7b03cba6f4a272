#include "train/evaluation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/cast.h"
#include "autograd/node.h"

namespace weft::train {
namespace {

constexpr std::int64_t kBatch = 1000;

/// Appends the predictions for logits [B, C] on the cpu.
void predict(const Tensor& logits, const Tensor& target, Evaluation& result) {
  const std::vector<float> values = cast(logits, Dtype::f32).to_vector<float>();
  const std::vector<std::int64_t> truth = target.to_vector<std::int64_t>();
  result.truth.insert(result.truth.end(), truth.begin(), truth.end());
  const auto classes = static_cast<std::size_t>(logits.size(1));
  for (std::size_t row = 0; row < truth.size(); ++row) {
    const float* x = values.data() + row * classes;
    std::size_t best = 0;
    for (std::size_t c = 1; c < classes && !std::isnan(x[best]); ++c)
      if (x[c] > x[best] || std::isnan(x[c])) best = c;
    double sum = 0;
    for (std::size_t c = 0; c < classes; ++c) sum += std::exp(static_cast<double>(x[c]) - static_cast<double>(x[best]));
    result.predicted.push_back(static_cast<std::int64_t>(best));
    result.confidence.push_back(static_cast<float>(1.0 / sum));
  }
}

}  // namespace

std::optional<double> Evaluation::accuracy() const {
  if (truth.empty()) return std::nullopt;
  std::int64_t right = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) right += truth[i] == predicted[i] ? 1 : 0;
  return static_cast<double>(right) / static_cast<double>(truth.size());
}

Evaluation evaluate(const Model& model, const LossFunction& loss, const data::Dataset& dataset, Device device,
                    std::int64_t most) {
  const NoGrad guard;
  const struct Mode {
    explicit Mode(const Model& model) : model(model) { model.set_mode(nn::Mode::eval); }
    ~Mode() { model.set_mode(nn::Mode::train); }
    const Model& model;
  } mode(model);

  Evaluation result;
  double sum = 0, denominator = 0;
  std::vector<std::int64_t> ids;
  const std::int64_t samples = std::min(dataset.size(), most);
  for (; result.samples < samples; result.samples += static_cast<std::int64_t>(ids.size())) {
    ids.resize(static_cast<std::size_t>(std::min(kBatch, samples - result.samples)));
    std::iota(ids.begin(), ids.end(), result.samples);
    const data::Batch batch = dataset.collate(ids);
    const Tensor output = model.forward(to(batch.input, device));
    const Loss batch_loss = loss(output, to(batch.target, device));
    sum += batch_loss.sum.item<double>();
    denominator += batch_loss.denominator.item<double>();
    if (output.rank() == 2 && output.size(1) > 0 && batch.target.rank() == 1 && batch.target.dtype() == Dtype::i64)
      predict(to(output, Device{}), batch.target, result);
  }
  result.loss = sum / denominator;
  return result;
}

}  // namespace weft::train
