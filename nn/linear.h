#pragma once
#include "nn/module.h"

namespace weft::nn {

/// What Linear is made with.
struct LinearOptions {
  bool bias = true;
  Dtype dtype = Dtype::f32;
};

/// y = x W^T + b.
/// Shapes: x [..., in] -> y [..., out]; weight [out, in]; bias [out].
/// Init:   weight and bias from U(-1/sqrt(in), 1/sqrt(in)), as PyTorch's Linear.
/// See:    autograd/linear.h
struct Linear {
  Linear(std::int64_t in, std::int64_t out, LinearOptions options = {});
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V& v) {
    v("weight", weight);
    v("bias", bias);
  }

  Tensor weight;  // [out, in]
  Tensor bias;    // [out], undefined without bias
};

}  // namespace weft::nn
