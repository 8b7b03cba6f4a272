// CPU kernels. A small group goes through all its passes in one chunk of the thread pool and stays in the cache between
// them; a large one is cut into chunks of fixed size, whose sums are added in order between the passes.
#include "kernels/group_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/common/simd.h"
#include "tensor/parallel.h"

namespace weft::kernels {
namespace {

using simd::Vec;

constexpr std::int64_t kChunkElems = 16384;  // work of one chunk: a few microseconds
constexpr std::int64_t kSmallRow = 4 * kChunkElems;

bool is_small(const GroupNormShape& shape) { return shape.row_elems() <= kSmallRow; }
std::int64_t chunks_of(std::int64_t count, std::int64_t grain) { return (count + grain - 1) / grain; }

// Two passes for the variance, each around a shift, as layer_norm's: the error of y depends on a group's spread, not on
// its mean. true mean = mean + rest.
template <class C>
struct Statistics {
  C mean, rest, rstd;
};

template <class S>
compute_t<S> sum_of_differences(const S* x, std::int64_t count, compute_t<S> shift) {
  using C = compute_t<S>;
  Vec<C> sum{};
  simd::for_each_vector<C>(count, [&](std::int64_t i, auto width) {
    // Lanes past the end are filled with the shift: their difference is 0.
    sum += simd::load_width<S>(x + i, width, shift) - simd::broadcast<C>(shift);
  });
  return simd::horizontal_sum<C>(sum);
}

template <class C>
struct Moments {
  C sum = 0, squares = 0;  // of x - mean
};
template <class S>
Moments<compute_t<S>> moments_around(const S* x, std::int64_t count, compute_t<S> mean) {
  using C = compute_t<S>;
  Vec<C> sum{}, squares{};
  simd::for_each_vector<C>(count, [&](std::int64_t i, auto width) {
    const Vec<C> difference = simd::load_width<S>(x + i, width, mean) - simd::broadcast<C>(mean);
    sum += difference;
    squares = simd::fma(difference, difference, squares);
  });
  return {simd::horizontal_sum<C>(sum), simd::horizontal_sum<C>(squares)};
}

template <class C>
Statistics<C> statistics(C mean, const Moments<C>& of, C count, double eps) {
  const C rest = of.sum / count;
  C variance = of.squares / count - rest * rest;
  if (variance < C(0)) variance = C(0);  // written so that a NaN stays
  return {mean, rest, C(1) / std::sqrt(variance + static_cast<C>(eps))};
}

template <class C>
void store_statistics(const GroupNormForward& args, std::int64_t row, const Statistics<C>& of) {
  if (args.mean != nullptr) static_cast<C*>(args.mean)[row] = of.mean + of.rest;
  if (args.rstd != nullptr) static_cast<C*>(args.rstd)[row] = of.rstd;
}

// Calls f(channel, begin, count) for the channels that elements [begin, end) of a row belong to.
template <class F>
void for_each_plane(const GroupNormShape& shape, std::int64_t row, std::int64_t begin, std::int64_t end, F&& f) {
  const std::int64_t first = row % shape.groups * shape.planes();
  for (std::int64_t plane = begin / shape.spatial; begin < end; ++plane) {
    const std::int64_t stop = std::min(end, (plane + 1) * shape.spatial);
    f(first + plane, begin, stop - begin);
    begin = stop;
  }
}

// y for elements [begin, end) of a row.
template <class S>
void normalise(const GroupNormForward& args, std::int64_t row, std::int64_t begin, std::int64_t end,
               const Statistics<compute_t<S>>& of) {
  using C = compute_t<S>;
  using V = Vec<C>;
  const S* const x = static_cast<const S*>(args.x) + row * args.shape.row_elems();
  S* const y = static_cast<S*>(args.y) + row * args.shape.row_elems();
  const auto *const gamma = static_cast<const S*>(args.gamma), *const beta = static_cast<const S*>(args.beta);
  const V shift = simd::broadcast<C>(of.mean), scale = simd::broadcast<C>(of.rstd),
          offset = simd::broadcast<C>(-of.rest * of.rstd);
  if (args.shape.spatial == 1) {  // a channel is one element: they lie side by side, and so do their scales
    const std::int64_t first = row % args.shape.groups * args.shape.planes();
    simd::for_each_vector<C>(end - begin, [&](std::int64_t i, auto width) {
      const std::int64_t at = begin + i;
      const V g = gamma != nullptr ? simd::load_width<S>(gamma + first + at, width) : simd::broadcast<C>(C(1));
      const V b = beta != nullptr ? simd::load_width<S>(beta + first + at, width) : V{};
      const V difference = simd::load_width<S>(x + at, width) - shift;
      simd::store_width<S>(y + at, simd::fma(simd::fma(difference, scale, offset), g, b), width);
    });
    return;
  }
  for_each_plane(args.shape, row, begin, end, [&](std::int64_t channel, std::int64_t at, std::int64_t count) {
    const V g = simd::broadcast<C>(gamma != nullptr ? static_cast<C>(gamma[channel]) : C(1));
    const V b = simd::broadcast<C>(beta != nullptr ? static_cast<C>(beta[channel]) : C(0));
    simd::for_each_vector<C>(count, [&](std::int64_t i, auto width) {
      const V difference = simd::load_width<S>(x + at + i, width) - shift;
      simd::store_width<S>(y + at + i, simd::fma(simd::fma(difference, scale, offset), g, b), width);
    });
  });
}

template <class S>
void forward_small(const GroupNormForward& args) {
  using C = compute_t<S>;
  const std::int64_t elems = args.shape.row_elems();
  parallel_ranges(
      args.shape.rows(), std::max<std::int64_t>(1, kChunkElems / elems), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
          const S* const x = static_cast<const S*>(args.x) + row * elems;
          const C shift = static_cast<C>(x[0]);
          const C mean = shift + sum_of_differences<S>(x, elems, shift) / static_cast<C>(elems);
          const Statistics<C> of = statistics(mean, moments_around<S>(x, elems, mean), static_cast<C>(elems), args.eps);
          store_statistics(args, row, of);
          normalise<S>(args, row, 0, elems, of);
        }
      });
}

