// Device memory that is never given back: every test program ends with a look at what is left on the emulated device.
#include <string>

#include <gtest/gtest.h>

#include "simt/memory.h"
#include "tensor/status.h"
#include "tensor/stream.h"
#include "tensor/tensor.h"

namespace weft {
namespace {

constexpr Device kSimt{DeviceKind::simt, 0};

/// What is left, one line each, but for what lives as long as the process: the status word, and the gradients of 1
/// (8 bytes at most) that backward starts from.
std::string left_over() {
  std::string text;
  for (const simt::Allocation& allocation : simt::live_allocations()) {
    if (allocation.bytes <= 8 || allocation.address == status_word(kSimt)) continue;
    text += fmt::format("allocation {} of {} bytes at {} was never given back\n", allocation.number, allocation.bytes,
                        allocation.address);
  }
  return text;
}

class NothingLeaks : public ::testing::Environment {
  void TearDown() override {
    if (simt::live_allocations().empty()) return;
    synchronize(kSimt);
    EXPECT_EQ(left_over(), "");
  }
};
const auto* const kNothingLeaks = ::testing::AddGlobalTestEnvironment(new NothingLeaks);

TEST(SimtLeak, IsListedWithNumberAndSize) {
  ASSERT_NE(kNothingLeaks, nullptr);
  EXPECT_EQ(left_over(), "");
  void* const forgotten = simt::device_malloc(400);
  const std::uint64_t number = simt::find_allocation(forgotten).number;
  EXPECT_NE(left_over().find(fmt::format("allocation {} of 400 bytes", number)), std::string::npos) << left_over();
  simt::device_free(forgotten);
  EXPECT_EQ(left_over(), "");
}

TEST(SimtLeak, TensorsGiveTheirMemoryBack) {
  {
    const Tensor x = Tensor::empty({100}, Dtype::f32, kSimt);
    EXPECT_NE(left_over().find("of 400 bytes"), std::string::npos);
  }
  EXPECT_EQ(left_over(), "");
}

}  // namespace
}  // namespace weft
