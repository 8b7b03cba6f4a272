// CPU kernels. A row is read from memory once, in blocks that stay in the L1: the block's maximum, then its
// exponentials relative to the largest value so far. They are left in the gradient's row and brought to the final
// maximum and sum in a second sweep, which finds them in the L2; so there is one exponential per element. (16-bit
// gradients would round them twice: there the second sweep takes the exponentials again.)
// Where every class has mass (probabilities, smoothing), a sweep between the two adds the masses up, from the L2 as
// well.
#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/common/simd.h"
#include "tensor/parallel.h"

namespace weft::kernels {
namespace {

using simd::Vec;

constexpr std::int64_t kChunkElems = 16384;  // work of one chunk
constexpr std::int64_t kBlock = 2048;        // 8 KiB of floats
constexpr std::int64_t kMaxBlocks = 64;      // maxima that a row remembers; longer rows have longer blocks

std::int64_t rows_per_chunk(std::int64_t classes) { return std::max<std::int64_t>(1, kChunkElems / classes); }

template <class C>
constexpr C kLowest = -std::numeric_limits<C>::infinity();

// kPlain: labels, and neither weights, smoothing nor z-loss.
bool is_plain(const CrossEntropyForward& args) {
  return args.probabilities == nullptr && args.class_weights == nullptr && args.token_weights == nullptr &&
         args.label_smoothing == 0 && args.z_loss == 0;
}

template <bool kPlain>
bool counts(const CrossEntropyForward& args, std::int64_t row) {
  if (args.mask != nullptr && args.mask[row] == 0) return false;
  if constexpr (kPlain) return args.targets[row] != args.ignore_index;
  return (args.token_weights == nullptr || args.token_weights[row] != 0.0F) &&
         (args.probabilities != nullptr || args.targets[row] != args.ignore_index);
}

template <class C>
C class_weight(const CrossEntropyForward& args, std::int64_t v) {
  return args.class_weights != nullptr ? static_cast<const C*>(args.class_weights)[v] : C(1);
}

// The weight of the rows that count. Every label is seen before anything is written.
template <class C, bool kPlain>
double check_targets(const CrossEntropyForward& args) {
  double weight = 0;
  std::int64_t counted = 0;
  for (std::int64_t row = 0; row < args.rows; ++row) {
    if (!counts<kPlain>(args, row)) continue;
    const std::int64_t target = kPlain || args.probabilities == nullptr ? args.targets[row] : 0;
    if (target < 0 || target >= args.classes) [[unlikely]]
      fail("cross_entropy",
           "target {} at row {} is outside [0, {}): correct the label, mask the row, or set it to ignore_index = {}",
           target, row, args.classes, args.ignore_index);
    if constexpr (kPlain) {
      ++counted;
    } else {
      const double of_row = args.token_weights != nullptr ? static_cast<double>(args.token_weights[row]) : 1;
      weight += args.probabilities == nullptr ? of_row * static_cast<double>(class_weight<C>(args, target)) : of_row;
    }
  }
  return kPlain ? static_cast<double>(counted) : weight;
}

// What a row's target asks for: mass[v] = w[v] (keep p[v] + smooth), and `hard` more at `target` (-1: none). kPlain:
// there are no options; a mass of 1 at the target, known to the compiler (128 rows of 10 in f32: 2.3 us instead of 2.8;
// AMD EPYC, 2026-11-26, `./run --preset release bench cross_entropy`).
template <class S, bool kPlain>
struct RowTarget {
  using C = compute_t<S>;
  std::int64_t target;
  C token;  // the row's weight
  C hard;
  C total;  // of all masses; 0 until known
  C keep, smooth, z_loss;
  bool dense;
  const S* probabilities;
  const C* class_weights;

