// Losses that are a sum over elements, and their gradients from the same read.
//   Idea:    memory-bound: 16-byte vectors of input and target, two of each in flight per thread; the gradients go out as
//            soon as the term is known.
//   Mapping: blocks of 256 threads that walk the vectors in strides of the grid, at most 1024 blocks, fixed by the count.
//            A thread adds its terms up in f64, a block its threads' sums by shuffles, one last block the blocks' sums.
//   Shared:  128 bytes.
//   Needs:   for vectors: 16-byte aligned input, target and gradients. Weights, mask and pos_weight are read in vectors
//            where they are full and aligned, else element by element from a cache: one division per vector.
//   The loss is looked up in the kernel, the same way for all threads: one kernel per dtype and width.
#include "kernels/pointwise_loss.h"

#include <algorithm>
#include <cmath>

#include "kernels/common/block.h"
#include "kernels/common/launch.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 2;
constexpr int kWarps = kThreads / kWarpSize;

WEFT_DEVICE float log1p_of(float x) { return log1pf(x); }
WEFT_DEVICE double log1p_of(double x) { return log1p(x); }

template <class C>
struct Term {
  C value, dinput, dtarget;
};

/// -1, 0 or 1; NaN stays.
template <class C>
WEFT_DEVICE C sign(C x) {
  return x > 0 ? C(1) : x < 0 ? C(-1) : x;
}

template <class C>
WEFT_DEVICE Term<C> term_of(PointwiseLossOp op, C x, C y, C pos_weight, C parameter) {
  if (op == PointwiseLossOp::bce_with_logits) {
    const C e = exponential(x < 0 ? x : -x), inverse = 1 / (1 + e), tail = log1p_of(e);
    const C softplus = (x > 0 ? x : C(0)) + tail, softplus_minus = (x < 0 ? -x : C(0)) + tail;  // of x and of -x
    const C sigmoid = x < 0 ? e * inverse : inverse, sigmoid_minus = x < 0 ? inverse : e * inverse;
    const C negative = 1 - y, positive = pos_weight * y;
    // What a certain target rules out adds nothing, even where it is infinite.
    return {(negative == 0 ? C(0) : negative * softplus) + (positive == 0 ? C(0) : positive * softplus_minus),
            negative * sigmoid - positive * sigmoid_minus, pos_weight * softplus_minus - softplus};
  }
  const C d = x - y, a = d < 0 ? -d : d, s = sign(d);
  C value = a, slope = s;
  if (op == PointwiseLossOp::squared) {
    value = d * d;
    slope = 2 * d;
  } else if (op == PointwiseLossOp::huber) {
    value = a <= parameter ? C(0.5) * d * d : parameter * (a - C(0.5) * parameter);
    slope = a <= parameter ? d : parameter * s;
  } else if (op == PointwiseLossOp::smooth_l1) {
    value = a < parameter ? C(0.5) * d * d / parameter : a - C(0.5) * parameter;
    slope = a < parameter ? d / parameter : s;
  }
  return {value, slope, -slope};
}

/// A SpreadOperand as the kernel reads it.
template <class T>
struct Spread {
  const T* data;
  std::int64_t divide, modulo;
  bool full;  // and aligned: read in vectors
};

/// Elements [i, i + kWidth) of an operand. Their numbers follow from the first one's: one division for all.
template <int kWidth, class T>
WEFT_DEVICE Vec<T, kWidth> load_spread(const Spread<T>& operand, std::int64_t i) {
  if (operand.full) return load<kWidth, Cache::streaming>(operand.data + i);
  std::int64_t quotient, rest;
  if (i < (std::int64_t{1} << 32) && operand.divide < (std::int64_t{1} << 32)) {  // many times cheaper
    quotient = static_cast<std::uint32_t>(i) / static_cast<std::uint32_t>(operand.divide);
    rest = i - quotient * operand.divide;
    if (operand.modulo < (std::int64_t{1} << 32))
      quotient = static_cast<std::uint32_t>(quotient) % static_cast<std::uint32_t>(operand.modulo);
  } else {
    quotient = i / operand.divide;
    rest = i % operand.divide;
    quotient %= operand.modulo;
  }
  Vec<T, kWidth> value;
  WEFT_UNROLL
  for (int k = 0; k < kWidth; ++k) {
    value[k] = load_one<Cache::readonly>(operand.data + quotient);
    if (++rest < operand.divide) continue;
    rest = 0;
    if (++quotient == operand.modulo) quotient = 0;
  }
  return value;
}

