#pragma once
// Measuring a model on data that it does not train on.
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include "autograd/window.h"
#include "data/dataset.h"
#include "nn/module.h"

namespace weft::train {

/// The loss of logits against targets.
using LossFunction = std::function<Loss(const Tensor& output, const Tensor& target)>;

/// What the loop needs to know about a module. Holds a reference: the module must outlive it.
struct Model {
  std::function<Tensor(const Tensor&)> forward;
  std::function<void(nn::Mode)> set_mode;
  nn::NamedTensors parameters, buffers;
  bool batch_statistics = false;  // a layer's output for a sample depends on the rest of the batch

  template <class M>
  static Model of(M& module) {
    return {.forward = [&module](const Tensor& x) { return module(x); },
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

}  // namespace weft::train