// The workspace: a row's three statistics, then two sums for every chunk.
template <class S>
void forward_large(const GroupNormForward& args) {
  using C = compute_t<S>;
  const std::int64_t elems = args.shape.row_elems(), rows = args.shape.rows();
  const std::int64_t parts = chunks_of(elems, kChunkElems);
  const auto count = static_cast<C>(elems);
  auto* const of_rows = static_cast<Statistics<C>*>(args.partials);
  auto* const of_parts = reinterpret_cast<Moments<C>*>(of_rows + rows);
  const auto for_each_part = [&](auto&& f) {
    parallel_chunks(rows * parts, [&](std::int64_t chunk) {
      const std::int64_t row = chunk / parts, begin = chunk % parts * kChunkElems;
      f(chunk, row, begin, std::min(elems, begin + kChunkElems), static_cast<const S*>(args.x) + row * elems + begin);
    });
  };
  const auto total = [&](std::int64_t row) {
    Moments<C> sum;
    for (std::int64_t part = row * parts; part < (row + 1) * parts; ++part) {
      sum.sum += of_parts[part].sum;
      sum.squares += of_parts[part].squares;
    }
    return sum;
  };
  const auto shift = [&](std::int64_t row) { return static_cast<C>(static_cast<const S*>(args.x)[row * elems]); };
  for_each_part([&](std::int64_t chunk, std::int64_t row, std::int64_t begin, std::int64_t end, const S* x) {
    of_parts[chunk] = {sum_of_differences<S>(x, end - begin, shift(row)), C(0)};
  });
  for (std::int64_t row = 0; row < rows; ++row) of_rows[row].mean = shift(row) + total(row).sum / count;
  for_each_part([&](std::int64_t chunk, std::int64_t row, std::int64_t begin, std::int64_t end, const S* x) {
    of_parts[chunk] = moments_around<S>(x, end - begin, of_rows[row].mean);
  });
  for (std::int64_t row = 0; row < rows; ++row) {
    of_rows[row] = statistics(of_rows[row].mean, total(row), count, args.eps);
    store_statistics(args, row, of_rows[row]);
  }
  for_each_part([&](std::int64_t, std::int64_t row, std::int64_t begin, std::int64_t end, const S*) {
    normalise<S>(args, row, begin, end, of_rows[row]);
  });
}

// --- backward --------------------------------------------------------------------------------------------------------

