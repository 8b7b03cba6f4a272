#include "tensor/dlpack.h"

#include <cstddef>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "support/compare.h"

namespace weft::dlpack {
namespace {

using test::bitwise_equal;
using test::message_of;

// The layout that every other library was compiled with (64-bit).
static_assert(sizeof(DLDevice) == 8 && sizeof(DLDataType) == 4 && sizeof(DLTensor) == 48);
static_assert(offsetof(DLTensor, ndim) == 16 && offsetof(DLTensor, dtype) == 20 && offsetof(DLTensor, shape) == 24 &&
              offsetof(DLTensor, strides) == 32 && offsetof(DLTensor, byte_offset) == 40);
static_assert(sizeof(DLManagedTensor) == 64 && offsetof(DLManagedTensor, manager_ctx) == 48 &&
              offsetof(DLManagedTensor, deleter) == 56);
static_assert(sizeof(DLManagedTensorVersioned) == 80 && offsetof(DLManagedTensorVersioned, manager_ctx) == 8 &&
              offsetof(DLManagedTensorVersioned, deleter) == 16 && offsetof(DLManagedTensorVersioned, flags) == 24 &&
              offsetof(DLManagedTensorVersioned, dl_tensor) == 32);

/// Memory of another library, which counts how often it was given back.
template <class Managed>
struct Producer {
  std::vector<float> values{0, 1, 2, 3, 4, 5, 6, 7};
  std::vector<std::int64_t> shape{2, 3}, strides{3, 1};
  int deleted = 0;
  Managed managed{};

  Producer() {
    managed.dl_tensor = {values.data(),  {DeviceType::cpu, 0}, 2, {TypeCode::floating, 32, 1}, shape.data(),
                         strides.data(), sizeof(float)};
    managed.manager_ctx = this;
    managed.deleter = [](Managed* self) { ++static_cast<Producer*>(self->manager_ctx)->deleted; };
    if constexpr (std::is_same_v<Managed, DLManagedTensorVersioned>) managed.version = {1, 3};
  }
};

using Versioned = Producer<DLManagedTensorVersioned>;

TEST(Dlpack, HandsOutWithoutACopyAndKeepsTheMemory) {
  Tensor x = arange(24).reshape({2, 3, 4});
  const std::weak_ptr<Storage> storage = x.storage();
  const Tensor view = x.transpose(0, 2).slice(1, 1, 3);
  auto* out = to_dlpack(view);
  EXPECT_EQ(out->version.major, 1u);
  EXPECT_EQ(out->flags, 0u);
  EXPECT_EQ(out->dl_tensor.data, view.raw_data());
  EXPECT_EQ(out->dl_tensor.byte_offset, 0u);
  ASSERT_EQ(out->dl_tensor.ndim, 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(out->dl_tensor.shape[i], view.shape()[i]);
    EXPECT_EQ(out->dl_tensor.strides[i], view.strides()[i]);
  }
  const Tensor want = contiguous(view);
  EXPECT_FALSE(x.is_unique());
  x = Tensor();
  EXPECT_FALSE(storage.expired());
  {  // and back again: still no copy
    const Tensor again = from_dlpack(out);
    EXPECT_EQ(again.raw_data(), view.raw_data());
    EXPECT_EQ(again.strides(), view.strides());
    EXPECT_TRUE(bitwise_equal(contiguous(again), want));
  }
  Tensor whole = zeros({2});
  const std::weak_ptr<Storage> other = whole.storage();
  auto* legacy = to_dlpack_legacy(whole);
  whole = Tensor();
  EXPECT_FALSE(other.expired());
  legacy->deleter(legacy);
  EXPECT_TRUE(other.expired());
}

TEST(Dlpack, RoundTripsEveryDtypeAndShape) {
  for (const Dtype dtype :
       {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i64, Dtype::i32, Dtype::u8, Dtype::boolean})
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{3, 0, 2}, Shape{5, 3}, Shape{1, 1, 1, 1, 1, 1, 1, 2}}) {
      const Tensor x = cast(arange(shape.numel()).reshape(shape), dtype);
      EXPECT_TRUE(bitwise_equal(from_dlpack(to_dlpack(x)), x)) << to_string(dtype) << shape.str();
      EXPECT_TRUE(bitwise_equal(from_dlpack(to_dlpack_legacy(x)), x)) << to_string(dtype) << shape.str();
    }
}

TEST(Dlpack, TakesOverAndGivesBackOnce) {
  const auto check = [](auto& producer) {
    {
      Tensor x = from_dlpack(&producer.managed);
      EXPECT_EQ(x.raw_data(), reinterpret_cast<std::byte*>(producer.values.data() + 1));
      EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{1, 2, 3, 4, 5, 6}));
      const Tensor row = x[1];
      x = Tensor();
      EXPECT_EQ(producer.deleted, 0);
      EXPECT_EQ(row.to_vector<float>(), (std::vector<float>{4, 5, 6}));
    }
    EXPECT_EQ(producer.deleted, 1);
  };
  Versioned versioned;
  check(versioned);
  Producer<DLManagedTensor> legacy;
  check(legacy);
  Versioned rows;
  rows.managed.dl_tensor.strides = nullptr;
  EXPECT_EQ(from_dlpack(&rows.managed).strides(), Strides({3, 1}));
  Versioned columns;
  columns.strides = {1, 2};
  EXPECT_EQ(from_dlpack(&columns.managed).to_vector<float>(), (std::vector<float>{1, 3, 5, 2, 4, 6}));
  Versioned pinned;
  pinned.managed.dl_tensor.device.type = DeviceType::cuda_host;
  EXPECT_EQ(from_dlpack(&pinned.managed).device(), Device{});
  Versioned forgotten;
  forgotten.managed.deleter = nullptr;
  EXPECT_EQ(from_dlpack(&forgotten.managed).numel(), 6);
}

