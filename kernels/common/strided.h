#pragma once
// Walking several strided operands of one shape together, as runs along the innermost dimension.
#include <array>
#include <cstdint>

#include "tensor/parallel.h"
#include "tensor/shape.h"

namespace weft::kernels {

/// N operands (strides in elements, 0 where broadcast) over one shape, with neighbouring dimensions merged where every
/// operand allows it: a dense tensor of any rank becomes one run.
template <std::size_t N>
class StridedRuns {
 public:
  StridedRuns(const Shape& shape, const std::array<Strides, N>& strides) {
    for (int d = 0; d < shape.rank(); ++d) {
      if (shape[d] == 1) continue;
      bool merges = rank_ > 0;
      for (std::size_t n = 0; merges && n < N; ++n) merges = strides_[n][rank_ - 1] == strides[n][d] * shape[d];
      if (merges) {
        extents_[rank_ - 1] *= shape[d];
        for (std::size_t n = 0; n < N; ++n) strides_[n][rank_ - 1] = strides[n][d];
      } else {
        extents_[rank_] = shape[d];
        for (std::size_t n = 0; n < N; ++n) strides_[n][rank_] = strides[n][d];
        ++rank_;
      }
    }
    if (rank_ == 0) {  // a single element
      extents_[0] = 1;
      rank_ = 1;
    }
    for (int d = 0; d < rank_; ++d) count_ *= extents_[d];
  }

  /// Stride of operand n along the innermost merged dimension.
  std::int64_t inner_stride(std::size_t n) const { return strides_[n][rank_ - 1]; }

  /// Calls f(offsets, length) for runs that cover every element once, in parallel chunks of a fixed number of elements.
  /// offsets[n] is where operand n's run starts, in elements.
  template <class F>
  void for_each(std::int64_t grain, F&& f) const {
    parallel_ranges(count_, grain, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t inner = extents_[rank_ - 1];
      std::array<std::int64_t, Dims::kMaxRank> index{};
      std::int64_t rest = begin;
      for (int d = rank_ - 1; d >= 0; --d) {
        index[static_cast<std::size_t>(d)] = rest % extents_[d];
        rest /= extents_[d];
      }
      while (begin < end) {
        std::array<std::int64_t, N> offsets{};
        for (std::size_t n = 0; n < N; ++n)
          for (int d = 0; d < rank_; ++d) offsets[n] += index[static_cast<std::size_t>(d)] * strides_[n][d];
        std::int64_t& position = index[static_cast<std::size_t>(rank_ - 1)];
        const std::int64_t length = inner - position < end - begin ? inner - position : end - begin;
        f(offsets, length);
        begin += length;
        position += length;
        for (int d = rank_ - 1; d > 0 && index[static_cast<std::size_t>(d)] == extents_[d]; --d) {
          index[static_cast<std::size_t>(d)] = 0;
          ++index[static_cast<std::size_t>(d - 1)];
        }
      }
    });
  }

 private:
  std::int64_t extents_[Dims::kMaxRank] = {};
  std::array<std::int64_t[Dims::kMaxRank], N> strides_{};
  int rank_ = 0;
  std::int64_t count_ = 1;
};

/// Elements of work per parallel chunk of an element-wise kernel: far above the cost of handing out a chunk (about 1 µs),
/// small enough that two cores share a tensor of 128 KiB.
inline constexpr std::int64_t kElementwiseGrain = 16384;

}  // namespace weft::kernels
