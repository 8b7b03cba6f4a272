#include "data/fashion_mnist.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

#include "autograd/layout.h"
#include "data/file.h"
#include "data/fingerprint.h"
#include "data/gather.h"
#include "data/idx.h"
#include "data/npy.h"
#include "kernels/common/simd.h"

namespace weft::data {
namespace {

constexpr const char* kOp = "fashion_mnist";
constexpr std::int64_t kPixels = FashionMnist::kSide * FashionMnist::kSide;

std::filesystem::path resolve(const std::filesystem::path& directory) {
  if (!directory.empty()) return directory;
  const char* from_environment = std::getenv("WEFT_DATA_DIR");
  if (from_environment != nullptr && *from_environment != '\0') return from_environment;
  return "/usr/share/datasets/fashion-mnist";
}

std::filesystem::path find(const std::filesystem::path& directory, const std::string& name) {
  for (const char* ending : {"", ".gz"}) {
    std::filesystem::path path = directory / (name + ending);
    std::error_code error;  // a folder that cannot be searched counts as one without the file
    if (std::filesystem::exists(path, error)) return path;
  }
  fail<IoError>(kOp,
                "there is neither {0} nor {0}.gz in {1}: install the Debian package dataset-fashion-mnist, or name the "
                "folder that holds them with --data-dir or WEFT_DATA_DIR",
                name, directory.string());
}

/// One image from bytes to normalised floats.
void normalise(const std::uint8_t* from, float* to) {
  using Floats = simd::Vec<float>;
  using Integers = simd::Mask<float>;
  typedef std::uint8_t Bytes __attribute__((vector_size(16)));
  typedef std::uint16_t Words __attribute__((vector_size(32)));
  constexpr std::int64_t kLanes = simd::kLanes<float>;
  static_assert(kPixels % kLanes == 0);  // no tail
  const Floats shift = simd::broadcast(static_cast<float>(255.0 * FashionMnist::kMean));
  const Floats scale = simd::broadcast(static_cast<float>(1.0 / (255.0 * FashionMnist::kDeviation)));
  for (std::int64_t i = 0; i < kPixels; i += kLanes) {
    Bytes bytes;
    std::memcpy(&bytes, from + i, sizeof(bytes));
    // By way of 16 bits: widening 8 to 32 in one step becomes scalar code in g++ 12.
    const auto words = __builtin_convertvector(bytes, Words);
    const auto values = __builtin_convertvector(__builtin_convertvector(words, Integers), Floats);
    simd::store<float, float>(to + i, (values - shift) * scale);
  }
}

}  // namespace

FashionMnist FashionMnist::train(const std::filesystem::path& directory) { return load(directory, "train", "train"); }
FashionMnist FashionMnist::test(const std::filesystem::path& directory) { return load(directory, "test", "t10k"); }

FashionMnist FashionMnist::load(const std::filesystem::path& directory, const char* split, const char* prefix) {
  const std::filesystem::path folder = resolve(directory);
  const std::filesystem::path image_file = find(folder, std::string(prefix) + "-images-idx3-ubyte");
  const std::filesystem::path label_file = find(folder, std::string(prefix) + "-labels-idx1-ubyte");

  Tensor images = read_idx(image_file);
  require<IoError>(images.rank() == 3 && images.size(1) == kSide && images.size(2) == kSide, kOp,
                   "images must have shape [N, {0}, {0}] but {1} holds {2}: give the folder of Fashion-MNIST", kSide,
                   image_file.string(), images.shape());
  const Tensor bytes = read_idx(label_file);
  require<IoError>(bytes.rank() == 1, kOp,
                   "labels must have shape [N] but {} holds {}: give the folder of Fashion-MNIST", label_file.string(),
                   bytes.shape());
  require<IoError>(
      images.size(0) == bytes.size(0), kOp,
      "there must be one label per image but {} holds {} images and {} holds {} labels; get the files anew",
      image_file.string(), images.size(0), label_file.string(), bytes.size(0));

  Tensor labels = Tensor::empty(bytes.shape(), Dtype::i64);
  const auto* from = bytes.data<std::uint8_t>();
  auto* to = labels.data<std::int64_t>();
  for (std::int64_t row = 0; row < labels.numel(); ++row) {
    require<IoError>(from[row] < kClasses, kOp, "labels must be in [0, {}) but row {} of {} is {}; get the file anew",
                     kClasses, row, label_file.string(), from[row]);
    to[row] = from[row];
  }
  return {std::string("fashion_mnist/") + split, std::move(images), std::move(labels)};
}

Tensor FashionMnist::read_images(const std::filesystem::path& path) {
  constexpr std::string_view kNumpy{"\x93NUMPY", 6};
  std::array<char, kNumpy.size()> start{};
  const std::int64_t got = InputFile(kOp, path).read_at(0, start.data(), kNumpy.size());
  const bool numpy = std::string_view(start.data(), static_cast<std::size_t>(got)) == kNumpy;
  Tensor images = numpy ? contiguous(load_npy(path)) : read_idx(path);
  if (images.rank() == 2) images = images.unsqueeze(0);
  require<IoError>(
      images.dtype() == Dtype::u8 && images.rank() == 3 && images.size(1) == kSide && images.size(2) == kSide, kOp,
      "images must be bytes u8 [N, {0}, {0}], 0 is black, but {1} holds {2} {3}", kSide, path.string(),
      to_string(images.dtype()), images.shape());
  Tensor input = Tensor::empty(images.shape());
  for (std::int64_t row = 0; row < images.size(0); ++row)
    normalise(images.data<std::uint8_t>() + row * kPixels, input.data<float>() + row * kPixels);
  return input;
}

std::uint64_t FashionMnist::fingerprint() const { return hash_combine(hash_tensor(images_), hash_tensor(labels_)); }

Batch FashionMnist::collate(std::span<const std::int64_t> ids) const {
  check_ids(ids, size());
  const auto rows = static_cast<std::int64_t>(ids.size());
  Tensor input = Tensor::empty({rows, kSide, kSide});
  const auto image = [from = images_.data<std::uint8_t>(), ids](std::int64_t row) {
    return from + ids[static_cast<std::size_t>(row)] * kPixels;
  };
  auto* to = input.data<float>();
  parallel_rows(rows, kPixels * static_cast<std::int64_t>(sizeof(float)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      if (row + kPrefetchRows < end)
        prefetch_row(reinterpret_cast<const std::byte*>(image(row + kPrefetchRows)), kPixels);
      normalise(image(row), to + row * kPixels);
    }
  });
  return {std::move(input), gather_rows(labels_, ids)};
}

}  // namespace weft::data
