#pragma once
// Dropout whose mask is drawn again wherever it is needed. Formula: autograd/dropout.h.
#include <cstdint>

#include "kernels/common/contract.h"
#include "tensor/philox.h"

namespace weft::kernels {

/// out[r, c] = in[r, c] * scale where element (r, c) is kept, else 0 (whatever the input is). Forward, and backward
/// with the gradient as `in`.
///   step key   = words 0 (low) and 1 (high) of philox4x32(seed, update, RandomUse::dropout << 32 | stream)
///   bits(r, c) = word c % 4 of philox4x32(step key, sample_ids[r / tokens_per_id], position(r) << 32 | c / 4)
///   position(r) = positions[r], or r % tokens when there are none
///   kept where bits(r, c) >= threshold
/// So a mask depends on the seed, the update, the layer (stream), the sample, the token's position in it and the
/// channel, and on nothing else: not on the device, the dtype, the batch, its order, its cut into micro-batches, or how
/// samples are packed.
/// Aliasing: out may be in itself.
/// Traffic:  reads and writes R·C elements, and 8 bytes of id (and position) per row.
struct Dropout {
  Dtype dtype;
  std::int64_t rows;           // R = B·tokens, 0 allowed
  std::int64_t channels;       // C, at most 2^34
  std::int64_t tokens;         // T in [1, 2^30]
  std::int64_t tokens_per_id;  // T, or 1 where each token has its sample's id
  std::uint64_t seed;
  std::uint32_t stream;
  std::uint32_t threshold;
  double scale;
  const std::int64_t* update;      // in,  []
  const std::int64_t* sample_ids;  // in,  [R / tokens_per_id]
  const std::int64_t* positions;   // in,  [R], the low 32 bits count; may be null
  const void* in;                  // in,  [R, C]
  void* out;                       // out, [R, C], `=`
};
void dropout(Device device, const Dropout& args);
WEFT_GPU_OP(dropout, Dropout)

/// The upper word of the counter that names a step and a layer; the stream is the lower one.
inline constexpr std::uint64_t kDropoutUse = static_cast<std::uint64_t>(RandomUse::dropout) << 32;

}  // namespace weft::kernels
