#include "data/transform.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "data/fingerprint.h"
#include "data/gather.h"
#include "kernels/common/simd.h"

namespace weft::data {
namespace {

using Floats = simd::Vec<float>;
constexpr std::int64_t kLanes = simd::kLanes<float>;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// --- steps --------------------------------------------------------------------------------------------------------------

void check(const RandomCrop& step) {
  require<OptionError>(step.height >= 1 && step.width >= 1, "random_crop",
                       "the window must have an extent but is {} x {}", step.height, step.width);
  require<OptionError>(step.padding >= 0, "random_crop", "padding must be at least 0 but is {}", step.padding);
}
void check(const RandomResizedCrop& step) {
  require<OptionError>(step.height >= 1 && step.width >= 1, "random_resized_crop",
                       "the result must have an extent but is {} x {}", step.height, step.width);
  require<OptionError>(step.least_area > 0 && step.least_area <= step.most_area && step.most_area <= 1,
                       "random_resized_crop", "areas must be a range within (0, 1] but are [{}, {}]", step.least_area,
                       step.most_area);
  require<OptionError>(step.least_ratio > 0 && step.least_ratio <= step.most_ratio && std::isfinite(step.most_ratio),
                       "random_resized_crop", "ratios must be a range above 0 but are [{}, {}]", step.least_ratio,
                       step.most_ratio);
}
void check(const RandomHorizontalFlip& step) {
  require<OptionError>(step.p >= 0 && step.p <= 1, "random_horizontal_flip", "p must be in [0, 1] but is {}", step.p);
}
void check(const Normalize& step) {
  require<OptionError>(!step.mean.empty() && step.mean.size() == step.deviation.size(), "normalize",
                       "needs as many means as deviations, one at least, but has {} and {}", step.mean.size(),
                       step.deviation.size());
  for (std::size_t c = 0; c < step.mean.size(); ++c) {
    require<OptionError>(std::isfinite(step.mean[c]), "normalize", "means must be finite but that of channel {} is {}",
                         c, step.mean[c]);
    require<OptionError>(step.deviation[c] > 0 && std::isfinite(step.deviation[c]), "normalize",
                         "deviations must be positive but that of channel {} is {}", c, step.deviation[c]);
  }
}

std::vector<double> numbers(const RandomCrop& step) {
  return {static_cast<double>(step.height), static_cast<double>(step.width), static_cast<double>(step.padding)};
}
std::vector<double> numbers(const RandomResizedCrop& step) {
  return {static_cast<double>(step.height),
          static_cast<double>(step.width),
          step.least_area,
          step.most_area,
          step.least_ratio,
          step.most_ratio};
}
std::vector<double> numbers(const RandomHorizontalFlip& step) { return {step.p}; }
std::vector<double> numbers(const Normalize& step) {
  std::vector<double> all = step.mean;
  all.insert(all.end(), step.deviation.begin(), step.deviation.end());
  return all;
}

// --- what a run of steps does to an image -------------------------------------------------------------------------------

/// The window of the source that an image shows: [top, top + height) x [left, left + width), beyond its edges padding.
struct Window {
  std::int64_t top, left, height, width;
  bool mirrored = false;  // shown with left and right exchanged
};

/// [0, n), for 32 random bits.
std::int64_t below(std::int64_t n, std::uint32_t bits) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(bits) * static_cast<std::uint64_t>(n) >> 32);
}

Window random_window(const RandomCrop& step, std::int64_t height, std::int64_t width, const PhiloxBlock& bits) {
  return {below(height + 2 * step.padding - step.height + 1, bits[0]) - step.padding,
          below(width + 2 * step.padding - step.width + 1, bits[1]) - step.padding, step.height, step.width};
}

template <class Bits>
Window random_window(const RandomResizedCrop& step, std::int64_t height, std::int64_t width, Bits&& bits) {
  const auto h = static_cast<double>(height), w = static_cast<double>(width);
  const double log_least = std::log(step.least_ratio), log_most = std::log(step.most_ratio);
  for (std::uint32_t attempt = 0; attempt < 10; ++attempt) {
    const PhiloxBlock block = bits(attempt);
    const double area = h * w * (step.least_area + (step.most_area - step.least_area) * uniform_double(block[0], 0));
    const double ratio = std::exp(log_least + (log_most - log_least) * uniform_double(block[1], 0));
    const auto window_width = static_cast<std::int64_t>(std::lround(std::sqrt(area * ratio)));
    const auto window_height = static_cast<std::int64_t>(std::lround(std::sqrt(area / ratio)));
    if (window_width < 1 || window_width > width || window_height < 1 || window_height > height) continue;
    return {below(height - window_height + 1, block[2]), below(width - window_width + 1, block[3]), window_height,
            window_width};
  }
  std::int64_t window_height = height, window_width = width;
  if (w / h < step.least_ratio)
    window_height = std::clamp<std::int64_t>(std::lround(w / step.least_ratio), 1, height);
  else if (w / h > step.most_ratio)
    window_width = std::clamp<std::int64_t>(std::lround(h * step.most_ratio), 1, width);
  return {(height - window_height) / 2, (width - window_width) / 2, window_height, window_width};
}

