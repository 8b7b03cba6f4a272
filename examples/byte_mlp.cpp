// byte_mlp: trains a small language model of bytes on the fortunes, padded, bucketed or packed
//
//   ./run byte_mlp                                          packed rows of 512 bytes, two epochs; prints a text of its own
//   ./run byte_mlp --batching pad --accumulate 4            a document per row; the gradient is the same in four micro-batches
//   ./run byte_mlp --compare-batching                       pad, bucket, tokens and pack side by side
//   ./run verify_partition byte_mlp                         does one update's gradient depend on how it is cut?
//   echo -n "The " > start; ./run byte_mlp --predict start  goes on with a text, by the model in runs/byte_mlp
//
// 15 217 texts of the Debian package fortunes, 167 bytes long on average, 2435 at most. From the last eight bytes a
// multi-layer perceptron predicts the next one. What it may see comes from the segment table: never a byte of another document,
// wherever a batching puts it. So the batchings differ in speed, and in what an update holds, but not in the gradient of
// a document.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <weft/weft.h>

using namespace weft;

namespace {

using Clock = std::chrono::steady_clock;
using data::ByteTokenizer;
using Source = std::shared_ptr<const data::SequenceBatches>;

constexpr std::int64_t kWindow = 8;                                   // bytes that the model sees
constexpr std::int64_t kEmbedding = 32;                               // numbers per byte
constexpr std::int64_t kVocabulary = ByteTokenizer::kVocabulary + 1;  // with the end of a text

/// 8 bytes x 32 numbers -> hidden -> 257 logits, for every place of a batch at once.
struct ByteMlp {
  explicit ByteMlp(std::int64_t features)
      : embedding(kVocabulary, kEmbedding),
        hidden(kWindow * kEmbedding, features),
        norm(features),
        logits(features, kVocabulary) {}

  Tensor operator()(const data::MicroBatch& micro) { return (*this)(micro.input, micro.segments); }
  /// tokens i64 [B, T], their segments -> logits [B, T, 257] of the bytes that follow.
  Tensor operator()(const Tensor& tokens, const Segments& segments) {
    return logits(silu(norm(hidden(causal_window(embedding(tokens), segments, kWindow)))));
  }
  template <class V>
  void visit(V& v) {
    v("embedding", embedding);
    v("hidden", hidden);
    v("norm", norm);
    v("logits", logits);
  }

