#pragma once
// One kernel source, two compilers. A .cu file includes this header (through launch.h) and never <cuda_runtime.h>:
//   nvcc  -> namespace weft::kernels::cuda, CUDA itself
//   g++   -> namespace weft::kernels::simt, CUDA's execution model emulated by simt/runtime.h
// What a kernel says the same way to both: memory is read and written through load(), store() and Shared<T>; the rest is
// CUDA's own vocabulary.
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "tensor/dtype.h"

#if defined(__CUDACC__)
#include <cassert>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define WEFT_BACKEND cuda
#define WEFT_KERNEL __global__ void
#define WEFT_DEVICE __device__ __forceinline__
#define WEFT_UNROLL _Pragma("unroll")
#define WEFT_NO_UNROLL _Pragma("unroll 1")
/// An array of `count` elements in shared memory, 16-byte aligned; `name` is a Shared<type>.
#define WEFT_SHARED(type, name, count) __shared__ __align__(16) type name[count]
/// All of the launch's dynamic shared memory as elements of one type.
#define WEFT_SHARED_DYNAMIC(type, name)                                \
  extern __shared__ __align__(16) unsigned char weft_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(weft_dynamic_shared)
// The place of an access, which only the emulator wants to know.
#define WEFT_SITE
#define WEFT_SITE_ONLY
#define WEFT_PASS_SITE
#else
#include "simt/runtime.h"
#define WEFT_BACKEND simt
#define WEFT_KERNEL void
#define WEFT_DEVICE inline
#define WEFT_UNROLL
#define WEFT_NO_UNROLL
#define __launch_bounds__(...)
// A declaration's identity is the address of a static in its own lambda: one for each instantiation of a template.
#define WEFT_SHARED(type, name, count)                                                    \
  const Shared<type> name(::weft::simt::detail::shared_array(                             \
                              []() -> const void* {                                       \
                                static char id;                                           \
                                return &id;                                               \
                              }(),                                                        \
                              #name, sizeof(type), count, ::weft::simt::Site::current()), \
                          0)
#define WEFT_SHARED_DYNAMIC(type, name)                                                \
  const Shared<type> name(::weft::simt::detail::shared_array(                          \
                              []() -> const void* {                                    \
                                static char id;                                        \
                                return &id;                                            \
                              }(),                                                     \
                              #name, sizeof(type), -1, ::weft::simt::Site::current()), \
                          0)
#define WEFT_SITE , ::weft::simt::Site site = ::weft::simt::Site::current()
#define WEFT_SITE_ONLY ::weft::simt::Site site = ::weft::simt::Site::current()
#define WEFT_PASS_SITE , site
#endif

namespace weft::kernels::WEFT_BACKEND {

#if defined(__CUDACC__)
/// A place in shared memory: a plain pointer here, a checked one in the emulator. `s[i]`, `s + n`.
template <class T>
using Shared = T*;
#else
// CUDA's names. (Not a using-directive: weft::simt has a Stream and a detail of its own.)
using ::weft::simt::__all_sync;
using ::weft::simt::__any_sync;
using ::weft::simt::__ballot_sync;
using ::weft::simt::__match_any_sync;
using ::weft::simt::__reduce_add_sync;
using ::weft::simt::__reduce_and_sync;
using ::weft::simt::__reduce_max_sync;
using ::weft::simt::__reduce_min_sync;
using ::weft::simt::__reduce_or_sync;
using ::weft::simt::__reduce_xor_sync;
using ::weft::simt::__shfl_down_sync;
using ::weft::simt::__shfl_sync;
using ::weft::simt::__shfl_up_sync;
using ::weft::simt::__shfl_xor_sync;
using ::weft::simt::__syncthreads;
using ::weft::simt::__syncthreads_and;
using ::weft::simt::__syncthreads_count;
using ::weft::simt::__syncthreads_or;
using ::weft::simt::__syncwarp;
using ::weft::simt::__threadfence;
using ::weft::simt::__threadfence_block;
using ::weft::simt::blockDim;
using ::weft::simt::blockIdx;
using ::weft::simt::gridDim;
using ::weft::simt::Shared;
using ::weft::simt::threadIdx;
#endif

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;

/// N elements of T moved by one memory instruction (16 bytes at the most), or held in registers.
template <class T, int N>
struct alignas(sizeof(T) * N <= 16 ? sizeof(T) * N : 16) Vec {
  static_assert(N > 0 && (N & (N - 1)) == 0, "a power of two");
  T lane[N];
  WEFT_DEVICE T& operator[](int i) { return lane[i]; }
  WEFT_DEVICE const T& operator[](int i) const { return lane[i]; }
};

/// The widest vector of T that one instruction moves.
template <class T>
inline constexpr int kVectorWidth = 16 / static_cast<int>(sizeof(T));

/// How an access treats the caches. streaming: will not be used again (evicted first). readonly: nobody writes it during
/// the kernel (it may be kept in the L1).
enum class Cache : std::uint8_t { normal, streaming, readonly };

// --- global memory -------------------------------------------------------------------------------------------------------

#if defined(__CUDACC__)
namespace detail {
template <int kBytes>
struct Raw;
template <>
struct Raw<1> {
  using type = unsigned char;
};
template <>
struct Raw<2> {
  using type = unsigned short;
};
template <>
struct Raw<4> {
  using type = unsigned;
};
template <>
struct Raw<8> {
  using type = uint2;
};
template <>
struct Raw<16> {
  using type = uint4;
};
}  // namespace detail
#endif

/// N elements starting at `from`, which is aligned to N * sizeof(T) bytes. Global memory is read and written only through
/// load and store.
template <int N = 1, Cache kCache = Cache::normal, class T>
WEFT_DEVICE Vec<T, N> load(const T* from WEFT_SITE) {
  static_assert(sizeof(T) * N <= 16, "one access moves at most 16 bytes");
#if defined(__CUDACC__)
  using Raw = typename detail::Raw<sizeof(T) * N>::type;
  const Raw* const address = reinterpret_cast<const Raw*>(from);
  Raw raw;
  if constexpr (kCache == Cache::streaming)
    raw = __ldcs(address);
  else if constexpr (kCache == Cache::readonly)
    raw = __ldg(address);
  else
    raw = *address;
  Vec<T, N> value;
  memcpy(&value, &raw, sizeof(raw));
  return value;
#else
  return *static_cast<const Vec<T, N>*>(
      ::weft::simt::global_access(from, sizeof(T) * N, sizeof(T) * N, ::weft::simt::Access::read, site));
#endif
}

template <Cache kCache = Cache::normal, class T, int N>
WEFT_DEVICE void store(T* to, const Vec<T, N>& value WEFT_SITE) {
  static_assert(sizeof(T) * N <= 16, "one access moves at most 16 bytes");
#if defined(__CUDACC__)
  using Raw = typename detail::Raw<sizeof(T) * N>::type;
  Raw* const address = reinterpret_cast<Raw*>(to);
  Raw raw;
  memcpy(&raw, &value, sizeof(raw));
  if constexpr (kCache == Cache::streaming)
    __stcs(address, raw);
  else
    *address = raw;
#else
  *static_cast<Vec<T, N>*>(
      ::weft::simt::global_access(to, sizeof(T) * N, sizeof(T) * N, ::weft::simt::Access::write, site)) = value;
#endif
}

/// One element.
template <Cache kCache = Cache::normal, class T>
WEFT_DEVICE T load_one(const T* from WEFT_SITE) {
  return load<1, kCache>(from WEFT_PASS_SITE)[0];
}
template <Cache kCache = Cache::normal, class T>
WEFT_DEVICE void store_one(T* to, T value WEFT_SITE) {
  store<kCache>(
      to, Vec<T, 1> {
        { value }
      } WEFT_PASS_SITE);
}

// --- shared memory -------------------------------------------------------------------------------------------------------

/// Elements [index, index + N) by one instruction; index is a multiple of N.
template <int N, class T>
WEFT_DEVICE Vec<T, N> load_shared(Shared<T> from, int index WEFT_SITE) {
  static_assert(sizeof(T) * N <= 16, "one access moves at most 16 bytes");
#if defined(__CUDACC__)
  return *reinterpret_cast<const Vec<T, N>*>(from + index);
#else
  return *reinterpret_cast<const Vec<T, N>*>(from.access(index, N, ::weft::simt::Access::read, site));
#endif
}

template <class T, int N>
WEFT_DEVICE void store_shared(Shared<T> to, int index, const Vec<T, N>& value WEFT_SITE) {
  static_assert(sizeof(T) * N <= 16, "one access moves at most 16 bytes");
#if defined(__CUDACC__)
  *reinterpret_cast<Vec<T, N>*>(to + index) = value;
#else
  *reinterpret_cast<Vec<T, N>*>(to.access(index, N, ::weft::simt::Access::write, site)) = value;
#endif
}

// --- atomics ---------------------------------------------------------------------------------------------------------------
// On integers only: with floats the result would depend on the order of the threads.

/// *to += value; the value before. T: int, unsigned, unsigned long long.
template <class T>
WEFT_DEVICE T atomic_add(T* to, T value WEFT_SITE) {
  static_assert(std::is_integral_v<T>);
#if defined(__CUDACC__)
  return ::atomicAdd(to, value);
#else
  T* const at =
      static_cast<T*>(::weft::simt::global_access(to, sizeof(T), sizeof(T), ::weft::simt::Access::atomic, site));
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
#endif
}

/// *to = value where *to == expected; the value before.
template <class T>
WEFT_DEVICE T atomic_compare_and_swap(T* to, T expected, T value WEFT_SITE) {
  static_assert(std::is_integral_v<T>);
#if defined(__CUDACC__)
  return ::atomicCAS(to, expected, value);
#else
  T* const at =
      static_cast<T*>(::weft::simt::global_access(to, sizeof(T), sizeof(T), ::weft::simt::Access::atomic, site));
  __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
#endif
}

/// The same on element `index` of a shared array.
template <class T>
WEFT_DEVICE T atomic_add_shared(Shared<T> to, int index, T value WEFT_SITE) {
  static_assert(std::is_integral_v<T>);
#if defined(__CUDACC__)
  return ::atomicAdd(to + index, value);
#else
  return __atomic_fetch_add(to.access(index, 1, ::weft::simt::Access::atomic, site), value, __ATOMIC_RELAXED);
#endif
}

// --- numbers -------------------------------------------------------------------------------------------------------------

/// A stored value in the type that kernels compute in: float, or double for double.
template <class T>
WEFT_DEVICE compute_t<T> widen(T value) {
#if defined(__CUDACC__)
  if constexpr (std::is_same_v<T, bfloat16>)
    return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
  else if constexpr (std::is_same_v<T, float16>)
    return __half2float(__ushort_as_half(value.bits));
  else
    return value;
#else
  return static_cast<compute_t<T>>(value);
#endif
}

/// Rounds (to nearest even) to the type that is stored.
template <class T>
WEFT_DEVICE T narrow(compute_t<T> value) {
#if defined(__CUDACC__)
  if constexpr (std::is_same_v<T, bfloat16>) {
    T stored;
    stored.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
    return stored;
  } else if constexpr (std::is_same_v<T, float16>) {
    T stored;
    stored.bits = __half_as_ushort(__float2half_rn(value));
    return stored;
  } else {
    return value;
  }
#else
  return static_cast<T>(value);
#endif
}

/// N stored values in compute type, and back.
template <class T, int N>
WEFT_DEVICE Vec<compute_t<T>, N> widen(const Vec<T, N>& stored) {
  Vec<compute_t<T>, N> value;
#if defined(__CUDACC__)
  if constexpr (std::is_same_v<T, bfloat16> && N % 2 == 0) {
    // Two at a time, from the words as they were loaded: taken one by one, each would occupy a register of its own.
    unsigned words[N / 2];
    memcpy(words, &stored, sizeof(words));
    WEFT_UNROLL
    for (int i = 0; i < N / 2; ++i) {
      value[2 * i] = __uint_as_float(words[i] << 16);
      value[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
    return value;
  } else
#endif
  {
    WEFT_UNROLL
    for (int i = 0; i < N; ++i) value[i] = widen(stored[i]);
    return value;
  }
}
template <class T, int N>
WEFT_DEVICE Vec<T, N> narrow(const Vec<compute_t<T>, N>& value) {
  Vec<T, N> stored;
  WEFT_UNROLL
  for (int i = 0; i < N; ++i) stored[i] = narrow<T>(value[i]);
  return stored;
}

// Neither compiler contracts a*b+c on its own (-ffp-contract=off, --fmad=false): a kernel says fused where it means it, and
// rounds alike on both.
WEFT_DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
WEFT_DEVICE double fused(double a, double b, double c) { return fma(a, b, c); }
WEFT_DEVICE float square_root(float x) { return sqrtf(x); }
WEFT_DEVICE double square_root(double x) { return ::sqrt(x); }
WEFT_DEVICE float exponential(float x) { return expf(x); }
WEFT_DEVICE double exponential(double x) { return ::exp(x); }
WEFT_DEVICE float logarithm(float x) { return logf(x); }
WEFT_DEVICE double logarithm(double x) { return ::log(x); }
WEFT_DEVICE float logarithm_1p(float x) { return log1pf(x); }  // ln(1 + x)
WEFT_DEVICE double logarithm_1p(double x) { return ::log1p(x); }
WEFT_DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
WEFT_DEVICE double hyperbolic_tangent(double x) { return ::tanh(x); }
WEFT_DEVICE float complementary_error(float x) { return erfcf(x); }
WEFT_DEVICE double complementary_error(double x) { return ::erfc(x); }
WEFT_DEVICE float power(float x, float exponent) { return powf(x, exponent); }
WEFT_DEVICE double power(double x, double exponent) { return ::pow(x, exponent); }
WEFT_DEVICE float absolute(float x) { return fabsf(x); }
WEFT_DEVICE double absolute(double x) { return ::fabs(x); }
template <class T>
WEFT_DEVICE T smaller(T a, T b) {
  return b < a ? b : a;
}
template <class T>
WEFT_DEVICE T larger(T a, T b) {
  return a < b ? b : a;
}

/// ceil(a / b) for a >= 0, b > 0; on host and device.
template <class T>
#if defined(__CUDACC__)
__host__ __device__
#endif
    constexpr T
    ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace weft::kernels::WEFT_BACKEND
