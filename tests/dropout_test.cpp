#include "autograd/dropout.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/reduce.h"
#include "autograd/step_context.h"
#include "kernels/common/philox_gpu.h"
#include "kernels/dropout.h"
#include "nn/dropout.h"
#include "nn/init.h"
#include "nn/linear.h"
#include "nn/sequential.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/variants.h"

namespace weft {
namespace {

using test::back;
using test::bitwise_equal;
using test::message_of;
using test::values;
using Ids = std::vector<std::int64_t>;

class DropoutOn : public test::DeviceTest {
 protected:
  StepContext step(const Ids& ids, std::int64_t update = 1, std::uint64_t seed = 7) const {
    return {.seed = seed,
            .update = here(Tensor::from_vector<std::int64_t>({update}, {})),
            .sample_ids = here(Tensor::from_vector(ids, {static_cast<std::int64_t>(ids.size())}))};
  }
  // Which elements are kept, in f32 on the cpu: 0 or 1.
  Tensor mask(const StepContext& context, const Shape& shape, double p = 0.5, std::uint32_t stream = 0) const {
    const StepScope scope(context);
    return back(dropout(here(full(shape, 1 - p)), p, stream));
  }
};
WEFT_DEVICE_SUITE(DropoutOn);

Tensor rows(const Tensor& x, const Ids& which) {
  std::vector<float> picked;
  for (const std::int64_t row : which) {
    const std::vector<float> values = contiguous(x.select(0, row)).to_vector<float>();
    picked.insert(picked.end(), values.begin(), values.end());
  }
  Shape shape = x.shape();
  shape[0] = static_cast<std::int64_t>(which.size());
  return Tensor::from_vector(picked, shape);
}

TEST(Dropout, TheDevicesPhiloxIsTheHosts) {
  for (std::uint64_t i = 0; i < 100; ++i) {
    const std::uint64_t key = i * 0x9e3779b97f4a7c15u, low = ~i * 0xbf58476d1ce4e5b9u, high = i << (i % 64);
    const PhiloxBlock host = philox4x32(key, low, high);
    const auto device = kernels::simt::philox(key, low, high);
    for (int w = 0; w < 4; ++w) EXPECT_EQ(device[w], host[static_cast<std::size_t>(w)]) << i;
  }
}

// --- what a mask depends on -----------------------------------------------------------------------------------------

TEST_P(DropoutOn, AnyCutOfTheBatchGivesTheSameMask) {
  const Ids ids{11, 5, 900000000007, 0, 42, 3};
  const Shape shape{6, 3, 10};
  const Tensor whole = mask(step(ids), shape);
  for (std::size_t row = 0; row < ids.size(); ++row)
    EXPECT_TRUE(bitwise_equal(mask(step({ids[row]}), {1, 3, 10}), rows(whole, {static_cast<std::int64_t>(row)})))
        << row;
  // Another order, without the fifth.
  EXPECT_TRUE(bitwise_equal(mask(step({3, 900000000007, 5, 11, 0}), {5, 3, 10}), rows(whole, {5, 2, 1, 0, 3})));
}

TEST_P(DropoutOn, PackingAndPaddingLeaveTheMaskAlone) {
  // Two samples of 2 and 3 tokens: padded to 4, and packed into one row of 6 with a token of padding behind.
  const Tensor padded = mask(step({8, 9}), {2, 4, 6});
  StepContext packed = step({});
  packed.sample_ids = here(Tensor::from_vector<std::int64_t>({8, 8, 9, 9, 9, -1}, {1, 6}));
  packed.positions = here(Tensor::from_vector<std::int64_t>({0, 1, 0, 1, 2, 0}, {1, 6}));
  const Tensor row = mask(packed, {1, 6, 6});
  const auto token = [](const Tensor& x, std::int64_t b, std::int64_t t) {
    return contiguous(x.select(0, b).select(0, t)).to_vector<float>();
  };
  for (std::int64_t t = 0; t < 2; ++t) EXPECT_EQ(token(row, 0, t), token(padded, 0, t)) << t;
  for (std::int64_t t = 0; t < 3; ++t) EXPECT_EQ(token(row, 0, 2 + t), token(padded, 1, t)) << t;
  // Positions that say what is so anyway.
  StepContext counted = step({8, 9});
  counted.positions = here(Tensor::from_vector<std::int64_t>({0, 1, 2, 3, 0, 1, 2, 3}, {2, 4}));
  EXPECT_TRUE(bitwise_equal(mask(counted, {2, 4, 6}), padded));
}

TEST_P(DropoutOn, EveryDtypeHasTheSameMask) {
  const StepScope scope(step({1, 2, 3}));
  const std::vector<double> f32 = values(back(dropout(here(ones({3, 70})))));
  for (const Dtype dtype : {Dtype::f64, Dtype::f16, Dtype::bf16})
    EXPECT_EQ(values(back(dropout(here(ones({3, 70}, dtype))))), f32) << to_string(dtype);
}

TEST_P(DropoutOn, SeedUpdateStreamSampleAndPositionAllMatter) {
  const Shape shape{2, 2, 4096};
  const std::vector<double> base = values(mask(step({1, 2}), shape));
  const auto agreement = [&](const std::vector<double>& other, std::size_t shift = 0) {
    double same = 0;
    for (std::size_t i = 0; i + shift < base.size(); ++i) same += base[i] == other[i + shift] ? 1 : 0;
    return same / static_cast<double>(base.size() - shift);
  };
  const double near = 5 * 0.5 / std::sqrt(16384.0);  // five standard errors of a fair coin
  EXPECT_NEAR(agreement(values(mask(step({1, 2}, 1, 8), shape))), 0.5, near) << "seed";
  EXPECT_NEAR(agreement(values(mask(step({1, 2}, 2), shape))), 0.5, near) << "update";
  EXPECT_NEAR(agreement(values(mask(step({1, 2}), shape, 0.5, 1))), 0.5, near) << "stream";
  EXPECT_NEAR(agreement(values(mask(step({3, 4}), shape))), 0.5, near) << "sample";
  EXPECT_NEAR(agreement(base, 4096), 0.5, 2 * near) << "position";
  EXPECT_NEAR(agreement(base, 1), 0.5, near) << "neighbour";
  EXPECT_NEAR(agreement(base, 4), 0.5, near) << "next block";
  EXPECT_EQ(agreement(values(mask(step({1, 2}), shape))), 1);
}

TEST_P(DropoutOn, KeepsTheRightPart) {
  for (const double p : {0.01, 0.1, 0.5, 0.9}) {
    const double kept = values(sum(mask(step({1, 2, 3, 4}), {4, 25000}, p)))[0];
    // Five standard errors. (mask() holds 1 up to the rounding of (1 - p) / (1 - p).)
    EXPECT_NEAR(kept / 100000, 1 - p, 5 * std::sqrt(p * (1 - p) / 100000)) << p;
  }
}

// --- values and gradients -------------------------------------------------------------------------------------------

TEST_P(DropoutOn, BackwardDrawsTheSameMaskWithoutTheContext) {
  const Tensor x = set_requires_grad(here(randn({3, 37}, 1)));
  Tensor y;
  {
    const StepScope scope(step({4, 5, 6}));
    y = dropout(x, 0.25);
  }
  const StepScope other(step({7, 8, 9}, 2));
  const Tensor dy = randn({3, 37}, 2);
  backward(y, here(dy));
  const std::vector<float> in = back(x.alias()).to_vector<float>(), out = back(y.alias()).to_vector<float>(),
                           d = dy.to_vector<float>(), dx = back(grad(x)).to_vector<float>();
  const auto scale = static_cast<float>(1 / 0.75);
  std::size_t dropped = 0;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const bool kept = out[i] != 0;
    dropped += kept ? 0 : 1;
    EXPECT_EQ(out[i], kept ? in[i] * scale : 0.0f) << i;
    EXPECT_EQ(dx[i], kept ? d[i] * scale : 0.0f) << i;
  }
  EXPECT_GT(dropped, 10u);
  EXPECT_LT(dropped, 60u);
}

TEST_P(DropoutOn, WhatIsDroppedIsZeroWhateverItWas) {
  const StepScope scope(step({1}));
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const std::vector<double> kept = values(back(dropout(here(ones({1, 64})))));
  for (const float bad : {nan, infinity, -infinity}) {
    const std::vector<double> y = values(back(dropout(here(full({1, 64}, bad)))));
    for (std::size_t i = 0; i < y.size(); ++i) {
      if (kept[i] == 0)
        EXPECT_EQ(y[i], 0) << i;
      else
        EXPECT_FALSE(std::isfinite(y[i])) << i;
    }
  }
}

TEST_P(DropoutOn, NothingIsDroppedForZero) {
  const Tensor x = here(randn({3, 4}, 1));
  EXPECT_TRUE(dropout(x, 0).is_same(x));  // and no context is asked for
}

// The update's number is read where the kernel runs, not when the context is opened.
TEST_P(DropoutOn, TheUpdateIsReadFromDeviceMemory) {
  StepContext context = step({1, 2}, 5);
  const Tensor fifth = mask(context, {2, 50});
  context.update.copy_bytes_from(Tensor::from_vector<std::int64_t>({6}, {}));
  EXPECT_TRUE(bitwise_equal(mask(context, {2, 50}), mask(step({1, 2}, 6), {2, 50})));
  EXPECT_FALSE(bitwise_equal(mask(context, {2, 50}), fifth));
}

TEST_P(DropoutOn, MayWriteOverItsInput) {
  for (const std::int64_t channels : {64, 37}) {
    const StepContext context = step({1, 2, 3});
    const StepScope scope(context);
    const Tensor x = here(randn({3, channels}, 1)), y = dropout(x, 0.5, 9);
    kernels::dropout(device(), {.dtype = Dtype::f32,
                                .rows = 3,
                                .channels = channels,
                                .tokens = 1,
                                .tokens_per_id = 1,
                                .seed = context.seed,
                                .stream = 9,
                                .threshold = 1u << 31,
                                .scale = 2,
                                .update = context.update.data<std::int64_t>(),
                                .sample_ids = context.sample_ids.data<std::int64_t>(),
                                .positions = nullptr,
                                .in = x.raw_data(),
                                .out = x.raw_data()});
    EXPECT_TRUE(bitwise_equal(back(x), back(y)));
  }
}

// The gradient of a batch is the sum of its micro-batches' gradients, however it is cut.
TEST_P(DropoutOn, MicroBatchesGiveTheGradientOfTheBatch) {
  const Ids ids{9, 4, 7, 1};
  const Tensor x = here(randn({4, 6}, 1));
  const auto gradient = [&](std::int64_t rows) {
    nn::manual_seed(2);
    nn::Sequential model{nn::Linear{6, 40}, nn::Dropout{0.4}, nn::Linear{40, 2}, nn::Dropout{0.1}};
    nn::to(model, device());
    for (std::int64_t row = 0; row < 4; row += rows) {
      const StepScope scope(step(Ids(ids.begin() + row, ids.begin() + row + rows)));
      const Tensor y = model(x.slice(0, row, row + rows));
      backward(sum(y * y));
    }
    return values(back(grad(model.parameters()[0])));
  };
  const std::vector<double> whole = gradient(4);
  EXPECT_LT(test::relative_error(gradient(1), whole), 1e-6);
  EXPECT_LT(test::relative_error(gradient(2), whole), 1e-6);
}

class DropoutVariants : public test::GpuTest {};
WEFT_GPU_SUITE(DropoutVariants);

TEST_P(DropoutVariants, AllDrawTheSame) {
  const Tensor update = Tensor::from_vector<std::int64_t>({3}, {}),
               ids = Tensor::from_vector<std::int64_t>({5, 6}, {2});
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16})
    for (const std::int64_t channels : {4, 37, 520}) {
      const Tensor x = randn({2, 3, channels}, 1, dtype);
      const StepScope scope({.seed = 11, .update = update, .sample_ids = ids});
      const Tensor want = dropout(x, 0.25, 8), in = test::on(device(), x), step = test::on(device(), update),
                   samples = test::on(device(), ids), out = test::output(device(), x.shape(), dtype);
      const kernels::Dropout args{.dtype = dtype,
                                  .rows = 6,
                                  .channels = channels,
                                  .tokens = 3,
                                  .tokens_per_id = 3,
                                  .seed = 11,
                                  .stream = 8,
                                  .threshold = 1u << 30,
                                  .scale = 1 / 0.75,
                                  .update = step.data<std::int64_t>(),
                                  .sample_ids = samples.data<std::int64_t>(),
                                  .positions = nullptr,
                                  .in = in.raw_data(),
                                  .out = out.raw_data()};
      EXPECT_EQ(test::for_each_variant(WEFT_VARIANTS(dropout, device()), args,
                                       [&](const auto& variant) {
                                         fill_(out, 99);
                                         variant.run(current_stream(device()), args);
                                         EXPECT_TRUE(bitwise_equal(back(out), want))
                                             << to_string(dtype) << " " << channels;
                                       }),
                channels % 4 == 0 ? 2 : 1);
    }
}

