// weft's own tile kernel: for f64 (the oracle of every test), for 16-bit storage, and where oneDNN is not built in.
//   Panels of A and B are packed into the compute type, block by block of K; eight rows by two vectors of C stay in registers
//   over a block, whose sum is then added to the tile: short chains of additions, in an order that only the shape decides.
#include <algorithm>
#include <vector>

#include "kernels/common/gemm.h"
#include "kernels/common/simd.h"

namespace weft::kernels::detail {
namespace {

using simd::kLanes;
using simd::Vec;

constexpr std::int64_t kRows = 8;      // of C in registers
constexpr std::int64_t kBlockK = 256;  // of K per packed panel

template <class C>
constexpr std::int64_t kColumns = 2 * kLanes<C>;

// c[r, :] += sum_k a[k, r] b[k, :] for one register block; a is packed [k, kRows], b [k, kColumns].
template <class C>
void block_product(const C* a, const C* b, std::int64_t depth, C* c, std::int64_t c_row) {
  Vec<C> low[kRows] = {}, high[kRows] = {};
  for (std::int64_t k = 0; k < depth; ++k) {
    const Vec<C> b_low = simd::load<C>(b + k * kColumns<C>), b_high = simd::load<C>(b + k * kColumns<C> + kLanes<C>);
    for (int r = 0; r < kRows; ++r) {
      const Vec<C> value = simd::broadcast(a[k * kRows + r]);
      low[r] = simd::fma(value, b_low, low[r]);
      high[r] = simd::fma(value, b_high, high[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    C* const row = c + r * c_row;
    simd::store<C>(row, simd::load<C>(row) + low[r]);
    simd::store<C>(row + kLanes<C>, simd::load<C>(row + kLanes<C>) + high[r]);
  }
}

template <class T>
void tile_product(const Gemm& tile) {
  using C = compute_t<T>;
  const T* const a = static_cast<const T*>(tile.a);
  const T* const b = static_cast<const T*>(tile.b);
  T* const c = static_cast<T*>(tile.c);
  const std::int64_t strips = (tile.m + kRows - 1) / kRows, panels = (tile.n + kColumns<C> - 1) / kColumns<C>;
  const std::int64_t sum_row = panels * kColumns<C>;

  thread_local std::vector<C> sums, packed_a, packed_b;  // reused: a tile is small and runs on one thread
  sums.assign(static_cast<std::size_t>(strips * kRows * sum_row), C(0));
  packed_a.resize(static_cast<std::size_t>(strips * kRows * kBlockK));
  packed_b.resize(static_cast<std::size_t>(sum_row * kBlockK));

  for (std::int64_t first = 0; first < tile.k; first += kBlockK) {
    const std::int64_t depth = std::min(kBlockK, tile.k - first);
    for (std::int64_t strip = 0; strip < strips; ++strip)
      for (std::int64_t k = 0; k < depth; ++k)
        for (std::int64_t r = 0; r < kRows; ++r) {
          const std::int64_t row = strip * kRows + r;  // rows past the end are zero: they add nothing
          packed_a[static_cast<std::size_t>((strip * kBlockK + k) * kRows + r)] =
              row < tile.m ? static_cast<C>(a[row * tile.a_row + (first + k) * tile.a_col]) : C(0);
        }
    for (std::int64_t panel = 0; panel < panels; ++panel)
      for (std::int64_t k = 0; k < depth; ++k)
        for (std::int64_t j = 0; j < kColumns<C>; ++j) {
          const std::int64_t column = panel * kColumns<C> + j;
          packed_b[static_cast<std::size_t>((panel * kBlockK + k) * kColumns<C> + j)] =
              column < tile.n ? static_cast<C>(b[(first + k) * tile.b_row + column * tile.b_col]) : C(0);
        }
    for (std::int64_t panel = 0; panel < panels; ++panel)
      for (std::int64_t strip = 0; strip < strips; ++strip)
        block_product<C>(packed_a.data() + strip * kBlockK * kRows, packed_b.data() + panel * kBlockK * kColumns<C>,
                         depth, sums.data() + strip * kRows * sum_row + panel * kColumns<C>, sum_row);
  }

  const T* const bias = static_cast<const T*>(tile.bias);
  for (std::int64_t row = 0; row < tile.m; ++row)
    for (std::int64_t column = 0; column < tile.n; ++column) {
      C value = sums[static_cast<std::size_t>(row * sum_row + column)];
      if (bias != nullptr) value += static_cast<C>(bias[column]);
      if (tile.mode == Accumulate::add) value += static_cast<C>(c[row * tile.c_row + column]);
      if (tile.epilogue == Epilogue::relu && value < C(0)) value = C(0);
      c[row * tile.c_row + column] = static_cast<T>(value);
    }
}

}  // namespace

void gemm_tile_own(const Gemm& tile) {
  dispatch_float(tile.dtype, "gemm", [&]<class T>(std::type_identity<T>) { tile_product<T>(tile); });
}

}  // namespace weft::kernels::detail
