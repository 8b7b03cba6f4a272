#include "train/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "autograd/cast.h"
#include "autograd/layout.h"
#include "data/safetensors.h"
#include "train/provenance.h"

namespace weft::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;  // raise it when an older weft could not go on from what is written
constexpr const char* kKey = "weft";
constexpr std::string_view kModel = "model.", kOptimizer = "optimizer.", kHistory = "history.";
constexpr const char* kOp = "checkpoint";

template <class... Args>
[[noreturn]] void refuse(const fs::path& file, fmt::format_string<Args...> format, Args&&... args) {
  fail<IoError>(kOp, "{} {}", file.string(), fmt::format(format, std::forward<Args>(args)...));
}

// ---- JSON ------------------------------------------------------------------------------------------------------------

Json json_of(const Value& value) {
  return std::visit(
      []<class T>(const T& v) -> Json {
        if constexpr (std::is_same_v<T, std::monostate>)
          return nullptr;
        else
          return v;
      },
      value);
}

Value value_of(const Json& json) {
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_unsigned()) return json.get<std::uint64_t>();
  if (json.is_number_integer()) return json.get<std::int64_t>();
  if (json.is_number_float()) return json.get<double>();
  if (json.is_string()) return json.get<std::string>();
  return std::monostate{};
}

/// Reads the fields of an object, each of which must be there and of its type.
class Reader {
 public:
  Reader(const fs::path& file, const Json& json) : file_(file), json_(json) {
    if (!json.is_object()) refuse(file_, "holds a state that is no object; use another checkpoint");
  }
  const Json& at(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) refuse(file_, "holds a state without '{}'; use another checkpoint", key);
    return *found;
  }
  std::int64_t count(const char* key) const {
    const Json& json = at(key);
    if (!json.is_number_unsigned() || json.get<std::uint64_t>() > static_cast<std::uint64_t>(kMost))
      refuse(file_, "holds a state whose '{}' must be a whole number in [0, 2^63) but is {}; use another checkpoint",
             key, shown(json));
    return json.get<std::int64_t>();
  }
  std::uint64_t word(const char* key) const {
    const Json& json = at(key);
    if (!json.is_number_unsigned())
      refuse(file_, "holds a state whose '{}' must be a number but is {}; use another checkpoint", key, shown(json));
    return json.get<std::uint64_t>();
  }
  double real(const char* key) const {  // null stands for NaN
    const Json& json = at(key);
    if (!json.is_number() && !json.is_null())
      refuse(file_, "holds a state whose '{}' must be a number but is {}; use another checkpoint", key, shown(json));
    return json.is_null() ? std::numeric_limits<double>::quiet_NaN() : json.get<double>();
  }
  std::optional<double> maybe_real(const char* key) const {
    if (at(key).is_null()) return std::nullopt;
    return real(key);
  }
  std::string text(const char* key) const {
    const Json& json = at(key);
    if (!json.is_string())
      refuse(file_, "holds a state whose '{}' must be a text but is {}; use another checkpoint", key, shown(json));
    return json.get<std::string>();
  }
  bool flag(const char* key) const {
    const Json& json = at(key);
    if (!json.is_boolean())
      refuse(file_, "holds a state whose '{}' must be true or false but is {}; use another checkpoint", key,
             shown(json));
    return json.get<bool>();
  }

 private:
  static constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  static std::string shown(const Json& json) {
    return json.is_structured() ? json.type_name()
                                : json.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 60);
  }
  const fs::path& file_;
  const Json& json_;
};

