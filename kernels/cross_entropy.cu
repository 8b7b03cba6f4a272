// Softmax cross-entropy and its gradient from one read of the logits: a row is kept on chip between its maximum, the
// sum of its exponentials and the gradient.
//   Mapping: V up to 32: 4, 8, 16 or 32 lanes per row, an element each.  "lanes"
//            V up to about 1024 (f64: 512): a warp per row, its vectors in registers.  "warp"
//            As long as the row fits in shared memory (227 KiB on an H100): a block of 256 or 512 threads per row.
//            "shared"
//            Beyond: a block per row with a running maximum and sum (Milakov, Gimelshein 2018), and a second read for
//            the gradient, which finds most of the row in the L2.  "reread"
//   Ends:    a row may begin anywhere: V is often odd (50257), so that most rows are not aligned. The elements before
//            the first whole sector and behind the last vector go to the first threads, one each. This needs logits and
//            gradient to lie alike; else elements are moved one by one ("..._elementwise").
//   Options: looked up in the kernel, the same way for all threads, but for one: where every class has mass
//            (probabilities, smoothing) each kernel has a second, "dense" instantiation, because the masses cost up to
//            half as many registers again. It reads a vector's masses beside it, and again for the gradient: keeping
//            them on chip would halve the longest row. Without them only the target has mass, and weights and z-loss
//            are two factors per row.
//   Loss:    a row's term is added in f64 by the thread that holds the row's target (that of lane 0 for probabilities).
//            A block walks consecutive rows and leaves its sum, its weight and its first bad row as partials; one last
//            block adds them up in order.
//   Grid:    at most 2048 blocks, fixed by the shape.
//   Shared:  192 bytes ("lanes", "warp"); the row and up to 512 bytes ("shared"); up to 512 bytes ("reread").
#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "kernels/common/block.h"
#include "kernels/common/cross_entropy_row.h"
#include "kernels/common/launch.h"
#include "kernels/common/status.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

// --- parts of a row --------------------------------------------------------------------------------------------------

template <class C>
WEFT_DEVICE C lowest() {
  return -static_cast<C>(INFINITY);
}

/// What exponentials are taken relative to. A row of -inf alone has no largest value: 0 leaves its exponentials 0.
template <class C>
WEFT_DEVICE C shift_for(C largest) {
  return largest == lowest<C>() ? C(0) : largest;
}

/// exp(x) for a result that is rounded to 16 bits: for x <= 0 within 2^-16 of it (CUDA's manual: 2 + |1.17 x| units in
/// the last place), by a multiplication and one special instruction.
WEFT_DEVICE float rough_exponential(float x) {
#if defined(__CUDACC__)
  return __expf(x);
#else
  return expf(x);
#endif
}

/// How a row lies in memory: `vectors` vectors from element `body` on, which begins a 32-byte sector, and at both ends
/// together fewer than 32 elements, of which this thread has element `edge`, or none: -1.
struct RowParts {
  int body;
  std::int64_t vectors;
  std::int64_t edge;
};

template <int kWidth, class S>
WEFT_DEVICE RowParts row_parts(const S* row, std::int64_t classes, int thread) {
  constexpr int kSector = kWidth == 1 ? 1 : 32 / static_cast<int>(sizeof(S));
  const int past = static_cast<int>(reinterpret_cast<std::uintptr_t>(row) / sizeof(S) % kSector);
  int body = past == 0 ? 0 : kSector - past;
  if (body > classes) body = static_cast<int>(classes);
  const std::int64_t vectors = (classes - body) / kWidth;
  const std::int64_t edge = thread < body ? thread : vectors * kWidth + thread;
  return {body, vectors, edge < classes ? edge : -1};
}

/// What a thread, and then a block, has found so far.
struct Tally {
  double sum = 0;
  double counted = 0;      // their weight
  double bad = -INFINITY;  // minus the number of the first bad row: a maximum finds it
};

WEFT_DEVICE void store_partials(const CrossEntropyForward& args, const Tally& tally) {
  store_one(args.partials + blockIdx.x, tally.sum);
  store_one(args.partials + gridDim.x + blockIdx.x, tally.counted);
  store_one(args.partials + 2 * gridDim.x + blockIdx.x, tally.bad);
}

/// Largest over a one-dimensional block; every thread gets it. `scratch` as for block_sum.
template <int kThreads, class T>
WEFT_DEVICE T block_max(T value, Shared<T> scratch) {
  value = warp_max(value);
  if (lane_index() == 0) scratch[warp_index()] = value;
  __syncthreads();
  T largest = scratch[0];
  WEFT_UNROLL
  for (int warp = 1; warp < kThreads / kWarpSize; ++warp) largest = larger<T>(largest, scratch[warp]);
  return largest;
}

