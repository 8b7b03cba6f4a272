#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include "autograd/factories.h"
#include "autograd/layout.h"
#include "support/compare.h"

namespace weft {
namespace {

using test::message_of;

Tensor counting(const Shape& shape) { return arange(shape.numel(), Dtype::f32).reshape(shape); }

TEST(Tensor, MetadataOfADenseTensor) {
  const Tensor x = counting({2, 3, 4});
  EXPECT_EQ(x.shape(), (Shape{2, 3, 4}));
  EXPECT_EQ(x.strides(), (Strides{12, 4, 1}));
  EXPECT_EQ(x.numel(), 24);
  EXPECT_EQ(x.nbytes(), 96);
  EXPECT_EQ(x.size(-1), 4);
  EXPECT_TRUE(x.is_contiguous());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(x.raw_data()) % 64, 0u);
}

TEST(Tensor, ViewsShareMemoryAndReadTheRightElements) {
  const Tensor x = counting({2, 3, 4});
  EXPECT_EQ(x[1][2][3].item<float>(), 23);
  EXPECT_EQ(x.select(2, -1).to_vector<float>(), (std::vector<float>{3, 7, 11, 15, 19, 23}));
  EXPECT_EQ(x.slice(2, 1, 4, 2).to_vector<float>(), (std::vector<float>{1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23}));
  EXPECT_EQ(x.slice(1, -1, 3).to_vector<float>(), (std::vector<float>{8, 9, 10, 11, 20, 21, 22, 23}));
  EXPECT_EQ(x.transpose(0, 2).shape(), (Shape{4, 3, 2}));
  EXPECT_EQ(x.transpose(0, 2)[3][2].to_vector<float>(), (std::vector<float>{11, 23}));
  EXPECT_EQ(x[0][0].unsqueeze(0).expand({2, 4}).to_vector<float>(), (std::vector<float>{0, 1, 2, 3, 0, 1, 2, 3}));
  EXPECT_EQ(x.flatten(1).shape(), (Shape{2, 12}));
  EXPECT_EQ(x.reshape({-1, 6}).shape(), (Shape{4, 6}));
  EXPECT_EQ(x.slice(0, 1, 1).numel(), 0);
  x.data<float>()[0] = 100;
  EXPECT_EQ(x.reshape({24})[0].item<float>(), 100);
}

TEST(Tensor, ReshapeIsAViewExactlyWhenTheLayoutAllowsIt) {
  const Tensor x = counting({4, 6});
  EXPECT_TRUE(x.slice(0, 1, 3).can_view({12}));       // neighbouring rows
  EXPECT_FALSE(x.slice(1, 0, 3).can_view({12}));      // gaps between rows
  EXPECT_TRUE(x.slice(1, 0, 4).can_view({4, 2, 2}));  // splitting the last dimension is possible in spite of gaps
  EXPECT_EQ(x.slice(1, 0, 4).reshape({4, 2, 2})[1][1].to_vector<float>(), (std::vector<float>{8, 9}));
  EXPECT_FALSE(x.t().can_view({24}));
  EXPECT_EQ(reshape(x.t(), {24}).to_vector<float>()[1], 6);  // the free function copies instead
  EXPECT_EQ(scalar(3).reshape({1, 1}).shape(), (Shape{1, 1}));
  EXPECT_EQ(counting({0, 3}).reshape({3, 0}).shape(), (Shape{3, 0}));
}

TEST(Tensor, ErrorsNameTheRuleAndTheValue) {
  const Tensor x = counting({2, 3});
  EXPECT_EQ(message_of<ShapeError>([&] {
              x.reshape({4, 2});
            }),
            "[reshape] shape [4, 2] has 8 elements but the tensor of shape [2, 3] has 6");
  EXPECT_EQ(message_of<ShapeError>([&] { x.select(0, 2); }), "[select] index 2 is outside [-2, 2) of dimension 0");
  EXPECT_EQ(message_of<ShapeError>([&] { x.transpose(0, 2); }),
            "[transpose] dimension 2 is outside [-2, 2) of a tensor of rank 2");
  EXPECT_EQ(message_of<DtypeError>([&] { x.data<double>(); }), "[tensor] holds f32 but was accessed as f64");
  EXPECT_EQ(message_of<ShapeError>([&] { x.item<float>(); }),
            "[item] needs a tensor with one element but has shape [2, 3]");
  EXPECT_EQ(message_of<ShapeError>([&] {
              Tensor::from_vector<float>({1, 2}, {3});
            }),
            "[from_vector] shape [3] has 3 elements but 2 values were given");
  EXPECT_EQ(message_of<ShapeError>([&] {
              Tensor::empty({-1, 2});
            }),
            "[empty] extents must not be negative but the shape is [-1, 2]");
  EXPECT_NE(message_of<ShapeError>([&] {
              Tensor::empty({std::int64_t{1} << 40, std::int64_t{1} << 40});
            }).find("exceeds 2^63"),
            std::string::npos);
  EXPECT_NE(message_of<Error>([&] { (void)Tensor().shape(); }).find("undefined"), std::string::npos);
  EXPECT_EQ(message_of<ShapeError>([&] {
              fill_(x[0].unsqueeze(0).expand({5, 3}), 1);
            }),
            "[copy_] an expanded tensor of shape [5, 3] cannot be written: its elements share memory");
}

TEST(Tensor, PrintsNestedAndShortened) {
  EXPECT_EQ(counting({2, 2}).str(), "[[0, 1],\n [2, 3]]");
  EXPECT_EQ(arange(100).str(), "[0, 1, 2, 3, ..., 96, 97, 98, 99]  i64 [100]");
  EXPECT_EQ(Tensor::from_vector<bool>({true, false}, {2}).str(), "[true, false]  bool [2]");
  EXPECT_EQ(Tensor().str(), "(undefined)");
}

TEST(Tensor, FromBlobUsesTheCallersMemoryAndReleasesIt) {
  float data[6] = {1, 2, 3, 4, 5, 6};
  bool released = false;
  {
    const Tensor x = Tensor::from_blob(data, {2, 3}, [&] { released = true; });
    const Tensor view = x[1];
    EXPECT_EQ(view.data<float>(), data + 3);
  }
  EXPECT_TRUE(released);
}

TEST(Tensor, ReplaceStorageMovesEveryHandle) {
  const Tensor x = zeros({3});
  const Tensor copy = x;  // NOLINT(performance-unnecessary-copy-initialization): a second handle is the point
  copy.replace_storage(ones({3}));
  EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{1, 1, 1}));
}

TEST(Device, ParsesNamesAndExplainsWhatIsMissing) {
  EXPECT_EQ(Device::parse("cpu").kind, DeviceKind::cpu);
  EXPECT_EQ(message_of<OptionError>([] { Device::parse("tpu"); }),
            "[device] 'tpu' is no device; use auto, cpu, cuda or simt");
  EXPECT_EQ(message_of<OptionError>([] { Device::parse("cuda:x"); }),
            "[device] the index of 'cuda:x' must be a number from 0 up");
  if (!cuda_status().usable) {
    EXPECT_EQ(Device::parse("auto").kind, DeviceKind::cpu);
    EXPECT_NE(message_of<DeviceError>([] { Device::parse("cuda"); }).find("use --device cpu or auto"),
              std::string::npos);
    EXPECT_THROW(zeros({2}, Dtype::f32, Device{DeviceKind::cuda, 0}), DeviceError);
  }
  EXPECT_EQ(Device::parse("simt").kind, DeviceKind::simt);
  EXPECT_EQ(message_of<OptionError>([] { Device::parse("simt:1"); }),
            "[device] there is only one simt device but 'simt:1' was asked for");
}

}  // namespace
}  // namespace weft
