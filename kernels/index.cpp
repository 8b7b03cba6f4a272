// CPU kernels. Rows are copied and added whole; the sort counts.
#include "kernels/index.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/common/simd.h"
#include "kernels/common/strided.h"
#include "tensor/parallel.h"

namespace weft::kernels {
namespace {

constexpr std::int64_t kChunkElems = 16384;  // work of one chunk

std::int64_t rows_per_chunk(std::int64_t inner) {
  return std::max<std::int64_t>(1, kChunkElems / std::max<std::int64_t>(inner, 1));
}

// Every index is seen before anything is written.
void check_indices(const std::int64_t* indices, std::int64_t count, std::int64_t extent, StatusCode code) {
  for (std::int64_t n = 0; n < count; ++n)
    if (indices[n] < 0 || indices[n] >= extent) [[unlikely]]
      fail_status(code, n, indices[n], extent);
}

// Calls f with an unsigned integer of the element's size: what is only moved has no type.
template <class F>
void with_bits(Dtype dtype, F&& f) {
  switch (element_bytes(dtype)) {
    case 1: return f(std::type_identity<std::uint8_t>{});
    case 2: return f(std::type_identity<std::uint16_t>{});
    case 4: return f(std::type_identity<std::uint32_t>{});
    default: return f(std::type_identity<std::uint64_t>{});
  }
}

}  // namespace

void index_select(Device device, const IndexSelect& args) {
  if (WEFT_ON_GPU("index_select", index_select, device, args)) return;
  check_indices(args.indices, args.count, args.extent, args.code);
  const auto row_bytes = static_cast<std::size_t>(args.inner * element_bytes(args.dtype));
  if (row_bytes == 0) return;
  const auto* const in = static_cast<const std::byte*>(args.in);
  auto* const out = static_cast<std::byte*>(args.out);
  parallel_ranges(args.outer * args.count, rows_per_chunk(args.inner), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t o = row / args.count, from = o * args.extent + args.indices[row - o * args.count];
      std::memcpy(out + static_cast<std::size_t>(row) * row_bytes, in + static_cast<std::size_t>(from) * row_bytes,
                  row_bytes);
    }
  });
}

void gather(Device device, const Gather& args) {
  if (WEFT_ON_GPU("gather", gather, device, args)) return;
  const std::int64_t count = args.shape.numel();
  check_indices(args.index, count, args.extent, args.code);
  if (count == 0) return;
  const StridedRuns<2> runs(args.shape, {contiguous_strides(args.shape), args.in_strides});
  const std::int64_t stride = runs.inner_stride(1);
  const auto for_each = [&](auto&& f) {
    runs.for_each(kElementwiseGrain, [&](const auto& offsets, std::int64_t length) {
      for (std::int64_t i = 0; i < length; ++i) {
        const std::int64_t e = offsets[0] + i;
        f(e, offsets[1] + i * stride + args.index[e] * args.index_stride);
      }
    });
  };
  if (args.in == nullptr)
    return for_each([&](std::int64_t e, std::int64_t at) { args.keys[e] = static_cast<std::int32_t>(at); });
  with_bits(args.dtype, [&]<class T>(std::type_identity<T>) {
    const T* const in = static_cast<const T*>(args.in);
    T* const out = static_cast<T*>(args.out);
    for_each([&](std::int64_t e, std::int64_t at) { out[e] = in[at]; });
  });
}

std::int64_t index_sort_workspace(Device device, std::int64_t count, std::int64_t extent) {
  if (device.kind == DeviceKind::cpu) return 0;
  constexpr std::int64_t kTile = 2048, kDigits = 256;  // kernels/index_backward.cu
  const std::int64_t tiles = (count + kTile - 1) / kTile;
  return kDigits * (tiles + 1) + (extent >= kDigits ? 2 * count : 0);
}

void index_sort(Device device, const IndexSort& args) {
  if (WEFT_ON_GPU("index_sort", index_sort, device, args)) return;
  // Counting. One thread: two passes over 8 bytes per position, beside which the rows that follow weigh far more.
  const auto key_of = [&](std::int64_t n) {
    const std::int64_t key = args.indices != nullptr ? args.indices[n] : args.unsorted[n];
    return key < 0 || key >= args.extent || key == args.skip ? args.extent : key;
  };
  std::vector<std::int32_t> next(static_cast<std::size_t>(args.extent) + 2);
  for (std::int64_t n = 0; n < args.count; ++n) ++next[static_cast<std::size_t>(key_of(n)) + 1];
  for (std::size_t v = 1; v < next.size(); ++v) next[v] += next[v - 1];
  for (std::int64_t n = 0; n < args.count; ++n) {
    const std::int64_t key = key_of(n);
    const std::int32_t at = next[static_cast<std::size_t>(key)]++;
    args.keys[at] = static_cast<std::int32_t>(key);
    args.order[at] = static_cast<std::int32_t>(n);
  }
}

