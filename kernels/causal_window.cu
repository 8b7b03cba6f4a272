// The places before each place, side by side, and the transpose.
//   Forward:  a thread reads a unit of 16 bytes (or less, as rows and addresses allow) once and writes it to every window
//             that holds its place, and zeros to the parts of its own window that lie before the segment. So each element of
//             the result is written once, and nothing is read twice.
//   Backward: a thread adds up, for a unit of dx, what the windows of the places after it say: a sum in a fixed order
//             without atomics. Parts that stand for a zero are not read.
//   Mapping:  a block of 256 threads takes a tile of up to 1024 units: several whole places or a part of one, four
//             units per thread; neighbouring threads have neighbouring units of the row. No shared memory.
#include "kernels/causal_window.h"

#include <algorithm>

#include "kernels/common/launch.h"
#include "kernels/common/strided_gpu.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;
constexpr int kPerBlock = kThreads * kUnroll;

struct Tiles {
  std::int64_t places;        // N
  std::int64_t units;         // of a place
  std::int64_t column_tiles;  // of a place
  std::int64_t width;         // W
  int rows;                   // of a tile, in places
  Divisor columns;            // of a tile, in units
  const std::int32_t* cu_seqlens;
  const std::int32_t* ids;
};

// A unit of a place, and how much of its segment the window reaches.
struct Unit {
  std::int64_t place, column;
  int before, after;  // places of the segment on either side, [0, W)
};

struct Tile {
  std::int64_t first, left;
  std::uint32_t columns, count;  // units of a row of the tile, of the tile
};

WEFT_DEVICE Tile tile_of(const Tiles& tiles) {
  const std::int64_t row_tile = blockIdx.x / tiles.column_tiles;
  const std::int64_t first = row_tile * tiles.rows,
                     left = (blockIdx.x - row_tile * tiles.column_tiles) * tiles.columns.value;
  const auto rows = static_cast<std::uint32_t>(smaller<std::int64_t>(tiles.rows, tiles.places - first));
  const auto columns = static_cast<std::uint32_t>(smaller<std::int64_t>(tiles.columns.value, tiles.units - left));
  return {first, left, columns, rows * columns};
}

WEFT_DEVICE Unit unit_of(const Tiles& tiles, const Tile& tile, std::uint32_t u) {
  const std::uint32_t r = tiles.columns.quotient(u);  // 0 in a part of a place
  const std::int64_t place = tile.first + r;
  const std::int32_t segment = load_one<Cache::readonly>(tiles.ids + place);
  const std::int64_t begin = load_one<Cache::readonly>(tiles.cu_seqlens + segment),
                     end = load_one<Cache::readonly>(tiles.cu_seqlens + segment + 1);
  return {place, tile.left + u - r * tiles.columns.value,
          static_cast<int>(smaller<std::int64_t>(tiles.width - 1, place - begin)),
          static_cast<int>(smaller<std::int64_t>(tiles.width - 1, end - 1 - place))};
}

// --- forward -------------------------------------------------------------------------------------------------------

template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kThreads) forward_kernel(const T* in, T* out, Tiles tiles) {
  const Tile tile = tile_of(tiles);
  Vec<T, kWidth> values[kUnroll];
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::uint32_t u = threadIdx.x + k * kThreads;
    if (u >= tile.count) continue;
    const std::uint32_t r = tiles.columns.quotient(u);
    const std::int64_t column = tile.left + u - r * tiles.columns.value;
    values[k] = load<kWidth, Cache::streaming>(in + ((tile.first + r) * tiles.units + column) * kWidth);
  }
  Vec<T, kWidth> zero;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) zero[i] = 0;
  const std::int64_t step =
      (tiles.width - 1) * tiles.units * kWidth;  // to the same unit in the window of the next place
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::uint32_t u = threadIdx.x + k * kThreads;
    if (u >= tile.count) continue;
    const Unit unit = unit_of(tiles, tile, u);
    T* const row = out + (unit.place * tiles.width * tiles.units + unit.column) * kWidth;
    WEFT_NO_UNROLL
    for (int j = 0; j <= unit.after; ++j) store(row + step * (j + 1), values[k]);
    WEFT_NO_UNROLL
    for (std::int64_t w = 0; w < tiles.width - 1 - unit.before; ++w) store(row + w * tiles.units * kWidth, zero);
  }
}

