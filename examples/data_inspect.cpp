// data_inspect: what batching does to a data set of sequences: padding, lost tokens, larger batches, sorted updates
//
//   ./run data_inspect fortunes                                          packed into rows of 512, best-fit decreasing
//   ./run data_inspect fortunes --table                                  every batching at four lengths
//   ./run data_inspect fortunes --batching pad --length 2048 --batch-size 16
//   ./run data_inspect notes.txt --documents paragraph --batching tokens --batch-tokens 8192
//   ./run data_inspect tokens.bin --end-token 50256 --length 1024 --json
//
// The data set: fortunes (15 217 short texts of a Debian package, as bytes), synthetic (lognormal lengths), a text file (bytes), or
// a .bin file of token ids as llm.c writes them. Nothing is trained: only lengths are looked at. A picture, plan.png, shows
// how long the samples are and the first rows of the plan.
#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <weft/weft.h>

using namespace weft;

namespace {

using Clock = std::chrono::steady_clock;
using Lengths = std::vector<std::int64_t>;

/// What the command line said, as text.
struct Given {
  std::string dataset = "fortunes";
  bool table = false;
  std::string batching = "pack", packer = "best_fit", overlong = "split", order = "shuffled", unit = "rows";
  std::string length = "512", batch_tokens, micro_tokens, window, boundaries, separator, pad_multiple = "1";
  std::string pad_to = "longest", epoch = "0", sequences = "15000", documents = "paragraph", end_token;
};

std::int64_t number(const std::string& option, const std::string& text, std::int64_t least) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least)
    throw OptionError(fmt::format("{} must be a whole number from {} up but is '{}'", option, least, text));
  return value;
}

template <class E>
E choice(const std::string& text, const std::vector<std::string>& words) {  // enumerators in the order of the words
  return static_cast<E>(std::find(words.begin(), words.end(), text) - words.begin());
}

data::SequencePlanOptions plan_options(const Given& given, const train::Options& common) {
  data::SequencePlanOptions o;
  o.batching = choice<data::Batching>(given.batching, {"pad", "bucket", "tokens", "pack"});
  o.packer = choice<data::Packer>(given.packer, {"next_fit", "first_fit", "best_fit"});
  o.overlong = choice<data::Overlong>(given.overlong, {"error", "truncate", "split", "drop"});
  o.order = choice<data::Order>(given.order, {"shuffled", "sequential"});
  o.pad_to = choice<data::PadTo>(given.pad_to, {"longest", "length"});
  o.unit = choice<data::RowUnit>(given.unit, {"rows", "samples"});
  o.length = number("--length", given.length, 0);
  o.pad_multiple = number("--pad-multiple", given.pad_multiple, 1);
  o.accumulate = common.accumulate;
  o.drop_last = common.drop_last;
  o.seed = common.seed;
  if (!given.micro_tokens.empty()) o.micro_tokens = number("--micro-tokens", given.micro_tokens, 1);
  if (!given.window.empty()) o.window = given.window == "all" ? 0 : number("--window", given.window, 1);
  if (!given.separator.empty()) o.separator = data::Separator{.id = number("--separator", given.separator, 0)};
  for (std::size_t begin = 0; !given.boundaries.empty() && begin <= given.boundaries.size();) {
    const std::size_t end = std::min(given.boundaries.find(',', begin), given.boundaries.size());
    o.boundaries.push_back(number("--boundaries", given.boundaries.substr(begin, end - begin), 1));
    begin = end + 1;
  }
  if (!given.batch_tokens.empty())
    o.batch = data::TokenBatch{number("--batch-tokens", given.batch_tokens, 1)};
  else if (!common.batch_size)
    o.batch = data::FullBatch{};
  else if (o.batching == data::Batching::tokens && o.length > 0)
    o.batch = data::TokenBatch{*common.batch_size * o.length};
  else
    o.batch = data::MiniBatch{*common.batch_size};
  return o;
}

