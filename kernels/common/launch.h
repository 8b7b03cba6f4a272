#pragma once
// The one place where kernels start: limits, error check, profiler range, failpoint, emulation.
#include <initializer_list>
#include <limits>
#include <vector>

#include "kernels/common/device.h"
#include "simt/traffic.h"
#include "tensor/error.h"
#include "tensor/stream.h"

#if defined(__CUDACC__)
#include <nvtx3/nvToolsExt.h>
#else
#include "simt/stream.h"
#endif

namespace weft::kernels {

using Operand = ::weft::simt::Operand;
using OperandKind = ::weft::simt::OperandKind;

/// A kernel broke CUDA's rules; found by the emulator. The message holds every fault, with file, line, block and thread.
class KernelFault : public Error {
 public:
  using Error::Error;
};

}  // namespace weft::kernels

namespace weft::kernels::WEFT_BACKEND {

struct Extent {
  std::int64_t x = 1, y = 1, z = 1;
};

/// How to start a kernel. An empty grid starts nothing: that is how empty tensors are handled.
struct Launch {
  const char* name;                         // a literal; names the kernel in errors, traces and tables
  Extent grid;                              // blocks: x in [0, 2^31), y and z in [0, 65535]
  Extent block;                             // threads: at most 1024 in all, z at most 64
  std::int64_t dynamic_shared_bytes = 0;    // above 48 KiB (with the static part) on request, to the device's limit
  std::initializer_list<Operand> operands;  // the buffers it works on, for the traffic table
};

inline constexpr std::int64_t kDefaultSharedBytes = 48 * 1024;
inline constexpr std::int64_t kMaxSharedBytes = 227 * 1024;  // compute capability 9.0; 8.0: 163 KiB

/// What a block of the current device may have, on request: kMaxSharedBytes or less.
inline std::int64_t shared_limit_bytes() {
#if defined(__CUDACC__)
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess)
    return kDefaultSharedBytes;
  return bytes < kMaxSharedBytes ? bytes : kMaxSharedBytes;
#else
  return kMaxSharedBytes;
#endif
}

/// Enqueues kernel(args...). Errors: DeviceError "[name] ..." for a shape beyond the limits or a refused launch; KernelFault
/// for what the emulator found (in immediate mode here, in deferred mode at synchronisation).
template <class... Parameters, class... Args>
void launch(const Stream& stream, const Launch& shape, void (*kernel)(Parameters...), Args... args) {
  const auto in = [&](std::int64_t value, std::int64_t most, const char* what) {
    require<DeviceError>(value >= 0 && value <= most, shape.name, "{} must be in [0, {}] but is {}", what, most, value);
  };
  in(shape.grid.x, std::numeric_limits<std::int32_t>::max(), "blocks along x");
  in(shape.grid.y, 65535, "blocks along y");
  in(shape.grid.z, 65535, "blocks along z");
  in(shape.block.x, 1024, "threads along x");
  in(shape.block.y, 1024, "threads along y");
  in(shape.block.z, 64, "threads along z");
  in(shape.block.x * shape.block.y * shape.block.z, 1024, "threads per block");
  in(shape.dynamic_shared_bytes, kMaxSharedBytes, "dynamic shared memory in bytes");
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  require<DeviceError>(shape.block.x * shape.block.y * shape.block.z > 0, shape.name, "a block must have threads");
#if defined(__CUDACC__)
  const auto check = [&](cudaError_t error) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // not to be met again by the next call
    fail<DeviceError>(shape.name, "the launch failed: {}", cudaGetErrorString(error));
  };
  if (shape.dynamic_shared_bytes > 0)  // static memory counts too: ask for every kernel that has a dynamic part
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.dynamic_shared_bytes)));
  const auto dim = [](const Extent& e) {
    return dim3(static_cast<unsigned>(e.x), static_cast<unsigned>(e.y), static_cast<unsigned>(e.z));
  };
  nvtxRangePushA(shape.name);
  kernel<<<dim(shape.grid), dim(shape.block), static_cast<std::size_t>(shape.dynamic_shared_bytes),
           static_cast<cudaStream_t>(stream.native())>>>(args...);
  nvtxRangePop();
  check(cudaGetLastError());
#else
  require<DeviceError>(!::weft::simt::launch_fails(), shape.name, "the launch failed: injected failure");
  const auto dim = [](const Extent& e) {
    return ::weft::simt::Dim3{static_cast<unsigned>(e.x), static_cast<unsigned>(e.y), static_cast<unsigned>(e.z)};
  };
  auto work = [kernel, args..., name = shape.name, grid = dim(shape.grid), block = dim(shape.block),
               dynamic_bytes = static_cast<std::size_t>(shape.dynamic_shared_bytes),
               operands = std::vector<Operand>(shape.operands)] {
    const ::weft::simt::LaunchConfig config{
        .kernel = name,
        .grid = grid,
        .block = block,
        .dynamic_shared_bytes = dynamic_bytes,
        .shared_limit_bytes = static_cast<std::size_t>(dynamic_bytes > 0 ? kMaxSharedBytes : kDefaultSharedBytes),
        .operands = operands.data(),
        .operand_count = operands.size()};
    try {
      ::weft::simt::run(config, [&] { kernel(args...); });
    } catch (const ::weft::simt::KernelError& error) { throw KernelFault(error.what()); }
  };
  static_cast<::weft::simt::Stream*>(stream.native())->enqueue(std::move(work));
#endif
}

}  // namespace weft::kernels::WEFT_BACKEND