/// value -= factor * mass.
template <int kWidth, class C>
WEFT_DEVICE void subtract(Vec<C, kWidth>& value, C factor, const Vec<C, kWidth>& mass) {
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) value[i] -= factor * mass[i];
}

template <int kWidth, class C>
WEFT_DEVICE C largest_lane(const Vec<C, kWidth>& value) {
  C largest = value[0];
  WEFT_UNROLL
  for (int i = 1; i < kWidth; ++i) largest = larger(largest, value[i]);
  return largest;
}

// --- a row in the registers of a warp, or of a part of one -----------------------------------------------------------

constexpr int kWarpRowThreads = 256;

template <class S, int kWidth, int kLanes, int kVectors, bool kDense>
WEFT_KERNEL __launch_bounds__(kWarpRowThreads, kDense ? 1 : 2)  // 2 would make "dense" spill
    warp_rows_kernel(CrossEntropyForward args, std::int64_t rows_per_block) {
  using C = compute_t<S>;
  constexpr int kWarps = kWarpRowThreads / kWarpSize;
  WEFT_SHARED(double, sums, kWarps);
  WEFT_SHARED(double, counts, kWarps);
  WEFT_SHARED(double, bads, kWarps);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const std::int64_t begin = blockIdx.x * rows_per_block;
  const std::int64_t end = smaller<std::int64_t>(begin + rows_per_block, args.rows);
  Tally tally;
  WEFT_NO_UNROLL
  for (std::int64_t first = begin; first < end; first += kWarpRowThreads / kLanes) {
    // Lanes without a row, or whose row does not count, go along: the warp's shuffles need all of them.
    const std::int64_t row = first + static_cast<int>(threadIdx.x) / kLanes;
    const bool exists = row < end;
    const RowTarget<C> asked = exists ? read_target<C>(args, row) : RowTarget<C>{};
    const bool counts_here = asked.label == Label::counts;
    if (lane == 0) {
      tally.counted += asked.counted;
      if (asked.label == Label::is_bad) tally.bad = larger(tally.bad, -static_cast<double>(row));
    }
    const S* const x = static_cast<const S*>(args.logits) + row * args.classes;
    const RowParts parts = row_parts<kWidth>(x, args.classes, lane);

    Vec<C, kWidth> value[kVectors];
    C edge = lowest<C>();
    WEFT_UNROLL
    for (int k = 0; k < kVectors; ++k) {
      const int vector = k * kLanes + lane;
      if (counts_here && vector < parts.vectors) {
        value[k] = widen(load<kWidth, Cache::streaming>(x + parts.body + vector * kWidth));
      } else {
        WEFT_UNROLL
        for (int i = 0; i < kWidth; ++i) value[k][i] = lowest<C>();
      }
    }
    if (kWidth > 1 && counts_here && parts.edge >= 0) edge = widen(load_one<Cache::streaming>(x + parts.edge));

    C largest = edge;
    WEFT_UNROLL
    for (int k = 0; k < kVectors; ++k) largest = larger(largest, largest_lane(value[k]));
    largest = warp_max<kLanes>(largest);
    const C shift = shift_for(largest);

    Spread<C> spread{asked.hard};
    if constexpr (kDense) {
      Spread<C> own;
      WEFT_UNROLL
      for (int k = 0; k < kVectors; ++k) {
        const int vector = k * kLanes + lane;
        if (!counts_here || vector >= parts.vectors) continue;
        const Vec<C, kWidth> mass = masses<kWidth, S>(args, row, parts.body + vector * kWidth);
        WEFT_UNROLL
        for (int i = 0; i < kWidth; ++i) own.add(mass[i], largest, value[k][i]);
      }
      if (kWidth > 1 && counts_here && parts.edge >= 0) own.add(masses<1, S>(args, row, parts.edge)[0], largest, edge);
      const C mass_total = warp_sum<kLanes>(own.total);
      spread = row_spread(args, asked.hard, mass_total, warp_sum<kLanes>(own.terms));
    }

    const int wanted = counts_here && asked.target >= 0 ? static_cast<int>(asked.target) : -(1 << 30);  // no element
    bool has_target = kWidth > 1 && parts.edge == wanted;
    C target_value = edge;
    C total = 0;
    WEFT_UNROLL
    for (int k = 0; k < kVectors; ++k) {
      const int vector = k * kLanes + lane;
      const int offset = vector < parts.vectors ? wanted - parts.body - vector * kWidth : -1;
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) {
        if (offset == i) {
          has_target = true;
          target_value = value[k][i];
        }
        value[k][i] = exponential(value[k][i] - shift);
        total += value[k][i];
      }
    }
    edge = kWidth > 1 ? exponential(edge - shift) : C(0);
    total = warp_sum<kLanes>(total + edge);
    if (args.probabilities != nullptr) has_target = counts_here && lane == 0;
    if (has_target) tally.sum += static_cast<double>(row_term(args, asked, spread, total, largest, target_value));

    if (args.gradient == nullptr || !exists) continue;
    // A row that does not count has a total of 0.
    const C inverse = counts_here ? row_factor(args, asked, spread.total, total, largest) / total : C(0);
    const C at_target = asked.token * asked.hard;
    S* const gradient = static_cast<S*>(args.gradient) + row * args.classes;
    WEFT_UNROLL
    for (int k = 0; k < kVectors; ++k) {
      const int vector = k * kLanes + lane, offset = wanted - parts.body - vector * kWidth;
      if (vector >= parts.vectors) continue;
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) value[k][i] = value[k][i] * inverse - (offset == i ? at_target : C(0));
      if (kDense && counts_here)
        subtract(value[k], asked.token, masses<kWidth, S>(args, row, parts.body + vector * kWidth));
      store(gradient + parts.body + vector * kWidth, narrow<S>(value[k]));
    }
    if (kWidth > 1 && parts.edge >= 0) {
      edge = edge * inverse - (parts.edge == wanted ? at_target : C(0));
      if (kDense && counts_here) edge -= asked.token * masses<1, S>(args, row, parts.edge)[0];
      store_one(gradient + parts.edge, narrow<S>(edge));
    }
  }

  tally.sum = warp_sum(tally.sum);
  tally.counted = warp_sum(tally.counted);
  tally.bad = warp_max(tally.bad);
  if (lane_index() == 0) {
    sums[warp_index()] = tally.sum;
    counts[warp_index()] = tally.counted;
    bads[warp_index()] = tally.bad;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kWarps; ++warp) {
    tally.sum += sums[warp];
    tally.counted += counts[warp];
    tally.bad = larger<double>(tally.bad, bads[warp]);
  }
  store_partials(args, tally);
}

