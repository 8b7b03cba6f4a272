#include "autograd/join.h"

#include <gtest/gtest.h>

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/reduce.h"
#include "support/compare.h"
#include "support/devices.h"

namespace weft {
namespace {

using test::back;
using test::message_of;
using test::values;

class JoinOn : public test::DeviceTest {};
WEFT_DEVICE_SUITE(JoinOn);

Tensor counted(const Shape& shape) { return cast(arange(shape.numel()).reshape(shape), Dtype::f32); }

// Values as PyTorch 2 prints them for the same calls.
TEST_P(JoinOn, GivesWhatPyTorchGives) {
  const Tensor x = here(counted({2, 3}));
  EXPECT_EQ(values(back(concat({x, x}, 1))), (std::vector<double>{0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5}));
  EXPECT_EQ(values(back(stack({x, x}, -1))), (std::vector<double>{0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5}));
  EXPECT_EQ(values(back(pad(x, {1, 2}, 9))), (std::vector<double>{9, 0, 1, 2, 9, 9, 9, 3, 4, 5, 9, 9}));
  EXPECT_EQ(values(back(pad(x, {-1, 0, 0, 1}, 9))), (std::vector<double>{1, 2, 4, 5, 9, 9}));
  const std::vector<Tensor> parts = split(here(counted({5})), 2);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(values(back(contiguous(parts[1]))), (std::vector<double>{2, 3}));
  EXPECT_EQ(values(back(contiguous(parts[2]))), (std::vector<double>{4}));
  EXPECT_EQ(values(back(contiguous(here(counted({1, 2, 3})).permute({2, 0, 1})))),
            (std::vector<double>{0, 3, 1, 4, 2, 5}));
}

TEST_P(JoinOn, GradientsHaveTheDtypesOfTheInputs) {
  const Tensor a = set_requires_grad(here(randn({2, 3}, 1, Dtype::bf16))),
               b = set_requires_grad(here(randn({2, 3}, 2, Dtype::f32))), c = here(arange(3).reshape({1, 3}));
  const Tensor y = concat({a, c, b});
  EXPECT_EQ(y.dtype(), Dtype::f32);
  backward(sum(y * 2.0));
  EXPECT_EQ(grad(a).dtype(), Dtype::bf16);
  EXPECT_EQ(grad(b).dtype(), Dtype::f32);
  EXPECT_EQ(values(back(grad(a))), std::vector<double>(6, 2.0));
  EXPECT_EQ(values(back(grad(b))), std::vector<double>(6, 2.0));
}

TEST_P(JoinOn, PiecesShareMemoryAndOneGradient) {
  const Tensor x = set_requires_grad(here(counted({2, 6})));
  const std::vector<Tensor> parts = split(x, {1, 3, 2}, 1);
  for (const Tensor& part : parts) EXPECT_EQ(part.storage(), x.storage());
  // The middle one is not used, the last one twice.
  backward(sum(parts[0] * 3.0) + sum(parts[2] * parts[2]));
  EXPECT_EQ(values(back(grad(x))), (std::vector<double>{3, 0, 0, 0, 8, 10, 3, 0, 0, 0, 20, 22}));
}

TEST_P(JoinOn, OneTensorSeveralTimes) {
  const Tensor x = set_requires_grad(here(counted({2, 2})));
  backward(sum(concat({x, x, x * 2.0}, 0)));
  EXPECT_EQ(values(back(grad(x))), (std::vector<double>{4, 4, 4, 4}));
}

TEST(Join, Errors) {
  const Tensor a = zeros({2, 1, 4}), b = zeros({3, 1, 4});
  EXPECT_EQ(message_of<Error>([] { concat(std::span<const Tensor>{}); }), "[concat] needs at least one tensor");
  EXPECT_EQ(message_of<ShapeError>([&] {
              concat({a, b}, 1);
            }),
            "[concat] tensor 1 must have shape [2, *, 4] like tensor 0 but has [3, 1, 4]");
  EXPECT_EQ(message_of<ShapeError>([&] {
              concat({a, zeros({2, 4})}, 1);
            }),
            "[concat] tensor 1 must have shape [2, *, 4] like tensor 0 but has [2, 4]");
  EXPECT_EQ(message_of<ShapeError>([&] { concat({scalar(1)}); }),
            "[concat] scalars have no dimension to be joined along: stack them");
  EXPECT_EQ(message_of<DeviceError>([&] {
              concat({a, to(a, Device{DeviceKind::simt, 0})});
            }),
            "[concat] tensor 1 must be on cpu like tensor 0 but is on simt");
  EXPECT_EQ(message_of<ShapeError>([&] {
              stack({zeros({2, 3}), zeros({3, 2})});
            }),
            "[stack] tensor 1 must have shape [2, 3] like tensor 0 but has [3, 2]");
  EXPECT_EQ(message_of<ShapeError>([&] { split(a, 0); }), "[split] the size must be at least 1 but is 0");
  EXPECT_EQ(message_of<ShapeError>([&] {
              split(zeros({4, 6}), {2, 3}, 1);
            }),
            "[split] sizes [2, 3] add up to 5 but dimension 1 of shape [4, 6] has 6");
  EXPECT_EQ(message_of<ShapeError>([&] {
              split(zeros({4, 6}), {-1, 7}, 1);
            }),
            "[split] sizes must not be negative but are [-1, 7]");
  EXPECT_EQ(message_of<ShapeError>([&] {
              pad(zeros({4, 3}), {1, 2, 3});
            }),
            "[pad] needs {before, after} for at most 2 dimensions but has 3 numbers");
  EXPECT_EQ(message_of<ShapeError>([&] {
              pad(zeros({4, 3}), {1, 2, 3, 4, 5, 6});
            }),
            "[pad] needs {before, after} for at most 2 dimensions but has 6 numbers");
  EXPECT_EQ(message_of<ShapeError>([&] {
              pad(zeros({4, 3}), {-2, -2});
            }),
            "[pad] {-2, -2} leaves a negative extent of dimension 1 of shape [4, 3]");
  EXPECT_EQ(message_of<ShapeError>([&] {
              pad(zeros({4, 3}), {-4, 5});
            }),
            "[pad] {-4, 5} leaves a negative extent of dimension 1 of shape [4, 3]");
}

TEST(Permute, Errors) {
  const Tensor x = zeros({2, 3});
  EXPECT_EQ(message_of<ShapeError>([&] {
              x.permute({0, 0});
            }),
            "[permute] [0, 0] must name each of the 2 dimensions of shape [2, 3] once");
  EXPECT_EQ(message_of<ShapeError>([&] { x.permute({0}); }),
            "[permute] [0] must name each of the 2 dimensions of shape [2, 3] once");
  EXPECT_NE(message_of<ShapeError>([&] { x.permute({0, 2}); }).find("[permute]"), std::string::npos);
}

}  // namespace
}  // namespace weft
