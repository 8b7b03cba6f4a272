// The norm of all gradients of a table, and the decision on the update: two launches, nothing for the host to wait for.
//   Mapping: (1) a block of 512 threads per chunk of 16 Ki elements adds up its squares and leaves one f64 number;
//            (2) one block adds those up in order, decides, and advances the counts of all tensors.
//   Memory:  4 bytes per f32 element. The gradients stay in the L2 where they fit, for the update that follows.
//   Shared:  192 bytes; 260 bytes.
//   Sizes:   any. A thread always adds the same elements in the same order: an array that is not aligned to 16 bytes
//            gives the same bits, with narrower loads.
#include "kernels/grad_norm.h"

#include <cfloat>

#include "kernels/common/block.h"
#include "kernels/common/update_block.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kChunkThreads = 512;
constexpr int kDecideThreads = 1024;

/// Elements [i, i + kWidth), those from `count` on as zeros.
template <int kWidth, class T>
WEFT_DEVICE Vec<T, kWidth> load_padded(const T* values, int i, int count, bool is_aligned) {
  if (is_aligned && i + kWidth <= count) return load<kWidth>(values + i);
  Vec<T, kWidth> value;
  WEFT_UNROLL
  for (int j = 0; j < kWidth; ++j) value[j] = i + j < count ? load_one(values + i + j) : T(0);
  return value;
}

template <class T>
WEFT_DEVICE T sum_of_squares(const T* gradient, int count) {
  constexpr int kWidth = kVectorWidth<T>, kStride = kChunkThreads * kWidth, kBatch = 4;
  const bool is_aligned = reinterpret_cast<std::uintptr_t>(gradient) % 16 == 0;
  Vec<T, kWidth> sums{};
  WEFT_NO_UNROLL
  for (int first = static_cast<int>(threadIdx.x) * kWidth; first < count; first += kBatch * kStride) {
    Vec<T, kWidth> g[kBatch];
    WEFT_UNROLL
    for (int b = 0; b < kBatch; ++b) g[b] = load_padded<kWidth>(gradient, first + b * kStride, count, is_aligned);
    WEFT_UNROLL
    for (int b = 0; b < kBatch; ++b) {
      WEFT_UNROLL
      for (int j = 0; j < kWidth; ++j) sums[j] = fused(g[b][j], g[b][j], sums[j]);
    }
  }
  T total = sums[0];
  WEFT_UNROLL
  for (int j = 1; j < kWidth; ++j) total += sums[j];
  return total;
}

WEFT_KERNEL __launch_bounds__(kChunkThreads) chunk_kernel(DeviceTable table, double* partial) {
  WEFT_SHARED(float, narrow_scratch, kChunkThreads / kWarpSize);
  WEFT_SHARED(double, wide_scratch, kChunkThreads / kWarpSize);
  const UpdateChunk* const chunk = table.chunks + blockIdx.x;
  const std::int64_t begin = load_one<Cache::readonly>(&chunk->begin);
  const int count = static_cast<int>(load_one<Cache::readonly>(&chunk->end) - begin);
  const UpdateEntry* const entry = table.entries + load_one<Cache::readonly>(&chunk->entry);
  const void* const gradient = load_one<Cache::readonly>(&entry->gradient);
  double sum;
  if (load_one<Cache::readonly>(&entry->dtype) == Dtype::f64)
    sum = block_sum<kChunkThreads>(sum_of_squares(static_cast<const double*>(gradient) + begin, count), wide_scratch);
  else
    sum = block_sum<kChunkThreads>(sum_of_squares(static_cast<const float*>(gradient) + begin, count), narrow_scratch);
  if (threadIdx.x == 0) store_one(partial + blockIdx.x, sum);
}

WEFT_DEVICE bool is_finite(float x) { return fabsf(x) <= FLT_MAX; }
WEFT_DEVICE bool is_finite(double x) { return fabs(x) <= DBL_MAX; }

WEFT_DEVICE void increment(std::int64_t* count) { store_one(count, load_one(count) + 1); }

// As decide() in grad_norm.cpp; whether the update is made.
WEFT_DEVICE bool decide(double sum_of_squares, const double* given_denominator, double max_norm, StepState* state) {
  const double denominator = given_denominator != nullptr ? load_one(given_denominator) : 1.0;
  const double norm = sqrt(sum_of_squares) / fabs(denominator);
  const double clip = max_norm > 0 ? fmin(1.0, max_norm / (norm + 1e-6)) : 1.0;
  const double scale = clip / denominator;
  // In f32, the narrowest type that the two are used in. A denominator of 0 makes the scale infinite.
  const bool apply =
      is_finite(static_cast<float>(norm)) && is_finite(static_cast<float>(scale)) && is_finite(denominator);
  store_one(&state->sum_of_squares, sum_of_squares);
  store_one(&state->denominator, denominator);
  store_one(&state->norm, norm);
  store_one(&state->scale, scale);
  store_one(&state->apply, static_cast<std::int64_t>(apply ? 1 : 0));
  increment(&state->updates);
  if (apply) {
    increment(&state->applied);
    store_one(&state->skipped_in_a_row, std::int64_t{0});
  } else {
    increment(denominator == 0 ? &state->skipped_zero_denominator : &state->skipped_not_finite);
    increment(&state->skipped_in_a_row);
  }
  return apply;
}

WEFT_KERNEL __launch_bounds__(kDecideThreads)
    decide_kernel(DeviceTable table, const double* partial, const double* denominator, double max_norm,
                  StepState* state, const DeviceStatus* status) {
  WEFT_SHARED(double, scratch, kDecideThreads / kWarpSize);
  WEFT_SHARED(int, apply, 1);
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < table.chunk_count; i += kDecideThreads) sum += load_one(partial + i);
  sum = block_sum<kDecideThreads>(sum, scratch);
  if (threadIdx.x == 0) {
    if (is_set(status)) {  // not an update that is skipped: one that is not asked for
      store_one(&state->apply, std::int64_t{0});
      apply[0] = 0;
    } else {
      apply[0] = decide(sum, denominator, max_norm, state) ? 1 : 0;
    }
  }
  __syncthreads();
  if (apply[0] == 0) return;
  for (std::int64_t e = threadIdx.x; e < table.entry_count; e += kDecideThreads)
    increment(load_one(&table.entries[e].applied));
}

void run_two_launches(const Stream& stream, const GradNormArgs& args) {
  check_dtypes(*args.table, "grad_norm");
  const DeviceTable table = args.table->on(stream);
  const Operand partial{"partial", args.partial, table.chunk_count * 8, OperandKind::workspace};
  launch(stream,
         {.name = "grad_norm_chunks",
          .grid = {table.chunk_count},
          .block = {kChunkThreads},
          .operands = {entries_operand(table), chunks_operand(table), partial}},
         chunk_kernel, table, args.partial);
  launch(
      stream,
      {.name = "grad_norm_decide",
       .grid = {1},
       .block = {kDecideThreads},
       .operands = {entries_operand(table), partial, state_operand(args.state), {"denominator", args.denominator, 8}}},
      decide_kernel, table, static_cast<const double*>(args.partial), args.denominator, args.max_norm, args.state,
      args.status);
}

constexpr Variant<GradNormArgs> kVariants[] = {
    {"two_launches", "one sum per chunk, then one block that decides", [](const GradNormArgs&) { return true; },
     run_two_launches},
};

}  // namespace

std::span<const Variant<GradNormArgs>> grad_norm_variants() { return kVariants; }

void grad_norm(const Stream& stream, const GradNormArgs& args) {
  run_variant("grad_norm", grad_norm_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
