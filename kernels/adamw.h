#pragma once
#include "kernels/common/contract.h"
#include "kernels/common/step_state.h"
#include "kernels/common/update_table.h"
#include "tensor/status.h"

namespace weft::kernels {

struct AdamWArgs {
  const UpdateTable* table = nullptr;  // in: gradients, `applied`; inout: parameters, moment1 (m), moment2 (v)
  const StepState* state = nullptr;    // in, [1], device memory: lr, scale, apply; as grad_norm left it
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;
  const DeviceStatus* status = nullptr;  // in, the device's status word; null on the cpu
};

/// One AdamW update of every entry of a table, scaling and clipping included. Does nothing unless state.apply, nor
/// while the status word is set.
///   g = gradient * scale
///   p = p * (1 - lr * weight_decay)                       decay goes to the parameter, not through the moments
///   m = beta1 * m + (1 - beta1) * g
///   v = beta2 * v + (1 - beta2) * g²
///   p = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
/// t is the entry's `applied`, which grad_norm has advanced: a parameter that meets its first gradient late is
/// corrected for its own number of updates, not for the optimizer's.
/// Types:    f32 and f64, also mixed; coefficients are computed in f64 and rounded to the dtype once.
/// Errors:   DtypeError for another dtype; DeviceError "[adamw] built without cuda".
/// Cost:     reads 4 and writes 3 values per element; one pass, on a GPU one launch for the whole table; memory-bound.
/// Numerics: each element on its own: bitwise independent of threads and of the chunks. In PyTorch's order but for the
///           last line, which runs as lr' * m / (sqrt(v) + eps') with sqrt(1 - beta2^t) taken into lr' and eps'.
/// Source:   Loshchilov, Hutter 2019, arXiv:1711.05101, algorithm 2; torch.optim.AdamW.
void adamw(Device device, const AdamWArgs& args);
WEFT_GPU_OP(adamw, AdamWArgs)

}  // namespace weft::kernels
