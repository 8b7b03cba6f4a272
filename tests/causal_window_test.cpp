// What the case of causal_window (tests/cases/causal_window_cases.cpp) cannot say: isolation to the bit, errors, every variant
// of the GPU's kernels, misaligned bases.
#include "autograd/causal_window.h"

#include <cmath>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/reduce.h"
#include "kernels/causal_window.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/variants.h"

namespace weft {
namespace {

using test::back;
using test::bitwise_equal;
using test::message_of;
using test::values;

class CausalWindowOn : public test::DeviceTest {
 protected:
  Segments table(std::vector<std::int32_t> offsets) const { return Segments(std::move(offsets), device()); }
};
WEFT_DEVICE_SUITE(CausalWindowOn);

TEST_P(CausalWindowOn, SeesThePlacesBeforeInTheSegment) {
  const Tensor x = here(Tensor::from_vector<float>({1, 2, 3, 4, 5}, {5, 1}));
  EXPECT_EQ(values(back(causal_window(x, table({0, 3, 5}), 3))),
            (std::vector<double>{0, 0, 1, 0, 1, 2, 1, 2, 3, 0, 0, 4, 0, 4, 5}));
}

TEST_P(CausalWindowOn, RowsOfABatchAreLaidEndToEnd) {
  const Tensor x = here(randn({2, 3, 4}, 1));
  const Segments segments = table({0, 2, 5, 6});
  const Tensor y = causal_window(x, segments, 2);
  EXPECT_EQ(y.shape(), (Shape{2, 3, 8}));
  EXPECT_TRUE(bitwise_equal(back(reshape(y, {6, 8})), back(causal_window(reshape(x, {6, 4}), segments, 2))));
}

// P8: whatever stands in another segment, not a bit changes.
TEST_P(CausalWindowOn, AnotherSegmentChangesNoBit) {
  for (const std::int64_t channels : {4, 7}) {
    const Tensor x = randn({12, channels}, 1);
    const Segments segments = table({0, 5, 6, 12});
    const Tensor clean = back(causal_window(here(x), segments, 4));
    for (const float poison : {3e38f, std::numeric_limits<float>::infinity(), std::nanf("")})
      for (std::size_t s = 0; s + 1 < segments.offsets().size(); ++s) {
        const std::int64_t begin = segments.offsets()[s], end = segments.offsets()[s + 1];
        const Tensor poisoned = clone(x);
        fill_(poisoned.slice(0, begin, end), poison);
        const Tensor y = back(causal_window(here(poisoned), segments, 4));
        for (const auto& [from, to] : {std::pair{std::int64_t{0}, begin}, std::pair{end, std::int64_t{12}}})
          EXPECT_TRUE(bitwise_equal(clone(y.slice(0, from, to)), clone(clean.slice(0, from, to))))
              << "segment " << s << " filled with " << poison;
      }
  }
}

// P7: the gradient of one segment's result is exactly 0 in every other, and what it would be of the segment alone.
TEST_P(CausalWindowOn, GradientsStayInTheirSegment) {
  const std::int64_t channels = 5, width = 4;
  const Tensor x = randn({12, channels}, 1), dy = randn({12, width * channels}, 2);
  const Segments segments = table({0, 5, 6, 12});
  for (std::size_t s = 0; s + 1 < segments.offsets().size(); ++s) {
    const std::int64_t begin = segments.offsets()[s], end = segments.offsets()[s + 1];
    const Tensor leaf = set_requires_grad(here(x));
    const Tensor y = causal_window(leaf, segments, width);
    const Tensor mask = zeros({12, 1});
    fill_(mask.slice(0, begin, end), 1);
    backward(y, here(dy * mask));
    const Tensor dx = back(grad(leaf));
    const Tensor alone = set_requires_grad(here(clone(x.slice(0, begin, end))));
    backward(causal_window(alone, table({0, static_cast<std::int32_t>(end - begin)}), width),
             here(clone(dy.slice(0, begin, end))));
    EXPECT_TRUE(bitwise_equal(clone(dx.slice(0, begin, end)), back(grad(alone))));
    for (const Tensor& other : {dx.slice(0, 0, begin), dx.slice(0, end, 12)})
      for (const double v : values(clone(other))) EXPECT_EQ(v, 0);
  }
}

// An infinite dy of one segment does not reach another: it is not multiplied by a mask.
TEST_P(CausalWindowOn, AnInfiniteGradientStaysInItsSegment) {
  const Tensor leaf = set_requires_grad(here(randn({6, 4}, 1)));
  const Tensor dy = ones({6, 12});
  fill_(dy.slice(0, 3, 6), std::numeric_limits<double>::infinity());
  backward(causal_window(leaf, table({0, 3, 6}), 3), here(dy));
  const std::vector<double> dx = values(back(grad(leaf)));
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(dx[i], 3 - std::floor(static_cast<double>(i) / 4)) << i;
  for (std::size_t i = 12; i < 24; ++i) EXPECT_TRUE(std::isinf(dx[i])) << i;
}

// Random tables, lengths and widths against plain loops; small integers, so that every sum is exact.
TEST_P(CausalWindowOn, AgreesWithPlainLoopsForAnyTable) {
  for (std::uint32_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937 random(seed);
    const auto draw = [&](std::int64_t low, std::int64_t high) {
      return low + static_cast<std::int64_t>(random() % static_cast<std::uint32_t>(high - low));
    };
    std::vector<std::int32_t> offsets{0};
    for (std::int64_t s = draw(1, 9); s > 0; --s)
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(draw(1, 12)));
    const std::int64_t places = offsets.back(), channels = draw(1, 20), width = draw(1, 11);
    const auto integers = [&](std::int64_t count) {
      std::vector<float> all;
      for (std::int64_t i = 0; i < count; ++i) all.push_back(static_cast<float>(draw(-7, 8)));
      return all;
    };
    const std::vector<float> x = integers(places * channels), dy = integers(places * width * channels);
    std::vector<double> want(dy.size(), 0), want_dx(x.size(), 0);
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
      for (std::int64_t n = offsets[s]; n < offsets[s + 1]; ++n)
        for (std::int64_t k = 0; k < width; ++k)
          for (std::int64_t c = 0; c < channels; ++c) {
            const std::int64_t from = n - (width - 1 - k);
            if (from < offsets[s]) continue;
            const auto at = static_cast<std::size_t>((n * width + k) * channels + c),
                       source = static_cast<std::size_t>(from * channels + c);
            want[at] = static_cast<double>(x[source]);
            want_dx[source] += static_cast<double>(dy[at]);
          }
    const Tensor leaf = set_requires_grad(here(Tensor::from_vector(x, {places, channels})));
    const Tensor y = causal_window(leaf, table(offsets), width);
    EXPECT_EQ(values(back(y)), want);
    backward(y, here(Tensor::from_vector(dy, {places, width * channels})));
    EXPECT_EQ(values(back(grad(leaf))), want_dx);
  }
}

TEST_P(CausalWindowOn, Errors) {
  const Tensor x = here(zeros({3, 4, 8}));
  const Segments segments = table({0, 5, 12});
  EXPECT_EQ(message_of<ShapeError>([&] { causal_window(x, {}, 2); }),
            "[causal_window] segments must be given: without them places of different samples would meet");
  EXPECT_EQ(message_of<ShapeError>([&] {
              causal_window(x, table({0, 10}), 2);
            }),
            "[causal_window] segments must cover the 12 places of x of shape [3, 4, 8] but cover 10");
  EXPECT_EQ(message_of<ShapeError>([&] {
              causal_window(here(zeros({8})), table({0, 8}), 2);
            }),
            "[causal_window] x must have shape [..., C] with rank 2 or more but has [8]");
  EXPECT_EQ(message_of<OptionError>([&] { causal_window(x, segments, 0); }),
            "[causal_window] width must be at least 1 but is 0");
  EXPECT_EQ(message_of<ShapeError>([&] {
              causal_window(here(zeros({0, 8})), segments, 2);
            }),
            "[causal_window] segments must cover the 0 places of x of shape [0, 8] but cover 12");
  if (device().kind != DeviceKind::cpu) {
    EXPECT_EQ(
        message_of<DeviceError>([&] {
          causal_window(x, Segments({0, 12}), 2);
        }),
        fmt::format("[causal_window] segments must be on {} like x but are on cpu: segments.to(x.device()), once per "
                    "batch",
                    device()));
  }
}

// --- the GPU's kernels ------------------------------------------------------------------------------------------------

class CausalWindowGpu : public test::GpuTest {};
WEFT_GPU_SUITE(CausalWindowGpu);

// Bases off the 16-byte grid take the narrow kernels; each variant that can run must agree with the cpu to the bit.
TEST_P(CausalWindowGpu, EveryVariantFromAnyBase) {
  const Segments host({0, 3, 4, 40, 67});
  const Segments segments = host.to(device());
  const std::int64_t places = host.places(), width = 5;
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16})
    for (const std::int64_t channels : {8, 12, 3})
      for (const std::int64_t offset : {0, 1, 2}) {
        SCOPED_TRACE(fmt::format("{} C={} {} elements off", to_string(dtype), channels, offset));
        const auto shifted = [&](const Tensor& x) {  // a dense copy that starts `offset` elements after an allocation
          const Tensor memory = test::on(device(), zeros({x.numel() + offset}, dtype));
          Tensor view = memory.slice(0, offset, offset + x.numel());
          copy_(view, test::on(device(), reshape(x, {x.numel()})));
          return view;
        };
        const Tensor x = randn({places, channels}, 1, dtype), dy = randn({places, width * channels}, 2, dtype),
                     before = randn({places, channels}, 3, dtype);
        const auto forward_args = [&](const Segments& table, const Tensor& in, const Tensor& out) {
          return kernels::CausalWindowForward{.dtype = dtype,
                                              .places = places,
                                              .channels = channels,
                                              .width = width,
                                              .segments = table.count(),
                                              .cu_seqlens = table.cu_seqlens().data<std::int32_t>(),
                                              .ids = table.ids().data<std::int32_t>(),
                                              .in = in.raw_data(),
                                              .out = out.raw_data()};
        };
        const auto backward_args = [&](const Segments& table, const Tensor& from, const Tensor& to, Accumulate mode) {
          return kernels::CausalWindowBackward{.dtype = dtype,
                                               .mode = mode,
                                               .places = places,
                                               .channels = channels,
                                               .width = width,
                                               .segments = table.count(),
                                               .cu_seqlens = table.cu_seqlens().data<std::int32_t>(),
                                               .ids = table.ids().data<std::int32_t>(),
                                               .dy = from.raw_data(),
                                               .dx = to.raw_data()};
        };
        const Tensor want = Tensor::empty({places, width * channels}, dtype);
        kernels::causal_window_forward({}, forward_args(host, x, want));
        const Tensor in = shifted(x), out = shifted(zeros({places, width * channels}, dtype));
        const auto forward = forward_args(segments, in, out);
        EXPECT_GE(test::for_each_variant(WEFT_VARIANTS(causal_window_forward, device()), forward,
                                         [&](const auto& variant) {
                                           fill_(out, 7);
                                           variant.run(current_stream(device()), forward);
                                           EXPECT_TRUE(bitwise_equal(back(out), reshape(want, {want.numel()})));
                                         }),
                  1);
        for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
          const Tensor want_dx = clone(before);
          kernels::causal_window_backward({}, backward_args(host, dy, want_dx, mode));
          const Tensor from = shifted(dy), to = shifted(before);
          const auto args = backward_args(segments, from, to, mode);
          EXPECT_GE(test::for_each_variant(WEFT_VARIANTS(causal_window_backward, device()), args,
                                           [&](const auto& variant) {
                                             copy_(to, test::on(device(), reshape(before, {before.numel()})));
                                             variant.run(current_stream(device()), args);
                                             EXPECT_TRUE(bitwise_equal(back(to), reshape(want_dx, {want_dx.numel()})));
                                           }),
                    1);
        }
      }
}

}  // namespace
}  // namespace weft
