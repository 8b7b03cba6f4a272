#pragma once
#include "kernels/common/contract.h"

namespace weft::kernels {

/// out[a, b] = sum over r of in[a, r, b]. Floats accumulate in f32 lanes (f64 for f64) over fixed chunks of r, whose partial
/// sums are added in order in f64; integers and bool are summed in i64.
/// Aliasing: none. Moves: reads A·R·B, writes A·B elements. R = 0 gives 0.
struct Sum {
  Dtype dtype;           // of in; out has the same for floats, i64 for the others
  const void* in;        // in,  [A, R, B] contiguous
  void* out;             // out, [A, B]
  std::int64_t outer;    // A
  std::int64_t reduced;  // R
  std::int64_t inner;    // B
  Accumulate mode = Accumulate::overwrite;
};
void sum(Device device, const Sum& args);

/// out[a, b] = index r of the largest in[a, r, b], the first among equals; a NaN is larger than any number.
/// Moves: reads A·R·B elements, writes 8·A·B bytes. R >= 1.
struct Argmax {
  Dtype dtype;
  const void* in;     // in,  [A, R, B] contiguous
  std::int64_t* out;  // out, [A, B]
  std::int64_t outer;
  std::int64_t reduced;
  std::int64_t inner;
};
void argmax(Device device, const Argmax& args);

}  // namespace weft::kernels
