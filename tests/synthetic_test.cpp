#include "data/synthetic.h"

#include <cmath>
#include <numeric>
#include <set>

#include <gtest/gtest.h>

#include "support/compare.h"

namespace weft::data {
namespace {

using test::bitwise_equal;
using test::message_of;
using test::values;
using Ids = std::vector<std::int64_t>;

TEST(Synthetic, LinearDataFollowTheirLaw) {
  const LinearData exact = make_linear({.samples = 50, .features = 7, .outputs = 3, .seed = 5});
  EXPECT_EQ(exact.x.shape(), Shape({50, 7}));
  EXPECT_EQ(exact.y.shape(), Shape({50, 3}));
  const auto x = values(exact.x), y = values(exact.y), w = values(exact.weights);
  for (std::size_t i = 0; i < 50; ++i)
    for (std::size_t o = 0; o < 3; ++o) {
      double sum = 0;
      for (std::size_t d = 0; d < 7; ++d) sum += x[i * 7 + d] * w[d * 3 + o];
      EXPECT_EQ(y[i * 3 + o], static_cast<double>(static_cast<float>(sum)));
    }
  // With noise: the residuals are the noise. Their variance is off by at most 5 of its own deviations.
  const LinearData noisy = make_linear({.samples = 20'000, .features = 2, .noise = 0.5, .seed = 5});
  const auto nx = values(noisy.x), ny = values(noisy.y), nw = values(noisy.weights);
  double squares = 0;
  for (std::size_t i = 0; i < ny.size(); ++i) squares += std::pow(ny[i] - nx[2 * i] * nw[0] - nx[2 * i + 1] * nw[1], 2);
  EXPECT_NEAR(squares / 20'000, 0.25, 5 * 0.25 * std::sqrt(2.0 / 20'000));
  EXPECT_EQ(noisy.dataset().size(), 20'000);
}

TEST(Synthetic, IsAFunctionOfTheSeed) {
  const LinearData a = make_linear({.seed = 3}), b = make_linear({.seed = 3}), c = make_linear({.seed = 4});
  EXPECT_TRUE(bitwise_equal(a.x, b.x) && bitwise_equal(a.y, b.y));
  EXPECT_FALSE(bitwise_equal(a.x, c.x));
  // A sample does not depend on how many others there are.
  EXPECT_TRUE(bitwise_equal(make_linear({.samples = 7, .seed = 3}).x, a.x.slice(0, 0, 7)));
  const auto big = make_gaussian_mixture({.samples = 900}), small = make_gaussian_mixture({.samples = 9});
  EXPECT_TRUE(bitwise_equal(small.x, big.x.slice(0, 0, 9)));
  EXPECT_NE(make_modular_arithmetic({.seed = 1}).train.fingerprint(),
            make_modular_arithmetic({.seed = 2}).train.fingerprint());
}

TEST(Synthetic, MixturesLieAroundTheirCentres) {
  const GaussianMixtureData data =
      make_gaussian_mixture({.samples = 9001, .features = 3, .classes = 3, .spread = 0.5, .seed = 2});
  const auto x = values(data.x), centres = values(data.centres);
  const auto classes = data.classes.to_vector<std::int64_t>();
  std::vector<std::int64_t> counts(3);
  double squares = 0;
  for (std::size_t i = 0; i < classes.size(); ++i) {
    ++counts[static_cast<std::size_t>(classes[i])];
    for (std::size_t d = 0; d < 3; ++d)
      squares += std::pow(x[i * 3 + d] - centres[static_cast<std::size_t>(classes[i]) * 3 + d], 2);
  }
  EXPECT_EQ(counts, (std::vector<std::int64_t>{3001, 3000, 3000}));
  EXPECT_NEAR(squares / (9001 * 3), 0.25, 5 * 0.25 * std::sqrt(2.0 / (9001 * 3)));
}

std::set<std::pair<std::int64_t, std::int64_t>> pairs_of(
    const TensorDataset& data, std::int64_t (*result)(std::int64_t, std::int64_t, std::int64_t), std::int64_t p) {
  Ids ids(static_cast<std::size_t>(data.size()));
  std::iota(ids.begin(), ids.end(), 0);
  const Batch batch = data.collate(ids);
  const auto input = batch.input.to_vector<std::int64_t>(), target = batch.target.to_vector<std::int64_t>();
  std::set<std::pair<std::int64_t, std::int64_t>> pairs;
  for (std::size_t i = 0; i < target.size(); ++i) {
    const std::int64_t a = input[2 * i], b = input[2 * i + 1];
    EXPECT_TRUE(target[i] >= 0 && target[i] < p);
    EXPECT_EQ(result(a, b, target[i]) % p, 0) << a << " and " << b << " give " << target[i];
    pairs.emplace(a, b);
  }
  EXPECT_EQ(pairs.size(), target.size());
  return pairs;
}

// Every pair is in one part, with the right result: a ∘ b - c is a multiple of p.
TEST(Synthetic, ModularArithmeticIsTheWholeTable) {
  using Rest = std::int64_t (*)(std::int64_t, std::int64_t, std::int64_t);
  const std::pair<ModularOperation, Rest> operations[] = {
      {ModularOperation::add, [](auto a, auto b, auto c) { return a + b - c; }},
      {ModularOperation::subtract, [](auto a, auto b, auto c) { return a - b - c; }},
      {ModularOperation::multiply, [](auto a, auto b, auto c) { return a * b - c; }},
      {ModularOperation::divide, [](auto a, auto b, auto c) { return c * b - a; }}};
  for (const std::int64_t p : {2, 3, 23})
    for (const auto& [operation, rest] : operations) {
      SCOPED_TRACE(fmt::format("operation {} modulo {}", static_cast<int>(operation), p));
      const ModularData data = make_modular_arithmetic({.modulus = p, .operation = operation, .train_part = 0.5});
      const auto train = pairs_of(data.train, rest, p), test = pairs_of(data.test, rest, p);
      const bool divide = operation == ModularOperation::divide;
      EXPECT_EQ(static_cast<std::int64_t>(train.size() + test.size()), p * (divide ? p - 1 : p));
      for (const auto& pair : train) {
        EXPECT_EQ(test.count(pair), 0u);
        EXPECT_TRUE(!divide || pair.second != 0);
      }
    }
  const ModularData grokking = make_modular_arithmetic({.modulus = 97, .train_part = 0.3});
  EXPECT_EQ(grokking.train.size(), 2823);
  EXPECT_EQ(grokking.test.size(), 6586);
  EXPECT_EQ(grokking.train.name(), "modular_add_97/train");
}

TEST(Synthetic, RefusesWhatCannotBeMade) {
  EXPECT_EQ(message_of<OptionError>([] { make_linear({.samples = 0}); }),
            "[make_linear] samples must be at least 1 but is 0");
  EXPECT_EQ(message_of<OptionError>([] { make_linear({.noise = -1}); }),
            "[make_linear] noise must be finite and not negative but is -1");
  EXPECT_EQ(message_of<OptionError>([] { make_gaussian_mixture({.spread = std::nan("")}); }),
            "[make_gaussian_mixture] spread must be finite and not negative but is nan");
  EXPECT_EQ(message_of<OptionError>([] { make_modular_arithmetic({.modulus = 1}); }),
            "[make_modular_arithmetic] modulus must be in [2, 4096] but is 1");
  EXPECT_EQ(
      message_of<OptionError>([] { make_modular_arithmetic({.modulus = 91, .operation = ModularOperation::divide}); }),
      "[make_modular_arithmetic] modulus must be a prime to divide by but is 91");
  EXPECT_EQ(message_of<OptionError>([] { make_modular_arithmetic({.train_part = 1}); }),
            "[make_modular_arithmetic] train_part must be between 0 and 1 but is 1");
  EXPECT_EQ(message_of<OptionError>([] { make_modular_arithmetic({.modulus = 3, .train_part = 0.01}); }),
            "[make_modular_arithmetic] train_part 0.01 leaves a part of 9 pairs empty");
}

}  // namespace
}  // namespace weft::data
