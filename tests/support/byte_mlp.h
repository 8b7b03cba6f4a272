#pragma once
// The model of the example byte_mlp at any width, with a dropout.
#include <cstdint>

#include "autograd/causal_window.h"
#include "autograd/elementwise.h"
#include "nn/dropout.h"
#include "nn/embedding.h"
#include "nn/layer_norm.h"
#include "nn/linear.h"
#include "tensor/segments.h"

namespace weft::test {

struct ByteMlpOptions {
  std::int64_t vocabulary = 257, embedding = 8, window = 8, hidden = 32;
  Dtype dtype = Dtype::f32;
  double dropout = 0;
};

/// embedding -> causal window -> linear -> LayerNorm -> SiLU -> dropout -> logits
struct ByteMlp {
  explicit ByteMlp(const ByteMlpOptions& o)
      : window(o.window),
        embedding(o.vocabulary, o.embedding, {.dtype = o.dtype}),
        hidden(o.window * o.embedding, o.hidden, {.dtype = o.dtype}),
        norm(o.hidden, {.dtype = o.dtype}),
        dropout(o.dropout),
        logits(o.hidden, o.vocabulary, {.dtype = o.dtype}) {}
  Tensor operator()(const Tensor& tokens, const Segments& segments) {
    return after_embedding(embedding(tokens), segments);
  }
  Tensor after_embedding(const Tensor& embedded, const Segments& segments) {
    return logits(dropout(silu(norm(hidden(causal_window(embedded, segments, window))))));
  }
  template <class V>
  void visit(V& v) {
    v("embedding", embedding);
    v("hidden", hidden);
    v("norm", norm);
    v("dropout", dropout);
    v("logits", logits);
  }

  std::int64_t window;
  nn::Embedding embedding;
  nn::Linear hidden;
  nn::LayerNorm norm;
  nn::Dropout dropout;
  nn::Linear logits;
};

}  // namespace weft::test
