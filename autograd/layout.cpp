#include "autograd/layout.h"

#include "autograd/factories.h"
#include "autograd/node.h"
#include "kernels/copy.h"
#include "kernels/elementwise.h"

namespace weft {
namespace {

struct CloneNode final : Node {
  const char* name() const override { return "clone"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override { dx.set(0, dy[0]); }
  bool reusable() const override { return true; }
};

// In-place writes are not operations of the graph: they would change what other nodes refer to.
void check_writable(const char* op, const Tensor& target) {
  require<AutogradError>(!grad_mode() || !requires_grad(target), op,
                         "the tensor takes part in a graph: wrap the write in NoGrad, or compute a new tensor");
  for (int d = 0; d < target.rank(); ++d)
    require<ShapeError>(target.size(d) <= 1 || target.strides()[d] != 0, op,
                        "an expanded tensor of shape {} cannot be written: its elements share memory", target.shape());
}

}  // namespace

Tensor clone(const Tensor& x) {
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (x.numel() > 0)
    kernels::copy(x.device(), {x.dtype(), x.dtype(), y.raw_data(), x.raw_data(), x.shape(), y.strides(), x.strides()});
  record<CloneNode>({&y}, {&x});
  return y;
}

Tensor contiguous(const Tensor& x) { return x.is_contiguous() ? x : clone(x); }

Tensor reshape(const Tensor& x, const Shape& shape) {
  // -1 and wrong sizes are the member's to judge; only the layout is settled here.
  return x.is_contiguous() || x.can_view(shape) ? x.reshape(shape) : clone(x).reshape(shape);
}

void copy_(const Tensor& target, const Tensor& source) {
  check_writable("copy_", target);
  require<DeviceError>(target.device() == source.device(), "copy_",
                       "both tensors must be on one device but are on {} and {}", target.device(), source.device());
  const Tensor from = source.alias().expand(target.shape());
  if (target.numel() > 0)
    kernels::copy(target.device(), {target.dtype(), source.dtype(), target.raw_data(), from.raw_data(), target.shape(),
                                    target.strides(), from.strides()});
  target.bump_version();
}

void fill_(const Tensor& target, double value) {
  if (!target.is_contiguous()) return copy_(target, scalar(value, target.dtype(), target.device()));
  check_writable("fill_", target);
  kernels::fill(target.device(), {target.dtype(), target.raw_data(), target.numel(), value});
  target.bump_version();
}

void add_(const Tensor& target, const Tensor& source) {
  check_writable("add_", target);
  require<ShapeError>(target.shape() == source.shape() && target.dtype() == source.dtype(), "add_",
                      "needs operands of one shape and dtype but has {} {} and {} {}", target.shape(),
                      to_string(target.dtype()), source.shape(), to_string(source.dtype()));
  require<ShapeError>(target.is_contiguous(), "add_", "the target must be contiguous");
  const Tensor from = source.is_contiguous() ? source : clone(source.alias());
  kernels::add_into(target.device(), {target.dtype(), target.raw_data(), from.raw_data(), target.numel()});
  target.bump_version();
}

}  // namespace weft
