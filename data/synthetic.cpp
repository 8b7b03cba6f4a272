#include "data/synthetic.h"

#include <cmath>
#include <utility>
#include <vector>

#include "autograd/factories.h"
#include "data/feistel.h"
#include "tensor/error.h"

namespace weft::data {
namespace {

void require_count(const char* op, const char* name, std::int64_t value) {
  require<OptionError>(value >= 1, op, "{} must be at least 1 but is {}", name, value);
}
void require_deviation(const char* op, const char* name, double value) {
  require<OptionError>(value >= 0 && std::isfinite(value), op, "{} must be finite and not negative but is {}", name,
                       value);
}

bool is_prime(std::int64_t n) {
  for (std::int64_t d = 2; d * d <= n; ++d)
    if (n % d == 0) return false;
  return n >= 2;
}

const char* name_of(ModularOperation operation) {
  switch (operation) {
    case ModularOperation::add: return "add";
    case ModularOperation::subtract: return "subtract";
    case ModularOperation::multiply: return "multiply";
    case ModularOperation::divide: return "divide";
  }
  return "";
}

}  // namespace

LinearData make_linear(const LinearOptions& options) {
  constexpr const char* kOp = "make_linear";
  const auto& [samples, features, outputs, noise, seed] = options;
  require_count(kOp, "samples", samples);
  require_count(kOp, "features", features);
  require_count(kOp, "outputs", outputs);
  require_deviation(kOp, "noise", noise);
  LinearData data{randn({samples, features}, seed), Tensor::empty({samples, outputs}),
                  randn({features, outputs}, seed + 1)};
  const Tensor noises = randn({samples, outputs}, seed + 2);
  const auto *x = data.x.data<float>(), *w = data.weights.data<float>(), *e = noises.data<float>();
  auto* y = data.y.data<float>();
  for (std::int64_t i = 0; i < samples; ++i)
    for (std::int64_t o = 0; o < outputs; ++o) {
      double sum = 0;
      for (std::int64_t d = 0; d < features; ++d)
        sum += static_cast<double>(x[i * features + d]) * static_cast<double>(w[d * outputs + o]);
      y[i * outputs + o] = static_cast<float>(sum + noise * static_cast<double>(e[i * outputs + o]));
    }
  return data;
}

GaussianMixtureData make_gaussian_mixture(const GaussianMixtureOptions& options) {
  constexpr const char* kOp = "make_gaussian_mixture";
  const auto& [samples, features, classes, spread, separation, seed] = options;
  require_count(kOp, "samples", samples);
  require_count(kOp, "features", features);
  require_count(kOp, "classes", classes);
  require_deviation(kOp, "spread", spread);
  require_deviation(kOp, "separation", separation);
  GaussianMixtureData data{randn({samples, features}, seed), Tensor::empty({samples}, Dtype::i64),
                           randn({classes, features}, seed + 1)};
  auto *x = data.x.data<float>(), *centres = data.centres.data<float>();
  for (std::int64_t i = 0; i < classes * features; ++i)
    centres[i] = static_cast<float>(separation * static_cast<double>(centres[i]));
  for (std::int64_t i = 0; i < samples; ++i) {
    const std::int64_t k = i % classes;
    data.classes.data<std::int64_t>()[i] = k;
    for (std::int64_t d = 0; d < features; ++d) {
      float& value = x[i * features + d];
      value = static_cast<float>(static_cast<double>(centres[k * features + d]) + spread * static_cast<double>(value));
    }
  }
  return data;
}

ModularData make_modular_arithmetic(const ModularOptions& options) {
  constexpr const char* kOp = "make_modular_arithmetic";
  const std::int64_t p = options.modulus;
  const bool divide = options.operation == ModularOperation::divide;
  require<OptionError>(p >= 2 && p <= 4096, kOp, "modulus must be in [2, 4096] but is {}", p);
  require<OptionError>(!divide || is_prime(p), kOp, "modulus must be a prime to divide by but is {}", p);
  require<OptionError>(options.train_part > 0 && options.train_part < 1, kOp,
                       "train_part must be between 0 and 1 but is {}", options.train_part);
  const std::int64_t divisors = divide ? p - 1 : p, pairs = p * divisors;
  const std::int64_t trained = std::llround(options.train_part * static_cast<double>(pairs));
  require<OptionError>(trained >= 1 && trained < pairs, kOp, "train_part {} leaves a part of {} pairs empty",
                       options.train_part, pairs);

  std::vector<std::int64_t> quotient(static_cast<std::size_t>(divide ? p * p : 0));  // of a and b, where b · c = a
  if (divide)
    for (std::int64_t b = 1; b < p; ++b)
      for (std::int64_t c = 0; c < p; ++c) quotient[static_cast<std::size_t>(b * c % p * p + b)] = c;
  const auto result = [&](std::int64_t a, std::int64_t b) {
    switch (options.operation) {
      case ModularOperation::add: return (a + b) % p;
      case ModularOperation::subtract: return (a - b + p) % p;
      case ModularOperation::multiply: return a * b % p;
      case ModularOperation::divide: break;
    }
    return quotient[static_cast<std::size_t>(a * p + b)];
  };
  const FeistelPermutation order(pairs, options.seed, 0);
  const auto part = [&](std::int64_t begin, std::int64_t end, const char* name) {
    const Tensor input = Tensor::empty({end - begin, 2}, Dtype::i64), target = Tensor::empty({end - begin}, Dtype::i64);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t pair = order(i), a = pair / divisors, b = pair % divisors + (divide ? 1 : 0);
      input.data<std::int64_t>()[2 * (i - begin)] = a;
      input.data<std::int64_t>()[2 * (i - begin) + 1] = b;
      target.data<std::int64_t>()[i - begin] = result(a, b);
    }
    return TensorDataset(input, target, fmt::format("modular_{}_{}/{}", name_of(options.operation), p, name));
  };
  return {part(0, trained, "train"), part(trained, pairs, "test")};
}

}  // namespace weft::data
