// What the case of group_norm (tests/cases/group_norm_cases.cpp) cannot say: what it is equal to, special values, every
// variant of the GPU's kernels, aliasing, errors.
#include "autograd/group_norm.h"

#include <cmath>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layer_norm.h"
#include "autograd/layout.h"
#include "kernels/group_norm.h"
#include "nn/group_norm.h"
#include "support/gpu.h"
#include "support/guarded.h"
#include "support/variants.h"

namespace weft {
namespace {

using kernels::GroupNormShape;
using test::back;
using test::bitwise_equal;
using test::message_of;
using test::on;
using test::output;
using test::relative_error;
using test::rounding;
using test::values;

Tensor around(double mean, const Shape& shape, std::uint64_t seed, Dtype dtype) {
  return cast(randn(shape, seed, Dtype::f64) + scalar(mean, Dtype::f64), dtype);
}
void* data_or_null(const Tensor& x) { return x.defined() ? x.raw_data() : nullptr; }

class GroupNormAnywhere : public ::testing::TestWithParam<DeviceKind> {
 protected:
  void SetUp() override {
    if (GetParam() == DeviceKind::cuda && !cuda_status().usable) GTEST_SKIP() << cuda_status().reason;
  }
  Device device() const { return {GetParam(), 0}; }
};

// One group: layer_norm over [C, H, W]. As many groups as channels: instance norm, layer_norm over [H, W].
TEST_P(GroupNormAnywhere, OneGroupIsLayerNormAndOnePerChannelIsInstanceNorm) {
  for (const Shape& shape : {Shape{3, 6, 5, 4}, Shape{2, 4, 37, 33}, Shape{2, 3, 8, 8}}) {
    const Tensor x = on(device(), around(100, shape, 1, Dtype::f32)), dy = on(device(), randn(shape, 2));
    const auto run = [&](auto&& f) {
      const Tensor leaf = set_requires_grad(x.alias());
      const Tensor y = f(leaf);
      backward(y, dy);
      return std::vector<Tensor>{back(y), back(grad(leaf))};
    };
    const auto same = [&](const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
      for (std::size_t i = 0; i < 2; ++i)  // sums of a few thousand terms, errors random
        EXPECT_LE(relative_error(values(a[i]), values(b[i])), rounding(Dtype::f32) * 64) << shape.str() << i;
    };
    same(run([](const Tensor& in) { return group_norm(in, 1); }), run([&](const Tensor& in) {
           return layer_norm(in, Shape{shape[1], shape[2], shape[3]});
         }));
    same(run([&](const Tensor& in) { return group_norm(in, shape[1]); }), run([&](const Tensor& in) {
           return layer_norm(in, Shape{shape[2], shape[3]});
         }));
  }
}

TEST_P(GroupNormAnywhere, ConstantGroupsGiveBetaAndNonFiniteStaysInItsGroup) {
  for (const std::int64_t spatial : {7, 16, 12345}) {
    const Tensor beta = randn({4}, 1), x = full({2, 4, spatial}, 1e6);
    const Tensor y = back(group_norm(on(device(), x), 2, {}, on(device(), beta)));
    for (std::int64_t n = 0; n < 2; ++n)
      for (std::int64_t c = 0; c < 4; ++c)
        for (const double v : values(clone(y[n][c]))) ASSERT_EQ(v, values(beta)[static_cast<std::size_t>(c)]);
    for (const float bad : {INFINITY, std::nanf("")}) {
      const Tensor broken = randn({2, 4, spatial}, 3);
      broken.data<float>()[3 * spatial - 1] = bad;  // sample 0, group 1
      const std::vector<double> got = values(back(group_norm(on(device(), broken), 2)));
      for (std::size_t i = 0; i < got.size(); ++i) {
        const std::size_t group = i / static_cast<std::size_t>(2 * spatial);
        ASSERT_EQ(std::isfinite(got[i]), group != 1) << i;
      }
    }
  }
}

// Mean 10⁶, spread 1: what one-pass statistics, and means of parts that are merged as they were rounded, get wrong.
TEST_P(GroupNormAnywhere, HugeMeanInGroupsOfEverySize) {
  for (const auto& [groups, spatial] : {std::pair<std::int64_t, std::int64_t>{4, 8}, {2, 513}, {1, 4096}, {1, 12292}}) {
    const Tensor x = around(1e6, {2, 4, spatial}, 1, Dtype::f32);
    const Tensor want = group_norm(cast(x, Dtype::f64), groups);
    const Tensor got = back(group_norm(on(device(), x), groups));
    EXPECT_LE(relative_error(values(got), values(want)), rounding(Dtype::f32) * 64) << spatial;
  }
}

TEST_P(GroupNormAnywhere, InPlaceAndAddingToGradients) {
  const GroupNormShape shape{3, 6, 2, 65};
  const Shape full_shape{3, 6, 65};
  const Tensor x = randn(full_shape, 1), dy = randn(full_shape, 2), gamma = randn({6}, 3), beta = randn({6}, 4);
  const Tensor on_x = on(device(), x), on_dy = on(device(), dy), on_gamma = on(device(), gamma),
               on_beta = on(device(), beta);
  const auto vector = [&](std::int64_t count) { return output(device(), {count}, Dtype::f32); };
  const Tensor y = output(device(), full_shape, Dtype::f32), dx = output(device(), full_shape, Dtype::f32),
               mean = vector(6), rstd = vector(6), dgamma = vector(6), dbeta = vector(6),
               partials = vector(kernels::group_norm_backward_partials(shape));
  const auto forward = [&](const Tensor& from, const Tensor& to) {
    kernels::group_norm_forward(
        device(), {Dtype::f32, shape, 1e-5, from.raw_data(), on_gamma.raw_data(), on_beta.raw_data(), to.raw_data(),
                   mean.raw_data(), rstd.raw_data(), nullptr});
  };
  const auto backward = [&](const Tensor& from, const Tensor& to, Accumulate mode) {
    kernels::group_norm_backward(device(), {Dtype::f32, shape, on_x.raw_data(), on_gamma.raw_data(), from.raw_data(),
                                            mean.raw_data(), rstd.raw_data(), to.raw_data(), dgamma.raw_data(),
                                            dbeta.raw_data(), mode, mode, partials.raw_data()});
  };
  forward(on_x, y);
  backward(on_dy, dx, Accumulate::overwrite);
  const std::vector<double> gamma_once = values(back(dgamma)), beta_once = values(back(dbeta));
  backward(on_dy, on_dy, Accumulate::add);  // dx over dy
  EXPECT_TRUE(bitwise_equal(back(on_dy), back(dx)));
  const std::vector<double> gamma_twice = values(back(dgamma)), beta_twice = values(back(dbeta));
  for (std::size_t c = 0; c < 6; ++c) {
    EXPECT_EQ(gamma_twice[c], 2 * gamma_once[c]) << c;
    EXPECT_EQ(beta_twice[c], 2 * beta_once[c]) << c;
  }
  const Tensor copy = on(device(), x);
  forward(copy, copy);
  EXPECT_TRUE(bitwise_equal(back(copy), back(y)));
}

std::string name_of(const ::testing::TestParamInfo<DeviceKind>& info) { return Device{info.param, 0}.str(); }
#if defined(WEFT_CUDA)
constexpr DeviceKind kDevices[] = {DeviceKind::cpu, DeviceKind::simt, DeviceKind::cuda};
#else
constexpr DeviceKind kDevices[] = {DeviceKind::cpu, DeviceKind::simt};
#endif
INSTANTIATE_TEST_SUITE_P(Everywhere, GroupNormAnywhere, ::testing::ValuesIn(kDevices), name_of);

class GroupNormGpu : public test::GpuTest {};

// Every variant that supports a shape, not only the first; `shared` and `reread` agree to the bit.
TEST_P(GroupNormGpu, EveryVariant) {
  const GroupNormShape shapes[] = {{3, 6, 2, 49},   {2, 8, 2, 1500}, {1, 8, 2, 3500},
                                   {1, 4, 1, 8192}, {2, 3, 1, 4097}, {3, 10, 2, 1}};
  for (const GroupNormShape& shape : shapes)
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      const Shape dims{shape.batch, shape.channels, shape.spatial};
      SCOPED_TRACE(dims.str() + std::string(to_string(dtype)));
      const Tensor host_x = around(5, dims, 1, dtype), host_dy = randn(dims, 2, dtype),
                   host_gamma = around(1, {shape.channels}, 3, dtype), host_beta = randn({shape.channels}, 4, dtype);
      const Tensor x64 = set_requires_grad(cast(host_x, Dtype::f64)),
                   gamma64 = set_requires_grad(cast(host_gamma, Dtype::f64));
      const Tensor y64 = group_norm(x64, shape.groups, gamma64, cast(host_beta, Dtype::f64));
      weft::backward(y64, cast(host_dy, Dtype::f64));
      const Tensor x = on(device(), host_x), dy = on(device(), host_dy), gamma = on(device(), host_gamma),
                   beta = on(device(), host_beta);
      const Tensor y = output(device(), dims, dtype), dx = output(device(), dims, dtype),
                   mean = output(device(), {shape.rows()}, Dtype::f32),
                   rstd = output(device(), {shape.rows()}, Dtype::f32),
                   dgamma = output(device(), {shape.channels}, dtype);
      const std::int64_t count = kernels::group_norm_forward_partials(shape, dtype, device());
      const Tensor forward_partials = count > 0 ? output(device(), {count}, Dtype::f32) : Tensor(),
                   partials = output(device(), {kernels::group_norm_backward_partials(shape)}, Dtype::f32);
      const double allowed = rounding(Dtype::f32) * 128 + (dtype == Dtype::f32 ? 0 : rounding(dtype));
      const kernels::GroupNormForward forward{dtype,
                                              shape,
                                              1e-5,
                                              x.raw_data(),
                                              gamma.raw_data(),
                                              beta.raw_data(),
                                              y.raw_data(),
                                              mean.raw_data(),
                                              rstd.raw_data(),
                                              data_or_null(forward_partials)};
      EXPECT_GE(test::for_each_variant(WEFT_VARIANTS(group_norm_forward, device()), forward,
                                       [&](const auto& variant) {
                                         variant.run(current_stream(device()), forward);
                                         EXPECT_LE(relative_error(values(back(y)), values(y64)), allowed);
                                       }),
                count > 0 && shape.row_elems() * element_bytes(dtype) <= 96 * 1024 ? 2 : 1);
      const kernels::GroupNormBackward backward{dtype,
                                                shape,
                                                x.raw_data(),
                                                gamma.raw_data(),
                                                dy.raw_data(),
                                                mean.raw_data(),
                                                rstd.raw_data(),
                                                dx.raw_data(),
                                                dgamma.raw_data(),
                                                nullptr,
                                                Accumulate::overwrite,
                                                Accumulate::overwrite,
                                                partials.raw_data()};
      std::vector<Tensor> first;
      EXPECT_GE(test::for_each_variant(WEFT_VARIANTS(group_norm_backward, device()), backward,
                                       [&](const auto& variant) {
                                         variant.run(current_stream(device()), backward);
                                         const std::vector<Tensor> got{clone(back(dx)), clone(back(dgamma))};
                                         EXPECT_LE(relative_error(values(got[0]), values(grad(x64))), 2 * allowed);
                                         EXPECT_LE(relative_error(values(got[1]), values(grad(gamma64))), 2 * allowed);
                                         if (first.empty()) first = got;
                                         for (std::size_t i = 0; i < 2; ++i)
                                           EXPECT_TRUE(bitwise_equal(got[i], first[i])) << i;
                                       }),
                1);
    }
}

WEFT_GPU_SUITE(GroupNormGpu);

TEST(GroupNorm, Errors) {
  const Tensor x = randn({2, 6, 4}, 1);
  EXPECT_EQ(message_of<ShapeError>([&] { group_norm(x, 4); }),
            "[group_norm] num_groups must divide the 6 channels of x but is 4");
  EXPECT_EQ(message_of<OptionError>([&] { group_norm(x, 0); }), "[group_norm] num_groups must be at least 1 but is 0");
  EXPECT_EQ(message_of<ShapeError>([&] { group_norm(x, 2, ones({5})); }),
            "[group_norm] gamma must have shape [C]=[6] but has [5]");
  EXPECT_EQ(message_of<ShapeError>([&] { group_norm(randn({6}, 1), 2); }),
            "[group_norm] x must have shape [N, C, ...] with C >= 1 but has [6]");
  EXPECT_EQ(message_of<ShapeError>([&] {
              group_norm(zeros({2, 0, 3}), 2);
            }),
            "[group_norm] x must have shape [N, C, ...] with C >= 1 but has [2, 0, 3]");
  EXPECT_EQ(message_of<ShapeError>([&] {
              group_norm(zeros({2, 6, 0}), 2);
            }),
            "[group_norm] x must have extents of at least 1 behind [N, C] but has [2, 6, 0]");
  EXPECT_EQ(message_of<DtypeError>([&] {
              group_norm(zeros({2, 4}, Dtype::i64), 2);
            }),
            "[group_norm] x must be f64, f32, f16 or bf16 but is i64");
  EXPECT_EQ(message_of<OptionError>([&] { group_norm(x, 2, {}, {}, -1); }),
            "[group_norm] eps must be positive but is -1");
}

TEST(GroupNorm, Module) {
  nn::GroupNorm norm{2, 6};
  EXPECT_EQ(values(norm.weight), std::vector<double>(6, 1.0));
  EXPECT_EQ(values(norm.bias), std::vector<double>(6, 0.0));
  const Tensor x = randn({4, 6, 3}, 1);
  EXPECT_TRUE(bitwise_equal(norm(x), group_norm(x, 2, norm.weight, norm.bias)));
  nn::GroupNorm plain{3, 6, {.eps = 0.5, .affine = false}};
  EXPECT_TRUE(nn::parameters(plain).empty());
  EXPECT_TRUE(bitwise_equal(plain(x), group_norm(x, 3, {}, {}, 0.5)));
  EXPECT_EQ(message_of<ShapeError>([] { nn::GroupNorm(4, 6); }),
            "[group_norm] num_groups must divide num_channels 6 but is 4");
  EXPECT_EQ(message_of<ShapeError>([&] {
              norm(randn({2, 4, 3}, 1));
            }),
            "[group_norm] x must have 6 channels but has shape [2, 4, 3]");
}

}  // namespace
}  // namespace weft
