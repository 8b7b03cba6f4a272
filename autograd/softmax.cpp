#include "autograd/softmax.h"

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "autograd/reduce.h"
#include "kernels/softmax.h"

namespace weft {
namespace {

struct SoftmaxNode final : Node {
  const char* name() const override { return logarithm ? "log_softmax" : "softmax"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    const Tensor& result = y.get(name());
    const Tensor gradient = contiguous(dy[0]);
    Tensor dinput = Tensor::empty(result.shape(), result.dtype(), result.device());
    const std::int64_t channels = result.size(-1);
    kernels::softmax_backward(result.device(), {.dtype = result.dtype(),
                                                .rows = result.numel() / channels,
                                                .channels = channels,
                                                .logarithm = logarithm,
                                                .y = result.raw_data(),
                                                .dy = gradient.raw_data(),
                                                .dx = dinput.raw_data()});
    dx.set(0, std::move(dinput));
  }
  void release() override { y.reset(); }

  Saved y;
  bool logarithm = false;
};

int check(const char* op, const Tensor& x, int dim) {
  require<ShapeError>(x.rank() >= 1, op, "x must have at least one dimension but is a scalar");
  dim = normalise_dim(dim, x.rank(), op);
  require<DtypeError>(is_floating(x.dtype()), op, "x must be f64, f32, f16 or bf16 but is {}", to_string(x.dtype()));
  require<ShapeError>(x.size(dim) >= 1, op, "there is nothing to normalise in shape {}", x.shape());
  return dim;
}

Tensor along_rows(const char* op, const Tensor& x, bool logarithm) {
  const Tensor input = contiguous(x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const std::int64_t channels = x.size(-1);
  kernels::softmax_forward(x.device(), {.dtype = x.dtype(),
                                        .rows = x.numel() / channels,
                                        .channels = channels,
                                        .logarithm = logarithm,
                                        .x = input.raw_data(),
                                        .y = y.raw_data()});
  detail::check_anomaly(op, {&y});
  if (auto node = record<SoftmaxNode>({&y}, {&input})) {
    node->y = y;
    node->logarithm = logarithm;
  }
  return y;
}

Tensor along(const char* op, const Tensor& x, int dim, bool logarithm) {
  dim = check(op, x, dim);
  if (dim == x.rank() - 1) return along_rows(op, x, logarithm);
  return contiguous(along_rows(op, x.transpose(dim, -1), logarithm).transpose(dim, -1));
}

}  // namespace

Tensor softmax(const Tensor& x, int dim) { return along("softmax", x, dim, false); }
Tensor log_softmax(const Tensor& x, int dim) { return along("log_softmax", x, dim, true); }

Tensor softmax_composite(const Tensor& x, int dim) {
  dim = check("softmax", x, dim);
  const Tensor e = exp(x - detach(max(x, dim, KeepDim::yes)));
  return e / sum(e, dim, KeepDim::yes);
}

Tensor log_softmax_composite(const Tensor& x, int dim) {
  dim = check("log_softmax", x, dim);
  const Tensor below = x - detach(max(x, dim, KeepDim::yes));
  return below - log(sum(exp(below), dim, KeepDim::yes));
}

}  // namespace weft