template <class S>
struct Operands {
  PointwiseLossOp op;
  std::int64_t count;
  compute_t<S> parameter;
  const S* input;
  const S* target;
  Spread<S> weight;
  Spread<std::uint8_t> mask;
  Spread<S> pos_weight;
  S* dinput;
  S* dtarget;
  double* partials;
};

struct Tally {
  double sum = 0, denominator = 0;
};

/// Elements [i, i + kWidth): their terms to the tally, their gradients to memory.
template <int kWidth, class S>
WEFT_DEVICE void add_vector(const Operands<S>& args, std::int64_t i, const Vec<S, kWidth>& input,
                            const Vec<S, kWidth>& target, Tally& tally) {
  using C = compute_t<S>;
  Vec<C, kWidth> weight, pos_weight;
  WEFT_UNROLL
  for (int k = 0; k < kWidth; ++k) weight[k] = pos_weight[k] = 1;
  if (args.weight.data != nullptr) weight = widen(load_spread<kWidth>(args.weight, i));
  if (args.pos_weight.data != nullptr) pos_weight = widen(load_spread<kWidth>(args.pos_weight, i));
  if (args.mask.data != nullptr) {
    const Vec<std::uint8_t, kWidth> mask = load_spread<kWidth>(args.mask, i);
    WEFT_UNROLL
    for (int k = 0; k < kWidth; ++k)
      if (mask[k] == 0) weight[k] = 0;
  }
  const Vec<C, kWidth> x = widen(input), y = widen(target);
  Vec<C, kWidth> dinput, dtarget;
  WEFT_UNROLL
  for (int k = 0; k < kWidth; ++k) {
    const Term<C> term = term_of(args.op, x[k], y[k], pos_weight[k], args.parameter);
    const bool counts = weight[k] != 0;  // else nothing, whatever the term is
    tally.sum += counts ? static_cast<double>(weight[k] * term.value) : 0.0;
    tally.denominator += static_cast<double>(weight[k]);
    dinput[k] = counts ? weight[k] * term.dinput : C(0);
    dtarget[k] = counts ? weight[k] * term.dtarget : C(0);
  }
  if (args.dinput != nullptr) store(args.dinput + i, narrow<S>(dinput));
  if (args.dtarget != nullptr) store(args.dtarget + i, narrow<S>(dtarget));
}

/// The block's sums, in thread 0.
WEFT_DEVICE Tally block_tally(const Tally& own) {
  WEFT_SHARED(double, scratch, 2 * kWarps);
  double sums[2] = {own.sum, own.denominator};
  block_sums<kThreads>(sums, scratch);
  return {sums[0], sums[1]};
}

template <class S, int kWidth>
WEFT_KERNEL __launch_bounds__(kThreads) loss_kernel(Operands<S> args) {
  const std::int64_t vectors = args.count / kWidth;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * (kThreads * kUnroll);
  Tally tally;
  WEFT_NO_UNROLL
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kThreads * kUnroll) + threadIdx.x; first < vectors;
       first += stride) {
    Vec<S, kWidth> input[kUnroll], target[kUnroll];
    WEFT_UNROLL
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t vector = first + u * kThreads;
      if (vector >= vectors) continue;
      input[u] = load<kWidth, Cache::streaming>(args.input + vector * kWidth);
      target[u] = load<kWidth, Cache::streaming>(args.target + vector * kWidth);
    }
    WEFT_UNROLL
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t vector = first + u * kThreads;
      if (vector < vectors) add_vector<kWidth>(args, vector * kWidth, input[u], target[u], tally);
    }
  }
  const std::int64_t rest = vectors * kWidth + threadIdx.x;  // fewer than kWidth elements
  if (kWidth > 1 && blockIdx.x == 0 && rest < args.count)
    add_vector<1>(args, rest, load(args.input + rest), load(args.target + rest), tally);
  tally = block_tally(tally);
  if (threadIdx.x != 0) return;
  store_one(args.partials + blockIdx.x, tally.sum);
  store_one(args.partials + gridDim.x + blockIdx.x, tally.denominator);
}

