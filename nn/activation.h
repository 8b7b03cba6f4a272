#pragma once
#include "nn/module.h"

namespace weft::nn {

/// max(x, 0), element-wise.
struct ReLU {
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
