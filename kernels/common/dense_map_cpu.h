#pragma once
// Element-wise loops over dense operands on the cpu, in vectors, by chunks of a fixed size.
#include "kernels/common/simd.h"
#include "kernels/common/strided.h"

namespace weft::kernels {

/// out[i] = f(in[i]) over [0, count); f takes and returns vectors of the compute type. out may be in.
template <class T, class F>
void map(const T* in, T* out, std::int64_t count, F&& f) {
  using C = compute_t<T>;
  parallel_ranges(count, kElementwiseGrain, [&](std::int64_t begin, std::int64_t end) {
    simd::for_each_vector<C>(end - begin, [&](std::int64_t i, auto width) {
      simd::store_width<T>(out + begin + i, f(simd::load_width<T>(in + begin + i, width)), width);
    });
  });
}

/// out[i] = f(a[i], b[i]) over [0, count). out may be a or b.
template <class T, class F>
void map(const T* a, const T* b, T* out, std::int64_t count, F&& f) {
  using C = compute_t<T>;
  parallel_ranges(count, kElementwiseGrain, [&](std::int64_t begin, std::int64_t end) {
    simd::for_each_vector<C>(end - begin, [&](std::int64_t i, auto width) {
      const std::int64_t at = begin + i;
      simd::store_width<T>(out + at, f(simd::load_width<T>(a + at, width), simd::load_width<T>(b + at, width)), width);
    });
  });
}

}  // namespace weft::kernels
