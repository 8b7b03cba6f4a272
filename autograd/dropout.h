#pragma once
#include <cstdint>

#include "tensor/tensor.h"

namespace weft {

/// Sets elements to 0 at random and scales the others, so that the expectation stays.
///   y[e] = keep[e] ? x[e] / (1 - p) : 0,   keep[e] = bits(e) >= round(p * 2^32),  P(keep) = 1 - p
/// Shapes:   x [B, ...] -> y as x. Row b belongs to sample sample_ids[b] of the StepContext. In x [B, T, ...] dimension
///           1 counts tokens: token t is at positions[b, t] of its sample, or at t when the context has no positions;
///           sample_ids may be [B, T] where rows hold several samples. x [B, C] with C != T is one token at position 0.
/// Types:    f32|f16|bf16|f64; the product in f32 (f64 for f64).
/// Layout:   x is made contiguous when it is not; y is a new tensor.
/// Params:   p in [0, 1), the probability of 0; 0 returns x itself and needs no context. stream: which of a model's
///           dropouts this is; two with the same stream, and the same sizes behind the token, draw the same mask
///           (nn::Dropout numbers itself).
/// Grad:     dx = keep ? dy / (1 - p) : 0. Saves nothing but the context: the mask is drawn again.
/// Errors:   OptionError "[dropout] p must be in [0, 1) but is 1"; Error "[dropout] needs a StepContext ...";
///           ShapeError "[dropout] sample_ids of the StepContext must have shape [4] like the rows of x [4, 10] but has
///           [3]"; DtypeError; DeviceError.
/// Cost:     reads and writes every element once, in both directions; memory-bound.
/// Numerics: the mask is a pure function of (seed, update, stream, sample id, position, channel), by integer comparison
///           (kernels/dropout.h has the layout): bit for bit the same on every device and in every dtype, for any
///           batch, micro-batch, packing and thread count, and again in backward and recomputation. Where an element
///           is dropped y is 0 even if x is NaN or infinite.
/// Source:   Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting"; Philox:
///           tensor/philox.h.
Tensor dropout(const Tensor& x, double p = 0.5, std::uint32_t stream = 0);

}  // namespace weft
