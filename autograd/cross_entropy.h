#pragma once
#include "autograd/window.h"

namespace weft {

struct CrossEntropyOptions {
  std::int64_t ignore_index = -100;  // a target with this value does not count
  Tensor mask = {};                  // bool or u8, the shape of targets: 0 does not count; undefined: all count
};

/// Softmax cross-entropy of logits with class labels: the sum over the rows that count, and their number.
///   sum = sum_r (log(sum_v exp(x[r,v])) - x[r,target[r]]),  denominator = number of rows r with mask[r] and
///   target[r] != ignore_index
/// Shapes:   logits [..., V], V >= 1; targets i64 [...]; mask as targets -> sum f64 [], denominator f64 []. R = product
///           of the leading dims, 0 allowed. When no row counts, sum and denominator are 0 and the gradient is zero.
/// Types:    logits f32|f16|bf16|f64; a row's term in f32 (f64 for f64), terms are added in f64.
/// Layout:   operands are made contiguous when they are not.
/// Grad:     dlogits = (softmax - onehot) * dsum; exactly 0 for rows that do not count, even where their logits are inf
///           or NaN. Computed by forward in the same read of the logits, before dsum is known, and saved; backward
///           multiplies by dsum, or hands the saved tensor over unchanged when dsum is 1 (as it is for a Window).
/// Errors:   Error "[cross_entropy] target 12 at row 5 is outside [0, 10): correct the label, mask the row, or set it
///           to ignore_index = -100" for the first such row that counts, before anything is computed (on cuda it is
///           known later: thrown by check_status, and no optimizer updates until then); ShapeError
///           "[cross_entropy] targets must have shape [128] to go with logits of shape [128, 10] but has [64]";
///           DtypeError; DeviceError.
/// Cost:     reads R·V elements; with a gradient writes R·V as well; rows that do not count are not read. Backward
///           reads and writes R·V, or nothing when dsum is 1.
/// Numerics: log-sum-exp around the row's maximum: |logits| of 1e4 are exact to rounding. A row with +inf or NaN, or
///           with -inf only, has the loss NaN and a NaN gradient; single -inf have probability 0. Bitwise independent
///           of the thread count.
/// Source:   Bishop 2006, "Pattern Recognition and Machine Learning", eq. 4.108-4.109; the running maximum after
///           Milakov, Gimelshein 2018, arXiv:1805.02867.
Loss cross_entropy(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options = {});

/// The same from simple operations, for finite logits: the reference that cross_entropy is tested against.
Loss cross_entropy_composite(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options = {});

}  // namespace weft
