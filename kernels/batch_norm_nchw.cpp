// CPU kernels for planes that lie side by side. A channel is cut into chunks (BatchNormPlanes), whose numbers are combined
// in order. A channel that fits the cache goes through all passes in one task; else every pass goes over all chunks in the
// order of memory. Both add in the same order.
#include <algorithm>
#include <cmath>

#include "kernels/batch_norm.h"
#include "kernels/common/simd.h"
#include "tensor/parallel.h"

namespace weft::kernels {
namespace {

using simd::Vec;

constexpr std::int64_t kTaskElems = 16384;          // work of one task: a few microseconds
constexpr std::int64_t kResidentBytes = 256 << 10;  // a channel up to this size is read from memory once

// The elements of one chunk.
struct Chunk {
  Chunk(const BatchNormPlanes& planes, std::int64_t channel, std::int64_t index)
      : stride(planes.channels * planes.spatial) {
    const std::int64_t sample = index / planes.pieces * planes.samples;
    const std::int64_t at = index % planes.pieces * BatchNormPlanes::kElems;
    begin = (sample * planes.channels + channel) * planes.spatial + at;
    runs = std::min(planes.samples, planes.batch - sample);
    length = std::min(BatchNormPlanes::kElems, planes.spatial - at);
  }
  std::int64_t count() const { return runs * length; }
  /// Calls body(offset in x, width) for every vector; width as in simd::for_each_vector.
  template <class C, class F>
  void for_each_vector(F&& body) const {
    for (std::int64_t run = 0; run < runs; ++run)
      simd::for_each_vector<C>(length, [&](std::int64_t i, auto width) { body(begin + run * stride + i, width); });
  }
  std::int64_t begin, runs, length, stride;
};

// The workspace: three numbers of every channel, then three of every chunk.
template <class C>
struct Numbers {
  C* channel(std::int64_t c) const { return base + 3 * c; }
  C* chunk(std::int64_t c, std::int64_t k) const { return base + 3 * (planes.channels + c * planes.chunks + k); }
  const BatchNormPlanes& planes;
  C* base;
};

// Runs sums(channel, chunk), finish(channel) and apply(channel, chunk), each after all of the one before that it needs.
template <class Sums, class Finish, class Apply>
void run_phases(const BatchNormPlanes& planes, std::int64_t element_bytes, const Sums& sums, const Finish& finish,
                const Apply& apply) {
  const std::int64_t channels = planes.channels, chunks = planes.chunks, elems = planes.row_elems();
  if (elems * element_bytes <= kResidentBytes) {
    parallel_ranges(channels, std::max<std::int64_t>(1, kTaskElems / std::max<std::int64_t>(1, elems)),
                    [&](std::int64_t first, std::int64_t last) {
                      for (std::int64_t c = first; c < last; ++c) {
                        for (std::int64_t k = 0; k < chunks; ++k) sums(c, k);
                        finish(c);
                        for (std::int64_t k = 0; k < chunks; ++k) apply(c, k);
                      }
                    });
    return;
  }
  constexpr std::int64_t kGrain = kTaskElems / BatchNormPlanes::kElems;
  // Chunk by chunk over the channels, which is the order of memory; of a cut plane, piece by piece.
  const auto for_each_chunk = [&](auto&& body) {
    parallel_ranges(chunks * channels, kGrain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t plane = i / planes.pieces, piece = i % planes.pieces;
        body(plane % channels, plane / channels * planes.pieces + piece);
      }
    });
  };
  for_each_chunk(sums);
  parallel_ranges(channels, std::max<std::int64_t>(1, kTaskElems / chunks), [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t c = first; c < last; ++c) finish(c);
  });
  for_each_chunk(apply);
}

template <class S>
compute_t<S> value_or(const void* from, std::int64_t channel, compute_t<S> value) {
  return from != nullptr ? static_cast<compute_t<S>>(static_cast<const S*>(from)[channel]) : value;
}

// --- forward ---------------------------------------------------------------------------------------------------------

// Of one chunk: its mean up to rounding, what is missing to the true mean, and the sum of squared differences from that.
template <class S>
void chunk_moments(const S* x, const Chunk& chunk, compute_t<S>* out) {
  using C = compute_t<S>;
  const auto count = static_cast<C>(chunk.count());
  const C first = static_cast<C>(x[chunk.begin]);
  Vec<C> sum{}, squares{};
  // Lanes past the end are filled with the shift: their difference is 0.
  chunk.for_each_vector<C>(
      [&](std::int64_t i, auto width) { sum += simd::load_width<S>(x + i, width, first) - simd::broadcast<C>(first); });
  const C mean = first + simd::horizontal_sum<C>(sum) / count;
  sum = Vec<C>{};
  chunk.for_each_vector<C>([&](std::int64_t i, auto width) {
    const Vec<C> difference = simd::load_width<S>(x + i, width, mean) - simd::broadcast<C>(mean);
    sum += difference;
    squares = simd::fma(difference, difference, squares);
  });
  const C total = simd::horizontal_sum<C>(sum), rest = total / count;
  out[0] = mean;
  out[1] = rest;
  out[2] = simd::horizontal_sum<C>(squares) - total * rest;
}

