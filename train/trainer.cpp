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
          .device = options.device,
          .workers = options.workers,
          .prefetch = options.prefetch};
}

std::unique_ptr<optim::Optimizer> make_optimizer(const Options& options, const std::vector<Tensor>& parameters) {
  if (options.optimizer == OptimizerKind::adamw)
    return std::make_unique<optim::AdamW>(parameters,
                                          optim::AdamWOptions{.lr = options.lr, .weight_decay = options.weight_decay});
  return std::make_unique<optim::SGD>(
      parameters,
      optim::SGDOptions{.lr = options.lr, .momentum = options.momentum, .weight_decay = options.weight_decay});
}

optim::Schedule make_schedule(const Options& options, const data::BatchSource& source) {
  if (options.schedule == ScheduleKind::constant) {
    require<OptionError>(options.warmup == 0, "schedule",
                         "--warmup must be 0 with --schedule constant but is {}; use --schedule cosine",
                         options.warmup);
    return optim::Schedule::constant(options.lr);
  }
  // A packed plan has about as many updates in every epoch.
  require<OptionError>(options.epochs < std::numeric_limits<std::int64_t>::max() / source.updates_per_epoch(0),
                       "schedule", "--epochs {} has more updates than can be numbered; use fewer", options.epochs);
  return optim::Schedule::cosine(
      {.peak_lr = options.lr, .warmup = options.warmup, .updates = source.updates_before(options.epochs)});
}

int exit_status(const Summary& summary) {
  if (!summary.saved) return 1;
  return summary.stopped_by == "SIGTERM" ? 128 + SIGTERM : 0;
}

namespace {

/// The loader of a Trainer; checks first what the model asks of a plan.
data::Loader make_loader(const Model& model, std::shared_ptr<const data::Dataset> training, const Options& options) {
  data::Loader loader(std::move(training), loader_options(options));
  if (model.batch_statistics) check_batch_statistics(loader.plan(), options.bn_accumulation);
  return loader;
}
data::Loader make_loader(const Model& model, std::shared_ptr<const data::BatchSource> training,
                         const Options& options) {
  require<OptionError>(
      !model.batch_statistics || options.accumulate == 1 || options.bn_accumulation == BatchNormAccumulation::micro,
      "batch_norm", "an update must be one micro-batch but --accumulate is {}; use --norm layer", options.accumulate);
  return data::Loader(std::move(training), loader_options(options).delivery());
}

}  // namespace

Trainer::Trainer(const Model& model, LossFunction loss, std::shared_ptr<const data::Dataset> training,
                 std::shared_ptr<const data::Dataset> test, const Options& options)
    : Trainer(
          model, std::move(loss), make_loader(model, std::move(training), options),
          [test = std::move(test), device = options.device](const Model& m, const LossFunction& l, std::int64_t most) {
            return evaluate(m, l, *test, device, most);
          },
          options) {}

Trainer::Trainer(const Model& model, LossFunction loss, std::shared_ptr<const data::BatchSource> training,
                 std::shared_ptr<const data::BatchSource> test, const Options& options)
    : Trainer(
          model, std::move(loss), make_loader(model, std::move(training), options),
          test == nullptr ? Evaluate()
                          : [test = test, device = options.device](
                                const Model& m, const LossFunction& l,
                                std::int64_t most) { return evaluate(m, l, test, device, most); },
          options) {}

Trainer::Trainer(Model model, LossFunction loss, data::Loader loader, Evaluate evaluate, const Options& options)
    : model_(std::move(model)),
      loss_(std::move(loss)),
      options_(options),
      loader_(std::move(loader)),
      evaluate_(std::move(evaluate)),
      schedule_(make_schedule(options, source())),
      folder_(options.out, options.resume ? Opening::resume : Opening::anew),
      progress_(options.json ? stderr : stdout) {
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
  summary_.train_samples = source().samples();
  summary_.updates_per_epoch = source().updates_per_epoch(0);
  summary_.commit = commit();
  summary_.machine = machine();
  summary_.variants = variants();
  summary_.variants_hash = hash_text(summary_.variants);
  if (options.resume) find_checkpoint("--resume", options.out);  // refuses where there is none
}

