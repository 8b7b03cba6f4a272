#pragma once
// Training and test windows of a time series, so that nothing of the test is given away.
#include <cstdint>
#include <string>
#include <vector>

#include "data/windows.h"

namespace weft::data {

/// Windows to train on and windows to test with, both in ascending order. No training window leaks into a test window (see
/// leak()), and of the windows that a split would train on only those that do were left out.
struct WindowSplit {
  std::vector<std::int64_t> train, test;
  std::int64_t purged = 0;     // left out because they leak
  std::int64_t embargoed = 0;  // left out because of the embargo only
};

/// The last windows for testing, those before them for training.
///   With 1000 windows of lookback 24 and horizon 6 and 20 % held back: test 800 to 999, train 0 to 770, purged 29.
/// Params:  held_back in (0, 1): the part of the windows that is tested with, rounded to at least one.
/// Errors:  OptionError for another held_back; ShapeError when nothing is left to train on, with the numbers.
WindowSplit chronological_split(const RollingWindows& windows, double held_back);

/// The same in three parts, one behind the other: what is validated with leaks into the test no more than what is trained on.
struct ChronologicalParts {
  std::vector<std::int64_t> train, validation, test;
  std::int64_t purged = 0;
};
/// Params:  validation and test in (0, 1), together less than 1.
ChronologicalParts chronological_parts(const RollingWindows& windows, double validation, double test);

/// What each fold of walk_forward trains on.
///   expanding  everything before its test block
///   sliding    the last `train` windows before it that do not leak
enum class WalkForward { expanding, sliding };

/// Options of walk_forward().
struct WalkForwardOptions {
  std::int64_t folds = 5;
  std::int64_t test = 0;  // windows that each fold tests with; 0: a part of 1 / (folds + 1) of all
  WalkForward mode = WalkForward::expanding;
  std::int64_t train = 0;  // of WalkForward::sliding
};

/// Folds whose test blocks are the last windows, one block behind the other; each trains on what comes before its block, as a
/// model in use would have been trained.
/// Errors:  OptionError for options outside their ranges; ShapeError when a fold has nothing (sliding: less than `train`) to
///          train on.
std::vector<WindowSplit> walk_forward(const RollingWindows& windows, const WalkForwardOptions& options);

/// Options of purged_kfold().
struct PurgedKFoldOptions {
  std::int64_t folds = 5;
  std::int64_t embargo =
      0;  // steps behind a test block's labels that no training window may touch with what is seen or
          // predicted; features that look back do so of themselves
};

/// Folds whose test blocks cut the windows into equal parts; each trains on all that lies before or behind its block and does
/// not leak into it.
/// Errors:  as walk_forward.
/// Source:  López de Prado 2018, section 7.4: purged k-fold cross-validation.
std::vector<WindowSplit> purged_kfold(const RollingWindows& windows, const PurgedKFoldOptions& options);

}  // namespace weft::data
