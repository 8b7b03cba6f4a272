#include "data/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "data/fingerprint.h"
#include "tensor/error.h"

namespace weft::data::detail {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

__extension__ typedef unsigned __int128 Wide;

/// Uniform on [0, n) but for a bias of n / 2^64.
std::int64_t below(std::int64_t n, std::uint64_t bits) {
  return static_cast<std::int64_t>(static_cast<Wide>(bits) * static_cast<std::uint64_t>(n) >> 64);
}

std::uint64_t hash_doubles(const std::vector<double>& values) {
  std::uint64_t hash = values.size();
  for (const double value : values) hash = hash_combine(hash, std::bit_cast<std::uint64_t>(value));
  return hash;
}

}  // namespace

WeightedDraws::WeightedDraws(const std::vector<double>& weights, std::int64_t samples) : hash_(hash_doubles(weights)) {
  require<OptionError>(std::ssize(weights) == samples, "plan",
                       "the order by weight needs one weight per sample but {} were given for {} samples",
                       weights.size(), samples);
  double sum = 0;
  for (std::int64_t i = 0; i < samples; ++i) {
    require<OptionError>(std::isfinite(weights[at(i)]) && weights[at(i)] >= 0, "plan",
                         "weights must be finite and at least 0 but that of sample {} is {}", i, weights[at(i)]);
    sum += weights[at(i)];
  }
  require<OptionError>(sum > 0 && std::isfinite(sum), "plan",
                       "weights must have a positive, finite sum but it is {}: give a sample a weight", sum);

  // Each urn holds 1/N of the probability: what a light sample leaves free is filled up by a heavy one.
  urns_.resize(at(samples));
  std::vector<double> left(at(samples));
  std::vector<std::int64_t> light, heavy;
  const std::int64_t heaviest = std::max_element(weights.begin(), weights.end()) - weights.begin();
  for (std::int64_t i = 0; i < samples; ++i) {
    left[at(i)] = weights[at(i)] / sum * static_cast<double>(samples);
    (left[at(i)] < 1 ? light : heavy).push_back(i);
  }
  while (!light.empty() && !heavy.empty()) {
    const std::int64_t i = light.back(), j = heavy.back();
    light.pop_back();
    urns_[at(i)] = {left[at(i)], j};
    left[at(j)] -= 1 - left[at(i)];
    if (left[at(j)] < 1) {
      heavy.pop_back();
      light.push_back(j);
    }
  }
  for (const std::int64_t j : heavy) urns_[at(j)] = {1, j};
  // Rounding left them over, nearly full (and a weight of 0, which must stay 0, empty).
  for (const std::int64_t i : light) urns_[at(i)] = {left[at(i)], heaviest};
}

std::int64_t WeightedDraws::operator()(std::uint64_t urn_bits, double uniform) const {
  const std::int64_t i = below(std::ssize(urns_), urn_bits);
  return uniform < urns_[at(i)].keep ? i : urns_[at(i)].other;
}

CurriculumDraws::CurriculumDraws(const Curriculum& curriculum, std::int64_t samples)
    : start_(curriculum.start),
      epochs_(curriculum.epochs),
      pacing_(curriculum.pacing),
      hash_(hash_doubles(curriculum.difficulty)) {
  const std::vector<double>& difficulty = curriculum.difficulty;
  require<OptionError>(std::ssize(difficulty) == samples, "plan",
                       "a curriculum needs one difficulty per sample but {} were given for {} samples",
                       difficulty.size(), samples);
  for (std::int64_t i = 0; i < samples; ++i)
    require<OptionError>(std::isfinite(difficulty[at(i)]), "plan",
                         "difficulties must be finite but that of sample {} is {}", i, difficulty[at(i)]);
  require<OptionError>(start_ > 0 && start_ <= 1, "plan",
                       "a curriculum must start with a share of the samples in (0, 1] but starts with {}", start_);
  require<OptionError>(epochs_ >= 1, "plan", "a curriculum must take at least 1 epoch but takes {}", epochs_);
  easy_first_.resize(at(samples));
  std::iota(easy_first_.begin(), easy_first_.end(), 0);
  std::stable_sort(easy_first_.begin(), easy_first_.end(),
                   [&](std::int64_t a, std::int64_t b) { return difficulty[at(a)] < difficulty[at(b)]; });
  hash_ = hash_combine(hash_combine(hash_, std::bit_cast<std::uint64_t>(start_)),
                       2 * static_cast<std::uint64_t>(epochs_) + static_cast<std::uint64_t>(pacing_));
}

std::int64_t CurriculumDraws::pool(std::int64_t epoch, std::int64_t place) const {
  const std::int64_t samples = std::ssize(easy_first_);
  if (epoch >= epochs_) return samples;
  const auto all = static_cast<double>(samples);
  const double t = (static_cast<double>(epoch) + static_cast<double>(place) / all) / static_cast<double>(epochs_);
  const double share =
      pacing_ == Pacing::linear ? start_ + (1 - start_) * t : std::sqrt(start_ * start_ + (1 - start_ * start_) * t);
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(share * all)), 1, samples);
}

std::int64_t CurriculumDraws::operator()(std::int64_t epoch, std::int64_t place, std::uint64_t bits) const {
  return easy_first_[at(below(pool(epoch, place), bits))];
}

}  // namespace weft::data::detail
