#include "autograd/dropout.h"

#include <algorithm>
#include <cmath>

#include "autograd/layout.h"
#include "autograd/node.h"
#include "autograd/step_context.h"
#include "kernels/dropout.h"

namespace weft {
namespace {

// All that a mask depends on, taken from the context once and kept for backward.
struct Mask {
  std::uint64_t seed = 0;
  std::uint32_t stream = 0;
  double p = 0;
  std::int64_t rows = 0, channels = 0, tokens = 1;
  Tensor update = {}, sample_ids = {}, positions = {};  // contiguous; positions may be undefined
};

Tensor apply(const Mask& mask, const Tensor& x) {
  const Tensor in = contiguous(x);
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  const double threshold = std::min(std::nearbyint(mask.p * 0x1p32), 0x1p32 - 1);
  kernels::dropout(x.device(), {.dtype = x.dtype(),
                                .rows = mask.rows,
                                .channels = mask.channels,
                                .tokens = mask.tokens,
                                .tokens_per_id = mask.sample_ids.numel() == mask.rows ? 1 : mask.tokens,
                                .seed = mask.seed,
                                .stream = mask.stream,
                                .threshold = static_cast<std::uint32_t>(threshold),
                                .scale = 1 / (1 - mask.p),
                                .update = mask.update.data<std::int64_t>(),
                                .sample_ids = mask.sample_ids.data<std::int64_t>(),
                                .positions = mask.positions.defined() ? mask.positions.data<std::int64_t>() : nullptr,
                                .in = in.raw_data(),
                                .out = out.raw_data()});
  return out;
}

struct DropoutNode final : Node {
  const char* name() const override { return "dropout"; }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    if (dx.wanted(0)) dx.set(0, apply(mask, dy[0]));
  }
  void release() override { mask = {}; }

  Mask mask;
};

Tensor from_context(const char* what, const Tensor& tensor, const Tensor& x) {
  const char* const op = "dropout";
  require(tensor.defined(), op, "the StepContext has no {}, which its randomness is keyed by", what);
  require<DtypeError>(tensor.dtype() == Dtype::i64, op, "{} of the StepContext must be i64 but is {}", what,
                      to_string(tensor.dtype()));
  require<DeviceError>(tensor.device() == x.device(), op, "{} of the StepContext must be on {} like x but is on {}",
                       what, x.device(), tensor.device());
  return contiguous(tensor.alias());
}

Mask mask_of(const Tensor& x, double p, std::uint32_t stream) {
  const char* const op = "dropout";
  const StepContext& context = StepContext::require(op);
  require<ShapeError>(x.rank() >= 1, op, "x must have shape [B, ...] but is a scalar");
  Mask mask{.seed = context.seed, .stream = stream, .p = p};
  mask.update = from_context("update", context.update, x);
  require<ShapeError>(mask.update.numel() == 1, op, "update of the StepContext must have shape [] but has {}",
                      mask.update.shape());
  const std::int64_t batch = x.size(0);
  // Whether [B, T] of the context is the beginning of x's shape.
  const auto leads = [&](const Tensor& tensor) {
    return tensor.rank() == 2 && x.rank() >= 2 && tensor.size(0) == batch && tensor.size(1) == x.size(1);
  };
  mask.sample_ids = from_context("sample_ids", context.sample_ids, x);
  const bool ids_per_token = leads(mask.sample_ids);
  require<ShapeError>(ids_per_token || (mask.sample_ids.rank() == 1 && mask.sample_ids.size(0) == batch), op,
                      "sample_ids of the StepContext must have shape [{}] like the rows of x {} but has {}", batch,
                      x.shape(), mask.sample_ids.shape());
  bool positioned = false;
  if (context.positions.defined()) {
    mask.positions = from_context("positions", context.positions, x);
    positioned = leads(mask.positions);
    require<ShapeError>(positioned || (x.rank() == 2 && mask.positions.rank() == 2 && mask.positions.size(0) == batch),
                        op, "positions of the StepContext must have shape [B, T] as x [B, T, ...] {} begins but has {}",
                        x.shape(), mask.positions.shape());
    if (!positioned) mask.positions = Tensor();
  }
  const bool has_tokens = x.rank() >= 3 || positioned || ids_per_token;
  mask.tokens = has_tokens ? x.size(1) : 1;
  mask.rows = batch * mask.tokens;
  mask.channels = 1;
  for (int d = has_tokens ? 2 : 1; d < x.rank(); ++d) mask.channels *= x.size(d);
  mask.tokens = std::max<std::int64_t>(mask.tokens, 1);
  require<ShapeError>(mask.tokens <= std::int64_t{1} << 30, op, "at most 2^30 tokens per row but x has shape {}",
                      x.shape());
  return mask;
}

}  // namespace

Tensor dropout(const Tensor& x, double p, std::uint32_t stream) {
  require<OptionError>(p >= 0 && p < 1, "dropout", "p must be in [0, 1) but is {}", p);
  require<DtypeError>(is_floating(x.dtype()), "dropout", "x must be f64, f32, f16 or bf16 but is {}",
                      to_string(x.dtype()));
  if (p == 0) return x;
  Mask mask = mask_of(x, p, stream);
  Tensor y = apply(mask, x.alias());
  detail::check_anomaly("dropout", {&y});
  if (auto node = record<DropoutNode>({&y}, {&x})) node->mask = std::move(mask);
  return y;
}

}  // namespace weft
