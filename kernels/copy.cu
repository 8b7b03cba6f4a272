// Copies between strided layouts and dtypes, and fill.
//   Idea:    a copy is as fast as its accesses are wide and dense, so the layout picks the kernel:
//              dense      both sides in one piece: 16-byte vectors, four in flight per thread; converts on the way
//              transpose  the two sides are dense along different dimensions: square tiles go through shared memory, so
//                         that both the reads and the writes are dense
//              strided    equal dtypes: the widest unit of 1 to 16 bytes that extents, strides and addresses allow; a
//                         value that is broadcast along the innermost dimension is read once per vector
//              scalar     everything else, one element at a time, with the dtype looked up in the kernel
//   Mapping: blocks of 256 threads; dense and strided move 1024 units per block, transpose one tile (32 x 32 elements
//            of 4 or 8 bytes, 64 x 64 of 1 or 2).
//   Shared:  transpose only: 4.1 to 8.3 KiB; rows are padded so that columns are read without bank conflicts.
//   Beyond 2^30 elements strided layouts are launched in pieces, so that indices stay 32 bits wide; offsets are 64 bits
//   wide.
#include "kernels/copy.h"

#include <algorithm>
#include <bit>

#include "kernels/common/convert.h"
#include "kernels/common/launch.h"
#include "kernels/common/strided_gpu.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // units per thread: enough bytes in flight to hide the memory's latency
constexpr int kPerBlock = kThreads * kUnroll;

using Layout = StridedLayout<2>;  // out, in
constexpr int kOut = 0, kIn = 1;

Layout layout_of(const Copy& args) { return Layout(args.shape, {&args.out_strides, &args.in_strides}); }

bool is_dense(const Layout& layout) {
  return layout.rank == 1 && layout.strides[kOut][0] == 1 && layout.strides[kIn][0] == 1;
}

// Bytes from an operand's first element to its last, for the traffic table.
std::int64_t span_bytes(const Layout& layout, int n, Dtype dtype) {
  std::int64_t last = 0;
  for (int d = 0; d < layout.rank; ++d) last += (layout.extents[d] - 1) * layout.strides[n][d];
  return (last + 1) * element_bytes(dtype);
}

// --- conversions ---------------------------------------------------------------------------------------------------

// Between the pairs of types that have kernels of their own: equal, or floats through f32.
template <class To, class From>
WEFT_DEVICE To convert_on_device(From value) {
  if constexpr (std::is_same_v<To, From>)
    return value;
  else
    return narrow<To>(static_cast<compute_t<To>>(widen(value)));
}

// Calls f with the element types when the pair has kernels of its own: the unsigned integer of that size for equal
// dtypes, and the casts of mixed-precision training and of image bytes.
template <class F>
bool with_fast_pair(const Copy& args, F&& f) {
  const auto pair = [&]<class To, class From>(std::type_identity<To> to, std::type_identity<From> from) {
    f(to, from);
    return true;
  };
  const auto same = [&]<class T>(std::type_identity<T> type) { return pair(type, type); };
  const auto is = [&](Dtype to, Dtype from) { return args.out_dtype == to && args.in_dtype == from; };
  if (args.out_dtype == args.in_dtype) {
    switch (element_bytes(args.out_dtype)) {
      case 1: return same(std::type_identity<std::uint8_t>{});
      case 2: return same(std::type_identity<std::uint16_t>{});
      case 4: return same(std::type_identity<std::uint32_t>{});
      default: return same(std::type_identity<std::uint64_t>{});
    }
  }
  if (is(Dtype::bf16, Dtype::f32)) return pair(std::type_identity<bfloat16>{}, std::type_identity<float>{});
  if (is(Dtype::f32, Dtype::bf16)) return pair(std::type_identity<float>{}, std::type_identity<bfloat16>{});
  if (is(Dtype::f16, Dtype::f32)) return pair(std::type_identity<float16>{}, std::type_identity<float>{});
  if (is(Dtype::f32, Dtype::f16)) return pair(std::type_identity<float>{}, std::type_identity<float16>{});
  if (is(Dtype::f32, Dtype::u8)) return pair(std::type_identity<float>{}, std::type_identity<std::uint8_t>{});
  return false;
}
bool has_fast_pair(const Copy& args) {
  return with_fast_pair(args, [](auto, auto) {});
}

