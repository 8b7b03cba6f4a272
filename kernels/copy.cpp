#include "kernels/copy.h"

#include <cstring>

#include "kernels/common/convert.h"
#include "kernels/common/strided.h"

namespace weft::kernels {
namespace {

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
  if (WEFT_ON_GPU("copy", copy, device, args)) return;
  dispatch_all(args.out_dtype, "copy", [&]<class To>(std::type_identity<To>) {
    dispatch_all(args.in_dtype, "copy", [&]<class From>(std::type_identity<From>) { copy_cpu<To, From>(args); });
  });
}

void fill(Device device, const Fill& args) {
  if (WEFT_ON_GPU("fill", fill, device, args)) return;
  dispatch_all(args.dtype, "fill", [&]<class T>(std::type_identity<T>) {
    T* const out = static_cast<T*>(args.out);
    const T value = convert<T>(args.value);
    parallel_ranges(args.count, kElementwiseGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) out[i] = value;
    });
  });
}

}  // namespace weft::kernels