// --- a block per row -------------------------------------------------------------------------------------------------

template <class S>
constexpr int kBatch = sizeof(S) < 8 ? 4 : 1;  // vectors that a thread asks for at a time; f64 would spill

template <int kWidth, int kThreads, class S>
WEFT_DEVICE void zero_row(S* gradient, const RowParts& parts) {
  Vec<S, kWidth> zeros;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) zeros[i] = narrow<S>(0);
  for (std::int64_t vector = threadIdx.x; vector < parts.vectors; vector += kThreads)
    store(gradient + parts.body + vector * kWidth, zeros);
  if (kWidth > 1 && parts.edge >= 0) store_one(gradient + parts.edge, narrow<S>(0));
}

/// Calls f(number, vector) for this thread's vectors of the row's body, in order.
template <int kWidth, int kThreads, Cache kCache, class S, class F>
WEFT_DEVICE void for_each_vector(const S* x, const RowParts& parts, F&& f) {
  WEFT_NO_UNROLL
  for (std::int64_t first = threadIdx.x; first < parts.vectors; first += kBatch<S> * kThreads) {
    Vec<S, kWidth> stored[kBatch<S>];
    WEFT_UNROLL
    for (int b = 0; b < kBatch<S>; ++b)
      if (first + b * kThreads < parts.vectors)
        stored[b] = load<kWidth, kCache>(x + parts.body + (first + b * kThreads) * kWidth);
    WEFT_UNROLL
    for (int b = 0; b < kBatch<S>; ++b)
      if (first + b * kThreads < parts.vectors) f(first + b * kThreads, stored[b]);
  }
}

/// A row that counts, as a block sees it.
template <class S>
struct BlockRow {
  const S* x;
  S* gradient;  // or null
  std::int64_t number;
  RowParts parts;
  RowTarget<compute_t<S>> asked;
};

/// gradient[e, e + kWidth) = exponentials * inverse - token * masses.
template <int kWidth, bool kDense, class S, class C>
WEFT_DEVICE void store_gradient(const CrossEntropyForward& args, const BlockRow<S>& row, std::int64_t e,
                                Vec<C, kWidth> exponentials, C inverse) {
  const C at_target = row.asked.token * row.asked.hard;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i)
    exponentials[i] = exponentials[i] * inverse - (e + i == row.asked.target ? at_target : C(0));
  if constexpr (kDense) subtract(exponentials, row.asked.token, masses<kWidth, S>(args, row.number, e));
  store(row.gradient + e, narrow<S>(exponentials));
}

