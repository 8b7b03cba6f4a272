#pragma once
// Tests of the .cu kernels: each runs on the emulator always, and on a GPU where there is one.
#include <cstdlib>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "simt/runtime.h"
#include "simt/stream.h"
#include "simt/traffic.h"
#include "support/compare.h"
#include "tensor/stream.h"
#include "tensor/tensor.h"

namespace weft::test {

/// Base of the suites: TEST_P(LayerNormGpu, Forward) { ... device() ... }
class GpuTest : public ::testing::TestWithParam<DeviceKind> {
 protected:
  void SetUp() override {
    if (GetParam() != DeviceKind::cuda || cuda_status().usable) return;
    if (std::getenv("WEFT_REQUIRE_CUDA") != nullptr) FAIL() << cuda_status().reason;  // ./run gpu-check
    GTEST_SKIP() << cuda_status().reason;
  }
  Device device() const { return Device{GetParam(), 0}; }
  bool emulated() const { return GetParam() == DeviceKind::simt; }
};

/// A copy on the device under test, exactly as large as the data: an access beyond it is a fault.
inline Tensor on(Device device, const Tensor& x) { return to(x.alias(), device); }
/// A fresh output: on simt filled with NaN, so that stale right answers cannot pass.
inline Tensor output(Device device, const Shape& shape, Dtype dtype) { return Tensor::empty(shape, dtype, device); }
inline Tensor back(const Tensor& x) { return to(x, Device{}); }

/// Runs f() in three thread orders on the emulator, once on a GPU; f returns what it computed, on the cpu, and all runs
/// must agree bit by bit. Returns the first result.
template <class F>
std::vector<Tensor> in_every_order(Device device, F&& f) {
  if (device.kind != DeviceKind::simt) return f();
  std::vector<Tensor> first;
  const std::pair<simt::ThreadOrder, const char*> orders[] = {{simt::ThreadOrder::forward, "forward"},
                                                              {simt::ThreadOrder::reverse, "reverse"},
                                                              {simt::ThreadOrder::seeded, "seeded"}};
  for (const auto& [order, name] : orders) {
    const simt::OrderScope scope(order, 7);
    const std::vector<Tensor> result = f();
    if (first.empty()) {
      first = result;
      continue;
    }
    for (std::size_t i = 0; i < first.size(); ++i)
      EXPECT_TRUE(bitwise_equal(first[i], result[i])) << "result " << i << " differs in thread order " << name;
  }
  return first;
}

/// On the emulator: f's launches move at most `ratio` times the documented floor, in 32-byte sectors, without bank
/// conflicts. Nothing on a GPU.
template <class F>
void expect_traffic(Device device, double floor_bytes, F&& f, double ratio = 1.05) {
  if (device.kind != DeviceKind::simt) return;
  const simt::TrafficScope scope;
  f();
  EXPECT_LE(static_cast<double>(scope.sector_bytes()), ratio * floor_bytes) << simt::traffic_table(scope.launches());
  for (const simt::KernelTraffic& launch : scope.launches())
    EXPECT_EQ(0, launch.bank_conflicts()) << simt::traffic_table(scope.launches());
}

inline std::string device_name(const ::testing::TestParamInfo<DeviceKind>& info) {
  return info.param == DeviceKind::cuda ? "cuda" : "simt";
}

}  // namespace weft::test

/// On a GPU only where the CUDA kernels are built: else nothing is there to be skipped.
#if defined(WEFT_CUDA)
#define WEFT_GPU_SUITE(Suite)                                                                                     \
  INSTANTIATE_TEST_SUITE_P(Devices, Suite, ::testing::Values(::weft::DeviceKind::simt, ::weft::DeviceKind::cuda), \
                           ::weft::test::device_name)
#else
#define WEFT_GPU_SUITE(Suite) \
  INSTANTIATE_TEST_SUITE_P(Devices, Suite, ::testing::Values(::weft::DeviceKind::simt), ::weft::test::device_name)
#endif
