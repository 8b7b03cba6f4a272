#pragma once
// Initial values. They are drawn on the cpu from Philox, in f64 and rounded once, so that a seed gives the same model on
// every device. The functions are those of torch.nn.init, with its names and defaults.
#include <cstdint>

#include "tensor/tensor.h"

namespace weft::nn {

/// The seed of the modules constructed from now on by this thread; also restarts their numbering. Call it before building a
/// model: two models built after the same call are equal.
void manual_seed(std::uint64_t seed);

/// The next number for a dropout layer of this thread: 0, 1, ... since manual_seed. Apart from the initialisers' numbers,
/// so that a dropout does not change the weights of the layers behind it.
std::uint32_t next_dropout_stream();

}  // namespace weft::nn

// Each function fills a contiguous floating tensor in place, whatever the device, and takes the next stream of the thread's
// seed. Errors of all: ShapeError "[uniform_] needs a contiguous tensor"; DtypeError.
namespace weft::nn::init {

/// U[low, high).
void uniform_(const Tensor& tensor, double low = 0, double high = 1);
/// N(mean, std²).
void normal_(const Tensor& tensor, double mean = 0, double std = 1);
/// N(mean, std²) cut to [low, high], by the inverse of its distribution function.
/// Errors: OptionError unless std > 0 and low < high.
void trunc_normal_(const Tensor& tensor, double mean = 0, double std = 1, double low = -2, double high = 2);
void constant_(const Tensor& tensor, double value);
void zeros_(const Tensor& tensor);
void ones_(const Tensor& tensor);

/// Inputs and outputs of one unit of a weight [out, in, ...]: fan_in = in * the product of the rest, fan_out = out * that.
struct Fans {
  std::int64_t in, out;
};
/// Errors: ShapeError "[fans] needs a weight of at least 2 dimensions [out, in, ...] but has shape [5]".
Fans fans(const Tensor& weight);

enum class Nonlinearity : std::uint8_t { linear, sigmoid, tanh, relu, leaky_relu, selu };
/// The factor that keeps the variance of activations through the nonlinearity: 1, 1, 5/3, sqrt(2), sqrt(2 / (1 + a²)),
/// 3/4. `a` is the negative slope of leaky_relu.
double calculate_gain(Nonlinearity nonlinearity, double a = 0.01);

/// Glorot: variance gain² * 2 / (fan_in + fan_out), keeping the variance of activations and gradients.
/// Source: Glorot, Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", eq. 16.
void xavier_uniform_(const Tensor& weight, double gain = 1);
void xavier_normal_(const Tensor& weight, double gain = 1);

enum class FanMode : std::uint8_t { fan_in, fan_out };
/// What kaiming_uniform_ and kaiming_normal_ take.
struct KaimingOptions {
  double a = 0;                    // negative slope of leaky_relu
  FanMode mode = FanMode::fan_in;  // keeps the variance of activations; fan_out: of gradients
  Nonlinearity nonlinearity = Nonlinearity::leaky_relu;
};
/// He: variance gain² / fan.
/// Source: He, Zhang, Ren, Sun 2015, arXiv:1502.01852, eq. 10 and 14.
void kaiming_uniform_(const Tensor& weight, KaimingOptions options = {});
void kaiming_normal_(const Tensor& weight, KaimingOptions options = {});

/// gain times a random matrix with orthonormal rows or columns, whichever are fewer, of the weight as [out, the rest]:
/// Gram-Schmidt, twice, on normal numbers in f64.
/// Errors: ShapeError unless it has at least 2 dimensions. Cost: 4·rows·columns·min(rows, columns) flop.
/// Source: Saxe, McClelland, Ganguli 2014, arXiv:1312.6120.
void orthogonal_(const Tensor& weight, double gain = 1);

/// PyTorch's default for Linear: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for the weight (kaiming_uniform_ with a = sqrt(5)) and
/// the bias.
void default_(const Tensor& tensor, std::int64_t fan_in);

}  // namespace weft::nn::init
