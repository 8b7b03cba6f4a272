#pragma once
// Bin packing of sequence lengths into rows of equal capacity: integers in, integers out, nothing else.
#include <cstdint>
#include <span>
#include <vector>

namespace weft::data {

/// How rows are filled.
///   next_fit:  the open row is the last one; an item that it has no room for opens another. What most tutorials do.
///   first_fit: the first row with room.
///   best_fit:  best-fit decreasing. Items from the longest to the shortest, equal ones as given, each into the row with
///              the least room that is enough; of several such, the one that came to that room last.
enum class Packer : std::uint8_t { next_fit, first_fit, best_fit };

/// Which items each row holds. Rows are numbered as they were opened; the items of a row are in the order given.
struct Packing {
  std::vector<std::int32_t> offsets{0};  // [rows + 1], into items
  std::vector<std::int32_t> items;       // every item of length > 0 once

  std::int64_t rows() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  std::span<const std::int32_t> row(std::int64_t r) const {  // r in [0, rows)
    const auto begin = static_cast<std::size_t>(offsets[static_cast<std::size_t>(r)]);
    return {items.data() + begin, static_cast<std::size_t>(offsets[static_cast<std::size_t>(r) + 1]) - begin};
  }
};

/// Packs items into as few rows as the packer manages. An item of length 0 gets no place and moves no other.
///   Of first_fit and best_fit: any two rows hold more than `capacity` together, so that rows < 2 sum/capacity + 1; of
///   best_fit moreover rows <= 11/9 OPT + 4. Of next_fit: a row and the first item of the next do.
/// Shapes:   lengths [N], each in [0, capacity] -> a row for each item. N < 2^31.
/// Errors:   ShapeError "[pack] item 3 has length 10 but a row has room for 8: split, truncate or drop it first"; for a
///           negative length or a capacity below 1.
/// Cost:     next_fit O(N); first_fit O(N log rows), by a tree of the largest room; best_fit O(N log L + L), L the capacity
///           (no more than the sum of lengths), by a counting sort and a set of rooms in words of 64 bits.
/// Numerics: integers only; a pure function.
/// Source:   Johnson, Demers, Ullman, Garey, Graham 1974, "Worst-case performance bounds for simple one-dimensional packing
///           algorithms". (tests/packing_test.cpp holds best_fit against brute force with + 6/9 in place of + 4.)
Packing pack(std::span<const std::int32_t> lengths, std::int32_t capacity, Packer packer = Packer::best_fit);

}  // namespace weft::data