/// Lengths whose logarithm is normal, with a median of 100: as texts are.
Lengths synthetic(std::int64_t count, std::uint64_t seed) {
  Philox random(seed, RandomUse::data);
  Lengths lengths(static_cast<std::size_t>(count));
  for (std::int64_t& length : lengths)
    length = std::max<std::int64_t>(1, std::llround(100 * std::exp(0.85 * random.normal())));
  return lengths;
}

Lengths read_lengths(const Given& given, const train::Options& common) {
  if (given.dataset == "synthetic") return synthetic(number("--sequences", given.sequences, 1), common.seed);
  if (given.dataset == "fortunes") return data::lengths_of(data::TextDocuments::fortunes(common.data_dir));
  const std::filesystem::path path = given.dataset;
  if (path.extension() == ".bin") {
    data::ShardOptions shard;
    if (!given.end_token.empty()) shard.ends_with = number("--end-token", given.end_token, 0);
    return data::lengths_of(data::TokenShards(path, shard));
  }
  const auto split = choice<data::DocumentSplit>(given.documents, {"file", "line", "paragraph", "fortune"});
  return data::lengths_of(data::TextDocuments::from_file(path, {.split = split}));
}

// ---- the picture -----------------------------------------------------------------------------------------------------

/// A grey picture with lines of digits.
class Canvas {
 public:
  Canvas(int width, int height) : width_(width), height_(height), pixels_(size(width, height), 255) {}
  void fill(int x, int y, int width, int height, int grey) {
    for (int row = std::max(0, y); row < std::min(height_, y + height); ++row)
      for (int column = std::max(0, x); column < std::min(width_, x + width); ++column)
        pixels_[size(width_, row) + static_cast<std::size_t>(column)] = static_cast<std::uint8_t>(grey);
  }
  /// A number, 8 x 10 pixels a digit, centred at x.
  void digits(int x, int y, std::int64_t value) {
    // Three columns and five rows of each digit, row by row.
    constexpr std::array<unsigned, 10> kDigits{075557, 026227, 071747, 071717, 055711,
                                               074717, 074757, 071122, 075757, 075717};
    const std::string text = std::to_string(value);
    x -= static_cast<int>(text.size()) * 4;
    for (const char digit : text) {
      for (int bit = 0; bit < 15; ++bit)
        if (kDigits[static_cast<std::size_t>(digit - '0')] >> (14 - bit) & 1u)
          fill(x + bit % 3 * 2, y + bit / 3 * 2, 2, 2, 60);
      x += 8;
    }
  }
  std::string png() const { return train::png(pixels_, height_, width_); }

 private:
  static std::size_t size(int width, int height) {
    return static_cast<std::size_t>(width) * static_cast<std::size_t>(height);
  }
  int width_, height_;
  std::vector<std::uint8_t> pixels_;
};

