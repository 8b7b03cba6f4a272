#pragma once
// Initial values. They are drawn on the cpu from Philox, so that a seed gives the same model on every device.
#include <cstdint>

#include "tensor/tensor.h"

namespace weft::nn {

/// The seed of the modules constructed from now on by this thread; also restarts their numbering. Call it before building a
/// model: two models built after the same call are equal.
void manual_seed(std::uint64_t seed);

/// Fills a cpu tensor (f32 or f64) from U(-bound, bound). Each call takes the next stream of the thread's seed.
void uniform_(const Tensor& tensor, double bound);

/// Fills a tensor from N(mean, std²), likewise.
void normal_(const Tensor& tensor, double mean = 0, double std = 1);

/// The next number for a dropout layer: 0, 1, ... since manual_seed. Apart from the initialisers', so that a dropout does not
/// change the weights of the layers behind it.
std::uint32_t next_dropout_stream();

/// PyTorch's default for Linear: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for the weight (Kaiming uniform with a = sqrt(5)) and
/// the bias.
double default_bound(std::int64_t fan_in);

}  // namespace weft::nn