  nn::Embedding embedding;
  nn::Linear hidden;
  nn::LayerNorm norm;
  nn::Linear logits;
};

/// The mean over labels, or over documents by the weights that the batch then carries.
Loss loss_of(const Tensor& logits, const data::MicroBatch& micro) {
  return cross_entropy(logits, micro.target, {.token_weights = micro.weight});
}

/// What the command line says beyond the options that every example has.
struct Choices {
  std::string batching = "pack", packer = "best_fit", pad_to = "longest", loss_mean = "token";
  std::int64_t length = 512, hidden = 512, sample_bytes = 400;
  double temperature = 0.7;
  bool verify = false, compare = false;
};

/// Position of a word in a list of words, as an enumerator.
template <class E>
E chosen(const std::string& word, std::initializer_list<const char*> words) {
  return static_cast<E>(std::find(words.begin(), words.end(), word) - words.begin());
}

/// The updates of the training texts. Whatever the batching, an update holds about options.batch_size documents, so that learning
/// rate and number of updates keep their meaning.
Source make_source(const data::TextDocuments& texts, const Choices& choices, const train::Options& options) {
  data::SequencePlanOptions plan{
      .batching = chosen<data::Batching>(choices.batching, {"pad", "bucket", "tokens", "pack"}),
      .length = choices.length,
      .overlong = data::Overlong::split,
      .packer = chosen<data::Packer>(choices.packer, {"next_fit", "first_fit", "best_fit"}),
      .accumulate = options.accumulate,
      .drop_last = options.drop_last,
      .seed = options.seed};
  if (!options.batch_size)
    plan.batch = data::FullBatch{};
  else if (plan.batching == data::Batching::tokens)  // as many bytes as so many documents have on average
    plan.batch = data::TokenBatch{std::max(choices.length, *options.batch_size * texts.tokens() / texts.size())};
  else
    plan.batch = data::MiniBatch{*options.batch_size};
  if (plan.batching == data::Batching::pack)
    plan.unit = options.batch_size ? data::RowUnit::samples : data::RowUnit::rows;
  else
    plan.pad_to = chosen<data::PadTo>(choices.pad_to, {"longest", "length"});
  return std::make_shared<const data::SequenceBatches>(
      texts, plan, chosen<data::LossMean>(choices.loss_mean, {"token", "sequence"}));
}

/// Texts that are only measured: whole, whatever --length is, in order. Packed, because that is fast; the loss is the same.
Source make_test_source(const data::TextDocuments& texts) {
  return std::make_shared<const data::SequenceBatches>(texts,
                                                       data::SequencePlanOptions{.batching = data::Batching::pack,
                                                                                 .batch = data::MiniBatch{4},
                                                                                 .overlong = data::Overlong::error,
                                                                                 .order = data::Order::sequential});
}

/// Goes on with `text` until the model ends it or `bytes` were added: each byte is drawn with the probability that the model
/// gives it, sharpened by a temperature below 1 (0: always the likeliest). The n-th byte takes the n-th number of the seed.
std::string continued(ByteMlp& model, std::string text, const Choices& choices, const train::Options& options) {
  const NoGrad guard;
  nn::eval(model);
  Philox random(options.seed);
  for (std::int64_t n = 0; n < choices.sample_bytes; ++n) {
    std::vector<std::int64_t> seen;
    for (std::size_t i = text.size() - std::min<std::size_t>(text.size(), kWindow); i < text.size(); ++i)
      seen.push_back(static_cast<unsigned char>(text[i]));
    const auto count = static_cast<std::int64_t>(seen.size());
    const Tensor tokens = to(Tensor::from_vector(seen, {1, count}), options.device);
    const Tensor logits = model(tokens, Segments({0, static_cast<std::int32_t>(count)}, options.device));
    const std::vector<float> row = to(logits, Device{}).select(0, 0).select(0, count - 1).to_vector<float>();
    const float most = *std::max_element(row.begin(), row.end());
    std::vector<double> shares;
    double sum = 0;
    for (const float logit : row)
      sum += shares.emplace_back(choices.temperature > 0
                                     ? std::exp(static_cast<double>(logit - most) / choices.temperature)
                                     : (logit == most ? 1.0 : 0.0));
    double left = random.uniform() * sum;
    std::size_t next = 0;
    while (next + 1 < shares.size() && (left -= shares[next]) >= 0) ++next;
    if (static_cast<std::int64_t>(next) == ByteTokenizer::kEndOfText) break;
    text += static_cast<char>(next);
  }
  nn::train(model);
  return text;
}

/// The first byte of one of the texts: nothing comes before it that could predict it.
std::string first_byte(const data::TextDocuments& texts, std::uint64_t seed) {
  const std::uint64_t draw = Philox(seed, RandomUse::user, 1).next_u64();
  return std::string(
      texts.text(static_cast<std::int64_t>(draw % static_cast<std::uint64_t>(texts.size()))).substr(0, 1));
}

/// Bytes as they can be shown: what is no UTF-8, and control characters but for line feeds and tabs, as "?".
std::string shown(const std::string& text) {
  std::string result;
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const std::size_t length = byte < 0x80 ? 1 : byte >= 0xc2 && byte < 0xe0 ? 2 : byte >= 0xe0 && byte < 0xf0 ? 3 : 1;
    bool whole = length > 1 ? i + length <= text.size() : byte == '\n' || byte == '\t' || (byte >= 32 && byte < 127);
    for (std::size_t k = 1; whole && k < length; ++k) whole = (static_cast<unsigned char>(text[i + k]) & 0xc0) == 0x80;
    if (whole && byte == 0xe0) whole = static_cast<unsigned char>(text[i + 1]) >= 0xa0;  // no overlong form,
    if (whole && byte == 0xed) whole = static_cast<unsigned char>(text[i + 1]) < 0xa0;   // no surrogate
    result += whole ? text.substr(i, length) : "?";
    i += whole ? length : 1;
  }
  return result;
}