/// Above, how many samples have which length (the longest 1 % are counted in the last bar); below, the first rows of the plan:
/// pieces in two greys, padding white.
std::string picture(const Lengths& sorted, const data::SequencePlan& plan, std::int64_t epoch) {
  constexpr int kMargin = 24, kBars = 128, kBar = 8, kWidth = kBars * kBar, kTop = 200, kRow = 8, kRows = 64;
  const std::int64_t shown = std::max<std::int64_t>(kBars, sorted[(sorted.size() - 1) * 99 / 100]);
  std::array<std::int64_t, kBars> counts{};
  for (const std::int64_t length : sorted)
    ++counts[static_cast<std::size_t>(std::min<std::int64_t>(kBars - 1, length * kBars / (shown + 1)))];
  const std::int64_t most = *std::max_element(counts.begin(), counts.end());

  Canvas canvas(kWidth + 2 * kMargin, kTop + 4 * kMargin + kRow * kRows);
  canvas.fill(kMargin, kMargin + kTop, kWidth, 1, 128);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const int height = static_cast<int>(counts[i] * kTop / most);
    canvas.fill(kMargin + static_cast<int>(i) * kBar, kMargin + kTop - height, kBar - 1, height, 90);
  }
  for (int tick = 0; tick <= 8; ++tick)
    canvas.digits(kMargin + tick * kWidth / 8, kMargin + kTop + 6, shown * tick / 8);

  const int top = kTop + 3 * kMargin;
  int row = 0;
  for (std::int64_t u = 0; u < plan.updates_per_epoch(epoch) && row < kRows; ++u) {
    const data::PlannedUpdate update = plan.update(epoch, u);
    for (const data::SequenceLayout::Part& part : update.layout->parts)
      for (std::int64_t r = part.first; r < part.first + part.rows && row < kRows; ++r, ++row) {
        const auto at = [&](std::int64_t place) { return kMargin + static_cast<int>(place * kWidth / plan.length()); };
        canvas.fill(at(0), top + row * kRow, at(part.width) - at(0), kRow - 1, 235);  // padding
        std::int64_t place = 0;
        int grey = 0;
        for (const data::Piece& piece : update.layout->row(r)) {
          const int begin = at(place);
          place += piece.length;
          canvas.fill(begin, top + row * kRow, std::max(1, at(place) - begin), kRow - 1, grey++ % 2 == 0 ? 70 : 140);
        }
      }
  }
  for (int tick = 0; tick <= 8; ++tick) canvas.digits(kMargin + tick * kWidth / 8, top - 16, plan.length() * tick / 8);
  return canvas.png();
}

// ---- what is printed -------------------------------------------------------------------------------------------------

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (static_cast<unsigned char>(c) < 0x20)
      result += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    else
      result += c;
  }
  return result + '"';
}

std::string json(const Given& given, const data::SequencePlanOptions& o, const data::BiasReport& r,
                 const Lengths& sorted, const std::string& picture_path, double seconds) {
  const auto quantile = [&](std::size_t percent) { return sorted[(sorted.size() - 1) * percent / 100]; };
  std::vector<std::string> fields;
  const auto add = [&](const std::string& key, const std::string& value) {
    fields.push_back(quoted(key) + ": " + value);
  };
  const auto count = [&](const std::string& key, std::int64_t value) { add(key, std::to_string(value)); };
  const auto real = [&](const std::string& key, double value) { add(key, fmt::format("{}", value)); };
  add("example", quoted("data_inspect"));
  add("dataset", quoted(given.dataset));
  add("batching", quoted(given.batching));
  add("packer", o.batching == data::Batching::pack ? quoted(given.packer) : "null");
  count("length", o.length);
  add("overlong", quoted(given.overlong));
  count("window", *o.window);
  add("seed", std::to_string(o.seed));
  count("epoch", r.epoch);
  count("sequences", r.counts.sequences);
  count("dataset_tokens", r.counts.tokens);
  count("shortest", sorted.front());
  count("median", quantile(50));
  count("percentile_90", quantile(90));
  count("percentile_99", quantile(99));
  count("longest", sorted.back());
  real("mean", static_cast<double>(r.counts.tokens) / static_cast<double>(r.counts.sequences));
  count("empty", r.counts.empty);
  count("split", r.counts.split);
  count("truncated", r.counts.truncated);
  count("dropped", r.counts.dropped);
  count("dropped_tokens", r.counts.dropped_tokens);
  count("separators", r.counts.separators);
  count("pieces", r.pieces);
  count("rows", r.rows);
  count("updates", r.updates);
  count("micro_batches", r.micro_batches);
  count("tokens", r.tokens);
  count("padding", r.padding());
  count("left_out_tokens", r.left_out_tokens);
  real("utilisation", r.utilisation());
  real("samples_per_update", r.samples_per_update);
  real("unpacked_samples_per_update", r.unpacked_samples_per_update);
  real("samples_per_update_factor", r.samples_factor());
  add("length_correlation", r.length_correlation ? fmt::format("{}", *r.length_correlation) : "null");
  std::vector<std::string> remarks;
  for (const std::string& remark : r.remarks()) remarks.push_back(quoted(remark));
  add("remarks", fmt::format("[{}]", fmt::join(remarks, ", ")));
  add("picture", quoted(picture_path));
  real("seconds", seconds);
  return fmt::format("{{\n  {}\n}}\n", fmt::join(fields, ",\n  "));
}