/// The whole row's sums from those of the threads; scratch holds 2 * kThreads / 32 elements.
template <int kThreads, class C>
WEFT_DEVICE Spread<C> block_spread(const CrossEntropyForward& args, const Spread<C>& own, C hard, Shared<C> scratch) {
  C sums[2] = {own.total, own.terms};
  block_sums<kThreads>(sums, scratch);
  return row_spread(args, hard, sums[0], sums[1]);
}

/// Walks the rows of a block: f(row) returns the term of a row that counts.
template <int kWidth, int kThreads, class S, class F>
WEFT_DEVICE void for_each_row(const CrossEntropyForward& args, std::int64_t rows_per_block, F&& f) {
  const std::int64_t begin = blockIdx.x * rows_per_block;
  const std::int64_t end = smaller<std::int64_t>(begin + rows_per_block, args.rows);
  Tally tally;
  WEFT_NO_UNROLL
  for (std::int64_t row = begin; row < end; ++row) {
    const S* const x = static_cast<const S*>(args.logits) + row * args.classes;
    S* const gradient = args.gradient != nullptr ? static_cast<S*>(args.gradient) + row * args.classes : nullptr;
    const RowParts parts = row_parts<kWidth>(x, args.classes, static_cast<int>(threadIdx.x));
    const RowTarget<compute_t<S>> asked = read_target<compute_t<S>>(args, row);
    tally.counted += asked.counted;
    if (asked.label == Label::counts) {
      tally.sum += static_cast<double>(f(BlockRow<S>{x, gradient, row, parts, asked}));
    } else {
      if (asked.label == Label::is_bad) tally.bad = larger(tally.bad, -static_cast<double>(row));
      if (gradient != nullptr) zero_row<kWidth, kThreads>(gradient, parts);
    }
  }
  if (threadIdx.x == 0) store_partials(args, tally);
}

template <class S, int kWidth, int kThreads, bool kDense>
WEFT_KERNEL __launch_bounds__(kThreads) shared_row_kernel(CrossEntropyForward args, std::int64_t rows_per_block) {
  using C = compute_t<S>;
  constexpr bool kKeepsExponentials = std::is_same_v<S, C>;  // 16 bits would round them twice
  WEFT_SHARED_DYNAMIC(S, kept);                              // the row's vectors; each thread meets only its own again
  WEFT_SHARED(C, largest_scratch, kThreads / kWarpSize);
  WEFT_SHARED(C, sum_scratch, kThreads / kWarpSize);
  WEFT_SHARED(C, spread_scratch, 2 * kThreads / kWarpSize);
  // Several scratch arrays need no barrier between rows: whoever writes one has passed another's barrier, which
  // everyone reaches after reading the first.
  for_each_row<kWidth, kThreads, S>(args, rows_per_block, [&](const BlockRow<S>& row) {
    const RowParts& parts = row.parts;
    const S* const x = row.x;
    const C target_value = threadIdx.x == 0 && row.asked.target >= 0 ? widen(load_one(x + row.asked.target)) : C(0);
    C edge = kWidth > 1 && parts.edge >= 0 ? widen(load_one<Cache::streaming>(x + parts.edge)) : lowest<C>();
    C largest = edge;
    for_each_vector<kWidth, kThreads, Cache::streaming>(x, parts,
                                                        [&](std::int64_t vector, const Vec<S, kWidth>& stored) {
                                                          store_shared(kept, static_cast<int>(vector) * kWidth, stored);
                                                          largest = larger(largest, largest_lane(widen(stored)));
                                                        });
    largest = block_max<kThreads>(largest, largest_scratch);
    const C shift = shift_for(largest);

    Spread<C> spread{row.asked.hard};
    if constexpr (kDense) {
      Spread<C> own;
      if (kWidth > 1 && parts.edge >= 0) own.add(masses<1, S>(args, row.number, parts.edge)[0], largest, edge);
      WEFT_NO_UNROLL
      for (int vector = static_cast<int>(threadIdx.x); vector < parts.vectors; vector += kThreads) {
        const Vec<C, kWidth> value = widen(load_shared<kWidth>(kept, vector * kWidth));
        const Vec<C, kWidth> mass = masses<kWidth, S>(args, row.number, parts.body + vector * kWidth);
        WEFT_UNROLL
        for (int i = 0; i < kWidth; ++i) own.add(mass[i], largest, value[i]);
      }
      spread = block_spread<kThreads>(args, own, row.asked.hard, spread_scratch);
    }

    edge = exponential(edge - shift);
    C total = edge;
    WEFT_NO_UNROLL
    for (int vector = static_cast<int>(threadIdx.x); vector < parts.vectors; vector += kThreads) {
      Vec<C, kWidth> value = widen(load_shared<kWidth>(kept, vector * kWidth));
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) {
        value[i] = exponential(value[i] - shift);
        total += value[i];
      }
      if constexpr (kKeepsExponentials)
        if (row.gradient != nullptr) store_shared(kept, vector * kWidth, value);
    }
    total = block_sum<kThreads>(total, sum_scratch);

    if (row.gradient != nullptr) {
      const C inverse = row_factor(args, row.asked, spread.total, total, largest) / total;
      WEFT_NO_UNROLL
      for (int vector = static_cast<int>(threadIdx.x); vector < parts.vectors; vector += kThreads) {
        Vec<C, kWidth> value = widen(load_shared<kWidth>(kept, vector * kWidth));
        if constexpr (!kKeepsExponentials) {
          WEFT_UNROLL
          for (int i = 0; i < kWidth; ++i) value[i] = rough_exponential(value[i] - shift);
        }
        store_gradient<kWidth, kDense>(args, row, parts.body + vector * kWidth, value, inverse);
      }
      if (kWidth > 1 && parts.edge >= 0) store_gradient<1, kDense>(args, row, parts.edge, Vec<C, 1>{{edge}}, inverse);
    }
    return row_term(args, row.asked, spread, total, largest, target_value);
  });
}