TEST(Dlpack, TouchesNothingOfAnotherMajorVersionButTheDeleter) {
  Versioned producer;
  producer.managed.version = {2, 0};
  producer.managed.dl_tensor.shape = reinterpret_cast<std::int64_t*>(8);  // whatever lies here in version 2
  EXPECT_EQ(message_of<OptionError>([&] { from_dlpack(&producer.managed); }),
            "[from_dlpack] knows version 1.x of DLPack but got 2.0");
  EXPECT_EQ(producer.deleted, 1);
}

TEST(Dlpack, RespectsReadOnlyMemory) {
  Versioned producer;
  producer.managed.flags = kReadOnly;
  EXPECT_EQ(message_of<OptionError>([&] { from_dlpack(&producer.managed); }),
            "[from_dlpack] got memory that must not be written: pass ReadOnly::copy, or copy it before");
  EXPECT_EQ(producer.deleted, 1);
  Versioned second;
  second.managed.flags = kReadOnly;
  const Tensor copy = from_dlpack(&second.managed, ReadOnly::copy);
  EXPECT_EQ(second.deleted, 1);
  EXPECT_NE(copy.raw_data(), reinterpret_cast<std::byte*>(second.values.data() + 1));
  EXPECT_EQ(copy.to_vector<float>(), (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

template <class E, class F>
void refuses(F&& change, const std::string& want) {
  Versioned producer;
  change(producer.managed.dl_tensor, producer);
  EXPECT_EQ(message_of<E>([&] { from_dlpack(&producer.managed); }), "[from_dlpack] " + want);
  EXPECT_EQ(producer.deleted, 1) << want;
}

TEST(Dlpack, RefusesWhatItHasNoMatchForAndStillGivesItBack) {
  refuses<DtypeError>(
      [](DLTensor& t, auto&) {
        t.dtype = {TypeCode::integer, 8, 1};
      },
      "knows no element of type code 0 with 8 bits and 1 lanes: convert it before");
  refuses<DtypeError>([](DLTensor& t, auto&) { t.dtype.lanes = 4; },
                      "knows no element of type code 2 with 32 bits and 4 lanes: convert it before");
  refuses<DeviceError>([](DLTensor& t, auto&) { t.device.type = DeviceType::cuda_managed; },
                       "takes memory of the cpu (1), cuda (2) or pinned (3) but got device type 13: copy it before");
  refuses<ShapeError>([](DLTensor& t, auto&) { t.ndim = 9; }, "takes at most 8 dimensions but got 9");
  refuses<ShapeError>([](DLTensor& t, auto&) { t.ndim = -1; }, "takes at most 8 dimensions but got -1");
  refuses<ShapeError>([](DLTensor&, Versioned& p) { p.shape[0] = -2; },
                      "extents must not be negative but the shape is [-2, 3]");
  refuses<ShapeError>([](DLTensor&, Versioned& p) { p.strides[0] = -3; },
                      "strides must not be negative but are [-3, 1]: copy the tensor before");
  refuses<ShapeError>([](DLTensor&, Versioned& p) { p.strides[0] = std::int64_t{1} << 62; },
                      "shape [2, 3] with strides [4611686018427387904, 1] spans more than 2^63 - 1 bytes");
  refuses<ShapeError>([](DLTensor& t, auto&) { t.byte_offset = 2; },
                      "got memory that is not aligned to its elements of 4 bytes: copy it before");
  refuses<Error>([](DLTensor& t, auto&) { t.data = nullptr; }, "got 6 elements but no memory");
  if (!cuda_status().usable)
    refuses<DeviceError>([](DLTensor& t, auto&) { t.device.type = DeviceType::cuda; },
                         "got memory on cuda:0 but " + cuda_status().reason);
  EXPECT_THROW(from_dlpack(static_cast<DLManagedTensor*>(nullptr)), OptionError);
}

TEST(Dlpack, RefusesToHandOut) {
  const Tensor parameter = set_requires_grad(zeros({2}));
  EXPECT_EQ(message_of<AutogradError>([&] { to_dlpack(parameter); }),
            "[to_dlpack] takes no tensor that autograd follows: hand out detach(tensor)");
  EXPECT_TRUE(bitwise_equal(from_dlpack(to_dlpack(detach(parameter))), zeros({2})));
  EXPECT_EQ(message_of<DeviceError>([&] { to_dlpack(to(zeros({2}), Device{DeviceKind::simt})); }),
            "[to_dlpack] cannot hand out memory of the emulator: copy it to the cpu with to(tensor, Device{})");
  EXPECT_EQ(message_of<Error>([&] { to_dlpack(Tensor{}); }), "[to_dlpack] needs a tensor but got an undefined one");
}

}  // namespace
}  // namespace weft::dlpack
