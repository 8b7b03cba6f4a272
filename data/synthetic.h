#pragma once
// Data made of random numbers, with the truth beside it: every value is a function of the seed and its own place alone, the same
// on every machine and for any number of threads.
#include <cstdint>
#include <string>

#include "data/tensor_dataset.h"
#include "tensor/tensor.h"

namespace weft::data {

/// What make_linear() makes.
struct LinearOptions {
  std::int64_t samples = 1000;  // N >= 1
  std::int64_t features = 20;   // D >= 1
  std::int64_t outputs = 1;     // O >= 1
  double noise = 0;             // standard deviation, >= 0
  std::uint64_t seed = 1;
};

/// A linear law, and samples of it.
struct LinearData {
  Tensor x;        // f32 [N, D]
  Tensor y;        // f32 [N, O]
  Tensor weights;  // f32 [D, O]: the truth

  TensorDataset dataset() const { return {x, y, "linear"}; }
};

/// Samples of y = x W + noise, with x, W and the noise standard normal.
///   auto data = data::make_linear({.samples = 1000, .features = 20, .noise = 0.5});
///   data::Loader loader(data.dataset(), {.batch = data::MiniBatch{32}});
/// Numerics: y summed in f64 and rounded once. x is randn({N, D}, seed), W randn(seed + 1), the noise randn(seed + 2).
/// Errors:   OptionError "[make_linear] samples must be at least 1 but is 0".
LinearData make_linear(const LinearOptions& options);

/// What make_gaussian_mixture() makes.
struct GaussianMixtureOptions {
  std::int64_t samples = 1000;  // N >= 1
  std::int64_t features = 2;    // D >= 1
  std::int64_t classes = 3;     // K >= 1
  double spread = 1;            // standard deviation around a centre, >= 0
  double separation = 4;        // standard deviation of the centres, >= 0
  std::uint64_t seed = 1;
};

/// Points around centres.
struct GaussianMixtureData {
  Tensor x;        // f32 [N, D]
  Tensor classes;  // i64 [N]
  Tensor centres;  // f32 [K, D]: the truth

  TensorDataset dataset() const { return {x, classes, "gaussian_mixture"}; }
};

/// Points normally distributed around normally distributed centres, one centre per class.
///   x[i] = centres[classes[i]] + spread · normal,   classes[i] = i mod K: as many of each as can be, give or take one
/// Errors:  as make_linear.
GaussianMixtureData make_gaussian_mixture(const GaussianMixtureOptions& options);

/// What make_modular_arithmetic() computes: a + b, a - b, a · b, or the c with c · b = a.
enum class ModularOperation { add, subtract, multiply, divide };

/// What make_modular_arithmetic() makes.
struct ModularOptions {
  std::int64_t modulus = 97;  // p in [2, 4096]; a prime for divide
  ModularOperation operation = ModularOperation::add;
  double train_part = 0.5;  // of all pairs, in (0, 1)
  std::uint64_t seed = 1;
};

/// All pairs, in two parts.
struct ModularData {
  TensorDataset train, test;
};

/// The whole table of an operation modulo p, cut at random: a task that can be learnt by heart or understood, as the test part
/// shows, often long after the training part is known.
///   input[i] = (a, b), i64 [N, 2]; target[i] = a ∘ b mod p, i64 [N]. There are p² pairs (p (p - 1) for divide, b = 0 left out),
///   of which train_part, rounded, are for training: with p = 97 and 0.3, 2823 and 6586.
/// Errors:  OptionError for options outside their ranges, a divide whose modulus is no prime, or a part that would be empty.
/// Source:  Power et al. 2022, "Grokking: generalization beyond overfitting on small algorithmic datasets", arXiv:2201.02177.
ModularData make_modular_arithmetic(const ModularOptions& options);

}  // namespace weft::data
