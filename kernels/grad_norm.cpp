#include "kernels/grad_norm.h"

#include <cmath>

#include "kernels/common/simd.h"

namespace weft::kernels {
namespace {

// Four running sums hide the latency of the addition.
template <class T>
double sum_of_squares(const T* gradient, std::int64_t count) {
  using V = simd::Vec<T>;
  constexpr std::int64_t kBlock = 4 * simd::kLanes<T>;
  V sums[4] = {};
  std::int64_t done = 0;
  for (; done + kBlock <= count; done += kBlock)
    for (int k = 0; k < 4; ++k) {
      const V g = simd::load(gradient + done + k * simd::kLanes<T>);
      sums[k] = simd::fma(g, g, sums[k]);
    }
  simd::for_each_vector<T>(count - done, [&](std::int64_t offset, auto width) {
    const V g = simd::load_width(gradient + done + offset, width);
    sums[0] = simd::fma(g, g, sums[0]);
  });
  return static_cast<double>(simd::horizontal_sum<T>((sums[0] + sums[1]) + (sums[2] + sums[3])));
}

void decide(const GradNormArgs& args) {
  StepState& state = *args.state;
  state.sum_of_squares = 0;
  for (std::size_t i = 0; i < args.table->chunks().size(); ++i) state.sum_of_squares += args.partial[i];
  state.denominator = args.denominator != nullptr ? *args.denominator : 1.0;
  state.norm = std::sqrt(state.sum_of_squares) / std::fabs(state.denominator);
  const double clip = args.max_norm > 0 ? std::fmin(1.0, args.max_norm / (state.norm + 1e-6)) : 1.0;
  state.scale = clip / state.denominator;
  // In f32, the narrowest type that the two are used in.
  const bool finite = std::isfinite(static_cast<float>(state.norm)) && std::isfinite(static_cast<float>(state.scale)) &&
                      std::isfinite(state.denominator);
  state.apply = finite ? 1 : 0;  // a denominator of 0 makes the scale infinite
  state.updates += 1;
  if (state.apply != 0) {
    state.applied += 1;
    state.skipped_in_a_row = 0;
    for (const UpdateEntry& entry : args.table->entries()) *entry.applied += 1;
  } else {
    (state.denominator == 0 ? state.skipped_zero_denominator : state.skipped_not_finite) += 1;
    state.skipped_in_a_row += 1;
  }
}

}  // namespace

void grad_norm(Device device, const GradNormArgs& args) {
  if (WEFT_ON_GPU("grad_norm", grad_norm, device, args)) return;
  args.table->for_each_chunk([&](const UpdateEntry& entry, const UpdateTable::Chunk& chunk, std::size_t number) {
    dispatch_parameter(entry.dtype, "grad_norm", [&]<class T>(std::type_identity<T>) {
      const T* gradient = static_cast<const T*>(entry.gradient) + chunk.begin;
      args.partial[number] = sum_of_squares(gradient, chunk.end - chunk.begin);
    });
  });
  decide(args);
}

}  // namespace weft::kernels