// Tiles of rows of `bytes`, in units of `unit_bytes`.
template <class Args>
Tiles tiles_of(const Args& args, std::int64_t bytes, std::int64_t unit_bytes) {
  Tiles tiles;
  tiles.places = args.places;
  tiles.units = bytes / unit_bytes;
  const std::int64_t columns = std::min<std::int64_t>(tiles.units, kPerBlock);
  tiles.columns = Divisor(columns);
  tiles.rows = static_cast<int>(kPerBlock / columns);
  tiles.column_tiles = ceil_div(tiles.units, columns);
  tiles.width = args.width;
  tiles.cu_seqlens = args.cu_seqlens;
  tiles.ids = args.ids;
  return tiles;
}

std::int64_t blocks_of(const Tiles& tiles) {
  return ceil_div<std::int64_t>(tiles.places, tiles.rows) * tiles.column_tiles;
}

// Bytes that move at a time: the largest power of two up to 16 that divides a row and both addresses.
std::int64_t unit_bytes(const CausalWindowForward& args) {
  std::int64_t bytes = 16;
  while (args.channels * element_bytes(args.dtype) % bytes != 0 ||
         !is_aligned(args.in, static_cast<std::size_t>(bytes)) ||
         !is_aligned(args.out, static_cast<std::size_t>(bytes)))
    bytes /= 2;
  return bytes;
}

template <class T, int kWidth>
void forward_units(const Stream& stream, const CausalWindowForward& args) {
  const std::int64_t bytes = args.channels * element_bytes(args.dtype);
  const Tiles tiles = tiles_of(args, bytes, static_cast<std::int64_t>(sizeof(T)) * kWidth);
  launch(stream,
         {.name = "causal_window_forward",
          .grid = {blocks_of(tiles)},
          .block = {kThreads},
          .operands = {{"in", args.in, args.places * bytes},
                       {"cu_seqlens", args.cu_seqlens, (args.segments + 1) * 4, OperandKind::broadcast},
                       {"ids", args.ids, args.places * 4, OperandKind::broadcast},
                       {"out", args.out, args.places * args.width * bytes}}},
         forward_kernel<T, kWidth>, static_cast<const T*>(args.in), static_cast<T*>(args.out), tiles);
}

bool forward_vectorised_supports(const CausalWindowForward& args) { return unit_bytes(args) == 16; }

void forward_vectorised_run(const Stream& stream, const CausalWindowForward& args) {
  if (args.places * args.channels > 0) forward_units<std::uint32_t, 4>(stream, args);
}

void forward_narrow_run(const Stream& stream, const CausalWindowForward& args) {
  if (args.places * args.channels == 0) return;
  switch (std::min<std::int64_t>(unit_bytes(args), 8)) {
    case 1: return forward_units<std::uint8_t, 1>(stream, args);
    case 2: return forward_units<std::uint16_t, 1>(stream, args);
    case 4: return forward_units<std::uint32_t, 1>(stream, args);
    default: return forward_units<std::uint64_t, 1>(stream, args);
  }
}

constexpr Variant<CausalWindowForward> kForwardVariants[] = {
    {"vectorised", "16 bytes read once, written to every window that holds them", forward_vectorised_supports,
     forward_vectorised_run},
    {"narrow", "the same in units of up to 8 bytes, for rows off the 16-byte grid",
     [](const CausalWindowForward&) { return true; }, forward_narrow_run},
};

// --- backward ------------------------------------------------------------------------------------------------------

