#pragma once
// The emulator of CUDA's execution model: a fiber per thread, blocks one after another, barriers per block, rendezvous
// per warp and mask. CUDA's own names (threadIdx, __syncthreads, ...) live here, where the host compiler finds them
// when it compiles a kernel. docs/emulator.md says what is checked and what cannot be.
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "simt/fault.h"
#include "simt/memory.h"
#include "simt/site.h"
#include "simt/traffic.h"

// An assert in a kernel must not end the process: it is a fault like the others.
#undef assert
#define assert(condition) \
  (static_cast<bool>(condition) ? void(0) : ::weft::simt::assertion_failed(#condition, ::weft::simt::Site::current()))

namespace weft::simt {

// --- launching -------------------------------------------------------------------------------------------------------

enum class ThreadOrder : std::uint8_t { forward, reverse, seeded };

/// The order in which warps, the lanes within them, and blocks run. No correct kernel's result depends on it.
struct OrderScope {
  explicit OrderScope(ThreadOrder order, std::uint64_t seed = 1);
  ~OrderScope();
  OrderScope(const OrderScope&) = delete;
  OrderScope& operator=(const OrderScope&) = delete;

 private:
  ThreadOrder before_;
  std::uint64_t before_seed_;
};

struct LaunchConfig {
  const char* kernel = "";
  Dim3 grid = {};
  Dim3 block = {};
  std::size_t dynamic_shared_bytes = 0;
  std::size_t shared_limit_bytes = 48 * 1024;  // static and dynamic together
  const Operand* operands = nullptr;
  std::size_t operand_count = 0;
};

/// Runs every thread of every block, on the calling OS thread, and returns when all are done. `body(context)` is the
/// kernel, called once per CUDA thread. Launches must not nest; several OS threads may each run one.
/// Throws KernelError with everything that was found wrong. The configuration is taken as valid: launch() in
/// kernels/common checks it.
void run(const LaunchConfig& config, void (*body)(void*), void* context);

template <class F>
void run(const LaunchConfig& config, F&& f) {
  run(
      config, [](void* context) { (*static_cast<std::remove_reference_t<F>*>(context))(); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

/// Counters since the start of the process, for the cost table.
struct Counters {
  std::uint64_t launches = 0, blocks = 0, threads = 0, switches = 0;
};
Counters counters();

/// True while the calling OS thread runs a kernel.
bool in_kernel();

/// For the debugger: with the environment variable WEFT_SIMT_BREAK="kernel:bx,by,bz:tx,ty,tz" this function is called
/// in that thread right before the kernel starts ("kernel" may be a prefix, or empty for any). gdb breaks on it and steps
/// out into the kernel.
extern "C" void weft_simt_break();
/// The same for the launches of the calling OS thread from now on; an empty text switches it off.
/// Errors: std::invalid_argument for a text of another form.
void break_at(const std::string& place);

[[noreturn]] void assertion_failed(const char* condition, const Site& site);

// --- CUDA's variables ------------------------------------------------------------------------------------------------

// Set at every switch of fibers. A fiber never moves to another OS thread.
extern constinit thread_local Dim3 threadIdx, blockIdx, blockDim, gridDim;

// --- barriers and warps ----------------------------------------------------------------------------------------------
// NOLINTBEGIN(bugprone-reserved-identifier): CUDA's names

void __syncthreads(Site site = Site::current());
int __syncthreads_count(int predicate, Site site = Site::current());
int __syncthreads_and(int predicate, Site site = Site::current());
int __syncthreads_or(int predicate, Site site = Site::current());
void __syncwarp(unsigned mask = 0xffffffffu, Site site = Site::current());

// Memory is sequentially consistent here, so that fences have nothing to do.
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace detail {
enum class Shuffle : std::uint8_t { index, up, down, exclusive_or };
enum class Reduce : std::uint8_t { add, minimum, maximum, bit_and, bit_or, bit_xor };
/// The 64 bits that the source lane offers; the own ones where CUDA says so (source outside the width's segment).
std::uint64_t shuffle(Shuffle kind, unsigned mask, std::uint64_t bits, int operand, int width, const Site& site);
/// The lanes of the mask whose predicate is true.
unsigned ballot(unsigned mask, bool predicate, const Site& site);
std::uint64_t reduce(Reduce kind, bool is_signed, unsigned mask, std::uint64_t value, const Site& site);
unsigned match_any(unsigned mask, std::uint64_t bits, const Site& site);

template <class T>
T shuffle_value(Shuffle kind, unsigned mask, T value, int operand, int width, const Site& site) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(kind, mask, bits, operand, width, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
}  // namespace detail

template <class T>
T __shfl_sync(unsigned mask, T value, int source_lane, int width = 32, Site site = Site::current()) {
  return detail::shuffle_value(detail::Shuffle::index, mask, value, source_lane, width, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, Site site = Site::current()) {
  return detail::shuffle_value(detail::Shuffle::up, mask, value, static_cast<int>(delta), width, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, Site site = Site::current()) {
  return detail::shuffle_value(detail::Shuffle::down, mask, value, static_cast<int>(delta), width, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, Site site = Site::current()) {
  return detail::shuffle_value(detail::Shuffle::exclusive_or, mask, value, lane_mask, width, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, Site site = Site::current()) {
  return detail::ballot(mask, predicate != 0, site);
}
inline int __any_sync(unsigned mask, int predicate, Site site = Site::current()) {
  return detail::ballot(mask, predicate != 0, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, Site site = Site::current()) {
  return detail::ballot(mask, predicate == 0, site) == 0;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, Site site = Site::current()) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return detail::match_any(mask, bits, site);
}
template <class T>
requires(std::is_same_v<T, int> || std::is_same_v<T, unsigned>) T
    __reduce_add_sync(unsigned mask, T value, Site site = Site::current()) {
  return static_cast<T>(detail::reduce(detail::Reduce::add, false, mask, static_cast<unsigned>(value), site));
}
template <class T>
requires(std::is_same_v<T, int> || std::is_same_v<T, unsigned>) T
    __reduce_min_sync(unsigned mask, T value, Site site = Site::current()) {
  return static_cast<T>(detail::reduce(detail::Reduce::minimum, std::is_signed_v<T>, mask,
                                       static_cast<std::uint64_t>(static_cast<std::int64_t>(value)), site));
}
template <class T>
requires(std::is_same_v<T, int> || std::is_same_v<T, unsigned>) T
    __reduce_max_sync(unsigned mask, T value, Site site = Site::current()) {
  return static_cast<T>(detail::reduce(detail::Reduce::maximum, std::is_signed_v<T>, mask,
                                       static_cast<std::uint64_t>(static_cast<std::int64_t>(value)), site));
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, Site site = Site::current()) {
  return static_cast<unsigned>(detail::reduce(detail::Reduce::bit_and, false, mask, value, site));
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, Site site = Site::current()) {
  return static_cast<unsigned>(detail::reduce(detail::Reduce::bit_or, false, mask, value, site));
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value, Site site = Site::current()) {
  return static_cast<unsigned>(detail::reduce(detail::Reduce::bit_xor, false, mask, value, site));
}
// NOLINTEND(bugprone-reserved-identifier)

// --- shared memory ---------------------------------------------------------------------------------------------------

struct SharedArray;  // a declaration's memory in the running block, and what is known of each element

namespace detail {
/// The running block's array for one declaration: the same for all its threads; new, and filled with signalling NaN,
/// for every block. count < 0 stands for the dynamic part, whole.
SharedArray* shared_array(const void* declaration, const char* name, std::size_t element_bytes, std::int64_t count,
                          const Site& site);
/// Checks elements [index, index + count) and says where they are; 2 to 16 bytes in all count as one vector access.
/// Faults: shared_bounds, shared_misaligned (thrown); shared_unwritten, shared_race (noted).
void* shared_access(SharedArray* array, std::int64_t index, int count, Access access, const Site& site);
std::int64_t shared_count(const SharedArray* array);
}  // namespace detail

/// What `array[i]` is: reads and writes of it are checked and counted.
template <class T>
class SharedRef {
 public:
  SharedRef(SharedArray* array, std::int64_t index, Site site) : array_(array), index_(index), site_(site) {}
  SharedRef(const SharedRef&) = default;
  operator T() const {  // NOLINT(google-explicit-constructor)
    return *static_cast<const T*>(detail::shared_access(array_, index_, 1, Access::read, site_));
  }
  T operator=(T value) const {  // NOLINT(misc-unconventional-assign-operator): writes through
    *static_cast<T*>(detail::shared_access(array_, index_, 1, Access::write, site_)) = value;
    return value;
  }
  T operator=(const SharedRef& other) const { return *this = static_cast<T>(other); }            // NOLINT
  T operator+=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) + value); }  // NOLINT
  T operator-=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) - value); }  // NOLINT
  T operator*=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) * value); }  // NOLINT

 private:
  SharedArray* array_;
  std::int64_t index_;
  Site site_;
};

/// A shared array, or the part of it behind an offset; what `T*` into shared memory is under CUDA.
template <class T>
class Shared {
 public:
  static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 16);
  Shared(SharedArray* array, std::int64_t offset) : array_(array), offset_(offset) {}
  SharedRef<T> operator[](Index index) const { return {array_, offset_ + index.value, index.site}; }
  Shared operator+(std::int64_t elements) const { return {array_, offset_ + elements}; }
  /// Where elements [index, index + count) are, checked: what vector accesses and atomics are made of.
  T* access(std::int64_t index, int count, Access access, const Site& site) const {
    return static_cast<T*>(detail::shared_access(array_, offset_ + index, count, access, site));
  }

 private:
  SharedArray* array_;
  std::int64_t offset_;
};

}  // namespace weft::simt
