// BatchNorm over planes that lie side by side, forward.
//   streamed   a block takes a chunk of a channel, some planes or a piece of one, in registers and finds its mean and the
//              sum of its squared differences, each in two passes; a block per channel combines them in order (Chan,
//              Golub, LeVeque 1979); then every chunk is read again and normalised. Reads x twice, in evaluation once.
// Vectors of 16 bytes where every plane starts on 16 bytes, else single elements.
#include "kernels/common/batch_norm_planes.h"
#include "kernels/common/variant.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kMergeThreads = 128;

template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kPlaneThreads)
    moments_kernel(const BatchNormNchwForward args, const BatchNormPlanes planes) {
  using C = compute_t<T>;
  constexpr int kVectors = kPlaneVectors<kWidth>;
  WEFT_SHARED(C, first_scratch, kPlaneThreads / kWarpSize);
  WEFT_SHARED(C, second_scratch, 2 * kPlaneThreads / kWarpSize);
  const PlaneChunk chunk(planes);
  const T* const from = static_cast<const T*>(args.x);
  Vec<T, kWidth> x[kVectors] = {};
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const int i = PlaneChunk::element<kWidth>(v);
    if (i < chunk.count) x[v] = load<kWidth>(from + chunk.at(i));
  }
  const C shift = widen(load_one(from + chunk.begin)), count = static_cast<C>(chunk.count);
  C sum = C(0);
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    if (PlaneChunk::element<kWidth>(v) >= chunk.count) continue;
    const Vec<C, kWidth> value = widen(x[v]);
    WEFT_UNROLL
    for (int e = 0; e < kWidth; ++e) sum += value[e] - shift;
  }
  const C mean = shift + block_sum<kPlaneThreads>(sum, first_scratch) / count;
  C sums[2] = {C(0), C(0)};  // of the differences from the mean, and of their squares
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    if (PlaneChunk::element<kWidth>(v) >= chunk.count) continue;
    const Vec<C, kWidth> value = widen(x[v]);
    WEFT_UNROLL
    for (int e = 0; e < kWidth; ++e) {
      const C difference = value[e] - mean;
      sums[0] += difference;
      sums[1] = fused(difference, difference, sums[1]);
    }
  }
  block_sums<kPlaneThreads>(sums, second_scratch);
  if (threadIdx.x != 0) return;
  const C rest = sums[0] / count;
  store_one(plane_numbers<C>(args.partials, planes, 0, chunk.channel) + chunk.index, mean);
  store_one(plane_numbers<C>(args.partials, planes, 1, chunk.channel) + chunk.index, rest);
  store_one(plane_numbers<C>(args.partials, planes, 2, chunk.channel) + chunk.index, sums[1] - rest * sums[0]);
}

/// A block per channel. Means are taken from the first chunk's: their differences are exact where they are small.
template <class T>
WEFT_KERNEL __launch_bounds__(kMergeThreads)
    finish_kernel(const BatchNormNchwForward args, const BatchNormPlanes planes) {
  using C = compute_t<T>;
  WEFT_SHARED(C, first_scratch, kMergeThreads / kWarpSize);
  WEFT_SHARED(C, second_scratch, kMergeThreads / kWarpSize);
  const std::int64_t channel = blockIdx.x;
  C* const running_mean = static_cast<C*>(args.running_mean) + channel;
  C* const running_var = static_cast<C*>(args.running_var) + channel;
  C mean, rest = C(0), variance;
  if (args.mode == BatchNormMode::train) {
    const C* const means = plane_numbers<C>(args.partials, planes, 0, channel);
    const C* const rests = plane_numbers<C>(args.partials, planes, 1, channel);
    const C* const squares = plane_numbers<C>(args.partials, planes, 2, channel);
    const C base = load_one(means), elems = static_cast<C>(planes.batch * planes.spatial);
    const auto difference = [&](std::int64_t k) { return (load_one(means + k) - base) + load_one(rests + k); };
    C sum = C(0);
    WEFT_NO_UNROLL
    for (std::int64_t k = threadIdx.x; k < planes.chunks; k += kMergeThreads)
      sum = fused(static_cast<C>(plane_chunk_count(planes, k)), difference(k), sum);
    const C shift = block_sum<kMergeThreads>(sum, first_scratch) / elems;  // true mean - base
    C total = C(0);
    WEFT_NO_UNROLL
    for (std::int64_t k = threadIdx.x; k < planes.chunks; k += kMergeThreads) {
      const C apart = difference(k) - shift;
      total += fused(static_cast<C>(plane_chunk_count(planes, k)), apart * apart, load_one(squares + k));
    }
    total = block_sum<kMergeThreads>(total, second_scratch);
    if (threadIdx.x != 0) return;
    total = total < C(0) ? C(0) : total;  // rounding may go below 0; a NaN stays
    mean = base + shift;
    rest = shift - (mean - base);
    variance = total / elems;
    if (args.running_mean != nullptr) {
      const C fresh = static_cast<C>(args.momentum), kept = C(1) - fresh;
      store_one(running_mean, fused(fresh, mean, kept * load_one(running_mean)));
      store_one(running_var, fused(fresh, total / (elems - C(1)), kept * load_one(running_var)));
    }
  } else {
    if (threadIdx.x != 0) return;
    mean = load_one(running_mean);
    variance = load_one(running_var);
  }
  const C rstd = C(1) / square_root(variance + static_cast<C>(args.eps));
  if (args.mean != nullptr) store_one(static_cast<C*>(args.mean) + channel, mean);
  if (args.rstd != nullptr) store_one(static_cast<C*>(args.rstd) + channel, rstd);
  const C scale = rstd * channel_or<T>(args.gamma, channel, C(1));
  store_one(plane_factors<C>(args.partials, planes, 0) + channel, mean);
  store_one(plane_factors<C>(args.partials, planes, 1) + channel, scale);
  store_one(plane_factors<C>(args.partials, planes, 2) + channel,
            channel_or<T>(args.beta, channel, C(0)) - rest * scale);
}

