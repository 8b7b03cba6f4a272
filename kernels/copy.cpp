#include "kernels/copy.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/common/strided.h"

namespace weft::kernels {
namespace {

template <class To, class From>
inline To convert(From value) {
  constexpr bool from_half = std::is_same_v<From, float16> || std::is_same_v<From, bfloat16>;
  constexpr bool to_half = std::is_same_v<To, float16> || std::is_same_v<To, bfloat16>;
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (from_half) {
    return convert<To>(static_cast<float>(value));
  } else if constexpr (to_half) {
    return To(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, bool>) {
    return value != From(0);
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    if (value != value) return To(0);
    // The bounds as floats: the upper one may round up to one past the largest integer, hence >=.
    if (value <= static_cast<From>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    if (value >= static_cast<From>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return static_cast<To>(value);
  } else {
    return static_cast<To>(value);
  }
}

template <class To, class From>
void copy_cpu(const Copy& args) {
  To* const out = static_cast<To*>(args.out);
  const From* const in = static_cast<const From*>(args.in);
  const StridedRuns<2> runs(args.shape, {args.out_strides, args.in_strides});
  const std::int64_t out_stride = runs.inner_stride(0), in_stride = runs.inner_stride(1);
  runs.for_each(kElementwiseGrain, [&](const auto& offsets, std::int64_t length) {
    To* const to = out + offsets[0];
    const From* const from = in + offsets[1];
    if (out_stride == 1 && in_stride == 1) {
      if constexpr (std::is_same_v<To, From>) {
        if (to != from) std::memcpy(to, from, static_cast<std::size_t>(length) * sizeof(To));
      } else {
        for (std::int64_t i = 0; i < length; ++i) to[i] = convert<To>(from[i]);
      }
    } else {
      for (std::int64_t i = 0; i < length; ++i) to[i * out_stride] = convert<To>(from[i * in_stride]);
    }
  });
}

}  // namespace

void copy(Device device, const Copy& args) {
  require_cpu("copy", device);
  dispatch_all(args.out_dtype, "copy", [&]<class To>(std::type_identity<To>) {
    dispatch_all(args.in_dtype, "copy", [&]<class From>(std::type_identity<From>) { copy_cpu<To, From>(args); });
  });
}

void fill(Device device, const Fill& args) {
  require_cpu("fill", device);
  dispatch_all(args.dtype, "fill", [&]<class T>(std::type_identity<T>) {
    T* const out = static_cast<T*>(args.out);
    const T value = convert<T>(args.value);
    parallel_ranges(args.count, kElementwiseGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) out[i] = value;
    });
  });
}

}  // namespace weft::kernels
