// Orders that are drawn, and updates that ranks share.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/linear.h"
#include "autograd/reduce.h"
#include "data/loader.h"
#include "data/plan.h"
#include "support/batches.h"
#include "support/threads.h"
#include "tensor/philox.h"

namespace weft::data {
namespace {

using test::message_of;

std::vector<std::int64_t> epoch_of(const Plan& plan, std::int64_t epoch) {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(plan.samples()));
  plan.sample_ids(epoch, 0, ids);
  return ids;
}

/// Pearson's statistic of counts against expected ones; those of 0 must be 0.
double chi_square(const std::vector<std::int64_t>& counts, const std::vector<double>& expected) {
  double sum = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double d = static_cast<double>(counts[i]) - expected[i];
    EXPECT_TRUE(expected[i] > 0 || counts[i] == 0) << i;
    if (expected[i] > 0) sum += d * d / expected[i];
  }
  return sum;
}
/// What it stays below with a chance of 1 - 3e-5 (Wilson and Hilferty's approximation).
double chi_square_limit(double freedom) {
  return freedom * std::pow(1 - 2 / (9 * freedom) + 4 * std::sqrt(2 / (9 * freedom)), 3);
}

TEST(PlanWeighted, DrawsInProportionToTheWeights) {
  // Uniform, skewed by 10^4, with zeros, and a single sample that holds everything.
  const std::vector<std::vector<double>> cases{std::vector<double>(50, 1.0),
                                               {1, 2, 3, 4, 1000, 0, 10, 0.1, 7, 0},
                                               {0, 0, 5, 0},
                                               {1e-3, 1e3, 1e3, 1e-3, 500},
                                               {3e300, 1e300}};
  for (const std::vector<double>& weights : cases) {
    const auto n = static_cast<std::int64_t>(weights.size());
    SCOPED_TRACE(fmt::format("{} weights, the first {}", n, weights[0]));
    const Plan plan(n, {.batch = Sgd{}, .order = Order::weighted, .seed = 20261126, .weights = weights});
    const std::int64_t epochs = 400'000 / n;
    std::vector<std::int64_t> counts(weights.size(), 0);
    for (std::int64_t epoch = 0; epoch < epochs; ++epoch)
      for (const std::int64_t id : epoch_of(plan, epoch)) ++counts.at(static_cast<std::size_t>(id));
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    std::vector<double> expected = weights;
    for (double& w : expected) w = w / sum * static_cast<double>(epochs * n);
    const auto freedom =
        static_cast<double>(std::count_if(weights.begin(), weights.end(), [](double w) { return w > 0; })) - 1;
    EXPECT_LE(chi_square(counts, expected), freedom > 0 ? chi_square_limit(freedom) : 0);
  }
}

TEST(PlanWeighted, AUrnForEachSampleIsRightForAnyWeights) {
  // Exactly, not by drawing: the share of each sample over all urns. 200 random sets of weights, zeros among them.
  Philox random(20261126);
  for (int trial = 0; trial < 200; ++trial) {
    SCOPED_TRACE(trial);
    const auto n = static_cast<std::size_t>(1 + random.next_u32() % 60);
    std::vector<double> weights(n);
    for (double& w : weights) w = random.uniform() < 0.3 ? 0 : std::exp(20 * (random.uniform() - 0.5));
    weights[random.next_u32() % n] = 1;
    const detail::WeightedDraws draws(weights, static_cast<std::int64_t>(n));
    std::vector<double> share(n, 0);
    for (std::size_t urn = 0; urn < n; ++urn) {
      // The middle of the urn's slice of 2^64; the boundary between its two samples by bisection.
      const auto bits = static_cast<std::uint64_t>((static_cast<double>(urn) + 0.5) / static_cast<double>(n) * 0x1p64);
      const std::int64_t own = draws(bits, 0), other = draws(bits, 1 - 0x1p-53);
      double low = 0, high = 1;
      for (int step = 0; step < 60 && own != other; ++step)
        (draws(bits, (low + high) / 2) == own ? low : high) = (low + high) / 2;
      if (own == other) high = 1;
      share[static_cast<std::size_t>(own)] += high;
      share[static_cast<std::size_t>(other)] += 1 - high;
    }
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (std::size_t i = 0; i < n; ++i) {
      EXPECT_NEAR(share[i] / static_cast<double>(n), weights[i] / sum, 1e-13) << i;
      EXPECT_TRUE(weights[i] > 0 || share[i] == 0) << i;
    }
  }
}

