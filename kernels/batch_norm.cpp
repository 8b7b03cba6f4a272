// CPU kernels. Four vectors of columns go down a chunk of 64 rows with their sums in registers. The statistics of a
// chunk take two passes over data that the first has brought into the cache; chunks are combined in order. A matrix
// that fits the L2 is cut by columns, and one task computes its columns' statistics and applies them at once; a larger
// one is cut by rows, which keeps the accesses dense, with the combination in between.
#include "kernels/batch_norm.h"

#include <algorithm>

#include "kernels/common/simd.h"
#include "kernels/common/unroll.h"
#include "tensor/parallel.h"

namespace weft::kernels {
namespace {

using simd::Vec;

constexpr std::int64_t kChunkRows = 64;
constexpr std::int64_t kBlockColumns = 64;          // four vectors of floats: four cache lines of each row
constexpr std::int64_t kTaskElems = 16384;          // work of one task: a few microseconds
constexpr std::int64_t kResidentBytes = 768 << 10;  // a matrix up to this size is read from memory once

// The workspace: for every chunk of rows three vectors over the columns, padded to whole vectors.
struct Chunks {
  Chunks(std::int64_t rows, std::int64_t channels)
      : rows(rows), count((rows + kChunkRows - 1) / kChunkRows), stride((channels + 15) / 16 * 16) {}
  std::int64_t begin(std::int64_t chunk) const { return chunk * kChunkRows; }
  std::int64_t end(std::int64_t chunk) const { return std::min(rows, (chunk + 1) * kChunkRows); }
  std::int64_t offset(std::int64_t chunk, int which) const { return (chunk * 3 + which) * stride; }
  std::int64_t elems() const { return std::max<std::int64_t>(1, count) * 3 * stride; }
  std::int64_t rows, count, stride;
};

// Calls body(column, std::integral_constant<int, N>, width) for groups of N vectors of columns; width as in
// simd::for_each_vector, for each of the N.
template <class C, class F>
void for_each_group(std::int64_t begin, std::int64_t end, F&& body) {
  constexpr std::int64_t kGroup = 4 * simd::kLanes<C>;
  std::int64_t column = begin;
  for (; column + kGroup <= end; column += kGroup)
    body(column, std::integral_constant<int, 4>{}, std::integral_constant<int, simd::kLanes<C>>{});
  simd::for_each_vector<C>(
      end - column, [&](std::int64_t i, auto width) { body(column + i, std::integral_constant<int, 1>{}, width); });
}

// Runs statistics(chunk, first column, last column), combine(first, last) and apply(first row, last row, first column,
// last column) over the whole matrix, each after all of the one before that it depends on.
template <class S, class Statistics, class Combine, class Apply>
void run_phases(const Chunks& chunks, std::int64_t channels, const Statistics& statistics, const Combine& combine,
                const Apply& apply) {
  const std::int64_t rows = chunks.rows;
  if (rows * channels * static_cast<std::int64_t>(sizeof(S)) <= kResidentBytes) {
    const std::int64_t blocks = std::max<std::int64_t>(1, kTaskElems / (rows * kBlockColumns + 1));
    parallel_ranges(channels, blocks * kBlockColumns, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t chunk = 0; chunk < chunks.count; ++chunk) statistics(chunk, first, last);
      combine(first, last);
      apply(0, rows, first, last);
    });
    return;
  }
  const std::int64_t grain = std::max<std::int64_t>(1, kTaskElems / (kChunkRows * channels));
  parallel_ranges(chunks.count, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) statistics(chunk, 0, channels);
  });
  const std::int64_t columns = std::max(kBlockColumns, kTaskElems / chunks.count / kBlockColumns * kBlockColumns);
  parallel_ranges(channels, columns, combine);
  parallel_ranges(chunks.count, grain, [&](std::int64_t begin, std::int64_t end) {
    apply(chunks.begin(begin), chunks.end(end - 1), 0, channels);
  });
}

// --- forward ---------------------------------------------------------------------------------------------------------

