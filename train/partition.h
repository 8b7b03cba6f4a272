#pragma once
// The certificate that a batch may be cut at will: one real update's gradient, computed from the batch in one piece, sample by
// sample, in ragged parts, padded, and packed.
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "autograd/window.h"
#include "data/batch_source.h"
#include "nn/module.h"
#include "train/options.h"

namespace weft::train {

/// The loss of a micro-batch: the model's forward pass and the loss, as the training loop computes them.
using MicroBatchLoss = std::function<Loss(const data::MicroBatch& micro)>;

/// Which update is run, and how far apart its gradients may be.
struct PartitionOptions {
  std::int64_t epoch = 0;
  std::int64_t index = 0;  // of the update within the epoch
  Device device = {};      // the model's
  double tolerance = 0;    // 0: 1e-6, or 1e-12 where all parameters are f64
};

/// One way to cut the batch, and what came of it.
struct PartitionRow {
  std::string name;                // "1xB", "Bx1", "ragged", "padded", "packed", ...
  std::string what;                // "128 micro-batches of 1"
  std::int64_t micro_batches = 0;  // without those that hold no label
  std::int64_t places = 0;         // that went through the model, padding counted: rows, of sequences tokens
  std::int64_t useful = 0;         // of them without padding
  double denominator = 0;
  double loss = std::numeric_limits<double>::quiet_NaN();
  double distance = std::numeric_limits<double>::quiet_NaN();  // ‖g - g_first‖ / ‖g_first‖ of all parameters together
  std::string refused = {};                                    // why this cut cannot be run; else empty
};

/// What verify_partition found. The first row is what the others are compared with.
struct PartitionReport {
  std::string batch;  // "update 1 of fortunes/train: 128 sequences"
  double tolerance = 0;
  std::vector<PartitionRow> rows;
  bool batch_statistics = false;  // a layer of the model (BatchNorm) looks at the other samples of its micro-batch

  /// Whether every cut could be run and gave the first one's gradient.
  bool passed() const;
  /// What the result means, and what to do about a difference.
  std::string verdict() const;
  /// The table for people, verdict included.
  std::string text() const;
  std::string json() const;
};

/// Runs one update of `source` cut in several ways and compares the gradients: g = grad(sum) / denominator over the update's
/// window, all parameters together. The samples, their ids and positions stay, so that the masks of dropout do too.
///   Samples of one size: 1xB in one micro-batch; Bx1 one by one; ragged in micro-batches of 1, 2, 3, ... samples; padded, where
///   targets are class labels, with rows without a label; and as planned, where the source cuts the update.
///   Sequences (micro-batches with a segment table): 1xB padded to the longest; Bx1 each alone, without padding; ragged; padded in
///   four micro-batches to a multiple of 64; packed into rows as wide as the source's, twice the longest at least, in one
///   micro-batch, and row by row; and as planned. A segment without a label, padding for one, is left out: it adds nothing
///   to the loss.
/// The parameters' gradients are cleared, parameters and buffers (running statistics) come out as they went in.
/// Errors:  OptionError "[verify_partition] update 1 of x holds no label"; what the first cut throws. A cut behind it that throws
///          an Error is reported as refused.
/// Cost:    five to seven passes over the batch; all of it in memory, on the cpu, once.
PartitionReport verify_partition(const nn::NamedTensors& parameters, const nn::NamedTensors& buffers,
                                 bool batch_statistics, const MicroBatchLoss& loss, const data::BatchSource& source,
                                 const PartitionOptions& options = {});

/// The same for a module, which is put into training mode:
///   const auto loss = [&](const data::MicroBatch& micro) { return cross_entropy(model(micro.input), micro.target); };
///   std::cout << train::verify_partition(model, loss, source).text();
template <class M>
PartitionReport verify_partition(M& model, const MicroBatchLoss& loss, const data::BatchSource& source,
                                 const PartitionOptions& options = {}) {
  nn::train(model);
  return verify_partition(nn::named_parameters(model), nn::named_buffers(model), nn::uses_batch_statistics(model), loss,
                          source, options);
}

/// What an example does with --verify-partition: prints the report, as JSON with --json. The exit status: 0 when all cuts gave
/// the same gradient, else 1.
int print_partition(const PartitionReport& report, const Options& options);

}  // namespace weft::train
