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

/// One build of an op's .cu files; all null where it was not built.
template <class Args>
struct GpuOp {
  void (*run)(const Stream& stream, const Args& args);
  std::span<const Variant<Args>> (*variants)();
  std::span<const Variant<Args>> (*rungs)();
};

/// Runs an op's cuda or simt build when `device` is one of them; false on the cpu, whose kernel is the caller's. A variant
/// or rung named by WEFT_VARIANT goes before the op's own choice, where it supports `args`.
/// Errors: DeviceError "[name] built without cuda".
template <class Args>
bool on_gpu(const char* name, Device device, const Args& args, const GpuOp<Args>& on_cuda, const GpuOp<Args>& on_simt) {
  if (device.kind == DeviceKind::cpu) return false;
  const GpuOp<Args>& op = device.kind == DeviceKind::cuda ? on_cuda : on_simt;
  if (op.run == nullptr) not_built(name, device);
  const Stream& stream = current_stream(device);
  if (!wanted_variant().empty())
    for (const std::span<const Variant<Args>> list : {op.variants(), op.rungs()})
      for (const Variant<Args>& variant : list)
        if (variant.name == wanted_variant() && variant.supports(args)) return variant.run(stream, args), true;
  op.run(stream, args);
  return true;
}

}  // namespace weft::kernels

// NOLINTBEGIN(bugprone-macro-parentheses): Args is a type
/// In an op's header, in namespace weft::kernels: declares the two builds of its .cu file. The rungs are those of
/// kernels/<stem>_ladder.cu; cmake/WeftSources.cmake makes an empty list where there is none.
#define WEFT_GPU_OP(op, Args)                      \
  namespace cuda {                                 \
  std::span<const Variant<Args>> op##_variants();  \
  std::span<const Variant<Args>> op##_rungs();     \
  void op(const Stream& stream, const Args& args); \
  }                                                \
  namespace simt {                                 \
  std::span<const Variant<Args>> op##_variants();  \
  std::span<const Variant<Args>> op##_rungs();     \
  void op(const Stream& stream, const Args& args); \
  }
// NOLINTEND(bugprone-macro-parentheses)

/// In an op's device switch: `if (WEFT_ON_GPU("fill", fill, device, args)) return;`
#define WEFT_GPU_BUILD(backend, op) \
  { &backend::op, &backend::op##_variants, &backend::op##_rungs }
#if defined(WEFT_CUDA)
#define WEFT_ON_GPU(name, op, device, args) \
  ::weft::kernels::on_gpu(name, device, args, WEFT_GPU_BUILD(cuda, op), WEFT_GPU_BUILD(simt, op))
#else
#define WEFT_ON_GPU(name, op, device, args) ::weft::kernels::on_gpu(name, device, args, {}, WEFT_GPU_BUILD(simt, op))
#endif
