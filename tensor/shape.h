#pragma once
// Shapes and strides: up to eight 64-bit extents kept inline, so that no tensor operation allocates for them.
#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "tensor/error.h"

namespace weft {

/// A list of up to kMaxRank 64-bit numbers: the extents of a tensor (Shape) or its strides in elements (Strides).
class Dims {
 public:
  static constexpr int kMaxRank = 8;

  Dims() = default;
  Dims(std::initializer_list<std::int64_t> values) : Dims(std::span(values.begin(), values.size())) {}
  explicit Dims(std::span<const std::int64_t> values) {
    require<ShapeError>(values.size() <= kMaxRank, "shape", "at most {} dimensions are supported but got {}", kMaxRank,
                        values.size());
    for (std::int64_t value : values) values_[static_cast<std::size_t>(rank_++)] = value;
  }
  /// `rank` entries, all equal to `value`.
  static Dims filled(int rank, std::int64_t value) {
    Dims dims;
    for (int i = 0; i < rank; ++i) dims.push_back(value);
    return dims;
  }

  int rank() const { return rank_; }
  std::int64_t& operator[](int i) { return values_[static_cast<std::size_t>(i)]; }
  std::int64_t operator[](int i) const { return values_[static_cast<std::size_t>(i)]; }
  std::int64_t back() const { return (*this)[rank_ - 1]; }
  const std::int64_t* begin() const { return values_.data(); }
  const std::int64_t* end() const { return values_.data() + rank_; }

  void push_back(std::int64_t value) {
    require<ShapeError>(rank_ < kMaxRank, "shape", "at most {} dimensions are supported", kMaxRank);
    values_[static_cast<std::size_t>(rank_++)] = value;
  }
  void insert(int at, std::int64_t value);
  void erase(int at);

  /// Product of the entries: the number of elements when this is a shape (1 for rank 0). Throws on overflow of 2^63.
  std::int64_t numel() const;
  /// "[2, 3]"
  std::string str() const;

  friend bool operator==(const Dims& a, const Dims& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i)
      if (a[i] != b[i]) return false;
    return true;
  }

 private:
  std::array<std::int64_t, kMaxRank> values_{};
  int rank_ = 0;
};

/// The extents of a tensor.
using Shape = Dims;
/// Steps between neighbours along each dimension, in elements.
using Strides = Dims;

/// Row-major strides of a dense tensor of this shape.
Strides contiguous_strides(const Shape& shape);
/// The shape that a and b broadcast to (NumPy's rule: align at the right, 1 stretches). Throws ShapeError naming `op`.
Shape broadcast_shapes(const Shape& a, const Shape& b, std::string_view op);
/// `dim` in [-rank, rank) made non-negative; throws ShapeError naming `op` otherwise.
int normalise_dim(int dim, int rank, std::string_view op);

}  // namespace weft

// Shapes go into messages as they are: the text is made only when a message is.
template <>
struct fmt::formatter<weft::Dims> {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  template <class Context>
  auto format(const weft::Dims& dims, Context& context) const {
    auto out = context.out();
    for (const char c : dims.str()) *out++ = c;
    return out;
  }
};