// dx = rstd g + slope (x - mean) + offset;  xhat = (x - mean - rest) rstd
template <class C>
struct Factors {
  C slope, offset, rest;
};
// Of a unit: x - mean, dy, and dy (x - mean).
template <class C>
struct Sums {
  C x, dy, dyx;
};

template <class S>
struct Backward {
  using C = compute_t<S>;
  using V = Vec<C>;
  explicit Backward(const GroupNormBackward& args)
      : args(args),
        shape(args.shape),
        pieces(group_norm_pieces(shape)),
        units_per_row(shape.planes() * pieces),
        factors(static_cast<Factors<C>*>(args.partials)),
        sums(reinterpret_cast<Sums<C>*>(factors + shape.rows())) {}

  C mean(std::int64_t row) const { return static_cast<const C*>(args.mean)[row]; }
  C rstd(std::int64_t row) const { return static_cast<const C*>(args.rstd)[row]; }
  C weight(std::int64_t unit) const {
    if (args.gamma == nullptr) return C(1);
    return static_cast<C>(static_cast<const S*>(args.gamma)[unit / pieces % shape.channels]);
  }
  std::int64_t begin(std::int64_t unit) const { return unit / pieces * shape.spatial + unit % pieces * kGroupNormUnit; }
  std::int64_t count(std::int64_t unit) const {
    return std::min(kGroupNormUnit, shape.spatial - unit % pieces * kGroupNormUnit);
  }

  void sum_unit(std::int64_t unit) const {
    const C row_mean = mean(unit / units_per_row);
    const V shift = simd::broadcast<C>(row_mean);
    const S* const x = static_cast<const S*>(args.x) + begin(unit);
    const S* const dy = static_cast<const S*>(args.dy) + begin(unit);
    V sum_x{}, sum_dy{}, sum_dyx{};
    simd::for_each_vector<C>(count(unit), [&](std::int64_t i, auto width) {
      const V difference = simd::load_width<S>(x + i, width, row_mean) - shift;
      const V gradient = simd::load_width<S>(dy + i, width);
      sum_x += difference;
      sum_dy += gradient;
      sum_dyx = simd::fma(gradient, difference, sum_dyx);
    });
    sums[unit] = {simd::horizontal_sum<C>(sum_x), simd::horizontal_sum<C>(sum_dy), simd::horizontal_sum<C>(sum_dyx)};
  }
  void find_factors(std::int64_t row) const {
    C x = 0, g = 0, gx = 0;
    for (std::int64_t unit = row * units_per_row; unit < (row + 1) * units_per_row; ++unit) {
      x += sums[unit].x;
      g += sums[unit].dy * weight(unit);
      gx += sums[unit].dyx * weight(unit);
    }
    find_factors(row, x, g, gx);
  }
  // From the row's sums of x - mean, g and g (x - mean).
  void find_factors(std::int64_t row, C x, C g, C gx) const {
    const auto elems = static_cast<C>(shape.row_elems());
    const C rest = x / elems;  // what the saved mean lost by rounding
    const C mean_gx = rstd(row) * (gx - rest * g) / elems;
    const C slope = -rstd(row) * rstd(row) * mean_gx;
    factors[row] = {slope, -rstd(row) * (g / elems) - slope * rest, rest};
  }
  void find_dx(std::int64_t unit) const {
    const std::int64_t row = unit / units_per_row;
    const S* const x = static_cast<const S*>(args.x) + begin(unit);
    const S* const dy = static_cast<const S*>(args.dy) + begin(unit);
    S* const dx = static_cast<S*>(args.dx) + begin(unit);
    const V shift = simd::broadcast<C>(mean(row)), scale = simd::broadcast<C>(rstd(row)),
            g = simd::broadcast<C>(weight(unit)), slope = simd::broadcast<C>(factors[row].slope),
            offset = simd::broadcast<C>(factors[row].offset);
    simd::for_each_vector<C>(count(unit), [&](std::int64_t i, auto width) {
      const V difference = simd::load_width<S>(x + i, width) - shift;
      const V gradient = simd::load_width<S>(dy + i, width) * g;
      simd::store_width<S>(dx + i, simd::fma(scale, gradient, simd::fma(slope, difference, offset)), width);
    });
  }
  // dgamma and dbeta of a channel: over the samples and pieces in order.
  void sum_channel(std::int64_t channel) const {
    C dgamma = 0, dbeta = 0;
    for (std::int64_t n = 0; n < shape.batch; ++n) {
      const std::int64_t row = n * shape.groups + channel / shape.planes();
      for (std::int64_t piece = 0; piece < pieces; ++piece) {
        const Sums<C>& of = sums[(n * shape.channels + channel) * pieces + piece];
        dgamma += rstd(row) * (of.dyx - factors[row].rest * of.dy);
        dbeta += of.dy;
      }
    }
    const auto write = [&](void* out, C sum, Accumulate mode) {
      if (out == nullptr) return;
      S& at = static_cast<S*>(out)[channel];
      at = static_cast<S>(mode == Accumulate::add ? sum + static_cast<C>(at) : sum);
    };
    write(args.dgamma, dgamma, args.dgamma_mode);
    write(args.dbeta, dbeta, args.dbeta_mode);
  }

