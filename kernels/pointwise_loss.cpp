// CPU kernels: chunks of fixed size, vectors within; terms are widened to f64 before they are added.
#include "kernels/pointwise_loss.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/common/simd.h"
#include "tensor/parallel.h"

namespace weft::kernels {
namespace {

using simd::Mask;
using simd::Vec;

constexpr std::int64_t kChunk = 16384;

std::int64_t chunk_count(std::int64_t count) { return std::max<std::int64_t>(1, (count + kChunk - 1) / kChunk); }

template <class C>
Vec<C> absolute(Vec<C> x) {
  return x < C(0) ? -x : x;
}
// -1, 0 or 1; NaN stays.
template <class C>
Vec<C> sign(Vec<C> x) {
  return x > C(0) ? simd::broadcast(C(1)) : (x < C(0) ? simd::broadcast(C(-1)) : x);
}

// log(1 + e) for e in [0, 1], at most 3 ulp: 2 artanh(s) with s = e / (2 + e) <= 1/3, of which s^17 is below 2^-26 s.
Vec<float> log1p_unit(Vec<float> e) {
  const Vec<float> s = e / (e + 2.0F), q = s * s;
  Vec<float> p = simd::broadcast(1.0F / 15);
  for (const float odd : {13.0F, 11.0F, 9.0F, 7.0F, 5.0F, 3.0F}) p = simd::fma(p, q, simd::broadcast(1.0F / odd));
  return 2.0F * simd::fma(s * q, p, s);
}
Vec<double> log1p_unit(Vec<double> e) {
  for (int i = 0; i < simd::kLanes<double>; ++i) e[i] = std::log1p(e[i]);
  return e;
}

// A loss and its derivatives.
template <class C>
struct Term {
  Vec<C> value, dinput, dtarget;
};

template <PointwiseLossOp kOp, class C>
Term<C> term_of(Vec<C> x, Vec<C> y, Vec<C> pos_weight, C parameter) {
  using V = Vec<C>;
  if constexpr (kOp == PointwiseLossOp::bce_with_logits) {
    const V e = simd::exp(-absolute<C>(x)), inverse = C(1) / (C(1) + e), tail = log1p_unit(e);
    const V softplus = (x > C(0) ? x : V{}) + tail, softplus_minus = (x < C(0) ? -x : V{}) + tail;  // of x and of -x
    const V sigmoid = x < C(0) ? e * inverse : inverse, sigmoid_minus = x < C(0) ? inverse : e * inverse;
    const V negative = C(1) - y, positive = pos_weight * y;
    // What a certain target rules out adds nothing, even where it is infinite.
    return {(negative == V{} ? V{} : negative * softplus) + (positive == V{} ? V{} : positive * softplus_minus),
            negative * sigmoid - positive * sigmoid_minus, pos_weight * softplus_minus - softplus};
  } else {
    const V d = x - y, a = absolute<C>(d), s = sign<C>(d);
    V value, slope;
    if constexpr (kOp == PointwiseLossOp::squared) {
      value = d * d;
      slope = C(2) * d;
    } else if constexpr (kOp == PointwiseLossOp::absolute) {
      value = a;
      slope = s;
    } else if constexpr (kOp == PointwiseLossOp::huber) {
      value = a <= parameter ? C(0.5) * d * d : parameter * (a - C(0.5) * parameter);
      slope = a <= parameter ? d : parameter * s;
    } else {
      value = a < parameter ? C(0.5) * d * d / parameter : a - C(0.5) * parameter;
      slope = a < parameter ? d / parameter : s;
    }
    return {value, slope, -slope};
  }
}

// sum += v, in f64.
void add(Vec<double>& sum, Vec<double> v) { sum += v; }
void add(Vec<double>& sum, Vec<float> v) {
  typedef float Half __attribute__((vector_size(32)));
  struct Halves {
    Half low, high;
  };
  const auto halves = std::bit_cast<Halves>(v);
  sum += __builtin_convertvector(halves.low, Vec<double>);
  sum += __builtin_convertvector(halves.high, Vec<double>);
}

// Elements [i, i + width) of an operand; where it is not full, one by one.
template <class T, class C, class W>
Vec<C> load_spread(const SpreadOperand& operand, std::int64_t count, std::int64_t i, W width, C absent) {
  if (operand.data == nullptr) return simd::broadcast(absent);
  const T* const data = static_cast<const T*>(operand.data);
  if constexpr (!std::is_same_v<T, std::uint8_t>)
    if (operand.divide == 1 && operand.modulo >= count) return simd::load_width<T>(data + i, width);
  Vec<C> v{};
  std::int64_t at = i / operand.divide % operand.modulo, left = operand.divide - i % operand.divide;
  for (std::int64_t k = 0; k < static_cast<std::int64_t>(width); ++k) {
    v[k] = static_cast<C>(data[at]);
    if (--left > 0) continue;
    left = operand.divide;
    if (++at == operand.modulo) at = 0;
  }
  return v;
}

template <PointwiseLossOp kOp, class S>
void run_chunk(const PointwiseLoss& args, std::int64_t begin, std::int64_t end, double* sums) {
  using C = compute_t<S>;
  using V = Vec<C>;
  const S* const input = static_cast<const S*>(args.input);
  const S* const target = static_cast<const S*>(args.target);
  S* const dinput = static_cast<S*>(args.dinput);
  S* const dtarget = static_cast<S*>(args.dtarget);
  const bool all_count = args.weight.data == nullptr && args.mask.data == nullptr;
  const C parameter = static_cast<C>(args.parameter);
  Vec<double> sum{}, denominator{};
  simd::for_each_vector<C>(end - begin, [&](std::int64_t offset, auto width) {
    const std::int64_t i = begin + offset;
    const V pos_weight = load_spread<S>(args.pos_weight, args.count, i, width, C(1));
    Term<C> term = term_of<kOp, C>(simd::load_width<S>(input + i, width), simd::load_width<S>(target + i, width),
                                   pos_weight, parameter);
    if (all_count) {
      term.value = simd::keep<C>(term.value, width);
    } else {
      V weight = simd::keep<C>(load_spread<S>(args.weight, args.count, i, width, C(1)), width);
      if (args.mask.data != nullptr)
        weight = load_spread<std::uint8_t>(args.mask, args.count, i, width, C(1)) == V{} ? V{} : weight;
      const Mask<C> out = weight == V{};
      term = {out ? V{} : weight * term.value, out ? V{} : weight * term.dinput, out ? V{} : weight * term.dtarget};
      add(denominator, weight);
    }
    add(sum, term.value);
    if (dinput != nullptr) simd::store_width<S>(dinput + i, term.dinput, width);
    if (dtarget != nullptr) simd::store_width<S>(dtarget + i, term.dtarget, width);
  });
  sums[0] = simd::horizontal_sum<double>(sum);
  sums[1] = all_count ? static_cast<double>(end - begin) : simd::horizontal_sum<double>(denominator);
}

template <class S>
void run_chunk(const PointwiseLoss& args, std::int64_t begin, std::int64_t end, double* sums) {
  switch (args.op) {
    case PointwiseLossOp::squared: return run_chunk<PointwiseLossOp::squared, S>(args, begin, end, sums);
    case PointwiseLossOp::absolute: return run_chunk<PointwiseLossOp::absolute, S>(args, begin, end, sums);
    case PointwiseLossOp::huber: return run_chunk<PointwiseLossOp::huber, S>(args, begin, end, sums);
    case PointwiseLossOp::smooth_l1: return run_chunk<PointwiseLossOp::smooth_l1, S>(args, begin, end, sums);
    case PointwiseLossOp::bce_with_logits:
      return run_chunk<PointwiseLossOp::bce_with_logits, S>(args, begin, end, sums);
  }
}

}  // namespace

std::int64_t pointwise_loss_partials(Device device, std::int64_t count) {
  const std::int64_t chunks = chunk_count(count);
  return 2 * (device.kind == DeviceKind::cpu ? chunks : kPointwiseLossBlocks);
}

void pointwise_loss(Device device, const PointwiseLoss& args) {
  if (WEFT_ON_GPU("pointwise_loss", pointwise_loss, device, args)) return;
  args.partials[0] = args.partials[1] = 0;  // also without elements
  dispatch_float(args.dtype, "pointwise_loss", [&]<class S>(std::type_identity<S>) {
    parallel_ranges(args.count, kChunk, [&](std::int64_t begin, std::int64_t end) {
      run_chunk<S>(args, begin, end, args.partials + 2 * (begin / kChunk));
    });
  });
  double sum = 0, denominator = 0;
  for (std::int64_t chunk = 0; chunk < chunk_count(args.count); ++chunk) {
    sum += args.partials[2 * chunk];
    denominator += args.partials[2 * chunk + 1];
  }
  *args.sum = sum;
  *args.denominator = denominator;
}

}  // namespace weft::kernels
