#include "tensor/shape.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace weft {

void Dims::insert(int at, std::int64_t value) {
  push_back(value);
  for (int i = rank_ - 1; i > at; --i) (*this)[i] = (*this)[i - 1];
  (*this)[at] = value;
}

void Dims::erase(int at) {
  for (int i = at; i + 1 < rank_; ++i) (*this)[i] = (*this)[i + 1];
  --rank_;
}

std::int64_t Dims::numel() const {
  std::int64_t count = 1;
  for (std::int64_t extent : *this)
    require<ShapeError>(!__builtin_mul_overflow(count, extent, &count), "shape",
                        "the number of elements of {} exceeds 2^63 - 1", str());
  return count;
}

std::string Dims::str() const { return fmt::format("[{}]", fmt::join(begin(), end(), ", ")); }

Strides contiguous_strides(const Shape& shape) {
  Strides strides = Dims::filled(shape.rank(), 1);
  for (int i = shape.rank() - 2; i >= 0; --i) strides[i] = strides[i + 1] * std::max<std::int64_t>(shape[i + 1], 1);
  return strides;
}

Shape broadcast_shapes(const Shape& a, const Shape& b, std::string_view op) {
  Shape out = a.rank() >= b.rank() ? a : b;
  const int rank = out.rank();
  for (int i = 0; i < rank; ++i) {
    const int in_a = i - (rank - a.rank()), in_b = i - (rank - b.rank());
    const std::int64_t extent_a = in_a >= 0 ? a[in_a] : 1, extent_b = in_b >= 0 ? b[in_b] : 1;
    require<ShapeError>(extent_a == extent_b || extent_a == 1 || extent_b == 1, op,
                        "shapes {} and {} do not broadcast: dimension {} is {} against {}", a, b, i, extent_a,
                        extent_b);
    out[i] = extent_a == 1 ? extent_b : extent_a;
  }
  return out;
}

int normalise_dim(int dim, int rank, std::string_view op) {
  require<ShapeError>(dim >= -rank && dim < rank, op, "dimension {} is outside [-{}, {}) of a tensor of rank {}", dim,
                      rank, rank, rank);
  return dim < 0 ? dim + rank : dim;
}

}  // namespace weft
