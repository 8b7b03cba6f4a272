#include "train/progress.h"

#include <cstdio>
#include <limits>
#include <memory>
#include <string>

#include <gtest/gtest.h>

namespace weft::train {
namespace {

TEST(Progress, ShortNumbers) {
  EXPECT_EQ(short_number(0), "0");
  EXPECT_EQ(short_number(812), "812");
  EXPECT_EQ(short_number(8.125), "8.12");
  EXPECT_EQ(short_number(999.7), "1.00k");
  EXPECT_EQ(short_number(31234), "31.2k");
  EXPECT_EQ(short_number(4.05e6), "4.05M");
  EXPECT_EQ(short_number(std::numeric_limits<double>::quiet_NaN()), "-");
  EXPECT_EQ(short_number(std::numeric_limits<double>::infinity()), "-");
}

TEST(Progress, ShortDurations) {
  EXPECT_EQ(short_duration(0.44), "0.4 s");
  EXPECT_EQ(short_duration(42.4), "42 s");
  EXPECT_EQ(short_duration(59.7), "1:00");
  EXPECT_EQ(short_duration(187), "3:07");
  EXPECT_EQ(short_duration(7509), "2:05:09");
  EXPECT_EQ(short_duration(-1), "0.0 s");
  EXPECT_EQ(short_duration(std::numeric_limits<double>::infinity()), "-");
}

TEST(Progress, ShortBytes) {
  EXPECT_EQ(short_bytes(812), "812 B");
  EXPECT_EQ(short_bytes(31949), "31.2 KiB");
  EXPECT_EQ(short_bytes(std::int64_t{200} << 20), "200 MiB");
}

TEST(Progress, AFileGetsLinesButNoBar) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), &std::fclose);
  ASSERT_NE(file, nullptr);
  {
    Progress progress(file.get());
    progress.start(1, 100);
    for (int i = 1; i <= 100; ++i) progress.advance(0, i, std::numeric_limits<double>::quiet_NaN());
    progress.print("epoch 1/1");
  }
  std::rewind(file.get());
  char text[64];
  const std::size_t length = std::fread(text, 1, sizeof text, file.get());
  EXPECT_EQ(std::string(text, length), "epoch 1/1\n");
}

}  // namespace
}  // namespace weft::train
