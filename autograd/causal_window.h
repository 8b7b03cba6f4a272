#pragma once
#include "tensor/segments.h"
#include "tensor/tensor.h"

namespace weft {

/// Puts the channels of the last `width` places side by side, the place's own last, and never looks past the beginning of
/// its segment: what a model of the next token may see of the tokens before.
///   y[n, k*C + c] = x[n - (W - 1 - k), c] where that place is in the segment of n, else 0;   k in [0, W)
/// Shapes:   x [..., C], e.g. [N, C] or [B, T, C], rank 2 at least; its leading dims are the N places, row-major ->
///           y [..., W*C]. C = 0 allowed.
/// Types:    x any; gradients for f64, f32, f16, bf16.
/// Layout:   x is made contiguous when it is not.
/// Params:   segments of the N places, on x's device (`segments.to(device)`, once per batch); a table is demanded, also
///           where the rows are whole samples: Segments({0, T, 2*T, ...}). width W >= 1; 1 copies x.
/// Grad:     dx[m, c] = sum over j in [0, W) of dy[m + j, (W - 1 - j)*C + c] where place m + j is in the segment of m;
///           overwrites, or straight into a leaf's gradient (+=). Saves the table's device copies.
/// Errors:   ShapeError "[causal_window] x must have shape [..., C] with rank 2 or more but has [8]"; ShapeError
///           "[causal_window] segments must be given: without them places of different samples would meet"; ShapeError
///           "[causal_window] segments must cover the 12 places of x of shape [3, 4, 8] but cover 10"; DeviceError
///           "[causal_window] segments must be on simt like x but are on cpu: segments.to(x.device()), once per batch";
///           OptionError "[causal_window] width must be at least 1 but is 0".
/// Cost:     reads N*C, writes W*N*C elements; backward the other way round. Memory-bound.
/// Numerics: forward exact: what stands in other segments, NaN and infinity included, changes no bit. Backward adds in f32
///           (f64 for f64) in ascending order, rounded once; no atomics, bitwise independent of the thread count.
/// Source:   Bengio et al. 2003, "A neural probabilistic language model", JMLR 3: the input of its network.
Tensor causal_window(const Tensor& x, const Segments& segments, std::int64_t width);

/// The same from simple operations, segment by segment: the reference that causal_window is tested against.
Tensor causal_window_composite(const Tensor& x, const Segments& segments, std::int64_t width);

}  // namespace weft
