// BatchNorm over planes that lie side by side, backward.
//   streamed   a block per chunk of a channel sums dy, dy (x - mean) and x - mean; a block per channel adds the chunks in
//              order, writes dgamma and dbeta and leaves the factors of dx; then every chunk of x and dy is read again.
//              In evaluation dx needs no sums and no x.
#include "kernels/common/batch_norm_planes.h"
#include "kernels/common/variant.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kMergeThreads = 128;

bool wants_sums(const BatchNormNchwBackward& args) {
  return args.mode == BatchNormMode::train || args.dgamma != nullptr || args.dbeta != nullptr;
}

template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kPlaneThreads)
    sums_kernel(const BatchNormNchwBackward args, const BatchNormPlanes planes) {
  using C = compute_t<T>;
  constexpr int kVectors = kPlaneVectors<kWidth>;
  WEFT_SHARED(C, scratch, 3 * kPlaneThreads / kWarpSize);
  const PlaneChunk chunk(planes);
  Vec<T, kWidth> x[kVectors] = {}, dy[kVectors] = {};
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const int i = PlaneChunk::element<kWidth>(v);
    if (i >= chunk.count) continue;
    x[v] = load<kWidth>(static_cast<const T*>(args.x) + chunk.at(i));
    dy[v] = load<kWidth>(static_cast<const T*>(args.dy) + chunk.at(i));
  }
  const C mean = load_one(static_cast<const C*>(args.mean) + chunk.channel);
  C sums[3] = {C(0), C(0), C(0)};  // of dy, of dy (x - mean), of x - mean
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    if (PlaneChunk::element<kWidth>(v) >= chunk.count) continue;
    const Vec<C, kWidth> wide_x = widen(x[v]), wide_dy = widen(dy[v]);
    WEFT_UNROLL
    for (int e = 0; e < kWidth; ++e) {
      const C difference = wide_x[e] - mean;
      sums[0] += wide_dy[e];
      sums[1] = fused(wide_dy[e], difference, sums[1]);
      sums[2] += difference;
    }
  }
  block_sums<kPlaneThreads>(sums, scratch);
  if (threadIdx.x != 0) return;
  WEFT_UNROLL
  for (int n = 0; n < 3; ++n)
    store_one(plane_numbers<C>(args.partials, planes, n, chunk.channel) + chunk.index, sums[n]);
}

template <class T>
WEFT_DEVICE void write_sum(void* out, std::int64_t channel, compute_t<T> sum, Accumulate mode) {
  if (out == nullptr) return;
  T* const to = static_cast<T*>(out) + channel;
  if (mode == Accumulate::add) sum += widen(load_one(to));
  store_one(to, narrow<T>(sum));
}

/// A block per channel: dgamma, dbeta, and the factors of dx = scale dy + slope (x - mean) + offset.
template <class T>
WEFT_KERNEL __launch_bounds__(kMergeThreads)
    finish_kernel(const BatchNormNchwBackward args, const BatchNormPlanes planes, std::int64_t chunks) {
  using C = compute_t<T>;
  WEFT_SHARED(C, scratch, 3 * kMergeThreads / kWarpSize);
  const std::int64_t channel = blockIdx.x;
  C sums[3] = {C(0), C(0), C(0)};
  WEFT_NO_UNROLL
  for (std::int64_t k = threadIdx.x; k < chunks; k += kMergeThreads) {
    WEFT_UNROLL
    for (int n = 0; n < 3; ++n) sums[n] += load_one(plane_numbers<C>(args.partials, planes, n, channel) + k);
  }
  block_sums<kMergeThreads>(sums, scratch);
  if (threadIdx.x != 0) return;
  const bool train = args.mode == BatchNormMode::train;
  const C elems = static_cast<C>(planes.batch * planes.spatial);
  const C rstd = load_one(static_cast<const C*>(args.rstd) + channel);
  const C rest = train ? sums[2] / elems : C(0);  // what the saved mean lost by rounding
  const C dgamma = (sums[1] - rest * sums[0]) * rstd;
  write_sum<T>(args.dgamma, channel, dgamma, args.dgamma_mode);
  write_sum<T>(args.dbeta, channel, sums[0], args.dbeta_mode);
  const C scale = rstd * channel_or<T>(args.gamma, channel, C(1));
  const C slope = train ? -scale * rstd * dgamma / elems : C(0);
  store_one(plane_factors<C>(args.partials, planes, 0) + channel, scale);
  store_one(plane_factors<C>(args.partials, planes, 1) + channel, slope);
  store_one(plane_factors<C>(args.partials, planes, 2) + channel,
            train ? -scale * sums[0] / elems - slope * rest : C(0));
}

