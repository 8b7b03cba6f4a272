#pragma once
// Curves as SVG, drawn by the gnuplot program.
#include <optional>
#include <string>
#include <vector>

#include "train/history.h"
#include "train/summary.h"

namespace weft::train {

/// Training loss over the updates (each, or the range of each stretch of them, and smoothed) and test loss at the end of
/// each epoch. None when there is nothing finite to draw or gnuplot cannot be run.
std::optional<std::string> loss_chart(const LossHistory& history, const std::vector<EpochResult>& epochs);
/// Test accuracy over the epochs. None as above, or when nothing was classified.
std::optional<std::string> accuracy_chart(const std::vector<EpochResult>& epochs);

/// Whether the gnuplot program can be run.
bool gnuplot_found();
/// The drawing of a gnuplot script as an `<svg>` element for an HTML page; none when gnuplot fails or is not there. `name` makes
/// its ids differ from those of other drawings, `label` is for those who do not see it.
std::optional<std::string> gnuplot_svg(const std::string& script, const std::string& name, const std::string& label);

}  // namespace weft::train
