// Reading by index.
//   index_select  rows. A block takes a tile of up to 1024 units of 16 bytes (or less, as rows and addresses allow):
//   several
//                 whole rows, or a part of one. Its indices are read once, densely, into shared memory; the rows then
//                 stream through the registers, four units in flight per thread.
//   gather        single elements: the index is read densely, what it points to wherever it is.
//   Mapping: blocks of 256 threads. Shared: 8 KiB of indices (index_select), none (gather).
#include "kernels/index.h"

#include <algorithm>

#include "kernels/common/launch.h"
#include "kernels/common/status.h"
#include "kernels/common/strided_gpu.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;
constexpr int kPerBlock = kThreads * kUnroll;

// --- index_select --------------------------------------------------------------------------------------------------

struct Tiles {
  std::int64_t outer_rows;  // rows of `in` per outer index: V
  std::int64_t count;       // N
  std::int64_t units;       // of a row
  std::int64_t row_tiles, column_tiles;
  int rows;         // of a tile
  Divisor columns;  // of a tile, in units
};

template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kThreads) select_kernel(const T* in, const std::int64_t* indices, T* out, Tiles tiles,
                                                      StatusCode code, DeviceStatus* status) {
  WEFT_SHARED(std::int64_t, rows, kPerBlock);  // of `in`; -1 for a bad index
  const std::int64_t tile = blockIdx.x / tiles.column_tiles, column_tile = blockIdx.x - tile * tiles.column_tiles;
  const std::int64_t o = tile / tiles.row_tiles, first = (tile - o * tiles.row_tiles) * tiles.rows;
  const int height = static_cast<int>(smaller<std::int64_t>(tiles.rows, tiles.count - first));
  const std::int64_t left = column_tile * tiles.columns.value;
  const auto width = static_cast<std::uint32_t>(smaller<std::int64_t>(tiles.columns.value, tiles.units - left));
  for (int r = static_cast<int>(threadIdx.x); r < height; r += kThreads) {
    std::int64_t index = load_one(indices + first + r);
    if (index < 0 || index >= tiles.outer_rows) {
      report(status, code, first + r, index, tiles.outer_rows);
      index = -1;
    }
    rows[r] = index;
  }
  __syncthreads();
  in += (o * tiles.outer_rows * tiles.units + left) * kWidth;
  out += ((o * tiles.count + first) * tiles.units + left) * kWidth;  // a tile is dense in `out`
  const std::uint32_t units = static_cast<std::uint32_t>(height) * width;
  Vec<T, kWidth> values[kUnroll];
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::uint32_t u = threadIdx.x + k * kThreads;
    if (u >= units) continue;
    const std::uint32_t r = tiles.columns.quotient(u),
                        column = u - r * tiles.columns.value;  // r is 0 in a part of a row
    const std::int64_t row = rows[static_cast<int>(r)];
    if (row >= 0) {
      values[k] = load<kWidth, Cache::readonly>(in + (row * tiles.units + column) * kWidth);
    } else {
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) values[k][i] = 0;
    }
  }
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::uint32_t u = threadIdx.x + k * kThreads;
    if (u < units) store(out + static_cast<std::int64_t>(u) * kWidth, values[k]);
  }
}

// Bytes that move at a time: the largest power of two up to 16 that divides a row and both addresses.
std::int64_t unit_bytes(const IndexSelect& args) {
  std::int64_t bytes = 16;
  while (args.inner * element_bytes(args.dtype) % bytes != 0 || !is_aligned(args.in, static_cast<std::size_t>(bytes)) ||
         !is_aligned(args.out, static_cast<std::size_t>(bytes)))
    bytes /= 2;
  return bytes;
}

bool vectorised_supports(const IndexSelect& args) { return unit_bytes(args) == 16; }

template <class T, int kWidth>
void select_units(const Stream& stream, const IndexSelect& args) {
  const std::int64_t row_bytes = args.inner * element_bytes(args.dtype);
  Tiles tiles;
  tiles.outer_rows = args.extent;
  tiles.count = args.count;
  tiles.units = row_bytes / (static_cast<std::int64_t>(sizeof(T)) * kWidth);
  const std::int64_t columns = std::min<std::int64_t>(tiles.units, kPerBlock);
  tiles.columns = Divisor(columns);
  tiles.rows = static_cast<int>(kPerBlock / columns);
  tiles.row_tiles = ceil_div<std::int64_t>(args.count, tiles.rows);
  tiles.column_tiles = ceil_div(tiles.units, columns);
  launch(stream,
         {.name = "index_select",
          .grid = {args.outer * tiles.row_tiles * tiles.column_tiles},
          .block = {kThreads},
          .operands = {{"in", args.in, args.outer * args.extent * row_bytes},
                       {"indices", args.indices, args.count * 8},
                       {"out", args.out, args.outer * args.count * row_bytes}}},
         select_kernel<T, kWidth>, static_cast<const T*>(args.in), args.indices, static_cast<T*>(args.out), tiles,
         args.code, args.status);
}

