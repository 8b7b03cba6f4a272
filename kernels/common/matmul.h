#pragma once
// C = A B by tiles, for operands of either orientation. The one idea: what is read is used often before it is
// dropped, by a tile of C in each block's shared memory and by a smaller one in each thread's registers. Tiles of A
// and B go through registers into shared memory, where they always lie as [k][m] and [k][n], in compute type.
//   Mapping:   a warp's lanes form a grid over the warp's part of the tile, a block's warps one over the tile; a
//              thread's rows and columns come in groups of 16 bytes, and the lanes' groups lie side by side.
//   Pipeline:  while one tile is multiplied, the next is on its way from global memory into registers; shared memory
//              holds two, so that one barrier per tile is enough.
//   Shared:    2 * depth * (kM + kN) elements of compute type: 16 to 32 KiB.
//   Conflicts: none. A matrix whose k's are neighbours is transposed on its way into shared memory, where gaps between
//              the vectors of k's give the lanes of a store different banks.
//   Sizes:     any m, n, k: what lies outside is read as 0 and not written. Rows that are not 16-byte aligned are read
//              and written element by element.
// After the ladder of siboehm/SGEMM_CUDA (kernels 6-10) and CUTLASS's "Efficient GEMM in CUDA".
#include "kernels/common/launch.h"
#include "kernels/common/matmul_plan.h"

namespace weft::kernels::WEFT_BACKEND {

/// A tile of C and who computes it. Depth: how many k's are in shared memory at a time.
template <int kM_, int kN_, int kThreadM_, int kThreadN_, int kLanesM_, int kWarpsM_, int kDepth_, int kBlocks_>
struct Tile {
  static constexpr int kM = kM_, kN = kN_, kDepth = kDepth_;
  static constexpr int kThreadM = kThreadM_, kThreadN = kThreadN_;
  static constexpr int kLanesM = kLanesM_, kLanesN = kWarpSize / kLanesM;
  static constexpr int kWarpM = kLanesM * kThreadM, kWarpN = kLanesN * kThreadN;  // a warp's part of the tile
  static constexpr int kWarpsM = kWarpsM_, kWarpsN = kN / kWarpN;
  static constexpr int kThreads = kWarpsM * kWarpsN * kWarpSize;
  static constexpr int kBlocks = kBlocks_;  // that share a multiprocessor, for the register allocation
  static_assert(kWarpsM * kWarpM == kM && kWarpsN * kWarpN == kN && kMatmulChunkUnit % kDepth == 0);
};

/// Whether all rows of a matrix can be read in vectors of 16 bytes.
template <class T>
bool rows_aligned(const void* matrix, std::int64_t row_elems) {
  return is_aligned(matrix, 16) && row_elems % kVectorWidth<T> == 0;
}

/// The 16 bytes at `from`, of which `left` elements exist (maybe more, maybe less than none); zeros for the others.
template <class T, class Count>
WEFT_DEVICE Vec<T, kVectorWidth<T>> load_clipped(const T* from, Count left, bool aligned WEFT_SITE) {
  constexpr int kWidth = kVectorWidth<T>;
  if (aligned && left >= kWidth) return load<kWidth>(from WEFT_PASS_SITE);
  Vec<T, kWidth> value;
  WEFT_UNROLL
  for (int i = 0; i < kWidth; ++i) value[i] = i < left ? load_one(from + i WEFT_PASS_SITE) : T{};
  return value;
}

/// What is stored for a sum: relu, or the addition to what is there, before the only rounding.
template <class T>
WEFT_DEVICE T finished(compute_t<T> sum, bool relu, Accumulate mode, T there) {
  if (mode == Accumulate::add) sum += widen(there);
  if (relu && sum < compute_t<T>(0)) sum = compute_t<T>(0);
  return narrow<T>(sum);
}

/// One element of the result; `to` is read only where it is added to.
template <class T>
WEFT_DEVICE void finish_one(T* to, compute_t<T> sum, bool relu, Accumulate mode WEFT_SITE) {
  const T there = mode == Accumulate::add ? load_one(to WEFT_PASS_SITE) : T{};
  store_one(to, finished(sum, relu, mode, there) WEFT_PASS_SITE);
}

/// Brings tiles of one operand, kOuter x kDepth, into shared memory as [k][outer].
template <class T, Contiguous kContiguous, int kOuter, int kDepth, int kThreads>
class Loader {
 public:
  using C = compute_t<T>;
  static constexpr int kWidth = kVectorWidth<T>;  // elements of a global load
  static constexpr int kGroup = 16 / sizeof(C);   // elements of a shared access
  static constexpr int kPhase = 128 / sizeof(C);  // elements that shared memory moves at a time
  static constexpr bool kTransposes = kContiguous == Contiguous::k;
  static constexpr int kAlong = (kTransposes ? kDepth : kOuter) / kWidth;  // vectors of a row of the tile in memory
  static constexpr int kVectors = kOuter * kDepth / kWidth;                // of the tile
  static constexpr int kPerThread = ceil_div(kVectors, kThreads);
  static constexpr int kStep = kThreads / kAlong;  // rows between a thread's vectors
  static constexpr int kGap = kPhase / kAlong;
  static constexpr int kElements = kDepth * kOuter + (kTransposes ? (kAlong - 1) * kGap : 0);  // in shared memory
  static constexpr int kPointers = kTransposes ? kPerThread : 1;
  static_assert(kThreads % kAlong == 0 && (!kTransposes || (kGap % kGroup == 0 && kWidth * kOuter % kPhase == 0)));