// --- dense ---------------------------------------------------------------------------------------------------------

template <class To, class From, int kWidth>
WEFT_KERNEL __launch_bounds__(kThreads) dense_kernel(const From* in, To* out, std::int64_t count) {
  const std::int64_t vectors = count / kWidth;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kPerBlock + threadIdx.x;
  Vec<From, kWidth> values[kUnroll];
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::int64_t v = first + k * kThreads;
    if (v < vectors) values[k] = load<kWidth>(in + v * kWidth);
  }
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::int64_t v = first + k * kThreads;
    if (v >= vectors) continue;
    Vec<To, kWidth> converted;
    WEFT_UNROLL
    for (int i = 0; i < kWidth; ++i) converted[i] = convert_on_device<To>(values[k][i]);
    store(out + v * kWidth, converted);
  }
  const std::int64_t rest = vectors * kWidth + threadIdx.x;
  if (blockIdx.x == 0 && rest < count) store_one(out + rest, convert_on_device<To>(load_one(in + rest)));
}

template <class To, class From>
constexpr int kDenseWidth = 16 / static_cast<int>(std::max(sizeof(To), sizeof(From)));

bool dense_supports(const Copy& args) {
  bool aligned = false;
  const bool fast = with_fast_pair(args, [&]<class To, class From>(std::type_identity<To>, std::type_identity<From>) {
    constexpr int kWidth = kDenseWidth<To, From>;
    aligned = is_aligned(args.out, sizeof(To) * kWidth) && is_aligned(args.in, sizeof(From) * kWidth);
  });
  return fast && aligned && is_dense(layout_of(args));
}

void dense_run(const Stream& stream, const Copy& args) {
  const std::int64_t count = args.shape.numel();
  if (count == 0) return;
  with_fast_pair(args, [&]<class To, class From>(std::type_identity<To>, std::type_identity<From>) {
    constexpr int kWidth = kDenseWidth<To, From>;
    const std::int64_t blocks = std::max<std::int64_t>(ceil_div<std::int64_t>(count / kWidth, kPerBlock), 1);
    launch(stream,
           {.name = "copy_dense",
            .grid = {blocks},
            .block = {kThreads},
            .operands = {{"in", args.in, count * element_bytes(args.in_dtype)},
                         {"out", args.out, count * element_bytes(args.out_dtype)}}},
           dense_kernel<To, From, kWidth>, static_cast<const From*>(args.in), static_cast<To*>(args.out), count);
  });
}

// --- transpose -----------------------------------------------------------------------------------------------------

// Dimension i is dense in `in`, dimension j in `out`; the others are batches.
struct Transpose {
  std::uint32_t extent_i, extent_j;
  std::int64_t in_stride_j, out_stride_i;
  Divisor tiles_i, tiles_j;  // tiles along i and j
  StridedIndex<2> batches;
};

// What the tile holds: bits, or floats where the copy converts.
template <class To, class From>
using Tile = std::conditional_t<std::is_same_v<To, From>, To, float>;
template <class T>
constexpr int kTileSize = sizeof(T) < 4 ? 64 : 32;
// One word more per row: the elements of a column lie in different banks.
template <class T>
constexpr int kTilePitch = kTileSize<T> + (sizeof(T) < 4 ? 4 / static_cast<int>(sizeof(T)) : 1);