void vectorised_run(const Stream& stream, const IndexSelect& args) {
  if (args.outer * args.count * args.inner > 0) select_units<std::uint32_t, 4>(stream, args);
}

void narrow_run(const Stream& stream, const IndexSelect& args) {
  if (args.outer * args.count * args.inner == 0) return;
  switch (std::min<std::int64_t>(unit_bytes(args), 8)) {
    case 1: return select_units<std::uint8_t, 1>(stream, args);
    case 2: return select_units<std::uint16_t, 1>(stream, args);
    case 4: return select_units<std::uint32_t, 1>(stream, args);
    default: return select_units<std::uint64_t, 1>(stream, args);
  }
}

constexpr Variant<IndexSelect> kSelectVariants[] = {
    {"vectorised", "16 bytes at a time, indices through shared memory", vectorised_supports, vectorised_run},
    {"narrow", "the same in units of up to 8 bytes, for rows off the 16-byte grid",
     [](const IndexSelect&) { return true; }, narrow_run},
};

// --- gather --------------------------------------------------------------------------------------------------------

struct Gathered {
  std::int64_t index_stride, extent;
  std::int64_t start, base;  // of the piece: position of its first element, and where it begins in `in`
  StatusCode code;
  DeviceStatus* status;
};

template <class T>
WEFT_KERNEL __launch_bounds__(kThreads) gather_kernel(const T* in, const std::int64_t* index, T* out,
                                                      std::uint32_t count, Gathered args, StridedIndex<2> layout) {
  const std::uint32_t first = blockIdx.x * kPerBlock + threadIdx.x;
  std::int64_t from[kUnroll];
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::uint32_t e = first + k * kThreads;
    if (e >= count) continue;
    const std::int64_t found = load_one<Cache::streaming>(index + e);
    std::int64_t at[2];
    layout.offsets(e, at);
    from[k] = args.base + at[1] + found * args.index_stride;
    if (found >= 0 && found < args.extent) continue;
    report(args.status, args.code, args.start + e, found, args.extent);
    from[k] = -1;
  }
  T values[kUnroll];
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    if (first + k * kThreads >= count) continue;
    if (in == nullptr)
      values[k] = static_cast<T>(from[k]);
    else
      values[k] = from[k] < 0 ? T(0) : load_one<Cache::readonly>(in + from[k]);
  }
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k)
    if (first + k * kThreads < count) store_one(out + first + k * kThreads, values[k]);
}

template <class T>
void gather_elements(const Stream& stream, const Gather& args, T* out) {
  const Strides dense = contiguous_strides(args.shape);
  const StridedLayout<2> layout(args.shape, {&dense, &args.in_strides});
  std::int64_t last = (args.extent - 1) * args.index_stride;
  for (int d = 0; d < args.shape.rank(); ++d) last += (args.shape[d] - 1) * args.in_strides[d];
  for_each_piece(layout, [&](const StridedLayout<2>& piece) {
    const std::int64_t start = piece.starts[0], bytes = sizeof(T);
    launch(stream,
           {.name = args.in != nullptr ? "gather" : "gather_keys",
            .grid = {ceil_div<std::int64_t>(piece.count, kPerBlock)},
            .block = {kThreads},
            .operands = {{"in", args.in, args.in != nullptr ? (last + 1) * bytes : 0},
                         {"index", args.index + start, piece.count * 8},
                         {"out", out + start, piece.count * bytes}}},
           gather_kernel<T>, static_cast<const T*>(args.in), args.index + start, out + start,
           static_cast<std::uint32_t>(piece.count),
           Gathered{.index_stride = args.index_stride,
                    .extent = args.extent,
                    .start = start,
                    .base = piece.starts[1],
                    .code = args.code,
                    .status = args.status},
           StridedIndex<2>(piece, 1));
  });
}

bool all_elements(const Gather&) { return true; }

void elements_run(const Stream& stream, const Gather& args) {
  if (args.shape.numel() == 0) return;
  if (args.in == nullptr) return gather_elements(stream, args, reinterpret_cast<std::uint32_t*>(args.keys));
  switch (element_bytes(args.dtype)) {
    case 1: return gather_elements(stream, args, static_cast<std::uint8_t*>(args.out));
    case 2: return gather_elements(stream, args, static_cast<std::uint16_t*>(args.out));
    case 4: return gather_elements(stream, args, static_cast<std::uint32_t*>(args.out));
    default: return gather_elements(stream, args, static_cast<std::uint64_t*>(args.out));
  }
}

constexpr Variant<Gather> kGatherVariants[] = {
    {"elements", "four elements per thread, wherever the index points", all_elements, elements_run},
};

}  // namespace

std::span<const Variant<IndexSelect>> index_select_variants() { return kSelectVariants; }
std::span<const Variant<Gather>> gather_variants() { return kGatherVariants; }

void index_select(const Stream& stream, const IndexSelect& args) {
  run_variant("index_select", index_select_variants(), stream, args);
}
void gather(const Stream& stream, const Gather& args) { run_variant("gather", gather_variants(), stream, args); }

}  // namespace weft::kernels::WEFT_BACKEND