std::string to_text(const RunState& run) {
  Json json;
  json["version"] = kVersion;
  json["example"] = run.example;
  json["seed"] = run.seed;
  json["epoch"] = run.epoch;
  json["cursor"] = run.cursor;
  json["update"] = run.update;
  json["plan_hash"] = run.plan_hash;
  json["data"] = run.data;
  json["data_samples"] = run.data_samples;
  json["variants_hash"] = run.variants_hash;
  json["metrics_bytes"] = run.metrics_bytes;
  json["samples"] = run.samples;
  json["tokens"] = run.tokens;
  json["wall_s"] = run.wall_s;
  json["loss_sum"] = run.loss_sum;
  json["losses"] = run.losses;
  json["history_stride"] = run.history.stride();
  json["history_in_last"] = run.history.in_last();
  json["config"] = Json::object();
  for (const Setting& setting : run.config) json["config"][setting.name] = json_of(setting.value);
  json["epochs"] = Json::array();
  const auto number = [](const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); };
  for (const EpochResult& epoch : run.epochs)
    json["epochs"].push_back({{"epoch", epoch.epoch},
                              {"updates", epoch.updates},
                              {"samples", epoch.samples},
                              {"tokens", epoch.tokens},
                              {"complete", epoch.complete},
                              {"seconds", epoch.seconds},
                              {"train_loss", epoch.train_loss},
                              {"test_loss", number(epoch.test_loss)},
                              {"test_accuracy", number(epoch.test_accuracy)}});
  // A file name in another encoding may be no UTF-8: then a letter is replaced, not the checkpoint lost.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::vector<EpochResult> read_epochs(const fs::path& file, const Json& list) {
  if (!list.is_array()) refuse(file, "holds a state whose 'epochs' is no list; use another checkpoint");
  std::vector<EpochResult> epochs;
  for (const Json& entry : list) {
    const Reader epoch(file, entry);
    epochs.push_back({.epoch = epoch.count("epoch"),
                      .updates = epoch.count("updates"),
                      .samples = epoch.count("samples"),
                      .tokens = epoch.count("tokens"),
                      .complete = epoch.flag("complete"),
                      .seconds = epoch.real("seconds"),
                      .train_loss = epoch.real("train_loss"),
                      .test_loss = epoch.maybe_real("test_loss"),
                      .test_accuracy = epoch.maybe_real("test_accuracy")});
    if (epochs.back().epoch != static_cast<std::int64_t>(epochs.size()) - 1)
      refuse(file, "holds a state whose epochs are not numbered from 0; use another checkpoint");
  }
  return epochs;
}

RunState run_of(const fs::path& file, const std::map<std::string, std::string>& metadata) {
  const auto text = metadata.find(kKey);
  if (text == metadata.end())
    refuse(file, "is no checkpoint: its metadata has no '{}'; give the {} of a run", kKey, kCheckpointFile);
  const Json json = Json::parse(text->second, nullptr, false);
  if (json.is_discarded()) refuse(file, "holds a state that is no valid JSON; use another checkpoint");
  const Reader state(file, json);
  const std::int64_t version = state.count("version");
  if (version > kVersion)
    refuse(file, "was written by a newer weft: its format is version {} but this one reads up to {}", version,
           kVersion);
  if (version < 1) refuse(file, "holds a state of version {}, which is none; use another checkpoint", version);

  RunState run;
  run.example = state.text("example");
  run.seed = state.word("seed");
  run.epoch = state.count("epoch");
  run.cursor = state.count("cursor");
  run.update = state.count("update");
  run.plan_hash = state.word("plan_hash");
  run.data = state.text("data");
  run.data_samples = state.count("data_samples");
  run.variants_hash = state.word("variants_hash");
  run.metrics_bytes = state.count("metrics_bytes");
  run.samples = state.count("samples");
  run.tokens = state.count("tokens");
  run.wall_s = state.real("wall_s");
  run.loss_sum = state.real("loss_sum");
  run.losses = state.count("losses");
  const Json& config = state.at("config");
  if (!config.is_object()) refuse(file, "holds a state whose 'config' is no object; use another checkpoint");
  for (const auto& [name, value] : config.items()) run.config.push_back({name, value_of(value)});
  run.epochs = read_epochs(file, state.at("epochs"));
  run.history =
      LossHistory({}, std::max<std::int64_t>(state.count("history_stride"), 1), state.count("history_in_last"));
  std::int64_t updates = 0;
  for (const EpochResult& epoch : run.epochs) {
    if (epoch.updates > run.update - updates)
      refuse(file, "holds a state with more updates in its epochs than the {} that it has made; use another checkpoint",
             run.update);
    updates += epoch.updates;
  }
  if (updates != run.update)
    refuse(file, "holds a state with {} updates in its epochs but {} made; use another checkpoint", updates,
           run.update);
  return run;
}

// ---- tensors ---------------------------------------------------------------------------------------------------------

void add(data::NamedTensors& to, std::string_view prefix, const nn::NamedTensors& tensors) {
  for (const auto& [name, tensor] : tensors) to.emplace_back(std::string(prefix) + name, tensor);
}

