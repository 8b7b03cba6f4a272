// CPU kernels. A row is read from memory once, in blocks that stay in the L1: the block's maximum, then its
// exponentials relative to the largest value so far. They are left in the gradient's row and brought to the final
// maximum and sum in a second sweep, which finds them in the L2; so there is one exponential per element. (16-bit
// gradients would round them twice: there the second sweep takes the exponentials again.)
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

bool counts(const CrossEntropyForward& args, std::int64_t row) {
  return (args.mask == nullptr || args.mask[row] != 0) && args.targets[row] != args.ignore_index;
}

// The number of rows that count. Every label is seen before anything is written.
std::int64_t check_targets(const CrossEntropyForward& args) {
  std::int64_t counted = 0;
  for (std::int64_t row = 0; row < args.rows; ++row) {
    if (!counts(args, row)) continue;
    ++counted;
    const std::int64_t target = args.targets[row];
    if (target < 0 || target >= args.classes) [[unlikely]]
      fail("cross_entropy",
           "target {} at row {} is outside [0, {}): correct the label, mask the row, or set it to ignore_index = {}",
           target, row, args.classes, args.ignore_index);
  }
  return counted;
}

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

// -log softmax of the target; writes softmax - onehot to `gradient` unless that is null.
template <class S>
compute_t<S> long_row(const S* x, S* gradient, std::int64_t classes, std::int64_t target) {
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
  const C inverse = C(1) / total;
  if (gradient != nullptr) {
    const V shift = simd::broadcast(shift_for(largest));
    for (int b = 0; b < blocks; ++b) {
      const std::int64_t begin = b * block, count = std::min(block, classes - begin);
      const V scale = simd::broadcast(used[b] == largest ? inverse : std::exp(used[b] - largest) * inverse);
      simd::for_each_vector<C>(count, [&](std::int64_t i, auto width) {
        S* at = gradient + begin + i;
        if constexpr (kKeepsExponentials)
          simd::store_width<S>(at, simd::load_width<S>(at, width) * scale, width);
        else
          simd::store_width<S>(at, simd::exp(simd::load_width<S>(x + begin + i, width, kLowest<C>) - shift) * inverse,
                               width);
      });
    }
    const C probability = kKeepsExponentials ? static_cast<C>(gradient[target])
                                             : std::exp(static_cast<C>(x[target]) - shift_for(largest)) * inverse;
    gradient[target] = static_cast<S>(probability - C(1));
  }
  return std::log(total) + (largest - static_cast<C>(x[target]));
}

// The same for a row that fits one vector: everything stays in registers.
template <class S>
compute_t<S> short_row(const S* x, S* gradient, std::int64_t classes, std::int64_t target) {
  using C = compute_t<S>;
  using V = Vec<C>;
  const V values = simd::load_tail(x, classes, kLowest<C>);
  const C largest = simd::horizontal_max<C>(values);
  const V e = simd::exp(values - simd::broadcast(shift_for(largest)));
  const C total = simd::horizontal_sum<C>(e);
  if (gradient != nullptr) {
    const V probability = e * simd::broadcast(C(1) / total);
    simd::store_tail<S, C>(gradient, probability, classes);
    gradient[target] = static_cast<S>(probability[target] - C(1));
  }
  return std::log(total) + (largest - static_cast<C>(x[target]));
}

template <class S>
double chunk_sum(const CrossEntropyForward& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t classes = args.classes;
  const bool is_short = classes <= simd::kLanes<compute_t<S>>;
  double sum = 0;
  for (std::int64_t row = begin; row < end; ++row) {
    const S* x = static_cast<const S*>(args.logits) + row * classes;
    S* gradient = args.gradient != nullptr ? static_cast<S*>(args.gradient) + row * classes : nullptr;
    if (!counts(args, row)) {
      if (gradient != nullptr)
        std::memset(static_cast<void*>(gradient), 0, static_cast<std::size_t>(classes) * sizeof(S));
      continue;
    }
    const std::int64_t target = args.targets[row];
    sum += is_short ? short_row(x, gradient, classes, target) : long_row(x, gradient, classes, target);
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
  const std::int64_t counted = check_targets(args);
  const std::int64_t grain = rows_per_chunk(args.classes),
                     chunks = cross_entropy_partials(device, args.rows, args.classes);
  args.partials[0] = 0;  // also without rows
  dispatch_float(args.dtype, "cross_entropy", [&]<class S>(std::type_identity<S>) {
    parallel_ranges(args.rows, grain, [&](std::int64_t begin, std::int64_t end) {
      args.partials[begin / grain] = chunk_sum<S>(args, begin, end);
    });
  });
  double sum = 0;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) sum += args.partials[chunk];
  *args.sum = sum;
  *args.denominator = static_cast<double>(counted);
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