constexpr int kRereadThreads = 512;

template <class S, int kWidth, bool kDense>
WEFT_KERNEL __launch_bounds__(kRereadThreads, 1)
    reread_row_kernel(CrossEntropyForward args, std::int64_t rows_per_block) {
  using C = compute_t<S>;
  constexpr int kThreads = kRereadThreads;
  WEFT_SHARED(C, largest_scratch, kThreads / kWarpSize);
  WEFT_SHARED(C, sum_scratch, kThreads / kWarpSize);
  WEFT_SHARED(C, spread_scratch, 2 * kThreads / kWarpSize);
  for_each_row<kWidth, kThreads, S>(args, rows_per_block, [&](const BlockRow<S>& row) {
    const RowParts& parts = row.parts;
    const S* const x = row.x;
    const C target_value = threadIdx.x == 0 && row.asked.target >= 0 ? widen(load_one(x + row.asked.target)) : C(0);
    const C edge = kWidth > 1 && parts.edge >= 0 ? widen(load_one(x + parts.edge)) : lowest<C>();
    C own_largest = edge, own_total = exponential(edge - shift_for(edge));
    Spread<C> own;
    if (kDense && kWidth > 1 && parts.edge >= 0)
      own.add(masses<1, S>(args, row.number, parts.edge)[0], shift_for(edge), edge);
    for_each_vector<kWidth, kThreads, Cache::normal>(x, parts, [&](std::int64_t vector, const Vec<S, kWidth>& stored) {
      const Vec<C, kWidth> value = widen(stored);
      const C before = own_largest;
      own_largest = larger(own_largest, largest_lane(value));
      const C shift = shift_for(own_largest);
      if (own_largest > before) own_total *= exponential(before - shift);
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) own_total += exponential(value[i] - shift);
      if constexpr (!kDense) return;
      if (own_largest > before && own.total != 0) own.terms += own.total * (own_largest - before);
      const Vec<C, kWidth> mass = masses<kWidth, S>(args, row.number, parts.body + vector * kWidth);
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) own.add(mass[i], shift, value[i]);  // -inf alone: an infinite term
    });
    const C largest = block_max<kThreads>(own_largest, largest_scratch);
    const C shift = shift_for(largest);
    // A thread without a finite element has nothing to add, unless it met NaN.
    const C total = block_sum<kThreads>(
        own_largest == lowest<C>() ? own_total : own_total * exponential(own_largest - shift), sum_scratch);
    Spread<C> spread{row.asked.hard};
    if constexpr (kDense) {
      if (own_largest < largest && own.total != 0) own.terms += own.total * (largest - own_largest);
      spread = block_spread<kThreads>(args, own, row.asked.hard, spread_scratch);
    }

    if (row.gradient != nullptr) {
      const C inverse = row_factor(args, row.asked, spread.total, total, largest) / total;
      for_each_vector<kWidth, kThreads, Cache::streaming>(
          x, parts, [&](std::int64_t vector, const Vec<S, kWidth>& stored) {
            Vec<C, kWidth> value = widen(stored);
            WEFT_UNROLL
            for (int i = 0; i < kWidth; ++i) {
              if constexpr (std::is_same_v<S, C>)
                value[i] = exponential(value[i] - shift);
              else
                value[i] = rough_exponential(value[i] - shift);
            }
            store_gradient<kWidth, kDense>(args, row, parts.body + vector * kWidth, value, inverse);
          });
      if (kWidth > 1 && parts.edge >= 0)
        store_gradient<1, kDense>(args, row, parts.edge, Vec<C, 1>{{exponential(edge - shift)}}, inverse);
    }
    return row_term(args, row.asked, spread, total, largest, target_value);
  });
}