std::string text(const Given& given, const data::SequencePlanOptions& o, const data::BiasReport& r,
                 const Lengths& sorted) {
  const auto quantile = [&](std::size_t percent) { return sorted[(sorted.size() - 1) * percent / 100]; };
  std::string out = fmt::format(
      "{}: {} sequences, {} tokens; lengths {} to {}, median {}, 90 % up to {}, 99 % up to {}\n", given.dataset,
      r.counts.sequences, r.counts.tokens, sorted.front(), sorted.back(), quantile(50), quantile(90), quantile(99));
  out += fmt::format("{}{}, rows of at most {} places, epoch {}:\n", given.batching,
                     o.batching == data::Batching::pack ? " " + given.packer : "", o.length, r.epoch);
  out += fmt::format("  {:>10}  rows, in {} updates and {} micro-batches\n", r.rows, r.updates, r.micro_batches);
  out += fmt::format("  {:>10}  places: {} tokens and {} of padding\n", r.places, r.tokens, r.padding());
  out += fmt::format("  {:>9.2f}%  utilisation\n", 100 * r.utilisation());
  out += fmt::format("  {:>10.1f}  samples per update, {:.2f} times as many as without packing\n", r.samples_per_update,
                     r.samples_factor());
  if (r.length_correlation)
    out += fmt::format("  {:>10.3f}  correlation of neighbouring updates in length\n", *r.length_correlation);
  for (const std::string& remark : r.remarks()) out += "  note: " + remark + "\n";
  return out;
}

/// The utilisation of every batching at four lengths; batches of as many rows, or as many tokens as those rows have places.
std::string table(const Lengths& lengths, const Given& given, const train::Options& common) {
  const std::vector<std::string> names{"pad", "bucket", "tokens", "next_fit", "first_fit", "best_fit"};
  std::vector<std::string> json_rows;
  std::string lines = fmt::format("{:>8}", "length");
  for (const std::string& name : names) lines += fmt::format("{:>11}", name);
  lines += fmt::format("{:>11}\n", "factor");
  for (const std::int64_t length : {128, 256, 512, 2048}) {
    lines += fmt::format("{:>8}", length);
    std::vector<std::string> fields{fmt::format("\"length\": {}", length)};
    double factor = 1;
    for (std::size_t i = 0; i < names.size(); ++i) {
      Given with = given;
      with.length = std::to_string(length);
      with.batching = i < 3 ? names[i] : "pack";
      if (i >= 3) with.packer = names[i];
      const data::BiasReport report =
          data::bias_report(data::SequencePlan(lengths, plan_options(with, common)), number("--epoch", given.epoch, 0));
      lines += fmt::format("{:>10.2f}%", 100 * report.utilisation());
      fields.push_back(fmt::format("\"{}\": {}", names[i], report.utilisation()));
      factor = report.samples_factor();
    }
    lines += fmt::format("{:>10.2f}x\n", factor);
    fields.push_back(fmt::format("\"samples_per_update_factor\": {}", factor));
    json_rows.push_back(fmt::format("    {{{}}}", fmt::join(fields, ", ")));
  }
  if (!common.json) return lines;
  return fmt::format(
      "{{\n  \"example\": \"data_inspect\",\n  \"dataset\": {},\n  \"sequences\": {},\n  \"table\": [\n{}\n  ]\n}}\n",
      quoted(given.dataset), lengths.size(), fmt::join(json_rows, ",\n"));
}

