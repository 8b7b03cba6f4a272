#pragma once
// The command line that every example shares. An example adds its own options to it.
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tensor/device.h"
#include "tensor/error.h"

namespace weft::train {

/// --optimizer.
enum class OptimizerKind : std::uint8_t { adamw, sgd };
/// --schedule.
enum class ScheduleKind : std::uint8_t { constant, cosine };
/// BatchNorm under gradient accumulation: refuse to train, or let every micro-batch normalise with its own statistics.
enum class BatchNormAccumulation : std::uint8_t { refuse, micro };

/// One named value of a configuration or a summary; monostate when there is none.
using Value = std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string>;
/// A value and its name.
struct Setting {
  std::string name;
  Value value;
};

/// What the command line said. Defaults are those of `--help`; an example may change them before parsing.
struct Options {
  std::string example;                           // its name
  std::string command;                           // how to start the same run again
  Device device;                                 // resolved from --device
  std::optional<std::int64_t> batch_size = 128;  // samples of one update; none: the full batch
  std::int64_t accumulate = 1;                   // micro-batches of one update
  bool drop_last = false;
  std::int64_t epochs = 3;
  std::optional<std::int64_t> max_updates;   // stops early; schedules keep their length
  std::optional<std::int64_t> eval_samples;  // evaluation takes the first of them; none: all
  OptimizerKind optimizer = OptimizerKind::adamw;
  double lr = 1e-3;
  double weight_decay = 0.01;
  double momentum = 0;  // of SGD
  ScheduleKind schedule = ScheduleKind::constant;
  std::int64_t warmup = 0;  // updates
  BatchNormAccumulation bn_accumulation = BatchNormAccumulation::refuse;
  std::uint64_t seed = 1;
  int threads = 0;                         // 0: all usable cores; after parsing the number in use
  std::string data_dir;                    // empty: where the distribution's package puts the data set
  std::string out;                         // empty: runs/<example>
  std::int64_t workers = 0;                // threads that make batches ahead of their use; 0: the training thread
  std::int64_t prefetch = 0;               // batches that the workers are ahead at most; 0: two per worker
  bool resume = false;                     // go on with the run in `out`
  std::optional<std::int64_t> save_every;  // updates between checkpoints; none: only where the run ends
  std::string eval_run;                    // a run whose model is to be evaluated, instead of training
  std::string predict_file;                // rows to predict with the model of `out`, instead of training
  std::int64_t log_every = 1;
  bool profile = false;
  bool json = false;  // stdout is one JSON document, everything else goes to stderr

  /// Lines to print when the run starts: choices that were made for the user.
  std::vector<std::string> notices;
  /// Every option by name, the example's own included: the `config` of the summary and of the report.
  std::vector<Setting> config;
  /// Entries of `config` that may be another in a run that is resumed, because they do not decide what an update does. An
  /// example adds its own.
  std::vector<std::string> may_differ;
  /// Those of `config` that are the example's own.
  std::vector<std::string> own;
  /// Sets or adds an entry of `config`, for a choice that was made after parsing ("--norm auto" became "batch").
  void record(std::string_view name, Value value);
};

/// Parses a command line.
///   train::CommandLine line("fashion_mnist", "trains an MLP on Fashion-MNIST and writes a report");
///   line.choice("--norm", norm, {"auto", "batch", "layer", "none"}, "normalisation of the hidden layers");
///   const train::Options options = line.parse(argc, argv);
class CommandLine {
 public:
  CommandLine(std::string name, std::string description);

  /// Defaults, to be changed before parse().
  Options options;

  /// Adds an option of the example. `value` holds the default and receives what was given; it must outlive parse().
  void choice(const std::string& name, std::string& value, const std::vector<std::string>& choices, std::string help);
  void text(const std::string& name, std::string& value, std::string placeholder, std::string help);
  /// One without a value: true when it was given.
  void flag(const std::string& name, bool& value, std::string help);
  /// A number in [low, high].
  void number(const std::string& name, std::int64_t& value, std::int64_t low, std::int64_t high, std::string help);
  void number(const std::string& name, double& value, double low, double high, std::string help);
  /// Common options that the example decides itself: they are unknown then.
  void without(std::vector<std::string> names) { without_ = std::move(names); }

  /// Reads the arguments, resolves the device and sets the number of threads of this process. With --resume, --eval and
  /// --predict, options that are not given are those of the run that is used, as far as they belong to it.
  /// Errors: OptionError "--batch-size must be a number of samples from 1 up, or 'full', but is '-1'", naming for an unknown
  ///         option the nearest known one, and for a run without a checkpoint; IoError for one that cannot be read; HelpRequested for --help. Nothing was changed then.
  Options parse(int argc, const char* const* argv);
  Options parse(const std::vector<std::string>& arguments);

 private:
  struct Entry {
    std::string name, group, placeholder, help;
    std::string fallback;                                // the default as text
    bool flag = false;                                   // takes no value
    std::function<void(const std::string& text)> apply;  // reads the value; throws OptionError
    std::function<Value()> value;                        // for the config
  };
  static std::vector<Entry> common(Options& into);
  static void take_from_run(const std::vector<Entry>& entries, const std::vector<bool>& given, const Options& options);
  std::string help(const std::vector<Entry>& entries) const;
  [[noreturn]] static void refuse_unknown(const std::string& word, const std::vector<Entry>& entries);

  std::string name_, description_;
  std::vector<Entry> own_;
  std::vector<std::string> without_;
};

/// Thrown by CommandLine::parse for --help; what() is the text.
class HelpRequested : public Error {
 public:
  using Error::Error;
};

/// What main() of an example calls: runs it and returns the exit status, an exception printed as one line "error: ..." on
/// stderr. 0 is success or --help, 2 a wrong option, configuration or device, 1 any other error.
int run_example(const std::function<int()>& run);

/// The names in `known` nearest to `word` by edit distance, or empty when none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& known);

}  // namespace weft::train