// Leaves the channel's mean, scale and offset: y = (x - mean) scale + offset.
template <class S>
void finish_channel(const BatchNormNchwForward& args, const Numbers<compute_t<S>>& numbers, std::int64_t channel) {
  using C = compute_t<S>;
  C* const running_mean = static_cast<C*>(args.running_mean);
  C* const running_var = static_cast<C*>(args.running_var);
  C mean, rest = C(0), variance;
  if (args.mode == BatchNormMode::eval) {
    mean = running_mean[channel];
    variance = running_var[channel];
  } else {
    // Chan, Golub, LeVeque 1979: means relative to the first chunk's, so that a common offset costs no digits.
    const C* const first = numbers.chunk(channel, 0);
    C relative = first[1], squares = first[2];
    auto before = static_cast<C>(Chunk(numbers.planes, channel, 0).count());
    for (std::int64_t k = 1; k < numbers.planes.chunks; ++k) {
      const C* const of = numbers.chunk(channel, k);
      const auto count = static_cast<C>(Chunk(numbers.planes, channel, k).count());
      const C weight = count / (before + count), delta = of[0] - first[0] + of[1] - relative;
      squares += of[2] + delta * delta * (weight * before);
      relative += delta * weight;
      before += count;
    }
    if (squares < C(0)) squares = C(0);  // rounding may go below 0; a NaN stays
    const auto count = static_cast<C>(numbers.planes.row_elems());
    mean = first[0] + relative;
    rest = relative - (mean - first[0]);
    variance = squares / count;
    if (running_mean != nullptr) {
      const auto fresh = static_cast<C>(args.momentum), kept = C(1) - fresh;
      running_mean[channel] = fresh * mean + kept * running_mean[channel];
      running_var[channel] = fresh * (squares / (count - C(1))) + kept * running_var[channel];
    }
  }
  const C rstd = C(1) / std::sqrt(variance + static_cast<C>(args.eps));
  if (args.mean != nullptr) static_cast<C*>(args.mean)[channel] = mean;
  if (args.rstd != nullptr) static_cast<C*>(args.rstd)[channel] = rstd;
  const C scale = rstd * value_or<S>(args.gamma, channel, C(1));
  C* const out = numbers.channel(channel);
  out[0] = mean;
  out[1] = scale;
  out[2] = value_or<S>(args.beta, channel, C(0)) - rest * scale;
}

template <class S>
void forward(const BatchNormNchwForward& args) {
  using C = compute_t<S>;
  const BatchNormPlanes planes(args.batch, args.channels, args.spatial);
  const Numbers<C> numbers{planes, static_cast<C*>(args.partials)};
  const S* const x = static_cast<const S*>(args.x);
  S* const y = static_cast<S*>(args.y);
  run_phases(
      planes, sizeof(S),
      [&](std::int64_t channel, std::int64_t k) {
        if (args.mode == BatchNormMode::train)
          chunk_moments<S>(x, Chunk(planes, channel, k), numbers.chunk(channel, k));
      },
      [&](std::int64_t channel) { finish_channel<S>(args, numbers, channel); },
      [&](std::int64_t channel, std::int64_t k) {
        const C* const of = numbers.channel(channel);
        const Vec<C> mean = simd::broadcast<C>(of[0]), scale = simd::broadcast<C>(of[1]),
                     offset = simd::broadcast<C>(of[2]);
        Chunk(planes, channel, k).for_each_vector<C>([&](std::int64_t i, auto width) {
          simd::store_width<S>(y + i, simd::fma(simd::load_width<S>(x + i, width) - mean, scale, offset), width);
        });
      });
}

// --- backward --------------------------------------------------------------------------------------------------------

// Of one chunk: the sums of dy, of dy (x - mean), and of x - mean (the last finds what the saved mean lost by rounding).
template <class S>
void chunk_sums(const S* x, const S* dy, const Chunk& chunk, compute_t<S> mean, compute_t<S>* out) {
  using C = compute_t<S>;
  Vec<C> sum_dy{}, sum_dyx{}, sum_x{};
  chunk.for_each_vector<C>([&](std::int64_t i, auto width) {
    const Vec<C> difference = simd::load_width<S>(x + i, width, mean) - simd::broadcast<C>(mean);
    const Vec<C> gradient = simd::load_width<S>(dy + i, width);
    sum_dy += gradient;
    sum_dyx = simd::fma(gradient, difference, sum_dyx);
    sum_x += difference;
  });
  out[0] = simd::horizontal_sum<C>(sum_dy);
  out[1] = simd::horizontal_sum<C>(sum_dyx);
  out[2] = simd::horizontal_sum<C>(sum_x);
}

