#pragma once
#include <array>
#include <filesystem>
#include <string_view>

#include "data/dataset.h"

namespace weft::data {

/// Fashion-MNIST: 60 000 + 10 000 grey images of clothes, 28 x 28, in ten classes.
///   A sample is (image / 255 - 0.2860) / 0.3530, f32 [28, 28], and its class, i64 []. Mean and deviation are those of the
///   training images (tests/fashion_mnist_test.cpp measures them).
/// Files:   {train,t10k}-{images-idx3,labels-idx1}-ubyte, each plain or with .gz behind (the plain one first), in
///          `directory`, else in the folder that the environment variable WEFT_DATA_DIR names, else where the Debian package
///          dataset-fashion-mnist installs them. Any set in that format will do (MNIST).
/// Errors:  IoError for a missing file, naming folder and package, for what read_idx refuses, images that are not 28 x 28,
///          numbers of images and labels that differ, and "[fashion_mnist] labels must be in [0, 10) but row 17 of
///          t10k-labels-idx1-ubyte.gz is 11; get the file anew".
/// Memory:  the images stay bytes (47 MB for the training set); a batch is converted while it is gathered.
/// Source:  Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747.
class FashionMnist final : public Dataset {
 public:
  static constexpr std::int64_t kClasses = 10;
  static constexpr std::int64_t kSide = 28;
  static constexpr double kMean = 0.2860;
  static constexpr double kDeviation = 0.3530;
  static constexpr std::array<std::string_view, kClasses> kClassNames{
      "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"};

  /// The training set / the test set. An empty directory means the default one.
  static FashionMnist train(const std::filesystem::path& directory = {});
  static FashionMnist test(const std::filesystem::path& directory = {});

  std::int64_t size() const override { return images_.size(0); }
  std::string name() const override { return name_; }
  std::uint64_t fingerprint() const override;
  /// input f32 [B, 28, 28], target i64 [B].
  /// Numerics: (byte - 72.93) * (1 / 90.015) in f32, two roundings: within 5e-7 of the exact value, the same bits on every
  ///           instruction set.
  Batch collate(std::span<const std::int64_t> ids) const override;

  /// Other images as a model gets them, f32 [N, 28, 28]: from an IDX file, plain or gzip, or an .npy file of bytes [N, 28, 28]
  /// or [28, 28] (told apart by content), light on dark like those of the set. Errors: IoError as read_idx and load_npy, and
  /// for another shape or dtype.
  static Tensor read_images(const std::filesystem::path& path);

  const Tensor& images() const { return images_; }  // u8 [N, 28, 28], as in the file
  const Tensor& labels() const { return labels_; }  // i64 [N]

 private:
  FashionMnist(std::string name, Tensor images, Tensor labels)
      : name_(std::move(name)), images_(std::move(images)), labels_(std::move(labels)) {}
  static FashionMnist load(const std::filesystem::path& directory, const char* split, const char* prefix);

  std::string name_;
  Tensor images_;
  Tensor labels_;
};

}  // namespace weft::data
