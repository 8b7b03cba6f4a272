#pragma once
// Matrix products by NVIDIA's cuBLASLt, to be measured against, and to be used where it wins. Its header is needed to
// build this (WEFT_CUBLASLT), its library only to run it: that is loaded at the first question, and where it is
// missing, nothing is supported.
#include "kernels/common/matmul_plan.h"

namespace weft::kernels::cuda {

/// Whether the library is there and has a kernel for these operands on the current device. Not with sums (ask for those
/// apart); 0 for any dimension is not supported.
bool cublas_supports(Dtype dtype, const Matmul& args, Contiguous a, Contiguous b);

/// The product, without args.sums and without a workspace. True f32 (no TF32); 16-bit operands are summed in f32.
/// Deterministic: the kernel is the first that the library proposes without workspace and without split sums, once per
/// shape; it may differ between GPUs and versions of the library. Its relu may turn NaN into 0.
/// Errors: DeviceError "[cublas] ...".
void cublas_matmul(const Stream& stream, Dtype dtype, const Matmul& args, Contiguous a, Contiguous b);

}  // namespace weft::kernels::cuda