/// y = (x - mean) * scale, of one channel; padding becomes `padding`.
struct Affine {
  float mean, scale, padding;
};

Floats widen(const float* from) { return simd::load(from); }
Floats widen(const std::uint8_t* from) {
  typedef std::uint8_t Bytes __attribute__((vector_size(16)));
  typedef std::uint16_t Words __attribute__((vector_size(32)));
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  // By way of 16 bits: widening 8 to 32 in one step becomes scalar code in g++ 12.
  return __builtin_convertvector(__builtin_convertvector(__builtin_convertvector(bytes, Words), simd::Mask<float>),
                                 Floats);
}

/// `count` pixels in a row, forwards or from the last to the first.
template <class S>
void convert(const S* from, float* to, std::int64_t count, bool mirrored, const Affine& affine) {
  const auto scalar = [&](std::int64_t i) {
    to[mirrored ? count - 1 - i : i] = (static_cast<float>(from[i]) - affine.mean) * affine.scale;
  };
  if (count < kLanes) {
    for (std::int64_t i = 0; i < count; ++i) scalar(i);
    return;
  }
  const Floats mean = simd::broadcast(affine.mean), scale = simd::broadcast(affine.scale);
  const simd::Mask<float> backwards = {15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0};
  for (std::int64_t i = 0;; i = std::min(i + kLanes, count - kLanes)) {  // the last vector overlaps the one before it
    Floats value = (widen(from + i) - mean) * scale;
    if (mirrored) value = __builtin_shuffle(value, backwards);
    simd::store<float, float>(to + (mirrored ? count - kLanes - i : i), value);
    if (i == count - kLanes) break;
  }
}

/// The window itself, pixel by pixel.
template <class S>
void show(const S* from, std::int64_t height, std::int64_t width, const Window& window, float* to,
          const Affine& affine) {
  const std::int64_t begin = std::clamp<std::int64_t>(-window.left, 0, window.width);  // what lies on the source
  const std::int64_t end = std::clamp<std::int64_t>(width - window.left, begin, window.width);
  for (std::int64_t y = 0; y < window.height; ++y, to += window.width) {
    const std::int64_t source_y = window.top + y;
    if (source_y < 0 || source_y >= height || begin == end) {
      std::fill_n(to, window.width, affine.padding);
      continue;
    }
    const std::int64_t before = window.mirrored ? window.width - end : begin;
    std::fill_n(to, before, affine.padding);
    convert(from + source_y * width + window.left + begin, to + before, end - begin, window.mirrored, affine);
    std::fill_n(to + before + (end - begin), window.width - before - (end - begin), affine.padding);
  }
}

/// Between which two of a window's pixels each pixel of the result lies, and where.
struct Taps {
  std::vector<std::int32_t> low, high;
  std::vector<float> share;  // of high
  void set(std::int64_t extent, std::int64_t count, bool mirrored) {
    low.resize(at(count));
    high.resize(at(count));
    share.resize(at(count));
    const double step = static_cast<double>(extent) / static_cast<double>(count);
    for (std::int64_t i = 0; i < count; ++i) {
      const double place = std::max(0.0, (static_cast<double>(i) + 0.5) * step - 0.5);
      const auto whole = std::min(static_cast<std::int64_t>(place), extent - 1);
      const std::size_t slot = at(mirrored ? count - 1 - i : i);
      low[slot] = static_cast<std::int32_t>(whole);
      high[slot] = static_cast<std::int32_t>(std::min(whole + 1, extent - 1));
      share[slot] = static_cast<float>(place - static_cast<double>(whole));
    }
  }
};

/// What resizing one image needs beside it, kept from image to image.
struct Scratch {
  Taps rows, columns;
  std::vector<float> line;  // of the window, between two of its rows
};