Summary Trainer::run() {
  start_ = Clock::now();
  Totals totals(options_.profile);
  folder_.open();
  if (options_.resume)
    resume();
  else
    metrics_.emplace(folder_.path() / "metrics.jsonl");
  announce();
  try {
    const StopSignal signals;
    if (options_.save_every && !options_.resume) save();
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

nn::NamedTensors Trainer::model_tensors() const {
  nn::NamedTensors tensors = model_.parameters;
  tensors.insert(tensors.end(), model_.buffers.begin(), model_.buffers.end());
  return tensors;
}

RunState Trainer::state() const {
  const data::LoaderState at = loader_.state(place_.epoch, place_.first);
  return {.example = options_.example,
          .config = options_.config,
          .data = source().name(),
          .data_samples = source().samples(),
          .plan_hash = at.hash,
          .seed = at.seed,
          .epoch = at.epoch,
          .cursor = at.cursor,
          .update = at.update,
          .variants_hash = summary_.variants_hash,
          .metrics_bytes = metrics_->bytes(),
          .samples = summary_.samples,
          .tokens = summary_.tokens,
          .wall_s = wall_before_ + seconds_since(start_),
          .epochs = summary_.epochs,
          .loss_sum = loss_sum_,
          .losses = losses_,
          .history = history_};
}

void Trainer::save() {
  if (saved_at_ == summary_.updates) return;
  try {
    metrics_->sync();  // what the checkpoint says of the file must be on the disk before it
    save_checkpoint(
        folder_.path() / kCheckpointFile,
        {.run = state(), .model = model_tensors(), .optimizer = optimizer_state(*optimizer_, model_.parameters)});
    saved_at_ = summary_.updates;
    save_error_.clear();
  } catch (const IoError& error) {
    save_error_ = error.what();
    progress_.print(fmt::format("warning: no checkpoint after update {}: {}", summary_.updates, save_error_));
  }
}

void Trainer::resume() {
  const std::filesystem::path file = find_checkpoint("--resume", folder_.path());
  Checkpoint checkpoint = load_checkpoint(file);
  RunState& run = checkpoint.run;
  const auto refuse = []<class... Args>(fmt::format_string<Args...> format, Args&&... args) {
    throw OptionError(
        fmt::format("--resume goes on only with what the run began with: {}; change it back, or start anew "
                    "without --resume",
                    fmt::format(format, std::forward<Args>(args)...)));
  };
  if (run.example != options_.example) refuse("this is {} and the run is one of {}", options_.example, run.example);
  const std::string changed = changed_options(options_.config, run.config, options_.may_differ);
  if (!changed.empty()) refuse("{}", changed);
  if (run.data != source().name() || run.data_samples != source().samples())
    refuse("the training data are {} with {} samples and were {} with {}", source().name(), source().samples(),
           run.data, run.data_samples);
  if (run.seed != source().seed()) refuse("the seed is {} and was {}", source().seed(), run.seed);
  if (run.plan_hash != loader_.hash())
    refuse(
        "the content of the training data {} or the way it is cut into batches has changed: the hash of both is {} and "
        "was {}",
        run.data, hex(loader_.hash()), hex(run.plan_hash));
  place_ = loader_.locate(
      {.hash = run.plan_hash, .seed = run.seed, .epoch = run.epoch, .cursor = run.cursor, .update = run.update});
  for (EpochResult& epoch : run.epochs) epoch.complete = epoch.epoch < place_.epoch;
  const auto begun = static_cast<std::int64_t>(run.epochs.size());
  require<IoError>(begun == place_.epoch + (place_.first > 0 ? 1 : 0), "checkpoint",
                   "{} holds a state with {} epochs begun at update {} of epoch {}; use another checkpoint",
                   file.string(), begun, place_.first, place_.epoch);

  // The order matters: nothing of the run is changed before all of it was found good.
  const std::vector<std::string> warnings = restore(file, checkpoint, model_tensors(), *optimizer_, model_.parameters);
  metrics_.emplace(folder_.path() / "metrics.jsonl", run.metrics_bytes);

  summary_.updates = saved_at_ = run.update;
  summary_.samples = run.samples;
  summary_.tokens = run.tokens;
  summary_.skipped_updates = optimizer_->skipped();
  summary_.epochs = std::move(run.epochs);
  loss_sum_ = run.loss_sum;
  losses_ = run.losses;
  history_ = std::move(run.history);
  wall_before_ = run.wall_s;
  options_.notices.push_back(
      fmt::format("resumed after update {}: epoch {}, sample {}", run.update, run.epoch, run.cursor));
  options_.notices.insert(options_.notices.end(), warnings.begin(), warnings.end());
  if (run.variants_hash != summary_.variants_hash)
    options_.notices.push_back(fmt::format(
        "warning: the run was begun by another build or on another machine (variants {} instead of {}): from "
        "here on its bits differ from those of an uninterrupted one",
        hex(run.variants_hash), hex(summary_.variants_hash)));
}

void Trainer::announce() {
  for (const std::string& notice : options_.notices) progress_.print(notice);
  if (!folder_.moved_to().empty())
    progress_.print(fmt::format("an earlier run was moved to {}", folder_.moved_to().string()));
  const data::PlannedUpdate first = source().update(0, 0);
  const std::int64_t updates = source().updates_per_epoch(0);
  progress_.print(fmt::format(
      "{} on {}, {} threads: {} parameters, {} samples, {} samples per update{}, {} updates per epoch, {} epochs",
      options_.example, summary_.device, options_.threads, summary_.parameters, source().samples(),
      first.tokens > 0 ? fmt::format("about {}", source().samples() / updates) : fmt::format("{}", first.samples),
      first.parts > 1 ? fmt::format(" in {} micro-batches", first.parts) : "", updates, options_.epochs));
  if (updates == 1)
    progress_.print(
        fmt::format("full batch: an epoch is 1 update, so the run makes {}; --epochs 100 and more are usual "
                    "for it",
                    options_.epochs));
}

void Trainer::train(Totals& totals) {
  const double per_epoch =
      static_cast<double>(source().updates_per_epoch(0));  // about, where it differs between epochs
  constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();
  totals.limit = options_.max_updates.value_or(kNone);
  const double epochs = std::min(static_cast<double>(options_.epochs), static_cast<double>(totals.limit) / per_epoch);
  progress_.start(options_.epochs,
                  static_cast<std::int64_t>(std::min(epochs * static_cast<double>(source().samples()), 9e18)),
                  summary_.samples);
  model_.set_mode(nn::Mode::train);
  summary_.stopped_by = "epochs";
  const data::Place start = place_;
  totals.stop = summary_.updates >= totals.limit;
  // A checkpoint is written before the evaluation that its epoch, or the end of its run, called for.
  if (!summary_.epochs.empty() && (start.first == 0 || totals.stop)) evaluate_epoch(summary_.epochs.back());
  for (std::int64_t epoch = start.epoch; epoch < options_.epochs && !totals.stop; ++epoch) {
    train_epoch(epoch, epoch == start.epoch ? start.first : 0, totals);
    progress_.pause();
    if (totals.stop || epoch + 1 == options_.epochs) save();
    evaluate_epoch(summary_.epochs.back());
    progress_.resume();
  }
  const bool done =
      static_cast<std::int64_t>(summary_.epochs.size()) >= options_.epochs && summary_.epochs.back().complete;
  if (!done && summary_.stopped_by == "epochs") summary_.stopped_by = "max_updates";
}

void Trainer::train_epoch(std::int64_t epoch, std::int64_t first, Totals& totals) {
  if (first == 0) {
    summary_.epochs.push_back({.epoch = epoch});
    loss_sum_ = 0;
    losses_ = 0;
  }
  EpochResult& result = summary_.epochs.back();
  const std::int64_t updates = source().updates_per_epoch(epoch);
  Laps& laps = totals.laps;
  const double seconds_before = result.seconds;
  const auto start = Clock::now();
  laps.start();
  for (data::Update& update : loader_.epoch(epoch, first)) {
    const double lr = schedule_.lr(update.number());
    optimizer_->set_lr(lr);
    for (const data::MicroBatch& micro : update) {
      laps.end(loading);
      const auto scope = micro.scope();
      const Loss loss = loss_(model_.forward(micro), micro);
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
    result.tokens += update.tokens();
    summary_.tokens += update.tokens();
    place_ = {epoch, update.index() + 1};
    result.complete = place_.first == updates;
    const bool logged = update.number() % options_.log_every == 0;
    // Reading a loss on a GPU waits for it; elsewhere it costs nothing.
    if (logged || options_.device.kind != DeviceKind::cuda) {
      if (options_.device.kind == DeviceKind::cuda) optimizer_->check();
      const double loss = update.window().mean_loss();
      if (std::isfinite(loss)) {
        loss_sum_ += loss;
        ++losses_;
      }
      history_.add(update.number(), loss);
      const std::int64_t skipped = optimizer_->skipped();
      if (logged) log(update, lr, loss, skipped != summary_.skipped_updates);
      summary_.skipped_updates = skipped;
      progress_.advance(epoch, summary_.samples, loss);
    }
    if (options_.device.kind == DeviceKind::simt && summary_.updates == 1) {
      const double seconds = seconds_since(start);
      const std::int64_t planned =
          std::min(totals.limit, options_.epochs < 1000 ? options_.epochs * updates : totals.limit);
      progress_.print(fmt::format("the first update took {:.1f} s, so {} take about {:.0f} s", seconds, planned,
                                  seconds * static_cast<double>(planned)));
    }

    const int signal = StopSignal::received();
    if (signal != 0) summary_.stopped_by = signal == SIGTERM ? "SIGTERM" : "SIGINT";
    totals.stop = signal != 0 || update.number() == totals.limit;
    result.seconds = seconds_before + seconds_since(start);
    result.train_loss =
        losses_ > 0 ? loss_sum_ / static_cast<double>(losses_) : std::numeric_limits<double>::quiet_NaN();
    if (options_.save_every && update.number() % *options_.save_every == 0) save();
    laps.end(logging);
    if (totals.stop) break;
  }
  result.seconds = seconds_before + seconds_since(start);
}

void Trainer::log(const data::Update& update, double lr, double loss, bool skipped) {
  metrics_->append(fmt::format(
      "{{\"event\":\"update\",\"update\":{},\"epoch\":{},\"samples\":{},\"loss\":{},\"lr\":{},\"grad_norm\":{}{}}}\n",
      update.number(), update.epoch(), summary_.samples, json_number(loss), json_number(lr),
      json_number(optimizer_->grad_norm()), skipped ? ",\"skipped\":true" : ""));
}

void Trainer::evaluate_epoch(EpochResult& epoch) {
  if (!evaluate_) {
    progress_.print(fmt::format("epoch {}/{}  train loss {:.4f}  {}", epoch.epoch + 1, options_.epochs,
                                epoch.train_loss, short_duration(epoch.seconds)));
    return;
  }
  evaluation_ = evaluate_(model_, loss_, options_.eval_samples.value_or(std::numeric_limits<std::int64_t>::max()));
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
  summary_.wall_s = wall_before_ + seconds_since(start_);
  summary_.saved = save_error_.empty();
  if (!summary_.saved) summary_.notes.push_back(fmt::format("the last checkpoint could not be saved: {}", save_error_));
  folder_.write("summary.json", to_json(summary_));
  if (!summary_.phases.empty()) progress_.print(profile_table(summary_.phases, summary_.updates));
  for (const std::string& note : summary_.notes) progress_.print("note: " + note);
}

void Trainer::write_report(const Report& report) {
  folder_.write("report.html", render(report, summary_, history_, evaluation_));
  progress_.print(
      fmt::format("results in {}: report.html, summary.json, metrics.jsonl, {}", options_.out, kCheckpointFile));
}

}  // namespace weft::train
