#pragma once
// Orders of an epoch that are drawn, not permuted: by weight, and from easy to hard. Any place costs the same, O(1).
#include <cstdint>
#include <vector>

namespace weft::data {

/// How a curriculum's pool grows, from the share `start` of the samples at first to all of them at t = 1.
///   linear: start + (1 - start) t;  root: sqrt(start² + (1 - start²) t), which gives each new sample equal time.
enum class Pacing : std::uint8_t { root, linear };

/// From easy to hard: for some epochs each place draws, uniformly and with replacement, from the easiest samples alone, a
/// pool that grows from place to place; behind them every epoch is a plain shuffle.
/// Source: Platanios, Stretcu, Neubig, Poczos, Mitchell 2019, "Competence-based curriculum learning for neural machine
///         translation", arXiv:1903.09848, eq. 7 (root) and 6 (linear).
struct Curriculum {
  std::vector<double> difficulty = {};  // of each sample; only their order matters, and among equal ones the ids'
  double start = 0.1;                   // (0, 1]: the share of the samples in the first pool
  std::int64_t epochs = 1;              // until all samples are in it
  Pacing pacing = Pacing::root;
};

namespace detail {

/// Draws with replacement in proportion to weights: an urn of two samples for each sample.
/// Source: Walker 1977; Vose 1991, "A linear algorithm for generating random numbers with a given distribution".
class WeightedDraws {
 public:
  /// Errors: OptionError "[plan] ..." for another number of weights than samples, a weight below 0 or not finite, and weights
  /// that are all 0.
  WeightedDraws(const std::vector<double>& weights, std::int64_t samples);
  /// The sample for 128 random bits. Numerics: probabilities are right to about 1e-15 of the mean; a weight of 0 is never
  /// drawn.
  std::int64_t operator()(std::uint64_t urn_bits, double uniform) const;
  std::uint64_t hash() const { return hash_; }

 private:
  struct Urn {
    double keep;         // chance that the urn's own sample comes out of it
    std::int64_t other;  // else this one
  };
  std::vector<Urn> urns_;
  std::uint64_t hash_;
};

/// The samples from easy to hard, and how many are in the pool.
class CurriculumDraws {
 public:
  /// Errors: OptionError "[plan] ..." for another number of scores than samples, one that is not finite, `start` outside
  /// (0, 1] and epochs < 1.
  CurriculumDraws(const Curriculum& curriculum, std::int64_t samples);
  /// Epochs that draw.
  std::int64_t epochs() const { return epochs_; }
  /// Samples in the pool at a place of an epoch, in [1, samples].
  std::int64_t pool(std::int64_t epoch, std::int64_t place) const;
  /// The sample for 64 random bits at that place.
  std::int64_t operator()(std::int64_t epoch, std::int64_t place, std::uint64_t bits) const;
  std::uint64_t hash() const { return hash_; }

 private:
  std::vector<std::int64_t> easy_first_;
  double start_;
  std::int64_t epochs_;
  Pacing pacing_;
  std::uint64_t hash_;
};

}  // namespace detail
}  // namespace weft::data