/// The window resized by bilinear interpolation: between rows, where pixels lie in a row, then between columns.
template <class S>
void resize(const S* from, std::int64_t width, const Window& window, Scratch& scratch, float* to,
            const Affine& affine) {
  const auto blend = [](float a, float b, float share) { return a + (b - a) * share; };
  const std::int64_t out_width = std::ssize(scratch.columns.low);
  const std::int32_t* left = scratch.columns.low.data();
  const std::int32_t* right = scratch.columns.high.data();
  const float* right_share = scratch.columns.share.data();
  scratch.line.resize(at(window.width));
  float* line = scratch.line.data();
  from += window.top * width + window.left;
  for (std::size_t y = 0; y < scratch.rows.low.size(); ++y, to += out_width) {
    const S* low = from + scratch.rows.low[y] * width;
    const S* high = from + scratch.rows.high[y] * width;
    const float share = scratch.rows.share[y];
    for (std::int64_t x = 0; x < window.width; ++x)
      line[x] = blend(static_cast<float>(low[x]), static_cast<float>(high[x]), share);
    for (std::int64_t x = 0; x < out_width; ++x)
      to[x] = (blend(line[left[x]], line[right[x]], right_share[x]) - affine.mean) * affine.scale;
  }
}

/// Steps that one pass can do: at most one window, one flip and one Normalize.
struct Pass {
  std::optional<RandomCrop> crop = {};
  std::optional<RandomResizedCrop> resized = {};
  std::optional<RandomHorizontalFlip> flip = {};
  std::optional<Normalize> normalize = {};
  bool flip_first = false;       // before the window
  bool normalize_first = false;  // before the window, whose padding then stays 0
  std::uint32_t window_step = 0, flip_step = 0;

  bool take(const ImageStep& step, std::uint32_t number) {
    const bool window = crop || resized;
    if (const auto* s = std::get_if<RandomCrop>(&step); s != nullptr && !window) {
      crop = *s;
      window_step = number;
    } else if (const auto* r = std::get_if<RandomResizedCrop>(&step); r != nullptr && !window) {
      resized = *r;
      window_step = number;
    } else if (const auto* f = std::get_if<RandomHorizontalFlip>(&step); f != nullptr && !flip) {
      flip = *f;
      flip_first = !window;
      flip_step = number;
    } else if (const auto* n = std::get_if<Normalize>(&step); n != nullptr && !normalize) {
      normalize = *n;
      normalize_first = !window;
    } else {
      return false;
    }
    return true;
  }

  Window window(const RowRandom& random, std::int64_t key, std::int64_t height, std::int64_t width) const {
    Window window{0, 0, height, width};
    if (crop) window = random_window(*crop, height, width, random(key, window_step));
    if (resized)
      window = random_window(*resized, height, width,
                             [&](std::uint32_t attempt) { return random(key, window_step, attempt); });
    window.mirrored = flip && uniform_float(random(key, flip_step)[0]) < static_cast<float>(flip->p);
    // A window of the mirrored image is the mirrored window of the image.
    if (window.mirrored && flip_first) window.left = width - window.left - window.width;
    return window;
  }

  template <class S>
  std::vector<Affine> affines(std::int64_t channels) const {
    constexpr double kUnit = std::is_same_v<S, std::uint8_t> ? 255 : 1;
    std::vector<Affine> result(at(channels), Affine{0, static_cast<float>(1 / kUnit), 0});
    if (!normalize) return result;
    const auto given = static_cast<std::int64_t>(normalize->mean.size());
    require<ShapeError>(given == 1 || given == channels, "normalize",
                        "needs one mean or one for each of the {} channels but has {}", channels, given);
    for (std::int64_t c = 0; c < channels; ++c) {
      const double mean = normalize->mean[given == 1 ? 0 : at(c)],
                   deviation = normalize->deviation[given == 1 ? 0 : at(c)];
      Affine& affine = result[at(c)];
      affine = {static_cast<float>(kUnit * mean), static_cast<float>(1 / (kUnit * deviation)), 0};
      if (!normalize_first) affine.padding = (0 - affine.mean) * affine.scale;
    }
    return result;
  }