template <class To, class From>
WEFT_KERNEL __launch_bounds__(kThreads) transpose_kernel(const From* in, To* out, Transpose args) {
  using T = Tile<To, From>;
  constexpr int kSize = kTileSize<T>, kPitch = kTilePitch<T>, kRowStep = kThreads / kWarpSize,
                kAcross = kSize / kWarpSize;
  WEFT_SHARED(T, tile, kSize * kPitch);

  const std::uint32_t column = args.tiles_i.quotient(blockIdx.x);  // tile column over all batches
  const std::uint32_t batch = args.tiles_j.quotient(column);
  const std::uint32_t i0 = (blockIdx.x - column * args.tiles_i.value) * kSize;
  const std::uint32_t j0 = (column - batch * args.tiles_j.value) * kSize;
  std::int64_t at[2];
  args.batches.offsets(batch, at);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;

  WEFT_UNROLL
  for (int step = 0; step < kSize * kSize / kThreads; ++step) {
    const int r = warp + step / kAcross * kRowStep, c = lane + step % kAcross * kWarpSize;
    const std::uint32_t i = i0 + static_cast<std::uint32_t>(c), j = j0 + static_cast<std::uint32_t>(r);
    if (i < args.extent_i && j < args.extent_j)
      tile[r * kPitch + c] = convert_on_device<T>(load_one(in + at[kIn] + j * args.in_stride_j + i));
  }
  __syncthreads();
  WEFT_UNROLL
  for (int step = 0; step < kSize * kSize / kThreads; ++step) {
    const int r = warp + step / kAcross * kRowStep, c = lane + step % kAcross * kWarpSize;
    const std::uint32_t i = i0 + static_cast<std::uint32_t>(r), j = j0 + static_cast<std::uint32_t>(c);
    if (i < args.extent_i && j < args.extent_j)
      store_one(out + at[kOut] + i * args.out_stride_i + j,
                convert_on_device<To>(static_cast<T>(tile[c * kPitch + r])));
  }
}

// The dimension along which operand n is dense, or -1; runs shorter than a sector of 32 bytes do not count.
int dense_dimension(const Layout& layout, int n, Dtype dtype) {
  for (int d = 0; d < layout.rank; ++d)
    if (layout.strides[n][d] == 1 && layout.extents[d] * element_bytes(dtype) >= 32) return d;
  return -1;
}

bool transpose_supports(const Copy& args) {
  if (!has_fast_pair(args)) return false;
  const Layout layout = layout_of(args);
  const int i = dense_dimension(layout, kIn, args.in_dtype), j = dense_dimension(layout, kOut, args.out_dtype);
  // What is broadcast along the writes needs no tile: each value is read once for a whole vector.
  return i >= 0 && j >= 0 && i != j && layout.strides[kIn][j] != 0;
}

template <class To, class From>
void transpose_piece(const Stream& stream, const Copy& args, const Layout& layout) {
  constexpr int kSize = kTileSize<Tile<To, From>>;
  // A piece may have lost a dimension of extent 1, or kept less than a sector of it: stride 1 is what identifies it.
  int i = -1, j = -1;
  for (int d = layout.rank - 1; d >= 0; --d) {
    if (layout.strides[kIn][d] == 1) i = d;
    if (layout.strides[kOut][d] == 1) j = d;
  }
  Layout batches = layout;
  batches.rank = 0;
  for (int d = 0; d < layout.rank; ++d) {
    if (d == i || d == j) continue;
    batches.extents[batches.rank] = layout.extents[d];
    for (int n = 0; n < 2; ++n) batches.strides[n][batches.rank] = layout.strides[n][d];
    ++batches.rank;
  }
  if (batches.rank == 0) {
    batches.rank = 1;
    batches.extents[0] = 1;
  }
  const std::int64_t extent_i = i < 0 ? 1 : layout.extents[i], extent_j = j < 0 ? 1 : layout.extents[j];
  const std::int64_t tiles_i = ceil_div<std::int64_t>(extent_i, kSize),
                     tiles_j = ceil_div<std::int64_t>(extent_j, kSize);
  Transpose tiles;
  tiles.extent_i = static_cast<std::uint32_t>(extent_i);
  tiles.extent_j = static_cast<std::uint32_t>(extent_j);
  tiles.in_stride_j = j < 0 ? 0 : layout.strides[kIn][j];
  tiles.out_stride_i = i < 0 ? 0 : layout.strides[kOut][i];
  tiles.tiles_i = Divisor(tiles_i);
  tiles.tiles_j = Divisor(tiles_j);
  tiles.batches = StridedIndex<2>(batches, 1);
  const From* const in = static_cast<const From*>(args.in) + layout.starts[kIn];
  To* const out = static_cast<To*>(args.out) + layout.starts[kOut];
  launch(stream,
         {.name = "copy_transpose",
          .grid = {layout.count / (extent_i * extent_j) * tiles_i * tiles_j},
          .block = {kThreads},
          .operands = {{"in", in, span_bytes(layout, kIn, args.in_dtype)},
                       {"out", out, span_bytes(layout, kOut, args.out_dtype)}}},
         transpose_kernel<To, From>, in, out, tiles);
}

