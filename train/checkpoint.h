#pragma once
// What a run leaves behind so that it can go on and its model be used: one safetensors file, which any reader of that format
// opens. Tensors are named "model.<name>" and "optimizer.<parameter>.<moment>"; everything else is a JSON text in its metadata.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nn/module.h"
#include "optim/optimizer.h"
#include "train/history.h"
#include "train/options.h"
#include "train/summary.h"

namespace weft::train {

/// The checkpoint's name in the folder of a run.
inline constexpr const char* kCheckpointFile = "checkpoint.safetensors";

/// Where a run stands: after an update, before the evaluation that may follow it. All randomness is a function of the seed
/// and of these numbers, so that no generator has a state.
struct RunState {
  std::string example = {};
  std::vector<Setting> config = {};  // every option by name
  std::string data = {};             // the training set's name
  std::int64_t data_samples = 0;     // and size
  std::uint64_t plan_hash = 0;       // of plan and training set
  std::uint64_t seed = 0;
  std::int64_t epoch = 0;           // from 0
  std::int64_t cursor = 0;          // samples of this epoch that were seen
  std::int64_t update = 0;          // number of the last update, the place in the schedule; 0 at the start
  std::uint64_t variants_hash = 0;  // Summary::variants_hash
  std::int64_t metrics_bytes = 0;   // of metrics.jsonl up to here

  // What the summary goes on counting:
  std::int64_t samples = 0, tokens = 0;  // trained on, repeats counted
  double wall_s = 0;
  std::vector<EpochResult> epochs = {};  // the last one is under way, or done and not yet evaluated
  double loss_sum = 0;                   // of its finite losses
  std::int64_t losses = 0;               // how many these are
  LossHistory history = {};
};

/// A whole checkpoint. The tensors are handles: when saving, of the model's and the optimizer's own.
struct Checkpoint {
  RunState run = {};
  nn::NamedTensors model = {};      // parameters and buffers
  nn::NamedTensors optimizer = {};  // optimizer_state()
};

/// Optimizer::state() with the parameters' names in place of their numbers: "0.weight.m" for "0.m".
nn::NamedTensors optimizer_state(const optim::Optimizer& optimizer, const nn::NamedTensors& parameters);

/// Writes a checkpoint: under a temporary name of its own, forced to the disk, renamed, the folder forced to the disk. When it
/// returns the new one is there for good, when it throws the old one still is. Errors: IoError with path and reason.
void save_checkpoint(const std::filesystem::path& file, const Checkpoint& checkpoint);

/// Reads a checkpoint, all tensors onto the cpu.
/// Errors: IoError naming the file for whatever load_safetensors refuses, for a safetensors file that is no checkpoint, one of
///         a newer format, and a state that cannot be (a negative update, more updates in the epochs than made).
Checkpoint load_checkpoint(const std::filesystem::path& file);
/// The same without the tensors, except for the loss curve.
RunState load_run_state(const std::filesystem::path& file);

/// Copies a checkpoint's model into `own`, on whatever device it is. Returns a warning for each tensor that holds values which
/// are not finite: they are loaded all the same.
/// Errors: IoError naming the file and the first tensor that is missing, unknown, or of another shape or dtype. Nothing is
///         changed then.
std::vector<std::string> restore_model(const std::filesystem::path& file, const Checkpoint& checkpoint,
                                       const nn::NamedTensors& own);
/// The same for model and optimizer. Errors: also what Optimizer::load_state refuses, and counts that are not those of the run.
std::vector<std::string> restore(const std::filesystem::path& file, const Checkpoint& checkpoint,
                                 const nn::NamedTensors& model, optim::Optimizer& optimizer,
                                 const nn::NamedTensors& parameters);

/// The options that decide what an update does and that are not what they were, as text: "--lr is 0.1 but was 0.001,
/// --seed is 2 but was 1"; empty when there are none. `may_differ` names options that do not count.
std::string changed_options(const std::vector<Setting>& now, const std::vector<Setting>& then,
                            const std::vector<std::string>& may_differ);

/// The checkpoint of a run: `run` is its folder or the file itself. Errors: OptionError when there is none.
std::filesystem::path find_checkpoint(const std::string& option, const std::filesystem::path& run);

}  // namespace weft::train