  // Without a spatial extent a unit would be a single element. Here the vectors run along a group's channels instead: the
  // factors of every row, then the columns' sums, then dx, which may overwrite dy.
  template <class W>
  V weights(std::int64_t channel, W width) const {
    if (args.gamma == nullptr) return simd::broadcast<C>(C(1));  // dy past the end is 0
    return simd::load_width<S>(static_cast<const S*>(args.gamma) + channel, width);
  }
  void run_flat() const {
    const std::int64_t planes = shape.planes();
    const auto for_each_row = [&](auto&& f) {  // f(row, its first channel, its x, its offset)
      parallel_ranges(shape.rows(), std::max<std::int64_t>(1, kChunkElems / planes),
                      [&](std::int64_t first, std::int64_t last) {
                        for (std::int64_t row = first; row < last; ++row)
                          f(row, row % shape.groups * planes, row * planes);
                      });
    };
    const auto *const x = static_cast<const S*>(args.x), *const dy = static_cast<const S*>(args.dy);
    for_each_row([&](std::int64_t row, std::int64_t channel, std::int64_t at) {
      const C row_mean = mean(row);
      const V shift = simd::broadcast<C>(row_mean);
      V sum_x{}, sum_g{}, sum_gx{};
      simd::for_each_vector<C>(planes, [&](std::int64_t i, auto width) {
        const V difference = simd::load_width<S>(x + at + i, width, row_mean) - shift;
        const V g = simd::load_width<S>(dy + at + i, width) * weights(channel + i, width);
        sum_x += difference;
        sum_g += g;
        sum_gx = simd::fma(g, difference, sum_gx);
      });
      find_factors(row, simd::horizontal_sum<C>(sum_x), simd::horizontal_sum<C>(sum_g),
                   simd::horizontal_sum<C>(sum_gx));
    });
    if (args.dgamma != nullptr || args.dbeta != nullptr)
      parallel_ranges(shape.groups,
                      std::max<std::int64_t>(1, kChunkElems / std::max<std::int64_t>(1, shape.batch * planes)),
                      [&](std::int64_t first, std::int64_t last) {
                        for (std::int64_t group = first; group < last; ++group) sum_columns(group);
                      });
    if (args.dx == nullptr) return;
    for_each_row([&](std::int64_t row, std::int64_t channel, std::int64_t at) {
      const V shift = simd::broadcast<C>(mean(row)), scale = simd::broadcast<C>(rstd(row)),
              slope = simd::broadcast<C>(factors[row].slope), offset = simd::broadcast<C>(factors[row].offset);
      simd::for_each_vector<C>(planes, [&](std::int64_t i, auto width) {
        const V difference = simd::load_width<S>(x + at + i, width) - shift;
        const V g = simd::load_width<S>(dy + at + i, width) * weights(channel + i, width);
        simd::store_width<S>(static_cast<S*>(args.dx) + at + i,
                             simd::fma(scale, g, simd::fma(slope, difference, offset)), width);
      });
    });
  }
  // dgamma and dbeta of a group's channels: over the samples in order.
  void sum_columns(std::int64_t group) const {
    const std::int64_t planes = shape.planes(), channel = group * planes;
    simd::for_each_vector<C>(planes, [&](std::int64_t i, auto width) {
      V dgamma{}, dbeta{};
      for (std::int64_t n = 0; n < shape.batch; ++n) {
        const std::int64_t row = n * shape.groups + group, at = n * shape.channels + channel + i;
        const V difference = simd::load_width<S>(static_cast<const S*>(args.x) + at, width) -
                             simd::broadcast<C>(mean(row)) - simd::broadcast<C>(factors[row].rest);
        const V gradient = simd::load_width<S>(static_cast<const S*>(args.dy) + at, width);
        dgamma = simd::fma(gradient * simd::broadcast<C>(rstd(row)), difference, dgamma);
        dbeta += gradient;
      }
      const auto write = [&](void* out, V sum, Accumulate mode) {
        if (out == nullptr) return;
        S* const to = static_cast<S*>(out) + channel + i;
        simd::store_width<S>(to, mode == Accumulate::add ? sum + simd::load_width<S>(to, width) : sum, width);
      };
      write(args.dgamma, dgamma, args.dgamma_mode);
      write(args.dbeta, dbeta, args.dbeta_mode);
    });
  }