  /// For the tiles along k from (k, outer) on, of a matrix that ends at `outer_end` and whose rows in memory have
  /// `row_elems` elements.
  WEFT_DEVICE Loader(const T* matrix, std::int64_t row_elems, bool aligned, std::int64_t outer, std::int64_t outer_end,
                     std::int64_t k)
      : row_elems_(row_elems), aligned_(aligned) {
    outer_left_ = static_cast<int>(smaller<std::int64_t>(outer_end - outer, kOuter)) - column();
    WEFT_UNROLL
    for (int i = 0; i < kPointers; ++i) {
      // Rows beyond the last are read as the last: nothing of them is written, and their test stays out of the loop.
      const std::int64_t first = kTransposes ? smaller(outer + row() + i * kStep, outer_end - 1) : k + row();
      from_[i] = matrix + first * row_elems + (kTransposes ? k : outer) + column();
    }
  }

  /// Starts to read the tile, of which `k_left` k's exist (maybe more than it has), and goes on to the next.
  WEFT_DEVICE void fetch(int k_left) {
    WEFT_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      if (!mine(i)) continue;
      if constexpr (kTransposes)
        staged_[i] = load_clipped(from_[i], k_left - column(), aligned_);
      else
        staged_[i] =
            load_clipped(from_[0] + i * kStep * row_elems_, i * kStep < k_left - row() ? outer_left_ : 0, aligned_);
    }
    WEFT_UNROLL
    for (int i = 0; i < kPointers; ++i) from_[i] += kTransposes ? kDepth : kDepth * row_elems_;
  }

