// The rungs below the kernels of layer_norm.cu: the same sums in the same formula, one idea each. Never chosen; tested,
// counted and timed with the rest (WEFT_VARIANT=one_thread ./run traffic layer_norm_forward).
//   one_thread  Idea:    the formula, as it stands: two passes for the statistics, a third for the result. Its long sums
//                        need a correction that sums of few terms do without.
//               Mapping: one thread per row, 128 rows per block; no shared memory.
//               Costs:   neighbouring threads read elements a row apart, so that a warp's load touches 32 sectors and uses
//                        4 bytes of each; few rows leave the GPU idle.
//   one_block   Idea:    neighbouring threads take neighbouring elements, and add up their sums in shared memory.
//               Mapping: one block of 256 threads per row; 256 sums in shared memory, halved eight times.
//               Costs:   eight barriers per sum, x is read three times, 4 bytes (2 of bf16) per load.
// Bytes moved over the floor, 256 x 1024 of f32, by the command above: one_thread 15.9, one_block 2.03, registers 1.007.
// registers, the shipped one, goes on from there: shuffles instead of barriers, 16 bytes per load, the row read once.
// Both: any C and any alignment. Source: M. Harris, "Optimizing Parallel Reduction in CUDA", 2007, kernel 3, for the tree.
#include "kernels/layer_norm.h"

#include "kernels/common/launch.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kRowsPerBlock = 128;
constexpr int kRowThreads = 256;

/// y[row, c].
template <class T>
WEFT_DEVICE void store_result(const LayerNormForward& args, std::int64_t row, std::int64_t c, compute_t<T> mean,
                              compute_t<T> rest, compute_t<T> rstd) {
  const std::int64_t at = row * args.channels + c;
  compute_t<T> value = (widen(load_one(static_cast<const T*>(args.x) + at)) - mean - rest) * rstd;
  if (args.gamma != nullptr) value *= widen(load_one(static_cast<const T*>(args.gamma) + c));
  if (args.beta != nullptr) value += widen(load_one(static_cast<const T*>(args.beta) + c));
  store_one(static_cast<T*>(args.y) + at, narrow<T>(value));
}

/// 1 / sqrt(variance + eps), and the row's statistics where they are wanted.
template <class C>
WEFT_DEVICE C finish(const LayerNormForward& args, std::int64_t row, C mean, C rest, C squares, bool writes) {
  C variance = squares / static_cast<C>(args.channels) - rest * rest;
  if (variance < C(0)) variance = C(0);  // written so that a NaN stays
  const C rstd = C(1) / square_root(variance + static_cast<C>(args.eps));
  if (writes && args.mean != nullptr) store_one(static_cast<C*>(args.mean) + row, mean + rest);
  if (writes && args.rstd != nullptr) store_one(static_cast<C*>(args.rstd) + row, rstd);
  return rstd;
}

/// sum[0] += value; sum[1] is what the additions so far have lost. One after the other, C terms lose up to C roundings;
/// so they lose two (Kahan 1965).
template <class C>
WEFT_DEVICE void add(C (&sum)[2], C value) {
  const C corrected = value - sum[1], next = sum[0] + corrected;
  sum[1] = (next - sum[0]) - corrected;
  sum[0] = next;
}

template <class T>
WEFT_KERNEL __launch_bounds__(kRowsPerBlock) one_thread_kernel(const LayerNormForward args) {
  using C = compute_t<T>;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x;
  if (row >= args.rows) return;
  const T* const x = static_cast<const T*>(args.x) + row * args.channels;
  const C shift = widen(load_one(x)), count = static_cast<C>(args.channels);
  C sum[2] = {}, rest[2] = {}, squares[2] = {};  // rest: what the mean lost by rounding
  for (std::int64_t c = 0; c < args.channels; ++c) add(sum, widen(load_one(x + c)) - shift);
  const C mean = shift + sum[0] / count;
  for (std::int64_t c = 0; c < args.channels; ++c) {
    const C difference = widen(load_one(x + c)) - mean;
    add(rest, difference);
    add(squares, difference * difference);
  }
  rest[0] /= count;
  const C rstd = finish(args, row, mean, rest[0], squares[0], true);
  for (std::int64_t c = 0; c < args.channels; ++c) store_result<T>(args, row, c, mean, rest[0], rstd);
}

