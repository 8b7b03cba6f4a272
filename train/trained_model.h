#pragma once
// Using a model that a run has trained: --eval RUN and --predict FILE. Nothing is written.
#include <concepts>
#include <memory>
#include <string>
#include <vector>

#include "data/batch_source.h"
#include "data/dataset.h"
#include "train/evaluation.h"
#include "train/options.h"

namespace weft::train {

/// Whether a trained model is to be used, by --eval or --predict, instead of training one.
bool uses_trained_model(const Options& options);

/// Gives the model the parameters and buffers of the run that --eval names, for --predict of the one in --out.
/// Errors: OptionError for a run without a checkpoint, or made with another value of one of the example's own options;
///         IoError for a checkpoint that is damaged or of another model. The model is unchanged then.
void load_trained_model(const Model& model, const Options& options);

/// --eval: loads the model, evaluates it on the (first options.eval_samples) test data and prints what came of it, with
/// options.json as a JSON document. Returns the exit status. Errors: as load_trained_model.
int evaluate_trained(const Model& model, const LossFunction& loss, const data::Dataset& test, const Options& options);
/// The same over any source of batches.
int evaluate_trained(const Model& model, const LossFunction& loss, std::shared_ptr<const data::BatchSource> test,
                     const Options& options);

/// --predict: loads the model and prints for each row of `input` [N, ...] the most likely class and its probability: lines
/// "row,class,confidence,name", with options.json a JSON document. `names` are those of the classes, or none. Returns the exit
/// status. Errors: as load_trained_model; ShapeError for a model that does not make logits [N, C].
int predict_rows(const Model& model, const Tensor& input, const std::vector<std::string>& names,
                 const Options& options);

}  // namespace weft::train
