#include "kernels/reduce.h"

#include <algorithm>
#include <vector>

#include "kernels/common/simd.h"
#include "tensor/parallel.h"

namespace weft::kernels {
namespace {

using simd::kLanes;
using simd::Vec;

template <class T>
using sum_t = std::conditional_t<std::is_integral_v<T>, std::int64_t, T>;

constexpr std::int64_t kWork = 32768;  // elements per parallel chunk, at least

// Sum of `count` neighbouring elements, count <= kWork.
template <class T>
auto sum_run(const T* in, std::int64_t count) {
  if constexpr (std::is_integral_v<T>) {
    std::int64_t total = 0;
    for (std::int64_t i = 0; i < count; ++i) total += static_cast<std::int64_t>(in[i]);
    return total;
  } else {
    using C = compute_t<T>;
    Vec<C> even{}, odd{};  // two chains of additions hide half of their latency
    std::int64_t i = 0;
    for (; i + 2 * kLanes<C> <= count; i += 2 * kLanes<C>) {
      even += simd::load<T>(in + i);
      odd += simd::load<T>(in + i + kLanes<C>);
    }
    for (; i + kLanes<C> <= count; i += kLanes<C>) even += simd::load<T>(in + i);
    if (i < count) odd += simd::load_tail<T>(in + i, count - i);
    return static_cast<double>(simd::horizontal_sum<C>(even + odd));
  }
}

// *out = total, or += total; in double for floats, so that adding rounds once.
template <class Out, class Total>
void write(Out& out, Total total, Accumulate mode) {
  if constexpr (std::is_integral_v<Out>) {
    out = mode == Accumulate::add ? out + total : total;
  } else {
    using C = compute_t<Out>;
    if (mode == Accumulate::add) total += static_cast<double>(static_cast<C>(out));
    out = static_cast<Out>(static_cast<C>(total));
  }
}

// [A, R] -> [A]
template <class T>
void sum_rows(const Sum& args) {
  const T* const in = static_cast<const T*>(args.in);
  auto* const out = static_cast<sum_t<T>*>(args.out);
  using Total = decltype(sum_run<T>(in, 0));
  if (args.reduced <= kWork) {
    const std::int64_t rows_per_chunk = std::max<std::int64_t>(1, kWork / std::max<std::int64_t>(args.reduced, 1));
    parallel_ranges(args.outer, rows_per_chunk, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t a = begin; a < end; ++a)
        write(out[a], sum_run<T>(in + a * args.reduced, args.reduced), args.mode);
    });
    return;
  }
  const std::int64_t pieces = (args.reduced + kWork - 1) / kWork;
  std::vector<Total> partial(static_cast<std::size_t>(args.outer * pieces));
  parallel_chunks(args.outer * pieces, [&](std::int64_t item) {
    const std::int64_t begin = item % pieces * kWork;
    partial[static_cast<std::size_t>(item)] =
        sum_run<T>(in + item / pieces * args.reduced + begin, std::min(kWork, args.reduced - begin));
  });
  for (std::int64_t a = 0; a < args.outer; ++a) {
    Total total = 0;
    for (std::int64_t piece = 0; piece < pieces; ++piece)
      total += partial[static_cast<std::size_t>(a * pieces + piece)];
    write(out[a], total, args.mode);
  }
}

// [A, R, B] -> [A, B]: strips of columns, each summed down fixed pieces of R.
template <class T>
void sum_columns(const Sum& args) {
  using Total = decltype(sum_run<T>(nullptr, 0));
  constexpr std::int64_t kStrip = 64;
  const T* const in = static_cast<const T*>(args.in);
  auto* const out = static_cast<sum_t<T>*>(args.out);
  const std::int64_t strips = (args.inner + kStrip - 1) / kStrip;
  const std::int64_t rows = std::max<std::int64_t>(1, std::min<std::int64_t>(args.reduced, kWork / kStrip));
  const std::int64_t pieces = std::max<std::int64_t>(1, (args.reduced + rows - 1) / rows);
  std::vector<Total> partial(static_cast<std::size_t>(pieces * args.outer * args.inner));
  parallel_chunks(args.outer * strips * pieces, [&](std::int64_t item) {
    const std::int64_t piece = item % pieces, strip = item / pieces % strips, a = item / pieces / strips;
    const std::int64_t column = strip * kStrip, width = std::min(kStrip, args.inner - column);
    const std::int64_t first = piece * rows, last = std::min(args.reduced, first + rows);
    Total* const to = partial.data() + (a * pieces + piece) * args.inner + column;
    if constexpr (std::is_integral_v<T>) {
      for (std::int64_t r = first; r < last; ++r)
        for (std::int64_t b = 0; b < width; ++b)
          to[b] += static_cast<std::int64_t>(in[(a * args.reduced + r) * args.inner + column + b]);
    } else {
      using C = compute_t<T>;
      constexpr int kVectors = static_cast<int>(kStrip) / kLanes<C>;
      Vec<C> totals[kVectors] = {};
      for (std::int64_t r = first; r < last; ++r) {
        const T* const row = in + (a * args.reduced + r) * args.inner + column;
        if (width == kStrip) {
          for (int v = 0; v < kVectors; ++v) totals[v] += simd::load<T>(row + v * kLanes<C>);
        } else {
          for (int v = 0; v * kLanes<C> < width; ++v)
            totals[v] +=
                simd::load_tail<T>(row + v * kLanes<C>, std::min<std::int64_t>(kLanes<C>, width - v * kLanes<C>));
        }
      }
      for (std::int64_t b = 0; b < width; ++b)
        to[b] = static_cast<double>(totals[b / kLanes<C>][static_cast<int>(b % kLanes<C>)]);
    }
  });
  for (std::int64_t a = 0; a < args.outer; ++a)
    for (std::int64_t b = 0; b < args.inner; ++b) {
      Total total = 0;
      for (std::int64_t piece = 0; piece < pieces; ++piece)
        total += partial[static_cast<std::size_t>((a * pieces + piece) * args.inner + b)];
      write(out[a * args.inner + b], total, args.mode);
    }
}