// --- sum and denominator ---------------------------------------------------------------------------------------------

constexpr int kFinishThreads = 512;

WEFT_KERNEL __launch_bounds__(kFinishThreads) finish_kernel(CrossEntropyForward args, int blocks) {
  WEFT_SHARED(double, sum_scratch, kFinishThreads / kWarpSize);
  WEFT_SHARED(double, count_scratch, kFinishThreads / kWarpSize);
  WEFT_SHARED(double, bad_scratch, kFinishThreads / kWarpSize);
  Tally tally;
  for (int block = static_cast<int>(threadIdx.x); block < blocks; block += kFinishThreads) {
    tally.sum += load_one(args.partials + block);
    tally.counted += load_one(args.partials + blocks + block);
    tally.bad = larger(tally.bad, load_one(args.partials + 2 * blocks + block));
  }
  tally.sum = block_sum<kFinishThreads>(tally.sum, sum_scratch);
  tally.counted = block_sum<kFinishThreads>(tally.counted, count_scratch);
  tally.bad = block_max<kFinishThreads>(tally.bad, bad_scratch);
  if (threadIdx.x != 0) return;
  store_one(args.sum, tally.sum);
  store_one(args.denominator, tally.counted);
  if (tally.bad == -INFINITY) return;
  const auto row = static_cast<std::int64_t>(-tally.bad);
  report(args.status, StatusCode::cross_entropy_target, row, load_one(args.targets + row), args.classes);
}

// --- starting --------------------------------------------------------------------------------------------------------

template <class S>
Operand rows_operand(const char* name, const CrossEntropyForward& args, const void* address) {
  return {name, address, args.rows * args.classes * static_cast<std::int64_t>(sizeof(S))};
}

/// Starts `kernel`, whose blocks take `rows_at_once` rows at a time, and the sum over its blocks.
template <class S>
void start(const Stream& stream, const CrossEntropyForward& args, const char* name, std::int64_t threads,
           std::int64_t rows_at_once, std::int64_t shared_bytes, void (*kernel)(CrossEntropyForward, std::int64_t)) {
  const std::int64_t steps = ceil_div(args.rows, rows_at_once);
  const std::int64_t rows_per_block = rows_at_once * ceil_div(std::max<std::int64_t>(steps, 1), kCrossEntropyBlocks);
  const std::int64_t blocks = ceil_div(args.rows, rows_per_block);
  const Operand partials{"partials", args.partials, 3 * blocks * 8, OperandKind::workspace};
  launch(stream,
         {.name = name,
          .grid = {blocks},
          .block = {threads},
          .dynamic_shared_bytes = shared_bytes,
          .operands = {rows_operand<S>("logits", args, args.logits),
                       rows_operand<S>("gradient", args, args.gradient),
                       rows_operand<S>("probabilities", args, args.probabilities),
                       {"targets", args.targets, args.rows * 8},
                       {"mask", args.mask, args.rows},
                       {"token_weights", args.token_weights, args.rows * 4},
                       {"class_weights", args.class_weights,
                        args.classes * static_cast<std::int64_t>(sizeof(compute_t<S>)), OperandKind::broadcast},
                       partials}},
         kernel, args, rows_per_block);
  launch(stream,
         {.name = "cross_entropy_finish",
          .grid = {1},
          .block = {kFinishThreads},
          .operands = {partials, {"sum", args.sum, 8}, {"denominator", args.denominator, 8}}},
         finish_kernel, args, static_cast<int>(blocks));
}

/// Whether the rows of logits, probabilities and gradient lie alike relative to 16-byte boundaries.
bool lie_alike(const CrossEntropyForward& args) {
  const auto alike = [&](const void* other) {
    return other == nullptr ||
           (reinterpret_cast<std::uintptr_t>(args.logits) - reinterpret_cast<std::uintptr_t>(other)) % 16 == 0;
  };
  return alike(args.gradient) && alike(args.probabilities);
}

std::int64_t row_bytes(const CrossEntropyForward& args) { return args.classes * element_bytes(args.dtype); }

