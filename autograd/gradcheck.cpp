#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/reduce.h"

namespace weft {
namespace {

// v · f(inputs), the scalar that both gradients are taken of.
double projected(const std::function<Tensor(const std::vector<Tensor>&)>& f, const std::vector<Tensor>& inputs,
                 const Tensor& v) {
  const NoGrad guard;
  return sum(mul(f(inputs), v)).item<double>();
}

}  // namespace

GradcheckResult gradcheck(const std::function<Tensor(const std::vector<Tensor>&)>& f, const std::vector<Tensor>& inputs,
                          GradcheckOptions options) {
  for (const Tensor& input : inputs)
    require<DtypeError>(input.dtype() == Dtype::f64 && input.is_contiguous() && input.device().kind == DeviceKind::cpu,
                        "gradcheck", "needs contiguous f64 inputs on the cpu but one is {} {}",
                        to_string(input.dtype()), input.shape());
  GradcheckResult result;
  std::int64_t directions = options.jacobian ? 1 : options.projections;
  for (std::int64_t projection = 0; projection < directions; ++projection) {
    // Fresh leaves over the same memory: gradients that the caller holds are left alone.
    std::vector<Tensor> leaves;
    leaves.reserve(inputs.size());
    for (const Tensor& input : inputs) leaves.push_back(set_requires_grad(input.alias()));
    const Tensor output = f(leaves);
    require<DtypeError>(output.dtype() == Dtype::f64, "gradcheck", "needs an f64 result but got {}",
                        to_string(output.dtype()));
    Tensor v;
    if (options.jacobian) {
      directions = output.numel();
      v = zeros(output.shape(), Dtype::f64);
      if (output.numel() > 0) v.data<double>()[projection] = 1;  // of an empty output every gradient is 0
    } else {
      v = randn(output.shape(), options.seed * 1000003 + static_cast<std::uint64_t>(projection), Dtype::f64);
    }
    backward(output, v);

    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const Tensor gradient = grad(leaves[i]);
      const std::vector<double> analytic = gradient.defined()
                                               ? gradient.to_vector<double>()
                                               : std::vector<double>(static_cast<std::size_t>(inputs[i].numel()));
      double difference = 0, norm = 0, worst = -1;
      std::size_t worst_element = 0;
      double worst_numeric = 0;
      for (std::size_t e = 0; e < analytic.size(); ++e) {
        double& x = inputs[i].data<double>()[e];
        const double before = x, step = options.step * std::max(1.0, std::fabs(before));
        x = before + step;
        const double above = projected(f, inputs, v), high = x;
        x = before - step;
        const double below = projected(f, inputs, v), low = x;
        x = before;
        const double numeric = (above - below) / (high - low);
        const double error = std::fabs(analytic[e] - numeric);
        difference += error * error;
        norm += numeric * numeric;
        if (!(error <= worst)) {  // also takes a NaN
          worst = error;
          worst_element = e;
          worst_numeric = numeric;
        }
      }
      const double error = std::sqrt(difference) / std::max(std::sqrt(norm), options.floor);
      if (!(error <= result.worst_error)) result.worst_error = error;
      if (!(error <= options.tolerance) && result.passed) {
        result.passed = false;
        result.message = fmt::format(
            "input {} of shape {}: relative error {:.3g} exceeds {:.3g}; at element {} the analytic gradient is "
            "{:.12g} but the "
            "numeric one {:.12g}",
            i, inputs[i].shape(), error, options.tolerance, worst_element, analytic[worst_element], worst_numeric);
      }
    }
  }
  return result;
}

}  // namespace weft