  template <class S>
  Tensor run(const Tensor& x, const RowRandom& random, std::span<const std::int64_t> keys) const {
    const std::int64_t rows = x.size(0), height = x.size(-2), width = x.size(-1);
    const std::int64_t channels = x.rank() == 4 ? x.size(1) : 1;
    if (crop)
      require<ShapeError>(height + 2 * crop->padding >= crop->height && width + 2 * crop->padding >= crop->width,
                          "random_crop",
                          "a window of {} x {} needs images of that size but they are {} x {}, padded by {}",
                          crop->height, crop->width, height, width, crop->padding);
    if (resized)
      require<ShapeError>(height >= 1 && width >= 1, "random_resized_crop",
                          "needs images with pixels but they are {} x {}", height, width);
    Shape shape = x.shape();
    if (crop) shape[x.rank() - 2] = crop->height, shape[x.rank() - 1] = crop->width;
    if (resized) shape[x.rank() - 2] = resized->height, shape[x.rank() - 1] = resized->width;
    Tensor y = Tensor::empty(shape);
    if (y.numel() == 0) return y;
    const std::vector<Affine> affine = affines<S>(channels);
    const std::int64_t pixels = height * width, out_pixels = y.numel() / (rows * channels);
    const S* from = x.data<S>();
    auto* to = y.data<float>();
    parallel_rows(rows, y.nbytes() / rows, [&](std::int64_t begin, std::int64_t end) {
      Scratch scratch;
      for (std::int64_t row = begin; row < end; ++row) {
        const Window w = window(random, keys[at(row)], height, width);
        if (resized) {
          scratch.rows.set(w.height, resized->height, false);
          scratch.columns.set(w.width, resized->width, w.mirrored);
        }
        for (std::int64_t c = 0; c < channels; ++c) {
          const S* source = from + (row * channels + c) * pixels;
          float* target = to + (row * channels + c) * out_pixels;
          if (resized)
            resize(source, width, w, scratch, target, affine[at(c)]);
          else
            show(source, height, width, w, target, affine[at(c)]);
        }
      }
    });
    return y;
  }
};

class ImageTransform final : public Transform {
 public:
  explicit ImageTransform(const std::vector<ImageStep>& steps) {
    constexpr std::uint64_t kVersion = 1;  // raise it when the same steps give other pixels
    hash_ = hash_combine(kVersion, steps.size());
    require<OptionError>(!steps.empty() && steps.size() < 1 << 16, "image_transform",
                         "needs a step at least but has {}", steps.size());
    for (std::uint32_t number = 0; number < steps.size(); ++number) {
      const ImageStep& step = steps[number];
      std::visit([](const auto& s) { check(s); }, step);
      if (passes_.empty() || !passes_.back().take(step, number)) passes_.emplace_back().take(step, number);
      hash_ = hash_combine(hash_, step.index());
      for (const double value : std::visit([](const auto& s) { return numbers(s); }, step))
        hash_ = hash_combine(hash_, std::bit_cast<std::uint64_t>(value));
    }
  }

  Tensor operator()(const Tensor& x, const RowRandom& random, std::span<const std::int64_t> keys) const override {
    require<ShapeError>(x.rank() == 3 || x.rank() == 4, "image_transform",
                        "images must have shape [B, H, W] or [B, C, H, W] but have {}", x.shape());
    require<DtypeError>(x.dtype() == Dtype::u8 || x.dtype() == Dtype::f32, "image_transform",
                        "images must be u8 or f32 but are {}", to_string(x.dtype()));
    require<ShapeError>(std::ssize(keys) == x.size(0) && x.is_contiguous(), "image_transform",
                        "needs contiguous images with a key for each but has {} keys for {}", keys.size(), x.shape());
    Tensor y = x;
    for (const Pass& pass : passes_)
      y = y.dtype() == Dtype::u8 ? pass.run<std::uint8_t>(y, random, keys) : pass.run<float>(y, random, keys);
    return y;
  }
  std::uint64_t hash() const override { return hash_; }

 private:
  std::vector<Pass> passes_;
  std::uint64_t hash_;
};

}  // namespace

RowRandom::RowRandom(std::uint64_t seed, std::int64_t epoch, KeyedBy keyed_by) {
  const PhiloxBlock name =
      philox4x32(seed, static_cast<std::uint64_t>(epoch),
                 static_cast<std::uint64_t>(RandomUse::data) << 32 | static_cast<std::uint64_t>(keyed_by));
  key_ = static_cast<std::uint64_t>(name[0]) << 32 | name[1];
}

std::shared_ptr<const Transform> image_transform(std::vector<ImageStep> steps) {
  return std::make_shared<const ImageTransform>(std::move(steps));
}

}  // namespace weft::data