void transpose_run(const Stream& stream, const Copy& args) {
  if (args.shape.numel() == 0) return;
  with_fast_pair(args, [&]<class To, class From>(std::type_identity<To>, std::type_identity<From>) {
    for_each_piece(layout_of(args), [&](const Layout& piece) { transpose_piece<To, From>(stream, args, piece); });
  });
}

// --- strided -------------------------------------------------------------------------------------------------------

// Units of kWidth elements; `splat`: the one element of `in` fills the unit.
template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kThreads)
    strided_kernel(const T* in, T* out, std::uint32_t units, bool splat, StridedIndex<2> index) {
  const std::uint32_t first = blockIdx.x * kPerBlock + threadIdx.x;
  Vec<T, kWidth> values[kUnroll];
  std::int64_t at[kUnroll][2];
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::uint32_t u = first + k * kThreads;
    if (u >= units) continue;
    index.offsets(u, at[k]);
    if (kWidth > 1 && splat) {
      const T value = load_one(in + at[k][kIn]);
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i) values[k][i] = value;
    } else {
      values[k] = load<kWidth>(in + at[k][kIn]);
    }
  }
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k)
    if (first + k * kThreads < units) store(out + at[k][kOut], values[k]);
}

// The same layout in units of `width` elements of both operands, which are dense along the innermost dimension.
Layout widened(Layout layout, std::int64_t width) {
  layout.extents[0] /= width;
  layout.count /= width;
  for (int n = 0; n < 2; ++n) {
    layout.starts[n] /= width;
    for (int d = 1; d < layout.rank; ++d) layout.strides[n][d] /= width;
  }
  return layout;
}

// `layout` counts elements of T.
template <class T, int kWidth>
void strided_piece(const Stream& stream, const Copy& args, const Layout& layout, bool splat) {
  const T* const in = static_cast<const T*>(args.in) + layout.starts[kIn];
  T* const out = static_cast<T*>(args.out) + layout.starts[kOut];
  const std::int64_t units = layout.count / kWidth, factor = sizeof(T) / element_bytes(args.out_dtype);
  launch(stream,
         {.name = "copy_strided",
          .grid = {ceil_div<std::int64_t>(units, kPerBlock)},
          .block = {kThreads},
          .operands = {{"in", in, span_bytes(layout, kIn, args.in_dtype) * factor},
                       {"out", out, span_bytes(layout, kOut, args.out_dtype) * factor}}},
         strided_kernel<T, kWidth>, in, out, static_cast<std::uint32_t>(units), splat, StridedIndex<2>(layout, kWidth));
}

bool strided_supports(const Copy& args) { return args.out_dtype == args.in_dtype; }

void strided_run(const Stream& stream, const Copy& args) {
  if (args.shape.numel() == 0) return;
  const Layout layout = layout_of(args);
  const std::int64_t bytes = element_bytes(args.out_dtype);
  const auto fits = [&](int n, const void* address, std::int64_t width) {
    return layout.extents[0] % width == 0 && layout.is_vectorised(n, address, bytes, static_cast<int>(width));
  };
  std::int64_t width = 16 / bytes;
  const bool splat = layout.strides[kIn][0] == 0 && width > 1 && fits(kOut, args.out, width);
  if (!splat)
    while (width > 1 && !(fits(kOut, args.out, width) && fits(kIn, args.in, width))) width /= 2;
  for_each_piece(layout, [&](const Layout& piece) {
    if (splat) {
      switch (bytes) {
        case 1: return strided_piece<std::uint8_t, 16>(stream, args, piece, true);
        case 2: return strided_piece<std::uint16_t, 8>(stream, args, piece, true);
        case 4: return strided_piece<std::uint32_t, 4>(stream, args, piece, true);
        default: return strided_piece<std::uint64_t, 2>(stream, args, piece, true);
      }
    }
    const bool pairs = bytes * width == 16;  // of eight bytes
    const Layout units = width == 1 ? piece : widened(piece, pairs ? width / 2 : width);
    switch (bytes * width) {
      case 1: return strided_piece<std::uint8_t, 1>(stream, args, units, false);
      case 2: return strided_piece<std::uint16_t, 1>(stream, args, units, false);
      case 4: return strided_piece<std::uint32_t, 1>(stream, args, units, false);
      case 8: return strided_piece<std::uint64_t, 1>(stream, args, units, false);
      default: return strided_piece<std::uint64_t, 2>(stream, args, units, false);
    }
  });
}

