#pragma once
// 64-bit hashes that name a data set or a plan, so that a checkpoint can tell whether it meets the same ones again. They
// guard against mix-ups, not against forgery.
#include <cstdint>
#include <string_view>

#include "tensor/tensor.h"

namespace weft::data {

/// The hash of a sequence that ends in `value`, from the hash of what came before it.
std::uint64_t hash_combine(std::uint64_t before, std::uint64_t value);

/// The hash of these bytes and of how many they are.
std::uint64_t hash_bytes(std::string_view bytes);

/// The hash of a tensor's dtype, shape and elements; the same for any thread count. Reads the whole tensor, in parallel.
/// Layout:  x contiguous, on the cpu. Errors: ShapeError, DeviceError.
std::uint64_t hash_tensor(const Tensor& x);

}  // namespace weft::data