  // Lanes past the end are 0.
  template <class W>
  Vec<C> mass(std::int64_t v, W width) const {
    Vec<C> m = simd::keep<C>(simd::broadcast(smooth), width);
    if (probabilities != nullptr) m += simd::load_width<S>(probabilities + v, width) * simd::broadcast(keep);
    if (class_weights != nullptr) m *= simd::load_width<C>(class_weights + v, width);
    return m;
  }
  C mass_at(std::int64_t v) const {
    C m = smooth;
    if (probabilities != nullptr) m += static_cast<C>(probabilities[v]) * keep;
    if (class_weights != nullptr) m *= class_weights[v];
    return m;
  }
  bool is_dense() const { return !kPlain && dense; }
  // What the target's gradient has less than the other classes'.
  C at_target() const { return kPlain ? C(1) : token * hard; }
  // The row's term; `spread` is the sum of mass[v] (largest - x[v]), of which the target's part is still missing.
  C term(C sum, C largest, C target_logit, C spread) const {
    const C log_sum = std::log(sum);
    if constexpr (kPlain) return log_sum + (largest - target_logit);
    C value = total * log_sum + spread;
    if (hard != C(0)) value += hard * (largest - target_logit);
    if (z_loss != C(0)) value += z_loss * (largest + log_sum) * (largest + log_sum);
    return token * value;
  }
  // What the softmax is multiplied by in the gradient.
  C factor(C sum, C largest) const {
    if constexpr (kPlain) return C(1);
    return token * (z_loss != C(0) ? total + C(2) * z_loss * (largest + std::log(sum)) : total);
  }
};

// NaN need not survive here: the sum of exponentials meets it again.
template <class S>
compute_t<S> block_max(const S* x, std::int64_t count) {
  using C = compute_t<S>;
  constexpr int kLanes = simd::kLanes<C>;
  const auto larger = [](Vec<C> a, Vec<C> b) { return a > b ? a : b; };
  Vec<C> best[2] = {simd::broadcast(kLowest<C>), simd::broadcast(kLowest<C>)};
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    best[0] = larger(best[0], simd::load(x + i));
    best[1] = larger(best[1], simd::load(x + i + kLanes));
  }
  simd::for_each_vector<C>(count - i, [&](std::int64_t j, auto width) {
    best[0] = larger(best[0], simd::load_width<S>(x + i + j, width, kLowest<C>));
  });
  return simd::horizontal_max<C>(larger(best[0], best[1]));
}

// What exponentials are taken relative to. A block of -inf alone has none: 0 leaves its exponentials 0.
template <class C>
C shift_for(C largest) {
  return largest == kLowest<C> ? C(0) : largest;
}

// Sums mass[v] (largest - x[v]) over the row, a class without mass adding nothing; puts the sum of the masses into
// `row.total`.
template <class S, bool kPlain, class C = compute_t<S>>
C add_masses(const S* x, std::int64_t classes, C largest, RowTarget<S, kPlain>& row) {
  using V = Vec<C>;
  const V top = simd::broadcast(largest);
  C total = 0, spread = 0;
  for (std::int64_t begin = 0; begin < classes; begin += kBlock) {
    V block_total{}, block_spread{};
    simd::for_each_vector<C>(std::min(kBlock, classes - begin), [&](std::int64_t i, auto width) {
      const V mass = row.mass(begin + i, width);
      block_total += mass;
      const V product = mass * (top - simd::load_width<S>(x + begin + i, width));
      block_spread += mass == V{} ? V{} : product;
    });
    total += simd::horizontal_sum<C>(block_total);
    spread += simd::horizontal_sum<C>(block_spread);
  }
  if (row.probabilities == nullptr && row.class_weights == nullptr) total = row.smooth * static_cast<C>(classes);
  row.total = total + row.hard;
  return spread;
}

// The row's term; writes its gradient to `gradient` unless that is null.
template <class S, bool kPlain>
compute_t<S> long_row(const S* x, S* gradient, std::int64_t classes, RowTarget<S, kPlain>& row) {
  using C = compute_t<S>;
  using V = Vec<C>;
  constexpr bool kKeepsExponentials = std::is_same_v<S, C>;
  const std::int64_t block = std::max(kBlock, (classes / kMaxBlocks / 64 + 1) * 64);
  C used[kMaxBlocks];
  C largest = kLowest<C>, total = 0;
  int blocks = 0;
  for (std::int64_t begin = 0; begin < classes; begin += block) {
    const std::int64_t count = std::min(block, classes - begin);
    const C block_largest = block_max(x + begin, count);
    if (block_largest > largest) {
      if (total != C(0)) total *= std::exp(largest - block_largest);
      largest = block_largest;
    }
    used[blocks++] = largest;
    const V shift = simd::broadcast(shift_for(largest));
    V sum{};
    simd::for_each_vector<C>(count, [&](std::int64_t i, auto width) {
      const V e = simd::exp(simd::load_width<S>(x + begin + i, width, kLowest<C>) - shift);
      sum += e;
      if constexpr (kKeepsExponentials)
        if (gradient != nullptr) simd::store_width<S>(gradient + begin + i, e, width);
    });
    total += simd::horizontal_sum<C>(sum);
  }
  const C spread = row.is_dense() ? add_masses(x, classes, largest, row) : C(0);
  const std::int64_t target = row.target;
  const C target_logit = kPlain || target >= 0 ? static_cast<C>(x[target]) : C(0);
  if (gradient != nullptr) {
    const C inverse = row.factor(total, largest) / total;
    const V shift = simd::broadcast(shift_for(largest)), token = simd::broadcast(row.token);
    for (int b = 0; b < blocks; ++b) {
      const std::int64_t begin = b * block, count = std::min(block, classes - begin);
      const V scale = simd::broadcast(used[b] == largest ? inverse : std::exp(used[b] - largest) * inverse);
      const auto sweep = [&](auto subtract) {
        simd::for_each_vector<C>(count, [&](std::int64_t i, auto width) {
          S* at = gradient + begin + i;
          V value;
          if constexpr (kKeepsExponentials)
            value = simd::load_width<S>(at, width) * scale;
          else
            value = simd::exp(simd::load_width<S>(x + begin + i, width, kLowest<C>) - shift) * inverse;
          simd::store_width<S>(at, subtract(value, begin + i, width), width);
        });
      };
      if (row.is_dense())
        sweep([&](V value, std::int64_t v, auto width) { return value - token * row.mass(v, width); });
      else
        sweep([](V value, std::int64_t, auto) { return value; });
    }
    if (kPlain || target >= 0) {
      C value;
      if constexpr (kKeepsExponentials) {
        value = gradient[target];
      } else {  // from before the rounding
        value = std::exp(target_logit - shift_for(largest)) * inverse;
        if (row.is_dense()) value -= row.token * row.mass_at(target);
      }
      gradient[target] = static_cast<S>(value - row.at_target());
    }
  }
  return row.term(total, largest, target_logit, spread);
}

// The same for a row that fits one vector: everything stays in registers.
template <class S, bool kPlain>
compute_t<S> short_row(const S* x, S* gradient, std::int64_t classes, RowTarget<S, kPlain>& row) {
  using C = compute_t<S>;
  using V = Vec<C>;
  const V values = simd::load_tail(x, classes, kLowest<C>);
  const C largest = simd::horizontal_max<C>(values);
  const V e = simd::exp(values - simd::broadcast(shift_for(largest)));
  const C total = simd::horizontal_sum<C>(e);
  const C spread = row.is_dense() ? add_masses(x, classes, largest, row) : C(0);
  const std::int64_t target = row.target;
  if (gradient != nullptr) {
    V value = e * simd::broadcast(row.factor(total, largest) / total);
    if (row.is_dense()) value -= simd::broadcast(row.token) * row.mass(0, classes);
    if (kPlain || target >= 0) value[target] -= row.at_target();
    simd::store_tail<S, C>(gradient, value, classes);
  }
  return row.term(total, largest, kPlain || target >= 0 ? static_cast<C>(x[target]) : C(0), spread);
}

template <class S, bool kPlain>
double chunk_sum(const CrossEntropyForward& args, std::int64_t begin, std::int64_t end) {
  using C = compute_t<S>;
  const std::int64_t classes = args.classes;
  const bool is_short = classes <= simd::kLanes<C>, has_labels = kPlain || args.probabilities == nullptr;
  RowTarget<S, kPlain> row{.target = -1,
                           .token = 1,
                           .hard = 0,
                           .total = 0,
                           .keep = static_cast<C>(1 - args.label_smoothing),
                           .smooth = static_cast<C>(args.label_smoothing / static_cast<double>(classes)),
                           .z_loss = static_cast<C>(args.z_loss),
                           .dense = args.probabilities != nullptr || args.label_smoothing != 0,
                           .probabilities = nullptr,
                           .class_weights = static_cast<const C*>(args.class_weights)};
  double sum = 0;
  for (std::int64_t r = begin; r < end; ++r) {
    const S* x = static_cast<const S*>(args.logits) + r * classes;
    S* gradient = args.gradient != nullptr ? static_cast<S*>(args.gradient) + r * classes : nullptr;
    bool adds = counts<kPlain>(args, r);
    if (adds && has_labels) row.target = args.targets[r];
    if (!kPlain && adds && has_labels) {
      row.hard = row.keep * class_weight<C>(args, row.target);
      row.total = row.hard;
      adds = row.hard != C(0) || row.dense || row.z_loss != C(0);
    }
    if (!adds) {
      if (gradient != nullptr)
        std::memset(static_cast<void*>(gradient), 0, static_cast<std::size_t>(classes) * sizeof(S));
      continue;
    }
    if (!kPlain && args.token_weights != nullptr) row.token = static_cast<C>(args.token_weights[r]);
    if (!has_labels) row.probabilities = static_cast<const S*>(args.probabilities) + r * classes;
    sum += static_cast<double>(is_short ? short_row(x, gradient, classes, row) : long_row(x, gradient, classes, row));
  }
  return sum;
}

}  // namespace

