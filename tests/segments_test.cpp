#include "tensor/segments.h"

#include <gtest/gtest.h>

#include "tensor/error.h"

namespace weft {
namespace {

TEST(Segments, SayWhichPlacesBelongTogether) {
  const Segments table({0, 3, 4, 9});
  EXPECT_EQ(table.count(), 3);
  EXPECT_EQ(table.places(), 9);
  EXPECT_EQ(table.max_length(), 5);
  EXPECT_EQ(table.ids().to_vector<std::int32_t>(), (std::vector<std::int32_t>{0, 0, 0, 1, 2, 2, 2, 2, 2}));
  EXPECT_EQ(table.cu_seqlens().to_vector<std::int32_t>(), table.offsets());
}

TEST(Segments, KeepTheHostsCopyOnADevice) {
  const Device simt = Device::parse("simt");
  for (const Segments& table : {Segments({0, 2, 5}, simt), Segments({0, 2, 5}).to(simt)}) {
    EXPECT_EQ(table.device(), simt);
    EXPECT_EQ(table.ids().device(), simt);
    EXPECT_EQ(table.offsets(), (std::vector<std::int32_t>{0, 2, 5}));
    EXPECT_EQ(table.ids().to_vector<std::int32_t>(), (std::vector<std::int32_t>{0, 0, 1, 1, 1}));
    EXPECT_EQ(table.cu_seqlens().to_vector<std::int32_t>(), table.offsets());
  }
}

TEST(Segments, WithoutATableThereIsNoSegment) {
  const Segments none;
  EXPECT_FALSE(none.defined());
  EXPECT_EQ(none.count(), 0);
  EXPECT_EQ(none.places(), 0);
  EXPECT_FALSE(none.to(Device::parse("simt")).defined());
}

TEST(Segments, RefuseATableThatIsNone) {
  const auto table = [](std::vector<std::int32_t> offsets) { return Segments(std::move(offsets)); };
  EXPECT_THROW(table({}), ShapeError);
  EXPECT_THROW(table({0}), ShapeError);
  EXPECT_THROW(table({1, 2}), ShapeError);
  EXPECT_THROW(table({0, 2, 2}), ShapeError);
  EXPECT_THROW(table({0, 3, 1}), ShapeError);
}

}  // namespace
}  // namespace weft
