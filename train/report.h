#pragma once
// report.html: what a run learnt, on one page that needs neither network nor scripts.
#include <string>
#include <vector>

#include "tensor/tensor.h"
#include "train/evaluation.h"
#include "train/history.h"
#include "train/summary.h"

namespace weft::train {

/// A drawing on the page.
struct Figure {
  std::string title, svg, caption;
};

/// What only the example knows. Everything may stay empty; its part of the page is left out then.
struct Report {
  std::string title = {};                 // "Fashion-MNIST"
  std::string description = {};           // one sentence
  std::vector<std::string> classes = {};  // their names
  Tensor images = {};                     // u8 [N, H, W], the evaluated samples in order, 0 = black
  std::vector<Figure> figures = {};
};

/// The page: final numbers, curves of loss and accuracy (drawn by gnuplot; without it the page says so and has the table
/// only), test images with predictions, accuracy per class and confusion matrix, configuration, how to run it again.
std::string render(const Report& report, const Summary& summary, const LossHistory& history,
                   const Evaluation& evaluation);

/// Text made safe to stand in HTML, in attributes too.
std::string escape_html(const std::string& text);

}  // namespace weft::train