// dgamma and dbeta; leaves the factors of dx = scale dy + slope (x - mean) + offset.
template <class S>
void finish_sums(const BatchNormNchwBackward& args, const Numbers<compute_t<S>>& numbers, bool summed,
                 std::int64_t channel) {
  using C = compute_t<S>;
  C sum_dy = 0, sum_dyx = 0, sum_x = 0;
  for (std::int64_t k = 0; summed && k < numbers.planes.chunks; ++k) {
    const C* const of = numbers.chunk(channel, k);
    sum_dy += of[0];
    sum_dyx += of[1];
    sum_x += of[2];
  }
  const bool train = args.mode == BatchNormMode::train;
  const auto count = static_cast<C>(numbers.planes.row_elems());
  const C rstd = static_cast<const C*>(args.rstd)[channel], rest = train ? sum_x / count : C(0);
  const C dgamma = (sum_dyx - rest * sum_dy) * rstd;
  const auto write = [&](void* out, C sum, Accumulate mode) {
    if (out == nullptr) return;
    S& at = static_cast<S*>(out)[channel];
    at = static_cast<S>(mode == Accumulate::add ? sum + static_cast<C>(at) : sum);
  };
  write(args.dgamma, dgamma, args.dgamma_mode);
  write(args.dbeta, sum_dy, args.dbeta_mode);
  const C scale = rstd * value_or<S>(args.gamma, channel, C(1));
  const C slope = train ? -scale * rstd * dgamma / count : C(0);
  C* const out = numbers.channel(channel);
  out[0] = scale;
  out[1] = slope;
  out[2] = train ? -scale * sum_dy / count - slope * rest : C(0);
}

template <class S>
void backward(const BatchNormNchwBackward& args) {
  using C = compute_t<S>;
  const BatchNormPlanes planes(args.batch, args.channels, args.spatial);
  const Numbers<C> numbers{planes, static_cast<C*>(args.partials)};
  const auto *const x = static_cast<const S*>(args.x), *const dy = static_cast<const S*>(args.dy);
  S* const dx = static_cast<S*>(args.dx);
  const auto saved_mean = [&](std::int64_t channel) { return static_cast<const C*>(args.mean)[channel]; };
  const bool train = args.mode == BatchNormMode::train;
  const bool summed = train || args.dgamma != nullptr || args.dbeta != nullptr;
  run_phases(
      planes, sizeof(S),
      [&](std::int64_t channel, std::int64_t k) {
        if (summed) chunk_sums<S>(x, dy, Chunk(planes, channel, k), saved_mean(channel), numbers.chunk(channel, k));
      },
      [&](std::int64_t channel) { finish_sums<S>(args, numbers, summed, channel); },
      [&](std::int64_t channel, std::int64_t k) {
        if (dx == nullptr) return;
        const C* const of = numbers.channel(channel);
        const Vec<C> mean = simd::broadcast<C>(saved_mean(channel)), scale = simd::broadcast<C>(of[0]),
                     slope = simd::broadcast<C>(of[1]), offset = simd::broadcast<C>(of[2]);
        const Chunk chunk(planes, channel, k);
        if (train)
          chunk.for_each_vector<C>([&](std::int64_t i, auto width) {
            const Vec<C> inner = simd::fma(slope, simd::load_width<S>(x + i, width) - mean, offset);
            simd::store_width<S>(dx + i, simd::fma(scale, simd::load_width<S>(dy + i, width), inner), width);
          });
        else
          chunk.for_each_vector<C>([&](std::int64_t i, auto width) {
            simd::store_width<S>(dx + i, scale * simd::load_width<S>(dy + i, width), width);
          });
      });
}

}  // namespace

void batch_norm_nchw_forward(Device device, const BatchNormNchwForward& args) {
  if (WEFT_ON_GPU("batch_norm", batch_norm_nchw_forward, device, args)) return;
  dispatch_float(args.dtype, "batch_norm", [&]<class S>(std::type_identity<S>) { forward<S>(args); });
}

void batch_norm_nchw_backward(Device device, const BatchNormNchwBackward& args) {
  if (WEFT_ON_GPU("batch_norm", batch_norm_nchw_backward, device, args)) return;
  dispatch_float(args.dtype, "batch_norm", [&]<class S>(std::type_identity<S>) { backward<S>(args); });
}

}  // namespace weft::kernels
