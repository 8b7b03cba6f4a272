#pragma once
// Changes to samples on their way into a batch, random ones among them: the same for a sample whoever makes its batch.
#include <cstdint>
#include <memory>
#include <span>
#include <variant>
#include <vector>

#include "tensor/philox.h"
#include "tensor/tensor.h"

namespace weft::data {

/// What a row's randomness is keyed by: its sample, or, in an epoch that draws samples repeatedly, its place in the epoch's
/// order, so that a sample that comes twice is not changed in the same way twice.
enum class KeyedBy : std::uint8_t { sample, place };

/// The random numbers of an epoch's rows: a function of (seed, epoch, row's key, operation, index) alone, not of batch mates,
/// order, worker or split.
class RowRandom {
 public:
  RowRandom(std::uint64_t seed, std::int64_t epoch, KeyedBy keyed_by);
  /// 128 random bits for the row with this key; operation and index in [0, 2^16).
  PhiloxBlock operator()(std::int64_t key, std::uint32_t operation, std::uint32_t index = 0) const {
    return philox4x32(key_, static_cast<std::uint64_t>(key),
                      static_cast<std::uint64_t>(RandomUse::data) << 32 | operation << 16 | index);
  }

 private:
  std::uint64_t key_;
};

/// A change to the input rows of a batch, row by row: row r of the result depends on row r and keys[r] alone. Immutable: any
/// number of threads may apply it at once.
class Transform {
 public:
  virtual ~Transform() = default;
  /// x [B, ...] -> [B, ...], on the cpu; keys [B].
  virtual Tensor operator()(const Tensor& x, const RowRandom& random, std::span<const std::int64_t> keys) const = 0;
  /// Names what it does: part of the hash that a resumed run compares.
  virtual std::uint64_t hash() const = 0;

 protected:
  Transform() = default;
  Transform(const Transform&) = default;
  Transform& operator=(const Transform&) = default;
};

/// A window of the image at a random place, all equally likely.
struct RandomCrop {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t padding = 0;  // on each side, with zeros, before the window is chosen
};
/// A window of random area and aspect ratio (log-uniform), resized to height x width by bilinear interpolation. After ten
/// windows that do not fit, the largest central one of an allowed ratio.
struct RandomResizedCrop {
  std::int64_t height = 0;
  std::int64_t width = 0;
  double least_area = 0.08, most_area = 1;             // of the image's
  double least_ratio = 3.0 / 4, most_ratio = 4.0 / 3;  // width / height
};
/// Left becomes right, with probability p.
struct RandomHorizontalFlip {
  double p = 0.5;
};
/// (x - mean) / deviation, per channel; a single value is for all channels.
struct Normalize {
  std::vector<double> mean;
  std::vector<double> deviation;
};
/// One step of an image transform.
using ImageStep = std::variant<RandomCrop, RandomResizedCrop, RandomHorizontalFlip, Normalize>;

/// Applies steps to images, one after another.
///   data::Loader loader{data::TensorDataset{pixels, labels},
///                       {.transform = data::image_transform({data::RandomCrop{.height = 28, .width = 28, .padding = 2},
///                                                            data::RandomHorizontalFlip{}, data::Normalize{{0.286}, {0.353}}})}};
/// Shapes:   x [B, H, W] or [B, C, H, W] -> the same with the last window's height and width. B = 0 allowed.
/// Types:    x u8 or f32 -> f32. Bytes count from 0 to 1: byte / 255.
/// Layout:   x contiguous.
/// Errors:   OptionError for a window without extent, padding below 0, p outside [0, 1], areas outside (0, 1] or ratios not
///           above 0, ranges that are empty, a deviation that is not positive; ShapeError "[random_crop] a window of 32 x 32
///           needs images of that size but they are 28 x 28, padded by 1"; likewise for other ranks and numbers of channels;
///           DtypeError.
/// Cost:     one pass for a run of steps with at most one window, one flip and one Normalize in any order: reads the bytes,
///           writes the floats. Another pass for each further run.
/// Numerics: (x - mean) * (1 / deviation) in f32, two roundings, with 1/255 drawn into both: on bytes the same bits as
///           FashionMnist's. Bilinear: pixel centres at half-integers, edges repeated, no smoothing before shrinking; between
///           rows first, then between columns, in f32. Deterministic.
/// Source:   names and random laws of torchvision.transforms.
std::shared_ptr<const Transform> image_transform(std::vector<ImageStep> steps);

}  // namespace weft::data