// --- errors ---------------------------------------------------------------------------------------------------------

TEST(Dropout, Errors) {
  const Tensor x = zeros({4, 10});
  const auto message = [&](const StepContext& context, const Tensor& input) {
    const StepScope scope(context);
    return message_of<Error>([&] { dropout(input); });
  };
  for (const double p : {1.0, -0.1, std::numeric_limits<double>::quiet_NaN()})
    EXPECT_NE(message_of<OptionError>([&] { dropout(x, p); }).find("[dropout] p must be in [0, 1) but is "),
              std::string::npos);
  EXPECT_EQ(
      message_of<Error>([&] { dropout(x); }),
      "[dropout] needs a StepContext for its randomness: open one with `auto scope = micro.scope();` or StepScope");
  EXPECT_EQ(message_of<DtypeError>([&] { dropout(zeros({4}, Dtype::i64)); }),
            "[dropout] x must be f64, f32, f16 or bf16 but is i64");
  StepContext context{.update = zeros({}, Dtype::i64), .sample_ids = zeros({3}, Dtype::i64)};
  EXPECT_EQ(message(context, x),
            "[dropout] sample_ids of the StepContext must have shape [4] like the rows of x [4, 10] but has [3]");
  EXPECT_EQ(message(context, scalar(1)), "[dropout] x must have shape [B, ...] but is a scalar");
  context.sample_ids = zeros({4}, Dtype::i64);
  context.positions = zeros({4, 3}, Dtype::i64);
  EXPECT_EQ(
      message(context, zeros({4, 5, 2})),
      "[dropout] positions of the StepContext must have shape [B, T] as x [B, T, ...] [4, 5, 2] begins but has [4, 3]");
  context.sample_ids = Tensor();
  EXPECT_EQ(message(context, x), "[dropout] the StepContext has no sample_ids, which its randomness is keyed by");
  context.sample_ids = to(zeros({4}, Dtype::i64), Device{DeviceKind::simt, 0});
  EXPECT_EQ(message(context, x), "[dropout] sample_ids of the StepContext must be on cpu like x but is on simt");
  context.update = Tensor();
  EXPECT_EQ(message(context, x), "[dropout] the StepContext has no update, which its randomness is keyed by");
}