  /// Writes what fetch() read.
  WEFT_DEVICE void put(Shared<C> to) const {
    WEFT_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      if (!mine(i)) continue;
      if constexpr (kTransposes) {
        WEFT_UNROLL
        for (int e = 0; e < kWidth; ++e) to[place(column(), row() + i * kStep) + e * kOuter] = widen(staged_[i][e]);
      } else {
        Vec<C, kWidth> value;
        WEFT_UNROLL
        for (int e = 0; e < kWidth; ++e) value[e] = widen(staged_[i][e]);
        put_vector(to, place(row() + i * kStep, column()), value);
      }
    }
  }

  /// Writes elements [at, at + kWidth), where neighbouring threads write neighbouring vectors. A 16-bit vector fills 32
  /// bytes: of every eight lanes, four start with the lower 16 and four with the upper, and so meet every bank once.
  WEFT_DEVICE static void put_vector(Shared<C> to, int at, const Vec<C, kWidth>& value) {
    constexpr int kGroups = kWidth / kGroup;
    WEFT_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      const int group = kGroups == 1 ? 0 : g ^ (static_cast<int>(threadIdx.x) / 4 % 2);
      Vec<C, kGroup> part;
      WEFT_UNROLL
      for (int e = 0; e < kGroup; ++e) part[e] = group == 0 ? value[e] : value[(kGroups - 1) * kGroup + e];
      store_shared(to, at + group * kGroup, part);
    }
  }

  /// Adds what fetch() read, over k: a thread's vectors all belong to the same kWidth columns.
  WEFT_DEVICE void add_to(Vec<C, kWidth>& sums) const {
    static_assert(!kTransposes);
    WEFT_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      if (!mine(i)) continue;
      WEFT_UNROLL
      for (int e = 0; e < kWidth; ++e) sums[e] += widen(staged_[i][e]);
    }
  }

  /// Element (k, outer) in shared memory. Where k's are neighbours in memory, the lanes of a store hold kAlong vectors
  /// of k's from each of kPhase / kAlong rows: a gap of as many elements between the vectors' k's gives each its banks.
  WEFT_DEVICE static int place(int k, int outer) { return k * kOuter + (kTransposes ? k / kWidth * kGap : 0) + outer; }

 private:
  // Where this thread's first vector lies in the tile as it is in memory.
  WEFT_DEVICE static int row() { return static_cast<int>(threadIdx.x) / kAlong; }
  WEFT_DEVICE static int column() { return static_cast<int>(threadIdx.x) % kAlong * kWidth; }
  WEFT_DEVICE static bool mine(int i) {
    return kVectors % kThreads == 0 || static_cast<int>(threadIdx.x) + i * kThreads < kVectors;
  }

  const T* from_[kPointers];
  std::int64_t row_elems_;
  int outer_left_;  // from this thread's first column on; only where columns are outer
  bool aligned_;
  Vec<T, kWidth> staged_[kPerThread] = {};
};

/// What a kernel is built for: one product, with the sums of A where its k's are rows, or a batch, without them. Both at once
/// would not fit the registers.
enum class Products : std::uint8_t { one, batch };

/// Blocks per multiprocessor that registers are rationed for. With 16-bit elements and sums of A the large tile needs more
/// than half of the registers of compute capability 8.x: one block there, rather than spills.
template <class T, class Tile, Contiguous kA, Products kProducts>
constexpr int blocks_per_multiprocessor() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  if (sizeof(T) == 2 && kA == Contiguous::outer && kProducts == Products::one) return 1;
#endif
  return Tile::kBlocks;
}

/// Elements from the first matrix of each operand to those of one product of a batch.
struct BatchOffsets {
  std::int64_t a = 0, b = 0;
};
WEFT_DEVICE BatchOffsets offsets_of(const MatmulBatch& batch, std::int64_t index) {
  BatchOffsets offsets;
  WEFT_NO_UNROLL
  for (int d = batch.dims - 1; d >= 0; --d) {
    const std::int64_t at = index % batch.extent[d];
    index /= batch.extent[d];
    offsets.a += at * batch.a_step[d];
    offsets.b += at * batch.b_step[d];
  }
  return offsets;
}

