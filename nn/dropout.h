#pragma once
#include "nn/module.h"

namespace weft::nn {

/// In training sets elements to 0 with probability p and scales the others by 1 / (1 - p); in evaluation the identity.
///   Masks are drawn by (seed, update, sample, position, channel) and this layer's `stream`, so that a step may be cut
///   into micro-batches, packed or computed again without changing them. Each layer takes the next stream of the thread
///   at its construction, counted from manual_seed: two layers differ, two models built alike do not. A copy or clone
///   of a layer keeps its stream, as it keeps its weights (the mask is part of the function); set the member to tell
///   copies apart. A layer that is called twice in a step draws one mask for both calls: use two layers.
/// Shapes: x [B, ...] -> y as x; see autograd/dropout.h for tokens.
/// Errors: OptionError "[dropout] p must be in [0, 1) but is 1"; in training Error "[dropout] needs a StepContext ...".
/// See:    autograd/dropout.h
struct Dropout {
  explicit Dropout(double p = 0.5);
  Tensor operator()(const Tensor& x);
  template <class V>
  void visit(V& v) {
    v.mode(mode);
  }

  double p;
  std::uint32_t stream;
  Mode mode = Mode::train;
};

}  // namespace weft::nn
