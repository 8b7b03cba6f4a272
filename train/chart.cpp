#include "train/chart.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <string_view>

#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <spawn.h>

namespace weft::train {
namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using TemporaryFile = std::unique_ptr<std::FILE, CloseFile>;  // has no name, and goes when it is closed

/// Runs gnuplot with these arguments; what it printed on stdout, or none when it failed or is not there.
std::optional<std::string> run_gnuplot(std::vector<std::string> arguments, const std::string& input) {
  const TemporaryFile in(std::tmpfile()), out(std::tmpfile()), errors(std::tmpfile());
  if (!in || !out || !errors) return std::nullopt;
  if (std::fwrite(input.data(), 1, input.size(), in.get()) != input.size()) return std::nullopt;
  std::rewind(in.get());  // also writes the buffer out

  arguments.insert(arguments.begin(), "gnuplot");
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, ::fileno(in.get()), STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, ::fileno(out.get()), STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, ::fileno(errors.get()), STDERR_FILENO);
  pid_t child = 0;
  const int failed = ::posix_spawnp(&child, "gnuplot", &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  if (failed != 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return std::nullopt;

  std::string text;
  std::rewind(out.get());
  char buffer[1 << 14];
  for (std::size_t count; (count = std::fread(buffer, 1, sizeof buffer, out.get())) > 0;) text.append(buffer, count);
  return text;
}

void erase_between(std::string& text, std::string_view begin, std::string_view end) {
  const auto from = text.find(begin);
  const auto to = from == std::string::npos ? from : text.rfind(end);
  if (to != std::string::npos && to > from) text.erase(from, to + end.size() - from);
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
}

// The page's style sheet gives these colours their meaning (light or dark), found by their value:
// 808081 axes, 808082 grid, 1f77b4 training, 1f77b5 training smoothed, d62728 test, b00020 what is not finite.
constexpr const char* kPreamble =
    "set encoding utf8\n"
    "set terminal svg noenhanced size 500,300 font 'sans-serif,12' linewidth 1 background rgb 'white'\n"
    "set border 3 linecolor rgb '#808081' linewidth 1\n"
    "set tics nomirror scale 0.4\n"
    "set grid ytics linecolor rgb '#808082' linewidth 1 dashtype solid\n"
    "set key outside top left horizontal Left reverse samplen 1.6 width 1\n"
    "set rmargin 3\n";

std::string number(double value) { return std::isfinite(value) ? fmt::format("{}", value) : "NaN"; }

/// The value that a share of the others lie below.
double quantile(std::vector<double> values, double share) {
  const auto at = static_cast<std::ptrdiff_t>(std::lround(share * static_cast<double>(values.size() - 1)));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<std::size_t>(at)];
}

/// Axis of whole numbers up to `last`, without ticks between them.
std::string whole_axis(std::int64_t last) {
  const std::string range =
      fmt::format("set xrange [{}:{}]\n", last <= 20 ? 0.5 : 0.0, static_cast<double>(last) + (last <= 20 ? 0.5 : 0));
  if (last <= 12) return range + "set xtics 1\nset format x '%.0f'\n";
  return range + (last < 10000 ? "set format x '%.0f'\n" : "set format x '%.0s%c'\n");
}

/// The mean of the points around each one, about a fiftieth of the curve. In front as many to either side as there are, so
/// that the steep beginning is kept; at the end all that there are, so that it does not end in noise.
std::vector<double> smoothed(const std::vector<LossPoint>& points) {
  const std::size_t half = points.size() / 100 + 1;
  std::vector<double> result;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::size_t reach = std::min(half, i), last = std::min(i + reach, points.size() - 1);
    double sum = 0;
    std::int64_t count = 0;
    for (std::size_t j = i - reach; j <= last; ++j) {
      sum += points[j].mean * static_cast<double>(points[j].count);
      count += points[j].count;
    }
    result.push_back(count > 0 ? sum / static_cast<double>(count) : std::numeric_limits<double>::quiet_NaN());
  }
  return result;
}

/// A page needs the drawing alone, with names of its own and without gnuplot's title.
std::string tidy(std::string svg, const std::string& name, const std::string& label) {
  svg.erase(0, svg.find("<svg"));
  const std::string box = svg.substr(svg.find("viewBox"), svg.find("xmlns") - svg.find("viewBox"));
  svg.replace(
      0, svg.find('>') + 1,
      fmt::format(
          "<svg class=\"chart\" role=\"img\" aria-label=\"{}\" {} xmlns:xlink=\"http://www.w3.org/1999/xlink\">", label,
          box.substr(0, box.rfind('\'' == box[8] ? '\'' : '"') + 1)));
  erase_between(svg, "<title>Gnuplot</title>", "</desc>");
  erase_between(svg, "<filter", "</filter>");
  replace_all(svg, "gpPt", name + "Pt");
  replace_all(svg, "gpDot", name + "Dot");
  replace_all(svg, "gnuplot_", name + "_");
  return svg;
}

}  // namespace

bool gnuplot_found() { return run_gnuplot({"--version"}, "").has_value(); }