std::int64_t cross_entropy_partials(Device device, std::int64_t rows, std::int64_t classes) {
  if (device.kind != DeviceKind::cpu) return 3 * std::clamp<std::int64_t>(rows, 1, kCrossEntropyBlocks);
  const std::int64_t grain = rows_per_chunk(classes);
  return std::max<std::int64_t>(1, (rows + grain - 1) / grain);
}

void cross_entropy_forward(Device device, const CrossEntropyForward& args) {
  if (WEFT_ON_GPU("cross_entropy", cross_entropy_forward, device, args)) return;
  const bool plain = is_plain(args);
  const double counted = plain                      ? check_targets<float, true>(args)
                         : args.dtype == Dtype::f64 ? check_targets<double, false>(args)
                                                    : check_targets<float, false>(args);
  const std::int64_t grain = rows_per_chunk(args.classes),
                     chunks = cross_entropy_partials(device, args.rows, args.classes);
  args.partials[0] = 0;  // also without rows
  dispatch_float(args.dtype, "cross_entropy", [&]<class S>(std::type_identity<S>) {
    parallel_ranges(args.rows, grain, [&](std::int64_t begin, std::int64_t end) {
      args.partials[begin / grain] =
          plain ? chunk_sum<S, true>(args, begin, end) : chunk_sum<S, false>(args, begin, end);
    });
  });
  double sum = 0;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) sum += args.partials[chunk];
  *args.sum = sum;
  *args.denominator = counted;
}

void cross_entropy_backward(Device device, const CrossEntropyBackward& args) {
  if (WEFT_ON_GPU("cross_entropy", cross_entropy_backward, device, args)) return;
  dispatch_float(args.dtype, "cross_entropy", [&]<class S>(std::type_identity<S>) {
    using C = compute_t<S>;
    const S* gradient = static_cast<const S*>(args.gradient);
    S* dlogits = static_cast<S*>(args.dlogits);
    const Vec<C> scale = simd::broadcast(static_cast<C>(*args.scale));
    parallel_ranges(args.count, kChunkElems, [&](std::int64_t begin, std::int64_t end) {
      simd::for_each_vector<C>(end - begin, [&](std::int64_t i, auto width) {
        simd::store_width<S>(dlogits + begin + i, simd::load_width<S>(gradient + begin + i, width) * scale, width);
      });
    });
  });
}

}  // namespace weft::kernels