/// The loss curve: counts [n, 3] (last update, finite, not finite) and values [n, 3] (mean, low, high).
void add_history(data::NamedTensors& to, const LossHistory& history) {
  std::vector<std::int64_t> counts;
  std::vector<double> values;
  for (const LossPoint& p : history.points()) {
    counts.insert(counts.end(), {p.update, p.count, p.bad});
    values.insert(values.end(), {p.mean, p.low, p.high});
  }
  const auto points = static_cast<std::int64_t>(history.points().size());
  to.emplace_back(std::string(kHistory) + "counts", Tensor::from_vector(counts, {points, 3}));
  to.emplace_back(std::string(kHistory) + "values", Tensor::from_vector(values, {points, 3}));
}

LossHistory history_of(const fs::path& file, const nn::NamedTensors& tensors, const LossHistory& stride) {
  Tensor counts, values;
  for (const auto& [name, tensor] : tensors) (name == "counts" ? counts : values) = tensor;
  const bool good = tensors.size() == 2 && counts.defined() && values.defined() && counts.rank() == 2 &&
                    counts.size(1) == 3 && counts.shape() == values.shape() && counts.dtype() == Dtype::i64 &&
                    values.dtype() == Dtype::f64;
  if (!good || counts.size(0) > static_cast<std::int64_t>(2 * LossHistory::kPoints))
    refuse(file, "holds no loss curve; use another checkpoint");
  std::vector<LossPoint> points;
  for (std::int64_t i = 0; i < counts.size(0); ++i) {
    const std::int64_t* c = counts.data<std::int64_t>() + 3 * i;
    const double* v = values.data<double>() + 3 * i;
    points.push_back({c[0], c[1], c[2], v[0], v[1], v[2]});
  }
  return {std::move(points), stride.stride(), stride.in_last()};
}

const Tensor* find(const nn::NamedTensors& in, const std::string& name) {
  for (const auto& [candidate, tensor] : in)
    if (candidate == name) return &tensor;
  return nullptr;
}

std::string described(const Tensor& tensor) { return fmt::format("{} {}", to_string(tensor.dtype()), tensor.shape()); }

/// Refuses unless both hold the same names, shapes and dtypes.
void check_tensors(const fs::path& file, const char* owner, const nn::NamedTensors& own,
                   const nn::NamedTensors& saved) {
  for (const auto& [name, tensor] : own) {
    const Tensor* from = find(saved, name);
    if (from == nullptr)
      refuse(file, "has no tensor '{}' {} for the {}: it is of another {}; check the options", name, described(tensor),
             owner, owner);
    if (from->shape() != tensor.shape() || from->dtype() != tensor.dtype())
      refuse(file, "has '{}' as {} but the {} has {}: it is of another {}; check the options", name, described(*from),
             owner, described(tensor), owner);
  }
  for (const auto& [name, tensor] : saved)
    if (find(own, name) == nullptr)
      refuse(file, "has the tensor '{}' {}, which the {} has not: it is of another {}; check the options", name,
             described(tensor), owner, owner);
}

std::int64_t not_finite(const Tensor& tensor) {
  if (!is_floating(tensor.dtype())) return 0;
  const std::vector<double> values = cast(tensor, Dtype::f64).to_vector<double>();
  return std::count_if(values.begin(), values.end(), [](double value) { return !std::isfinite(value); });
}

}  // namespace

nn::NamedTensors optimizer_state(const optim::Optimizer& optimizer, const nn::NamedTensors& parameters) {
  nn::NamedTensors state = optimizer.state();
  for (auto& [name, tensor] : state) {
    const std::size_t dot = name.find('.');
    if (dot == std::string::npos) continue;  // "step", "counters"
    name = parameters[std::stoul(name)].first + name.substr(dot);
  }
  return state;
}

void save_checkpoint(const fs::path& file, const Checkpoint& checkpoint) {
  data::NamedTensors tensors;
  add(tensors, kModel, checkpoint.model);
  add(tensors, kOptimizer, checkpoint.optimizer);
  add_history(tensors, checkpoint.run.history);
  data::save_safetensors(file, tensors, {{kKey, to_text(checkpoint.run)}});
}

