#include "data/sequence_plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "data/bias_report.h"
#include "support/compare.h"
#include "support/threads.h"
#include "tensor/philox.h"

namespace weft::data {
namespace {

using test::message_of;
using Lengths = std::vector<std::int64_t>;
using Row = std::vector<Piece>;

constexpr Batching kBatchings[] = {Batching::pad, Batching::bucket, Batching::tokens, Batching::pack};

std::int64_t below(Philox& random, std::int64_t n) {
  return static_cast<std::int64_t>(random.next_u64() % static_cast<std::uint64_t>(n));
}

std::uint64_t first_seed() {
  const char* given = std::getenv("WEFT_PROPERTY_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : 20261126;
}

struct Case {
  Lengths lengths;
  SequencePlanOptions options;
};

std::int64_t tokens_kept(const Case& c) {
  std::int64_t sum = 0;
  for (const std::int64_t length : c.lengths) {
    if (length > c.options.length && c.options.overlong == Overlong::drop) continue;
    sum += c.options.overlong == Overlong::truncate ? std::min(length, c.options.length) : length;
  }
  return sum;
}

/// Random lengths and options that a plan takes.
Case random_case(Philox& random) {
  Case c;
  SequencePlanOptions& o = c.options;
  o.batching = kBatchings[below(random, 4)];
  o.pad_multiple = below(random, 3) == 0 ? 1 + below(random, 8) : 1;
  o.length = o.pad_multiple * (1 + below(random, 128 / o.pad_multiple));
  c.lengths.resize(static_cast<std::size_t>(1 + below(random, below(random, 4) == 0 ? 5 : 500)));
  const std::int64_t longest = 1 + below(random, below(random, 2) == 0 ? o.length : 3 * o.length);
  for (std::int64_t& length : c.lengths) length = below(random, 15) == 0 ? 0 : 1 + below(random, longest);
  c.lengths[0] = 1;
  if (below(random, 2) == 0) c.lengths.back() = o.length;
  o.overlong =
      std::array{Overlong::truncate, Overlong::split, Overlong::drop}[static_cast<std::size_t>(below(random, 3))];
  if (below(random, 3) == 0) o.separator = Separator{.id = 3, .predicted = below(random, 2) == 0};
  if (below(random, 4) == 0) o.pad_to = PadTo::length;
  if (o.batching == Batching::bucket && below(random, 2) == 0)
    for (std::int64_t at = below(random, 20); at < 140; at += 1 + below(random, 60)) o.boundaries.push_back(at + 1);
  o.packer =
      std::array{Packer::next_fit, Packer::first_fit, Packer::best_fit}[static_cast<std::size_t>(below(random, 3))];
  if (below(random, 2) == 0) o.window = below(random, 100);
  o.order = below(random, 4) == 0 ? Order::sequential : Order::shuffled;
  o.seed = random.next_u64();
  const std::int64_t least_rows = (tokens_kept(c) + o.length - 1) / o.length;  // however they are made
  const std::int64_t kind = below(random, 10);
  if (kind == 0) {
    o.batch = FullBatch{};
  } else if (kind == 1) {
    o.batch = Sgd{};
  } else if (kind < 5) {
    o.batch = TokenBatch{o.length * (1 + below(random, 8)) + below(random, o.length)};
  } else {
    o.batch = MiniBatch{1 + below(random, std::min<std::int64_t>(least_rows, 40))};
    if (o.batching == Batching::pack && below(random, 3) == 0) o.unit = RowUnit::samples;
    // A bucket may be smaller than a batch: then nothing is left of it.
    o.drop_last = below(random, 3) == 0 && o.batching != Batching::bucket;
  }
  const std::int64_t cut = below(random, 4);
  if (cut == 0) o.micro_tokens = o.length * (1 + below(random, 3)) + below(random, 5);
  const auto* mini = std::get_if<MiniBatch>(&o.batch);
  if (cut == 1 && !std::holds_alternative<Sgd>(o.batch)) o.accumulate = 1 + below(random, mini ? mini->samples : 7);
  return c;
}

std::string describe(const Case& c) {
  const SequencePlanOptions& o = c.options;
  const auto* mini = std::get_if<MiniBatch>(&o.batch);
  const auto* tokens = std::get_if<TokenBatch>(&o.batch);
  return fmt::format(
      "batching {} batch {}:{} unit {} L {} overlong {} pad_to {} multiple {} boundaries {} packer {} window {} "
      "accumulate "
      "{} micro_tokens {} drop_last {} order {} seed {} lengths {}",
      static_cast<int>(o.batching), o.batch.index(),
      mini     ? mini->samples
      : tokens ? tokens->tokens
               : 0,
      static_cast<int>(o.unit), o.length, static_cast<int>(o.overlong), static_cast<int>(o.pad_to), o.pad_multiple,
      o.boundaries, static_cast<int>(o.packer), o.window.value_or(-1), o.accumulate, o.micro_tokens, o.drop_last,
      static_cast<int>(o.order), o.seed, c.lengths);
}

/// Calls law(case, random) for seeds from first_seed() on; a failure names the one that begins with its case.
template <class Law>
void each_case(int cases, Law&& law) {
  for (std::uint64_t seed = first_seed(); cases-- > 0 && !::testing::Test::HasFatalFailure(); ++seed) {
    Philox random(seed);
    const Case c = random_case(random);
    SCOPED_TRACE(fmt::format("to begin with this case: WEFT_PROPERTY_SEED={}\n{}", seed, describe(c)));
    law(c, random);
  }
}

std::vector<Row> rows_of(const SequenceLayout& layout) {
  std::vector<Row> rows;
  for (std::int64_t r = 0; r < layout.rows(); ++r) rows.emplace_back(layout.row(r).begin(), layout.row(r).end());
  return rows;
}
std::vector<Row> rows_of(const SequencePlan& plan, std::int64_t epoch) {
  std::vector<Row> rows;
  for (std::int64_t u = 0; u < plan.updates_per_epoch(epoch); ++u)
    for (Row& row : rows_of(*plan.update(epoch, u).layout)) rows.push_back(std::move(row));
  return rows;
}
std::int64_t load(std::span<const Piece> row) {
  std::int64_t sum = 0;
  for (const Piece& piece : row) sum += piece.length;
  return sum;
}

// ---- P1, P2, B1: what an epoch holds ---------------------------------------------------------------------------------

TEST(SequencePlan, EveryTokenHasOnePlaceAndCountsAreExact) {
  each_case(400, [](const Case& c, Philox&) {
    const SequencePlan plan(c.lengths, c.options);
    const SequenceCounts& counts = plan.counts();
    const std::int64_t L = c.options.length;

    std::int64_t tokens = 0, empty = 0, dropped = 0, dropped_tokens = 0, truncated = 0, split = 0, separators = 0,
                 pieces = 0;
    std::vector<std::int64_t> places(c.lengths.size());  // that a sample must have
    for (std::size_t s = 0; s < c.lengths.size(); ++s) {
      const std::int64_t length = c.lengths[s];
      std::int64_t kept = length;
      bool separated = c.options.separator && length % L != 0;
      tokens += length;
      empty += length == 0;
      if (length > L && c.options.overlong == Overlong::truncate) {
        ++truncated;
        kept = L;
        separated = false;
      } else if (length > L && c.options.overlong == Overlong::drop) {
        ++dropped;
        kept = 0;
        separated = false;
      } else if (length > L) {
        ++split;
      }
      dropped_tokens += length - kept;
      separators += separated;
      pieces += (kept + L - 1) / L;
      places[s] = kept + separated;
    }
    EXPECT_EQ(counts.sequences, static_cast<std::int64_t>(c.lengths.size()));
    EXPECT_EQ(counts.tokens, tokens);
    EXPECT_EQ(counts.empty, empty);
    EXPECT_EQ(counts.dropped, dropped);
    EXPECT_EQ(counts.truncated, truncated);
    EXPECT_EQ(counts.split, split);
    EXPECT_EQ(counts.dropped_tokens, dropped_tokens);
    EXPECT_EQ(counts.separators, separators);
    EXPECT_EQ(counts.pieces, pieces);
    EXPECT_EQ(counts.placed_tokens, tokens - dropped_tokens + separators);

    for (const std::int64_t epoch : {0, 1, 77}) {
      std::set<std::pair<std::int64_t, std::int64_t>> seen;
      std::int64_t in_order = 0;
      for (std::int64_t u = 0; u < plan.updates_per_epoch(epoch); ++u) {
        const PlannedUpdate update = plan.update(epoch, u);
        ASSERT_EQ(update.number, plan.updates_before(epoch) + u + 1);
        ASSERT_EQ(update.first, in_order);
        ASSERT_EQ(update.samples, static_cast<std::int64_t>(update.layout->pieces.size()));
        ASSERT_GE(update.samples, 1);
        ASSERT_EQ(update.tokens, load(update.layout->pieces));
        in_order += update.samples;
        for (const Row& row : rows_of(*update.layout)) {
          ASSERT_FALSE(row.empty());
          ASSERT_LE(load(row), L);
          if (c.options.batching != Batching::pack) { ASSERT_EQ(row.size(), 1u); }
          for (const Piece& piece : row) {
            ASSERT_GE(piece.length, 1);
            ASSERT_EQ(piece.offset % L, 0);
            ASSERT_LE(piece.offset + piece.length, places[static_cast<std::size_t>(piece.sample)]);
            for (std::int64_t i = 0; i < piece.length; ++i)
              ASSERT_TRUE(seen.emplace(piece.sample, piece.offset + i).second) << "a token came twice";
          }
        }
      }
      const BiasReport report = bias_report(plan, epoch);
      ASSERT_EQ(report.left_out_tokens, counts.placed_tokens - static_cast<std::int64_t>(seen.size()));
      ASSERT_EQ(report.left_out, counts.pieces - in_order);
      if (!c.options.drop_last) { ASSERT_EQ(static_cast<std::int64_t>(seen.size()), counts.placed_tokens); }
    }
  });
}

// ---- B2, B3 and the shape of micro-batches ---------------------------------------------------------------------------

TEST(SequencePlan, UpdatesAndMicroBatchesHaveTheSizesAskedFor) {
  each_case(400, [](const Case& c, Philox&) {
    const SequencePlanOptions& o = c.options;
    const SequencePlan plan(c.lengths, o);
    const bool fixed_width = o.batching == Batching::pack || o.pad_to == PadTo::length;
    const auto width = [&](std::int64_t longest) {
      return fixed_width ? o.length : (longest + o.pad_multiple - 1) / o.pad_multiple * o.pad_multiple;
    };
    const std::int64_t updates = plan.updates_per_epoch(2);
    std::int64_t short_updates = 0, pieces_in_all = 0;
    for (std::int64_t u = 0; u < updates; ++u) {
      const PlannedUpdate update = plan.update(2, u);
      const std::vector<Row> rows = rows_of(*update.layout);
      const auto all = static_cast<std::int64_t>(rows.size());
      pieces_in_all += update.samples;
      std::int64_t longest = 0;
      for (const Row& row : rows) longest = std::max(longest, load(row));
      if (const auto* tokens = std::get_if<TokenBatch>(&o.batch)) { ASSERT_LE(all * width(longest), tokens->tokens); }
      if (std::holds_alternative<Sgd>(o.batch)) { ASSERT_EQ(all, 1); }
      if (const auto* mini = std::get_if<MiniBatch>(&o.batch); mini && o.unit == RowUnit::rows) {
        ASSERT_LE(all, mini->samples);
        short_updates += all < mini->samples;
      }
      // The cut.
      ASSERT_EQ(update.parts, static_cast<std::int64_t>(update.layout->parts.size()));
      std::int64_t next = 0, least = all, most = 0;
      for (const SequenceLayout::Part& part : update.layout->parts) {
        ASSERT_EQ(part.first, next);
        ASSERT_GE(part.rows, 1);
        std::int64_t here = 0;
        for (std::int64_t r = part.first; r < part.first + part.rows; ++r)
          here = std::max(here, load(rows[static_cast<std::size_t>(r)]));
        ASSERT_EQ(part.width, width(here));
        if (o.micro_tokens > 0) { ASSERT_LE(part.rows * part.width, o.micro_tokens); }
        next += part.rows;
        least = std::min(least, part.rows);
        most = std::max(most, part.rows);
      }
      ASSERT_EQ(next, all);
      if (o.micro_tokens == 0) {
        ASSERT_EQ(update.parts, std::min(o.accumulate, all));
        ASSERT_LE(most - least, 1);
      } else if (fixed_width) {  // as few as the cap allows
        const std::int64_t fit = o.micro_tokens / o.length;
        ASSERT_EQ(update.parts, (all + fit - 1) / fit);
      }
    }
    if (std::holds_alternative<FullBatch>(o.batch)) { ASSERT_EQ(updates, 1); }
    if (const auto* mini = std::get_if<MiniBatch>(&o.batch)) {
      const std::int64_t buckets = static_cast<std::int64_t>(plan.options().boundaries.size());
      if (o.batching != Batching::bucket && o.unit == RowUnit::rows) {
        ASSERT_LE(short_updates, o.drop_last && updates > 1 ? 0 : 1);
      }
      if (o.batching == Batching::bucket) { ASSERT_LE(short_updates, buckets); }
      if (o.unit == RowUnit::samples && !o.drop_last) {
        // A row that ends beyond its update's share is the last of it.
        ASSERT_LE(updates, (pieces_in_all + mini->samples - 1) / mini->samples);
        ASSERT_EQ(pieces_in_all, plan.counts().pieces);
      }
    }
  });
}

// ---- P4: nothing but lengths and options -----------------------------------------------------------------------------

TEST(SequencePlan, IsAPureFunctionForAnyThreadsAndOrderOfQuestions) {
  each_case(150, [](const Case& c, Philox&) {
    const SequencePlan plan(c.lengths, c.options);
    std::vector<SequenceLayout> layouts[2];
    {
      const test::Threads one(1);
      for (const std::int64_t epoch : {0, 1})
        for (std::int64_t u = 0; u < plan.updates_per_epoch(epoch); ++u)
          layouts[epoch].push_back(*plan.update(epoch, u).layout);
    }
    const test::Threads many(4);
    const SequencePlan again(c.lengths, c.options);
    EXPECT_EQ(again.hash(), plan.hash());
    for (const std::int64_t epoch : {1, 0}) {
      ASSERT_EQ(again.updates_per_epoch(epoch), static_cast<std::int64_t>(layouts[epoch].size()));
      for (std::int64_t u = again.updates_per_epoch(epoch); u-- > 0;)
        ASSERT_EQ(*again.update(epoch, u).layout, layouts[epoch][static_cast<std::size_t>(u)]);
    }
    ASSERT_EQ(again.updates_before(2), static_cast<std::int64_t>(layouts[0].size() + layouts[1].size()));
  });
}

TEST(SequencePlan, AnswersManyThreadsAtOnce) {
  Philox random(5);
  Lengths lengths(3000);
  for (std::int64_t& length : lengths) length = 1 + below(random, 200);
  for (const Batching batching : kBatchings) {
    SequencePlanOptions options{.batching = batching, .batch = TokenBatch{2000}, .length = 100, .seed = 7};
    options.window = 256;
    const SequencePlan alone(lengths, options), shared(lengths, options);
    std::vector<std::vector<Row>> want;
    for (std::int64_t epoch = 0; epoch < 6; ++epoch) want.push_back(rows_of(alone, epoch));
    std::array<int, 4> wrong{};
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < wrong.size(); ++t)
      threads.emplace_back([&, t] {
        for (std::int64_t epoch = 0; epoch < 6; ++epoch) {
          const auto e = t % 2 == 0 ? epoch : 5 - epoch;  // more epochs at once than are kept
          wrong[t] += rows_of(shared, e) != want[static_cast<std::size_t>(e)];
        }
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, (std::array<int, 4>{}));
  }
}

TEST(SequencePlan, TheCutDoesNotChangeAnUpdateNorItsHash) {
  each_case(200, [](const Case& c, Philox& random) {
    const SequencePlan plan(c.lengths, c.options);
    SequencePlanOptions other = c.options;
    other.accumulate = 1;
    other.micro_tokens = c.options.length * (1 + below(random, 5));
    const SequencePlan cut(c.lengths, other);
    EXPECT_EQ(cut.hash(), plan.hash());
    EXPECT_EQ(rows_of(cut, 1), rows_of(plan, 1));
    other.ranks = 3;
    EXPECT_EQ(SequencePlan(c.lengths, other).hash(), plan.hash());
  });
}

TEST(SequencePlan, TheHashNamesWhatDecides) {
  const Lengths lengths{5, 9, 3, 30, 8, 8, 2, 14};
  const SequencePlanOptions base{.batch = MiniBatch{2}, .length = 16, .seed = 1};
  std::vector<SequencePlanOptions> all(15, base);
  all[1].seed = 2;
  all[2].length = 32;
  all[3].batch = MiniBatch{1};
  all[4].overlong = Overlong::truncate;
  all[5].packer = Packer::first_fit;
  all[6].window = 4;
  all[7].order = Order::sequential;
  all[8].batching = Batching::pad;
  all[9].separator = Separator{.id = 1};
  all[10].separator = Separator{.id = 2};
  all[11].separator = Separator{.id = 2, .predicted = false};
  all[12].drop_last = true;
  all[13].pad_multiple = 8;
  all[14].unit = RowUnit::samples;
  std::set<std::uint64_t> hashes;
  for (const SequencePlanOptions& options : all) hashes.insert(SequencePlan(lengths, options).hash());
  Lengths longer = lengths;
  ++longer[2];
  hashes.insert(SequencePlan(longer, base).hash());
  std::swap(longer[0], longer[1]);
  hashes.insert(SequencePlan(longer, base).hash());
  EXPECT_EQ(hashes.size(), all.size() + 2);
  // What has no part in padded rows does not keep a run from going on.
  SequencePlanOptions padded = all[8], other = all[8];
  other.packer = Packer::next_fit;
  other.window = 2;
  EXPECT_EQ(SequencePlan(lengths, padded).hash(), SequencePlan(lengths, other).hash());
}

// ---- S1, S2, B5: ranks -----------------------------------------------------------------------------------------------

TEST(SequencePlan, RanksShareEachUpdateInEqualShapes) {
  each_case(150, [](const Case& c, Philox& random) {
    SequencePlanOptions options = c.options;
    options.ranks = 1 + below(random, 5);
    options.accumulate = 1 + below(random, 2);
    if (options.accumulate > 1) options.micro_tokens = 0;
    const auto* mini = std::get_if<MiniBatch>(&options.batch);
    if (std::holds_alternative<Sgd>(options.batch) || (mini && mini->samples <= options.ranks)) options.accumulate = 1;
    SequencePlanOptions whole = c.options;
    whole.accumulate = 1;
    whole.micro_tokens = 0;
    const SequencePlan global(c.lengths, whole);
    std::vector<SequencePlan> ranks;
    for (options.rank = 0; options.rank < options.ranks; ++options.rank) ranks.emplace_back(c.lengths, options);
    for (const SequencePlan& rank : ranks) ASSERT_EQ(rank.updates_per_epoch(1), global.updates_per_epoch(1));
    for (std::int64_t u = 0; u < global.updates_per_epoch(1); ++u) {
      const std::vector<Row> want = rows_of(*global.update(1, u).layout);
      std::vector<Row> got(want.size());
      const auto first = ranks[0].update(1, u).layout;
      for (std::size_t r = 0; r < ranks.size(); ++r) {
        const PlannedUpdate update = ranks[r].update(1, u);
        ASSERT_EQ(update.layout->parts, first->parts) << "another shape on rank " << r;
        ASSERT_EQ(update.layout->rows(), first->rows());
        const std::vector<Row> mine = rows_of(*update.layout);
        for (std::size_t i = 0; i < mine.size(); ++i) {
          const std::size_t row = i * ranks.size() + r;
          if (row < got.size())
            got[row] = mine[i];
          else
            ASSERT_EQ(mine[i], Row{}) << "a row beyond the update's on rank " << r;
        }
        for (const SequenceLayout::Part& part : first->parts)
          ASSERT_TRUE(options.micro_tokens == 0 || part.rows * part.width <= options.micro_tokens);
      }
      ASSERT_EQ(got, want);
    }
  });
}

// ---- P3, P12: packing in windows -------------------------------------------------------------------------------------

Lengths lognormal(std::int64_t n, double median, std::uint64_t seed) {
  Philox random(seed);
  Lengths lengths(static_cast<std::size_t>(n));
  for (std::int64_t& length : lengths)
    length = std::max<std::int64_t>(1, std::llround(median * std::exp(0.85 * random.normal())));
  return lengths;
}

TEST(SequencePlan, AWindowOverEverythingIsThePackerItself) {
  for (const std::int64_t L : {100, 128, 129})
    for (const Packer packer : {Packer::next_fit, Packer::first_fit, Packer::best_fit}) {
      const Lengths lengths = lognormal(700, 30, 3);
      SequencePlanOptions options{.batch = FullBatch{}, .length = L, .overlong = Overlong::truncate, .packer = packer};
      std::vector<std::int32_t> cut;
      for (const std::int64_t length : lengths) cut.push_back(static_cast<std::int32_t>(std::min(length, L)));
      const Packing packing = pack(cut, static_cast<std::int32_t>(L), packer);
      for (const std::int64_t window : {0, 700, 100000}) {
        options.window = window;
        const std::vector<Row> rows = rows_of(SequencePlan(lengths, options), 0);
        ASSERT_EQ(static_cast<std::int64_t>(rows.size()), packing.rows());
        std::set<std::vector<std::int64_t>> got, want;
        for (const Row& row : rows) {
          std::vector<std::int64_t> samples;
          for (const Piece& piece : row) samples.push_back(piece.sample);
          got.insert(samples);
        }
        for (std::int64_t r = 0; r < packing.rows(); ++r) want.emplace(packing.row(r).begin(), packing.row(r).end());
        EXPECT_EQ(got, want);
      }
    }
}

TEST(SequencePlan, LargerWindowsPackBetter) {
  const auto utilisation = [](std::int64_t window) {  // over five orders: a single one may go the other way
    double sum = 0;
    for (std::uint64_t seed = 0; seed < 5; ++seed)
      sum += bias_report(SequencePlan(lognormal(4000, 85, seed),
                                      {.batch = MiniBatch{8}, .length = 512, .window = window, .seed = seed}))
                 .utilisation() /
             5;
    return sum;
  };
  const double w16 = utilisation(16), w128 = utilisation(128), w1024 = utilisation(1024), all = utilisation(0);
  EXPECT_LT(w16, w128);
  EXPECT_LT(w128, w1024);
  EXPECT_LE(w1024, all);
  EXPECT_GT(w1024, 0.98);
}

// ---- B4 and the order ------------------------------------------------------------------------------------------------

TEST(SequencePlan, BatchesAreShuffledWhole) {
  // 10 batches of 3 in each of four buckets: the bucket of an epoch's first batch is any of them.
  Lengths lengths;
  for (const std::int64_t length : {10, 20, 30, 40}) lengths.insert(lengths.end(), 30, length);
  constexpr int kSeeds = 10000;
  std::map<std::int64_t, int> first_bucket;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const SequencePlan plan(
        lengths, {.batching = Batching::bucket, .batch = MiniBatch{3}, .boundaries = {10, 20, 30}, .seed = seed});
    const PlannedUpdate update = plan.update(0, 0);
    const auto& pieces = update.layout->pieces;
    for (const Piece& piece : pieces) ASSERT_EQ(piece.length, pieces[0].length) << "a batch from two buckets";
    ++first_bucket[pieces[0].length];
  }
  double chi_squared = 0;
  for (const auto& [length, count] : first_bucket) chi_squared += (count - 2500.0) * (count - 2500.0) / 2500;
  EXPECT_EQ(first_bucket.size(), 4u);
  EXPECT_LT(chi_squared, 16.27) << "0.1 % of fair draws lie above, with 3 degrees of freedom";
}

TEST(SequencePlan, NeighbouringUpdatesDoNotGoTogetherInLength) {
  Lengths lengths = lognormal(20000, 130, 4);
  const auto correlation = [&](Batching batching, Order order, std::uint64_t seed) {
    const bool rows = batching == Batching::pack || batching == Batching::pad;
    const Regime batch = rows ? Regime(MiniBatch{4}) : Regime(TokenBatch{8192});
    return *bias_report(
                SequencePlan(lengths,
                             {.batching = batching, .batch = batch, .length = 1024, .order = order, .seed = seed}))
                .length_correlation;
  };
  for (const Batching batching : kBatchings) EXPECT_LT(std::fabs(correlation(batching, Order::shuffled, 1)), 0.1);
  // What the shuffle is for.
  EXPECT_GT(correlation(Batching::bucket, Order::sequential, 1), 0.7);
  std::sort(lengths.begin(), lengths.end());
  EXPECT_GT(correlation(Batching::pad, Order::sequential, 1), 0.7);
  EXPECT_LT(std::fabs(correlation(Batching::pad, Order::shuffled, 1)), 0.1);
}

TEST(SequencePlan, SortedBatchesAreDrawnAgainInEveryEpoch) {
  const Lengths lengths = lognormal(600, 40, 9);
  const SequencePlan plan(lengths, {.batching = Batching::tokens, .batch = MiniBatch{16}, .window = 0, .seed = 3});
  const auto batches = [&](std::int64_t epoch) {
    std::set<std::set<std::int64_t>> sets;
    for (std::int64_t u = 0; u < plan.updates_per_epoch(epoch); ++u) {
      const PlannedUpdate update = plan.update(epoch, u);
      std::set<std::int64_t> samples;
      for (const Piece& piece : update.layout->pieces) samples.insert(piece.sample);
      sets.insert(samples);
    }
    return sets;
  };
  for (std::int64_t a = 0; a < 6; ++a)
    for (std::int64_t b = 0; b < a; ++b) {
      const auto first = batches(a), second = batches(b);
      std::vector<std::set<std::int64_t>> both;
      std::set_intersection(first.begin(), first.end(), second.begin(), second.end(), std::back_inserter(both));
      EXPECT_LT(both.size(), 8u) << "of 38 batches, these hold the same samples in the epochs " << a << " and " << b;
    }

  // What is left over (600 = 37 x 16 + 8) are at times the longest samples, at times the shortest.
  int longest = 0, shortest = 0;
  for (std::int64_t epoch = 0; epoch < 40; ++epoch)
    for (std::int64_t u = 0; u < plan.updates_per_epoch(epoch); ++u) {
      const PlannedUpdate update = plan.update(epoch, u);
      if (update.samples == 16) continue;
      ASSERT_EQ(update.samples, 8);
      const std::int64_t mean = update.tokens / update.samples;
      longest += mean > 80;
      shortest += mean < 20;
    }
  EXPECT_GT(longest, 8);
  EXPECT_GT(shortest, 8);
}

TEST(SequencePlan, EpochsAndSeedsDiffer) {
  const Lengths lengths = lognormal(300, 30, 1);
  for (const Batching batching : kBatchings) {
    SequencePlanOptions options{.batching = batching, .batch = MiniBatch{4}, .length = 128, .seed = 1};
    const SequencePlan plan(lengths, options);
    EXPECT_NE(rows_of(plan, 0), rows_of(plan, 1));
    options.seed = 2;
    EXPECT_NE(rows_of(plan, 0), rows_of(SequencePlan(lengths, options), 0));
    options.order = Order::sequential;
    const SequencePlan sequential(lengths, options);
    EXPECT_EQ(rows_of(sequential, 0), rows_of(sequential, 1));
  }
  // By id, packed in the order of their first samples.
  const std::vector<Row> rows = rows_of(
      SequencePlan(lengths, {.batch = MiniBatch{4}, .length = 256, .window = 0, .order = Order::sequential}), 0);
  for (std::size_t r = 1; r < rows.size(); ++r) EXPECT_LT(rows[r - 1][0].sample, rows[r][0].sample);
}

TEST(SequencePlan, SamplesMayBeCountedAsIfUnpacked) {
  const Lengths lengths = lognormal(5000, 60, 2);
  SequencePlanOptions options{.batch = MiniBatch{64}, .unit = RowUnit::samples, .length = 512, .seed = 5};
  const SequencePlan plan(lengths, options);
  EXPECT_EQ(plan.updates_per_epoch(0), (plan.counts().pieces + 63) / 64) << "as many updates as without packing";
  const BiasReport report = bias_report(plan);
  EXPECT_NEAR(report.samples_factor(), 1, 1e-9);
  EXPECT_TRUE(report.remarks().empty() || report.remarks()[0].find("larger") == std::string::npos);
  options.unit = RowUnit::rows;
  const BiasReport rows = bias_report(SequencePlan(lengths, options));
  EXPECT_NEAR(rows.samples_factor(), static_cast<double>(rows.pieces) / static_cast<double>(rows.rows), 1e-9);
  EXPECT_GT(rows.samples_factor(), 5);
  EXPECT_EQ(rows.remarks()[0].rfind(fmt::format("packing made your batch {:.1f}x larger: ", rows.samples_factor()), 0),
            0u);
}

// ---- the report ------------------------------------------------------------------------------------------------------

TEST(BiasReport, IsWhatOneCountsByHand) {
  // Rows of 8 by first-fit in order: {5, 3}, {6, 2}, {8}, {7}; updates of 3 rows and of 1.
  const Lengths lengths{5, 3, 6, 2, 0, 8, 7};
  const SequencePlan plan(
      lengths, {.batch = MiniBatch{3}, .length = 8, .packer = Packer::first_fit, .order = Order::sequential});
  const BiasReport report = bias_report(plan);
  EXPECT_EQ(report.updates, 2);
  EXPECT_EQ(report.rows, 4);
  EXPECT_EQ(report.pieces, 6);
  EXPECT_EQ(report.tokens, 31);
  EXPECT_EQ(report.places, 32);
  EXPECT_EQ(report.padding(), 1);
  EXPECT_DOUBLE_EQ(report.utilisation(), 31.0 / 32);
  EXPECT_DOUBLE_EQ(report.samples_per_update, 3);
  EXPECT_DOUBLE_EQ(report.unpacked_samples_per_update, 2);
  EXPECT_DOUBLE_EQ(report.samples_factor(), 1.5);
  EXPECT_FALSE(report.length_correlation) << "two updates have one neighbour";
  EXPECT_EQ(report.remarks(),
            (std::vector<std::string>{
                "packing made your batch 1.5x larger: 3 samples per update instead of 2; 1 rows hold about 2",
                "1 samples have no token"}));
  // Means of updates 1, 2, 3, 4: x with the next has correlation 1; 1, 3, 1, 3, 1: -1.
  const auto correlation = [](const Lengths& of) {
    return bias_report(SequencePlan(of, {.batching = Batching::pad, .batch = MiniBatch{1}, .order = Order::sequential}))
        .length_correlation;
  };
  EXPECT_NEAR(correlation({1, 2, 3, 4}).value(), 1, 1e-12);
  EXPECT_NEAR(correlation({1, 3, 1, 3, 1}).value(), -1, 1e-12);
  EXPECT_FALSE(correlation({4, 4, 4, 4}));
}

// ---- errors ----------------------------------------------------------------------------------------------------------

TEST(SequencePlan, SaysWhatIsWrong) {
  const auto error = [](const Lengths& lengths, const SequencePlanOptions& options) {
    return message_of<OptionError>([&] { SequencePlan(lengths, options); });
  };
  const Lengths some{5, 9, 3};
  EXPECT_EQ(error({5, 3000}, {.batch = Sgd{}, .length = 2048, .overlong = Overlong::error}),
            "[sequence_plan] sample 1 has 3000 tokens but a row has 2048 places: choose to truncate, split or drop it");
  EXPECT_EQ(error({}, {}), "[sequence_plan] the data set has no token (0 samples): a plan needs at least one");
  EXPECT_EQ(error({0, 0}, {}), "[sequence_plan] the data set has no token (2 samples): a plan needs at least one");
  EXPECT_EQ(error({5, -1}, {}), "[sequence_plan] the length of sample 1 must be in [0, 2147483647) but is -1");
  EXPECT_EQ(error({5, 9}, {.batch = Sgd{}, .length = 4, .overlong = Overlong::drop}),
            "[sequence_plan] all 2 samples are longer than a row of 4 places and dropped");
  EXPECT_EQ(error(some, {.batching = Batching::pad, .batch = MiniBatch{4}}),
            "[sequence_plan] batch size 4 is larger than the 3 pieces of an epoch: use at most 3, or full");
  EXPECT_EQ(error(some, {.batch = MiniBatch{3}, .length = 20}),
            "[sequence_plan] batch size 3 is larger than the 1 packed rows of an epoch: use at most 1, or full");
  EXPECT_EQ(error(some, {.batch = TokenBatch{15}, .length = 16}),
            "[sequence_plan] a batch of 15 tokens cannot hold a row of 16 places: use at least 16, or shorter rows");
  EXPECT_EQ(error(some, {.batching = Batching::tokens, .batch = TokenBatch{8}}),
            "[sequence_plan] a batch of 8 tokens cannot hold a row of 9 places: use at least 9, or shorter rows");
  EXPECT_EQ(error(some, {.batch = Sgd{}, .length = 9, .micro_tokens = 8}),
            "[sequence_plan] a micro-batch of 8 tokens cannot hold a row of 9 places: use at least 9, or shorter rows");
  EXPECT_EQ(error(some, {.batch = Sgd{}, .length = 100, .pad_multiple = 8}),
            "[sequence_plan] length 100 is no multiple of pad_multiple 8: use 104");
  EXPECT_EQ(error(some, {.batch = FullBatch{}, .accumulate = 2, .micro_tokens = 9}),
            "[sequence_plan] accumulate 2 and micro_tokens 9 both say how an update is cut: give one of them");
  EXPECT_EQ(error(some, {.batching = Batching::pad, .batch = MiniBatch{2}, .accumulate = 3}),
            "[sequence_plan] accumulate 3 is larger than the 2 rows of an update: a micro-batch needs a row");
  EXPECT_EQ(error(some, {.batching = Batching::pad, .batch = MiniBatch{2}, .unit = RowUnit::samples}),
            "[sequence_plan] RowUnit::samples is for a MiniBatch of packed rows: elsewhere a row is a sample");
  EXPECT_EQ(error(some, {.batching = Batching::tokens, .batch = TokenBatch{100}, .drop_last = true}),
            "[sequence_plan] drop_last needs updates of a fixed number of rows: a batch of tokens is never short");
  EXPECT_EQ(error(some, {.batching = Batching::bucket, .batch = MiniBatch{2}, .boundaries = {3, 5}, .drop_last = true}),
            "[sequence_plan] drop_last leaves nothing: no bucket holds a whole batch of 2 rows");
  EXPECT_EQ(error(some, {.batching = Batching::bucket, .boundaries = {4, 4}}),
            "[sequence_plan] boundaries must increase from 1 up but number 1 is 4");
  EXPECT_EQ(error(some, {.batch = MiniBatch{0}}), "[sequence_plan] the batch size must be at least 1 but is 0");
  EXPECT_EQ(error(some, {.rank = 2, .ranks = 2}), "[sequence_plan] rank must be in [0, 2) but is 2");
  const SequencePlan plan(some, {.batch = Sgd{}, .length = 9});
  EXPECT_EQ(message_of<ShapeError>([&] { plan.update(0, 9); }),
            "[sequence_plan] the update must be in [0, 2) within its epoch but is 9");
  EXPECT_THROW(plan.update(-1, 0), ShapeError);
}

}  // namespace
}  // namespace weft::data
