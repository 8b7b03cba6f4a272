#pragma once
// Several kernels for one op: the shipped ones, in order of preference, and teaching rungs (kernels/<stem>_ladder.cu), which
// are tested, counted and timed alike but never chosen.
#include <cstdlib>
#include <span>
#include <string_view>

#include "tensor/error.h"
#include "tensor/stream.h"

namespace weft::kernels {

template <class Args>
struct Variant {
  const char* name;                    // "vectorised", unique within the op
  const char* idea;                    // one line for tables
  bool (*supports)(const Args& args);  // shapes, dtypes, alignment, and whether the machine has what it needs
  void (*run)(const Stream& stream, const Args& args);
};

/// Runs the first variant that supports `args`. Errors: Error "[op] no variant supports these arguments".
template <class Args>
void run_variant(const char* op, std::span<const Variant<Args>> variants, const Stream& stream, const Args& args) {
  for (const Variant<Args>& variant : variants)
    if (variant.supports(args)) return variant.run(stream, args);
  fail(op, "no variant supports these arguments");
}

/// The variant or rung to run wherever an op has one of that name: WEFT_VARIANT of the environment; "" when not set.
inline std::string_view wanted_variant() {
  static const char* const name = std::getenv("WEFT_VARIANT");  // NOLINT(concurrency-mt-unsafe): nothing sets it
  return name != nullptr ? name : "";
}

/// Whether `address` allows accesses of `bytes` bytes; null does.
inline bool is_aligned(const void* address, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(address) % bytes == 0;
}

}  // namespace weft::kernels