// --- the module -----------------------------------------------------------------------------------------------------

struct TwoDropouts {
  nn::Dropout first{0.5}, second{0.5};
  template <class V>
  void visit(V& v) {
    v("first", first);
    v("second", second);
  }
};

TEST_P(DropoutOn, ModulesNumberThemselves) {
  nn::manual_seed(1);
  TwoDropouts model, other;
  EXPECT_EQ(nn::Dropout().p, 0.5);
  nn::manual_seed(1);
  TwoDropouts again;
  const Tensor x = here(ones({2, 40}));
  const StepScope scope(step({1, 2}));
  const auto run = [&](nn::Dropout& layer) { return back(layer(x)); };
  EXPECT_FALSE(bitwise_equal(run(model.first), run(model.second))) << "two layers of a model";
  EXPECT_FALSE(bitwise_equal(run(model.first), run(other.first))) << "two models";
  EXPECT_TRUE(bitwise_equal(run(model.second), run(again.second))) << "the same model built again";
  EXPECT_TRUE(bitwise_equal(run(model.first), run(model.first))) << "computed again";
  TwoDropouts clone = nn::clone(model);
  EXPECT_TRUE(bitwise_equal(run(model.second), run(clone.second))) << "a clone is the same function";
  nn::eval(model);
  EXPECT_TRUE(model.first(x).is_same(x));
  nn::train(model);
  EXPECT_FALSE(bitwise_equal(run(model.first), back(x)));
}

TEST(DropoutModule, LeavesInitialValuesAlone) {
  nn::manual_seed(3);
  const nn::Linear before(4, 5);
  nn::manual_seed(3);
  const nn::Dropout dropout;
  const nn::Linear after(4, 5);
  EXPECT_TRUE(bitwise_equal(before.weight.alias(), after.weight.alias()));
  EXPECT_EQ(message_of<OptionError>([] { nn::Dropout{1.0}; }), "[dropout] p must be in [0, 1) but is 1");
}

}  // namespace
}  // namespace weft