int run(int argc, char** argv) {
  Given given;
  std::vector<std::string> arguments(argv + 1, argv + argc);
  if (!arguments.empty() && !arguments[0].empty() && arguments[0][0] != '-') {
    given.dataset = arguments[0];
    arguments.erase(arguments.begin());
  }
  if (std::erase(arguments, "--table") > 0) given.table = true;

  train::CommandLine line("data_inspect",
                          "what batching does to a data set of sequences\n\n"
                          "  ./run data_inspect fortunes|synthetic|FILE.txt|FILE.bin [options]\n"
                          "  ./run data_inspect ... --table      the utilisation of every batching at four lengths");
  line.options.batch_size = 32;
  line.without({"--bn-accumulation", "--epochs", "--max-updates", "--eval-samples", "--optimizer", "--lr",
                "--weight-decay", "--momentum", "--schedule", "--warmup", "--device", "--log-every", "--profile",
                "--resume", "--eval", "--predict"});
  line.choice("--batching", given.batching, {"pad", "bucket", "tokens", "pack"}, "how rows and updates are made");
  line.choice("--packer", given.packer, {"next_fit", "first_fit", "best_fit"}, "how rows are filled");
  line.text("--length", given.length, "L", "most places of a row; 0: the longest sample's");
  line.choice("--overlong", given.overlong, {"error", "truncate", "split", "drop"}, "what becomes of longer samples");
  line.text("--batch-tokens", given.batch_tokens, "N",
            "tokens of an update, padding counted, instead of --batch-size rows (tokens: rows x length)");
  line.choice("--unit", given.unit, {"rows", "samples"}, "what --batch-size counts when rows are packed");
  line.text("--window", given.window, "W|all", "pieces that are packed or sorted together");
  line.text("--boundaries", given.boundaries, "A,B,...", "of the buckets; without them eighths of the pieces");
  line.choice("--pad-to", given.pad_to, {"longest", "length"}, "to what a row is padded");
  line.text("--pad-multiple", given.pad_multiple, "K", "widths are multiples of it");
  line.text("--micro-tokens", given.micro_tokens, "N", "tokens of a micro-batch, instead of --accumulate");
  line.text("--separator", given.separator, "ID", "a token behind each sample");
  line.choice("--order", given.order, {"shuffled", "sequential"}, "of the samples");
  line.text("--epoch", given.epoch, "E", "which epoch to look at");
  line.text("--sequences", given.sequences, "N", "of the data set synthetic");
  line.choice("--documents", given.documents, {"file", "line", "paragraph", "fortune"},
              "what a sample of a text file is");
  line.text("--end-token", given.end_token, "ID", "that ends a document of a .bin file; without it a file is one");
  const train::Options common = line.parse(arguments);

  plan_options(given, common);  // a wrong option is reported before a file
  train::RunFolder folder(common.out);
  const Lengths lengths = read_lengths(given, common);
  if (given.table) {
    std::fputs(table(lengths, given, common).c_str(), stdout);
    return 0;
  }
  Lengths sorted = lengths;
  std::sort(sorted.begin(), sorted.end());
  const std::int64_t epoch = number("--epoch", given.epoch, 0);
  const auto start = Clock::now();
  const data::SequencePlan plan(lengths, plan_options(given, common));
  const data::BiasReport report = data::bias_report(plan, epoch);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();

  folder.open();
  folder.write("plan.png", picture(sorted, plan, epoch));
  const std::string picture_path = (folder.path() / "plan.png").string();
  const std::string document = json(given, plan.options(), report, sorted, picture_path, seconds);
  folder.write("summary.json", document);
  const std::string lines = text(given, plan.options(), report, sorted) + "picture: " + picture_path + "\n";
  std::fputs(lines.c_str(), common.json ? stderr : stdout);
  if (common.json) std::fputs(document.c_str(), stdout);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return train::run_example([&] { return run(argc, argv); });
}
