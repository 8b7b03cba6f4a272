#pragma once
#include "nn/module.h"

namespace weft::nn {

/// Probabilities along a dimension. See: autograd/softmax.h
struct Softmax {
  explicit Softmax(int dim = -1) : dim(dim) {}
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V&) {}

  int dim;
};

/// Their logarithms. See: autograd/softmax.h
struct LogSoftmax {
  explicit LogSoftmax(int dim = -1) : dim(dim) {}
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V&) {}

  int dim;
};

}  // namespace weft::nn
