#include "autograd/causal_window.h"

#include <vector>

#include "autograd/join.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "kernels/causal_window.h"

namespace weft {
namespace {

const char* const kOp = "causal_window";

struct CausalWindowNode final : Node {
  const char* name() const override { return kOp; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    if (!dx.wanted(0)) return;
    const Tensor source = contiguous(dy[0]);
    const Tensor& table = cu_seqlens.get(name());
    const auto [out, mode] = dx.target(0, base, source.dtype(), source.device());
    const std::int64_t channels = base[base.rank() - 1];
    kernels::causal_window_backward(source.device(), {.dtype = source.dtype(),
                                                      .mode = mode,
                                                      .places = ids.get(name()).numel(),
                                                      .channels = channels,
                                                      .width = width,
                                                      .segments = table.numel() - 1,
                                                      .cu_seqlens = table.data<std::int32_t>(),
                                                      .ids = ids.get(name()).data<std::int32_t>(),
                                                      .dy = source.raw_data(),
                                                      .dx = out.raw_data()});
  }
  void release() override {
    cu_seqlens.reset();
    ids.reset();
  }

  Saved cu_seqlens, ids;
  Shape base;  // of x
  std::int64_t width = 1;
};

void check(const Tensor& x, const Segments& segments, std::int64_t width) {
  require<ShapeError>(x.rank() >= 2, kOp, "x must have shape [..., C] with rank 2 or more but has {}", x.shape());
  require<OptionError>(width >= 1, kOp, "width must be at least 1 but is {}", width);
  require<ShapeError>(segments.defined(), kOp,
                      "segments must be given: without them places of different samples would meet");
  std::int64_t places = 1;
  for (int d = 0; d + 1 < x.rank(); ++d) places *= x.size(d);
  require<ShapeError>(segments.places() == places, kOp,
                      "segments must cover the {} places of x of shape {} but cover {}", places, x.shape(),
                      segments.places());
  require<DeviceError>(segments.device() == x.device(), kOp,
                       "segments must be on {} like x but are on {}: segments.to(x.device()), once per batch",
                       x.device(), segments.device());
}

}  // namespace

Tensor causal_window(const Tensor& x_, const Segments& segments, std::int64_t width) {
  check(x_, segments, width);
  const Tensor x = contiguous(x_);
  Shape shape = x.shape();
  const std::int64_t channels = shape[shape.rank() - 1];
  shape[shape.rank() - 1] = width * channels;
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  kernels::causal_window_forward(x.device(), {.dtype = x.dtype(),
                                              .places = segments.places(),
                                              .channels = channels,
                                              .width = width,
                                              .segments = segments.count(),
                                              .cu_seqlens = segments.cu_seqlens().data<std::int32_t>(),
                                              .ids = segments.ids().data<std::int32_t>(),
                                              .in = x.raw_data(),
                                              .out = y.raw_data()});
  if (!is_floating(y.dtype())) return y;
  detail::check_anomaly(kOp, {&y});
  if (auto node = record<CausalWindowNode>({&y}, {&x})) {
    node->cu_seqlens = segments.cu_seqlens();
    node->ids = segments.ids();
    node->base = x.shape();
    node->width = width;
  }
  return y;
}

Tensor causal_window_composite(const Tensor& x, const Segments& segments, std::int64_t width) {
  check(x, segments, width);
  Shape shape = x.shape();
  const std::int64_t channels = shape[shape.rank() - 1], places = segments.places();
  const Tensor rows = reshape(x, {places, channels});
  std::vector<Tensor> parts;
  for (std::int64_t s = 0; s < segments.count(); ++s) {
    const auto at = static_cast<std::size_t>(s);
    const std::int64_t begin = segments.offsets()[at], end = segments.offsets()[at + 1];
    const Tensor segment = pad(rows.slice(0, begin, end), {0, 0, width - 1, 0});
    std::vector<Tensor> columns;
    for (std::int64_t k = 0; k < width; ++k) columns.push_back(segment.slice(0, k, k + end - begin));
    parts.push_back(concat(columns, 1));
  }
  shape[shape.rank() - 1] = width * channels;
  return reshape(concat(parts, 0), shape);
}

}  // namespace weft