bool fits_shared(const CrossEntropyForward& args) {
  std::int64_t limit = kMaxSharedBytes;
#if defined(__CUDACC__)
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess)
    return false;
  limit = bytes;
#endif
  return row_bytes(args) <= limit - 512;  // for the static part
}

constexpr std::int64_t kMostLaneClasses = 32;
/// Vectors per lane at the most: 32 elements, 16 of f64.
template <std::size_t kElementBytes>
constexpr int kMostVectorsOf = kElementBytes == 2 ? 4 : 8;

bool supports_lanes(const CrossEntropyForward& args) { return args.classes <= kMostLaneClasses; }
bool supports_warp(const CrossEntropyForward& args) {
  const std::int64_t vectors = args.classes * element_bytes(args.dtype) / 16;
  return lie_alike(args) &&
         vectors <= kWarpSize * (element_bytes(args.dtype) == 2 ? kMostVectorsOf<2> : kMostVectorsOf<4>);
}
bool supports_shared(const CrossEntropyForward& args) { return lie_alike(args) && fits_shared(args); }
bool supports_shared_elementwise(const CrossEntropyForward& args) { return !is_dense(args) && fits_shared(args); }
bool supports_all(const CrossEntropyForward&) { return true; }

// Dense rows have fewer instantiations: the widest of each.

void run_lanes(const Stream& stream, const CrossEntropyForward& args) {
  dispatch_float(args.dtype, "cross_entropy", [&]<class S>(std::type_identity<S>) {
    const auto with = [&]<int kLanes, bool kDense>(std::integral_constant<int, kLanes>, std::bool_constant<kDense>) {
      start<S>(stream, args, "cross_entropy_lanes", kWarpRowThreads, kWarpRowThreads / kLanes, 0,
               warp_rows_kernel<S, 1, kLanes, 1, kDense>);
    };
    if (is_dense(args)) return with(std::integral_constant<int, 32>{}, std::true_type{});
    if (args.classes <= 4) return with(std::integral_constant<int, 4>{}, std::false_type{});
    if (args.classes <= 8) return with(std::integral_constant<int, 8>{}, std::false_type{});
    if (args.classes <= 16) return with(std::integral_constant<int, 16>{}, std::false_type{});
    with(std::integral_constant<int, 32>{}, std::false_type{});
  });
}

void run_warp(const Stream& stream, const CrossEntropyForward& args) {
  dispatch_float(args.dtype, "cross_entropy", [&]<class S>(std::type_identity<S>) {
    constexpr int kWidth = kVectorWidth<S>, kMost = kMostVectorsOf<sizeof(S)>;
    const auto with = [&]<int kVectors, bool kDense>(std::integral_constant<int, kVectors>,
                                                     std::bool_constant<kDense>) {
      start<S>(stream, args, "cross_entropy_warp", kWarpRowThreads, kWarpRowThreads / kWarpSize, 0,
               warp_rows_kernel<S, kWidth, kWarpSize, kVectors, kDense>);
    };
    const std::int64_t vectors = args.classes / kWidth;
    if (is_dense(args)) return with(std::integral_constant<int, kMost>{}, std::true_type{});
    if (vectors <= 1 * kWarpSize) return with(std::integral_constant<int, 1>{}, std::false_type{});
    if (vectors <= 2 * kWarpSize) return with(std::integral_constant<int, 2>{}, std::false_type{});
    if (kMost == 4 || vectors <= 4 * kWarpSize) return with(std::integral_constant<int, 4>{}, std::false_type{});
    if constexpr (kMost > 4) with(std::integral_constant<int, kMost>{}, std::false_type{});
  });
}

/// kVectors: 16-byte accesses; else one element at a time.
template <bool kVectors>
void run_shared(const Stream& stream, const CrossEntropyForward& args) {
  dispatch_float(args.dtype, "cross_entropy", [&]<class S>(std::type_identity<S>) {
    constexpr int kWidth = kVectors ? kVectorWidth<S> : 1;
    const char* const name = kVectors ? "cross_entropy_shared" : "cross_entropy_shared_elementwise";
    if constexpr (kVectors)
      if (is_dense(args))
        return start<S>(stream, args, name, 512, 1, row_bytes(args), shared_row_kernel<S, kWidth, 512, true>);
    if (row_bytes(args) <= 16384)
      start<S>(stream, args, name, 256, 1, row_bytes(args), shared_row_kernel<S, kWidth, 256, false>);
    else
      start<S>(stream, args, name, 512, 1, row_bytes(args), shared_row_kernel<S, kWidth, 512, false>);
  });
}

