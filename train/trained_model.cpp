#include "train/trained_model.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include <nlohmann/json.hpp>

#include "autograd/cast.h"
#include "autograd/node.h"
#include "train/checkpoint.h"

namespace weft::train {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kBatch = 1000;

/// The run whose model is used, as the command line named it.
const std::string& run_of(const Options& options) { return options.eval_run.empty() ? options.out : options.eval_run; }

RunState load(const Model& model, const Options& options) {
  const char* option = options.eval_run.empty() ? "--predict" : "--eval";
  const std::filesystem::path file = find_checkpoint(option, run_of(options));
  Checkpoint checkpoint = load_checkpoint(file);
  std::vector<Setting> own;
  for (const Setting& setting : options.config)
    if (std::find(options.own.begin(), options.own.end(), setting.name) != options.own.end()) own.push_back(setting);
  const std::string changed = changed_options(own, checkpoint.run.config, options.may_differ);
  if (!changed.empty())
    throw OptionError(fmt::format("{} uses the model of '{}' as it was made, but {}; leave that out", option,
                                  run_of(options), changed));
  nn::NamedTensors tensors = model.parameters;
  tensors.insert(tensors.end(), model.buffers.begin(), model.buffers.end());
  for (const std::string& warning : restore_model(file, checkpoint, tensors)) fmt::print(stderr, "{}\n", warning);
  return std::move(checkpoint.run);
}

/// A number as JSON has it: null where it is not finite.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

int report(const RunState& run, const Evaluation& found, const std::string& data, const Options& options) {
  const std::optional<double> accuracy = found.accuracy();
  if (options.json) {
    Json json;
    json["run"] = run_of(options);
    json["update"] = run.update;
    json["data"] = data;
    json["test_loss"] = number(found.loss);
    json["test_accuracy"] = accuracy ? number(*accuracy) : Json(nullptr);
    json["eval_samples"] = found.samples;
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    fmt::print("{} after update {}: test loss {:.4f}{} on {} samples of {}\n", run_of(options), run.update, found.loss,
               accuracy ? fmt::format("  accuracy {:.4f}", *accuracy) : "", found.samples, data);
  }
  return 0;
}

std::int64_t most(const Options& options) {
  return options.eval_samples.value_or(std::numeric_limits<std::int64_t>::max());
}

}  // namespace

bool uses_trained_model(const Options& options) { return !options.eval_run.empty() || !options.predict_file.empty(); }

void load_trained_model(const Model& model, const Options& options) { load(model, options); }

int evaluate_trained(const Model& model, const LossFunction& loss, const data::Dataset& test, const Options& options) {
  const RunState run = load(model, options);
  return report(run, evaluate(model, loss, test, options.device, most(options)), test.name(), options);
}

int evaluate_trained(const Model& model, const LossFunction& loss, std::shared_ptr<const data::BatchSource> test,
                     const Options& options) {
  const RunState run = load(model, options);
  const std::string name = test->name();
  return report(run, evaluate(model, loss, std::move(test), options.device, most(options)), name, options);
}

int predict_rows(const Model& model, const Tensor& input, const std::vector<std::string>& names,
                 const Options& options) {
  const RunState run = load(model, options);
  require<ShapeError>(input.rank() >= 1, "predict", "needs rows but the shape of the input is {}", input.shape());
  Evaluation found;
  const NoGrad guard;
  model.set_mode(nn::Mode::eval);
  for (std::int64_t row = 0; row < input.size(0); row += kBatch) {
    data::MicroBatch micro;
    micro.input = to(input.slice(0, row, std::min(row + kBatch, input.size(0))), options.device);
    const Tensor logits = model.forward(micro);
    require<ShapeError>(logits.rank() == 2 && logits.size(0) == micro.input.size(0) && logits.size(1) > 0, "predict",
                        "the model must make logits [{}, C] but made {}", micro.input.size(0), logits.shape());
    classify(logits, found);
  }

  Json rows = Json::array();
  if (!options.json) fmt::print("row,class,confidence{}\n", names.empty() ? "" : ",name");
  for (std::size_t row = 0; row < found.predicted.size(); ++row) {
    const std::int64_t predicted = found.predicted[row];
    const auto confidence = static_cast<double>(found.confidence[row]);
    const std::string name =
        static_cast<std::size_t>(predicted) < names.size() ? names[static_cast<std::size_t>(predicted)] : "";
    if (!options.json) {
      fmt::print("{},{},{:.4f}{}\n", row, predicted, confidence, names.empty() ? "" : "," + name);
      continue;
    }
    rows.push_back({{"row", row}, {"class", predicted}, {"confidence", number(confidence)}});
    if (!names.empty()) rows.back()["name"] = name;
  }
  if (options.json) {
    Json json;
    json["run"] = run_of(options);
    json["update"] = run.update;
    json["file"] = options.predict_file;
    json["predictions"] = std::move(rows);
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
  }
  return 0;
}

}  // namespace weft::train