TEST(PlanWeighted, IsAPureFunctionOfItsPlace) {
  std::vector<double> weights(5000);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<double>(i % 7);
  const PlanOptions options{.batch = MiniBatch{64}, .order = Order::weighted, .seed = 3, .weights = weights};
  const Plan plan(5000, options);
  EXPECT_TRUE(plan.repeats_samples(0));
  std::vector<std::int64_t> want;
  for (const int threads : {1, 2, 7}) {
    const test::Threads guard(threads);
    const auto ids = epoch_of(Plan(5000, options), 2);
    if (want.empty()) want = ids;
    EXPECT_EQ(ids, want);
  }
  for (std::int64_t place = 4999; place >= 0; place -= 123)
    EXPECT_EQ(plan.sample_id(2, place), want[static_cast<std::size_t>(place)]);
  EXPECT_NE(epoch_of(plan, 3), want);
  PlanOptions other = options;
  other.seed = 4;
  EXPECT_NE(epoch_of(Plan(5000, other), 2), want);
  EXPECT_NE(Plan(5000, other).hash(), plan.hash());
  other = options;
  other.weights[17] = 2.5;
  EXPECT_NE(Plan(5000, other).hash(), plan.hash());
  EXPECT_EQ(Plan(5000, options).hash(), plan.hash());
}

TEST(PlanCurriculum, GoesFromEasyToHard) {
  constexpr std::int64_t kSamples = 500, kEpochs = 4;
  std::vector<double> difficulty(kSamples);
  Philox random(5);
  for (double& d : difficulty) d = std::floor(100 * random.uniform());  // with ties
  std::vector<std::int64_t> rank(kSamples), easy(kSamples);
  std::iota(easy.begin(), easy.end(), 0);
  std::stable_sort(easy.begin(), easy.end(), [&](std::int64_t a, std::int64_t b) {
    return difficulty[static_cast<std::size_t>(a)] < difficulty[static_cast<std::size_t>(b)];
  });
  for (std::int64_t r = 0; r < kSamples; ++r) rank[static_cast<std::size_t>(easy[static_cast<std::size_t>(r)])] = r;

  for (const Pacing pacing : {Pacing::root, Pacing::linear}) {
    const Plan plan(kSamples,
                    {.batch = MiniBatch{50},
                     .order = Order::curriculum,
                     .seed = 11,
                     .curriculum = {.difficulty = difficulty, .start = 0.2, .epochs = kEpochs, .pacing = pacing}});
    std::vector<double> mean;
    for (std::int64_t epoch = 0; epoch < kEpochs; ++epoch) {
      const auto ids = epoch_of(plan, epoch);
      double sum = 0, in_pool = 0;
      for (std::int64_t place = 0; place < kSamples; ++place) {
        const double t = (static_cast<double>(epoch) + static_cast<double>(place) / kSamples) / kEpochs;
        const double share = pacing == Pacing::root ? std::sqrt(0.04 + 0.96 * t) : 0.2 + 0.8 * t;
        const std::int64_t r = rank[static_cast<std::size_t>(ids[static_cast<std::size_t>(place)])];
        ASSERT_LT(static_cast<double>(r), share * kSamples + 1e-9) << "a sample that is too hard yet";
        sum += static_cast<double>(r);
        in_pool += (static_cast<double>(r) + 0.5) / (share * kSamples);
      }
      mean.push_back(sum / kSamples);
      // Uniform over the pool: the mean of 500 draws from [0, 1] deviates by 0.0129.
      EXPECT_NEAR(in_pool / kSamples, 0.5, 4 * 0.0129) << epoch;
      EXPECT_TRUE(plan.repeats_samples(epoch));
    }
    for (std::size_t i = 1; i < mean.size(); ++i) EXPECT_GT(mean[i], mean[i - 1]);
    for (const std::int64_t epoch : {kEpochs, kEpochs + 7}) {  // then every sample once
      auto ids = epoch_of(plan, epoch);
      EXPECT_FALSE(plan.repeats_samples(epoch));
      EXPECT_EQ(ids, epoch_of(Plan(kSamples, {.batch = MiniBatch{50}, .seed = 11}), epoch));
      std::sort(ids.begin(), ids.end());
      for (std::int64_t i = 0; i < kSamples; ++i) EXPECT_EQ(ids[static_cast<std::size_t>(i)], i);
    }
  }
  // All pools are the whole set.
  const detail::CurriculumDraws all({.difficulty = difficulty, .start = 1}, kSamples);
  EXPECT_EQ(all.pool(0, 0), kSamples);
  const detail::CurriculumDraws tiny({.difficulty = {1, 2, 3}, .start = 1e-9}, 3);
  EXPECT_EQ(tiny.pool(0, 0), 1);
  EXPECT_EQ(tiny.pool(1, 0), 3);
}