ByteMlp make_model(const Choices& choices, const train::Options& options) {
  nn::manual_seed(options.seed);
  ByteMlp model(choices.hidden);
  nn::to(model, options.device);
  return model;
}

// --- --compare-batching -------------------------------------------------------------------------------------------------

/// One batching with a model of its own.
struct Contestant {
  Contestant(std::string called, Source batches, const Choices& choices, const train::Options& options)
      : name(std::move(called)),
        source(std::move(batches)),
        loader(source, train::loader_options(options).delivery()),
        model(make_model(choices, options)),
        schedule(train::make_schedule(options, *source)),
        optimizer(train::make_optimizer(options, nn::parameters(model))) {}
  Contestant(const Contestant&) = delete;
  Contestant& operator=(const Contestant&) = delete;

  /// Trains until `goal` bytes were seen, or `most` updates were made.
  void advance(std::int64_t goal, std::int64_t most) {
    const auto start = Clock::now();
    while (tokens < goal && most > 0) {
      for (data::Update& update : loader.epoch(place.epoch, place.first)) {
        optimizer->set_lr(schedule.lr(update.number()));
        for (const data::MicroBatch& micro : update) {
          const auto scope = micro.scope();
          update.backward(loss_of(model(micro), micro));
          places += micro.input.numel();
        }
        optimizer->step(update.window());
        tokens += update.tokens();
        samples += update.samples();
        ++updates;
        ++place.first;
        if (tokens >= goal || --most == 0) break;
      }
      if (place.first == source->updates_per_epoch(place.epoch)) place = {place.epoch + 1, 0};
    }
    optimizer->check();  // on a GPU, waits for what was started
    seconds += std::chrono::duration<double>(Clock::now() - start).count();
  }

  std::string name;
  Source source;
  data::Loader loader;
  ByteMlp model;
  optim::Schedule schedule;
  std::unique_ptr<optim::Optimizer> optimizer;
  data::Place place;
  std::int64_t updates = 0, samples = 0, tokens = 0, places = 0;
  double seconds = 0;
  std::vector<double> losses;  // on the test texts, after each quarter
};

