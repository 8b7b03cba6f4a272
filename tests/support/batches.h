#pragma once
// What tests of plans and loaders share: a data set that can be read off, and all that a walk hands out.
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "data/loader.h"
#include "data/tensor_dataset.h"
#include "support/compare.h"

namespace weft::test {

/// Sample i: input row [10 i, 10 i + 1, ...] of three f32, target 2 i + 1 as i64.
inline data::TensorDataset counting(std::int64_t samples) {
  std::vector<float> input(static_cast<std::size_t>(samples * 3));
  std::vector<std::int64_t> target(static_cast<std::size_t>(samples));
  for (std::size_t i = 0; i < target.size(); ++i) {
    target[i] = static_cast<std::int64_t>(2 * i + 1);
    for (std::size_t j = 0; j < 3; ++j) input[i * 3 + j] = static_cast<float>(10 * i + j);
  }
  return {Tensor::from_vector(input, {samples, 3}), Tensor::from_vector(target, {samples}), "counting"};
}

/// A micro-batch that a walk handed out, on the cpu.
struct Seen {
  std::int64_t update, micro;
  Tensor input, target, ids, weight;
};
inline Seen seen_of(const data::Update& update, const data::MicroBatch& micro) {
  const auto here = [](const Tensor& x) { return x.defined() ? to(x, Device{}) : Tensor(); };
  return {update.number(),        micro.index,       here(micro.input), here(micro.target),
          here(micro.sample_ids), here(micro.weight)};
}
inline std::vector<Seen> walk(data::Epoch epoch) {
  std::vector<Seen> seen;
  for (auto& update : epoch)
    for (auto& micro : update) seen.push_back(seen_of(update, micro));
  return seen;
}
inline void expect_same(const std::vector<Seen>& a, const std::vector<Seen>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].update, b[i].update);
    EXPECT_EQ(a[i].micro, b[i].micro);
    EXPECT_TRUE(bitwise_equal(a[i].input, b[i].input)) << i;
    EXPECT_TRUE(bitwise_equal(a[i].target, b[i].target)) << i;
    EXPECT_TRUE(bitwise_equal(a[i].ids, b[i].ids)) << i;
    ASSERT_EQ(a[i].weight.defined(), b[i].weight.defined()) << i;
    EXPECT_TRUE(!a[i].weight.defined() || bitwise_equal(a[i].weight, b[i].weight)) << i;
  }
}

}  // namespace weft::test
