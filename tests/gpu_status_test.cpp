// docs/gpu-status.md must have a row for every variant of every op, so that nobody takes for granted what never ran.
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "kernels/adamw.h"
#include "kernels/batch_norm.h"
#include "kernels/copy.h"
#include "kernels/cross_entropy.h"
#include "kernels/elementwise.h"
#include "kernels/grad_norm.h"
#include "kernels/layer_norm.h"
#include "kernels/linear.h"
#include "kernels/reduce.h"
#include "kernels/sgd.h"

namespace weft::kernels {
namespace {

/// "| op | variant |" for each, the start of its row.
std::set<std::string> rows() {
  std::set<std::string> all;
  const auto add = [&](const char* op, auto variants) {
    for (const auto& variant : variants) all.insert("| " + std::string(op) + " | " + variant.name + " |");
  };
#define WEFT_ADD(op) add(#op, simt::op##_variants())
  WEFT_ADD(adamw);
  WEFT_ADD(argmax);
  WEFT_ADD(batch_norm_backward);
  WEFT_ADD(batch_norm_forward);
  WEFT_ADD(binary);
  WEFT_ADD(copy);
  WEFT_ADD(cross_entropy_backward);
  WEFT_ADD(cross_entropy_forward);
  WEFT_ADD(fill);
  WEFT_ADD(grad_norm);
  WEFT_ADD(layer_norm_backward);
  WEFT_ADD(layer_norm_forward);
  WEFT_ADD(linear_backward_bias);
  WEFT_ADD(linear_backward_input);
  WEFT_ADD(linear_backward_weight);
  WEFT_ADD(linear_forward);
  WEFT_ADD(relu_backward);
  WEFT_ADD(relu_forward);
  WEFT_ADD(scale);
  WEFT_ADD(sgd);
  WEFT_ADD(sum);
  WEFT_ADD(unary);
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
