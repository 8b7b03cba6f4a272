#pragma once
// Compares analytic gradients with central differences.
#include <functional>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace weft {

/// How gradcheck differentiates and compares.
struct GradcheckOptions {
  double step = 1e-6;       // relative to max(1, |x|); near cbrt(2^-52), where truncation and rounding balance
  double tolerance = 1e-6;  // on ||analytic - numeric|| / max(||numeric||, floor) per input
  double floor = 1e-6;      // gradients smaller than this are compared absolutely
  int projections =
      2;  // random directions v of the output: v·f is differentiated, so that no symmetry of sum() hides errors
  bool jacobian = false;  // instead of random directions every element of the output, one by one: the full Jacobian
  std::uint64_t seed = 0;
};

/// What gradcheck found.
struct GradcheckResult {
  bool passed = true;
  double worst_error = 0;  // the largest relative error over inputs and projections
  std::string message;     // names input, element, analytic and numeric value of the worst; empty when passed
};

/// Checks the gradients of f with respect to each of `inputs`, every element by its own central difference.
/// Shapes: inputs f64 leaves of any shape; f returns one f64 tensor of any shape.
/// Errors: DtypeError unless f64; AutogradError when f's result does not depend on any input.
GradcheckResult gradcheck(const std::function<Tensor(const std::vector<Tensor>&)>& f, const std::vector<Tensor>& inputs,
                          GradcheckOptions options = {});

}  // namespace weft