int compare(const data::TextDocuments& texts, const Source& test, Choices choices, const train::Options& options) {
  const auto start = Clock::now();
  train::RunFolder folder(options.out);
  train::Progress progress(options.json ? stderr : stdout);
  std::vector<std::unique_ptr<Contestant>> all;
  const auto enter = [&](const std::string& name, const char* batching, const char* pad_to) {
    choices.batching = batching;
    choices.pad_to = pad_to;
    all.push_back(std::make_unique<Contestant>(name, make_source(texts, choices, options), choices, options));
  };
  enter(fmt::format("pad to {}", choices.length), "pad", "length");
  enter("pad to longest", "pad", "longest");
  enter("bucket", "bucket", "longest");
  enter("tokens", "tokens", "longest");
  enter("pack", "pack", "longest");
  folder.open();
  for (const std::string& notice : options.notices) progress.print(notice);

  train::Summary summary;
  std::int64_t goal = options.epochs * texts.tokens();
  if (options.max_updates)
    goal = std::min(goal, *options.max_updates * texts.tokens() / all.back()->source->updates_per_epoch(0));
  progress.print(fmt::format("{} bytes for each of {} batchings, about {} documents per update", goal, all.size(),
                             options.batch_size ? fmt::format("{}", *options.batch_size) : "all"));
  summary.stopped_by = options.max_updates ? "max_updates" : "epochs";
  {
    const train::StopSignal signals;
    constexpr int kQuarters = 4;
    for (int quarter = 1; quarter <= kQuarters && train::StopSignal::received() == 0; ++quarter) {
      const std::int64_t until = goal * quarter / kQuarters;
      // In turns of a few updates, so that whatever else the machine does slows all of them alike.
      for (bool going = true; going && train::StopSignal::received() == 0;) {
        going = false;
        for (const auto& one : all) {
          one->advance(until, 8);
          going = going || one->tokens < until;
        }
      }
      for (const auto& one : all) {
        const train::Evaluation found =
            train::evaluate(train::Model::of(one->model), loss_of, test, options.device,
                            options.eval_samples.value_or(std::numeric_limits<std::int64_t>::max()));
        one->losses.push_back(found.loss);
        summary.eval_samples = found.samples;
      }
      progress.print(
          fmt::format("{} bytes each, {:.0f} s", until, std::chrono::duration<double>(Clock::now() - start).count()));
    }
    if (const int signal = train::StopSignal::received()) summary.stopped_by = signal == SIGTERM ? "SIGTERM" : "SIGINT";
  }

  const double slowest = static_cast<double>(all[0]->tokens) / all[0]->seconds;
  progress.print(fmt::format("{:<16}{:>9}{:>12}{:>12}{:>10}{:>12}{:>9}   test loss after each quarter", "batching",
                             "updates", "docs/update", "utilisation", "seconds", "bytes/s", "speed"));
  for (const auto& one : all) {
    const double rate = static_cast<double>(one->tokens) / one->seconds,
                 utilisation = static_cast<double>(one->tokens) / static_cast<double>(one->places),
                 per_update =
                     static_cast<double>(one->samples) / static_cast<double>(std::max<std::int64_t>(one->updates, 1));
    std::string losses;
    for (const double loss : one->losses) losses += fmt::format("  {:.4f}", loss);
    progress.print(fmt::format("{:<16}{:>9}{:>12.1f}{:>11.1f}%{:>10.1f}{:>12.0f}{:>8.2f}x {}", one->name, one->updates,
                               per_update, 100 * utilisation, one->seconds, rate, rate / slowest, losses));
    summary.results.push_back({{"batching", one->name},
                               {"updates", one->updates},
                               {"samples_per_update", per_update},
                               {"tokens", one->tokens},
                               {"utilisation", utilisation},
                               {"seconds", one->seconds},
                               {"tokens_per_s", rate},
                               {"speed", rate / slowest},
                               {"test_loss", one->losses.empty() ? train::Value() : train::Value(one->losses.back())}});
    summary.updates += one->updates;
    summary.samples += one->samples;
    summary.tokens += one->tokens;
    summary.parameters_hash = train::hash_tensors(nn::named_parameters(one->model), summary.parameters_hash);
  }
  summary.example = options.example;
  summary.command = options.command;
  summary.device = options.device.str();
  summary.seed = options.seed;
  summary.threads = options.threads;
  summary.config = options.config;
  summary.parameters = nn::num_parameters(all[0]->model);
  summary.train_samples = texts.size();
  summary.tokens_per_s = static_cast<double>(all.back()->tokens) / all.back()->seconds;  // packed
  summary.samples_per_s = static_cast<double>(all.back()->samples) / all.back()->seconds;
  if (!all.back()->losses.empty()) summary.test_loss = all.back()->losses.back();
  summary.train_loss = std::numeric_limits<double>::quiet_NaN();
  summary.peak_bytes = options.device.kind == DeviceKind::cpu ? cpu_memory_stats().peak_bytes : 0;
  summary.commit = train::commit();
  summary.machine = train::machine();
  summary.variants = train::variants();
  summary.variants_hash = train::hash_text(summary.variants);
  summary.wall_s = std::chrono::duration<double>(Clock::now() - start).count();
  folder.write("summary.json", train::to_json(summary));
  folder.write("report.html",
               train::render({.title = "Batchings side by side",
                              .description =
                                  "The same model on the same texts: what padding costs, and what it does not change."},
                             summary, {}, {}));
  progress.print(fmt::format("results in {}: report.html, summary.json", options.out));
  if (options.json) std::fputs(train::to_json(summary).c_str(), stdout);
  return train::exit_status(summary);
}

// ------------------------------------------------------------------------------------------------------------------------

