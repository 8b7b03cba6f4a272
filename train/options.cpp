#include "train/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <span>

#include <CLI/CLI.hpp>

#include "tensor/parallel.h"
#include "train/checkpoint.h"

namespace weft::train {
namespace {

constexpr int kMaxThreads = 1024;  // far beyond any machine's cores: more is a typing error that would exhaust memory

constexpr std::int64_t kMaxPrefetch = 65536;  // likewise, of batches

/// The whole of `text` as a number; locale independent. Empty when it is anything else.
template <class T>
std::optional<T> number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// A message without the "[op]" in front: here the option is what was wrong.
template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw OptionError(fmt::format(format, std::forward<Args>(args)...));
}

template <class T>
T whole(const std::string& name, const std::string& text, T low, std::string_view what,
        T high = std::numeric_limits<T>::max()) {
  const auto value = number<T>(text);
  if (!value || *value < low || *value > high) refuse("{} must be {} but is '{}'", name, what, text);
  return *value;
}

double real(const std::string& name, const std::string& text, std::string_view what, double below) {
  const auto value = number<double>(text);
  if (!value || !std::isfinite(*value) || *value < 0 || *value >= below)
    refuse("{} must be {} but is '{}'", name, what, text);
  return *value;
}

std::string text_of(double value) { return fmt::format("{}", value); }

/// A word as the shell needs it typed.
std::string quoted(const std::string& word) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-_=./,:+@%").find(c) != std::string_view::npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
  std::string result = "'";
  for (const char c : word) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] != b[j] ? 1 : 0);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, replaced});
    }
  }
  return row.back();
}

std::string joined(const std::vector<std::string>& words, std::string_view separator, std::string_view last) {
  std::string result;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0) result += i + 1 == words.size() ? last : separator;
    result += words[i];
  }
  return result;
}

/// The value of an option that takes one of a few words.
void check_choice(const std::string& name, const std::string& text, const std::vector<std::string>& words) {
  if (std::find(words.begin(), words.end(), text) == words.end())
    refuse("{} must be {} but is '{}'", name, joined(words, ", ", " or "), text);
}

// Settings of a run that say where and how it runs: no other run takes them over.
constexpr std::string_view kOfTheProcess[] = {"max_updates", "device", "threads", "workers", "prefetch", "out",
                                              "profile",     "json",   "resume",  "eval",    "predict"};
// Settings that it takes over unless they are given, and that may be given anew: they do not decide what an update does, or
// (accumulate) only in its rounding.
constexpr std::string_view kMayChange[] = {"accumulate", "bn_accumulation", "eval_samples",
                                           "data_dir",   "save_every",      "log_every"};

