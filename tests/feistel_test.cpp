#include "data/feistel.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "support/compare.h"
#include "tensor/philox.h"

namespace weft::data {
namespace {

void expect_bijection(std::int64_t size, std::uint64_t seed, std::uint64_t stream) {
  const FeistelPermutation permutation(size, seed, stream);
  std::vector<bool> seen(static_cast<std::size_t>(size), false);
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int64_t image = permutation(i);
    ASSERT_TRUE(image >= 0 && image < size) << size << " " << i;
    ASSERT_FALSE(seen[static_cast<std::size_t>(image)]) << size << " " << i;
    seen[static_cast<std::size_t>(image)] = true;
    ASSERT_EQ(permutation.inverse(image), i) << size << " " << i;
  }
}

TEST(Feistel, IsABijectionForEverySmallSize) {
  for (std::int64_t size = 1; size <= 300; ++size)
    for (std::uint64_t stream = 0; stream < 5; ++stream) expect_bijection(size, 7, stream);
}

TEST(Feistel, IsABijectionForRandomSizes) {
  Philox random(2024);
  for (int trial = 0; trial < 12; ++trial) {
    const auto size = static_cast<std::int64_t>(1 + random.next_u64() % 1'000'000);
    SCOPED_TRACE(size);
    expect_bijection(size, random.next_u64(), random.next_u64());
  }
  for (const std::int64_t size : {65535, 65536, 65537, 60000}) expect_bijection(size, 1, 0);
}

TEST(Feistel, WorksAtAnySize) {
  for (const std::int64_t size : {std::int64_t{1'000'000'000}, (std::int64_t{1} << 40) + 1, INT64_MAX}) {
    const FeistelPermutation permutation(size, 3, 9);
    Philox random(11);
    std::vector<std::int64_t> images;
    for (int trial = 0; trial < 1000; ++trial) {
      const auto index = static_cast<std::int64_t>(random.next_u64() % static_cast<std::uint64_t>(size));
      const std::int64_t image = permutation(index);
      ASSERT_TRUE(image >= 0 && image < size);
      ASSERT_EQ(permutation.inverse(image), index);
    }
    EXPECT_EQ(permutation.inverse(permutation(size - 1)), size - 1);
    EXPECT_EQ(permutation.inverse(permutation(0)), 0);
  }
}

TEST(Feistel, RefusesWhatIsOutside) {
  EXPECT_EQ(test::message_of<ShapeError>([] { FeistelPermutation(0, 1, 1); }),
            "[feistel] the size must be at least 1 but is 0");
  EXPECT_EQ(test::message_of<ShapeError>([] { FeistelPermutation(-5, 1, 1); }),
            "[feistel] the size must be at least 1 but is -5");
  const FeistelPermutation permutation(10, 1, 1);
  EXPECT_EQ(test::message_of<ShapeError>([&] { permutation(10); }), "[feistel] the index must be in [0, 10) but is 10");
  EXPECT_EQ(test::message_of<ShapeError>([&] { permutation.inverse(-1); }),
            "[feistel] the index must be in [0, 10) but is -1");
}

TEST(Feistel, SeedsAndStreamsGiveUnrelatedOrders) {
  // Two independent permutations of n agree in 1 place on average (Poisson): 12 or more has a chance below 1e-9.
  constexpr std::int64_t kSize = 10'000;
  const FeistelPermutation base(kSize, 1, 0);
  for (const auto& [seed, stream] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {1, 1}, {1, 2}, {2, 0}, {0, 1}, {std::uint64_t{1} << 32, 0}, {1, std::uint64_t{1} << 32}}) {
    const FeistelPermutation other(kSize, seed, stream);
    int agree = 0;
    for (std::int64_t i = 0; i < kSize; ++i) agree += base(i) == other(i) ? 1 : 0;
    EXPECT_LT(agree, 12) << seed << " " << stream;
  }
}

double chi_square(const std::vector<std::int64_t>& counts, double expected) {
  double sum = 0;
  for (const std::int64_t count : counts)
    sum += (static_cast<double>(count) - expected) * (static_cast<double>(count) - expected);
  return sum / expected;
}
// Chi-square with k degrees of freedom has mean k and deviation sqrt(2k); at k >= 23, 6 deviations above the mean have a
// chance below 1e-5. The seeds are fixed: the test does not flicker, it says whether these orders are plausible.
double bound(double k) { return k + 6 * std::sqrt(2 * k); }

TEST(Feistel, EverySmallOrderIsEquallyLikely) {
  // All permutations of 2 to 5 elements, 2000 draws for each: sees a bias of 3 % in the probability of an order, such as
  // that of orders that are all even.
  for (const std::int64_t size : {2, 3, 4, 5}) {
    std::int64_t orders = 1, digits = 1;
    for (std::int64_t i = 2; i <= size; ++i) orders *= i;
    for (std::int64_t i = 0; i < size; ++i) digits *= size;
    std::vector<std::int64_t> by_digits(static_cast<std::size_t>(digits), 0);
    const std::int64_t draws = 2000 * orders;
    for (std::int64_t stream = 0; stream < draws; ++stream) {
      const FeistelPermutation permutation(size, 5, static_cast<std::uint64_t>(stream));
      std::int64_t name = 0;
      for (std::int64_t i = 0; i < size; ++i) name = name * size + permutation(i);
      ++by_digits[static_cast<std::size_t>(name)];
    }
    std::vector<std::int64_t> counts;
    for (const std::int64_t count : by_digits)
      if (count > 0) counts.push_back(count);
    ASSERT_EQ(static_cast<std::int64_t>(counts.size()), orders);
    EXPECT_LT(chi_square(counts, 2000), bound(std::max(23.0, static_cast<double>(orders - 1)))) << size;
  }
}

TEST(Feistel, EvenAndOddOrdersAreEquallyLikely) {
  for (const std::int64_t size : {64, 65, 128}) {
    constexpr int kDraws = 1000;
    int odd = 0;
    for (std::uint64_t stream = 0; stream < kDraws; ++stream) {
      const FeistelPermutation permutation(size, 8, stream);
      std::vector<bool> seen(static_cast<std::size_t>(size), false);
      std::int64_t cycles = 0;
      for (std::int64_t start = 0; start < size; ++start) {
        cycles += seen[static_cast<std::size_t>(start)] ? 0 : 1;
        for (std::int64_t i = start; !seen[static_cast<std::size_t>(i)]; i = permutation(i))
          seen[static_cast<std::size_t>(i)] = true;
      }
      odd += static_cast<int>((size - cycles) % 2);
    }
    EXPECT_NEAR(odd, kDraws / 2.0, 6 * std::sqrt(kDraws / 4.0)) << size;  // 6 deviations of a fair coin
  }
}

TEST(Feistel, EverySampleIsEquallyLikelyAtEveryPlace) {
  // sizes just above, at and just below a power of two
  for (const std::int64_t size : {33, 50, 64, 100}) {
    const auto n = static_cast<std::size_t>(size);
    constexpr std::int64_t kDraws = 20'000;
    std::vector<std::int64_t> counts(n * n, 0);      // [place, sample]
    std::vector<std::int64_t> neighbours(n * n, 0);  // [sample at place 10, sample at place 11]
    for (std::int64_t epoch = 0; epoch < kDraws; ++epoch) {
      const FeistelPermutation permutation(size, 99, static_cast<std::uint64_t>(epoch));
      for (std::size_t i = 0; i < n; ++i)
        ++counts[i * n + static_cast<std::size_t>(permutation(static_cast<std::int64_t>(i)))];
      ++neighbours[static_cast<std::size_t>(permutation(10)) * n + static_cast<std::size_t>(permutation(11))];
    }
    // Rows and columns are tied by being permutations: (n-1)^2 degrees of freedom, scaled by n/(n-1) in expectation.
    const double free =
        static_cast<double>((size - 1) * (size - 1)) * static_cast<double>(size) / static_cast<double>(size - 1);
    EXPECT_LT(chi_square(counts, static_cast<double>(kDraws) / static_cast<double>(size)), bound(free)) << size;
    std::vector<std::int64_t> off_diagonal;
    for (std::size_t a = 0; a < n; ++a)
      for (std::size_t b = 0; b < n; ++b)
        if (a != b) off_diagonal.push_back(neighbours[a * n + b]);
    const auto pairs = static_cast<double>(off_diagonal.size());
    EXPECT_LT(chi_square(off_diagonal, static_cast<double>(kDraws) / pairs), bound(pairs - 1)) << size;
  }
}

TEST(Feistel, NeighboursInOneOrderAreUnrelated) {
  // Correlation between the samples at neighbouring places: 0 with deviation 1/sqrt(n) for a random order.
  for (const std::int64_t size : {1000, 60'000, 65'536}) {
    for (std::uint64_t epoch = 0; epoch < 4; ++epoch) {
      const FeistelPermutation permutation(size, 1, epoch);
      const double middle = static_cast<double>(size - 1) / 2;
      double covariance = 0, variance = 0;
      for (std::int64_t i = 0; i + 1 < size; ++i) {
        const double a = static_cast<double>(permutation(i)) - middle,
                     b = static_cast<double>(permutation(i + 1)) - middle;
        covariance += a * b;
        variance += a * a;
      }
      EXPECT_LT(std::fabs(covariance / variance), 5 / std::sqrt(static_cast<double>(size))) << size << " " << epoch;
    }
  }
}

}  // namespace
}  // namespace weft::data