TEST(PlanOrders, RefuseWhatDoesNotFit) {
  const auto error = [](const PlanOptions& options) { return message_of<OptionError>([&] { Plan plan(3, options); }); };
  const auto weighted = [&](std::vector<double> weights) {
    return error({.batch = Sgd{}, .order = Order::weighted, .weights = std::move(weights)});
  };
  EXPECT_EQ(weighted({}), "[plan] the order by weight needs one weight per sample but 0 were given for 3 samples");
  EXPECT_EQ(weighted({1, -1, 2}), "[plan] weights must be finite and at least 0 but that of sample 1 is -1");
  EXPECT_EQ(weighted({1, 1, NAN}), "[plan] weights must be finite and at least 0 but that of sample 2 is nan");
  EXPECT_EQ(weighted({0, 0, 0}), "[plan] weights must have a positive, finite sum but it is 0: give a sample a weight");
  EXPECT_EQ(
      error({.batch = FullBatch{}, .order = Order::weighted, .weights = {1, 1, 1}}),
      "[plan] the full batch holds every sample once: for an order by weight or difficulty use a number of samples");
  EXPECT_EQ(error({.batch = Sgd{}, .weights = {1, 1, 1}}),
            "[plan] weights are for the weighted order: set it, or leave them out");
  const auto curriculum = [&](const Curriculum& c) {
    return error({.batch = Sgd{}, .order = Order::curriculum, .curriculum = c});
  };
  EXPECT_EQ(curriculum({}), "[plan] a curriculum needs one difficulty per sample but 0 were given for 3 samples");
  EXPECT_EQ(curriculum({.difficulty = {1, INFINITY, 1}}),
            "[plan] difficulties must be finite but that of sample 1 is inf");
  EXPECT_EQ(curriculum({.difficulty = {1, 1, 1}, .start = 0}),
            "[plan] a curriculum must start with a share of the samples in (0, 1] but starts with 0");
  EXPECT_EQ(curriculum({.difficulty = {1, 1, 1}, .epochs = 0}),
            "[plan] a curriculum must take at least 1 epoch but takes 0");
  EXPECT_EQ(error({.batch = Sgd{}, .curriculum = {.difficulty = {1, 1, 1}}}),
            "[plan] difficulties are for the curriculum: set that order, or leave them out");
}

// S1, S2, R4.
TEST(PlanShards, AreDisjointTogetherTheUpdateAndEquallyLong) {
  Philox random(20261126);
  const auto below = [&](std::int64_t n) {
    return static_cast<std::int64_t>(random.next_u64() % static_cast<std::uint64_t>(n));
  };
  for (int trial = 0; trial < 300; ++trial) {
    const std::int64_t samples = 1 + below(300), batch = 1 + below(samples),
                       ranks = 1 + below(std::min<std::int64_t>(batch, 9));
    const std::int64_t rows = (batch + ranks - 1) / ranks;
    PlanOptions options{
        .batch = MiniBatch{batch}, .drop_last = below(2) == 0, .seed = random.next_u64(), .ranks = ranks};
    if (below(2) == 0)
      options.accumulate = 1 + below(rows);
    else
      options.micro_samples = 1 + below(rows + 3);
    SCOPED_TRACE(fmt::format("samples {} batch {} ranks {} accumulate {} micro_samples {} drop_last {} seed {}",
                             samples, batch, ranks, options.accumulate, options.micro_samples, options.drop_last,
                             options.seed));
    PlanOptions alone = options;
    alone.ranks = alone.accumulate = 1;
    alone.micro_samples = 0;
    const Plan whole(samples, alone);
    std::vector<Plan> plans;
    for (options.rank = 0; options.rank < ranks; ++options.rank) plans.emplace_back(samples, options);
    for (std::int64_t index = 0; index < whole.updates_per_epoch(); ++index) {
      const PlannedUpdate update = whole.update(1, index);
      std::int64_t place = update.first;
      const PlannedUpdate first = plans[0].update(1, index);
      for (const Plan& plan : plans) {
        ASSERT_EQ(plan.hash(), whole.hash());
        ASSERT_EQ(plan.updates_per_epoch(), whole.updates_per_epoch());
        const PlannedUpdate mine = plan.update(1, index);
        ASSERT_EQ(mine.first, update.first);
        ASSERT_EQ(mine.samples, update.samples);
        ASSERT_EQ(mine.parts, first.parts);
        std::int64_t share = 0;
        for (std::int64_t k = 0; k < mine.parts; ++k) {
          const PlannedPart part = mine.part(k), its = first.part(k);
          ASSERT_EQ(part.samples + part.padding, its.samples + its.padding) << "ranks differ in shape";
          ASSERT_GE(part.samples + part.padding, 1);
          ASSERT_TRUE(options.micro_samples == 0 || part.samples + part.padding <= options.micro_samples);
          ASSERT_TRUE(part.samples == 0 || part.first == place);
          place += part.samples;
          share += part.padding;
        }
        ASSERT_LE(share, 1) << "more padding than needed";
      }
      ASSERT_EQ(place, update.first + update.samples);
      if (options.micro_samples > 0) {  // no more micro-batches than needed
        const std::int64_t mine = (update.samples + ranks - 1) / ranks;
        ASSERT_EQ(first.parts, (mine + options.micro_samples - 1) / options.micro_samples);
      }
    }
  }
}