bool contains(std::span<const std::string_view> words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// "batch_size" for "--batch-size".
std::string key_of(const std::string& option) {
  std::string key = option.substr(2);
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

/// A setting as it would be typed.
std::string typed(const Value& value) {
  return std::visit(
      []<class T>(const T& v) -> std::string {
        if constexpr (std::is_same_v<T, std::monostate> || std::is_same_v<T, bool>)
          return "";
        else if constexpr (std::is_same_v<T, std::string>)
          return v;
        else
          return fmt::format("{}", v);
      },
      value);
}

constexpr std::int64_t kSimtUpdates = 20;
constexpr std::int64_t kSimtEvalSamples = 256;

void resolve_device(const std::string& text, Options& options) {
  try {
    options.device = Device::parse(text);
  } catch (const DeviceError& error) {  // what this machine lacks, asked for by an option
    throw OptionError(error.what());
  }
  const CudaStatus cuda = cuda_status();
  const bool visible = cuda.device_count > 0 || std::filesystem::exists("/dev/nvidia0");
  if (text == "auto" && visible && !cuda.usable)
    options.notices.push_back(
        fmt::format("device cpu, because the GPU of this machine cannot be used: {}", cuda.reason));
}

}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : known) {
    std::size_t distance = edit_distance(word, candidate);
    if (word.size() > 3 && candidate.compare(0, word.size(), word) == 0) distance = std::min<std::size_t>(distance, 1);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

void Options::record(std::string_view name, Value value) {
  for (Setting& setting : config) {
    if (setting.name == name) {
      setting.value = std::move(value);
      return;
    }
  }
  config.push_back({std::string(name), std::move(value)});
}

CommandLine::CommandLine(std::string name, std::string description)
    : name_(std::move(name)), description_(std::move(description)) {
  options.example = name_;
}

void CommandLine::choice(const std::string& name, std::string& value, const std::vector<std::string>& choices,
                         std::string help) {
  own_.push_back({.name = name,
                  .group = "Of this example",
                  .placeholder = joined(choices, "|", "|"),
                  .help = std::move(help),
                  .fallback = value,
                  .apply =
                      [name, &value, choices](const std::string& text) {
                        check_choice(name, text, choices);
                        value = text;
                      },
                  .value = [&value] { return Value(value); }});
}

void CommandLine::text(const std::string& name, std::string& value, std::string placeholder, std::string help) {
  own_.push_back({.name = name,
                  .group = "Of this example",
                  .placeholder = std::move(placeholder),
                  .help = std::move(help),
                  .fallback = value,
                  .apply = [&value](const std::string& text) { value = text; },
                  .value = [&value] { return Value(value); }});
}

void CommandLine::flag(const std::string& name, bool& value, std::string help) {
  own_.push_back({.name = name,
                  .group = "Of this example",
                  .placeholder = "",
                  .help = std::move(help),
                  .fallback = "",
                  .flag = true,
                  .apply = [&value](const std::string&) { value = true; },
                  .value = [&value] { return Value(value); }});
}

void CommandLine::number(const std::string& name, std::int64_t& value, std::int64_t low, std::int64_t high,
                         std::string help) {
  own_.push_back({.name = name,
                  .group = "Of this example",
                  .placeholder = "N",
                  .help = std::move(help),
                  .fallback = std::to_string(value),
                  .apply =
                      [=, &value](const std::string& text) {
                        const auto given = weft::train::number<std::int64_t>(text);
                        if (!given || *given < low || *given > high)
                          refuse("{} must be a whole number from {} to {} but is '{}'", name, low, high, text);
                        value = *given;
                      },
                  .value = [&value] { return Value(value); }});
}

void CommandLine::number(const std::string& name, double& value, double low, double high, std::string help) {
  own_.push_back({.name = name,
                  .group = "Of this example",
                  .placeholder = "X",
                  .help = std::move(help),
                  .fallback = text_of(value),
                  .apply =
                      [=, &value](const std::string& text) {
                        const auto given = weft::train::number<double>(text);
                        if (!given || !(*given >= low && *given <= high))
                          refuse("{} must be a number from {:g} to {:g} but is '{}'", name, low, high, text);
                        value = *given;
                      },
                  .value = [&value] { return Value(value); }});
}

std::vector<CommandLine::Entry> CommandLine::common(Options& o) {
  std::vector<Entry> entries;
  const auto add = [&](std::string group, std::string name, std::string placeholder, std::string fallback,
                       std::string help, std::function<void(const std::string&)> apply, std::function<Value()> value) {
    entries.push_back({.name = std::move(name),
                       .group = std::move(group),
                       .placeholder = std::move(placeholder),
                       .help = std::move(help),
                       .fallback = std::move(fallback),
                       .apply = std::move(apply),
                       .value = std::move(value)});
  };
  const auto add_flag = [&](std::string group, std::string name, bool& flag, std::string help) {
    add(
        std::move(group), std::move(name), "", "", std::move(help), [&flag](const std::string&) { flag = true; },
        [&flag] { return Value(flag); });
    entries.back().flag = true;
  };
  const auto add_words = [&]<class E>(const std::string& group, const std::string& name, E& into,
                                      std::vector<std::string> words,
                                      const std::string& help) {  // enumerators in the order of the words
    add(
        group, name, joined(words, "|", "|"), words[static_cast<std::size_t>(into)], help,
        [name, words, &into](const std::string& text) {
          check_choice(name, text, words);
          into = static_cast<E>(std::find(words.begin(), words.end(), text) - words.begin());
        },
        [words, &into] { return Value(words[static_cast<std::size_t>(into)]); });
  };

  const std::string batch = "Batch", training = "Training", where = "Where and what";
  add(
      batch, "--batch-size", "N|full", o.batch_size ? std::to_string(*o.batch_size) : "full",
      "samples of one update; 1 is pure SGD, full the whole data set",
      [&o](const std::string& text) {
        if (text == "full") {
          o.batch_size.reset();
          return;
        }
        o.batch_size = whole<std::int64_t>("--batch-size", text, 1, "a number of samples from 1 up, or 'full',");
      },
      [&o] { return o.batch_size ? Value(*o.batch_size) : Value(std::string("full")); });
  add(
      batch, "--accumulate", "K", std::to_string(o.accumulate),
      "split each update into K micro-batches: same gradient, less memory",
      [&o](const std::string& text) {
        o.accumulate = whole<std::int64_t>("--accumulate", text, 1, "a number of micro-batches from 1 up");
      },
      [&o] { return Value(o.accumulate); });
  add_flag(batch, "--drop-last", o.drop_last, "leave out an epoch's last update when it has fewer samples");
  add_words(batch, "--bn-accumulation", o.bn_accumulation, {"refuse", "micro"},
            "BatchNorm with --accumulate: refuse, or normalise each micro-batch by itself");

  add(
      training, "--epochs", "E", std::to_string(o.epochs), "passes over the training data",
      [&o](const std::string& text) {
        o.epochs = whole<std::int64_t>("--epochs", text, 1, "a whole number from 1 up");
      },
      [&o] { return Value(o.epochs); });
  add(
      training, "--max-updates", "N", o.max_updates ? std::to_string(*o.max_updates) : "",
      "stop after N updates; schedules keep their length",
      [&o](const std::string& text) {
        o.max_updates = whole<std::int64_t>("--max-updates", text, 1, "a number of updates from 1 up");
      },
      [&o] { return o.max_updates ? Value(*o.max_updates) : Value(); });
  add(
      training, "--eval-samples", "N", "all; 256 on simt", "evaluate on the first N test samples",
      [&o](const std::string& text) {
        o.eval_samples = whole<std::int64_t>("--eval-samples", text, 1, "a number of samples from 1 up");
      },
      [&o] { return o.eval_samples ? Value(*o.eval_samples) : Value(); });
  add_words(training, "--optimizer", o.optimizer, {"adamw", "sgd"}, "how gradients change the parameters");
  add(
      training, "--lr", "X", text_of(o.lr), "learning rate",
      [&o](const std::string& text) { o.lr = real("--lr", text, "a finite number from 0 up", HUGE_VAL); },
      [&o] { return Value(o.lr); });
  add(
      training, "--weight-decay", "X", text_of(o.weight_decay), "decoupled for adamw, added to the gradient for sgd",
      [&o](const std::string& text) {
        o.weight_decay = real("--weight-decay", text, "a finite number from 0 up", HUGE_VAL);
      },
      [&o] { return Value(o.weight_decay); });
  add(
      training, "--momentum", "X", text_of(o.momentum), "of sgd",
      [&o](const std::string& text) { o.momentum = real("--momentum", text, "a number in [0, 1)", 1.0); },
      [&o] { return Value(o.momentum); });
  add_words(training, "--schedule", o.schedule, {"constant", "cosine"}, "the learning rate over the updates");
  add(
      training, "--warmup", "N", std::to_string(o.warmup), "updates over which the learning rate rises to --lr",
      [&o](const std::string& text) {
        o.warmup = whole<std::int64_t>("--warmup", text, 0, "a number of updates from 0 up");
      },
      [&o] { return Value(o.warmup); });
  add(
      training, "--seed", "S", std::to_string(o.seed), "of the initial parameters and the order of the samples",
      [&o](const std::string& text) {
        o.seed = whole<std::uint64_t>("--seed", text, 0, "a whole number from 0 to 2^64 - 1");
      },
      [&o] { return Value(o.seed); });

  add(
      where, "--device", "auto|cpu|cuda|simt", "auto", "auto takes cuda where it can be used, else cpu",
      [&o](const std::string& text) { resolve_device(text, o); }, [&o] { return Value(o.device.str()); });
  add(
      where, "--threads", "T", std::to_string(o.threads), "threads on the cpu; the result does not depend on it",
      [&o](const std::string& text) {
        o.threads =
            whole<int>("--threads", text, 1, fmt::format("a whole number from 1 to {}", kMaxThreads), kMaxThreads);
      },
      [&o] { return Value(std::int64_t{o.threads}); });
  add(
      where, "--workers", "N", std::to_string(o.workers),
      "threads that make batches ahead; the result does not depend on it",
      [&o](const std::string& text) {
        o.workers = whole<std::int64_t>("--workers", text, 0, fmt::format("a whole number from 0 to {}", kMaxThreads),
                                        kMaxThreads);
      },
      [&o] { return Value(o.workers); });
  add(
      where, "--prefetch", "N", std::to_string(o.prefetch),
      "micro-batches that the workers are ahead at most; 0: two each",
      [&o](const std::string& text) {
        o.prefetch = whole<std::int64_t>("--prefetch", text, 0,
                                         fmt::format("a whole number from 0 to {}", kMaxPrefetch), kMaxPrefetch);
      },
      [&o] { return Value(o.prefetch); });
  add(
      where, "--data-dir", "D", o.data_dir, "folder of the data set; without it that of the distribution's package",
      [&o](const std::string& text) {
        if (text.empty()) refuse("--data-dir must name a folder but is empty");
        o.data_dir = text;
      },
      [&o] { return Value(o.data_dir); });
  add(
      where, "--out", "DIR", o.out, "folder for the results; an existing run there is moved to DIR.1",
      [&o](const std::string& text) {
        if (text.empty()) refuse("--out must name a folder but is empty");
        o.out = text;
      },
      [&o] { return Value(o.out); });
  add(
      where, "--log-every", "N", std::to_string(o.log_every), "write every N-th update to metrics.jsonl",
      [&o](const std::string& text) {
        o.log_every = whole<std::int64_t>("--log-every", text, 1, "a number of updates from 1 up");
      },
      [&o] { return Value(o.log_every); });
  add_flag(where, "--profile", o.profile, "measure the phases of the updates and print a table");
  add_flag(where, "--json", o.json, "print the summary as JSON on stdout and everything else on stderr");

  const std::string saved = "Checkpoints";
  add_flag(saved, "--resume", o.resume, "go on with the run in --out; options are its own unless given");
  add(
      saved, "--save-every", "N", "", "save a checkpoint every N updates, not only where the run ends",
      [&o](const std::string& text) {
        o.save_every = whole<std::int64_t>("--save-every", text, 1, "a number of updates from 1 up");
      },
      [&o] { return o.save_every ? Value(*o.save_every) : Value(); });
  add(
      saved, "--eval", "RUN", "", "evaluate the model of a run on the test data, and nothing else",
      [&o](const std::string& text) {
        if (text.empty()) refuse("--eval must name the folder of a run but is empty");
        o.eval_run = text;
      },
      [&o] { return o.eval_run.empty() ? Value() : Value(o.eval_run); });
  add(
      saved, "--predict", "FILE", "", "predict the rows of a file with the model in --out, and nothing else",
      [&o](const std::string& text) {
        if (text.empty()) refuse("--predict must name a file but is empty");
        o.predict_file = text;
      },
      [&o] { return o.predict_file.empty() ? Value() : Value(o.predict_file); });
  return entries;
}

std::string CommandLine::help(const std::vector<Entry>& entries) const {
  constexpr std::size_t kColumn = 38;
  std::string text = fmt::format("{}: {}\n\nusage: ./run {} [options]\n", name_, description_, name_);
  std::string group;
  const auto line = [&](const std::string& left, const std::string& right) {
    text += left.size() < kColumn ? fmt::format("  {:{}}{}\n", left, kColumn, right)
                                  : fmt::format("  {}\n  {:{}}{}\n", left, "", kColumn, right);
  };
  for (const Entry& entry : entries) {
    if (entry.group != group) text += "\n" + entry.group + "\n";
    group = entry.group;
    line(entry.flag ? entry.name : entry.name + " " + entry.placeholder,
         entry.fallback.empty() ? entry.help : fmt::format("{} [{}]", entry.help, entry.fallback));
  }
  line("--help", "this text; defaults are in brackets");
  return text;
}

void CommandLine::refuse_unknown(const std::string& word, const std::vector<Entry>& entries) {
  std::vector<std::string> known{"--help"};
  for (const Entry& entry : entries) known.push_back(entry.name);
  const std::string near = nearest(word, known);
  refuse("unknown option '{}'; {}", word, near.empty() ? "--help lists the options" : "did you mean " + near + "?");
}

// What the run was made with, for the options that are not given. Nothing else of the run is read here.
void CommandLine::take_from_run(const std::vector<Entry>& entries, const std::vector<bool>& given,
                                const Options& options) {
  const bool evaluates = !options.eval_run.empty();
  const std::string option = evaluates ? "--eval" : options.resume ? "--resume" : "--predict";
  const RunState run = load_run_state(find_checkpoint(option, evaluates ? options.eval_run : options.out));
  if (run.example != options.example)
    refuse("{} needs a run of {} but '{}' is one of {}", option, options.example,
           evaluates ? options.eval_run : options.out, run.example);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::string key = key_of(entries[i].name);
    if (given[i] || contains(kOfTheProcess, key)) continue;
    for (const Setting& setting : run.config) {
      if (setting.name != key || std::holds_alternative<std::monostate>(setting.value)) continue;
      const bool* flag = std::get_if<bool>(&setting.value);
      if (flag != nullptr && !*flag) continue;
      if (std::string text = typed(setting.value); flag != nullptr || !text.empty()) entries[i].apply(text);
    }
  }
}

