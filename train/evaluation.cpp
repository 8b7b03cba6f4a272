#include "train/evaluation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "autograd/cast.h"
#include "autograd/node.h"
#include "data/loader.h"

namespace weft::train {
namespace {

constexpr std::int64_t kBatch = 1000;

/// Evaluation mode for its lifetime, training mode afterwards; no graph is recorded.
class Evaluating {
 public:
  explicit Evaluating(const Model& model) : model_(model) { model_.set_mode(nn::Mode::eval); }
  ~Evaluating() { model_.set_mode(nn::Mode::train); }
  Evaluating(const Evaluating&) = delete;
  Evaluating& operator=(const Evaluating&) = delete;

 private:
  const Model& model_;
  NoGrad guard_;
};

/// Sum and denominator over micro-batches; what they hold is on the device.
struct Total {
  double sum = 0, denominator = 0;
  void add(const Model& model, const LossFunction& loss, const data::MicroBatch& micro, Evaluation& result) {
    const auto scope = micro.scope();
    const Tensor output = model.forward(micro);
    const Loss batch_loss = loss(output, micro);
    sum += batch_loss.sum.item<double>();
    denominator += batch_loss.denominator.item<double>();
    const Tensor& target = micro.target;
    if (output.rank() == 2 && output.size(1) > 0 && target.rank() == 1 && target.dtype() == Dtype::i64) {
      const std::vector<std::int64_t> truth = to(target, Device{}).to_vector<std::int64_t>();
      result.truth.insert(result.truth.end(), truth.begin(), truth.end());
      classify(output, result);
    }
  }
};

}  // namespace

std::optional<double> Evaluation::accuracy() const {
  if (truth.empty()) return std::nullopt;
  std::int64_t right = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) right += truth[i] == predicted[i] ? 1 : 0;
  return static_cast<double>(right) / static_cast<double>(truth.size());
}

void classify(const Tensor& logits, Evaluation& result) {
  const std::vector<float> values = cast(to(logits.alias(), Device{}), Dtype::f32).to_vector<float>();
  const auto classes = static_cast<std::size_t>(logits.size(1));
  for (std::int64_t row = 0; row < logits.size(0); ++row) {
    const float* x = values.data() + static_cast<std::size_t>(row) * classes;
    std::size_t best = 0;
    for (std::size_t c = 1; c < classes && !std::isnan(x[best]); ++c)
      if (x[c] > x[best] || std::isnan(x[c])) best = c;
    double sum = 0;
    for (std::size_t c = 0; c < classes; ++c) sum += std::exp(static_cast<double>(x[c]) - static_cast<double>(x[best]));
    result.predicted.push_back(static_cast<std::int64_t>(best));
    result.confidence.push_back(static_cast<float>(1.0 / sum));
  }
}

Evaluation evaluate(const Model& model, const LossFunction& loss, const data::Dataset& dataset, Device device,
                    std::int64_t most) {
  const Evaluating guard(model);
  Evaluation result;
  Total total;
  const std::int64_t samples = std::min(dataset.size(), most);
  const Tensor update = to(Tensor::from_vector<std::int64_t>({0}, {}), device);
  while (result.samples < samples) {
    const Tensor ids = Tensor::empty({std::min(kBatch, samples - result.samples)}, Dtype::i64);
    const std::span rows(ids.data<std::int64_t>(), static_cast<std::size_t>(ids.numel()));
    std::iota(rows.begin(), rows.end(), result.samples);
    const data::Batch batch = dataset.collate(rows);
    data::MicroBatch micro;
    micro.input = to(batch.input, device);
    micro.target = to(batch.target, device);
    micro.sample_ids = to(ids, device);
    micro.update = update;
    total.add(model, loss, micro, result);
    result.samples += ids.numel();
  }
  result.loss = total.sum / total.denominator;
  return result;
}

Evaluation evaluate(const Model& model, const LossFunction& loss, std::shared_ptr<const data::BatchSource> source,
                    Device device, std::int64_t most) {
  const Evaluating guard(model);
  Evaluation result;
  Total total;
  const data::Loader loader(std::move(source), {.device = device});
  for (data::Update& update : loader.epoch(0)) {
    for (const data::MicroBatch& micro : update) total.add(model, loss, micro, result);
    result.samples += update.samples();
    if (result.samples >= most) break;
  }
  result.loss = total.sum / total.denominator;
  return result;
}

}  // namespace weft::train
