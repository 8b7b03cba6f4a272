#pragma once
#include "autograd/window.h"

namespace weft {

struct CrossEntropyOptions {
  std::int64_t ignore_index = -100;  // a label with this value does not count; without meaning for probabilities
  Tensor mask = {};                  // bool or u8, [...]: 0 does not count; undefined: all count
  Tensor weight = {};                // floats, [V], of the classes, >= 0; undefined: 1
  Tensor token_weights = {};         // floats, [...]: of the rows, 0 does not count; undefined: 1
  double label_smoothing = 0;        // in [0, 1]: the part of every target that is spread evenly over the classes
  double z_loss = 0;                 // >= 0: of the squared log-sum-exp in a row's term
};

/// Softmax cross-entropy of logits with class labels or class probabilities: the sum over the rows that count, and
/// their weight. A row counts where mask and token_weights are not 0 and its label is not ignore_index. With t =
/// token_weights[r], w = weight, eps = label_smoothing, L = log(sum_v exp(x[r,v])), y = targets[r]:
///   labels:         sum = sum_r t ((1 - eps) w[y] (L - x[r,y]) + eps / V sum_v w[v] (L - x[r,v]) + z_loss L²)
///                   denominator = sum_r t w[y]
///   probabilities:  sum = sum_r t (sum_v w[v] ((1 - eps) targets[r,v] + eps / V) (L - x[r,v]) + z_loss L²)
///                   denominator = sum_r t
/// mean() is PyTorch's reduction="mean", with smoothing, weights and ignored rows as there.
/// Shapes:   logits [..., V], V >= 1; labels i64 [...], or probabilities [..., V]; mask, token_weights [...]; weight
///           [V] -> sum f64 [], denominator f64 []. R = product of the leading dims, 0 allowed. When no row counts, sum
///           and denominator are 0 and the gradient is zero.
/// Types:    logits f32|f16|bf16|f64, probabilities as logits; token_weights are taken in f32. A row's term in f32 (f64
///           for f64), terms are added in f64.
/// Layout:   operands are made contiguous when they are not.
/// Params:   z_loss: 1e-4 in PaLM, 1e-3 in ST-MoE (for its router). It keeps L near 0, so that logits do not drift.
/// Grad:     dlogits = t ((A + 2 z_loss L) softmax - a) * dsum, a[v] the factor of (L - x[r,v]) above, A its sum;
///           without options softmax - onehot. Exactly 0 for rows that do not count, even where their logits are inf or
///           NaN. Computed by forward in the same read of the logits, before dsum is known, and saved; backward
///           multiplies by dsum, or hands the saved tensor over unchanged when dsum is 1 (as it is for a Window).
///           targets and weights are constants.
/// Errors:   Error "[cross_entropy] target 12 at row 5 is outside [0, 10): correct the label, mask the row, or set it
///           to ignore_index = -100" for the first such row that counts, before anything is computed; so for every
///           label below 0 or from V on that is not ignore_index: -1 is one, -100 is none by default. (On cuda it is
///           known later: thrown by check_status, and no optimizer updates until then.) ShapeError
///           "[cross_entropy] targets must have shape [128] to go with logits of shape [128, 10] but has [64]";
///           OptionError "[cross_entropy] label_smoothing must be in [0, 1] but is 1.5"; DtypeError; DeviceError;
///           AutogradError when targets are probabilities that require a gradient.
/// Cost:     reads R·V elements; with a gradient writes R·V as well; probabilities once more, and again for the
///           gradient (then from a cache); rows that do not count are not read. Backward reads and writes R·V, or
///           nothing when dsum is 1.
/// Numerics: log-sum-exp around the row's maximum: |logits| of 1e4 are exact to rounding. A row with +inf or NaN, or
///           with -inf only, has the loss NaN and a NaN gradient; single -inf have probability 0, and the loss is inf
///           where such a class has a part of the target (a > 0: with smoothing every class whose weight is not 0).
///           A row whose weights leave nothing (w[y] = 0 without smoothing and z-loss) adds exactly nothing. Bitwise
///           independent of the thread count.
/// Source:   Bishop 2006, "Pattern Recognition and Machine Learning", eq. 4.108-4.109; the running maximum after
///           Milakov, Gimelshein 2018, arXiv:1805.02867; smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7;
///           z-loss: Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, section 5, and Zoph et al. 2022 (ST-MoE),
///           arXiv:2202.08906, eq. 5; weights and smoothing combine as in PyTorch's
///           torch.nn.functional.cross_entropy.
Loss cross_entropy(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options = {});

/// The same from simple operations, for finite logits: the reference that cross_entropy is tested against.
Loss cross_entropy_composite(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options = {});

}  // namespace weft
