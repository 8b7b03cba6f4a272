#include "train/summary.h"

#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "train/provenance.h"

namespace weft::train {
namespace {

using Json = nlohmann::ordered_json;

Json to_json_value(std::monostate) { return nullptr; }
template <class T>
Json to_json_value(const T& value) {
  return value;
}

class Writer {
 public:
  explicit Writer(std::vector<std::string>& notes) : notes_(notes) {}

  Json number(const std::string& name, double value) {
    if (std::isfinite(value)) return value;
    notes_.push_back(fmt::format("{} is {}", name, std::isnan(value) ? "not a number" : "infinite"));
    return nullptr;
  }
  Json number(const std::string& name, const std::optional<double>& value) {
    return value ? number(name, *value) : Json(nullptr);
  }

 private:
  std::vector<std::string>& notes_;
};

}  // namespace

void measure_rate(Summary& summary) {
  std::vector<double> seconds;
  std::int64_t samples = 0, tokens = 0;
  for (const EpochResult& epoch : summary.epochs) {
    if (!epoch.complete) continue;
    seconds.push_back(epoch.seconds);
    samples = epoch.samples;  // nearly the same in all complete epochs
    tokens = epoch.tokens;
  }
  if (seconds.empty() && !summary.epochs.empty()) {
    seconds.push_back(summary.epochs.back().seconds);
    samples = summary.epochs.back().samples;
    tokens = summary.epochs.back().tokens;
  }
  if (seconds.empty()) return;
  std::sort(seconds.begin(), seconds.end());
  const std::size_t middle = seconds.size() / 2;
  const double median = seconds.size() % 2 == 1 ? seconds[middle] : (seconds[middle - 1] + seconds[middle]) / 2;
  summary.samples_per_s = median > 0 ? static_cast<double>(samples) / median : 0;
  if (tokens > 0) summary.tokens_per_s = median > 0 ? static_cast<double>(tokens) / median : 0;
}

std::string to_json(const Summary& summary) {
  std::vector<std::string> notes = summary.notes;
  Writer writer(notes);
  Json json;
  json["example"] = summary.example;
  json["command"] = summary.command;
  json["device"] = summary.device;
  json["seed"] = summary.seed;
  json["threads"] = summary.threads;
  json["config"] = Json::object();
  for (const Setting& setting : summary.config)
    std::visit([&](const auto& value) { json["config"][setting.name] = to_json_value(value); }, setting.value);
  json["stopped_by"] = summary.stopped_by;
  json["parameters"] = summary.parameters;
  json["train_samples"] = summary.train_samples;
  json["updates_per_epoch"] = summary.updates_per_epoch;
  json["updates"] = summary.updates;
  json["skipped_updates"] = summary.skipped_updates;
  json["samples"] = summary.samples;
  if (summary.tokens > 0) json["tokens"] = summary.tokens;
  json["samples_per_s"] = writer.number("samples_per_s", summary.samples_per_s);
  if (summary.tokens_per_s) json["tokens_per_s"] = writer.number("tokens_per_s", summary.tokens_per_s);
  json["train_loss"] = writer.number("train_loss", summary.train_loss);
  json["test_loss"] = writer.number("test_loss", summary.test_loss);
  json["test_accuracy"] = writer.number("test_accuracy", summary.test_accuracy);
  json["eval_samples"] = summary.eval_samples;
  json["peak_bytes"] = summary.peak_bytes;
  json["wall_s"] = writer.number("wall_s", summary.wall_s);
  json["commit"] = summary.commit;
  json["parameters_hash"] = hex(summary.parameters_hash);
  json["variants_hash"] = hex(summary.variants_hash);
  json["variants"] = summary.variants;
  json["machine"] = summary.machine;
  json["epochs"] = Json::array();
  for (const EpochResult& epoch : summary.epochs) {
    const std::string where = fmt::format("epochs[{}].", epoch.epoch);
    json["epochs"].push_back({{"epoch", epoch.epoch},
                              {"updates", epoch.updates},
                              {"samples", epoch.samples},
                              {"complete", epoch.complete},
                              {"seconds", writer.number(where + "seconds", epoch.seconds)},
                              {"train_loss", writer.number(where + "train_loss", epoch.train_loss)},
                              {"test_loss", writer.number(where + "test_loss", epoch.test_loss)},
                              {"test_accuracy", writer.number(where + "test_accuracy", epoch.test_accuracy)}});
  }
  if (!summary.phases.empty()) {
    json["profile_s"] = Json::object();
    for (const Phase& phase : summary.phases) json["profile_s"][phase.name] = phase.seconds;
  }
  if (!summary.results.empty()) {
    json["results"] = Json::array();
    for (const std::vector<Setting>& row : summary.results) {
      Json& object = json["results"].emplace_back(Json::object());
      for (const Setting& setting : row)
        if (const double* number = std::get_if<double>(&setting.value))
          object[setting.name] = writer.number(setting.name, *number);
        else
          std::visit([&](const auto& value) { object[setting.name] = to_json_value(value); }, setting.value);
    }
  }
  json["notes"] = notes;
  // Text of the user's (a file name in another encoding) may be no UTF-8: then the letter is replaced, not the summary lost.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace weft::train
