#pragma once
// Which places of a packed batch belong together: the table that every operation which mixes along time asks for.
#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace weft {

/// N places, the rows of a batch laid end to end, cut into S segments: segment s is the places
/// [cu_seqlens[s], cu_seqlens[s + 1]). The table covers every place: a run of padding is a segment of its own, so that no
/// place is without one and padding never meets data. An operation that mixes along time must not look from one segment
/// into another; boundaries are never inferred from position ids or token values.
///   The host's copy is kept beside the device's: reading lengths on the host never waits for the device.
/// Errors:  ShapeError "[segments] ..." for a table that does not start at 0, decreases, or has more than 2^31 - 1 places.
class Segments {
 public:
  /// No table: rows are whole samples.
  Segments() = default;
  /// From the places where segments start, and the end: {0, 3, 7} is two segments of 3 and 4 places. Empty segments are
  /// refused: they would have no place to stand for.
  explicit Segments(std::vector<std::int32_t> cu_seqlens, Device device = {});
  /// The same table with its device copies on `device`; asynchronous where the device has streams.
  Segments to(Device device) const;

  bool defined() const { return !offsets_.empty(); }
  std::int64_t count() const { return defined() ? static_cast<std::int64_t>(offsets_.size()) - 1 : 0; }  // S
  std::int64_t places() const { return defined() ? offsets_.back() : 0; }                                // N
  std::int64_t max_length() const { return max_length_; }  // of the longest segment
  Device device() const { return device_; }

  const std::vector<std::int32_t>& offsets() const { return offsets_; }  // host, S + 1 entries
  const Tensor& cu_seqlens() const { return cu_seqlens_; }               // i32 [S + 1], on the device
  const Tensor& ids() const { return ids_; }  // i32 [N], the segment of each place, on the device

 private:
  std::vector<std::int32_t> offsets_;
  std::int64_t max_length_ = 0;
  Device device_;
  Tensor cu_seqlens_, ids_;
};

}  // namespace weft
