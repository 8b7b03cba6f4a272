#include "data/sequence_batches.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "autograd/cross_entropy.h"
#include "autograd/factories.h"
#include "autograd/index.h"
#include "data/loader.h"
#include "support/compare.h"
#include "tensor/philox.h"

namespace weft::data {
namespace {

using test::message_of;
using Numbers = std::vector<std::int64_t>;

constexpr Batching kBatchings[] = {Batching::pad, Batching::bucket, Batching::tokens, Batching::pack};
constexpr std::int64_t kSeparator = 999, kVocabulary = 1000;

std::int64_t below(Philox& random, std::int64_t n) {
  return static_cast<std::int64_t>(random.next_u64() % static_cast<std::uint64_t>(n));
}

std::uint64_t first_seed() {
  const char* given = std::getenv("WEFT_PROPERTY_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : 20261126;
}

/// Sequences whose tokens say where they stand; reading a `bad` one throws.
class Made final : public SequenceDataset {
 public:
  explicit Made(Numbers lengths, std::set<std::int64_t> bad = {})
      : lengths_(std::move(lengths)), bad_(std::move(bad)) {}
  static std::int64_t token(std::int64_t id, std::int64_t place) { return (id * 37 + place * 11) % kSeparator; }
  std::int64_t size() const override { return static_cast<std::int64_t>(lengths_.size()); }
  std::string name() const override { return "made"; }
  std::uint64_t fingerprint() const override { return 5; }
  std::int64_t vocabulary() const override { return kVocabulary; }
  std::int64_t length(std::int64_t id) const override { return lengths_[static_cast<std::size_t>(id)]; }
  void read(std::int64_t id, std::int64_t offset, std::span<std::int64_t> out) const override {
    require<ShapeError>(offset >= 0 && offset + static_cast<std::int64_t>(out.size()) <= length(id), "made",
                        "sequence {} has {} tokens but [{}, {} + {}) was asked for", id, length(id), offset, offset,
                        out.size());
    require<IoError>(!bad_.contains(id), "made", "sequence {} cannot be read", id);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = token(id, offset + static_cast<std::int64_t>(i));
  }

 private:
  Numbers lengths_;
  std::set<std::int64_t> bad_;
};

Numbers random_lengths(Philox& random, std::int64_t L) {
  Numbers lengths(static_cast<std::size_t>(1 + below(random, 120)));
  for (std::int64_t& length : lengths) length = below(random, 12) == 0 ? 0 : 1 + below(random, 3 * L);
  lengths[0] = 1 + below(random, L);
  lengths.back() = L;
  return lengths;
}

/// Options for which any lengths will do.
SequencePlanOptions random_options(Philox& random, std::int64_t L) {
  SequencePlanOptions o;
  o.length = L;
  o.batching = kBatchings[below(random, 4)];
  o.batch = below(random, 3) == 0 ? Regime(FullBatch{}) : Regime(TokenBatch{L * (1 + below(random, 6))});
  o.overlong =
      std::array{Overlong::truncate, Overlong::split, Overlong::drop}[static_cast<std::size_t>(below(random, 3))];
  if (below(random, 2) == 0) o.separator = Separator{.id = kSeparator, .predicted = below(random, 2) == 0};
  if (below(random, 3) == 0) o.pad_to = PadTo::length;
  o.packer =
      std::array{Packer::next_fit, Packer::first_fit, Packer::best_fit}[static_cast<std::size_t>(below(random, 3))];
  o.window = below(random, 50);
  if (below(random, 2) == 0) o.micro_tokens = L * (1 + below(random, 3));
  if (below(random, 3) == 0) {
    o.ranks = 2;
    o.rank = below(random, 2);
  }
  o.seed = random.next_u64();
  return o;
}

template <class Law>
void each_case(int cases, Law&& law) {
  for (std::uint64_t seed = first_seed(); cases-- > 0 && !::testing::Test::HasFatalFailure(); ++seed) {
    SCOPED_TRACE(fmt::format("to begin with this case: WEFT_PROPERTY_SEED={}", seed));
    Philox random(seed);
    const std::int64_t L = 1 + below(random, 60);
    const Numbers lengths = random_lengths(random, L);
    SequencePlanOptions options = random_options(random, L);
    if (options.overlong == Overlong::drop && options.batching == Batching::bucket) options.batching = Batching::pad;
    law(lengths, options, random);
  }
}

/// Calls see(micro batch) for each of an epoch.
template <class See>
void walk(const SequenceBatches& batches, std::int64_t epoch, See&& see) {
  for (std::int64_t u = 0; u < batches.updates_per_epoch(epoch); ++u) {
    const PlannedUpdate update = batches.update(epoch, u);
    for (std::int64_t k = 0; k < update.parts; ++k) see(batches.collate(update, k));
  }
}

// ---- what lies where: P9, P11, isolation by construction -------------------------------------------------------------

TEST(SequenceBatches, EveryPlaceHoldsWhatThePlanSays) {
  each_case(300, [](const Numbers& lengths, const SequencePlanOptions& options, Philox&) {
    const SequenceBatches batches(Made(lengths), options);
    const std::int64_t L = options.length;
    for (std::int64_t u = 0; u < batches.updates_per_epoch(1); ++u) {
      const PlannedUpdate update = batches.update(1, u);
      for (std::int64_t k = 0; k < update.parts; ++k) {
        const MicroBatch micro = batches.collate(update, k);
        const SequenceLayout::Part part = update.layout->parts[static_cast<std::size_t>(k)];
        const Shape shape{part.rows, part.width};
        ASSERT_EQ(micro.input.shape(), shape);
        const Numbers input = micro.input.to_vector<std::int64_t>(), target = micro.target.to_vector<std::int64_t>();
        const Numbers ids = micro.sample_ids.to_vector<std::int64_t>(), at = micro.positions.to_vector<std::int64_t>();
        ASSERT_EQ(target.size(), input.size());
        ASSERT_EQ(ids.size(), input.size());
        ASSERT_EQ(at.size(), input.size());
        ASSERT_FALSE(micro.weight.defined());
        ASSERT_EQ(micro.index, k);
        ASSERT_EQ(micro.update.to_vector<std::int64_t>(), Numbers{update.number});

        std::vector<std::int32_t> offsets{0};
        for (std::int64_t r = 0; r < part.rows; ++r) {
          std::int64_t place = r * part.width;
          for (const Piece& piece : update.layout->row(part.first + r)) {
            const std::int64_t length = lengths[static_cast<std::size_t>(piece.sample)];
            const bool cut = options.overlong == Overlong::truncate && length > L;
            const std::int64_t end = cut ? L : length;
            std::int64_t sum = 0;
            for (std::int64_t i = 0; i < piece.length; ++i, ++place) {
              const auto here = static_cast<std::size_t>(place);
              const std::int64_t p = piece.offset + i;
              ASSERT_EQ(ids[here], piece.sample);
              ASSERT_EQ(at[here], p);
              ASSERT_EQ(input[here], p < end ? Made::token(piece.sample, p) : kSeparator);
              std::int64_t label = -100;
              if (p + 1 < end) label = Made::token(piece.sample, p + 1);
              if (p + 1 == end && !cut && options.separator && options.separator->predicted) label = kSeparator;
              ASSERT_EQ(target[here], label) << "sample " << piece.sample << " place " << p << " of " << length;
              sum += at[here] - piece.offset;
            }
            ASSERT_EQ(sum, piece.length * (piece.length - 1) / 2);
            offsets.push_back(static_cast<std::int32_t>(place));
          }
          for (; place < (r + 1) * part.width; ++place) {
            const auto here = static_cast<std::size_t>(place);
            ASSERT_EQ(input[here], 0);
            ASSERT_EQ(target[here], -100) << "padding with a label";
            ASSERT_EQ(ids[here], -1);
            ASSERT_EQ(at[here], 0);
          }
          if (offsets.back() < place) offsets.push_back(static_cast<std::int32_t>(place));
        }
        ASSERT_EQ(micro.segments.offsets(), offsets);
        ASSERT_EQ(micro.segments.places(), part.rows * part.width);
      }
    }
  });
}

TEST(SequenceBatches, LabelsAreEachTokenButTheFirst) {
  each_case(300, [](const Numbers& lengths, SequencePlanOptions options, Philox&) {
    options.rank = 0;
    options.ranks = 1;
    const SequenceBatches batches(Made(lengths), options);
    std::int64_t want = 0, labels = 0;
    for (const std::int64_t length : lengths) {
      if (length > options.length && options.overlong == Overlong::drop) continue;
      const bool cut = length > options.length && options.overlong == Overlong::truncate;
      want += std::max<std::int64_t>(0, (cut ? options.length : length) - 1);
      want += length > 0 && !cut && options.separator && options.separator->predicted ? 1 : 0;
    }
    walk(batches, 0, [&](const MicroBatch& micro) {
      for (const std::int64_t label : micro.target.to_vector<std::int64_t>()) labels += label != -100;
    });
    ASSERT_EQ(labels, want);
    std::int64_t by_plan = 0;
    for (const std::int64_t length : lengths) by_plan += batches.plan().labels(length);
    ASSERT_EQ(by_plan, want);
  });
}

TEST(SequenceBatches, ARowOnPaper) {
  // Sample 0 has 5 tokens and rows 4 places: 4 + 1. The last place of its first piece is labelled with its fifth token.
  const Numbers lengths{5, 2, 4};
  const auto t = [](std::int64_t id, std::int64_t place) { return Made::token(id, place); };
  const SequenceBatches batches(
      Made(lengths),
      {.batch = FullBatch{}, .length = 4, .separator = Separator{kSeparator}, .packer = Packer::next_fit});
  const MicroBatch micro = batches.collate(batches.update(0, 0), 0);
  constexpr std::int64_t S = kSeparator, N = -100;
  EXPECT_EQ(micro.input.to_vector<std::int64_t>(), (Numbers{t(0, 0), t(0, 1), t(0, 2), t(0, 3),  //
                                                            t(0, 4), S, 0, 0,                    //
                                                            t(1, 0), t(1, 1), S, 0,              //
                                                            t(2, 0), t(2, 1), t(2, 2), t(2, 3)}));
  EXPECT_EQ(micro.target.to_vector<std::int64_t>(), (Numbers{t(0, 1), t(0, 2), t(0, 3), t(0, 4),  //
                                                             S, N, N, N,                          //
                                                             t(1, 1), S, N, N,                    //
                                                             t(2, 1), t(2, 2), t(2, 3), S}))
      << "the separator that has no room is predicted all the same";
  EXPECT_EQ(micro.positions.to_vector<std::int64_t>(), (Numbers{0, 1, 2, 3, 4, 5, 0, 0, 0, 1, 2, 0, 0, 1, 2, 3}));
  EXPECT_EQ(micro.sample_ids.to_vector<std::int64_t>(), (Numbers{0, 0, 0, 0, 0, 0, -1, -1, 1, 1, 1, -1, 2, 2, 2, 2}));
  EXPECT_EQ(micro.segments.offsets(), (std::vector<std::int32_t>{0, 4, 6, 8, 11, 12, 16}));
}

// ---- P10: the loss does not see the batching -------------------------------------------------------------------------

struct Total {
  double sum = 0, denominator = 0;
  double mean() const { return sum / denominator; }
};

/// Cross-entropy over an epoch of a model that looks at one token: logits = table[token], in f64.
Total loss_of(const SequenceBatches& batches) {
  static const Tensor table = randn({kVocabulary, kVocabulary}, 1, Dtype::f64);
  Total total;
  walk(batches, 0, [&](const MicroBatch& micro) {
    const Loss loss = cross_entropy(embedding(table, micro.input), micro.target, {.token_weights = micro.weight});
    total.sum += loss.sum.to_vector<double>()[0];
    total.denominator += loss.denominator.to_vector<double>()[0];
  });
  return total;
}

TEST(SequenceBatches, TokenAndSequenceMeansDoNotDependOnBatchingPackingAndCut) {
  Numbers lengths;
  Philox random(3);
  for (int i = 0; i < 40; ++i) lengths.push_back(below(random, 60));
  // By hand: each sample's mean, and all labels.
  const Tensor table = randn({kVocabulary, kVocabulary}, 1, Dtype::f64);
  Total tokens, sequences;
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    if (lengths[s] < 2) continue;
    Numbers of;
    for (std::int64_t p = 0; p < lengths[s]; ++p) of.push_back(Made::token(static_cast<std::int64_t>(s), p));
    const Numbers from(of.begin(), of.end() - 1), to(of.begin() + 1, of.end());
    const Shape shape{static_cast<std::int64_t>(from.size())};
    const Loss loss = cross_entropy(embedding(table, Tensor::from_vector(from, shape)), Tensor::from_vector(to, shape));
    tokens.sum += loss.sum.to_vector<double>()[0];
    tokens.denominator += static_cast<double>(from.size());
    sequences.sum += loss.sum.to_vector<double>()[0] / static_cast<double>(from.size());
    sequences.denominator += 1;
  }
  ASSERT_GT(std::fabs(tokens.mean() / sequences.mean() - 1), 1e-4) << "the two means must differ to be told apart";

  for (const Batching batching : kBatchings)
    for (const std::int64_t length : {64, 17})  // 17: samples are split, over updates as well
      for (const std::int64_t micro_tokens : {0, 64}) {
        SequencePlanOptions options{.batching = batching, .batch = TokenBatch{200}, .length = length, .seed = 1};
        options.micro_tokens = micro_tokens;
        SCOPED_TRACE(
            fmt::format("batching {} length {} micro_tokens {}", static_cast<int>(batching), length, micro_tokens));
        const Total by_token = loss_of(SequenceBatches(Made(lengths), options));
        EXPECT_EQ(by_token.denominator, tokens.denominator);
        EXPECT_NEAR(by_token.mean() / tokens.mean(), 1, 1e-12);
        const Total by_sequence = loss_of(SequenceBatches(Made(lengths), options, LossMean::sequence));
        // The weights 1/n are rounded to f32, half a unit in the last place at most.
        EXPECT_NEAR(by_sequence.denominator / sequences.denominator, 1, 0x1p-24);
        EXPECT_NEAR(by_sequence.mean() / sequences.mean(), 1, 0x1p-23);
      }
}

TEST(SequenceBatches, SequenceWeightsAreOneOverTheLabelsOfTheSample) {
  each_case(100, [](const Numbers& lengths, SequencePlanOptions options, Philox&) {
    options.rank = 0;
    options.ranks = 1;
    const SequenceBatches batches(Made(lengths), options, LossMean::sequence);
    std::map<std::int64_t, double> sums;
    walk(batches, 0, [&](const MicroBatch& micro) {
      const std::vector<float> weight = micro.weight.to_vector<float>();
      const Numbers target = micro.target.to_vector<std::int64_t>(), ids = micro.sample_ids.to_vector<std::int64_t>();
      for (std::size_t i = 0; i < weight.size(); ++i) {
        ASSERT_EQ(weight[i] == 0, target[i] == -100);
        if (weight[i] != 0) sums[ids[i]] += static_cast<double>(weight[i]);
      }
    });
    for (std::size_t s = 0; s < lengths.size(); ++s)
      if (batches.plan().labels(lengths[s]) > 0)
        ASSERT_NEAR(sums.at(static_cast<std::int64_t>(s)), 1, 0x1p-24) << "sample " << s;
      else
        ASSERT_EQ(sums.count(static_cast<std::int64_t>(s)), 0u);
  });
}

// ---- a loader over them ----------------------------------------------------------------------------------------------

TEST(SequenceBatches, ALoaderHandsOutTheSameBitsForAnyWorkersAndPlaceToStart) {
  Numbers lengths;
  Philox random(8);
  for (int i = 0; i < 300; ++i) lengths.push_back(below(random, 50));
  for (const Batching batching : kBatchings) {
    SequencePlanOptions options{.batching = batching, .batch = TokenBatch{300}, .length = 32, .window = 64, .seed = 2};
    options.micro_tokens = 96;
    const auto batches = std::make_shared<const SequenceBatches>(Made(lengths), options, LossMean::sequence);
    for (const std::int64_t workers : {0, 1, 3}) {
      const Loader loader(batches, {.workers = workers});
      for (const std::int64_t first : {0, 5}) {
        std::int64_t index = first;
        for (Update& update : loader.epoch(1, first)) {
          const PlannedUpdate planned = batches->update(1, index++);
          ASSERT_EQ(update.number(), planned.number);
          std::int64_t k = 0;
          for (const MicroBatch& micro : update) {
            const MicroBatch want = batches->collate(planned, k++);
            ASSERT_TRUE(test::bitwise_equal(micro.input, want.input));
            ASSERT_TRUE(test::bitwise_equal(micro.target, want.target));
            ASSERT_TRUE(test::bitwise_equal(micro.weight, want.weight));
            ASSERT_TRUE(test::bitwise_equal(micro.sample_ids, want.sample_ids));
            ASSERT_TRUE(test::bitwise_equal(micro.positions, want.positions));
            ASSERT_EQ(micro.segments.offsets(), want.segments.offsets());
          }
          ASSERT_EQ(k, planned.parts);
        }
        ASSERT_EQ(index, batches->updates_per_epoch(1));
      }
    }
  }
}

// ---- ranks, identity, bad samples ------------------------------------------------------------------------------------

TEST(SequenceBatches, ARankWithoutARowHasPaddingWithoutLabels) {
  SequencePlanOptions options{.batching = Batching::pad, .batch = MiniBatch{3}, .length = 8};
  options.ranks = 2;
  options.rank = 1;
  const SequenceBatches batches(Made({4, 4, 4}), options, LossMean::sequence);
  const MicroBatch micro = batches.collate(batches.update(0, 0), 0);
  ASSERT_EQ(micro.input.shape(), (Shape{2, 4}));
  const Numbers target = micro.target.to_vector<std::int64_t>(), ids = micro.sample_ids.to_vector<std::int64_t>();
  EXPECT_EQ(std::count(target.begin() + 4, target.end(), -100), 4);
  EXPECT_EQ(std::count(ids.begin() + 4, ids.end(), -1), 4);
  const std::vector<float> weight = micro.weight.to_vector<float>();
  EXPECT_EQ(std::count(weight.begin() + 4, weight.end(), 0.0f), 4);
  EXPECT_EQ(micro.segments.offsets(), (std::vector<std::int32_t>{0, 4, 8}));
}

TEST(SequenceBatches, TheHashNamesDataSetPlanAndMean) {
  const SequencePlanOptions options{.batch = FullBatch{}, .length = 8};
  const SequenceBatches batches(Made({4, 5}), options);
  EXPECT_EQ(batches.hash(), SequenceBatches(Made({4, 5}), options).hash());
  EXPECT_NE(batches.hash(), SequenceBatches(Made({5, 4}), options).hash());
  EXPECT_NE(batches.hash(), SequenceBatches(Made({4, 5}), options, LossMean::sequence).hash());
  EXPECT_EQ(batches.samples(), 2);
  EXPECT_EQ(batches.name(), "made");
}

TEST(SequenceBatches, ASampleThatCannotBeReadIsNamedOrPadded) {
  const SequencePlanOptions options{.batch = FullBatch{}, .length = 8, .packer = Packer::next_fit};
  const SequenceBatches batches(Made({3, 4, 6}, {1}), options);
  const PlannedUpdate update = batches.update(0, 0);
  EXPECT_EQ(message_of<SampleError>([&] { batches.collate(update, 0); }),
            "[loader] sample 1 of made (update 1, micro-batch 0): [made] sequence 1 cannot be read");
  std::vector<SkippedSample> skipped;
  const MicroBatch micro = batches.collate_skipping(update, 0, skipped);
  ASSERT_EQ(skipped,
            (std::vector<SkippedSample>{{.sample = 1, .update = 1, .reason = "[made] sequence 1 cannot be read"}}));
  const Numbers target = micro.target.to_vector<std::int64_t>();
  EXPECT_EQ(std::count_if(target.begin(), target.end(), [](std::int64_t label) { return label != -100; }), 2 + 5);
  EXPECT_EQ(micro.sample_ids.to_vector<std::int64_t>(),
            (Numbers{0, 0, 0, -1, -1, -1, -1, -1, 2, 2, 2, 2, 2, 2, -1, -1}));
  EXPECT_EQ(message_of<OptionError>(
                [] { SequenceBatches(Made({3}), {.batch = FullBatch{}, .separator = Separator{.id = 1000}}); }),
            "[sequence_batches] the separator 1000 of made must be in [0, 1000)");
}

}  // namespace
}  // namespace weft::data
