#include "kernels/adamw.h"

#include <cmath>

#include "kernels/common/simd.h"

namespace weft::kernels {
namespace {

// What depends on t. The division of sqrt(v) by sqrt(1 - beta2^t) is moved out of the loop, to the step and to eps: per
// element, one root and one division remain, which simd::over_root then does without either.
struct Correction {
  Correction(const AdamWArgs& args, std::int64_t t) : t(t) {
    const double first = 1.0 - std::pow(args.beta1, static_cast<double>(t));
    const double second = std::sqrt(1.0 - std::pow(args.beta2, static_cast<double>(t)));
    step = args.state->lr / first * second;
    eps = args.eps * second;
  }
  std::int64_t t;
  double step, eps;  // p -= step * m / (sqrt(v) + eps)
};

template <class T>
void update(const AdamWArgs& args, const Correction& correction, const UpdateEntry& entry,
            const UpdateTable::Chunk& chunk) {
  using V = simd::Vec<T>;
  const StepState& state = *args.state;
  const auto constant = [](double value) { return simd::broadcast(static_cast<T>(value)); };
  const V scale = constant(state.scale), decay = constant(1.0 - state.lr * args.weight_decay);
  const V beta1 = constant(args.beta1), rest1 = constant(1.0 - args.beta1);
  const V beta2 = constant(args.beta2), rest2 = constant(1.0 - args.beta2);
  const V step = constant(-correction.step), eps = constant(correction.eps);
  T* parameter = static_cast<T*>(entry.parameter) + chunk.begin;
  const T* gradient = static_cast<const T*>(entry.gradient) + chunk.begin;
  T* moment1 = static_cast<T*>(entry.moment1) + chunk.begin;
  T* moment2 = static_cast<T*>(entry.moment2) + chunk.begin;
  simd::for_each_vector<T>(chunk.end - chunk.begin, [&](std::int64_t i, auto width) {
    prefetch_ahead(parameter + i);
    prefetch_ahead(gradient + i);
    prefetch_ahead(moment1 + i);
    prefetch_ahead(moment2 + i);
    const V g = simd::load_width(gradient + i, width) * scale;
    const V m = simd::load_width(moment1 + i, width) * beta1 + rest1 * g;
    const V v = simd::load_width(moment2 + i, width) * beta2 + rest2 * g * g;
    const V p = simd::load_width(parameter + i, width) * decay + simd::over_root(step * m, v, eps);
    simd::store_width<T, T>(moment1 + i, m, width);
    simd::store_width<T, T>(moment2 + i, v, width);
    simd::store_width<T, T>(parameter + i, p, width);
  });
}

}  // namespace

void adamw(Device device, const AdamWArgs& args) {
  if (WEFT_ON_GPU("adamw", adamw, device, args)) return;
  if (args.state->apply == 0) return;
  // Nearly always the t of every entry, so that the powers are taken once.
  const Correction usual(args, args.state->applied);
  args.table->for_each_chunk([&](const UpdateEntry& entry, const UpdateTable::Chunk& chunk, std::size_t) {
    const Correction correction = *entry.applied == usual.t ? usual : Correction(args, *entry.applied);
    dispatch_parameter(entry.dtype, "adamw",
                       [&]<class T>(std::type_identity<T>) { update<T>(args, correction, entry, chunk); });
  });
}

}  // namespace weft::kernels
