#pragma once
// The training loop: one for every regime, from pure SGD to the full batch in micro-batches.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/loader.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
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
/// The learning rate that the options plan. Errors: OptionError for a warm-up without a cosine or longer than the run.
optim::Schedule make_schedule(const Options& options, std::int64_t updates_per_epoch);

/// Trains a model as the options say and writes what came of it:
///   train::Trainer trainer(model, loss, data::FashionMnist::train(), data::FashionMnist::test(), options);
///   const train::Summary summary = trainer.run();        // metrics.jsonl, summary.json
///   trainer.write_report({...});                         // report.html
///   return train::exit_status(summary);
/// The constructor refuses what can be known to be wrong and changes nothing, so that a wrong option costs no earlier run.
/// Errors: OptionError of plan, schedule, optimizer and batch-norm policy; IoError for an unusable output folder.
class Trainer {
 public:
  /// The model must be on options.device and outlive the trainer.
  template <class M, std::derived_from<data::Dataset> D>
  Trainer(M& model, LossFunction loss, D training, D test, const Options& options)
      : Trainer(Model::of(model), std::move(loss), std::make_shared<const D>(std::move(training)),
                std::make_shared<const D>(std::move(test)), options) {}
  Trainer(Model model, LossFunction loss, std::shared_ptr<const data::Dataset> training,
          std::shared_ptr<const data::Dataset> test, const Options& options);

  /// Trains, evaluating after every epoch and at the end. Stops early at options.max_updates and at the first SIGINT or
  /// SIGTERM, after the update in progress; schedules keep their length.
  ///   Updates that the optimizer skips are counted and noted. An error in the loop is noted in summary.json and thrown on.
  Summary run();

  /// Writes report.html. `report` holds what the example alone knows; the rest is filled in here.
  void write_report(const Report& report);

  const data::Plan& plan() const { return loader_.plan(); }

 private:
  struct Totals;
  void train(Totals& totals);
  void train_epoch(std::int64_t epoch, Totals& totals);
  void log(const data::Update& update, double lr, double loss, bool skipped);
  void evaluate_epoch(EpochResult& epoch);
  void announce();
  void finish(const Totals& totals);

  Model model_;
  LossFunction loss_;
  Options options_;
  std::shared_ptr<const data::Dataset> test_;
  data::Loader loader_;
  optim::Schedule schedule_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  RunFolder folder_;
  Progress progress_;
  std::optional<LineFile> metrics_;
  LossHistory history_;
  Evaluation evaluation_;
  Summary summary_;
};

/// The exit status of a run: 0, or 143 after SIGTERM.
int exit_status(const Summary& summary);

}  // namespace weft::train