template <bool kVectors>
void run_reread(const Stream& stream, const CrossEntropyForward& args) {
  dispatch_float(args.dtype, "cross_entropy", [&]<class S>(std::type_identity<S>) {
    constexpr int kWidth = kVectors ? kVectorWidth<S> : 1;
    start<S>(stream, args, kVectors ? "cross_entropy_reread" : "cross_entropy_reread_elementwise", kRereadThreads, 1, 0,
             is_dense(args) ? reread_row_kernel<S, kWidth, true> : reread_row_kernel<S, kWidth, false>);
  });
}

constexpr Variant<CrossEntropyForward> kForwardVariants[] = {
    {"lanes", "a few lanes per row, an element each", supports_lanes, run_lanes},
    {"warp", "a warp per row, the row in registers", supports_warp, run_warp},
    {"shared", "a block per row, the row in shared memory", supports_shared, run_shared<true>},
    {"shared_elementwise", "the same for a gradient that is aligned differently", supports_shared_elementwise,
     run_shared<false>},
    {"reread", "a block per row, running maximum and sum, a second read for the gradient", lie_alike, run_reread<true>},
    {"reread_elementwise", "the same for a gradient that is aligned differently", supports_all, run_reread<false>},
};

// --- backward --------------------------------------------------------------------------------------------------------

constexpr int kScaleThreads = 256, kScaleBatch = 4;

template <class S, int kWidth>
WEFT_KERNEL __launch_bounds__(kScaleThreads) scale_kernel(CrossEntropyBackward args) {
  using C = compute_t<S>;
  const C scale = static_cast<C>(load_one(args.scale));
  const S* const gradient = static_cast<const S*>(args.gradient);
  S* const dlogits = static_cast<S*>(args.dlogits);
  const std::int64_t vectors = args.count / kWidth;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kScaleThreads * kScaleBatch) + threadIdx.x;
  Vec<S, kWidth> stored[kScaleBatch];
  WEFT_UNROLL
  for (int b = 0; b < kScaleBatch; ++b)
    if (first + b * kScaleThreads < vectors)
      stored[b] = load<kWidth, Cache::streaming>(gradient + (first + b * kScaleThreads) * kWidth);
  WEFT_UNROLL
  for (int b = 0; b < kScaleBatch; ++b) {
    if (first + b * kScaleThreads >= vectors) break;
    Vec<C, kWidth> value = widen(stored[b]);
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) value[i] *= scale;
    store(dlogits + (first + b * kScaleThreads) * kWidth, narrow<S>(value));
  }
  const std::int64_t rest = vectors * kWidth + threadIdx.x;  // fewer than kWidth elements
  if (blockIdx.x == 0 && rest < args.count)
    store_one(dlogits + rest, narrow<S>(widen(load_one(gradient + rest)) * scale));
}

template <bool kVectors>
void run_scale(const Stream& stream, const CrossEntropyBackward& args) {
  dispatch_float(args.dtype, "cross_entropy", [&]<class S>(std::type_identity<S>) {
    constexpr int kWidth = kVectors ? kVectorWidth<S> : 1;
    const std::int64_t bytes = args.count * static_cast<std::int64_t>(sizeof(S));
    launch(stream,
           {.name = kVectors ? "cross_entropy_scale" : "cross_entropy_scale_elementwise",
            .grid = {ceil_div<std::int64_t>(args.count, kScaleThreads * kScaleBatch * kWidth)},
            .block = {kScaleThreads},
            .operands = {{"gradient", args.gradient, bytes},
                         {"dlogits", args.dlogits, bytes},
                         {"scale", args.scale, 8, OperandKind::broadcast}}},
           scale_kernel<S, kWidth>, args);
  });
}

bool supports_vectors(const CrossEntropyBackward& args) {
  return is_aligned(args.gradient, 16) && is_aligned(args.dlogits, 16);
}

constexpr Variant<CrossEntropyBackward> kBackwardVariants[] = {
    {"vectors", "16 bytes per access", supports_vectors, run_scale<true>},
    {"elementwise", "an element per access", [](const CrossEntropyBackward&) { return true; }, run_scale<false>},
};

}  // namespace

std::span<const Variant<CrossEntropyForward>> cross_entropy_forward_variants() { return kForwardVariants; }
std::span<const Variant<CrossEntropyBackward>> cross_entropy_backward_variants() { return kBackwardVariants; }

void cross_entropy_forward(const Stream& stream, const CrossEntropyForward& args) {
  run_variant("cross_entropy", cross_entropy_forward_variants(), stream, args);
}
void cross_entropy_backward(const Stream& stream, const CrossEntropyBackward& args) {
  run_variant("cross_entropy", cross_entropy_backward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
