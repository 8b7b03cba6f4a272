#pragma once
// What a run reports: summary.json, and the numbers in report.html.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train/history.h"
#include "train/options.h"

namespace weft::train {

/// A whole epoch, or the part of one that a run did before it stopped.
struct EpochResult {
  std::int64_t epoch = 0;    // from 0
  std::int64_t updates = 0;  // done in it
  std::int64_t samples = 0;
  std::int64_t tokens = 0;  // of those; 0 where samples have no lengths
  bool complete = false;
  double seconds = 0;     // of the training loop, loading included, evaluation excluded
  double train_loss = 0;  // mean over its logged updates; NaN when none was finite
  std::optional<double> test_loss = {}, test_accuracy = {};
};

/// Seconds spent in one part of the updates (--profile).
struct Phase {
  std::string name;
  double seconds = 0;
};

/// What summary.json says of a run.
struct Summary {
  std::string example, command, device;
  std::uint64_t seed = 0;
  int threads = 0;
  std::vector<Setting> config;
  std::string stopped_by;              // "epochs", "max_updates", "SIGINT" or "SIGTERM"
  std::int64_t parameters = 0;         // trainable elements
  std::int64_t train_samples = 0;      // in the data set
  std::int64_t updates_per_epoch = 0;  // planned
  std::int64_t updates = 0;            // done
  std::int64_t skipped_updates = 0;    // of those, left without effect: nothing to learn from, or a gradient not finite
  std::int64_t samples = 0;            // trained on, repeats counted
  std::int64_t tokens = 0;             // likewise; 0 where samples have no lengths
  double samples_per_s = 0;            // samples per epoch / median epoch seconds
  std::optional<double> tokens_per_s;  // likewise, where there are tokens
  double train_loss = 0;               // of the last epoch
  std::optional<double> test_loss, test_accuracy;
  std::int64_t eval_samples = 0;  // test samples that those two are means over
  std::int64_t peak_bytes = 0;    // of tensors on the device
  double wall_s = 0;
  std::string commit, machine, variants;
  std::uint64_t parameters_hash = 0;  // of final parameters, buffers and optimizer state
  std::uint64_t variants_hash = 0;    // of `variants`
  std::vector<EpochResult> epochs;
  std::vector<Phase> phases;  // empty without --profile
  std::vector<std::string> notes;
  bool saved = true;                          // the last checkpoint is there
  std::vector<std::vector<Setting>> results;  // what an example measured besides: rows of one table
};

/// Sets samples_per_s, and tokens_per_s where there are tokens, from the epochs: those per epoch / median seconds over the
/// complete ones, or the rate of the part that was done when none is complete.
void measure_rate(Summary& summary);

/// The text of summary.json. Numbers in shortest round-trip form; what is not finite is null and named in "notes".
std::string to_json(const Summary& summary);

}  // namespace weft::train
