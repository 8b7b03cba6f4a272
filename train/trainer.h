#pragma once
// The training loop: one for every regime, from pure SGD to the full batch in micro-batches.
#include <chrono>
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/batch_source.h"
#include "data/loader.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "train/checkpoint.h"
#include "train/evaluation.h"
#include "train/options.h"
#include "train/progress.h"
#include "train/report.h"
#include "train/run_folder.h"
#include "train/summary.h"

namespace weft::train {

/// What the options say about batches, for a data::Loader.
data::LoaderOptions loader_options(const Options& options);
/// The optimizer that the options name.
std::unique_ptr<optim::Optimizer> make_optimizer(const Options& options, const std::vector<Tensor>& parameters);
/// The learning rate that the options plan over the updates of all epochs. Errors: OptionError for a warm-up without a cosine
/// or longer than the run.
optim::Schedule make_schedule(const Options& options, const data::BatchSource& source);

/// Trains a model as the options say and writes what came of it:
///   train::Trainer trainer(model, loss, data::FashionMnist::train(), data::FashionMnist::test(), options);
///   const train::Summary summary = trainer.run();        // metrics.jsonl, summary.json
///   trainer.write_report({...});                         // report.html
///   return train::exit_status(summary);
/// The constructor refuses what can be known to be wrong and changes nothing, so that a wrong option costs no earlier run.
///   With options.resume the run in options.out goes on: model, optimizer, loss curve and counts are those of its checkpoint,
/// lines of metrics.jsonl past it are dropped, and what follows is bitwise what the uninterrupted run would have written, for
/// any device's own number of threads, workers and prefetched batches.
/// Errors: OptionError of plan, schedule, optimizer and batch-norm policy; IoError for an unusable output folder.
class Trainer {
 public:
  /// The model must be on options.device and outlive the trainer.
  template <class M, std::derived_from<data::Dataset> D>
  Trainer(M& model, LossFunction loss, D training, D test, const Options& options)
      : Trainer(Model::of(model), std::move(loss), std::make_shared<const D>(std::move(training)),
                std::make_shared<const D>(std::move(test)), options) {}
  Trainer(const Model& model, LossFunction loss, std::shared_ptr<const data::Dataset> training,
          std::shared_ptr<const data::Dataset> test, const Options& options);
  /// Any source of batches, for sequences say; of options.batch_size and the like only what the source was made with counts.
  /// `test` is walked over once per evaluation, in its epoch 0. The test source may be null: then nothing is evaluated.
  Trainer(const Model& model, LossFunction loss, std::shared_ptr<const data::BatchSource> training,
          std::shared_ptr<const data::BatchSource> test, const Options& options);

  /// Trains, evaluating after every epoch and at the end. Stops early at options.max_updates and at the first SIGINT or
  /// SIGTERM, after the update in progress; schedules keep their length.
  ///   Saves a checkpoint every options.save_every updates, from update 0 on, and always where it ends. One that cannot be
  /// saved (a full disk) leaves the one before as it was and is a warning; the last one also makes exit_status() 1.
  ///   Updates that the optimizer skips are counted and noted. An error in the loop is noted in summary.json and thrown on.
  /// Errors: resuming, OptionError where there is no checkpoint and for other options, data or plan than the run began with,
  ///         naming them; IoError for a checkpoint that is damaged or of another model. Nothing is changed then.
  Summary run();

  /// Writes report.html. `report` holds what the example alone knows; the rest is filled in here.
  void write_report(const Report& report);

  const data::BatchSource& source() const { return loader_.source(); }

 private:
  struct Totals;
  using Evaluate = std::function<Evaluation(const Model&, const LossFunction&, std::int64_t most)>;
  Trainer(Model model, LossFunction loss, data::Loader loader, Evaluate evaluate, const Options& options);
  nn::NamedTensors model_tensors() const;
  RunState state() const;
  void resume();
  void save();
  void train(Totals& totals);
  void train_epoch(std::int64_t epoch, std::int64_t first, Totals& totals);
  void log(const data::Update& update, double lr, double loss, bool skipped);
  void evaluate_epoch(EpochResult& epoch);
  void announce();
  void finish(const Totals& totals);

  Model model_;
  LossFunction loss_;
  Options options_;
  data::Loader loader_;
  Evaluate evaluate_;
  optim::Schedule schedule_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  RunFolder folder_;
  Progress progress_;
  std::optional<LineFile> metrics_;
  LossHistory history_;
  Evaluation evaluation_;
  Summary summary_;
  double loss_sum_ = 0;      // of the epoch under way
  std::int64_t losses_ = 0;  // summands
  std::chrono::steady_clock::time_point start_;
  double wall_before_ = 0;      // seconds of the run before it was resumed
  data::Place place_;           // of the next update
  std::int64_t saved_at_ = -1;  // the update that the checkpoint was written after
  std::string save_error_;      // why the last attempt failed; empty when it did not
};

/// The exit status of a run: 0, 1 when its last checkpoint could not be saved, 143 after SIGTERM.
int exit_status(const Summary& summary);

}  // namespace weft::train
