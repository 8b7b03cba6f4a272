#pragma once
// BatchNorm makes a sample's output depend on the samples beside it, so it does not go with every way of cutting batches.
// All of that is decided here, before the first update.
#include <cstdint>
#include <string>

#include "data/plan.h"
#include "train/options.h"

namespace weft::train {

/// The fewest samples that any micro-batch of the plan has.
std::int64_t smallest_micro_batch(const data::Plan& plan);

/// Refuses a model whose layers use batch statistics where they would not be what was asked for.
/// Errors: OptionError when an update is split into micro-batches under BatchNormAccumulation::refuse, and always when some
///         micro-batch has a single sample: "[batch_norm] every micro-batch must have at least 2 samples but the smallest of
///         60000 samples with --batch-size 1 has 1; ..."
void check_batch_statistics(const data::Plan& plan, BatchNormAccumulation policy);

/// What `--norm` means for this plan: "auto" becomes "batch" when updates are not split and have at least 16 samples (the
/// last of an epoch at least 2), else "layer"; another word stays. The choice is recorded in the options' config and, when
/// it was made here, told to the user when the run starts.
std::string choose_norm(const std::string& asked, const data::Plan& plan, Options& options);

}  // namespace weft::train
