#include "nn/embedding.h"

#include "autograd/index.h"
#include "autograd/layout.h"
#include "nn/init.h"

namespace weft::nn {

Embedding::Embedding(std::int64_t num_embeddings, std::int64_t embedding_dim, EmbeddingOptions options)
    : padding_idx(options.padding_idx) {
  const char* const op = "embedding";
  require<ShapeError>(num_embeddings >= 1 && embedding_dim >= 1, op,
                      "needs at least one row and one column but has [{}, {}]", num_embeddings, embedding_dim);
  if (padding_idx)
    require<OptionError>(*padding_idx >= 0 && *padding_idx < num_embeddings, op,
                         "padding_idx must be in [0, {}) but is {}", num_embeddings, *padding_idx);
  const Tensor table = Tensor::empty({num_embeddings, embedding_dim}, options.dtype);
  init::normal_(table);
  if (padding_idx) fill_(table.select(0, *padding_idx), 0);
  weight = parameter(table);
}

Tensor Embedding::operator()(const Tensor& indices) { return weft::embedding(weight, indices, padding_idx); }

}  // namespace weft::nn
