#pragma once
// The variants of an op's .cu file, one by one: each that supports a case must agree with the cpu.
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/common/contract.h"

/// The variants of `op` (copy, sum, ...) that this device runs: the shipped ones, then the rungs of its ladder.
#define WEFT_ALL_VARIANTS(backend, op)                                                                           \
  ([] {                                                                                                          \
    static const auto all =                                                                                      \
        ::weft::test::joined(::weft::kernels::backend::op##_variants(), ::weft::kernels::backend::op##_rungs()); \
    return std::span(all);                                                                                       \
  }())
#if defined(WEFT_CUDA)
#define WEFT_VARIANTS(op, device) \
  ((device).kind == ::weft::DeviceKind::cuda ? WEFT_ALL_VARIANTS(cuda, op) : WEFT_ALL_VARIANTS(simt, op))
#else
#define WEFT_VARIANTS(op, device) ((void)(device), WEFT_ALL_VARIANTS(simt, op))
#endif

namespace weft::test {

template <class Args>
std::vector<kernels::Variant<Args>> joined(std::span<const kernels::Variant<Args>> shipped,
                                           std::span<const kernels::Variant<Args>> rungs) {
  std::vector<kernels::Variant<Args>> all(shipped.begin(), shipped.end());
  all.insert(all.end(), rungs.begin(), rungs.end());
  return all;
}

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