// Of one chunk: the shift (its mean, up to rounding), what is missing to the true mean, and the sum of squared
// differences from the mean. Shifting makes the errors depend on the spread of a column, not on its mean.
template <class S, int N, class W>
void chunk_statistics(const BatchNormForward& args, const Chunks& chunks, std::int64_t chunk, std::int64_t column,
                      W width) {
  using C = compute_t<S>;
  using V = Vec<C>;
  constexpr int kLanes = simd::kLanes<C>;
  const std::int64_t rows = chunks.end(chunk) - chunks.begin(chunk), channels = args.channels;
  const S* x = static_cast<const S*>(args.x) + chunks.begin(chunk) * channels + column;
  C* out = static_cast<C*>(args.partials) + column;
  const V inverse = simd::broadcast<C>(C(1) / static_cast<C>(rows));
  V shift[N], sum[N], squares[N];
  unroll<N>([&](auto v) {
    shift[v] = simd::load_width<S>(x + v * kLanes, width);
    sum[v] = squares[v] = V{};
  });
  for (std::int64_t row = 1; row < rows; ++row)
    unroll<N>([&](auto v) { sum[v] += simd::load_width<S>(x + row * channels + v * kLanes, width) - shift[v]; });
  unroll<N>([&](auto v) {
    shift[v] += sum[v] * inverse;
    sum[v] = V{};
  });
  for (std::int64_t row = 0; row < rows; ++row)
    unroll<N>([&](auto v) {
      const V difference = simd::load_width<S>(x + row * channels + v * kLanes, width) - shift[v];
      sum[v] += difference;
      squares[v] = simd::fma(difference, difference, squares[v]);
    });
  unroll<N>([&](auto v) {  // whole vectors: the workspace is padded
    const V rest = sum[v] * inverse;
    simd::store<C, C>(out + chunks.offset(chunk, 0) + v * kLanes, shift[v]);
    simd::store<C, C>(out + chunks.offset(chunk, 1) + v * kLanes, rest);
    simd::store<C, C>(out + chunks.offset(chunk, 2) + v * kLanes, squares[v] - sum[v] * rest);
  });
}

// Leaves what apply needs in the first chunk's place: mean, what it lost by rounding, 1/sqrt(var + eps).
template <class S, class W>
void finish_statistics(const BatchNormForward& args, const Chunks& chunks, std::int64_t column, W width) {
  using C = compute_t<S>;
  using V = Vec<C>;
  const auto at = [&](std::int64_t chunk, int which) {
    return static_cast<C*>(args.partials) + chunks.offset(chunk, which) + column;
  };
  C* running_mean = static_cast<C*>(args.running_mean);
  C* running_var = static_cast<C*>(args.running_var);
  const V eps = simd::broadcast(static_cast<C>(args.eps)), one = simd::broadcast(C(1));
  V mean{}, rest{}, variance;
  if (args.mode == BatchNormMode::eval) {
    mean = simd::load_width<C>(running_mean + column, width);
    variance = simd::load_width<C>(running_var + column, width);
  } else {
    // Chan, Golub, LeVeque 1979: means relative to the first chunk's shift, so that a common offset costs no digits.
    const V base = simd::load(at(0, 0));
    V relative = simd::load(at(0, 1)), squares = simd::load(at(0, 2));
    for (std::int64_t chunk = 1; chunk < chunks.count; ++chunk) {
      const auto before = static_cast<C>(chunks.begin(chunk)), after = static_cast<C>(chunks.end(chunk));
      const V weight = simd::broadcast((after - before) / after);
      const V delta = simd::load(at(chunk, 0)) - base + simd::load(at(chunk, 1)) - relative;
      squares += simd::load(at(chunk, 2)) + delta * delta * (weight * simd::broadcast(before));
      relative = simd::fma(delta, weight, relative);
    }
    squares = squares < V{} ? V{} : squares;  // rounding may go below 0; a NaN stays
    mean = base + relative;
    rest = relative - (mean - base);
    const auto rows = static_cast<C>(args.rows);
    variance = squares / simd::broadcast(rows);
    if (running_mean != nullptr) {
      const V fresh = simd::broadcast(static_cast<C>(args.momentum)), kept = one - fresh;
      const V unbiased = squares / simd::broadcast(rows - C(1));
      const V old_mean = simd::load_width<C>(running_mean + column, width);
      const V old_var = simd::load_width<C>(running_var + column, width);
      simd::store_width<C>(running_mean + column, simd::fma(fresh, mean, kept * old_mean), width);
      simd::store_width<C>(running_var + column, simd::fma(fresh, unbiased, kept * old_var), width);
    }
  }
  const V rstd = one / simd::sqrt(variance + eps);
  if (args.mean != nullptr) simd::store_width<C>(static_cast<C*>(args.mean) + column, mean, width);
  if (args.rstd != nullptr) simd::store_width<C>(static_cast<C*>(args.rstd) + column, rstd, width);
  simd::store<C, C>(at(0, 0), mean);
  simd::store<C, C>(at(0, 1), rest);
  simd::store<C, C>(at(0, 2), rstd);
}