int run(int argc, char** argv) {
  // 1. What was asked for.
  Choices choices;
  train::CommandLine line("byte_mlp", "trains a small language model of bytes on the fortunes");
  line.options.batch_size = 32;
  line.options.epochs = 4;
  line.options.lr = 2e-3;
  line.options.schedule = train::ScheduleKind::cosine;
  line.options.may_differ = {"temperature", "sample_bytes"};  // when a run goes on or its model is used
  line.without({"--bn-accumulation"});
  line.choice("--batching", choices.batching, {"pad", "bucket", "tokens", "pack"}, "how documents become rows");
  line.number("--length", choices.length, 2, 65536, "places of a row; longer documents are split");
  line.choice("--packer", choices.packer, {"next_fit", "first_fit", "best_fit"}, "of --batching pack");
  line.choice("--pad-to", choices.pad_to, {"longest", "length"}, "to the longest row of a micro-batch, or to --length");
  line.choice("--loss-mean", choices.loss_mean, {"token", "sequence"},
              "what the loss is the mean over: bytes or documents");
  line.number("--hidden", choices.hidden, 1, 65536, "features of the hidden layer");
  line.number("--temperature", choices.temperature, 0.0, 100.0, "of the text at the end; 0 takes the likeliest byte");
  line.number("--sample-bytes", choices.sample_bytes, 0, 1000000, "of that text, at most");
  line.flag("--compare-batching", choices.compare,
            "train with each batching, for as many bytes each; --epochs 1 takes minutes");
  line.flag("--verify-partition", choices.verify, "cut one update in several ways and compare the gradients");
  train::Options options = line.parse(argc, argv);
  std::FILE* const out = options.json ? stderr : stdout;

  // 2. The data: one text in twenty is held out.
  const auto [texts, held_out] = data::TextDocuments::fortunes(options.data_dir, true).split();
  const Source test = make_test_source(held_out);

  // 3. The model.
  ByteMlp model = make_model(choices, options);
  const auto trained = train::Model::of(model);
  if (!options.eval_run.empty()) return train::evaluate_trained(trained, loss_of, test, options);
  if (!options.predict_file.empty()) {
    train::load_trained_model(trained, options);
    std::ifstream file(options.predict_file, std::ios::binary);
    require<IoError>(file.good(), "byte_mlp", "{} cannot be read: give a file with the beginning of a text",
                     options.predict_file);
    std::string text(std::istreambuf_iterator<char>(file), {});
    if (text.empty()) text = first_byte(texts, options.seed);
    text = continued(model, text, choices, options);
    if (options.json)
      fmt::print("{}\n", nlohmann::json{{"text", shown(text)}}.dump());
    else
      fmt::print("{}\n", shown(text));
    return 0;
  }
  if (choices.compare) return compare(texts, test, choices, options);
  const Source source = make_source(texts, choices, options);
  if (choices.verify) {
    const auto micro_loss = [&](const data::MicroBatch& micro) { return loss_of(model(micro), micro); };
    return train::print_partition(train::verify_partition(model, micro_loss, *source, {.device = options.device}),
                                  options);
  }

  // 4. Training.
  train::Trainer trainer(trained, loss_of, source, test, options);
  const train::Summary summary = trainer.run();
  if (summary.test_loss)
    fmt::print(out, "{:.3f} bits per byte on texts that it was not trained on\n", *summary.test_loss / std::log(2.0));

  // 5. A text of its own, and the report.
  train::Report report{.title = "Bytes of fortunes",
                       .description = "A multi-layer perceptron predicts the next byte of a text from the last eight."};
  if (choices.sample_bytes > 0) {
    const std::string text = shown(continued(model, first_byte(texts, options.seed), choices, options));
    fmt::print(out, "\n{}\n\n", text);
    report.figures.push_back({"A text of its own", "<pre>" + train::escape_html(text) + "</pre>",
                              fmt::format("Drawn byte by byte at the temperature {}.", choices.temperature)});
  }
  trainer.write_report(report);
  return train::exit_status(summary);
}

}  // namespace

int main(int argc, char** argv) {
  return train::run_example([&] { return run(argc, argv); });
}
