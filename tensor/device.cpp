#include "tensor/device.h"

#include <charconv>

#include "tensor/error.h"

#if defined(WEFT_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace weft {

std::string Device::str() const {
  const char* name = kind == DeviceKind::cpu ? "cpu" : kind == DeviceKind::cuda ? "cuda" : "simt";
  return index == 0 ? std::string(name) : fmt::format("{}:{}", name, index);
}

CudaStatus cuda_status() {
  CudaStatus status;
#if defined(WEFT_CUDA)
  status.runtime_built = true;
  int count = 0;  // left untouched by the runtime when there is no driver
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    status.reason = fmt::format("the CUDA runtime sees no device: {} (error {})", cudaGetErrorString(error),
                                static_cast<int>(error));
    return status;
  }
  status.device_count = count;
  if (count == 0) {
    status.reason = "the CUDA driver reports no device";
    return status;
  }
  status.kernels_built = true;
  // The kernels are compiled for WEFT_CUDA_ARCHITECTURES; for the last of them also as PTX, which newer devices take.
  constexpr int kArchitectures[] = {WEFT_CUDA_ARCHITECTURES};
  cudaDeviceProp device{};
  if (const cudaError_t failed = cudaGetDeviceProperties(&device, 0); failed != cudaSuccess) {
    status.reason = fmt::format("the first device cannot be asked for its properties: {}", cudaGetErrorString(failed));
    return status;
  }
  const int capability = 10 * device.major + device.minor;
  std::string built;
  int newest = 0;
  for (const int architecture : kArchitectures) {
    status.usable = status.usable || (architecture / 10 == device.major && architecture <= capability);
    newest = architecture > newest ? architecture : newest;
    built += fmt::format("{}{}", built.empty() ? "" : ", ", architecture);
  }
  status.usable = status.usable || newest <= capability;
  if (!status.usable)
    status.reason = fmt::format("{} has compute capability {}.{} but the kernels are built for {}", device.name,
                                device.major, device.minor, built);
#else
  status.reason = "this build holds no cuda (configured with WEFT_CUDA=OFF, or no toolkit was found)";
#endif
  return status;
}

Device Device::parse(std::string_view text) {
  std::string_view name = text;
  int index = 0;
  if (const auto colon = text.find(':'); colon != std::string_view::npos) {
    name = text.substr(0, colon);
    const std::string_view digits = text.substr(colon + 1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    require<OptionError>(error == std::errc() && end == digits.data() + digits.size() && index >= 0, "device",
                         "the index of '{}' must be a number from 0 up", text);
  }
  if (text == "auto") return Device{cuda_status().usable ? DeviceKind::cuda : DeviceKind::cpu, 0};
  if (name == "cpu") {
    require<OptionError>(index == 0, "device", "there is only one cpu device but '{}' was asked for", text);
    return {};
  }
  if (name == "simt") {
    require<OptionError>(index == 0, "device", "there is only one simt device but '{}' was asked for", text);
    return Device{DeviceKind::simt, 0};
  }
  require<OptionError>(name == "cuda", "device", "'{}' is no device; use auto, cpu, cuda or simt", text);
  const CudaStatus status = cuda_status();
  require<DeviceError>(status.usable, "device", "cuda was asked for but cannot be used: {}; use --device cpu or auto",
                       status.reason);
  require<DeviceError>(index < status.device_count, "device", "'{}' was asked for but there are {} cuda devices", text,
                       status.device_count);
  return Device{DeviceKind::cuda, index};
}

void require_processor() {
#if defined(__x86_64__)
  const auto need = [](bool has, const char* feature, const char* level) {
    require<DeviceError>(
        has, "device",
        "this build's kernels need {} but the processor has no {}: configure with -DWEFT_CPU_ISA=AUTO on this "
        "machine, or with a lower level",
        level, feature);
  };
  (void)need;
#if defined(__AVX512F__)
  need(__builtin_cpu_supports("avx512f"), "AVX-512", "x86-64-v4");
#elif defined(__AVX2__)
  need(__builtin_cpu_supports("avx2"), "AVX2", "x86-64-v3");
#elif defined(__SSE4_2__)
  need(__builtin_cpu_supports("sse4.2"), "SSE4.2", "x86-64-v2");
#endif
#endif
}

void not_built(std::string_view op, Device device) {
  fail<DeviceError>(op, "built without {}", device.kind == DeviceKind::simt ? "simt" : "cuda");
}

}  // namespace weft
