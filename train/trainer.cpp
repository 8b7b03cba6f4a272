#include "train/trainer.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <limits>

#include <fmt/format.h>

#include "optim/adamw.h"
#include "optim/sgd.h"
#include "tensor/allocator.h"
#include "tensor/gpu.h"
#include "train/batch_norm_policy.h"
#include "train/provenance.h"
#include "train/stop_signal.h"

namespace weft::train {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

enum PhaseIndex : std::size_t { loading, forward, backward, optimizer, logging, phase_count };
constexpr std::array<const char*, phase_count> kPhaseNames{"loading", "forward", "backward", "optimizer", "logging"};

/// Attributes the time that passes to phases, without a clock reading when it is off.
class Laps {
 public:
  explicit Laps(bool enabled) : enabled_(enabled) {}
  void start() {
    if (enabled_) last_ = Clock::now();
  }
  /// What passed since the last call was spent in `phase`.
  void end(PhaseIndex phase) {
    if (!enabled_) return;
    const auto now = Clock::now();
    seconds_[phase] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }
  std::vector<Phase> phases() const {
    std::vector<Phase> result;
    for (std::size_t i = 0; enabled_ && i < phase_count; ++i) result.push_back({kPhaseNames[i], seconds_[i]});
    return result;
  }

 private:
  bool enabled_;
  Clock::time_point last_;
  std::array<double, phase_count> seconds_{};
};

/// "0.6123047", or null for what JSON cannot say.
std::string json_number(double value) { return std::isfinite(value) ? fmt::format("{}", value) : "null"; }

std::string profile_table(const std::vector<Phase>& phases, std::int64_t updates) {
  double total = 0;
  for (const Phase& phase : phases) total += phase.seconds;
  std::string text = fmt::format("{:<12}{:>12}{:>12}{:>8}", "phase", "seconds", "us/update", "share");
  const auto row = [&](const std::string& name, double seconds) {
    text += fmt::format("\n{:<12}{:>12.3f}{:>12.1f}{:>7.1f}%", name, seconds,
                        1e6 * seconds / static_cast<double>(std::max<std::int64_t>(updates, 1)),
                        total > 0 ? 100 * seconds / total : 0.0);
  };
  for (const Phase& phase : phases) row(phase.name, phase.seconds);
  row("all", total);
  return text;
}

}  // namespace

struct Trainer::Totals {
  explicit Totals(bool profile) : laps(profile) {}
  Laps laps;
  Clock::time_point start = Clock::now();
  std::int64_t limit = 0;  // updates at which the run stops
  bool stop = false;
};

data::LoaderOptions loader_options(const Options& options) {
  data::Regime regime = data::FullBatch{};
  if (options.batch_size == 1)
    regime = data::Sgd{};
  else if (options.batch_size)
    regime = data::MiniBatch{*options.batch_size};
  return {.batch = regime,
          .accumulate = options.accumulate,
          .drop_last = options.drop_last,
          .seed = options.seed,
          .device = options.device};
}

std::unique_ptr<optim::Optimizer> make_optimizer(const Options& options, const std::vector<Tensor>& parameters) {
  if (options.optimizer == OptimizerKind::adamw)
    return std::make_unique<optim::AdamW>(parameters,
                                          optim::AdamWOptions{.lr = options.lr, .weight_decay = options.weight_decay});
  return std::make_unique<optim::SGD>(
      parameters,
      optim::SGDOptions{.lr = options.lr, .momentum = options.momentum, .weight_decay = options.weight_decay});
}

optim::Schedule make_schedule(const Options& options, std::int64_t updates_per_epoch) {
  if (options.schedule == ScheduleKind::constant) {
    require<OptionError>(options.warmup == 0, "schedule",
                         "--warmup must be 0 with --schedule constant but is {}; use --schedule cosine",
                         options.warmup);
    return optim::Schedule::constant(options.lr);
  }
  require<OptionError>(options.epochs <= std::numeric_limits<std::int64_t>::max() / updates_per_epoch, "schedule",
                       "--epochs {} has more updates than can be numbered; use fewer", options.epochs);
  return optim::Schedule::cosine(
      {.peak_lr = options.lr, .warmup = options.warmup, .updates = options.epochs * updates_per_epoch});
}

int exit_status(const Summary& summary) { return summary.stopped_by == "SIGTERM" ? 128 + SIGTERM : 0; }

