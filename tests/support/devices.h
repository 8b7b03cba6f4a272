#pragma once
// Tests of behaviour that is the same on every device: the cpu, the emulator, and a GPU where there is one.
#include "support/gpu.h"

namespace weft::test {

/// Base of the suites: TEST_P(IndexOn, ...) { ... device() ... }
class DeviceTest : public GpuTest {
 protected:
  Tensor here(const Tensor& x) const { return on(device(), x); }
};

inline std::string any_device_name(const ::testing::TestParamInfo<DeviceKind>& info) {
  return Device{info.param, 0}.str();
}

}  // namespace weft::test

#if defined(WEFT_CUDA)
#define WEFT_DEVICE_SUITE(Suite)                                                                                      \
  INSTANTIATE_TEST_SUITE_P(                                                                                           \
      Devices, Suite, ::testing::Values(::weft::DeviceKind::cpu, ::weft::DeviceKind::simt, ::weft::DeviceKind::cuda), \
      ::weft::test::any_device_name)
#else
#define WEFT_DEVICE_SUITE(Suite)                                                                                 \
  INSTANTIATE_TEST_SUITE_P(Devices, Suite, ::testing::Values(::weft::DeviceKind::cpu, ::weft::DeviceKind::simt), \
                           ::weft::test::any_device_name)
#endif
