#pragma once
// Words that every kernel's argument struct shares.
#include <cstdint>

#include "kernels/common/variant.h"
#include "tensor/device.h"
#include "tensor/dtype.h"
#include "tensor/stream.h"

namespace weft {

/// Whether a kernel writes its output (`=`) or adds to what is there (`+=`).
enum class Accumulate : std::uint8_t { overwrite, add };

}  // namespace weft

namespace weft::kernels {

/// Runs an op's cuda or simt build when `device` is one of them; false on the cpu, whose kernel is the caller's.
/// Errors: DeviceError "[name] built without cuda".
template <class Args>
bool on_gpu(const char* name, Device device, const Args& args, void (*on_cuda)(const Stream&, const Args&),
            void (*on_simt)(const Stream&, const Args&)) {
  if (device.kind == DeviceKind::cpu) return false;
  void (*const run)(const Stream&, const Args&) = device.kind == DeviceKind::cuda ? on_cuda : on_simt;
  if (run == nullptr) not_built(name, device);
  run(current_stream(device), args);
  return true;
}

}  // namespace weft::kernels

// NOLINTBEGIN(bugprone-macro-parentheses): Args is a type
/// In an op's header, in namespace weft::kernels: declares the two builds of its .cu file.
#define WEFT_GPU_OP(op, Args)                      \
  namespace cuda {                                 \
  std::span<const Variant<Args>> op##_variants();  \
  void op(const Stream& stream, const Args& args); \
  }                                                \
  namespace simt {                                 \
  std::span<const Variant<Args>> op##_variants();  \
  void op(const Stream& stream, const Args& args); \
  }
// NOLINTEND(bugprone-macro-parentheses)

/// In an op's device switch: `if (WEFT_ON_GPU("fill", fill, device, args)) return;`
#if defined(WEFT_CUDA)
#define WEFT_ON_GPU(name, op, device, args) ::weft::kernels::on_gpu(name, device, args, &cuda::op, &simt::op)
#else
#define WEFT_ON_GPU(name, op, device, args) \
  ::weft::kernels::on_gpu(name, device, args, static_cast<decltype(&simt::op)>(nullptr), &simt::op)
#endif
