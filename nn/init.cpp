#include "nn/init.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/philox.h"

namespace weft::nn {
namespace {

thread_local std::uint64_t thread_seed = 0;
thread_local std::uint32_t next_stream = 0;
thread_local std::uint32_t next_dropout = 0;

// Fills the tensor with value(random), drawn on the cpu, whatever the device: the same numbers everywhere.
template <class F>
void draw(const char* op, const Tensor& tensor, F&& value) {
  require<ShapeError>(tensor.is_contiguous(), op, "needs a contiguous tensor");
  Philox random(thread_seed, RandomUse::initialisation, next_stream++);
  const bool on_cpu = tensor.device().kind == DeviceKind::cpu;
  const Tensor drawn = on_cpu ? tensor : Tensor::empty(tensor.shape(), tensor.dtype());
  dispatch_float(tensor.dtype(), op, [&]<class T>(std::type_identity<T>) {
    T* const values = drawn.data<T>();
    for (std::int64_t i = 0; i < tensor.numel(); ++i)
      values[i] = static_cast<T>(static_cast<compute_t<T>>(value(random)));
  });
  if (!on_cpu) tensor.copy_bytes_from(drawn);
  tensor.bump_version();
}

void draw_uniform(const char* op, const Tensor& tensor, double middle, double bound) {
  draw(op, tensor, [=](Philox& random) { return middle + (2.0 * random.uniform() - 1.0) * bound; });
}
void draw_normal(const char* op, const Tensor& tensor, double mean, double std) {
  draw(op, tensor, [=](Philox& random) { return mean + std * random.normal(); });
}

// x with erf(x) = y, |y| < 1: a start from the series of the logarithm (Winitzki 2008), then Newton steps to rounding.
double inverse_erf(double y) {
  if (y <= -1 || y >= 1) return y < 0 ? -HUGE_VAL : HUGE_VAL;
  const double a = 0.147, l = std::log1p(-y * y), t = 2 / (3.141592653589793 * a) + l / 2;
  double x = std::copysign(std::sqrt(std::sqrt(t * t - l / a) - t), y);
  for (int step = 0; step < 3; ++step) x -= (std::erf(x) - y) / (1.1283791670955126 * std::exp(-x * x));
  return x;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double total = 0;
  for (std::size_t i = 0; i < a.size(); ++i) total += a[i] * b[i];
  return total;
}

}  // namespace

void manual_seed(std::uint64_t seed) {
  thread_seed = seed;
  next_stream = 0;
  next_dropout = 0;
}

std::uint32_t next_dropout_stream() { return next_dropout++; }

namespace init {

void uniform_(const Tensor& tensor, double low, double high) {
  require<OptionError>(low <= high, "uniform_", "needs low <= high but has {} and {}", low, high);
  draw_uniform("uniform_", tensor, (low + high) / 2, (high - low) / 2);
}

void normal_(const Tensor& tensor, double mean, double std) {
  require<OptionError>(std >= 0, "normal_", "std must not be negative but is {}", std);
  draw_normal("normal_", tensor, mean, std);
}

void trunc_normal_(const Tensor& tensor, double mean, double std, double low, double high) {
  require<OptionError>(std > 0 && low < high, "trunc_normal_", "needs std > 0 and low < high but has {}, {} and {}",
                       std, low, high);
  // Half the distribution function at the ends, scaled to erf's [-1, 1].
  const auto at = [&](double x) { return std::erf((x - mean) / (std * std::sqrt(2.0))); };
  const double first = at(low), last = at(high);
  draw("trunc_normal_", tensor, [=](Philox& random) {
    const double y = first + (last - first) * random.uniform();
    return std::clamp(mean + std * std::sqrt(2.0) * inverse_erf(y), low, high);
  });
}

void constant_(const Tensor& tensor, double value) {
  draw("constant_", tensor, [=](Philox&) { return value; });
}
void zeros_(const Tensor& tensor) { constant_(tensor, 0); }
void ones_(const Tensor& tensor) { constant_(tensor, 1); }

Fans fans(const Tensor& weight) {
  require<ShapeError>(weight.rank() >= 2, "fans",
                      "needs a weight of at least 2 dimensions [out, in, ...] but has shape {}", weight.shape());
  std::int64_t field = 1;
  for (int d = 2; d < weight.rank(); ++d) field *= weight.size(d);
  return {weight.size(1) * field, weight.size(0) * field};
}

double calculate_gain(Nonlinearity nonlinearity, double a) {
  switch (nonlinearity) {
    case Nonlinearity::tanh: return 5.0 / 3;
    case Nonlinearity::relu: return std::sqrt(2.0);
    case Nonlinearity::leaky_relu: return std::sqrt(2 / (1 + a * a));
    case Nonlinearity::selu: return 0.75;
    case Nonlinearity::linear:
    case Nonlinearity::sigmoid: return 1;
  }
  return 1;
}

namespace {

double xavier_std(const Tensor& weight, double gain) {
  const Fans fan = fans(weight);
  return fan.in + fan.out == 0 ? 0 : gain * std::sqrt(2.0 / static_cast<double>(fan.in + fan.out));
}
double kaiming_std(const Tensor& weight, const KaimingOptions& options) {
  const Fans fan = fans(weight);
  const std::int64_t count = options.mode == FanMode::fan_in ? fan.in : fan.out;
  return count == 0 ? 0 : calculate_gain(options.nonlinearity, options.a) / std::sqrt(static_cast<double>(count));
}
// Half the width of a uniform distribution of this standard deviation.
double bound_of(double std) { return std::sqrt(3.0) * std; }

}  // namespace

void xavier_uniform_(const Tensor& weight, double gain) {
  draw_uniform("xavier_uniform_", weight, 0, bound_of(xavier_std(weight, gain)));
}
void xavier_normal_(const Tensor& weight, double gain) {
  draw_normal("xavier_normal_", weight, 0, xavier_std(weight, gain));
}
void kaiming_uniform_(const Tensor& weight, KaimingOptions options) {
  draw_uniform("kaiming_uniform_", weight, 0, bound_of(kaiming_std(weight, options)));
}
void kaiming_normal_(const Tensor& weight, KaimingOptions options) {
  draw_normal("kaiming_normal_", weight, 0, kaiming_std(weight, options));
}

void orthogonal_(const Tensor& weight, double gain) {
  require<ShapeError>(weight.rank() >= 2, "orthogonal_", "needs at least 2 dimensions but has shape {}",
                      weight.shape());
  const std::int64_t rows = weight.size(0), columns = rows == 0 ? 0 : weight.numel() / rows;
  const auto count = static_cast<std::size_t>(std::min(rows, columns)),
             length = static_cast<std::size_t>(std::max(rows, columns));
  // The fewer vectors, each in one piece. Twice: what the first pass leaves of the others by rounding goes in the second.
  std::vector<std::vector<double>> basis(count, std::vector<double>(length));
  {
    Philox random(thread_seed, RandomUse::initialisation, next_stream);  // the stream that draw() below counts
    for (auto& vector : basis)
      for (double& x : vector) x = random.normal();
  }
  for (std::size_t v = 0; v < count; ++v) {
    for (int pass = 0; pass < 2; ++pass)
      for (std::size_t other = 0; other < v; ++other) {
        const double along = dot(basis[v], basis[other]);
        for (std::size_t i = 0; i < length; ++i) basis[v][i] -= along * basis[other][i];
      }
    const double norm = std::sqrt(dot(basis[v], basis[v]));
    for (double& x : basis[v]) x /= norm;
  }
  std::size_t at = 0;
  const auto width = static_cast<std::size_t>(columns);
  draw("orthogonal_", weight, [&](Philox&) {
    const std::size_t r = at / width, c = at % width;
    ++at;
    return gain * (rows <= columns ? basis[r][c] : basis[c][r]);
  });
}

void default_(const Tensor& tensor, std::int64_t fan_in) {
  draw_uniform("default_", tensor, 0, fan_in > 0 ? 1.0 / std::sqrt(static_cast<double>(fan_in)) : 0.0);
}

}  // namespace init
}  // namespace weft::nn