Trainer::Trainer(Model model, LossFunction loss, std::shared_ptr<const data::Dataset> training,
                 std::shared_ptr<const data::Dataset> test, const Options& options)
    : model_(std::move(model)),
      loss_(std::move(loss)),
      options_(options),
      test_(std::move(test)),
      loader_(std::move(training), loader_options(options)),
      schedule_(make_schedule(options, loader_.updates_per_epoch())),
      folder_(options.out),
      progress_(options.json ? stderr : stdout) {
  if (model_.batch_statistics) check_batch_statistics(plan(), options.bn_accumulation);
  std::vector<Tensor> parameters;
  for (const auto& [name, tensor] : model_.parameters) {
    parameters.push_back(tensor);
    summary_.parameters += tensor.numel();
  }
  optimizer_ = make_optimizer(options, parameters);

  summary_.example = options.example;
  summary_.command = options.command;
  summary_.device = options.device.str();
  summary_.seed = options.seed;
  summary_.threads = options.threads;
  summary_.config = options.config;
  summary_.train_samples = plan().samples();
  summary_.updates_per_epoch = plan().updates_per_epoch();
  summary_.commit = commit();
  summary_.machine = machine();
  summary_.variants = variants();
  summary_.variants_hash = hash_text(summary_.variants);
}

Summary Trainer::run() {
  Totals totals(options_.profile);
  folder_.open();
  metrics_.emplace(folder_.path() / "metrics.jsonl");
  announce();
  try {
    const StopSignal signals;
    train(totals);
  } catch (const std::exception& error) {
    progress_.finish();
    summary_.stopped_by = "error";
    summary_.notes.push_back(fmt::format("stopped by an error: {}", error.what()));
    finish(totals);
    throw;
  }
  progress_.finish();
  finish(totals);
  if (options_.json) std::fputs(to_json(summary_).c_str(), stdout);
  return summary_;
}

void Trainer::announce() {
  const data::Plan& p = plan();
  for (const std::string& notice : options_.notices) progress_.print(notice);
  if (!folder_.moved_to().empty())
    progress_.print(fmt::format("an earlier run was moved to {}", folder_.moved_to().string()));
  progress_.print(
      fmt::format("{} on {}, {} threads: {} parameters, {} samples, {} samples per update{}, {} updates per "
                  "epoch, {} epochs",
                  options_.example, summary_.device, options_.threads, summary_.parameters, p.samples(), p.batch_size(),
                  p.accumulate() > 1 ? fmt::format(" in {} micro-batches", p.accumulate()) : "", p.updates_per_epoch(),
                  options_.epochs));
  if (p.updates_per_epoch() == 1)
    progress_.print(
        fmt::format("full batch: an epoch is 1 update, so the run makes {}; --epochs 100 and more are usual "
                    "for it",
                    options_.epochs));
}

void Trainer::train(Totals& totals) {
  const std::int64_t per_epoch = plan().updates_per_epoch();
  const std::int64_t all = options_.epochs <= std::numeric_limits<std::int64_t>::max() / per_epoch
                               ? options_.epochs * per_epoch
                               : std::numeric_limits<std::int64_t>::max();
  totals.limit = std::min(all, options_.max_updates.value_or(all));
  const std::int64_t last = (totals.limit - 1) / per_epoch;  // the epoch it stops in
  progress_.start(options_.epochs,
                  last * plan().samples_per_epoch() +
                      std::min((totals.limit - last * per_epoch) * plan().batch_size(), plan().samples_per_epoch()));
  model_.set_mode(nn::Mode::train);
  summary_.stopped_by = totals.limit < all ? "max_updates" : "epochs";
  for (std::int64_t epoch = 0; epoch < options_.epochs && !totals.stop; ++epoch) {
    train_epoch(epoch, totals);
    progress_.pause();
    evaluate_epoch(summary_.epochs.back());
    progress_.resume();
  }
}

