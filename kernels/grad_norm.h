#pragma once
// The first half of every optimizer's update: how large is the gradient, and may it be applied?
#include "kernels/common/contract.h"
#include "kernels/common/step_state.h"
#include "kernels/common/update_table.h"
#include "tensor/status.h"

namespace weft::kernels {

struct GradNormArgs {
  const UpdateTable* table = nullptr;    // in: gradients; inout: each entry's `applied`
  const double* denominator = nullptr;   // in, [1], device memory; null stands for 1
  double max_norm = 0;                   // clip the scaled gradient to this norm; 0: no clipping
  StepState* state = nullptr;            // inout, [1], device memory
  double* partial = nullptr;             // workspace, [chunks of the table], device memory
  const DeviceStatus* status = nullptr;  // in, the device's status word; null on the cpu
};

/// The norm of the gradients of a whole table, and what follows from it for the update.
///   norm  = sqrt(sum g²) / |denominator|
///   scale = min(1, max_norm / (norm + 1e-6)) / denominator       (without the minimum when max_norm is 0)
///   apply = denominator is not 0, and norm and scale are finite
/// When applied, state.applied and every entry's `applied` advance by one; when not, the counters of skipped updates
/// do. The order is fixed here: gradients are divided first and clipped after, once for the window. While the status
/// word is set the update counts as not asked for: state.apply becomes 0 and no counter moves.
/// Types:    f32 and f64 gradients, also mixed. The decision is made in f64.
/// Errors:   DtypeError for another dtype; DeviceError "[grad_norm] built without cuda".
/// Cost:     reads every gradient once, writes 8 bytes per chunk; memory-bound. On a GPU two launches for the whole
///           table, and the host waits for neither.
/// Numerics: squares are summed in the gradient's dtype within a chunk and in f64, in order, over the chunks: the same
///           bits for any thread count. A chunk whose sum of squares does not fit in f32 (norm above 1.8e19) counts as
///           infinite.
/// Source:   torch.nn.utils.clip_grad_norm_ (norm type 2), including its 1e-6.
void grad_norm(Device device, const GradNormArgs& args);
WEFT_GPU_OP(grad_norm, GradNormArgs)

}  // namespace weft::kernels
