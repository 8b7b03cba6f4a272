#pragma once
#include "kernels/common/contract.h"
#include "kernels/common/step_state.h"
#include "kernels/common/update_table.h"
#include "tensor/status.h"

namespace weft::kernels {

struct SgdArgs {
  const UpdateTable* table = nullptr;  // in: gradients; inout: parameters, moment1 (b) unless momentum is 0
  const StepState* state = nullptr;    // in, [1], device memory: lr, scale, apply; as grad_norm left it
  double momentum = 0;
  bool nesterov = false;
  double weight_decay = 0;
  const DeviceStatus* status = nullptr;  // in, the device's status word; null on the cpu
};

/// One update by stochastic gradient descent of every entry of a table. Does nothing unless state.apply, nor while the
/// status word is set.
///   g = gradient * scale + weight_decay * p               L2: the decay goes through the momentum
///   b = momentum * b + g                                  (dampening 0; b starts as zeros, so the first b is g)
///   d = b, or g + momentum * b for nesterov; g without momentum
///   p = p - lr * d
/// Types:    f32 and f64, also mixed.
/// Errors:   DtypeError for another dtype; DeviceError "[sgd] built without cuda".
/// Cost:     reads 3 and writes 2 values per element, 2 and 1 without momentum; on a GPU one launch for the whole
///           table; memory-bound.
/// Numerics: each element on its own, in PyTorch's order: bitwise independent of threads and of the chunks.
/// Source:   Sutskever, Martens, Dahl, Hinton 2013, in the form of torch.optim.SGD (lr outside of the momentum).
void sgd(Device device, const SgdArgs& args);
WEFT_GPU_OP(sgd, SgdArgs)

}  // namespace weft::kernels
