#include "data/bias_report.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/core.h>

namespace weft::data {
namespace {

/// Correlation of each number with the next one.
std::optional<double> with_next(const std::vector<double>& x) {
  if (x.size() < 3) return {};
  const auto pairs = static_cast<double>(x.size() - 1);
  const double mean_a = std::accumulate(x.begin(), x.end() - 1, 0.0) / pairs;
  const double mean_b = std::accumulate(x.begin() + 1, x.end(), 0.0) / pairs;
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i + 1 < x.size(); ++i) {
    const double a = x[i] - mean_a, b = x[i + 1] - mean_b;
    ab += a * b;
    aa += a * a;
    bb += b * b;
  }
  if (!(aa > 0 && bb > 0)) return {};
  return ab / std::sqrt(aa * bb);
}

}  // namespace

BiasReport bias_report(const SequencePlan& plan, std::int64_t epoch) {
  BiasReport report;
  report.counts = plan.counts();
  report.epoch = epoch;
  report.updates = plan.updates_per_epoch(epoch);
  std::vector<double> mean_lengths;
  for (std::int64_t u = 0; u < report.updates; ++u) {
    const PlannedUpdate update = plan.update(epoch, u);
    report.micro_batches += update.parts;
    const std::int64_t tokens = update.layout->tokens();
    const auto pieces = static_cast<std::int64_t>(update.layout->pieces.size());
    report.pieces += pieces;
    report.tokens += tokens;
    report.places += update.layout->places();
    for (std::int64_t r = 0; r < update.layout->rows(); ++r) report.rows += update.layout->row(r).empty() ? 0 : 1;
    if (pieces > 0) mean_lengths.push_back(static_cast<double>(tokens) / static_cast<double>(pieces));
  }
  report.left_out = report.counts.pieces - report.pieces;
  report.left_out_tokens = report.counts.placed_tokens - report.tokens;
  const auto updates = static_cast<double>(report.updates);
  report.samples_per_update = static_cast<double>(report.pieces) / updates;
  report.unpacked_samples_per_update = static_cast<double>(report.rows) / updates;
  if (plan.options().unit == RowUnit::samples) {  // the last update is short, with or without packing
    const std::int64_t batch = std::get<MiniBatch>(plan.options().batch).samples;
    const std::int64_t unpacked_updates = (report.pieces + batch - 1) / batch;
    report.unpacked_samples_per_update = static_cast<double>(report.pieces) / static_cast<double>(unpacked_updates);
  }
  report.length_correlation = with_next(mean_lengths);
  return report;
}

std::vector<std::string> BiasReport::remarks() const {
  std::vector<std::string> lines;
  const auto percent = [](std::int64_t part, std::int64_t of) {
    return 100.0 * static_cast<double>(part) / static_cast<double>(of);
  };
  if (samples_factor() >= 1.05)
    lines.push_back(fmt::format(
        "packing made your batch {:.1f}x larger: {:.0f} samples per update instead of {:.0f}; {:.0f} rows hold about "
        "{:.0f}",
        samples_factor(), samples_per_update, unpacked_samples_per_update,
        std::max(1.0, std::round(unpacked_samples_per_update / samples_factor())), unpacked_samples_per_update));
  if (counts.dropped > 0)
    lines.push_back(
        fmt::format("{} of {} samples are longer than a row and left out", counts.dropped, counts.sequences));
  if (counts.truncated > 0)
    lines.push_back(fmt::format("{} of {} samples lost their end", counts.truncated, counts.sequences));
  if (counts.dropped_tokens > 0)
    lines.push_back(fmt::format("{} of {} tokens ({:.2f} %) are in no row", counts.dropped_tokens, counts.tokens,
                                percent(counts.dropped_tokens, counts.tokens)));
  if (counts.split > 0)
    lines.push_back(
        fmt::format("{} of {} samples were split: their pieces do not see each other", counts.split, counts.sequences));
  if (counts.empty > 0) lines.push_back(fmt::format("{} samples have no token", counts.empty));
  if (left_out > 0)
    lines.push_back(fmt::format("{} pieces ({} tokens) are in no update of this epoch", left_out, left_out_tokens));
  if (length_correlation && *length_correlation > 0.3)
    lines.push_back(fmt::format(
        "the lengths of neighbouring updates go together (correlation {:.2f}): the loss will go up and down with them",
        *length_correlation));
  return lines;
}

}  // namespace weft::data
