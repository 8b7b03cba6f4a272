#include "autograd/cross_entropy.h"

#include <algorithm>
#include <cmath>

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

  Saved gradient;  // of the sum, for a dsum of 1
};

// An operand with one entry per row.
void check_rows(const char* name, const Tensor& x, const Tensor& logits, const Shape& rows) {
  if (!x.defined()) return;
  require<ShapeError>(x.shape() == rows, "cross_entropy", "{} must have shape {} like targets but has {}", name, rows,
                      x.shape());
  require<DeviceError>(x.device() == logits.device(), "cross_entropy", "{} must be on {} like logits but is on {}",
                       name, logits.device(), x.device());
}

void check(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options) {
  const char* op = "cross_entropy";
  require<ShapeError>(logits.rank() >= 1 && logits.size(-1) >= 1, op,
                      "logits must have shape [..., V] with V >= 1 but has {}", logits.shape());
  require<DtypeError>(is_floating(logits.dtype()), op, "logits must be f64, f32, f16 or bf16 but is {}",
                      to_string(logits.dtype()));
  Shape rows = logits.shape();
  rows.erase(rows.rank() - 1);
  if (is_floating(targets.dtype())) {
    require<ShapeError>(targets.shape() == logits.shape(), op,
                        "probabilities must have shape {} like logits but have {}", logits.shape(), targets.shape());
    require<DtypeError>(targets.dtype() == logits.dtype(), op,
                        "probabilities must be {} like logits but are {}: cast them", to_string(logits.dtype()),
                        to_string(targets.dtype()));
    require<AutogradError>(!grad_mode() || !requires_grad(targets), op,
                           "no gradient is computed for probabilities, but targets require one: alias() them");
  } else {
    require<ShapeError>(targets.shape() == rows, op,
                        "targets must have shape {} to go with logits of shape {} but has {}", rows, logits.shape(),
                        targets.shape());
    require<DtypeError>(targets.dtype() == Dtype::i64, op, "targets must be i64 but is {}: cast it",
                        to_string(targets.dtype()));
  }
  require<DeviceError>(targets.device() == logits.device(), op, "targets must be on {} like logits but is on {}",
                       logits.device(), targets.device());
  check_rows("mask", options.mask, logits, rows);
  require<DtypeError>(
      !options.mask.defined() || options.mask.dtype() == Dtype::boolean || options.mask.dtype() == Dtype::u8, op,
      "mask must be bool or u8 but is {}", options.mask.defined() ? to_string(options.mask.dtype()) : "");
  check_rows("token_weights", options.token_weights, logits, rows);
  require<DtypeError>(!options.token_weights.defined() || is_floating(options.token_weights.dtype()), op,
                      "token_weights must be f64, f32, f16 or bf16 but is {}",
                      options.token_weights.defined() ? to_string(options.token_weights.dtype()) : "");
  if (const Tensor& weight = options.weight; weight.defined()) {
    require<ShapeError>(weight.shape() == Shape{logits.size(-1)}, op, "weight must have shape [V]=[{}] but has {}",
                        logits.size(-1), weight.shape());
    require<DtypeError>(is_floating(weight.dtype()), op, "weight must be f64, f32, f16 or bf16 but is {}",
                        to_string(weight.dtype()));
    require<DeviceError>(weight.device() == logits.device(), op, "weight must be on {} like logits but is on {}",
                         logits.device(), weight.device());
  }
  require<OptionError>(options.label_smoothing >= 0 && options.label_smoothing <= 1, op,
                       "label_smoothing must be in [0, 1] but is {}", options.label_smoothing);
  require<OptionError>(options.z_loss >= 0 && std::isfinite(options.z_loss), op,
                       "z_loss must be finite and >= 0 but is {}", options.z_loss);
}

Tensor dense(const Tensor& x) { return x.defined() ? contiguous(x.alias()) : x; }
Tensor weights(const Tensor& x, Dtype dtype) { return x.defined() ? dense(cast(x.alias(), dtype)) : x; }

}  // namespace

