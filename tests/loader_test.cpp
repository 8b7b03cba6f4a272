#include "data/loader.h"

#include <chrono>
#include <cmath>
#include <iterator>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/linear.h"
#include "autograd/reduce.h"
#include "data/fingerprint.h"
#include "data/gather.h"
#include "data/tensor_dataset.h"
#include "support/batches.h"
#include "support/compare.h"
#include "support/threads.h"

namespace weft::data {
namespace {

using test::bitwise_equal;
using test::counting;
using test::expect_same;
using test::message_of;
using test::Seen;
using test::walk;

static_assert(std::input_iterator<Epoch::Iterator> && std::sentinel_for<std::default_sentinel_t, Epoch::Iterator>);
static_assert(std::input_iterator<Update::Iterator> && std::sentinel_for<std::default_sentinel_t, Update::Iterator>);

TEST(Loader, HandsOutEverySampleOnceWithItsTarget) {
  const Loader loader{counting(103), {.batch = MiniBatch{20}, .accumulate = 3, .seed = 5}};
  EXPECT_EQ(loader.updates_per_epoch(), 6);
  EXPECT_EQ(loader.plan().batch_size(), 20);
  EXPECT_EQ(loader.dataset().name(), "counting");
  std::vector<int> count(103, 0);
  std::int64_t number = 2 * 6;
  for (auto& update : loader.epoch(2)) {
    EXPECT_EQ(update.number(), ++number);
    EXPECT_EQ(update.epoch(), 2);
    EXPECT_EQ(update.index(), number - 13);
    EXPECT_EQ(update.samples(), number == 18 ? 3 : 20);
    EXPECT_EQ(update.micro_batches(), 3);
    std::int64_t samples = 0, index = 0;
    for (auto& micro : update) {
      EXPECT_EQ(micro.index, index++);
      const auto ids = micro.sample_ids.to_vector<std::int64_t>(), target = micro.target.to_vector<std::int64_t>();
      const auto input = micro.input.to_vector<float>();
      ASSERT_EQ(micro.input.shape(), (Shape{static_cast<std::int64_t>(ids.size()), 3}));
      ASSERT_EQ(target.size(), ids.size());
      for (std::size_t r = 0; r < ids.size(); ++r) {
        ++count.at(static_cast<std::size_t>(ids[r]));
        EXPECT_EQ(target[r], 2 * ids[r] + 1);
        for (std::size_t j = 0; j < 3; ++j)
          EXPECT_EQ(input[r * 3 + j], static_cast<float>(10 * ids[r]) + static_cast<float>(j));
      }
      samples += static_cast<std::int64_t>(ids.size());
    }
    EXPECT_EQ(index, 3);
    EXPECT_EQ(samples, update.samples());
  }
  EXPECT_EQ(number, 18);
  EXPECT_EQ(count, std::vector<int>(103, 1));
}

TEST(Loader, ScopeCarriesTheStep) {
  const Loader loader{counting(10), {.batch = MiniBatch{4}, .accumulate = 2, .seed = 77}};
  EXPECT_EQ(StepContext::current(), nullptr);
  for (auto& update : loader.epoch(1)) {
    for (auto& micro : update) {
      auto scope = micro.scope();
      const StepContext* context = StepContext::current();
      ASSERT_NE(context, nullptr);
      EXPECT_EQ(context->seed, 77u);
      EXPECT_EQ(context->update.shape(), Shape{});
      EXPECT_EQ(context->update.item<std::int64_t>(), update.number());
      EXPECT_TRUE(bitwise_equal(context->sample_ids, micro.sample_ids));
      EXPECT_FALSE(context->positions.defined());
      EXPECT_EQ(context->micro_batch, micro.index);
    }
    EXPECT_EQ(StepContext::current(), nullptr);
  }
}

TEST(Loader, StartsAnywhereWithTheSameBatches) {
  const Loader loader{counting(50), {.batch = MiniBatch{8}, .accumulate = 2, .seed = 9}};
  for (const std::int64_t epoch : {0, 3}) {
    const std::vector<Seen> whole = walk(loader.epoch(epoch));
    for (std::int64_t first = 0; first <= loader.updates_per_epoch(); ++first) {
      SCOPED_TRACE(first);
      const auto skip = static_cast<std::ptrdiff_t>(first < 7 ? 2 * first : 14);
      expect_same(walk(loader.epoch(epoch, first)),
                  {whole.begin() + std::min<std::ptrdiff_t>(skip, std::ssize(whole)), whole.end()});
    }
  }
  EXPECT_EQ(message_of<ShapeError>([&] { loader.epoch(0, 8); }),
            "[loader] the first update must be in [0, 7] within its epoch but is 8");
  EXPECT_EQ(message_of<ShapeError>([&] { loader.epoch(0, -1); }),
            "[loader] the first update must be in [0, 7] within its epoch but is -1");
  EXPECT_NE(message_of<ShapeError>([&] { loader.epoch(-1); }).find("[plan] the epoch must be in"), std::string::npos);
}

TEST(Loader, CanBeWalkedAgainAndOutlived) {
  std::optional<Loader> loader(std::in_place, counting(12), LoaderOptions{.batch = MiniBatch{5}, .seed = 3});
  Epoch epoch = loader->epoch(0);
  loader.reset();
  const std::vector<Seen> first = walk(epoch), second = walk(epoch);
  EXPECT_EQ(first.size(), 3u);
  expect_same(first, second);
  Epoch::Iterator it = epoch.begin();
  Update& update = *it;
  std::int64_t rows = 0;
  for (auto& micro : update) rows += micro.input.size(0);
  for (auto& micro : update) rows += micro.input.size(0);
  EXPECT_EQ(rows, 10);
  const std::uint64_t window = update.window().id();
  ++it;
  EXPECT_NE(it->window().id(), window) << "each update needs a window of its own";
}

TEST(Loader, GivesTheSameBitsOnAnyNumberOfThreads) {
  std::vector<Seen> want;
  for (const int threads : {1, 2, 7}) {
    const test::Threads guard(threads);
    const Loader loader{counting(40'000), {.batch = MiniBatch{15'000}, .accumulate = 2, .seed = 1}};
    const std::vector<Seen> seen = walk(loader.epoch(0));
    if (want.empty()) want = seen;
    expect_same(seen, want);
  }
}

TEST(Loader, TheSplitDoesNotChangeWhatAnUpdateHolds) {
  const auto ids_by_update = [](std::int64_t accumulate) {
    const Loader loader{counting(50), {.batch = MiniBatch{16}, .accumulate = accumulate, .seed = 2}};
    std::vector<std::vector<std::int64_t>> updates(static_cast<std::size_t>(loader.updates_per_epoch()));
    for (const Seen& seen : walk(loader.epoch(0)))
      for (const std::int64_t id : seen.ids.to_vector<std::int64_t>())
        updates[static_cast<std::size_t>(seen.update - 1)].push_back(id);
    return updates;
  };
  const auto whole = ids_by_update(1);
  for (const std::int64_t accumulate : {2, 3, 7, 16}) EXPECT_EQ(ids_by_update(accumulate), whole) << accumulate;
}

// Contract 1: sums and denominators add up over the window, so every split of a batch gives the same gradient.
TEST(Loader, EverySplitGivesTheSameGradient) {
  constexpr std::int64_t kSamples = 23, kFeatures = 5;
  const TensorDataset set(randn({kSamples, kFeatures}, 1, Dtype::f64), randn({kSamples, 2}, 2, Dtype::f64));
  const Tensor weight = randn({2, kFeatures}, 3, Dtype::f64);
  struct Result {
    std::vector<double> gradient;
    double loss;
  };
  const auto run = [&](const Regime& batch, std::int64_t accumulate) {
    const Tensor w = set_requires_grad(weight.alias());
    std::vector<Result> results;
    for (auto& update : Loader{set, {.batch = batch, .accumulate = accumulate, .seed = 8}}.epoch(0)) {
      for (auto& micro : update) {
        auto scope = micro.scope();
        const Tensor error = linear(micro.input, w) - micro.target;
        update.backward({sum(error * error), scalar(static_cast<double>(micro.target.size(0)), Dtype::f64)});
      }
      EXPECT_EQ(update.window().micro_batches(), update.micro_batches());
      EXPECT_EQ(update.window().denominator().item<double>(), static_cast<double>(update.samples()));
      EXPECT_EQ(grad_window(w), update.window().id());
      results.push_back({test::values(grad(w)), update.window().mean_loss()});
      zero_grad(w);
    }
    return results;
  };
  for (const Regime& batch : {Regime(FullBatch{}), Regime(MiniBatch{9})}) {
    const std::vector<Result> whole = run(batch, 1);
    for (const std::int64_t accumulate : {2, 3, 4, 8, 9}) {
      const std::vector<Result> split = run(batch, accumulate);
      ASSERT_EQ(split.size(), whole.size());
      for (std::size_t i = 0; i < split.size(); ++i) {
        // f64 sums of at most 23 terms in another order: a few times 1e-16.
        EXPECT_LT(test::relative_error(split[i].gradient, whole[i].gradient), 1e-14) << accumulate << " update " << i;
        EXPECT_NEAR(split[i].loss, whole[i].loss, 1e-14 * std::fabs(whole[i].loss));
      }
    }
  }
}

TEST(Loader, RefusesWrongOptionsAndDataSets) {
  EXPECT_EQ(message_of<OptionError>([] { Loader(counting(10), {.batch = MiniBatch{11}}); }),
            "[plan] batch size 11 is larger than the data set (10 samples): use at most 10, or full");
  EXPECT_EQ(message_of<OptionError>([] { Loader(std::shared_ptr<const Dataset>()); }),
            "[loader] needs a data set but has a null pointer");

  struct Wrong final : Dataset {
    std::int64_t size() const override { return 4; }
    std::string name() const override { return "wrong"; }
    std::uint64_t fingerprint() const override { return 0; }
    Batch collate(std::span<const std::int64_t>) const override { return {zeros({3, 1}), zeros({2})}; }
  };
  const Loader loader{Wrong{}, {.batch = MiniBatch{2}}};
  EXPECT_EQ(message_of<ShapeError>([&] { walk(loader.epoch(0)); }),
            "[loader] the data set wrong must collate 2 samples into as many rows but made [3, 1]");
}

TEST(Loader, OptionsAreThoseOfThePlan) {
  const PlanOptions plan{}, loader = LoaderOptions{}.plan();
  EXPECT_EQ(std::get<MiniBatch>(loader.batch).samples, std::get<MiniBatch>(plan.batch).samples);
  EXPECT_EQ(loader.accumulate, plan.accumulate);
  EXPECT_EQ(loader.drop_last, plan.drop_last);
  EXPECT_EQ(loader.order, plan.order);
  EXPECT_EQ(loader.seed, plan.seed);
  const PlanOptions set =
      LoaderOptions{.batch = Sgd{}, .accumulate = 3, .drop_last = true, .order = Order::sequential, .seed = 4}.plan();
  EXPECT_TRUE(std::holds_alternative<Sgd>(set.batch));
  EXPECT_EQ(set.accumulate, 3);
  EXPECT_TRUE(set.drop_last);
  EXPECT_EQ(set.order, Order::sequential);
  EXPECT_EQ(set.seed, 4u);
}

// R1, R2, R9: the state is a few numbers, and every place of a run is found again from its own.
TEST(Loader, EveryStateLeadsBackToItsPlace) {
  static_assert(sizeof(LoaderState) <= 200);
  const Loader loader{counting(50), {.batch = MiniBatch{8}, .accumulate = 2, .seed = 9}};
  for (const std::int64_t epoch : {0, 1, 5})
    for (std::int64_t first = 0; first <= 7; ++first) {
      SCOPED_TRACE(first);
      const LoaderState state = loader.state(epoch, first);
      EXPECT_EQ(state.update, 7 * epoch + first);
      EXPECT_EQ(state.cursor, first == 7 ? 0 : 8 * first);
      EXPECT_EQ(state.seed, 9u);
      EXPECT_EQ(state.hash, loader.hash());
      const Place place = loader.locate(state);
      EXPECT_EQ(place, (first == 7 ? Place{epoch + 1, 0} : Place{epoch, first}));
      EXPECT_EQ(loader.state(place.epoch, place.first), state);
    }
  // R7: other data, another plan; and a state that was tampered with.
  LoaderState state = loader.state(2, 3);
  const Loader other{counting(51), {.batch = MiniBatch{8}, .accumulate = 2, .seed = 9}};
  EXPECT_NE(message_of<OptionError>([&] {
              other.locate(state);
            }).find("[loader] a run goes on only with the data set and the plan that it began with"),
            std::string::npos);
  EXPECT_EQ((Loader{counting(50), {.batch = MiniBatch{8}, .accumulate = 8, .seed = 9}}.locate(state)), (Place{2, 3}));
  state.cursor = 25;
  EXPECT_EQ(message_of<OptionError>([&] { loader.locate(state); }),
            "[loader] no run of this plan is at sample 25 of epoch 2 after 17 updates: the state is damaged");
  for (const auto& [epoch, update] : {std::pair<std::int64_t, std::int64_t>{-1, 3}, {2, -1}, {2, 21}, {2, 13}}) {
    state.epoch = epoch;
    state.update = update;
    EXPECT_NE(message_of<OptionError>([&] { loader.locate(state); }).find("the state is damaged"), std::string::npos);
  }
}

// R4: ranks and micro-batches may change where a run goes on; the updates are the same.
TEST(Loader, AStateIsForAnyRanksAndAnySplit) {
  const LoaderOptions base{.batch = MiniBatch{8}, .accumulate = 2, .seed = 9};
  const Loader loader{counting(50), base};
  const LoaderState state = loader.state(1, 4);
  std::vector<std::int64_t> want, got;
  for (const Seen& seen : walk(loader.epoch(1, 4)))
    for (const std::int64_t id : seen.ids.to_vector<std::int64_t>()) want.push_back(id);
  std::vector<std::vector<Seen>> ranks;
  for (const std::int64_t rank : {0, 1, 2}) {
    LoaderOptions other{.batch = MiniBatch{8}, .micro_samples = 2, .seed = 9, .rank = rank, .ranks = 3, .workers = 1};
    const Loader mine{counting(50), other};
    const Place place = mine.locate(state);
    ranks.push_back(walk(mine.epoch(place.epoch, place.first)));
  }
  for (std::int64_t update = 12; update <= 14; ++update)
    for (const auto& rank : ranks)
      for (const Seen& seen : rank) {
        if (seen.update != update) continue;
        const auto ids = seen.ids.to_vector<std::int64_t>();
        for (std::size_t row = 0; row < ids.size(); ++row)
          if (!seen.weight.defined() || seen.weight.to_vector<float>()[row] == 1) got.push_back(ids[row]);
      }
  EXPECT_EQ(got, want);
}

// R8: nothing is skipped over on the way to a place, and nothing about the samples is stored.
TEST(Loader, FindsAnyPlaceOfABillionSamplesAtOnce) {
  struct Endless final : Dataset {
    std::int64_t size() const override { return 1'000'000'000; }
    std::string name() const override { return "endless"; }
    std::uint64_t fingerprint() const override { return 7; }
    Batch collate(std::span<const std::int64_t> ids) const override {
      const auto rows = static_cast<std::int64_t>(ids.size());
      const Tensor x = Tensor::from_vector(std::vector<std::int64_t>(ids.begin(), ids.end()), {rows});
      return {x, x};
    }
  };
  double best = 1e9;  // other work on the machine only adds
  std::int64_t sum = 0;
  for (int trial = 0; trial < 7; ++trial) {
    const auto start = std::chrono::steady_clock::now();
    const Loader loader{Endless{}, {.batch = MiniBatch{64}, .seed = 3}};
    const Place place = loader.locate(loader.state(12, 15'000'000 + trial));
    Epoch epoch = loader.epoch(place.epoch, place.first);
    sum += (*(*epoch.begin()).begin()).input.data<std::int64_t>()[0];
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  EXPECT_GT(sum, 0);
  EXPECT_LT(best, 1e-3);
}

TEST(Loader, HashNamesDataAndPlan) {
  const LoaderOptions options{.batch = MiniBatch{4}, .seed = 1};
  const std::uint64_t hash = Loader(counting(10), options).hash();
  EXPECT_EQ(Loader(counting(10), options).hash(), hash);
  EXPECT_NE(Loader(counting(11), options).hash(), hash);
  EXPECT_NE(Loader(counting(10), {.batch = MiniBatch{4}, .seed = 2}).hash(), hash);
  EXPECT_EQ(Loader(counting(10), {.batch = MiniBatch{4}, .accumulate = 4, .seed = 1}).hash(), hash);
}

TEST(TensorDataset, GathersRowsOfEveryKind) {
  for (const std::int64_t width : {1, 2, 3, 7, 16, 1000}) {
    const Tensor x = rand({200, width, 2}, 4);
    const Tensor y = rand({200}, 5, Dtype::f64);
    const TensorDataset set(x, y);
    // Runs of neighbours, repeats and jumps.
    const std::vector<std::int64_t> ids{5, 6, 7, 7, 199, 0, 1, 2, 3, 100, 99, 98};
    const Batch batch = set.collate(ids);
    ASSERT_EQ(batch.input.shape(), (Shape{12, width, 2}));
    for (std::size_t r = 0; r < ids.size(); ++r) {
      EXPECT_TRUE(bitwise_equal(batch.input[static_cast<std::int64_t>(r)], x[ids[r]])) << width << " row " << r;
      EXPECT_EQ(batch.target[static_cast<std::int64_t>(r)].item<double>(), y[ids[r]].item<double>());
    }
  }
  const TensorDataset halves(Tensor::from_vector<bfloat16>({bfloat16(1.5f), bfloat16(-2.0f)}, {2}),
                             Tensor::from_vector<bool>({true, false}, {2}));
  const std::vector<std::int64_t> ids{1, 0, 1};
  const Batch batch = halves.collate(ids);
  EXPECT_EQ(test::values(batch.input), (std::vector<double>{-2, 1.5, -2}));
  EXPECT_EQ(batch.target.to_vector<bool>(), (std::vector<bool>{false, true, false}));
  EXPECT_EQ(halves.collate({}).input.shape(), (Shape{0}));
  const TensorDataset hollow(Tensor::empty({3, 0}), Tensor::empty({3}, Dtype::i32));
  EXPECT_EQ(hollow.collate(ids).input.shape(), (Shape{3, 0}));
}

TEST(TensorDataset, TakesStridedTensorsAndDropsTheirGraph) {
  const Tensor base = set_requires_grad(rand({4, 6}, 1));
  const TensorDataset set(base.t(), zeros({6}));
  EXPECT_EQ(set.size(), 6);
  const std::vector<std::int64_t> ids{2};
  const Batch batch = set.collate(ids);
  EXPECT_EQ(batch.input[0].to_vector<float>(), base.t()[2].to_vector<float>());
  EXPECT_FALSE(requires_grad(batch.input));
}

TEST(TensorDataset, RefusesTensorsThatDoNotMatch) {
  EXPECT_EQ(message_of<ShapeError>([] {
              TensorDataset(zeros({100, 2}), zeros({99}));
            }),
            "[tensor_dataset] input and target must have the same number of rows but have 100 and 99");
  EXPECT_EQ(message_of<ShapeError>([] {
              TensorDataset(zeros({100, 2}), zeros({}));
            }),
            "[tensor_dataset] target must have a dimension for the samples but its shape is []");
  const std::vector<std::int64_t> ids{3};
  EXPECT_EQ(message_of<ShapeError>([&] {
              TensorDataset(zeros({3, 2}), zeros({3})).collate(ids);
            }),
            "[collate] sample ids must be in [0, 3) but row 0 asks for 3");
}

TEST(Fingerprint, SeesEveryByteAndTheShape) {
  const std::int64_t count = (1 << 20) + 77;  // more than a chunk of 1 MiB, and a tail
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count), 0);
  const auto hash = [&] { return hash_tensor(Tensor::from_vector(bytes, {count})); };
  const std::uint64_t zero = hash();
  for (const std::int64_t at : {std::int64_t{0}, std::int64_t{31}, count / 2, std::int64_t{1} << 20, count - 1})
    for (const std::uint8_t value : {1, 128}) {
      bytes[static_cast<std::size_t>(at)] = value;
      EXPECT_NE(hash(), zero) << at;
      bytes[static_cast<std::size_t>(at)] = 0;
    }
  EXPECT_NE(hash_tensor(zeros({2, 3})), hash_tensor(zeros({3, 2})));
  EXPECT_NE(hash_tensor(zeros({2})), hash_tensor(zeros({2}, Dtype::i32)));
  EXPECT_NE(hash_tensor(zeros({4})), hash_tensor(zeros({5})));
  EXPECT_NE(hash_tensor(zeros({0})), hash_tensor(zeros({0, 1})));
  std::uint64_t want = 0;
  for (const int threads : {1, 2, 7}) {
    const test::Threads guard(threads);
    const std::uint64_t got = hash_tensor(rand({3'000'000}, 1));
    if (want == 0) want = got;
    EXPECT_EQ(got, want) << threads;
  }
  EXPECT_EQ(message_of<ShapeError>([] {
              hash_tensor(zeros({2, 3}).t());
            }),
            "[hash_tensor] needs a contiguous tensor but its strides are [1, 3]");
}

}  // namespace
}  // namespace weft::data