void Trainer::train_epoch(std::int64_t epoch, Totals& totals) {
  EpochResult& result = summary_.epochs.emplace_back(EpochResult{.epoch = epoch});
  Laps& laps = totals.laps;
  double loss_sum = 0;
  std::int64_t losses = 0;
  const auto start = Clock::now();
  laps.start();
  for (data::Update& update : loader_.epoch(epoch)) {
    const double lr = schedule_.lr(update.number());
    optimizer_->set_lr(lr);
    for (const data::MicroBatch& micro : update) {
      laps.end(loading);
      const auto scope = micro.scope();
      const Loss loss = loss_(model_.forward(micro.input), micro.target);
      laps.end(forward);
      update.backward(loss);
      laps.end(backward);
    }
    optimizer_->step(update.window());
    laps.end(optimizer);

    ++result.updates;
    ++summary_.updates;
    result.samples += update.samples();
    summary_.samples += update.samples();
    const bool logged = update.number() % options_.log_every == 0;
    // Reading a loss on a GPU waits for it; elsewhere it costs nothing.
    if (logged || options_.device.kind != DeviceKind::cuda) {
      if (options_.device.kind == DeviceKind::cuda) optimizer_->check();
      const double loss = update.window().mean_loss();
      if (std::isfinite(loss)) {
        loss_sum += loss;
        ++losses;
      }
      history_.add(update.number(), loss);
      const std::int64_t skipped = optimizer_->skipped();
      if (logged) log(update, lr, loss, skipped != summary_.skipped_updates);
      summary_.skipped_updates = skipped;
      progress_.advance(epoch, summary_.samples, loss);
    }
    if (options_.device.kind == DeviceKind::simt && summary_.updates == 1) {
      const double seconds = seconds_since(start);
      progress_.print(fmt::format("the first update took {:.1f} s, so {} take about {:.0f} s", seconds, totals.limit,
                                  seconds * static_cast<double>(totals.limit)));
    }
    laps.end(logging);

    const int signal = StopSignal::received();
    if (signal != 0) summary_.stopped_by = signal == SIGTERM ? "SIGTERM" : "SIGINT";
    totals.stop = signal != 0 || update.number() == totals.limit;
    if (totals.stop) break;
  }
  result.seconds = seconds_since(start);
  result.complete = result.updates == plan().updates_per_epoch();
  result.train_loss = losses > 0 ? loss_sum / static_cast<double>(losses) : std::numeric_limits<double>::quiet_NaN();
}

void Trainer::log(const data::Update& update, double lr, double loss, bool skipped) {
  metrics_->append(fmt::format(
      "{{\"event\":\"update\",\"update\":{},\"epoch\":{},\"samples\":{},\"loss\":{},\"lr\":{},\"grad_norm\":{}{}}}\n",
      update.number(), update.epoch(), summary_.samples, json_number(loss), json_number(lr),
      json_number(optimizer_->grad_norm()), skipped ? ",\"skipped\":true" : ""));
}

void Trainer::evaluate_epoch(EpochResult& epoch) {
  evaluation_ = evaluate(model_, loss_, *test_, options_.device,
                         options_.eval_samples.value_or(std::numeric_limits<std::int64_t>::max()));
  epoch.test_loss = summary_.test_loss = evaluation_.loss;
  epoch.test_accuracy = summary_.test_accuracy = evaluation_.accuracy();
  summary_.eval_samples = evaluation_.samples;
  metrics_->append(fmt::format("{{\"event\":\"eval\",\"epoch\":{},\"split\":\"test\",\"loss\":{},\"accuracy\":{}}}\n",
                               epoch.epoch, json_number(evaluation_.loss),
                               epoch.test_accuracy ? json_number(*epoch.test_accuracy) : "null"));
  progress_.print(fmt::format("epoch {}/{}  train loss {:.4f}  test loss {:.4f}{}  {} samples/s  {}", epoch.epoch + 1,
                              options_.epochs, epoch.train_loss, evaluation_.loss,
                              epoch.test_accuracy ? fmt::format("  accuracy {:.4f}", *epoch.test_accuracy) : "",
                              short_number(static_cast<double>(epoch.samples) / std::max(epoch.seconds, 1e-9)),
                              short_duration(epoch.seconds)));
}

void Trainer::finish(const Totals& totals) {
  if (!summary_.epochs.empty()) summary_.train_loss = summary_.epochs.back().train_loss;
  measure_rate(summary_);
  summary_.skipped_updates = optimizer_->skipped();
  if (summary_.skipped_updates > 0)
    summary_.notes.push_back(
        fmt::format("{} of {} updates were skipped: nothing to learn from, or a gradient that was "
                    "not finite",
                    summary_.skipped_updates, summary_.updates));
  if (history_.bad() > 0) summary_.notes.push_back(fmt::format("{} losses were not finite", history_.bad()));
  summary_.phases = totals.laps.phases();
  summary_.peak_bytes = options_.device.kind == DeviceKind::cpu ? cpu_memory_stats().peak_bytes
                                                                : gpu::memory_stats(options_.device).peak_bytes;
  summary_.parameters_hash =
      hash_tensors(optimizer_->state(), hash_tensors(model_.buffers, hash_tensors(model_.parameters)));
  summary_.wall_s = seconds_since(totals.start);
  folder_.write("summary.json", to_json(summary_));
  if (!summary_.phases.empty()) progress_.print(profile_table(summary_.phases, summary_.updates));
  for (const std::string& note : summary_.notes) progress_.print("note: " + note);
}

void Trainer::write_report(const Report& report) {
  folder_.write("report.html", render(report, summary_, history_, evaluation_));
  progress_.print(fmt::format("results in {}: report.html, summary.json, metrics.jsonl", options_.out));
}

}  // namespace weft::train