// --- scalar --------------------------------------------------------------------------------------------------------

// The type that carries a dtype's values exactly: float, double or std::int64_t. One kernel for each, and the dtypes of
// memory looked up in it (the same way for all threads), instead of one for each of the 64 pairs.
template <class Carrier>
WEFT_DEVICE Carrier load_carried(Dtype dtype, const void* from, std::int64_t at) {
  if constexpr (std::is_same_v<Carrier, float>) {
    if (dtype == Dtype::f16) return widen(load_one(static_cast<const float16*>(from) + at));
    if (dtype == Dtype::bf16) return widen(load_one(static_cast<const bfloat16*>(from) + at));
    return load_one(static_cast<const float*>(from) + at);
  } else if constexpr (std::is_same_v<Carrier, double>) {
    return load_one(static_cast<const double*>(from) + at);
  } else {
    if (dtype == Dtype::i64) return load_one(static_cast<const std::int64_t*>(from) + at);
    if (dtype == Dtype::i32) return load_one(static_cast<const std::int32_t*>(from) + at);
    return load_one(static_cast<const std::uint8_t*>(from) + at);
  }
}

template <class T>
constexpr T kLowest = std::numeric_limits<T>::min();
template <class T>
constexpr T kHighest = std::numeric_limits<T>::max();

template <class To, class Carrier>
WEFT_DEVICE To to_integer(Carrier value) {
  if constexpr (std::is_floating_point_v<Carrier>) {
    if (value != value) return 0;
    // The bounds as floats: the upper one may round up to one past the largest integer, hence >=.
    if (value <= static_cast<Carrier>(kLowest<To>)) return kLowest<To>;
    if (value >= static_cast<Carrier>(kHighest<To>)) return kHighest<To>;
  }
  return static_cast<To>(value);
}

template <class Carrier>
WEFT_DEVICE void store_carried(Dtype dtype, void* to, std::int64_t at, Carrier value) {
  switch (dtype) {
    case Dtype::f64: return store_one(static_cast<double*>(to) + at, static_cast<double>(value));
    case Dtype::f32: return store_one(static_cast<float*>(to) + at, static_cast<float>(value));
    case Dtype::f16: return store_one(static_cast<float16*>(to) + at, narrow<float16>(static_cast<float>(value)));
    case Dtype::bf16: return store_one(static_cast<bfloat16*>(to) + at, narrow<bfloat16>(static_cast<float>(value)));
    case Dtype::i64: return store_one(static_cast<std::int64_t*>(to) + at, to_integer<std::int64_t>(value));
    case Dtype::i32: return store_one(static_cast<std::int32_t*>(to) + at, to_integer<std::int32_t>(value));
    case Dtype::u8: return store_one(static_cast<std::uint8_t*>(to) + at, to_integer<std::uint8_t>(value));
    case Dtype::boolean: return store_one(static_cast<std::uint8_t*>(to) + at, static_cast<std::uint8_t>(value != 0));
  }
}

template <class Carrier>
WEFT_KERNEL __launch_bounds__(kThreads)
    scalar_kernel(Dtype in_dtype, const void* in, Dtype out_dtype, void* out, std::int64_t in_start,
                  std::int64_t out_start, std::uint32_t count, StridedIndex<2> index) {
  const std::uint32_t first = blockIdx.x * kPerBlock + threadIdx.x;
  Carrier values[kUnroll];
  std::int64_t at[kUnroll][2];
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::uint32_t u = first + k * kThreads;
    if (u >= count) continue;
    index.offsets(u, at[k]);
    values[k] = load_carried<Carrier>(in_dtype, in, in_start + at[k][kIn]);
  }
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k)
    if (first + k * kThreads < count) store_carried(out_dtype, out, out_start + at[k][kOut], values[k]);
}

bool scalar_supports(const Copy&) { return true; }

