#include "train/report.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "train/chart.h"
#include "train/png.h"
#include "train/progress.h"

namespace weft::train {
namespace {

// Light and dark follow the reader's system. The colours of the curves are those that chart.cpp draws with.
constexpr const char* kStyle = R"css(
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1c2430; --soft: #5b6675; --line: #dfe3e8;
  --blue: #1f6fb2; --blue-soft: #9ec3e4; --red: #c2362b; --red-soft: #fbe9e7; --heat: 31, 111, 178; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --card: #1c2229; --ink: #e4e8ed; --soft: #98a3b1;
  --line: #313a45; --blue: #6db3f2; --blue-soft: #33577a; --red: #ff8a7d; --red-soft: #3b2324; --heat: 109, 179, 242; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 0 0 14px; }
p { margin: 0 0 12px; }
.soft, .caption { color: var(--soft); }
.caption { font-size: 13px; margin: 10px 0 0; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px; margin-top: 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 14px; margin-top: 24px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 24px; line-height: 1.25; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.notes { border-color: var(--red); background: var(--red-soft); }
.notes ul { margin: 0; padding-left: 20px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 20px; }
.pair section { min-width: 0; }
.chart { display: block; width: 100%; height: auto; }
.chart text { fill: var(--soft); font-family: inherit; }
.chart tspan { font-family: inherit; }
.chart [fill="#ffffff"] { fill: none; }
.chart [stroke="rgb(128, 128, 129)"] { stroke: var(--soft); }
.chart [stroke="rgb(128, 128, 130)"] { stroke: var(--line); }
.chart [stroke="rgb( 31, 119, 180)"] { stroke: var(--blue-soft); }
.chart [fill="rgb( 31, 119, 180)"] { fill: var(--blue-soft); }
.chart [stroke="rgb( 31, 119, 181)"] { stroke: var(--blue); }
.chart [color="rgb( 31, 119, 181)"] { color: var(--blue); }
.chart [stroke="rgb(214,  39,  40)"] { stroke: var(--red); }
.chart [color="rgb(214,  39,  40)"] { color: var(--red); }
.chart [stroke="rgb(176,   0,  32)"] { stroke: var(--red); }
.chart [color="rgb(176,   0,  32)"] { color: var(--red); }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 12px; margin: 0; padding: 0; list-style: none; }
.images li { text-align: center; font-size: 12.5px; line-height: 1.35; padding: 8px 6px; border: 1px solid transparent; border-radius: 8px; }
.images img { display: block; width: 72px; height: 72px; margin: 0 auto 6px; border-radius: 4px; image-rendering: pixelated; }
.images li.wrong { border-color: var(--red); background: var(--red-soft); }
.images .wrong b { color: var(--red); }
.images b { display: block; font-weight: 600; }
.images span { display: block; color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 12px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; font-size: 13px; }
tr > :first-child { text-align: left; padding-left: 0; }
tr:last-child td, tr:last-child th { border-bottom: 0; }
table.facts { width: 100%; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.facts td:first-child { color: var(--soft); white-space: nowrap; padding-right: 28px; width: 1%; }
table.matrix th, table.matrix td { padding: 6px 8px; border: 0; text-align: center; font-size: 13px; }
table.matrix thead th { min-width: 74px; }
table.matrix td { min-width: 46px; border: 2px solid var(--card); border-radius: 4px; }
table.matrix th:first-child { text-align: right; padding-right: 10px; }
table.matrix thead th { vertical-align: bottom; }
table.matrix td.zero { color: var(--soft); opacity: 0.5; }
table.matrix td.strong { color: #ffffff; }
@media (prefers-color-scheme: dark) { table.matrix td.strong { color: #0d1218; } }
table.matrix .rate { font-weight: 600; min-width: 64px; text-align: right; padding-left: 16px; }
pre { margin: 0; padding: 12px 14px; background: var(--page); border: 1px solid var(--line); border-radius: 8px; overflow-x: auto;
  font: 13.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
@media (max-width: 520px) { main { padding: 20px 12px 40px; } .pair { grid-template-columns: 1fr; } }
)css";

constexpr std::size_t kImages = 40, kMistakes = 16;

std::string fixed(double value, int digits) {
  return std::isfinite(value) ? fmt::format("{:.{}f}", value, digits) : "–";
}
std::string percent(double value) { return std::isfinite(value) ? fmt::format("{:.2f} %", 100 * value) : "–"; }
/// "60 000"
std::string grouped(std::int64_t value) {
  std::string text = std::to_string(value);
  for (std::ptrdiff_t at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > (value < 0 ? 1 : 0); at -= 3)
    text.insert(static_cast<std::size_t>(at), "\u202f");
  return text;
}
std::string text_of(std::monostate) { return "–"; }
std::string text_of(const std::string& value) { return value.empty() ? "–" : value; }
template <class T>
std::string text_of(const T& value) {
  return fmt::format("{}", value);
}

std::string tile(const std::string& name, const std::string& value) {
  return fmt::format("<div class=\"tile\"><b>{}</b><span>{}</span></div>\n", value, name);
}

std::string tiles(const Summary& s) {
  std::string html = "<div class=\"tiles\">\n";
  if (s.test_accuracy) html += tile("test accuracy", percent(*s.test_accuracy));
  if (s.test_loss) html += tile("test loss", fixed(*s.test_loss, 4));
  html += tile("training loss", fixed(s.train_loss, 4));
  html += tile("samples/s", short_number(s.samples_per_s));
  if (s.tokens_per_s) html += tile("tokens/s", short_number(*s.tokens_per_s));
  html += tile("updates", grouped(s.updates));
  html += tile("in all", short_duration(s.wall_s));
  return html + "</div>\n";
}

std::string notes(const Summary& s) {
  std::vector<std::string> lines = s.notes;
  if (s.stopped_by == "SIGINT" || s.stopped_by == "SIGTERM")
    lines.push_back(fmt::format("The run was stopped by {} before its planned end.", s.stopped_by));
  if (lines.empty()) return "";
  std::string html = "<section class=\"notes\"><h2>Take note</h2><ul>\n";
  for (const std::string& line : lines) html += "<li>" + escape_html(line) + "</li>\n";
  return html + "</ul></section>\n";
}

std::string curves(const Summary& s, const LossHistory& history) {
  const auto loss = loss_chart(history, s.epochs);
  const auto accuracy = accuracy_chart(s.epochs);
  std::string html;
  if (loss || accuracy) html += "<div class=\"pair\">\n";
  if (loss) html += "<section><h2>Loss</h2>\n" + *loss + "</section>\n";
  if (accuracy) html += "<section><h2>Accuracy</h2>\n" + *accuracy + "</section>\n";
  if (loss || accuracy) html += "</div>\n";
  const char* without_curves =
      "<p>There are no curves because the program gnuplot was not found: install the package gnuplot-nox and train "
      "again.</p>\n";
  if (s.epochs.empty()) return gnuplot_found() ? html : html + "<section>" + without_curves + "</section>\n";
  html += "<section><h2>Epochs</h2>\n";
  if (!gnuplot_found()) html += without_curves;
  html +=
      "<div class=\"scroll\"><table><thead><tr><th>epoch</th><th>updates</th><th>training loss</th><th>test loss</th>"
      "<th>test accuracy</th><th>seconds</th><th>samples/s</th></tr></thead><tbody>\n";
  constexpr std::size_t kRows = 50;  // of a long run the first and the last ones
  for (std::size_t i = 0; i < s.epochs.size(); ++i) {
    if (s.epochs.size() > kRows && i == kRows / 2) {
      i = s.epochs.size() - kRows / 2;
      html += "<tr><td colspan=\"7\">…</td></tr>\n";
    }
    const EpochResult& e = s.epochs[i];
    html += fmt::format("<tr><td>{}{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                        e.epoch + 1, e.complete ? "" : " (part)", grouped(e.updates), fixed(e.train_loss, 4),
                        e.test_loss ? fixed(*e.test_loss, 4) : "–", e.test_accuracy ? percent(*e.test_accuracy) : "–",
                        fixed(e.seconds, 2), short_number(static_cast<double>(e.samples) / std::max(e.seconds, 1e-9)));
  }
  return html + "</tbody></table></div></section>\n";
}

std::string figures(const Report& report) {
  std::string html;
  for (const Figure& figure : report.figures)
    html += "<section><h2>" + escape_html(figure.title) + "</h2>\n" + figure.svg + "<p class=\"caption\">" +
            escape_html(figure.caption) + "</p></section>\n";
  return html;
}

std::string results(const Summary& s) {
  if (s.results.empty()) return "";
  std::string html = "<section><h2>Results</h2>\n<div class=\"scroll\"><table><thead><tr>";
  for (const Setting& column : s.results.front()) html += "<th>" + escape_html(column.name) + "</th>";
  html += "</tr></thead><tbody>\n";
  for (const std::vector<Setting>& row : s.results) {
    html += "<tr>";
    for (const Setting& cell : row) {
      const double* number = std::get_if<double>(&cell.value);
      html +=
          "<td>" +
          escape_html(number != nullptr ? (std::isfinite(*number) ? fmt::format("{:.4g}", *number) : "–")
                                        : std::visit([](const auto& value) { return text_of(value); }, cell.value)) +
          "</td>";
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div></section>\n";
}

/// Names of classes; numbers beyond those that have one.
class Classes {
 public:
  explicit Classes(const std::vector<std::string>& names) : names_(names) {}
  std::string operator[](std::size_t c) const { return c < names_.size() ? escape_html(names_[c]) : std::to_string(c); }

 private:
  const std::vector<std::string>& names_;
};

std::string image_list(const Report& report, const Evaluation& e, const std::vector<std::size_t>& samples) {
  const Classes classes(report.classes);
  const auto height = report.images.size(1), width = report.images.size(2);
  const auto* pixels = report.images.data<std::uint8_t>();
  std::string html = "<ul class=\"images\">\n";
  for (const std::size_t i : samples) {
    const auto area = static_cast<std::size_t>(height * width);
    const std::string picture = png({pixels + i * area, area}, static_cast<int>(height), static_cast<int>(width));
    const std::string truth = classes[static_cast<std::size_t>(e.truth[i])];
    const std::string guess = classes[static_cast<std::size_t>(e.predicted[i])];
    const bool right = e.truth[i] == e.predicted[i];
    html += fmt::format(
        "<li{}><img src=\"{}\" width=\"72\" height=\"72\" alt=\"sample {}: {}\"><b>{}</b><span>{}</span>{}</li>\n",
        right ? "" : " class=\"wrong\"", data_uri(picture), i, truth, guess,
        std::isfinite(e.confidence[i]) ? fmt::format("{:.0f} % sure", 100 * e.confidence[i]) : "unsure",
        right ? "" : fmt::format("<span>is {}</span>", truth));
  }
  return html + "</ul>\n";
}

std::string images(const Report& report, const Evaluation& e) {
  if (!report.images.defined() || e.truth.empty()) return "";
  require<ShapeError>(report.images.rank() == 3 && report.images.is_contiguous() &&
                          report.images.size(0) >= static_cast<std::int64_t>(e.truth.size()),
                      "report",
                      "images must have shape [N, H, W] with an image for each of the {} evaluated samples but have {}",
                      e.truth.size(), report.images.shape());
  std::vector<std::size_t> first(std::min(kImages, e.truth.size()));
  std::iota(first.begin(), first.end(), std::size_t{0});
  std::vector<std::size_t> wrong;
  for (std::size_t i = 0; i < e.truth.size(); ++i)
    if (e.truth[i] != e.predicted[i] && std::isfinite(e.confidence[i])) wrong.push_back(i);
  std::stable_sort(wrong.begin(), wrong.end(),
                   [&](std::size_t a, std::size_t b) { return e.confidence[a] > e.confidence[b]; });
  const std::size_t mistakes = wrong.size();
  wrong.resize(std::min(wrong.size(), kMistakes));
  std::string html = fmt::format(
      "<section><h2>The first {} test images</h2>\n{}<p class=\"caption\">Below each image: what the "
      "model says it is, and how sure it is. Mistakes are framed, with the right answer.</p></section>\n",
      first.size(), image_list(report, e, first));
  if (!wrong.empty())
    html += fmt::format(
        "<section><h2>The surest mistakes</h2>\n{}<p class=\"caption\">The {} most confident of {} mistakes in {} "
        "test images.</p></section>\n",
        image_list(report, e, wrong), wrong.size(), grouped(static_cast<std::int64_t>(mistakes)),
        grouped(static_cast<std::int64_t>(e.truth.size())));
  return html;
}

std::string confusion(const Report& report, const Evaluation& e) {
  constexpr std::size_t kMost = 40;  // classes; a larger matrix cannot be read
  if (e.truth.empty()) return "";
  const std::int64_t largest = std::max(*std::max_element(e.truth.begin(), e.truth.end()),
                                        *std::max_element(e.predicted.begin(), e.predicted.end()));
  const std::size_t count = std::max(report.classes.size(), static_cast<std::size_t>(largest) + 1);
  if (count > kMost) return "";
  std::vector<std::int64_t> cells(count * count);
  for (std::size_t i = 0; i < e.truth.size(); ++i)
    ++cells[static_cast<std::size_t>(e.truth[i]) * count + static_cast<std::size_t>(e.predicted[i])];

  const Classes classes(report.classes);
  std::string html =
      "<section><h2>Which classes are confused</h2>\n<div class=\"scroll\"><table class=\"matrix\"><thead><tr>"
      "<th>is ↓ &nbsp; taken for →</th>";
  for (std::size_t c = 0; c < count; ++c) html += "<th>" + classes[c] + "</th>";
  html += "<th class=\"rate\">right</th></tr></thead><tbody>\n";
  for (std::size_t truth = 0; truth < count; ++truth) {
    const std::int64_t* row = cells.data() + truth * count;
    const auto total = static_cast<double>(std::accumulate(row, row + count, std::int64_t{0}));
    html += "<tr><th>" + classes[truth] + "</th>";
    for (std::size_t guess = 0; guess < count; ++guess) {
      const double share = total > 0 ? static_cast<double>(row[guess]) / total : 0;
      if (row[guess] == 0)
        html += "<td class=\"zero\">0</td>";
      else
        html += fmt::format("<td{} style=\"background: rgba(var(--heat), {:.3f})\">{}</td>",
                            share > 0.55 ? " class=\"strong\"" : "", std::min(1.0, 0.08 + 0.92 * share), row[guess]);
    }
    html += fmt::format("<td class=\"rate\">{}</td></tr>\n",
                        total > 0 ? fmt::format("{:.1f} %", 100 * static_cast<double>(row[truth]) / total) : "–");
  }
  return html + "</tbody></table></div></section>\n";
}

std::string facts(const std::string& title, const std::vector<std::pair<std::string, std::string>>& rows) {
  std::string html = "<section><h2>" + title + "</h2>\n<table class=\"facts\"><tbody>\n";
  for (const auto& [name, value] : rows)
    html += "<tr><td>" + escape_html(name) + "</td><td>" + escape_html(value) + "</td></tr>\n";
  return html + "</tbody></table></section>\n";
}

std::string settings(const Summary& s) {
  std::vector<std::pair<std::string, std::string>> config, run;
  for (const Setting& setting : s.config)
    config.emplace_back(setting.name, std::visit([](const auto& value) { return text_of(value); }, setting.value));
  run = {{"device", fmt::format("{}, {} threads", s.device, s.threads)},
         {"machine", s.machine},
         {"kernels", s.variants},
         {"commit", s.commit},
         {"parameters", grouped(s.parameters)},
         {"training samples", grouped(s.train_samples)},
         {"test samples", grouped(s.eval_samples)},
         {"peak memory", short_bytes(s.peak_bytes)},
         {"ended by", s.stopped_by},
         {"parameters hash", fmt::format("{:016x}", s.parameters_hash)}};
  double total = 0;
  for (const Phase& phase : s.phases) total += phase.seconds;
  for (const Phase& phase : s.phases)
    run.emplace_back(phase.name,
                     fmt::format("{:.3f} s, {:.1f} %", phase.seconds, total > 0 ? 100 * phase.seconds / total : 0.0));
  return "<div class=\"pair\">\n" + facts("Configuration", config) + facts("Run", run) + "</div>\n" +
         "<section><h2>Run it again</h2>\n<pre>" + escape_html(s.command) + "</pre>\n" +
         fmt::format(
             "<p class=\"caption\">With the same commit, seed ({}), device and kernels the result is the same to the "
             "last "
             "bit, for any number of threads; compare the parameters hash.</p></section>\n",
             s.seed);
}

}  // namespace

std::string escape_html(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '"': result += "&quot;"; break;
      case '\'': result += "&#39;"; break;
      default: result += c;
    }
  }
  return result;
}

std::string render(const Report& report, const Summary& summary, const LossHistory& history,
                   const Evaluation& evaluation) {
  const std::string title = escape_html(report.title.empty() ? summary.example : report.title);
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\">\n<title>{}</title>\n<style>{}</style>\n</head>\n"
      "<body>\n<main>\n<h1>{}</h1>\n",
      title, kStyle, title);
  if (!report.description.empty()) html += "<p class=\"soft\">" + escape_html(report.description) + "</p>\n";
  html += tiles(summary) + notes(summary) + figures(report) + results(summary) + curves(summary, history) +
          images(report, evaluation) + confusion(report, evaluation) + settings(summary);
  return html + "</main>\n</body>\n</html>\n";
}

}  // namespace weft::train
