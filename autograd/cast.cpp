#include "autograd/cast.h"

#include "autograd/layout.h"
#include "autograd/node.h"
#include "kernels/copy.h"

namespace weft {
namespace {

struct CastNode final : Node {
  const char* name() const override { return "cast"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override { dx.set(0, cast(dy[0], from)); }
  bool reusable() const override { return true; }
  Dtype from = Dtype::f32;
};

struct ToNode final : Node {
  const char* name() const override { return "to"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override { dx.set(0, to(dy[0], from)); }
  bool reusable() const override { return true; }
  Device from;
};

}  // namespace

Tensor cast(const Tensor& x, Dtype dtype) {
  if (x.dtype() == dtype) return x;
  Tensor y = Tensor::empty(x.shape(), dtype, x.device());
  if (x.numel() > 0)
    kernels::copy(x.device(), {dtype, x.dtype(), y.raw_data(), x.raw_data(), x.shape(), y.strides(), x.strides()});
  if (is_floating(dtype))
    if (auto node = record<CastNode>({&y}, {&x})) node->from = x.dtype();
  return y;
}

Tensor to(const Tensor& x, Device device) {
  if (x.device() == device) return x;
  Tensor y = Tensor::empty(x.shape(), x.dtype(), device);
  y.copy_bytes_from(contiguous(x.alias()));
  if (auto node = record<ToNode>({&y}, {&x})) node->from = x.device();
  return y;
}

}  // namespace weft
