#pragma once
#include <optional>

#include "nn/module.h"

namespace weft::nn {

/// Of nn::Embedding.
struct EmbeddingOptions {
  std::optional<std::int64_t> padding_idx = {};  // a row that starts as 0 and gets no gradient
  Dtype dtype = Dtype::f32;
};

/// A table of vectors, looked up by integers.
/// Shapes: indices i64|i32 [...] in [0, num_embeddings) -> y [..., D]; weight [V, D].
/// Init:   N(0, 1), the row of padding_idx 0, as PyTorch's Embedding.
/// Errors: ShapeError "[embedding] needs at least one row and one column but has [0, 4]"; OptionError "[embedding]
///         padding_idx must be in [0, 10) but is 10"; Error "[embedding] index 12 at position 5 is outside [0, 10)".
/// See:    autograd/index.h
struct Embedding {
  Embedding(std::int64_t num_embeddings, std::int64_t embedding_dim, EmbeddingOptions options = {});
  Tensor operator()(const Tensor& indices);
  template <class V>
  void visit(V& v) {
    v("weight", weight);
  }

  Tensor weight;  // [V, D]
  std::optional<std::int64_t> padding_idx;
};

}  // namespace weft::nn
