#pragma once
// Where a tensor lives and which build of the kernels runs on it.
#include <cstdint>
#include <string>
#include <string_view>

#include <fmt/core.h>

namespace weft {

/// cpu: vectorised C++; cuda: the hand-written kernels on a GPU; simt: the same kernels on the emulator.
enum class DeviceKind : std::uint8_t { cpu, cuda, simt };

/// One device: its kind, and its number where there are several.
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;

  /// "cpu", "cuda", "cuda:1", "simt" or "auto". "auto" takes cuda where this build and this machine can run it, else cpu.
  /// Errors: OptionError for another word; DeviceError, with the reason and the remedy, for a device that cannot be used.
  static Device parse(std::string_view text);
  std::string str() const;
  friend bool operator==(const Device&, const Device&) = default;
};

/// What this build and this machine offer on cuda; `reason` says why not when `usable` is false.
struct CudaStatus {
  bool runtime_built = false;  // the CUDA runtime is linked in (WEFT_CUDA)
  bool kernels_built = false;  // the CUDA kernels are
  int device_count = 0;
  bool usable = false;
  std::string reason;
};
/// Looks at this build and this machine.
CudaStatus cuda_status();

/// Throws DeviceError when this build's cpu kernels use instructions that the processor lacks (WEFT_CPU_ISA).
void require_processor();

/// Throws DeviceError "[op] built without cuda" (or simt): the stand-in for a device that this build does not hold.
[[noreturn]] void not_built(std::string_view op, Device device);

}  // namespace weft

template <>
struct fmt::formatter<weft::Device> {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  template <class Context>
  auto format(const weft::Device& device, Context& context) const {
    auto out = context.out();
    for (const char c : device.str()) *out++ = c;
    return out;
  }
};