/// One block computes one chunk of one tile of one matrix C. Grid: (tiles, products, chunks).
template <class T, class Tile, Contiguous kA, Contiguous kB, Products kProducts>
WEFT_KERNEL __launch_bounds__(Tile::kThreads, (blocks_per_multiprocessor<T, Tile, kA, kProducts>()))
    matmul_kernel(Matmul args, MatmulPlan plan, bool a_aligned, bool b_aligned, bool c_aligned) {
  using C = compute_t<T>;
  using LoaderA = Loader<T, kA, Tile::kM, Tile::kDepth, Tile::kThreads>;
  using LoaderB = Loader<T, kB, Tile::kN, Tile::kDepth, Tile::kThreads>;
  constexpr bool kSums = kA == Contiguous::outer && kProducts == Products::one;
  constexpr int kGroup = LoaderA::kGroup;
  constexpr int kGroupsM = Tile::kThreadM / kGroup, kGroupsN = Tile::kThreadN / kGroup;
  constexpr int kSpanM = Tile::kLanesM * kGroup, kSpanN = Tile::kLanesN * kGroup;  // of a group, over the warp
  WEFT_SHARED(C, a_tiles, 2 * LoaderA::kElements);
  WEFT_SHARED(C, b_tiles, 2 * LoaderB::kElements);

  // Blocks that run at the same time should share their operands in the cache: tiles are numbered down columns of 8.
  constexpr std::int64_t kBand = 8;
  const std::int64_t index = blockIdx.x, band = index / (kBand * plan.tiles_n) * kBand;
  const std::int64_t height = smaller(kBand, plan.tiles_m - band), inside = index - band * plan.tiles_n;
  const std::int64_t tile_m = (band + inside % height) * Tile::kM, tile_n = inside / height * Tile::kN;
  const std::int64_t k_begin = blockIdx.z * plan.chunk;
  const int k_count = static_cast<int>(smaller(plan.chunk, args.k - k_begin));

  BatchOffsets first;
  std::int64_t product = 0;  // of the batch
  if constexpr (kProducts == Products::batch) {
    product = args.batch_first + blockIdx.y;
    first = offsets_of(args.batch, product);
  }
  LoaderA a(static_cast<const T*>(args.a) + first.a, args.a_row, a_aligned, tile_m, args.m, k_begin);
  LoaderB b(static_cast<const T*>(args.b) + first.b, args.b_row, b_aligned, tile_n, args.n, k_begin);

  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int thread_m = warp / Tile::kWarpsN * Tile::kWarpM + lane / Tile::kLanesN * kGroup;  // [0, kM), first row
  const int thread_n = warp % Tile::kWarpsN * Tile::kWarpN + lane % Tile::kLanesN * kGroup;  // [0, kN), first column

  C total[Tile::kThreadM][Tile::kThreadN] = {};
  // A's sums: all of A passes through the registers of the first column of blocks, on its way to shared memory.
  [[maybe_unused]] Vec<C, LoaderA::kWidth> a_sums{};
  [[maybe_unused]] const bool adds_up = args.sums != nullptr && tile_n == 0;

  const int steps = ceil_div(k_count, Tile::kDepth);
  if (steps > 0) {
    a.fetch(k_count);
    b.fetch(k_count);
  }
  WEFT_NO_UNROLL
  for (int step = 0; step < steps; ++step) {
    const int now = step % 2;
    a.put(a_tiles + now * LoaderA::kElements);
    b.put(b_tiles + now * LoaderB::kElements);
    if constexpr (kSums)
      if (adds_up) a.add_to(a_sums);
    __syncthreads();  // the tile is complete; and nobody still reads the one before the last, which is written next
    if (step + 1 < steps) {
      a.fetch(k_count - (step + 1) * Tile::kDepth);
      b.fetch(k_count - (step + 1) * Tile::kDepth);
    }
    WEFT_UNROLL
    for (int k = 0; k < Tile::kDepth; ++k) {
      Vec<C, kGroup> column[kGroupsM], row[kGroupsN];
      WEFT_UNROLL
      for (int g = 0; g < kGroupsM; ++g)
        column[g] = load_shared<kGroup>(a_tiles, now * LoaderA::kElements + LoaderA::place(k, thread_m + g * kSpanM));
      WEFT_UNROLL
      for (int g = 0; g < kGroupsN; ++g)
        row[g] = load_shared<kGroup>(b_tiles, now * LoaderB::kElements + LoaderB::place(k, thread_n + g * kSpanN));
      WEFT_UNROLL
      for (int i = 0; i < Tile::kThreadM; ++i) WEFT_UNROLL
      for (int j = 0; j < Tile::kThreadN; ++j)
        total[i][j] = fused(column[i / kGroup][i % kGroup], row[j / kGroup][j % kGroup], total[i][j]);
    }
  }

  // One chunk: the result. Several: this chunk's part of it, in compute type.
  const auto write = [&]<class Out>(Out* c, const T* bias, bool relu, Accumulate mode) {
    WEFT_UNROLL
    for (int g = 0; g < kGroupsN; ++g) {
      const std::int64_t n = tile_n + thread_n + g * kSpanN;
      const bool in_vectors = c_aligned && n + kGroup <= args.n;
      Vec<C, kGroup> offset{};
      if (bias != nullptr) {
        WEFT_UNROLL
        for (int e = 0; e < kGroup; ++e)
          if (n + e < args.n) offset[e] = widen(load_one<Cache::readonly>(bias + n + e));
      }
      WEFT_UNROLL
      for (int i = 0; i < Tile::kThreadM; ++i) {
        const std::int64_t m = tile_m + thread_m + i / kGroup * kSpanM + i % kGroup;
        if (m >= args.m) continue;
        Out* const to = c + m * args.n + n;
        Vec<C, kGroup> sum;
        WEFT_UNROLL
        for (int e = 0; e < kGroup; ++e) sum[e] = total[i][g * kGroup + e] + offset[e];
        Vec<Out, kGroup> there{};
        if (mode == Accumulate::add && in_vectors) there = load<kGroup>(to);
        if (mode == Accumulate::add && !in_vectors) {
          WEFT_UNROLL
          for (int e = 0; e < kGroup; ++e)
            if (n + e < args.n) there[e] = load_one(to + e);
        }
        WEFT_UNROLL
        for (int e = 0; e < kGroup; ++e) there[e] = finished(sum[e], relu, mode, there[e]);
        if (in_vectors) {
          store(to, there);
        } else {
          WEFT_UNROLL
          for (int e = 0; e < kGroup; ++e)
            if (n + e < args.n) store_one(to + e, there[e]);
        }
      }
    }
  };
  C* const partial = static_cast<C*>(args.partial);
  std::int64_t place = blockIdx.z;
  if constexpr (kProducts == Products::batch) place = place * args.batch.count + product;
  if (plan.chunks == 1)
    write(static_cast<T*>(args.c) + product * args.m * args.n, static_cast<const T*>(args.bias), args.relu, args.mode);
  else
    write(partial + place * args.m * args.n, static_cast<const T*>(nullptr), false, Accumulate::overwrite);

  if constexpr (kSums) {
    if (!adds_up) return;
    // The threads that loaded the same columns of A, at different k's, lie below each other: [row of threads][column].
    constexpr int kLoading = LoaderA::kVectors < Tile::kThreads ? LoaderA::kVectors : Tile::kThreads;
    constexpr int kRows = kLoading / LoaderA::kAlong;  // of threads
    const int thread = static_cast<int>(threadIdx.x);
    __syncthreads();
    if (thread < kLoading) LoaderA::put_vector(a_tiles, thread * LoaderA::kWidth, a_sums);
    __syncthreads();
    const std::int64_t m = tile_m + thread;
    if (thread >= Tile::kM || m >= args.m) return;
    C sum = C(0);
    for (int row = 0; row < kRows; ++row) sum += a_tiles[row * Tile::kM + thread];
    if (plan.chunks == 1)
      finish_one(static_cast<T*>(args.sums) + m, sum, false, args.sums_mode);
    else
      store_one(partial + plan.chunks * args.m * args.n + blockIdx.z * args.m + m, sum);
  }
}

}  // namespace weft::kernels::WEFT_BACKEND