Options CommandLine::parse(int argc, const char* const* argv) {
  return parse(std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
}

Options CommandLine::parse(const std::vector<std::string>& arguments) {
  Options result = options;
  if (result.out.empty()) result.out = (std::filesystem::path("runs") / name_).string();
  if (result.threads == 0) result.threads = num_threads();
  std::vector<Entry> entries = common(result);
  std::erase_if(entries, [&](const Entry& entry) {
    return std::find(without_.begin(), without_.end(), entry.name) != without_.end();
  });
  entries.insert(entries.begin(), own_.begin(), own_.end());

  CLI::App app;
  app.allow_extras();  // an unknown option is reported below, with the nearest known one
  app.set_help_flag("-h,--help");
  std::vector<std::vector<std::string>> given(entries.size());
  std::vector<CLI::Option*> parsed(entries.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].flag) {
      parsed[i] = app.add_flag(entries[i].name);
    } else {
      parsed[i] = app.add_option(entries[i].name, given[i])->expected(1)->allow_extra_args(false)->take_all();
    }
  }
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // CLI11 takes them last first
  } catch (const CLI::CallForHelp&) {
    throw HelpRequested(help(entries));
  } catch (const CLI::ArgumentMismatch& error) {  // "--lr: 1 required ..."
    const std::string what = error.what();
    refuse("{} needs a value; --help lists the options", what.substr(0, what.find(':')));
  } catch (const CLI::ParseError& error) { refuse("{}; --help lists the options", error.what()); }
  const std::vector<std::string> extras = app.remaining();
  for (const std::string& extra : extras) {
    if (extra == "--") break;
    if (extra.size() > 1 && extra[0] == '-') refuse_unknown(extra.substr(0, extra.find('=')), entries);
  }
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::size_t count = parsed[i]->count();
    if (entries[i].flag && count > 0 && parsed[i]->results().back() != "true")
      refuse("{} takes no value but got '{}'", entries[i].name, parsed[i]->results().back());
    if (count > 1 && !entries[i].flag) refuse("{} was given {} times; give it once", entries[i].name, count);
    if (count > 0) entries[i].apply(given[i].empty() ? "" : given[i][0]);
  }
  if (result.resume + !result.eval_run.empty() + !result.predict_file.empty() > 1)
    refuse("--resume trains, --eval RUN evaluates and --predict FILE predicts: give one of them");
  if (!extras.empty()) refuse("unexpected argument '{}'; --help lists the options", extras.front());

  const auto is_given = [&](std::string_view name) {
    for (std::size_t i = 0; i < entries.size(); ++i)
      if (entries[i].name == name) return parsed[i]->count() > 0;
    return false;
  };
  if (result.resume || !result.eval_run.empty() || !result.predict_file.empty()) {
    std::vector<bool> given_before(entries.size());
    for (std::size_t i = 0; i < entries.size(); ++i) given_before[i] = parsed[i]->count() > 0;
    take_from_run(entries, given_before, result);
  }
  if (!is_given("--device")) resolve_device("auto", result);
  if (is_given("--momentum") && result.optimizer != OptimizerKind::sgd)
    refuse("--momentum is an option of --optimizer sgd but the optimizer is adamw; leave one of them out");
  set_num_threads(result.threads);
  if (result.device.kind == DeviceKind::simt) {
    // An emulator for tests and for study: nobody should wait an hour for it without having asked.
    if (!is_given("--max-updates")) result.max_updates = kSimtUpdates;
    if (!is_given("--eval-samples")) result.eval_samples = kSimtEvalSamples;
    result.notices.push_back(
        fmt::format("simt runs the CUDA kernels in an emulator, thread by thread: {} updates, evaluated on {} samples; "
                    "--max-updates and --eval-samples change that",
                    *result.max_updates, *result.eval_samples));
  }

  result.command = "./run " + name_;
  for (const std::string& argument : arguments) result.command += " " + quoted(argument);
  for (const Entry& entry : entries) result.record(key_of(entry.name), entry.value());
  for (const Entry& entry : own_) result.own.push_back(key_of(entry.name));
  for (const std::string_view key : kOfTheProcess) result.may_differ.emplace_back(key);
  for (const std::string_view key : kMayChange) result.may_differ.emplace_back(key);
  if (result.schedule == ScheduleKind::constant) result.may_differ.emplace_back("epochs");  // it may train for longer
  return result;
}

int run_example(const std::function<int()>& run) {
  try {
    return run();
  } catch (const HelpRequested& help) {
    std::fputs(help.what(), stdout);
    return 0;
  } catch (const OptionError& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}

}  // namespace weft::train