namespace {

// sum[i] += rows order[begin, end) of source, in order; four rows at a time share the loads and stores of the sum.
template <class S, class C = compute_t<S>>
void add_rows(C* sum, const S* source, const std::int32_t* order, std::int64_t begin, std::int64_t end,
              std::int64_t inner) {
  std::int64_t j = begin;
  for (; j + 4 <= end; j += 4) {
    const S* rows[4];
    for (int k = 0; k < 4; ++k) rows[k] = source + static_cast<std::int64_t>(order[j + k]) * inner;
    simd::for_each_vector<C>(inner, [&](std::int64_t i, auto width) {
      auto total = simd::load_width<C>(sum + i, width);
      for (const S* row : rows) total += simd::load_width<S>(row + i, width);
      simd::store_width<C>(sum + i, total, width);
    });
  }
  for (; j < end; ++j) {
    const S* const row = source + static_cast<std::int64_t>(order[j]) * inner;
    simd::for_each_vector<C>(inner, [&](std::int64_t i, auto width) {
      simd::store_width<C>(sum + i, simd::load_width<C>(sum + i, width) + simd::load_width<S>(row + i, width), width);
    });
  }
}

// The positions of a key in the sorted list.
struct Run {
  std::int64_t begin, end;
  bool is_long() const { return end - begin > kIndexPiece; }
};
Run run_of(const IndexAdd& args, std::int64_t key) {
  const std::int32_t* const all = args.keys;
  const auto [first, last] = std::equal_range(all, all + args.count, static_cast<std::int32_t>(key));
  return {first - all, last - all};
}

// Piece j has two rows of partials: of its first key, and of its last, where those have long runs.
template <class S>
void add_pieces(const IndexAdd& args, std::int64_t o, const S* source) {
  using C = compute_t<S>;
  const std::int64_t pieces = (args.count + kIndexPiece - 1) / kIndexPiece;
  parallel_ranges(pieces, 1, [&](std::int64_t piece, std::int64_t) {
    const std::int64_t begin = piece * kIndexPiece, end = std::min(begin + kIndexPiece, args.count);
    for (int slot = 0; slot < 2; ++slot) {
      const std::int32_t key = args.keys[slot == 0 ? begin : end - 1];
      if (key == args.extent || (slot == 1 && key == args.keys[begin])) continue;
      const Run run = run_of(args, key);
      if (!run.is_long()) continue;
      C* const sum = static_cast<C*>(args.partials) + ((o * pieces + piece) * 2 + slot) * args.inner;
      std::fill(sum, sum + args.inner, C(0));
      add_rows(sum, source, args.order, std::max(begin, run.begin), std::min(end, run.end), args.inner);
    }
  });
}

template <class S>
void add_all(const IndexAdd& args, std::int64_t o) {
  using C = compute_t<S>;
  const S* const source = static_cast<const S*>(args.source) + o * args.count * args.inner;
  S* const out = static_cast<S*>(args.out) + o * args.extent * args.inner;
  if (args.count > kIndexPiece) add_pieces(args, o, source);
  const std::int64_t pieces = (args.count + kIndexPiece - 1) / kIndexPiece;
  parallel_ranges(args.extent, rows_per_chunk(args.inner), [&](std::int64_t first, std::int64_t last) {
    std::vector<C> sum(static_cast<std::size_t>(args.inner));
    std::int64_t at = std::lower_bound(args.keys, args.keys + args.count, static_cast<std::int32_t>(first)) - args.keys;
    for (std::int64_t v = first; v < last; ++v) {
      Run run{at, at};
      while (run.end < args.count && args.keys[run.end] == v && !run.is_long()) ++run.end;
      if (run.is_long()) run = run_of(args, v);
      at = run.end;
      S* const row = out + v * args.inner;
      if (run.begin == run.end) {
        if (args.mode == Accumulate::overwrite)
          std::memset(static_cast<void*>(row), 0, static_cast<std::size_t>(args.inner) * sizeof(S));
        continue;
      }
      if (args.inner == 1 && !run.is_long()) {  // gather's gradient, scatter_add: no vectors to speak of
        C total = 0;
        for (std::int64_t j = run.begin; j < run.end; ++j) total += static_cast<C>(source[args.order[j]]);
        *row = static_cast<S>(args.mode == Accumulate::add ? static_cast<C>(*row) + total : total);
        continue;
      }
      std::fill(sum.begin(), sum.end(), C(0));
      if (run.is_long()) {
        for (std::int64_t piece = run.begin / kIndexPiece; piece * kIndexPiece < run.end; ++piece) {
          const int slot = args.keys[piece * kIndexPiece] == v ? 0 : 1;
          const C* const partial =
              static_cast<const C*>(args.partials) + ((o * pieces + piece) * 2 + slot) * args.inner;
          simd::for_each_vector<C>(args.inner, [&](std::int64_t i, auto width) {
            C* const to = sum.data() + i;
            simd::store_width<C>(to, simd::load_width<C>(to, width) + simd::load_width<C>(partial + i, width), width);
          });
        }
      } else {
        add_rows(sum.data(), source, args.order, run.begin, run.end, args.inner);
      }
      const bool adds = args.mode == Accumulate::add;
      simd::for_each_vector<C>(args.inner, [&](std::int64_t i, auto width) {
        auto total = simd::load_width<C>(sum.data() + i, width);
        if (adds) total = simd::load_width<S>(row + i, width) + total;
        simd::store_width<S>(row + i, total, width);
      });
    }
  });
}

}  // namespace

void index_add(Device device, const IndexAdd& args) {
  if (WEFT_ON_GPU("index_add", index_add, device, args)) return;
  if (args.inner == 0) return;
  dispatch_float(args.dtype, "index_add", [&]<class S>(std::type_identity<S>) {
    for (std::int64_t o = 0; o < args.outer; ++o) add_all<S>(args, o);
  });
}

}  // namespace weft::kernels
