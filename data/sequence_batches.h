#pragma once
// The batch source of token sequences: a data set and a plan over the lengths of its sequences.
#include <concepts>
#include <memory>
#include <utility>

#include "data/batch_source.h"
#include "data/sequence_dataset.h"
#include "data/sequence_plan.h"

namespace weft::data {

/// What an update's loss is the mean over. token: labels, each weighs 1. sequence: samples, each token weighs 1 / (labels of
/// its sample), so that long ones count no more than short ones. A split sample counts in each update by the share of
/// its labels that lies there.
enum class LossMean : std::uint8_t { token, sequence };

/// The updates of a SequencePlan with the tokens of a SequenceDataset, for predicting each next token. Of a micro-batch of B rows
/// of T places, all on the cpu:
///   input       i64 [B, T]: token ids; 0 where padding is
///   target      i64 [B, T]: the next token of the same sample, wherever it lies: of a split sample's piece the last place is
///               labelled with the next piece's first token. -100 at a sample's last token (or the separator, where that is
///               predicted), at a separator, at padding
///   weight      f32 [B, T]: for LossMean::sequence 1 / (labels of the sample), 0 where there is no label; else undefined
///   sample_ids  i64 [B, T]: the data set's id; -1 at padding
///   positions   i64 [B, T]: place in the sample, from 0, going on in the next piece; 0 at padding
///   segments    a segment for each piece, and one for the padding at the end of a row
/// The loss is cross_entropy(logits, target, {.token_weights = weight}). Its denominator is the sum of weights: the number of
/// labels, or (to the rounding of 1/n in f32, which sum and denominator share) the number of samples with a label, so
/// that sum / denominator over the window is the mean asked for whatever the batching, packing and cut.
/// Errors:   OptionError for options that the plan refuses, or a separator outside the vocabulary: "[sequence_batches] the
///           separator 300 of fortunes must be in [0, 257)"; SampleError that names the sample for what the data set throws
///           when it reads one (collate_skipping: its places become padding).
/// Numerics: integers but for the weights; every micro-batch is a pure function of (data set, options, epoch, update).
class SequenceBatches final : public BatchSource {
 public:
  /// Takes the data set by value (most are handles), or shares it.
  template <std::derived_from<SequenceDataset> D>
  explicit SequenceBatches(D dataset, const SequencePlanOptions& options = {}, LossMean mean = LossMean::token)
      : SequenceBatches(std::make_shared<const D>(std::move(dataset)), options, mean) {}
  explicit SequenceBatches(std::shared_ptr<const SequenceDataset> dataset, const SequencePlanOptions& options = {},
                           LossMean mean = LossMean::token);

  const SequenceDataset& dataset() const { return *dataset_; }
  const SequencePlan& plan() const { return plan_; }
  LossMean loss_mean() const { return mean_; }

  std::string name() const override { return dataset_->name(); }
  std::int64_t samples() const override { return dataset_->size(); }
  std::int64_t updates_per_epoch(std::int64_t epoch) const override { return plan_.updates_per_epoch(epoch); }
  std::int64_t updates_before(std::int64_t epoch) const override { return plan_.updates_before(epoch); }
  PlannedUpdate update(std::int64_t epoch, std::int64_t index) const override { return plan_.update(epoch, index); }
  MicroBatch collate(const PlannedUpdate& update, std::int64_t k) const override;
  MicroBatch collate_skipping(const PlannedUpdate& update, std::int64_t k,
                              std::vector<SkippedSample>& skipped) const override;
  std::uint64_t seed() const override { return plan_.options().seed; }
  /// Of data set, plan and loss mean.
  std::uint64_t hash() const override;

 private:
  MicroBatch make(const PlannedUpdate& update, std::int64_t k, std::vector<SkippedSample>* skipped) const;

  std::shared_ptr<const SequenceDataset> dataset_;
  SequencePlan plan_;
  LossMean mean_;
};

/// The lengths of a data set's sequences, by id.
std::vector<std::int64_t> lengths_of(const SequenceDataset& dataset);

}  // namespace weft::data