TEST(PlanShards, RefuseWhatCannotBeShared) {
  const auto error = [](const PlanOptions& options) {
    return message_of<OptionError>([&] { Plan plan(100, options); });
  };
  EXPECT_EQ(error({.batch = MiniBatch{8}, .rank = 2, .ranks = 2}), "[plan] rank must be in [0, ranks) but is 2 of 2");
  EXPECT_EQ(error({.batch = MiniBatch{8}, .ranks = 0}), "[plan] rank must be in [0, ranks) but is 0 of 0");
  EXPECT_EQ(error({.batch = MiniBatch{8}, .ranks = 9}),
            "[plan] 9 ranks cannot share a batch size of 8: each needs a sample, use a larger batch");
  EXPECT_EQ(
      error({.batch = MiniBatch{8}, .accumulate = 5, .ranks = 2}),
      "[plan] accumulate 5 is larger than a rank's share of 4 samples: a micro-batch needs a sample, use at most 4");
  EXPECT_EQ(error({.batch = MiniBatch{8}, .accumulate = 2, .micro_samples = 3}),
            "[plan] accumulate 2 and micro_samples 3 both say how an update is cut: use one of them");
  EXPECT_EQ(error({.batch = MiniBatch{8}, .micro_samples = -1}), "[plan] micro_samples must be at least 0 but is -1");
}

// S2: rows of weight 0 keep the shapes equal; sums and denominators over the ranks are those of one.
TEST(PlanShards, SumsOverRanksAreThoseOfOne) {
  constexpr std::int64_t kSamples = 23;
  const TensorDataset set(randn({kSamples, 5}, 1, Dtype::f64), randn({kSamples, 2}, 2, Dtype::f64));
  const Tensor weight = randn({2, 5}, 3, Dtype::f64);
  const auto run = [&](std::int64_t ranks, std::int64_t accumulate) {
    std::vector<std::vector<double>> updates(3, std::vector<double>(11, 0));  // gradient, denominator
    std::vector<Shape> shapes;
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      const Tensor w = set_requires_grad(weight.alias());
      std::vector<Shape> mine;
      for (auto& update :
           Loader{set, {.batch = MiniBatch{10}, .accumulate = accumulate, .seed = 8, .rank = rank, .ranks = ranks}}
               .epoch(0)) {
        auto& total = updates.at(static_cast<std::size_t>(update.index()));
        for (auto& micro : update) {
          mine.push_back(micro.input.shape());
          const Tensor error = linear(micro.input, w) - micro.target;
          Tensor terms = error * error;
          double count = static_cast<double>(micro.target.numel());
          if (micro.weight.defined()) {
            EXPECT_EQ(micro.weight.shape(), micro.target.shape());
            terms = terms * cast(micro.weight, Dtype::f64);
            const auto weights = micro.weight.to_vector<float>();
            count = std::accumulate(weights.begin(), weights.end(), 0.0);
            EXPECT_LT(count, static_cast<double>(micro.target.numel())) << "weights that are all 1";
          }
          update.backward({sum(terms), scalar(count, Dtype::f64)});
        }
        const auto gradient = test::values(grad(w));
        for (std::size_t i = 0; i < 10; ++i) total[i] += gradient[i];
        total[10] += update.window().denominator().item<double>();
        zero_grad(w);
      }
      if (rank == 0) shapes = mine;
      EXPECT_EQ(mine, shapes) << "rank " << rank;
    }
    return updates;
  };
  const auto one = run(1, 1);
  EXPECT_EQ(one[0][10], 20);
  EXPECT_EQ(one[2][10], 6);
  for (const std::int64_t ranks : {2, 3, 4, 7})
    for (const std::int64_t accumulate : {1, 2}) {
      const auto many = run(ranks, accumulate);
      for (std::size_t u = 0; u < 3; ++u) {
        EXPECT_EQ(many[u][10], one[u][10]);
        EXPECT_LT(test::relative_error(many[u], one[u]), 1e-14) << ranks << " ranks";  // f64 sums in another order
      }
    }
}

}  // namespace
}  // namespace weft::data