template <class S, int N, class W>
void normalise(const BatchNormForward& args, const Chunks& chunks, std::int64_t begin, std::int64_t end,
               std::int64_t column, W width) {
  using C = compute_t<S>;
  using V = Vec<C>;
  constexpr int kLanes = simd::kLanes<C>;
  const std::int64_t channels = args.channels;
  const S* x = static_cast<const S*>(args.x) + column;
  S* y = static_cast<S*>(args.y) + column;
  const S* gamma = static_cast<const S*>(args.gamma);
  const S* beta = static_cast<const S*>(args.beta);
  const C* statistics = static_cast<const C*>(args.partials) + column;
  V mean[N], scale[N], offset[N];
  unroll<N>([&](auto v) {
    mean[v] = simd::load(statistics + chunks.offset(0, 0) + v * kLanes);
    scale[v] = simd::load(statistics + chunks.offset(0, 2) + v * kLanes);
    if (gamma != nullptr) scale[v] *= simd::load_width<S>(gamma + column + v * kLanes, width);
    offset[v] = beta != nullptr ? simd::load_width<S>(beta + column + v * kLanes, width) : V{};
    offset[v] -= simd::load(statistics + chunks.offset(0, 1) + v * kLanes) * scale[v];
  });
  for (std::int64_t row = begin; row < end; ++row)
    unroll<N>([&](auto v) {
      const V difference = simd::load_width<S>(x + row * channels + v * kLanes, width) - mean[v];
      simd::store_width<S>(y + row * channels + v * kLanes, simd::fma(difference, scale[v], offset[v]), width);
    });
}

// --- backward --------------------------------------------------------------------------------------------------------

// Of one chunk: the sums of dy, of dy (x - mean), and of x - mean (the last finds what the saved mean lost by
// rounding).
template <class S, int N, class W>
void chunk_sums(const BatchNormBackward& args, const Chunks& chunks, std::int64_t chunk, std::int64_t column, W width) {
  using C = compute_t<S>;
  using V = Vec<C>;
  constexpr int kLanes = simd::kLanes<C>;
  const std::int64_t channels = args.channels;
  const S* x = static_cast<const S*>(args.x) + column;
  const S* dy = static_cast<const S*>(args.dy) + column;
  C* out = static_cast<C*>(args.partials) + column;
  V mean[N], sum_dy[N], sum_dyx[N], sum_x[N];
  unroll<N>([&](auto v) {
    mean[v] = simd::load_width<C>(static_cast<const C*>(args.mean) + column + v * kLanes, width);
    sum_dy[v] = sum_dyx[v] = sum_x[v] = V{};
  });
  for (std::int64_t row = chunks.begin(chunk); row < chunks.end(chunk); ++row)
    unroll<N>([&](auto v) {
      const V difference = simd::load_width<S>(x + row * channels + v * kLanes, width) - mean[v];
      const V gradient = simd::load_width<S>(dy + row * channels + v * kLanes, width);
      sum_dy[v] += gradient;
      sum_dyx[v] = simd::fma(gradient, difference, sum_dyx[v]);
      sum_x[v] += difference;
    });
  unroll<N>([&](auto v) {
    simd::store<C, C>(out + chunks.offset(chunk, 0) + v * kLanes, sum_dy[v]);
    simd::store<C, C>(out + chunks.offset(chunk, 1) + v * kLanes, sum_dyx[v]);
    simd::store<C, C>(out + chunks.offset(chunk, 2) + v * kLanes, sum_x[v]);
  });
}

// dgamma and dbeta; leaves in the first chunk's place the factors of dx = scale dy + slope (x - mean) + offset.
template <class S, class W>
void finish_sums(const BatchNormBackward& args, const Chunks& chunks, std::int64_t column, W width) {
  using C = compute_t<S>;
  using V = Vec<C>;
  const auto at = [&](std::int64_t chunk, int which) {
    return static_cast<C*>(args.partials) + chunks.offset(chunk, which) + column;
  };
  V sum_dy{}, sum_dyx{}, sum_x{};
  for (std::int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    sum_dy += simd::load(at(chunk, 0));
    sum_dyx += simd::load(at(chunk, 1));
    sum_x += simd::load(at(chunk, 2));
  }
  const V inverse = simd::broadcast(C(1) / static_cast<C>(args.rows));
  const V rstd = simd::load_width<C>(static_cast<const C*>(args.rstd) + column, width);
  const bool train = args.mode == BatchNormMode::train;
  const V rest = train ? sum_x * inverse : V{};
  const V dgamma = (sum_dyx - rest * sum_dy) * rstd;
  const auto write = [&](void* out, V sum, Accumulate mode) {
    if (out == nullptr) return;
    S* to = static_cast<S*>(out) + column;
    if (mode == Accumulate::add) sum += simd::load_width<S>(to, width);
    simd::store_width<S>(to, sum, width);
  };
  write(args.dgamma, dgamma, args.dgamma_mode);
  write(args.dbeta, sum_dy, args.dbeta_mode);
  V scale = rstd;
  if (args.gamma != nullptr) scale *= simd::load_width<S>(static_cast<const S*>(args.gamma) + column, width);
  const V slope = -scale * rstd * dgamma * inverse;
  simd::store<C, C>(at(0, 0), scale);
  simd::store<C, C>(at(0, 1), slope);
  simd::store<C, C>(at(0, 2), -scale * sum_dy * inverse - slope * rest);
}