void scalar_run(const Stream& stream, const Copy& args) {
  if (args.shape.numel() == 0) return;
  for_each_piece(layout_of(args), [&](const Layout& piece) {
    const auto start = [&](auto kernel) {
      launch(stream,
             {.name = "copy_scalar",
              .grid = {ceil_div<std::int64_t>(piece.count, kPerBlock)},
              .block = {kThreads},
              .operands = {{"in", static_cast<const char*>(args.in) + piece.starts[kIn] * element_bytes(args.in_dtype),
                            span_bytes(piece, kIn, args.in_dtype)},
                           {"out", static_cast<char*>(args.out) + piece.starts[kOut] * element_bytes(args.out_dtype),
                            span_bytes(piece, kOut, args.out_dtype)}}},
             kernel, args.in_dtype, args.in, args.out_dtype, args.out, piece.starts[kIn], piece.starts[kOut],
             static_cast<std::uint32_t>(piece.count), StridedIndex<2>(piece, 1));
    };
    if (args.in_dtype == Dtype::f64)
      start(scalar_kernel<double>);
    else if (is_floating(args.in_dtype))
      start(scalar_kernel<float>);
    else
      start(scalar_kernel<std::int64_t>);
  });
}

// --- fill ----------------------------------------------------------------------------------------------------------

// Vectors from the first 16-byte boundary on; block 0 also writes the elements before it and the rest.
template <class T>
WEFT_KERNEL __launch_bounds__(kThreads) fill_kernel(T* out, std::int64_t count, std::int64_t head, T value) {
  constexpr int kWidth = kVectorWidth<T>;
  const std::int64_t vectors = (count - head) / kWidth;
  Vec<T, kWidth> values;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) values[i] = value;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kPerBlock + threadIdx.x;
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::int64_t v = first + k * kThreads;
    if (v < vectors) store(out + head + v * kWidth, values);
  }
  if (blockIdx.x > 0) return;
  const std::int64_t rest = head + vectors * kWidth + threadIdx.x;
  if (threadIdx.x < head) store_one(out + threadIdx.x, value);
  if (rest < count) store_one(out + rest, value);
}

bool fill_supports(const Fill&) { return true; }

template <class T>
void fill_bits(const Stream& stream, const Fill& args, T value) {
  const std::int64_t past = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(args.out) % 16);
  const std::int64_t head = std::min(args.count, (16 - past) % 16 / static_cast<std::int64_t>(sizeof(T)));
  const std::int64_t vectors = (args.count - head) / kVectorWidth<T>;
  launch(stream,
         {.name = "fill",
          .grid = {std::max<std::int64_t>(ceil_div<std::int64_t>(vectors, kPerBlock), 1)},
          .block = {kThreads},
          .operands = {{"out", args.out, args.count * static_cast<std::int64_t>(sizeof(T))}}},
         fill_kernel<T>, static_cast<T*>(args.out), args.count, head, value);
}

void fill_run(const Stream& stream, const Fill& args) {
  if (args.count == 0) return;
  dispatch_all(args.dtype, "fill", [&]<class T>(std::type_identity<T>) {
    const T value = convert<T>(args.value);
    if constexpr (sizeof(T) == 1) fill_bits(stream, args, std::bit_cast<std::uint8_t>(value));
    if constexpr (sizeof(T) == 2) fill_bits(stream, args, std::bit_cast<std::uint16_t>(value));
    if constexpr (sizeof(T) == 4) fill_bits(stream, args, std::bit_cast<std::uint32_t>(value));
    if constexpr (sizeof(T) == 8) fill_bits(stream, args, std::bit_cast<std::uint64_t>(value));
  });
}

}  // namespace

std::span<const Variant<Copy>> copy_variants() {
  static constexpr Variant<Copy> kVariants[] = {
      {"dense", "16-byte vectors, four per thread", dense_supports, dense_run},
      {"transpose", "tiles through shared memory: reads and writes both dense", transpose_supports, transpose_run},
      {"strided", "the widest unit that both layouts allow", strided_supports, strided_run},
      {"scalar", "any layouts and dtypes, an element at a time", scalar_supports, scalar_run},
  };
  return kVariants;
}
void copy(const Stream& stream, const Copy& args) { run_variant("copy", copy_variants(), stream, args); }

std::span<const Variant<Fill>> fill_variants() {
  static constexpr Variant<Fill> kVariants[] = {
      {"vectorised", "16-byte stores from the first aligned address on", fill_supports, fill_run},
  };
  return kVariants;
}
void fill(const Stream& stream, const Fill& args) { run_variant("fill", fill_variants(), stream, args); }

}  // namespace weft::kernels::WEFT_BACKEND
