#include "simt/address_ranges.h"

#include <algorithm>
#include <iterator>

namespace weft::simt::detail {

std::optional<std::uint64_t> AddressRanges::take(std::uint64_t length) {
  if (length <= size_ - never_used_) {
    const std::uint64_t begin = never_used_;
    never_used_ += length;
    return begin;
  }
  if (const auto begin = take_oldest(length)) return begin;
  merge();
  if (const auto begin = take_oldest(length)) return begin;
  // What was never used may fit together with the free range right before it.
  if (ranges_.empty()) return std::nullopt;
  const auto last = std::prev(ranges_.end());
  if (last->first + last->second.length != never_used_ || length > size_ - last->first) return std::nullopt;
  const std::uint64_t begin = last->first;
  by_age_.erase(last->second.age);
  ranges_.erase(last);
  never_used_ = begin + length;
  return begin;
}

std::optional<std::uint64_t> AddressRanges::take_oldest(std::uint64_t length) {
  for (auto oldest = by_age_.begin(); oldest != by_age_.end(); ++oldest) {
    const std::uint64_t begin = oldest->second;
    const auto range = ranges_.find(begin);
    if (range->second.length < length) continue;
    const Range rest{range->second.length - length, range->second.age};
    ranges_.erase(range);
    if (rest.length > 0) {
      ranges_.emplace(begin + length, rest);
      oldest->second = begin + length;
    } else {
      by_age_.erase(oldest);
    }
    return begin;
  }
  return std::nullopt;
}

void AddressRanges::give_back(std::uint64_t begin, std::uint64_t length) {
  by_age_.emplace(next_age_, begin);
  ranges_.emplace(begin, Range{length, next_age_++});
}

// A merged range is as old as its youngest part.
void AddressRanges::merge() {
  Ranges merged;
  for (const auto& [begin, range] : ranges_) {
    if (!merged.empty()) {
      auto& [previous_begin, previous] = *std::prev(merged.end());
      if (previous_begin + previous.length == begin) {
        previous.length += range.length;
        previous.age = std::max(previous.age, range.age);
        continue;
      }
    }
    merged.emplace_hint(merged.end(), begin, range);
  }
  ranges_ = std::move(merged);
  by_age_.clear();
  for (const auto& [begin, range] : ranges_) by_age_.emplace(range.age, begin);
}

}  // namespace weft::simt::detail
