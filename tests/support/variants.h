#pragma once
// The variants of an op's .cu file, one by one: each that supports a case must agree with the cpu.
#include <span>
#include <string>

#include <gtest/gtest.h>

#include "kernels/common/contract.h"

/// The variants of `op` (copy, sum, ...) that this device runs.
#if defined(WEFT_CUDA)
#define WEFT_VARIANTS(op, device)                                                     \
  ((device).kind == ::weft::DeviceKind::cuda ? ::weft::kernels::cuda::op##_variants() \
                                             : ::weft::kernels::simt::op##_variants())
#else
#define WEFT_VARIANTS(op, device) ((void)(device), ::weft::kernels::simt::op##_variants())
#endif

namespace weft::test {

/// Calls run(variant) for every variant that supports `args`, with the variant's name in the messages. Returns how
/// many.
template <class Args, class F>
int for_each_variant(std::span<const kernels::Variant<Args>> variants, const Args& args, F&& run) {
  int supported = 0;
  for (const kernels::Variant<Args>& variant : variants) {
    if (!variant.supports(args)) continue;
    SCOPED_TRACE(variant.name);
    run(variant);
    ++supported;
  }
  return supported;
}

/// The name of the first variant that supports `args`: the one that the op runs.
template <class Args>
std::string chosen(std::span<const kernels::Variant<Args>> variants, const Args& args) {
  for (const kernels::Variant<Args>& variant : variants)
    if (variant.supports(args)) return variant.name;
  return "none";
}

}  // namespace weft::test
