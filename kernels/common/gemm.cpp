#include "kernels/common/gemm.h"

#include <algorithm>
#include <vector>

#include "kernels/common/simd.h"
#include "tensor/allocator.h"
#include "tensor/parallel.h"

namespace weft::kernels {
namespace {

// How a product is cut. Depends on the shape alone.
struct Grid {
  std::int64_t tile_m, tile_n, chunk_k;
  std::int64_t tiles_m, tiles_n, chunks;
};

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Halves the largest dimension until there are enough tiles for many threads, or a half would be too small to run at full
// speed. Measured for oneDNN 2.6 on one Sapphire Rapids core, f32, K from 128 to 784: tiles of 128 x 256 run at 95-98 % of the
// speed of the undivided product, 128 x 128 at 90-95 %, 64 x 128 at 85-88 %, 32 x 64 at 55-65 %; N counts more than M.
Grid make_grid(std::int64_t m, std::int64_t n, std::int64_t k) {
  constexpr std::int64_t kTileWork = std::int64_t{1} << 23;  // multiply-adds that a tile keeps: 50-100 µs
  constexpr std::int64_t kWantedTiles = 16;
  constexpr std::int64_t kMinM = 64, kMinN = 128, kMinK = 2048, kMostM = 512;
  Grid grid{m, n, std::max<std::int64_t>(k, 1), 1, 1, 1};
  const auto halve = [](std::int64_t whole, std::int64_t& parts, std::int64_t& size) {
    parts *= 2;
    size = round_up((whole + parts - 1) / parts, 16);
    parts = (whole + size - 1) / size;
  };
  while ((grid.tiles_m * grid.tiles_n * grid.chunks < kWantedTiles || grid.tile_m > kMostM) &&
         grid.tile_m * grid.tile_n * grid.chunk_k >= 2 * kTileWork) {
    if (grid.tile_m >= 2 * kMinM && (2 * grid.tile_m >= grid.tile_n || grid.tile_n < 2 * kMinN))
      halve(m, grid.tiles_m, grid.tile_m);
    else if (grid.tile_n >= 2 * kMinN)
      halve(n, grid.tiles_n, grid.tile_n);
    else if (grid.chunk_k >= 2 * kMinK)
      halve(k, grid.chunks, grid.chunk_k);
    else
      break;
  }
  return grid;
}

template <class T>
const void* at(const void* base, std::int64_t offset) {
  return static_cast<const T*>(base) + offset;
}

template <class T>
Gemm tile_of(const Gemm& whole, const Grid& grid, std::int64_t tile_index, std::int64_t chunk) {
  const std::int64_t row = tile_index / grid.tiles_n * grid.tile_m, column = tile_index % grid.tiles_n * grid.tile_n;
  const std::int64_t first = chunk * grid.chunk_k;
  Gemm tile = whole;
  tile.m = std::min(grid.tile_m, whole.m - row);
  tile.n = std::min(grid.tile_n, whole.n - column);
  tile.k = std::min(grid.chunk_k, whole.k - first);
  tile.a = at<T>(whole.a, row * whole.a_row + first * whole.a_col);
  tile.b = at<T>(whole.b, first * whole.b_row + column * whole.b_col);
  tile.c = static_cast<T*>(whole.c) + row * whole.c_row + column;
  if (whole.bias != nullptr) tile.bias = at<T>(whole.bias, column);
  return tile;
}

void run_tile(const Gemm& tile) {
  if (!detail::gemm_tile_onednn(tile)) detail::gemm_tile_own(tile);
}

// Partial products of the chunks lie behind each other in f32 (f64 for f64) and are added in chunk order.
template <class T>
void run_chunked(const Gemm& args, const Grid& grid) {
  using C = compute_t<T>;
  if constexpr (!std::is_same_v<T, C>) {
    // 16-bit operands: their partial products would be rounded. One chunk, then; weft's own kernel sums in f32.
    Grid whole = grid;
    whole.chunk_k = args.k;
    whole.chunks = 1;
    parallel_chunks(whole.tiles_m * whole.tiles_n, [&](std::int64_t i) { run_tile(tile_of<T>(args, whole, i, 0)); });
  } else {
    const std::int64_t tiles = grid.tiles_m * grid.tiles_n, plane = args.m * args.n;
    const std::int64_t bytes = grid.chunks * plane * static_cast<std::int64_t>(sizeof(C));
    C* const partial = static_cast<C*>(cpu_allocate(bytes));
    struct Release {
      void* block;
      std::int64_t bytes;
      ~Release() { cpu_free(block, bytes); }
    } const release{partial, bytes};
    Gemm bare = args;
    bare.c_row = args.n;
    bare.bias = nullptr;
    bare.epilogue = Epilogue::none;
    bare.mode = Accumulate::overwrite;
    parallel_chunks(tiles * grid.chunks, [&](std::int64_t item) {
      Gemm part = bare;
      part.c = partial + item / tiles * plane;
      run_tile(tile_of<T>(part, grid, item % tiles, item / tiles));
    });
    const T* const bias = static_cast<const T*>(args.bias);
    parallel_ranges(args.m, std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(args.n, 1)),
                    [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t row = begin; row < end; ++row) {
                        T* const c = static_cast<T*>(args.c) + row * args.c_row;
                        for (std::int64_t column = 0; column < args.n; ++column) {
                          C total = partial[row * args.n + column];
                          for (std::int64_t chunk = 1; chunk < grid.chunks; ++chunk)
                            total += partial[chunk * plane + row * args.n + column];
                          if (args.mode == Accumulate::add) total += c[column];
                          if (bias != nullptr) total += bias[column];
                          if (args.epilogue == Epilogue::relu && total < C(0)) total = C(0);
                          c[column] = total;
                        }
                      }
                    });
  }
}

}  // namespace

void gemm_cpu(const Gemm& args) {
  if (args.m == 0 || args.n == 0) return;
  if (detail::gemm_thin(args)) return;
  const Grid grid = make_grid(args.m, args.n, args.k);
  dispatch_float(args.dtype, "gemm", [&]<class T>(std::type_identity<T>) {
    if (grid.chunks > 1) return run_chunked<T>(args, grid);
    parallel_chunks(grid.tiles_m * grid.tiles_n, [&](std::int64_t i) { run_tile(tile_of<T>(args, grid, i, 0)); });
  });
}

}  // namespace weft::kernels