template <class S, int kWidth>
WEFT_KERNEL __launch_bounds__(kThreads) backward_kernel(const S* dy, S* dx, Tiles tiles, Accumulate mode) {
  using C = compute_t<S>;
  constexpr int kUnits = 2;  // at a time: sums of eight lanes of bf16 fill the registers
  const Tile tile = tile_of(tiles);
  const std::int64_t step = (tiles.width - 1) * tiles.units * kWidth;
  WEFT_NO_UNROLL
  for (int round = 0; round < kUnroll; round += kUnits) {
    Vec<C, kWidth> sums[kUnits];
    const S* from[kUnits];
    Unit units[kUnits];
    int most = -1;
    WEFT_UNROLL
    for (int k = 0; k < kUnits; ++k) {
      const std::uint32_t u = threadIdx.x + (round + k) * kThreads;
      units[k] = {0, 0, 0, -1};
      from[k] = dy;
      if (u >= tile.count) continue;
      units[k] = unit_of(tiles, tile, u);
      if (units[k].after > most) most = units[k].after;
      from[k] = dy + (units[k].place * tiles.width * tiles.units + units[k].column) * kWidth + step;
      sums[k] = widen(load<kWidth, Cache::streaming>(from[k]));
    }
    WEFT_NO_UNROLL
    for (int j = 1; j <= most; ++j) {
      WEFT_UNROLL
      for (int k = 0; k < kUnits; ++k) {
        if (j > units[k].after) continue;
        const Vec<C, kWidth> term = widen(load<kWidth, Cache::streaming>(from[k] + j * step));
        WEFT_UNROLL
        for (int i = 0; i < kWidth; ++i) sums[k][i] += term[i];
      }
    }
    WEFT_UNROLL
    for (int k = 0; k < kUnits; ++k) {
      if (units[k].after < 0) continue;
      S* const to = dx + (units[k].place * tiles.units + units[k].column) * kWidth;
      if (mode == Accumulate::add) {
        const Vec<C, kWidth> before = widen(load<kWidth>(to));
        WEFT_UNROLL
        for (int i = 0; i < kWidth; ++i) sums[k][i] = before[i] + sums[k][i];
      }
      store(to, narrow<S>(sums[k]));
    }
  }
}

bool backward_vectorised_supports(const CausalWindowBackward& args) {
  return args.channels * element_bytes(args.dtype) % 16 == 0 && is_aligned(args.dy, 16) && is_aligned(args.dx, 16);
}

template <bool kVectorised>
void backward_run(const Stream& stream, const CausalWindowBackward& args) {
  if (args.places * args.channels == 0) return;
  dispatch_float(args.dtype, "causal_window", [&]<class S>(std::type_identity<S>) {
    constexpr int kWidth = kVectorised ? kVectorWidth<S> : 1;
    const std::int64_t bytes = args.channels * static_cast<std::int64_t>(sizeof(S));
    const Tiles tiles = tiles_of(args, bytes, static_cast<std::int64_t>(sizeof(S)) * kWidth);
    launch(stream,
           {.name = "causal_window_backward",
            .grid = {blocks_of(tiles)},
            .block = {kThreads},
            .operands = {{"dy", args.dy, args.places * args.width * bytes},
                         {"cu_seqlens", args.cu_seqlens, (args.segments + 1) * 4, OperandKind::broadcast},
                         {"ids", args.ids, args.places * 4, OperandKind::broadcast},
                         {"dx", args.dx, args.places * bytes}}},
           backward_kernel<S, kWidth>, static_cast<const S*>(args.dy), static_cast<S*>(args.dx), tiles, args.mode);
  });
}

constexpr Variant<CausalWindowBackward> kBackwardVariants[] = {
    {"vectorised", "16 bytes of dx from the windows that hold them", backward_vectorised_supports, backward_run<true>},
    {"scalar", "the same, an element at a time", [](const CausalWindowBackward&) { return true; }, backward_run<false>},
};

}  // namespace

std::span<const Variant<CausalWindowForward>> causal_window_forward_variants() { return kForwardVariants; }
std::span<const Variant<CausalWindowBackward>> causal_window_backward_variants() { return kBackwardVariants; }

void causal_window_forward(const Stream& stream, const CausalWindowForward& args) {
  run_variant("causal_window_forward", causal_window_forward_variants(), stream, args);
}
void causal_window_backward(const Stream& stream, const CausalWindowBackward& args) {
  run_variant("causal_window_backward", causal_window_backward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
