#pragma once
// Measuring a model on data that it does not train on.
#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "autograd/window.h"
#include "data/batch_source.h"
#include "data/dataset.h"
#include "nn/module.h"

namespace weft::train {

/// A function that computes a loss from (output, micro-batch), or from (output, target).
template <class F> concept LossOfMicroBatch = std::invocable<F&, const Tensor&, const data::MicroBatch&>;
template <class F> concept LossOfTarget = std::invocable<F&, const Tensor&, const Tensor&> && !LossOfMicroBatch<F>;

/// The loss of a model's output: from a function of (output, target), or of (output, micro-batch) where the loss needs more
/// than the target (weights of labels, segments).
class LossFunction {
 public:
  template <LossOfMicroBatch F>
  LossFunction(F loss)
      : loss_(std::move(loss)) {}  // NOLINT(google-explicit-constructor): a function is what callers have
  template <LossOfTarget F>
  LossFunction(F loss)  // NOLINT(google-explicit-constructor)
      : loss_([loss = std::move(loss)](const Tensor& output, const data::MicroBatch& micro) mutable {
          return loss(output, micro.target);
        }) {}
  Loss operator()(const Tensor& output, const data::MicroBatch& micro) const { return loss_(output, micro); }

 private:
  std::function<Loss(const Tensor&, const data::MicroBatch&)> loss_;
};

/// What the loop needs to know about a module. Holds a reference: the module must outlive it.
struct Model {
  std::function<Tensor(const data::MicroBatch&)> forward;
  std::function<void(nn::Mode)> set_mode;
  nn::NamedTensors parameters, buffers;
  bool batch_statistics = false;  // a layer's output for a sample depends on the rest of the batch

  /// A module that is called with a data::MicroBatch gets the whole of it, any other its input.
  template <class M>
  static Model of(M& module) {
    return {.forward =
                [&module](const data::MicroBatch& micro) {
                  if constexpr (std::invocable<M&, const data::MicroBatch&>)
                    return module(micro);
                  else
                    return module(micro.input);
                },
            .set_mode = [&module](nn::Mode mode) { mode == nn::Mode::train ? nn::train(module) : nn::eval(module); },
            .parameters = nn::named_parameters(module),
            .buffers = nn::named_buffers(module),
            .batch_statistics = nn::uses_batch_statistics(module)};
  }
};

/// What an evaluation found.
struct Evaluation {
  std::int64_t samples = 0;
  double loss = std::numeric_limits<double>::quiet_NaN();  // sum / denominator over all samples

  // For classification, one entry per sample:
  std::vector<std::int64_t> truth, predicted;
  std::vector<float> confidence;  // the predicted class's softmax probability; NaN when the logits are not finite
  /// Share of the samples whose prediction is right; none when this was no classification.
  std::optional<double> accuracy() const;
};

/// The model's mean loss over a data set (its first `most` samples), in order, in batches of 1000, in evaluation mode and
/// without recording a graph.
/// Afterwards the model is in training mode. A classification is an output [B, C] with a target i64 [B]: then the
/// predictions are kept too (the first among equal logits; a NaN counts as the largest, as in argmax).
Evaluation evaluate(const Model& model, const LossFunction& loss, const data::Dataset& dataset, Device device,
                    std::int64_t most = std::numeric_limits<std::int64_t>::max());
/// The same over the updates of a source's epoch 0, until `most` samples were seen: whole updates, so that it may be a few
/// more. Give it a source in sequential order.
Evaluation evaluate(const Model& model, const LossFunction& loss, std::shared_ptr<const data::BatchSource> source,
                    Device device, std::int64_t most = std::numeric_limits<std::int64_t>::max());

/// Appends to `result` the predicted class of each row of logits [B, C], on any device, and its probability.
void classify(const Tensor& logits, Evaluation& result);

}  // namespace weft::train
