#include "data/transform.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "autograd/factories.h"
#include "data/fashion_mnist.h"
#include "data/loader.h"
#include "data/tensor_dataset.h"
#include "support/batches.h"
#include "support/threads.h"

namespace weft::data {
namespace {

using test::bitwise_equal;
using test::message_of;

std::vector<std::int64_t> keys_of(std::int64_t rows) {
  std::vector<std::int64_t> keys(static_cast<std::size_t>(rows));
  std::iota(keys.begin(), keys.end(), 0);
  return keys;
}
Tensor changed(const std::vector<ImageStep>& steps, const Tensor& x, std::uint64_t seed = 1, std::int64_t epoch = 0) {
  return (*image_transform(steps))(x, RowRandom(seed, epoch, KeyedBy::sample), keys_of(x.size(0)));
}
/// [rows, channels, height, width], without channels when they are 0; neighbouring pixels are other numbers in [1, 200).
Tensor ramp(std::int64_t rows, std::int64_t channels, std::int64_t height, std::int64_t width, Dtype dtype) {
  const Shape shape = channels == 0 ? Shape{rows, height, width} : Shape{rows, channels, height, width};
  std::vector<float> values(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(1 + i * 7 % 199);
  if (dtype == Dtype::f32) return Tensor::from_vector(values, shape);
  return Tensor::from_vector(std::vector<std::uint8_t>(values.begin(), values.end()), shape);
}
float pixel(const Tensor& x, std::int64_t row, std::int64_t y, std::int64_t column) {
  return x[row].select(0, y).select(0, column).item<float>();
}

TEST(Transform, NormalizeIsWhatFashionMnistDoes) {
  const FashionMnist set = FashionMnist::test();
  std::vector<std::int64_t> ids{0, 17, 9999, 4};
  const Tensor bytes = TensorDataset(set.images(), set.labels()).collate(ids).input;
  const Tensor y = changed({Normalize{{FashionMnist::kMean}, {FashionMnist::kDeviation}}}, bytes);
  EXPECT_TRUE(bitwise_equal(y, set.collate(ids).input));
}

TEST(Transform, NormalizeTakesEachChannelsNumbers) {
  const Tensor x = ramp(2, 3, 5, 7, Dtype::f32);
  const Tensor y = changed({Normalize{{1, 2, 3}, {2, 4, 0.5}}}, x);
  const auto from = x.to_vector<float>(), to = y.to_vector<float>();
  const std::array<float, 3> mean{1, 2, 3}, deviation{2, 4, 0.5f};
  for (std::size_t i = 0; i < to.size(); ++i) {
    const std::size_t c = i / 35 % 3;
    EXPECT_EQ(to[i], (from[i] - mean[c]) / deviation[c]);  // powers of two: exact
  }
  EXPECT_TRUE(bitwise_equal(changed({Normalize{{0}, {1}}}, x), x));
  EXPECT_EQ(
      changed({Normalize{{0}, {1}}}, Tensor::from_vector<std::uint8_t>({0, 51, 255}, {1, 1, 3})).to_vector<float>(),
      (std::vector<float>{0, 51 * (1.0f / 255), 255 * (1.0f / 255)}));
}

// Every place of every window, on all widths around a vector's: each row of the result is a row of the padded image.
TEST(Transform, ACropIsAWindowOfThePaddedImage) {
  for (const Dtype dtype : {Dtype::u8, Dtype::f32})
    for (const std::int64_t width : {1, 5, 15, 16, 17, 28, 33})
      for (const std::int64_t padding : {0, 1, 4})
        for (const bool flip : {false, true}) {
          const std::int64_t height = 6, rows = 40;
          const std::int64_t window = std::max<std::int64_t>(1, width + 2 * padding - 3);
          SCOPED_TRACE(fmt::format("width {} padding {} window {} flip {}", width, padding, window, flip));
          const Tensor x = ramp(rows, 0, height, width, dtype);
          std::vector<ImageStep> steps{RandomCrop{.height = 5, .width = window, .padding = padding},
                                       Normalize{{0.5}, {0.25}}};
          if (flip) steps.insert(steps.begin(), RandomHorizontalFlip{1});
          const Tensor y = changed(steps, x);
          ASSERT_EQ(y.shape(), (Shape{rows, 5, window}));
          const double unit = dtype == Dtype::u8 ? 255 : 1;
          const auto want = [&](std::int64_t row, std::int64_t top,
                                std::int64_t left) {  // of the padded, flipped image
            std::vector<float> values;
            for (std::int64_t i = 0; i < 5; ++i)
              for (std::int64_t j = 0; j < window; ++j) {
                const std::int64_t sy = top + i - padding, sx = left + j - padding;
                const bool inside = sy >= 0 && sy < height && sx >= 0 && sx < width;
                const std::int64_t column = flip ? width - 1 - sx : sx;
                const float value = inside ? (dtype == Dtype::u8 ? static_cast<float>(x[row][sy][column].item<int>())
                                                                 : pixel(x, row, sy, column))
                                           : 0.0f;
                values.push_back((value - static_cast<float>(unit * 0.5)) * static_cast<float>(1 / (unit * 0.25)));
              }
            return values;
          };
          for (std::int64_t row = 0; row < rows; row += 13) {
            const auto got = y[row].to_vector<float>();
            bool found = false;
            for (std::int64_t top = 0; top <= height + 2 * padding - 5 && !found; ++top)
              for (std::int64_t left = 0; left <= width + 2 * padding - window && !found; ++left)
                found = got == want(row, top, left);
            EXPECT_TRUE(found) << "row " << row << " is no window of its image";
          }
        }
}

TEST(Transform, EveryWindowAndEveryFlipIsAsLikely) {
  constexpr std::int64_t kRows = 40'000;
  const Tensor x = zeros({kRows, 3, 4});
  for (std::int64_t row = 0; row < kRows; ++row)
    for (std::int64_t i = 0; i < 12; ++i) x.data<float>()[row * 12 + i] = static_cast<float>(i);
  const Tensor y = changed({RandomCrop{.height = 2, .width = 2}, RandomHorizontalFlip{0.25}}, x, 20261126);
  std::map<std::pair<float, bool>, double> count;
  for (std::int64_t row = 0; row < kRows; ++row) {
    const float a = y.data<float>()[row * 4], b = y.data<float>()[row * 4 + 1];
    count[{std::min(a, b), b < a}] += 1;
  }
  ASSERT_EQ(count.size(), 12u);  // 2 x 3 places, flipped or not
  double statistic = 0;
  for (const auto& [what, n] : count) {
    const double expected = kRows / 6.0 * (what.second ? 0.25 : 0.75);
    statistic += (n - expected) * (n - expected) / expected;
  }
  EXPECT_LT(statistic, 38.0);  // 11 degrees of freedom: a chance of 8e-5
  EXPECT_TRUE(bitwise_equal(changed({RandomHorizontalFlip{0}}, x), x));
}

TEST(Transform, AResizedCropHasTheLawOfItsOptions) {
  // A plane x + 100 y is read off exactly by bilinear interpolation: the corners of the result tell the window.
  constexpr std::int64_t kRows = 20'000, kHeight = 40, kWidth = 60, kOut = 20;
  const Tensor image = zeros({1, kHeight, kWidth});
  for (std::int64_t i = 0; i < kHeight * kWidth; ++i)
    image.data<float>()[i] = static_cast<float>(i % kWidth) + 100 * static_cast<float>(i / kWidth);
  const auto transform =
      image_transform({RandomResizedCrop{.height = kOut, .width = kOut, .least_area = 0.2, .most_area = 0.8}});
  const RowRandom random(7, 3, KeyedBy::sample);
  struct Means {
    double area = 0, squares = 0, log_ratio = 0;
  } got, law;
  double centre = 0;
  for (std::int64_t row = 0; row < kRows; ++row) {
    const std::vector<std::int64_t> key{row};
    const Tensor y = (*transform)(image, random, key);
    const float* v = y.data<float>();
    const double width = (v[12] - v[7]) / 5.0 * kOut, height = (v[12 * kOut + 7] - v[7 * kOut + 7]) / 100 / 5.0 * kOut;
    const double area = width * height / (kHeight * kWidth);
    ASSERT_NEAR(width, std::round(width), 2e-2);
    ASSERT_NEAR(height, std::round(height), 2e-2);
    got.area += area / kRows;
    got.log_ratio += std::log(width / height) / kRows;
    centre += (v[9 * kOut + 9] + v[10 * kOut + 10]) / 2 / kRows;
  }
  // The law by itself: a window that does not fit is drawn again.
  Philox other(99);
  for (std::int64_t row = 0; row < kRows;) {
    const double area = kHeight * kWidth * (0.2 + 0.6 * other.uniform());
    const double ratio = std::exp(std::log(0.75) + std::log(16.0 / 9) * other.uniform());
    const double width = std::round(std::sqrt(area * ratio)), height = std::round(std::sqrt(area / ratio));
    if (width > kWidth || height > kHeight) continue;
    law.area += width * height / (kHeight * kWidth) / kRows;
    law.squares += std::pow(width * height / (kHeight * kWidth), 2) / kRows;
    law.log_ratio += std::log(width / height) / kRows;
    ++row;
  }
  const double deviation =
      std::sqrt(2 * (law.squares - law.area * law.area) / kRows);  // of the difference of two means
  EXPECT_NEAR(got.area, law.area, 4 * deviation);
  EXPECT_NEAR(got.log_ratio, law.log_ratio,
              4 * 0.166 * std::sqrt(2.0 / kRows));  // uniform over log(16/9): at most 0.166
  // Spread evenly: the centre is the image's on average; it deviates by less than 0.29 of the image in each direction.
  EXPECT_NEAR(centre, 59.0 / 2 + 100 * 39.0 / 2, 4 * 0.29 * 100 * kHeight / std::sqrt(kRows));
}

TEST(Transform, AResizedCropInterpolates) {
  // The whole image to itself is the image; to twice its size, and mirrored, by hand.
  const Tensor x = ramp(3, 2, 6, 6, Dtype::f32);
  const RandomResizedCrop whole{
      .height = 6, .width = 6, .least_area = 1, .most_area = 1, .least_ratio = 1, .most_ratio = 1};
  EXPECT_TRUE(bitwise_equal(changed({whole}, x), x));
  const Tensor two = Tensor::from_vector<float>({0, 4, 8, 12}, {1, 2, 2});
  RandomResizedCrop twice = whole;
  twice.height = twice.width = 4;
  EXPECT_EQ(changed({twice}, two).to_vector<float>(),
            (std::vector<float>{0, 1, 3, 4, 2, 3, 5, 6, 6, 7, 9, 10, 8, 9, 11, 12}));
  for (const bool first : {false, true}) {
    std::vector<ImageStep> steps{twice};
    steps.insert(first ? steps.begin() : steps.end(), RandomHorizontalFlip{1});
    EXPECT_EQ(changed(steps, two).to_vector<float>(),
              (std::vector<float>{4, 3, 1, 0, 6, 5, 3, 2, 10, 9, 7, 6, 12, 11, 9, 8}));
  }
  // No window of that ratio fits: the central one.
  const RandomResizedCrop tall{
      .height = 4, .width = 2, .least_area = 1, .most_area = 1, .least_ratio = 0.5, .most_ratio = 0.5};
  const Tensor y = changed({tall}, ramp(1, 0, 4, 8, Dtype::f32));
  const Tensor source = ramp(1, 0, 4, 8, Dtype::f32);
  for (std::int64_t i = 0; i < 4; ++i)
    for (std::int64_t j = 0; j < 2; ++j) EXPECT_EQ(pixel(y, 0, i, j), pixel(source, 0, i, j + 3));
}

// One pass and step by step are the same, whatever the order, when each step is its own transform with the same numbers.
TEST(Transform, ARunOfStepsIsItsStepsInTurn) {
  const Tensor x = ramp(50, 3, 20, 22, Dtype::f32);
  // Steps that need no random numbers, in all orders: a forced flip, Normalize, and a crop of the only window.
  std::vector<ImageStep> steps{RandomHorizontalFlip{1}, Normalize{{1, 2, 3}, {2, 2, 4}},
                               RandomCrop{.height = 22, .width = 24, .padding = 1}};
  std::vector<std::size_t> order{0, 1, 2};
  do {
    std::vector<ImageStep> run;
    Tensor want = x;
    for (const std::size_t i : order) {
      run.push_back(steps[i]);
      want = changed({steps[i]}, want);
    }
    EXPECT_TRUE(bitwise_equal(changed(run, x), want)) << order[0] << order[1] << order[2];
  } while (std::next_permutation(order.begin(), order.end()));
  EXPECT_TRUE(bitwise_equal(changed({RandomHorizontalFlip{1}, RandomHorizontalFlip{1}}, x), x));
  // A random window, before and after a flip; a step that changes nothing keeps the numbers' numbering.
  const RandomHorizontalFlip flip{1}, none{0};
  for (const ImageStep& window : {ImageStep(RandomCrop{.height = 9, .width = 8, .padding = 2}),
                                  ImageStep(RandomResizedCrop{.height = 9, .width = 8})}) {
    // Interpolation from the other side rounds otherwise: a few times 2^-24 of values below 200.
    EXPECT_LT(test::max_error(test::values(changed({flip, window}, x)),
                              test::values(changed({none, window}, changed({flip}, x)))),
              std::holds_alternative<RandomCrop>(window) ? 1e-30 : 1e-4);
    EXPECT_TRUE(bitwise_equal(changed({window, flip}, x), changed({flip}, changed({window}, x))));
    EXPECT_FALSE(bitwise_equal(changed({flip, window}, x), changed({none, window}, x)));
  }
  EXPECT_TRUE(bitwise_equal(changed({steps[1], steps[1]}, x), changed({steps[1]}, changed({steps[1]}, x))));
}

// S6: of a sample's randomness, its batch mates, order, place, split, rank and worker know nothing.
TEST(Transform, ASamplesRandomnessIsItsOwn) {
  constexpr std::int64_t kSamples = 61;
  const TensorDataset set(ramp(kSamples, 1, 12, 12, Dtype::u8), Tensor::from_vector(keys_of(kSamples), {kSamples}));
  const auto transform = image_transform({RandomResizedCrop{.height = 10, .width = 10}, RandomHorizontalFlip{},
                                          RandomCrop{.height = 9, .width = 9, .padding = 2}, Normalize{{0.5}, {0.2}}});
  const auto by_sample = [&](const LoaderOptions& options, std::int64_t epoch) {
    std::map<std::int64_t, std::vector<float>> images;
    for (std::int64_t rank = 0; rank < options.ranks; ++rank) {
      LoaderOptions mine = options;
      mine.rank = rank;
      mine.transform = transform;
      for (auto& update : Loader{set, mine}.epoch(epoch))
        for (auto& micro : update) {
          const Tensor input = to(micro.input, Device{});
          const auto ids = micro.sample_ids.to_vector<std::int64_t>();
          for (std::size_t row = 0; row < ids.size(); ++row) {
            const auto image = input[static_cast<std::int64_t>(row)].to_vector<float>();
            EXPECT_TRUE(images.try_emplace(ids[row], image).first->second == image);
          }
        }
    }
    EXPECT_EQ(images.size(), static_cast<std::size_t>(kSamples));
    return images;
  };
  const auto want = by_sample({.batch = MiniBatch{8}, .seed = 4}, 2);
  for (const std::int64_t workers : {1, 3, 8})
    EXPECT_EQ(by_sample({.batch = MiniBatch{8}, .accumulate = 2, .seed = 4, .workers = workers}, 2), want);
  EXPECT_EQ(by_sample({.batch = MiniBatch{13}, .seed = 4}, 2), want);
  EXPECT_EQ(by_sample({.batch = Sgd{}, .order = Order::sequential, .seed = 4}, 2), want);
  EXPECT_EQ(by_sample({.batch = MiniBatch{8}, .seed = 4, .ranks = 3}, 2), want);
  EXPECT_EQ(by_sample({.batch = MiniBatch{8}, .seed = 4, .device = Device{DeviceKind::simt, 0}, .workers = 2}, 2),
            want);
  for (const int threads : {1, 7}) {
    const test::Threads guard(threads);
    EXPECT_EQ(by_sample({.batch = FullBatch{}, .seed = 4}, 2), want);
  }
  // Another epoch, another seed, another sample: other numbers.
  const auto differ = [&](const std::map<std::int64_t, std::vector<float>>& other) {
    std::int64_t count = 0;
    for (const auto& [id, image] : want) count += image != other.at(id) ? 1 : 0;
    return count;
  };
  EXPECT_GT(differ(by_sample({.batch = MiniBatch{8}, .seed = 4}, 3)), 55);
  EXPECT_GT(differ(by_sample({.batch = MiniBatch{8}, .seed = 5}, 2)), 55);
}

TEST(Transform, ASampleThatIsDrawnTwiceIsChangedTwice) {
  std::vector<std::vector<float>> images;
  for (const std::int64_t workers : {0, 2}) {
    // A single sample with two others that are never drawn.
    const TensorDataset three(ramp(3, 0, 40, 40, Dtype::u8), zeros({3}));
    const Loader loader{three,
                        {.batch = MiniBatch{3},
                         .order = Order::weighted,
                         .weights = {0, 1, 0},
                         .transform = image_transform({RandomCrop{.height = 8, .width = 8}}),
                         .workers = workers}};
    for (auto& update : loader.epoch(0))
      for (auto& micro : update)
        for (std::int64_t row = 0; row < 3; ++row) images.push_back(micro.input[row].to_vector<float>());
  }
  ASSERT_EQ(images.size(), 6u);
  EXPECT_NE(images[0], images[1]);
  EXPECT_NE(images[1], images[2]);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(images[i], images[i + 3]);
}

TEST(Transform, ItsStepsAreInTheHash) {
  const auto loader = [](std::vector<ImageStep> steps) {
    return Loader{TensorDataset(zeros({4, 5, 5}), zeros({4})),
                  {.batch = Sgd{}, .transform = steps.empty() ? nullptr : image_transform(std::move(steps))}}
        .hash();
  };
  const std::vector<std::uint64_t> hashes{loader({}),
                                          loader({RandomHorizontalFlip{}}),
                                          loader({RandomHorizontalFlip{0.4}}),
                                          loader({RandomHorizontalFlip{}, RandomHorizontalFlip{}}),
                                          loader({RandomCrop{5, 5, 1}}),
                                          loader({RandomResizedCrop{5, 5}}),
                                          loader({Normalize{{0}, {1}}}),
                                          loader({Normalize{{0}, {2}}})};
  for (std::size_t i = 0; i < hashes.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(hashes[i], hashes[j]) << i << " " << j;
  EXPECT_EQ(loader({RandomHorizontalFlip{}}), hashes[1]);
}

TEST(Transform, RefusesWhatItCannotDo) {
  const auto option = [](ImageStep step) {
    return message_of<OptionError>([&] { image_transform({std::move(step)}); });
  };
  EXPECT_EQ(option(RandomCrop{0, 5}), "[random_crop] the window must have an extent but is 0 x 5");
  EXPECT_EQ(option(RandomCrop{5, 5, -1}), "[random_crop] padding must be at least 0 but is -1");
  EXPECT_EQ(option(RandomResizedCrop{5, 0}), "[random_resized_crop] the result must have an extent but is 5 x 0");
  EXPECT_EQ(option(RandomResizedCrop{5, 5, 0.5, 0.2}),
            "[random_resized_crop] areas must be a range within (0, 1] but are [0.5, 0.2]");
  EXPECT_EQ(option(RandomResizedCrop{5, 5, 0.5, 1, -1, 2}),
            "[random_resized_crop] ratios must be a range above 0 but are [-1, 2]");
  EXPECT_EQ(option(RandomHorizontalFlip{1.5}), "[random_horizontal_flip] p must be in [0, 1] but is 1.5");
  EXPECT_EQ(option(Normalize{{0, 1}, {1}}),
            "[normalize] needs as many means as deviations, one at least, but has 2 and 1");
  EXPECT_EQ(option(Normalize{{0, 1}, {1, 0}}), "[normalize] deviations must be positive but that of channel 1 is 0");
  EXPECT_EQ(option(Normalize{{NAN}, {1}}), "[normalize] means must be finite but that of channel 0 is nan");
  EXPECT_EQ(message_of<OptionError>([] { image_transform({}); }), "[image_transform] needs a step at least but has 0");
  const auto shape = [](ImageStep step, const Tensor& x) {
    return message_of<ShapeError>([&] { changed({std::move(step)}, x); });
  };
  EXPECT_EQ(shape(RandomCrop{32, 32, 1}, zeros({2, 28, 28})),
            "[random_crop] a window of 32 x 32 needs images of that size but they are 28 x 28, padded by 1");
  EXPECT_EQ(shape(RandomResizedCrop{5, 5}, zeros({2, 0, 28})),
            "[random_resized_crop] needs images with pixels but they are 0 x 28");
  EXPECT_EQ(shape(Normalize{{0, 0}, {1, 1}}, zeros({2, 3, 4, 4})),
            "[normalize] needs one mean or one for each of the 3 channels but has 2");
  EXPECT_EQ(shape(RandomHorizontalFlip{}, zeros({2, 28})),
            "[image_transform] images must have shape [B, H, W] or [B, C, H, W] but have [2, 28]");
  EXPECT_EQ(message_of<DtypeError>([] {
              changed({RandomHorizontalFlip{}}, zeros({2, 3, 3}, Dtype::f64));
            }),
            "[image_transform] images must be u8 or f32 but are f64");
  EXPECT_EQ(changed({RandomCrop{2, 2}}, zeros({0, 3, 3})).shape(), (Shape{0, 2, 2}));
}

}  // namespace
}  // namespace weft::data
