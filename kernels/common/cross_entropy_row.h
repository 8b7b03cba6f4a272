#pragma once
// What the target of a row of cross-entropy asks for: which classes have how much of its mass, and what follows from that
// for the row's term and its gradient. Every option is a value in the arguments, the same for all threads.
#include "kernels/common/device.h"
#include "kernels/cross_entropy.h"

namespace weft::kernels::WEFT_BACKEND {

/// Whether every class may have mass, not the target alone.
inline bool is_dense(const CrossEntropyForward& args) {
  return args.probabilities != nullptr || args.label_smoothing != 0;
}

enum class Label : std::uint8_t { counts, does_not_count, is_bad };

/// What a row's target asks for: every class v has its masses(...) and the target `hard` more.
template <class C>
struct RowTarget {
  Label label = Label::does_not_count;
  std::int64_t target = -1;  // none for probabilities
  C token = 1;               // the row's weight
  C hard = 0;
  double counted = 0;  // what the row adds to the denominator
};

template <class C>
WEFT_DEVICE RowTarget<C> read_target(const CrossEntropyForward& args, std::int64_t row) {
  RowTarget<C> result;
  if (args.mask != nullptr && load_one<Cache::readonly>(args.mask + row) == 0) return result;
  if (args.token_weights != nullptr) {
    result.token = static_cast<C>(load_one<Cache::readonly>(args.token_weights + row));
    if (result.token == 0) return result;
  }
  if (args.probabilities == nullptr) {
    const std::int64_t target = load_one<Cache::readonly>(args.targets + row);
    if (target == args.ignore_index) return result;
    result.label = Label::is_bad;
    if (target < 0 || target >= args.classes) return result;
    result.target = target;
    result.hard = 1;
    if (args.class_weights != nullptr)
      result.hard = load_one<Cache::readonly>(static_cast<const C*>(args.class_weights) + target);
  }
  result.counted = static_cast<double>(result.token);
  if (args.probabilities == nullptr) {
    result.counted *= static_cast<double>(result.hard);
    result.hard *= static_cast<C>(1 - args.label_smoothing);
  }
  const bool adds = args.probabilities != nullptr || result.hard != 0 || args.label_smoothing != 0 || args.z_loss != 0;
  result.label = adds ? Label::counts : Label::does_not_count;
  return result;
}

/// The masses of classes [v, v + kWidth) but for the target's own part.
template <int kWidth, class S>
WEFT_DEVICE Vec<compute_t<S>, kWidth> masses(const CrossEntropyForward& args, std::int64_t row, std::int64_t v) {
  using C = compute_t<S>;
  const C smooth = static_cast<C>(args.label_smoothing) / static_cast<C>(args.classes);
  Vec<C, kWidth> mass;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) mass[i] = smooth;
  if (args.probabilities != nullptr) {
    const C keep = static_cast<C>(1 - args.label_smoothing);
    const Vec<C, kWidth> p = widen(load<kWidth>(static_cast<const S*>(args.probabilities) + row * args.classes + v));
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) mass[i] += p[i] * keep;
  }
  if (args.class_weights != nullptr) {
    const C* const weights = static_cast<const C*>(args.class_weights) + v;  // off the grid where the row is
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) mass[i] *= load_one<Cache::readonly>(weights + i);
  }
  return mass;
}

/// Sums over a row's classes: of the masses, and of mass * (largest - logit).
template <class C>
struct Spread {
  C total = 0;
  C terms = 0;
  /// A class without mass adds nothing, even at -inf.
  WEFT_DEVICE void add(C mass, C largest, C logit) {
    total += mass;
    if (mass != 0) terms += mass * (largest - logit);
  }
};

/// Of the whole row, from the sums over its classes.
template <class C>
WEFT_DEVICE Spread<C> row_spread(const CrossEntropyForward& args, C hard, C total, C terms) {
  // Known: many equal masses, all rounded the same way, would add up to a bias.
  if (args.probabilities == nullptr && args.class_weights == nullptr) total = static_cast<C>(args.label_smoothing);
  return {hard + total, terms};
}

/// The row's term, from the sum of exp(logit - largest).
template <class C>
WEFT_DEVICE C row_term(const CrossEntropyForward& args, const RowTarget<C>& row, const Spread<C>& spread, C sum,
                       C largest, C target_logit) {
  const C log_sum = logarithm(sum);
  C value = spread.total * log_sum + spread.terms;
  if (row.hard != 0) value += row.hard * (largest - target_logit);
  if (args.z_loss != 0) value += static_cast<C>(args.z_loss) * (largest + log_sum) * (largest + log_sum);
  return row.token * value;
}
/// What the softmax is multiplied by in the gradient.
template <class C>
WEFT_DEVICE C row_factor(const CrossEntropyForward& args, const RowTarget<C>& row, C total_mass, C sum, C largest) {
  if (args.z_loss != 0) total_mass += 2 * static_cast<C>(args.z_loss) * (largest + logarithm(sum));
  return row.token * total_mass;
}

}  // namespace weft::kernels::WEFT_BACKEND