std::optional<std::string> gnuplot_svg(const std::string& script, const std::string& name, const std::string& label) {
  std::optional<std::string> svg = run_gnuplot({"-"}, script);
  if (!svg || svg->find("<svg") == std::string::npos || svg->find("</svg>") == std::string::npos) return std::nullopt;
  return tidy(std::move(*svg), name, label);
}

std::optional<std::string> loss_chart(const LossHistory& history, const std::vector<EpochResult>& epochs) {
  const std::vector<LossPoint>& points = history.points();
  std::vector<double> lows, highs;
  for (const LossPoint& point : points) {
    if (point.count == 0) continue;
    lows.push_back(point.low);
    highs.push_back(point.high);
  }
  if (lows.empty()) return std::nullopt;
  const std::vector<double> smooth = smoothed(points);
  std::string data = "$train << EOD\n", test = "$test << EOD\n", bad = "$bad << EOD\n";
  std::int64_t update = 0;
  bool tested = false;
  double low = std::numeric_limits<double>::infinity(), high = -low;  // of the curves that matter: mean and test
  for (const EpochResult& epoch : epochs) {
    update += epoch.updates;
    if (!epoch.test_loss || !std::isfinite(*epoch.test_loss)) continue;
    test += fmt::format("{} {}\n", update, *epoch.test_loss);
    low = std::min(low, *epoch.test_loss);
    high = std::max(high, *epoch.test_loss);
    tested = true;
  }
  for (const double value : smooth) {
    if (!std::isfinite(value)) continue;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  const bool logarithmic = low > 0 && high > 50 * low;
  // What single updates scatter beyond is shown too, but a few wild ones must not flatten the rest.
  low = std::min(low, logarithmic ? std::max(quantile(lows, 0.02), low / 5) : quantile(lows, 0.02));
  high = std::max(high, quantile(highs, 0.98));
  const double margin = 0.05 * std::max(high - low, std::max(std::fabs(high), 1e-12) * 0.1);
  const double bottom = logarithmic ? low * 0.9 : low >= 0 ? std::max(0.0, low - margin) : low - margin;
  const double top = logarithmic ? high * 1.1 : high + margin;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const LossPoint& p = points[i];
    if (p.count > 0)
      data += fmt::format("{} {} {} {} {}\n", p.update, p.mean, p.low, p.high, number(smooth[i]));
    else
      data += fmt::format("{0} NaN NaN NaN NaN\n", p.update);
    if (p.bad > 0) bad += fmt::format("{} {}\n", p.update, bottom);
  }

  std::string script = std::string(kPreamble) + data + "EOD\n" + test + "EOD\n" + bad + "EOD\n";
  script += whole_axis(points.back().update) + "set xlabel 'update'\nset ylabel 'loss' offset 1\n";
  if (logarithmic) script += "set logscale y\n";
  script += fmt::format("set yrange [{}:{}]\nplot ", bottom, top);
  const bool few = points.size() <= 40;  // then every update is visible, and nothing needs smoothing
  if (few) {
    script += "$train using 1:2 with linespoints lc rgb '#1f77b5' lw 2 pt 7 ps 0.5 title 'training'";
  } else {
    script += history.stride() == 1
                  ? std::string("$train using 1:2 with lines lc rgb '#1f77b4' lw 1 title 'training'")
                  : fmt::format("$train using 1:3:4 with filledcurves lc rgb '#1f77b4' title 'range of {} updates'",
                                history.stride());
    script += ", $train using 1:5 with lines lc rgb '#1f77b5' lw 2 title 'mean'";
  }
  if (tested) script += ", $test using 1:2 with linespoints lc rgb '#d62728' lw 2 pt 7 ps 0.6 title 'test'";
  if (history.bad() > 0) script += ", $bad using 1:2 with points lc rgb '#b00020' pt 2 ps 0.8 title 'not finite'";
  return gnuplot_svg(script + "\n", "loss", "Loss over the updates");
}

std::optional<std::string> accuracy_chart(const std::vector<EpochResult>& epochs) {
  std::string data;
  double low = 1, high = 0;
  for (const EpochResult& epoch : epochs) {
    if (!epoch.test_accuracy) continue;
    data += fmt::format("{} {}\n", epoch.epoch + 1, 100 * *epoch.test_accuracy);
    low = std::min(low, *epoch.test_accuracy);
    high = std::max(high, *epoch.test_accuracy);
  }
  if (data.empty()) return std::nullopt;
  const double margin = std::max(0.01, 0.15 * (high - low));
  const std::string style = epochs.size() <= 40 ? "with linespoints pt 7 ps 0.6" : "with lines";
  return gnuplot_svg(std::string(kPreamble) + "$test << EOD\n" + data + "EOD\n" + whole_axis(epochs.back().epoch + 1) +
                         fmt::format("set xlabel 'epoch'\nset ylabel 'accuracy, %' offset 1\nset yrange [{}:{}]\n"
                                     "plot $test using 1:2 {} lc rgb '#d62728' lw 2 title 'test'\n",
                                     100 * std::max(0.0, low - margin), 100 * std::min(1.0, high + margin), style),
                     "accuracy", "Test accuracy over the epochs");
}

}  // namespace weft::train