template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kPlaneThreads)
    normalise_kernel(const BatchNormNchwForward args, const BatchNormPlanes planes) {
  using C = compute_t<T>;
  constexpr int kVectors = kPlaneVectors<kWidth>;
  const PlaneChunk chunk(planes);
  Vec<T, kWidth> x[kVectors] = {};
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const int i = PlaneChunk::element<kWidth>(v);
    if (i < chunk.count) x[v] = load<kWidth, Cache::streaming>(static_cast<const T*>(args.x) + chunk.at(i));
  }
  const C mean = load_one(plane_factors<C>(args.partials, planes, 0) + chunk.channel);
  const C scale = load_one(plane_factors<C>(args.partials, planes, 1) + chunk.channel);
  const C offset = load_one(plane_factors<C>(args.partials, planes, 2) + chunk.channel);
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const int i = PlaneChunk::element<kWidth>(v);
    if (i >= chunk.count) continue;
    Vec<C, kWidth> y = widen(x[v]);
    WEFT_UNROLL
    for (int e = 0; e < kWidth; ++e) y[e] = fused(y[e] - mean, scale, offset);
    store(static_cast<T*>(args.y) + chunk.at(i), narrow<T>(y));
  }
}

bool in_vectors(const BatchNormNchwForward& args) {
  return args.spatial * element_bytes(args.dtype) % 16 == 0 && is_aligned(args.x, 16) && is_aligned(args.y, 16);
}

template <class T, int kWidth>
void run_streamed(const Stream& stream, const BatchNormNchwForward& args) {
  using C = compute_t<T>;
  const BatchNormPlanes planes(args.batch, args.channels, args.spatial);
  const std::int64_t vector = args.channels * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t statistics = args.channels * static_cast<std::int64_t>(sizeof(C));
  const std::int64_t all = args.batch * args.spatial * vector, partials = 3 * (1 + planes.chunks) * statistics;
  const std::int64_t blocks = planes.chunks * args.channels;
  if (args.mode == BatchNormMode::train)
    launch(stream,
           {.name = "batch_norm_nchw_forward_moments",
            .grid = {blocks},
            .block = {kPlaneThreads},
            .operands = {{"x", args.x, all}, {"partials", args.partials, partials, OperandKind::workspace}}},
           moments_kernel<T, kWidth>, args, planes);
  launch(stream,
         {.name = "batch_norm_nchw_forward_finish",
          .grid = {args.channels},
          .block = {kMergeThreads},
          .operands = {{"partials", args.partials, partials, OperandKind::workspace},
                       {"gamma", args.gamma, vector},
                       {"beta", args.beta, vector},
                       {"running_mean", args.running_mean, statistics},
                       {"running_var", args.running_var, statistics},
                       {"mean", args.mean, statistics},
                       {"rstd", args.rstd, statistics}}},
         finish_kernel<T>, args, planes);
  if (blocks == 0) return;  // evaluation without samples still says which statistics it used
  launch(stream,
         {.name = "batch_norm_nchw_forward_normalise",
          .grid = {blocks},
          .block = {kPlaneThreads},
          .operands = {{"x", args.x, all},
                       {"y", args.y, all},
                       {"partials", args.partials, partials, OperandKind::broadcast}}},
         normalise_kernel<T, kWidth>, args, planes);
}

const Variant<BatchNormNchwForward> kVariants[] = {
    {"streamed", "chunks of planes, combined, then x once more", [](const BatchNormNchwForward&) { return true; },
     [](const Stream& stream, const BatchNormNchwForward& args) {
       dispatch_planes(args.dtype, in_vectors(args), [&](auto type, auto width) {
         run_streamed<typename decltype(type)::type, width>(stream, args);
       });
     }},
};

}  // namespace

std::span<const Variant<BatchNormNchwForward>> batch_norm_nchw_forward_variants() { return kVariants; }

void batch_norm_nchw_forward(const Stream& stream, const BatchNormNchwForward& args) {
  run_variant("batch_norm", batch_norm_nchw_forward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