Checkpoint load_checkpoint(const fs::path& file) {
  data::SafeTensors stored = data::load_safetensors(file);
  Checkpoint checkpoint{.run = run_of(file, stored.metadata), .model = {}, .optimizer = {}};
  nn::NamedTensors history;
  for (auto& [name, tensor] : stored.tensors) {
    const auto take = [&, &name = name, &tensor = tensor](std::string_view prefix, nn::NamedTensors& into) {
      if (!name.starts_with(prefix)) return false;
      into.emplace_back(name.substr(prefix.size()), std::move(tensor));
      return true;
    };
    if (!take(kModel, checkpoint.model) && !take(kOptimizer, checkpoint.optimizer) && !take(kHistory, history))
      refuse(file, "has the tensor '{}', which is of no known part; use another checkpoint", name);
  }
  checkpoint.run.history = history_of(file, history, checkpoint.run.history);
  return checkpoint;
}

RunState load_run_state(const fs::path& file) { return run_of(file, data::load_safetensors_metadata(file)); }

std::vector<std::string> restore_model(const fs::path& file, const Checkpoint& checkpoint,
                                       const nn::NamedTensors& own) {
  check_tensors(file, "model", own, checkpoint.model);
  std::vector<std::string> warnings;
  for (const auto& [name, tensor] : own) {
    const Tensor& from = *find(checkpoint.model, name);
    const std::int64_t bad = not_finite(from);
    if (bad > 0)
      warnings.push_back(
          fmt::format("warning: {} of {} values of '{}' are not finite in {}", bad, from.numel(), name, file.string()));
    tensor.copy_bytes_from(from);
    tensor.bump_version();
  }
  return warnings;
}

std::vector<std::string> restore(const fs::path& file, const Checkpoint& checkpoint, const nn::NamedTensors& model,
                                 optim::Optimizer& optimizer, const nn::NamedTensors& parameters) {
  check_tensors(file, "model", model, checkpoint.model);
  const nn::NamedTensors own = optimizer_state(optimizer, parameters), numbered = optimizer.state();
  check_tensors(file, "optimizer", own, checkpoint.optimizer);
  nn::NamedTensors state;  // in the optimizer's own names
  for (std::size_t i = 0; i < own.size(); ++i)
    state.emplace_back(numbered[i].first, *find(checkpoint.optimizer, own[i].first));
  const std::int64_t updates = find(checkpoint.optimizer, "counters")->data<std::int64_t>()[0];
  if (updates != checkpoint.run.update)
    refuse(file, "holds an optimizer that made {} updates in a run that made {}; use another checkpoint", updates,
           checkpoint.run.update);
  try {
    optimizer.load_state(state);
  } catch (const Error& error) { refuse(file, "holds an optimizer's state that cannot be: {}", error.what()); }
  return restore_model(file, checkpoint, model);
}

std::string changed_options(const std::vector<Setting>& now, const std::vector<Setting>& then,
                            const std::vector<std::string>& may_differ) {
  std::string text;
  const auto shown = [](const Value& value) {
    const Json json = json_of(value);
    return json.is_string() ? "'" + json.get<std::string>() + "'" : json.is_null() ? "not given" : json.dump();
  };
  for (const Setting& setting : now) {
    if (std::find(may_differ.begin(), may_differ.end(), setting.name) != may_differ.end()) continue;
    const auto before =
        std::find_if(then.begin(), then.end(), [&](const Setting& other) { return other.name == setting.name; });
    if (before == then.end() || shown(before->value) == shown(setting.value)) continue;
    std::string option = setting.name;
    std::replace(option.begin(), option.end(), '_', '-');
    text += fmt::format("{}--{} is {} but was {}", text.empty() ? "" : ", ", option, shown(setting.value),
                        shown(before->value));
  }
  return text;
}

fs::path find_checkpoint(const std::string& option, const fs::path& run) {
  std::error_code ignored;
  if (fs::is_regular_file(run, ignored)) return run;
  if (!fs::exists(run, ignored))
    throw OptionError(fmt::format("{} needs a run but there is no '{}'; check the path", option, run.string()));
  fs::path file = run / kCheckpointFile;
  if (!fs::exists(file, ignored))
    throw OptionError(fmt::format("{} needs a checkpoint but '{}' has no {}; give the folder of a run that saved one",
                                  option, run.string(), kCheckpointFile));
  return file;
}

}  // namespace weft::train