WEFT_KERNEL __launch_bounds__(kThreads)
    finish_kernel(const double* partials, int blocks, double* sum, double* denominator) {
  Tally tally;
  for (int block = static_cast<int>(threadIdx.x); block < blocks; block += kThreads) {
    tally.sum += load_one(partials + block);
    tally.denominator += load_one(partials + blocks + block);
  }
  tally = block_tally(tally);
  if (threadIdx.x != 0) return;
  store_one(sum, tally.sum);
  store_one(denominator, tally.denominator);
}

template <class T>
Spread<T> spread(const SpreadOperand& operand, std::int64_t count, int width) {
  const bool full = operand.divide == 1 && operand.modulo >= count;
  const auto bytes = static_cast<std::size_t>(width) * sizeof(T);
  return {static_cast<const T*>(operand.data), operand.divide, operand.modulo, full && is_aligned(operand.data, bytes)};
}

template <bool kVectors>
void run(const Stream& stream, const PointwiseLoss& args) {
  dispatch_float(args.dtype, "pointwise_loss", [&]<class S>(std::type_identity<S>) {
    constexpr int kWidth = kVectors ? kVectorWidth<S> : 1;
    const Operands<S> operands{.op = args.op,
                               .count = args.count,
                               .parameter = static_cast<compute_t<S>>(args.parameter),
                               .input = static_cast<const S*>(args.input),
                               .target = static_cast<const S*>(args.target),
                               .weight = spread<S>(args.weight, args.count, kWidth),
                               .mask = spread<std::uint8_t>(args.mask, args.count, kWidth),
                               .pos_weight = spread<S>(args.pos_weight, args.count, kWidth),
                               .dinput = static_cast<S*>(args.dinput),
                               .dtarget = static_cast<S*>(args.dtarget),
                               .partials = args.partials};
    const std::int64_t bytes = args.count * static_cast<std::int64_t>(sizeof(S));
    const auto operand = [&](const char* name, const SpreadOperand& of, std::int64_t element_bytes) {
      const bool full = of.modulo >= args.count;
      return Operand{name, of.data, of.data == nullptr ? 0 : std::min(of.modulo, args.count) * element_bytes,
                     full ? OperandKind::streamed : OperandKind::broadcast};
    };
    const std::int64_t blocks = std::clamp<std::int64_t>(
        ceil_div<std::int64_t>(args.count, std::int64_t{kThreads} * kUnroll * kWidth), 1, kPointwiseLossBlocks);
    const Operand partials{"partials", args.partials, 2 * blocks * 8, OperandKind::workspace};
    launch(stream,
           {.name = kVectors ? "pointwise_loss" : "pointwise_loss_elementwise",
            .grid = {blocks},
            .block = {kThreads},
            .operands = {{"input", args.input, bytes},
                         {"target", args.target, bytes},
                         operand("weight", args.weight, sizeof(S)),
                         operand("mask", args.mask, 1),
                         operand("pos_weight", args.pos_weight, sizeof(S)),
                         {"dinput", args.dinput, args.dinput != nullptr ? bytes : 0},
                         {"dtarget", args.dtarget, args.dtarget != nullptr ? bytes : 0},
                         partials}},
           loss_kernel<S, kWidth>, operands);
    launch(stream,
           {.name = "pointwise_loss_finish",
            .grid = {1},
            .block = {kThreads},
            .operands = {partials, {"sum", args.sum, 8}, {"denominator", args.denominator, 8}}},
           finish_kernel, static_cast<const double*>(args.partials), static_cast<int>(blocks), args.sum,
           args.denominator);
  });
}

bool supports_vectors(const PointwiseLoss& args) {
  return is_aligned(args.input, 16) && is_aligned(args.target, 16) && is_aligned(args.dinput, 16) &&
         is_aligned(args.dtarget, 16);
}

constexpr Variant<PointwiseLoss> kVariants[] = {
    {"vectors", "16 bytes per access, two of input and target in flight", supports_vectors, run<true>},
    {"elementwise", "an element per access", [](const PointwiseLoss&) { return true; }, run<false>},
};

}  // namespace

std::span<const Variant<PointwiseLoss>> pointwise_loss_variants() { return kVariants; }

void pointwise_loss(const Stream& stream, const PointwiseLoss& args) {
  run_variant("pointwise_loss", pointwise_loss_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
