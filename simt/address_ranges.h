#pragma once
// Which part of the emulated device's address space is in use. Freed ranges are used again as late as possible, so that
// a stale pointer meets memory that is known to be free: first the space that was never used, then the ranges freed
// longest ago.
#include <cstdint>
#include <map>
#include <optional>

namespace weft::simt::detail {

/// Hands out ranges of [0, size), in whatever unit. Not thread-safe.
class AddressRanges {
 public:
  explicit AddressRanges(std::uint64_t size) : size_(size) {}
  /// The start of a free range of `length` > 0; empty when there is none, neighbouring free ranges taken together.
  std::optional<std::uint64_t> take(std::uint64_t length);
  void give_back(std::uint64_t begin, std::uint64_t length);

 private:
  struct Range {
    std::uint64_t length;
    std::uint64_t age;  // counts calls of give_back()
  };
  using Ranges = std::map<std::uint64_t, Range>;  // by begin

  std::optional<std::uint64_t> take_oldest(std::uint64_t length);
  void merge();

  std::uint64_t size_;
  std::uint64_t never_used_ = 0;  // [never_used_, size_)
  std::uint64_t next_age_ = 0;
  Ranges ranges_;
  std::map<std::uint64_t, std::uint64_t> by_age_;  // age -> begin
};

}  // namespace weft::simt::detail