template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kPlaneThreads) dx_kernel(const BatchNormNchwBackward args, const BatchNormPlanes planes) {
  using C = compute_t<T>;
  constexpr int kVectors = kPlaneVectors<kWidth>;
  const bool train = args.mode == BatchNormMode::train;
  const PlaneChunk chunk(planes);
  Vec<T, kWidth> x[kVectors] = {}, dy[kVectors] = {};
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const int i = PlaneChunk::element<kWidth>(v);
    if (i >= chunk.count) continue;
    if (train) x[v] = load<kWidth, Cache::streaming>(static_cast<const T*>(args.x) + chunk.at(i));
    dy[v] = load<kWidth, Cache::streaming>(static_cast<const T*>(args.dy) + chunk.at(i));
  }
  const C mean = load_one(static_cast<const C*>(args.mean) + chunk.channel);
  const C scale = load_one(plane_factors<C>(args.partials, planes, 0) + chunk.channel);
  const C slope = load_one(plane_factors<C>(args.partials, planes, 1) + chunk.channel);
  const C offset = load_one(plane_factors<C>(args.partials, planes, 2) + chunk.channel);
  WEFT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const int i = PlaneChunk::element<kWidth>(v);
    if (i >= chunk.count) continue;
    const Vec<C, kWidth> wide_x = widen(x[v]), wide_dy = widen(dy[v]);
    Vec<C, kWidth> dx;
    WEFT_UNROLL
    for (int e = 0; e < kWidth; ++e) {
      const C inner = train ? fused(slope, wide_x[e] - mean, offset) : C(0);
      dx[e] = fused(scale, wide_dy[e], inner);
    }
    store(static_cast<T*>(args.dx) + chunk.at(i), narrow<T>(dx));
  }
}

bool in_vectors(const BatchNormNchwBackward& args) {
  return args.spatial * element_bytes(args.dtype) % 16 == 0 && is_aligned(args.x, 16) && is_aligned(args.dy, 16) &&
         is_aligned(args.dx, 16);
}

template <class T, int kWidth>
void run_streamed(const Stream& stream, const BatchNormNchwBackward& args) {
  using C = compute_t<T>;
  const BatchNormPlanes planes(args.batch, args.channels, args.spatial);
  const std::int64_t vector = args.channels * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t statistics = args.channels * static_cast<std::int64_t>(sizeof(C));
  const std::int64_t all = args.batch * args.spatial * vector, partials = 3 * (1 + planes.chunks) * statistics;
  const std::int64_t blocks = planes.chunks * args.channels, chunks = wants_sums(args) ? planes.chunks : 0;
  if (chunks > 0)
    launch(stream,
           {.name = "batch_norm_nchw_backward_sums",
            .grid = {blocks},
            .block = {kPlaneThreads},
            .operands = {{"x", args.x, all},
                         {"dy", args.dy, all},
                         {"mean", args.mean, statistics, OperandKind::broadcast},
                         {"partials", args.partials, partials, OperandKind::workspace}}},
           sums_kernel<T, kWidth>, args, planes);
  launch(stream,
         {.name = "batch_norm_nchw_backward_finish",
          .grid = {args.channels},
          .block = {kMergeThreads},
          .operands = {{"partials", args.partials, partials, OperandKind::workspace},
                       {"gamma", args.gamma, vector},
                       {"rstd", args.rstd, statistics},
                       {"dgamma", args.dgamma, vector},
                       {"dbeta", args.dbeta, vector}}},
         finish_kernel<T>, args, planes, chunks);
  if (args.dx == nullptr || blocks == 0) return;
  launch(stream,
         {.name = "batch_norm_nchw_backward_dx",
          .grid = {blocks},
          .block = {kPlaneThreads},
          .operands = {{"x", args.x, all},
                       {"dy", args.dy, all},
                       {"mean", args.mean, statistics, OperandKind::broadcast},
                       {"partials", args.partials, partials, OperandKind::broadcast},
                       {"dx", args.dx, all}}},
         dx_kernel<T, kWidth>, args, planes);
}

const Variant<BatchNormNchwBackward> kVariants[] = {
    {"streamed", "sums of chunks of planes, then x and dy once more", [](const BatchNormNchwBackward&) { return true; },
     [](const Stream& stream, const BatchNormNchwBackward& args) {
       dispatch_planes(args.dtype, in_vectors(args), [&](auto type, auto width) {
         run_streamed<typename decltype(type)::type, width>(stream, args);
       });
     }},
};

}  // namespace

std::span<const Variant<BatchNormNchwBackward>> batch_norm_nchw_backward_variants() { return kVariants; }

void batch_norm_nchw_backward(const Stream& stream, const BatchNormNchwBackward& args) {
  run_variant("batch_norm", batch_norm_nchw_backward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