Loss cross_entropy(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options) {
  check(logits, targets, options);
  const Tensor x = contiguous(logits), target = dense(targets), mask = dense(options.mask),
               weight = weights(options.weight, x.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32),
               token_weights = weights(options.token_weights, Dtype::f32);
  const bool has_labels = target.dtype() == Dtype::i64;
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
               .targets = has_labels ? target.data<std::int64_t>() : nullptr,
               .mask = mask.defined() ? reinterpret_cast<const std::uint8_t*>(mask.raw_data()) : nullptr,
               .gradient = gradient.defined() ? gradient.raw_data() : nullptr,
               .sum = loss.sum.data<double>(),
               .denominator = loss.denominator.data<double>(),
               .partials = partials.data<double>(),
               .status = device.kind == DeviceKind::cpu ? nullptr : status_word(device),
               .probabilities = has_labels ? nullptr : target.raw_data(),
               .class_weights = weight.defined() ? weight.raw_data() : nullptr,
               .token_weights = token_weights.defined() ? token_weights.data<float>() : nullptr,
               .label_smoothing = options.label_smoothing,
               .z_loss = options.z_loss});
  if (device.kind == DeviceKind::simt) check_status(device);
  detail::check_anomaly("cross_entropy", {&loss.sum});
  if (auto node = record<CrossEntropyNode>({&loss.sum}, {&x})) node->gradient = gradient;
  return loss;
}

Loss cross_entropy_composite(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options) {
  check(logits, targets, options);
  const std::int64_t classes = logits.size(-1), rows = logits.numel() / classes;
  const Tensor x = cast(reshape(logits, {rows, classes}), Dtype::f64);
  const auto numbers = [](const Tensor& tensor) { return cast(tensor.alias(), Dtype::f64).to_vector<double>(); };
  const bool has_labels = targets.dtype() == Dtype::i64;
  const std::vector<double> values = numbers(x), target = numbers(targets);
  const auto V = static_cast<std::size_t>(classes), R = static_cast<std::size_t>(rows);
  const std::vector<double> mask = options.mask.defined() ? numbers(options.mask) : std::vector<double>(R, 1.0),
                            tokens = options.token_weights.defined() ? numbers(options.token_weights) : mask,
                            weight = options.weight.defined() ? numbers(options.weight) : std::vector<double>(V, 1.0);
  // Of each row: its largest logit, and what log-sum-exp and its square are multiplied by; of each logit its factor.
  std::vector<double> largest(R), of_log_sum(R, 0.0), of_square(R, 0.0), mass(values.size(), 0.0);
  double denominator = 0;
  for (std::size_t r = 0; r < R; ++r) {
    largest[r] = *std::max_element(values.begin() + static_cast<std::ptrdiff_t>(r * V),
                                   values.begin() + static_cast<std::ptrdiff_t>((r + 1) * V));
    if (mask[r] == 0 || tokens[r] == 0) continue;
    const double t = options.token_weights.defined() ? tokens[r] : 1, smooth = options.label_smoothing;
    if (has_labels) {
      const std::int64_t label = static_cast<std::int64_t>(target[r]);
      if (label == options.ignore_index) continue;
      require(label >= 0 && label < classes, "cross_entropy", "target {} at row {} is outside [0, {})", label, r,
              classes);
      const auto y = static_cast<std::size_t>(label);
      mass[r * V + y] = t * (1 - smooth) * weight[y];
      denominator += t * weight[y];
    } else {
      for (std::size_t v = 0; v < V; ++v) mass[r * V + v] = t * (1 - smooth) * weight[v] * target[r * V + v];
      denominator += t;
    }
    long double total = 0;  // equal masses, all rounded the same way, would add up to a bias
    for (std::size_t v = 0; v < V; ++v) {
      mass[r * V + v] += t * smooth / static_cast<double>(classes) * weight[v];
      total += mass[r * V + v];
    }
    of_log_sum[r] = static_cast<double>(total);
    of_square[r] = t * options.z_loss;
  }
  const auto column = [&](const std::vector<double>& numbers_of_rows) {
    return Tensor::from_vector(numbers_of_rows, {rows, 1});
  };
  const Tensor shift = column(largest), log_sum = log(sum(exp(x - shift), 1, KeepDim::yes)) + shift;
  return {sum(column(of_log_sum) * log_sum) + sum(column(of_square) * log_sum * log_sum) -
              sum(x * Tensor::from_vector(mass, {rows, classes})),
          scalar(denominator, Dtype::f64)};
}

}  // namespace weft