  void run() const {
    if (shape.spatial == 1) {
      run_flat();
      return;
    }
    const std::int64_t rows = shape.rows();
    if (is_small(shape)) {
      parallel_ranges(rows, std::max<std::int64_t>(1, kChunkElems / shape.row_elems()),
                      [&](std::int64_t first, std::int64_t last) {
                        for (std::int64_t row = first; row < last; ++row) {
                          const std::int64_t unit = row * units_per_row;
                          for (std::int64_t u = unit; u < unit + units_per_row; ++u) sum_unit(u);
                          find_factors(row);
                          for (std::int64_t u = unit; args.dx != nullptr && u < unit + units_per_row; ++u) find_dx(u);
                        }
                      });
    } else {
      const std::int64_t grain = std::max<std::int64_t>(1, kChunkElems / std::min(shape.spatial, kGroupNormUnit));
      const auto for_each_unit = [&](auto&& f) {
        parallel_ranges(rows * units_per_row, grain, [&](std::int64_t first, std::int64_t last) {
          for (std::int64_t unit = first; unit < last; ++unit) f(unit);
        });
      };
      for_each_unit([&](std::int64_t unit) { sum_unit(unit); });
      parallel_chunks(rows, [&](std::int64_t row) { find_factors(row); });
      if (args.dx != nullptr) for_each_unit([&](std::int64_t unit) { find_dx(unit); });
    }
    if (args.dgamma == nullptr && args.dbeta == nullptr) return;
    const std::int64_t terms = std::max<std::int64_t>(1, shape.batch * pieces);
    parallel_ranges(shape.channels, std::max<std::int64_t>(1, kChunkElems / terms),
                    [&](std::int64_t first, std::int64_t last) {
                      for (std::int64_t channel = first; channel < last; ++channel) sum_channel(channel);
                    });
  }

  const GroupNormBackward& args;
  const GroupNormShape& shape;
  std::int64_t pieces, units_per_row;
  Factors<C>* factors;
  Sums<C>* sums;
};

}  // namespace

std::int64_t group_norm_forward_partials(const GroupNormShape& shape, Dtype dtype, Device device) {
  const std::int64_t elems = shape.row_elems(), rows = shape.rows();
  if (device.kind == DeviceKind::cpu) return is_small(shape) ? 0 : rows * (3 + 2 * chunks_of(elems, kChunkElems));
  // Every GPU holds 47 KiB on chip beside the sums' scratch.
  return elems * element_bytes(dtype) <= 47 * 1024 ? 0 : 3 * rows * (1 + chunks_of(elems, kGroupNormPart));
}

std::int64_t group_norm_backward_partials(const GroupNormShape& shape) {
  return 3 * (shape.rows() + shape.batch * shape.channels * group_norm_pieces(shape));
}

void group_norm_forward(Device device, const GroupNormForward& args) {
  if (WEFT_ON_GPU("group_norm", group_norm_forward, device, args)) return;
  dispatch_float(args.dtype, "group_norm", [&]<class S>(std::type_identity<S>) {
    if (is_small(args.shape))
      forward_small<S>(args);
    else
      forward_large<S>(args);
  });
}

void group_norm_backward(Device device, const GroupNormBackward& args) {
  if (WEFT_ON_GPU("group_norm", group_norm_backward, device, args)) return;
  dispatch_float(args.dtype, "group_norm", [&]<class S>(std::type_identity<S>) { Backward<S>(args).run(); });
}

}  // namespace weft::kernels
