#pragma once
#include "autograd/elementwise.h"
#include "nn/module.h"

namespace weft::nn {

// Activations as modules, element-wise, with PyTorch's names and defaults; autograd/elementwise.h says what they compute.

/// max(x, 0).
struct ReLU {
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V&) {}
};

/// x, or negative_slope x below 0.
struct LeakyReLU {
  double negative_slope = 0.01;
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V&) {}
};

/// x Φ(x).
struct GELU {
  Gelu approximate = Gelu::erf;  // PyTorch's "none"
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V&) {}
};

/// x sigmoid(x).
struct SiLU {
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V&) {}
};

/// 1 / (1 + e^-x).
struct Sigmoid {
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V&) {}
};

/// The hyperbolic tangent.
struct Tanh {
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V&) {}
};

/// ln(1 + e^(beta x)) / beta.
struct Softplus {
  double beta = 1.0;
  double threshold = 20.0;  // linear where beta x is above
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V&) {}
};

/// x itself: where a layer is optional.
struct Identity {
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V&) {}
};

/// [B, ...] -> [B, product of the rest].
struct Flatten {
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V&) {}
};

}  // namespace weft::nn