template <class T>
void argmax_cpu(const Argmax& args) {
  const T* const in = static_cast<const T*>(args.in);
  const auto value = [](T x) {
    if constexpr (std::is_integral_v<T>)
      return x;
    else
      return static_cast<compute_t<T>>(x);
  };
  const std::int64_t grain = std::max<std::int64_t>(1, kWork / std::max<std::int64_t>(args.reduced, 1));
  parallel_ranges(args.outer * args.inner, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const T* const column = in + i / args.inner * args.reduced * args.inner + i % args.inner;
      std::int64_t best = 0;
      auto highest = value(column[0]);
      for (std::int64_t r = 1; r < args.reduced && highest == highest; ++r) {
        const auto candidate = value(column[r * args.inner]);
        if ((args.smallest ? candidate < highest : candidate > highest) || candidate != candidate) {
          best = r;
          highest = candidate;
        }
      }
      if (args.out != nullptr) args.out[i] = best;
      if (args.values != nullptr) static_cast<T*>(args.values)[i] = column[best * args.inner];
    }
  });
}

}  // namespace

SumPlan sum_plan(std::int64_t outer, std::int64_t reduced, std::int64_t inner) {
  const auto ceil_div = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  constexpr std::int64_t kBlocks = 1024;  // about eight for each multiprocessor of a large GPU
  const std::int64_t tiles = std::max<std::int64_t>(outer * ceil_div(inner, 128), 1);
  // At least so much that the partial sums cost next to nothing, at most so much that a lane's sum in f32 stays
  // accurate.
  const std::int64_t least = std::max<std::int64_t>(128, 8192 / inner);
  const std::int64_t most = std::max<std::int64_t>(4096, 262144 / inner);
  const std::int64_t wanted = std::min(ceil_div(kBlocks, tiles), reduced / least);
  const std::int64_t pieces = std::max<std::int64_t>({wanted, ceil_div(reduced, most), 1});
  if (pieces == 1) return {1, reduced};
  const std::int64_t rows = ceil_div(ceil_div(reduced, pieces), 16) * 16;
  return {ceil_div(reduced, rows), rows};
}

std::int64_t sum_workspace_bytes(Device device, Dtype dtype, std::int64_t outer, std::int64_t reduced,
                                 std::int64_t inner) {
  if (device.kind == DeviceKind::cpu || outer == 0 || inner == 0) return 0;
  const SumPlan plan = sum_plan(outer, reduced, inner);
  const std::int64_t partial_bytes = dtype != Dtype::f64 && is_floating(dtype) ? 4 : 8;
  return plan.pieces == 1 ? 0 : outer * plan.pieces * inner * partial_bytes;
}

void sum(Device device, const Sum& args) {
  if (args.outer == 0 || args.inner == 0) return;
  require(
      args.workspace != nullptr || sum_workspace_bytes(device, args.dtype, args.outer, args.reduced, args.inner) == 0,
      "sum", "a workspace of sum_workspace_bytes() is needed for [{}, {}, {}]", args.outer, args.reduced, args.inner);
  if (WEFT_ON_GPU("sum", sum, device, args)) return;
  dispatch_all(args.dtype, "sum", [&]<class T>(std::type_identity<T>) {
    if (args.inner == 1)
      sum_rows<T>(args);
    else
      sum_columns<T>(args);
  });
}

void argmax(Device device, const Argmax& args) {
  if (args.outer == 0 || args.inner == 0) return;
  if (WEFT_ON_GPU("argmax", argmax, device, args)) return;
  dispatch_all(args.dtype, "argmax", [&]<class T>(std::type_identity<T>) { argmax_cpu<T>(args); });
}

void equal_mask(Device device, const EqualMask& args) {
  if (args.outer == 0 || args.reduced == 0 || args.inner == 0) return;
  if (WEFT_ON_GPU("equal_mask", equal_mask, device, args)) return;
  dispatch_float(args.dtype, "equal_mask", [&]<class T>(std::type_identity<T>) {
    using C = compute_t<T>;
    const std::int64_t grain = std::max<std::int64_t>(1, kWork / args.inner);
    parallel_ranges(args.outer * args.reduced, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row)
        for (std::int64_t b = 0; b < args.inner; ++b) {
          const C x = static_cast<C>(static_cast<const T*>(args.in)[row * args.inner + b]);
          const C y = static_cast<C>(static_cast<const T*>(args.value)[row / args.reduced * args.inner + b]);
          static_cast<T*>(args.mask)[row * args.inner + b] = T(C(x == y || (x != x && y != y) ? 1 : 0));
        }
    });
  });
}

}  // namespace weft::kernels
