// docs/gpu-status.md must have a row for every variant of every op, so that nobody takes for granted what never ran.
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "generated/gpu_ops.h"

namespace weft::kernels {
namespace {

/// "| op | variant |" for each, the start of its row.
std::set<std::string> rows() {
  std::set<std::string> all;
  const auto add = [&](const char* op, auto variants) {
    for (const auto& variant : variants) all.insert("| " + std::string(op) + " | " + variant.name + " |");
  };
#define WEFT_ADD(op)               \
  add(#op, simt::op##_variants()); \
  add(#op, simt::op##_rungs());
  WEFT_FOR_EACH_GPU_OP(WEFT_ADD)
#undef WEFT_ADD
  // What only cuda has.
  for (const char* op : {"linear_forward", "linear_backward_input", "linear_backward_weight"})
    all.insert("| " + std::string(op) + " | cublas |");
  return all;
}

TEST(GpuStatus, ThePageHasARowForEveryVariant) {
  std::ifstream file(WEFT_SOURCE_DIR "/docs/gpu-status.md");
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  std::string missing;
  for (const std::string& row : rows())
    if (page.find(row) == std::string::npos) missing += row + "\n";
  EXPECT_EQ(missing, "") << "add these rows to docs/gpu-status.md";
}

}  // namespace
}  // namespace weft::kernels
