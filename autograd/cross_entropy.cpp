#include "autograd/cross_entropy.h"

#include <algorithm>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "autograd/reduce.h"
#include "kernels/cross_entropy.h"
#include "tensor/status.h"

namespace weft {
namespace {

struct CrossEntropyNode final : Node {
  const char* name() const override { return "cross_entropy"; }

  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    if (!dx.wanted(0)) return;
    const Tensor& unscaled = gradient.get(name());
    // Looking at the factor's value would make the host wait for the device.
    if (detail::is_unit_seed(dy[0])) return dx.set(0, unscaled);
    const Tensor factor = contiguous(dy[0]);
    Tensor dlogits = Tensor::empty(unscaled.shape(), unscaled.dtype(), unscaled.device());
    kernels::cross_entropy_backward(unscaled.device(), {.dtype = unscaled.dtype(),
                                                        .count = unscaled.numel(),
                                                        .gradient = unscaled.raw_data(),
                                                        .scale = factor.data<double>(),
                                                        .dlogits = dlogits.raw_data()});
    dx.set(0, std::move(dlogits));
  }
  void release() override { gradient.reset(); }

  Saved gradient;  // softmax - onehot
};

void check(const Tensor& logits, const Tensor& targets, const Tensor& mask) {
  const char* op = "cross_entropy";
  require<ShapeError>(logits.rank() >= 1 && logits.size(-1) >= 1, op,
                      "logits must have shape [..., V] with V >= 1 but has {}", logits.shape());
  require<DtypeError>(is_floating(logits.dtype()), op, "logits must be f64, f32, f16 or bf16 but is {}",
                      to_string(logits.dtype()));
  Shape rows = logits.shape();
  rows.erase(rows.rank() - 1);
  require<ShapeError>(targets.shape() == rows, op,
                      "targets must have shape {} to go with logits of shape {} but has {}", rows, logits.shape(),
                      targets.shape());
  require<DtypeError>(targets.dtype() == Dtype::i64, op, "targets must be i64 but is {}: cast it",
                      to_string(targets.dtype()));
  require<DeviceError>(targets.device() == logits.device(), op, "targets must be on {} like logits but is on {}",
                       logits.device(), targets.device());
  if (!mask.defined()) return;
  require<ShapeError>(mask.shape() == rows, op, "mask must have shape {} like targets but has {}", rows, mask.shape());
  require<DtypeError>(mask.dtype() == Dtype::boolean || mask.dtype() == Dtype::u8, op,
                      "mask must be bool or u8 but is {}", to_string(mask.dtype()));
  require<DeviceError>(mask.device() == logits.device(), op, "mask must be on {} like logits but is on {}",
                       logits.device(), mask.device());
}

}  // namespace

Loss cross_entropy(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options) {
  check(logits, targets, options.mask);
  const Tensor x = contiguous(logits), labels = contiguous(targets);
  const Tensor mask = options.mask.defined() ? contiguous(options.mask) : options.mask;
  const Device device = x.device();
  const std::int64_t classes = x.size(-1), rows = x.numel() / classes;
  Loss loss{Tensor::empty({}, Dtype::f64, device), Tensor::empty({}, Dtype::f64, device)};
  const std::int64_t chunks = kernels::cross_entropy_partials(device, rows, classes);
  const Tensor partials = chunks > 1 ? Tensor::empty({chunks}, Dtype::f64, device) : loss.sum;
  Tensor gradient;
  if (detail::should_record({&x})) gradient = Tensor::empty(x.shape(), x.dtype(), device);
  kernels::cross_entropy_forward(
      device, {.dtype = x.dtype(),
               .rows = rows,
               .classes = classes,
               .ignore_index = options.ignore_index,
               .logits = x.raw_data(),
               .targets = labels.data<std::int64_t>(),
               .mask = mask.defined() ? reinterpret_cast<const std::uint8_t*>(mask.raw_data()) : nullptr,
               .gradient = gradient.defined() ? gradient.raw_data() : nullptr,
               .sum = loss.sum.data<double>(),
               .denominator = loss.denominator.data<double>(),
               .partials = partials.data<double>(),
               .status = device.kind == DeviceKind::cpu ? nullptr : status_word(device)});
  if (device.kind == DeviceKind::simt) check_status(device);
  detail::check_anomaly("cross_entropy", {&loss.sum});
  if (auto node = record<CrossEntropyNode>({&loss.sum}, {&x})) node->gradient = gradient;
  return loss;
}

Loss cross_entropy_composite(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options) {
  check(logits, targets, options.mask);
  const std::int64_t classes = logits.size(-1), rows = logits.numel() / classes;
  const Tensor x = cast(reshape(logits, {rows, classes}), Dtype::f64);
  const std::vector<std::int64_t> labels = targets.to_vector<std::int64_t>();
  const std::vector<double> values = x.alias().to_vector<double>();
  std::vector<double> mask(labels.size(), 1.0), largest(labels.size()), onehot(values.size(), 0.0);
  if (options.mask.defined()) mask = cast(options.mask, Dtype::f64).to_vector<double>();
  double counted = 0;
  for (std::size_t r = 0; r < labels.size(); ++r) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(r) * classes;
    largest[r] = *std::max_element(begin, begin + classes);
    if (mask[r] == 0 || labels[r] == options.ignore_index) {
      mask[r] = 0;
      continue;
    }
    require(labels[r] >= 0 && labels[r] < classes, "cross_entropy", "target {} at row {} is outside [0, {})", labels[r],
            r, classes);
    mask[r] = 1;
    counted += 1;
    onehot[r * static_cast<std::size_t>(classes) + static_cast<std::size_t>(labels[r])] = 1.0;
  }
  const Tensor counts = Tensor::from_vector(mask, {rows, 1}), shift = Tensor::from_vector(largest, {rows, 1});
  const Tensor log_sum = log(sum(exp(x - shift), 1, KeepDim::yes)) + shift;
  return {sum(counts * log_sum) - sum(x * Tensor::from_vector(onehot, {rows, classes})), scalar(counted, Dtype::f64)};
}

}  // namespace weft