template <class S, int N, BatchNormMode kMode, class W>
void input_gradient(const BatchNormBackward& args, const Chunks& chunks, std::int64_t begin, std::int64_t end,
                    std::int64_t column, W width) {
  using C = compute_t<S>;
  using V = Vec<C>;
  constexpr int kLanes = simd::kLanes<C>;
  const std::int64_t channels = args.channels;
  const S* x = static_cast<const S*>(args.x) + column;
  const S* dy = static_cast<const S*>(args.dy) + column;
  S* dx = static_cast<S*>(args.dx) + column;
  const C* factors = static_cast<const C*>(args.partials) + column;
  V mean[N], scale[N], slope[N], offset[N];
  unroll<N>([&](auto v) {
    mean[v] = simd::load_width<C>(static_cast<const C*>(args.mean) + column + v * kLanes, width);
    scale[v] = simd::load(factors + chunks.offset(0, 0) + v * kLanes);
    slope[v] = simd::load(factors + chunks.offset(0, 1) + v * kLanes);
    offset[v] = simd::load(factors + chunks.offset(0, 2) + v * kLanes);
  });
  for (std::int64_t row = begin; row < end; ++row)
    unroll<N>([&](auto v) {
      const std::int64_t i = row * channels + v * kLanes;
      V gradient = scale[v] * simd::load_width<S>(dy + i, width);
      if constexpr (kMode == BatchNormMode::train)
        gradient += simd::fma(slope[v], simd::load_width<S>(x + i, width) - mean[v], offset[v]);
      simd::store_width<S>(dx + i, gradient, width);
    });
}

}  // namespace

std::int64_t batch_norm_partials(std::int64_t rows, std::int64_t channels, Device device) {
  if (device.kind == DeviceKind::cpu) return Chunks(rows, channels).elems();
  return ((rows + kBatchNormChunkRows - 1) / kBatchNormChunkRows + 1) * 3 * channels;
}

void batch_norm_forward(Device device, const BatchNormForward& args) {
  if (WEFT_ON_GPU("batch_norm", batch_norm_forward, device, args)) return;
  dispatch_float(args.dtype, "batch_norm", [&]<class S>(std::type_identity<S>) {
    using C = compute_t<S>;
    const Chunks chunks(args.rows, args.channels);
    run_phases<S>(
        chunks, args.channels,
        [&](std::int64_t chunk, std::int64_t first, std::int64_t last) {
          if (args.mode == BatchNormMode::eval) return;
          for_each_group<C>(first, last, [&]<int N>(std::int64_t column, std::integral_constant<int, N>, auto width) {
            chunk_statistics<S, N>(args, chunks, chunk, column, width);
          });
        },
        [&](std::int64_t first, std::int64_t last) {
          simd::for_each_vector<C>(
              last - first, [&](std::int64_t i, auto width) { finish_statistics<S>(args, chunks, first + i, width); });
        },
        [&](std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t last) {
          for_each_group<C>(first, last, [&]<int N>(std::int64_t column, std::integral_constant<int, N>, auto width) {
            normalise<S, N>(args, chunks, begin, end, column, width);
          });
        });
  });
}

void batch_norm_backward(Device device, const BatchNormBackward& args) {
  if (WEFT_ON_GPU("batch_norm", batch_norm_backward, device, args)) return;
  dispatch_float(args.dtype, "batch_norm", [&]<class S>(std::type_identity<S>) {
    using C = compute_t<S>;
    const Chunks chunks(args.rows, args.channels);
    run_phases<S>(
        chunks, args.channels,
        [&](std::int64_t chunk, std::int64_t first, std::int64_t last) {
          for_each_group<C>(first, last, [&]<int N>(std::int64_t column, std::integral_constant<int, N>, auto width) {
            chunk_sums<S, N>(args, chunks, chunk, column, width);
          });
        },
        [&](std::int64_t first, std::int64_t last) {
          simd::for_each_vector<C>(last - first,
                                   [&](std::int64_t i, auto width) { finish_sums<S>(args, chunks, first + i, width); });
        },
        [&](std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t last) {
          if (args.dx == nullptr) return;
          for_each_group<C>(first, last, [&]<int N>(std::int64_t column, std::integral_constant<int, N>, auto width) {
            if (args.mode == BatchNormMode::train)
              input_gradient<S, N, BatchNormMode::train>(args, chunks, begin, end, column, width);
            else
              input_gradient<S, N, BatchNormMode::eval>(args, chunks, begin, end, column, width);
          });
        });
  });
}

}  // namespace weft::kernels
