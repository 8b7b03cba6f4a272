#pragma once
// A small classification problem for tests of the training loop.
#include <cstdint>
#include <vector>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/reduce.h"
#include "autograd/window.h"
#include "data/tensor_dataset.h"
#include "tensor/philox.h"

namespace weft::test {

inline constexpr std::int64_t kClasses = 3, kFeatures = 8;

/// Points around one centre per class.
inline data::TensorDataset points(std::int64_t samples, std::uint64_t seed) {
  std::vector<float> input;
  std::vector<std::int64_t> target;
  Philox random(seed);
  for (std::int64_t i = 0; i < samples; ++i) {
    const std::int64_t label = i % kClasses;
    for (std::int64_t f = 0; f < kFeatures; ++f)
      input.push_back(static_cast<float>((f % kClasses == label ? 1.0 : 0.0) + 0.3 * random.normal()));
    target.push_back(label);
  }
  return {Tensor::from_vector(input, {samples, kFeatures}), Tensor::from_vector(target, {samples})};
}

/// Squared distance to the one-hot label, a sum over the samples.
inline Loss squared(const Tensor& output, const Tensor& labels) {
  const auto truth = labels.to_vector<std::int64_t>();
  std::vector<float> one_hot(truth.size() * kClasses);
  for (std::size_t i = 0; i < truth.size(); ++i) one_hot[i * kClasses + static_cast<std::size_t>(truth[i])] = 1;
  const Tensor difference = output - Tensor::from_vector(one_hot, {labels.size(0), kClasses});
  return {cast(sum(difference * difference), Dtype::f64), scalar(static_cast<double>(truth.size()), Dtype::f64)};
}

}  // namespace weft::test