/// Sum over the block's kRowThreads values; every thread gets it.
template <class C>
WEFT_DEVICE C tree_sum(C value, Shared<C> sums) {
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();  // the last sum has been read
  sums[thread] = value;
  __syncthreads();
  for (int half = kRowThreads / 2; half > 0; half /= 2) {
    if (thread < half) sums[thread] += C(sums[thread + half]);
    __syncthreads();
  }
  return sums[0];
}

template <class T>
WEFT_KERNEL __launch_bounds__(kRowThreads, 4) one_block_kernel(const LayerNormForward args) {
  using C = compute_t<T>;
  WEFT_SHARED(C, sums, kRowThreads);
  const std::int64_t row = blockIdx.x, first = threadIdx.x;
  const T* const x = static_cast<const T*>(args.x) + row * args.channels;
  const C shift = widen(load_one(x)), count = static_cast<C>(args.channels);
  C sum = C(0);
  for (std::int64_t c = first; c < args.channels; c += kRowThreads) sum += widen(load_one(x + c)) - shift;
  const C mean = shift + tree_sum<C>(sum, sums) / count;
  C rest = C(0), squares = C(0);
  for (std::int64_t c = first; c < args.channels; c += kRowThreads) {
    const C difference = widen(load_one(x + c)) - mean;
    rest += difference;
    squares = fused(difference, difference, squares);
  }
  rest = tree_sum<C>(rest, sums) / count;
  squares = tree_sum<C>(squares, sums);
  const C rstd = finish(args, row, mean, rest, squares, first == 0);
  for (std::int64_t c = first; c < args.channels; c += kRowThreads) store_result<T>(args, row, c, mean, rest, rstd);
}

template <class T>
void start(const Stream& stream, const LayerNormForward& args, const char* name, std::int64_t blocks, int threads,
           void (*kernel)(LayerNormForward)) {
  const std::int64_t row = args.channels * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t statistics = args.rows * static_cast<std::int64_t>(sizeof(compute_t<T>));
  launch(stream,
         {.name = name,
          .grid = {blocks},
          .block = {threads},
          .operands = {{"x", args.x, args.rows * row},
                       {"gamma", args.gamma, row, OperandKind::broadcast},
                       {"beta", args.beta, row, OperandKind::broadcast},
                       {"y", args.y, args.rows * row},
                       {"mean", args.mean, statistics},
                       {"rstd", args.rstd, statistics}}},
         kernel, args);
}

const Variant<LayerNormForward> kForwardRungs[] = {
    {"one_thread", "a thread per row, three passes", [](const LayerNormForward&) { return true; },
     [](const Stream& stream, const LayerNormForward& args) {
       dispatch_float(args.dtype, "layer_norm", [&]<class T>(std::type_identity<T>) {
         start<T>(stream, args, "layer_norm_forward_one_thread", ceil_div<std::int64_t>(args.rows, kRowsPerBlock),
                  kRowsPerBlock, one_thread_kernel<T>);
       });
     }},
    {"one_block", "a block per row, sums in a tree in shared memory", [](const LayerNormForward&) { return true; },
     [](const Stream& stream, const LayerNormForward& args) {
       dispatch_float(args.dtype, "layer_norm", [&]<class T>(std::type_identity<T>) {
         start<T>(stream, args, "layer_norm_forward_one_block", args.rows, kRowThreads, one_block_kernel<T>);
       });
     }},
};

}  // namespace

std::span<const Variant<LayerNormForward>> layer_norm_forward_rungs() { return kForwardRungs; }

}  // namespace weft::kernels::WEFT_BACKEND
