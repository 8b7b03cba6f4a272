#include "data/packing.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <limits>
#include <utility>

#include "tensor/error.h"

namespace weft::data {
namespace {

using Lengths = std::span<const std::int32_t>;
constexpr std::int32_t kNowhere = -1;

/// The row of each item; `rows` counts them.
struct Placement {
  std::vector<std::int32_t> row;
  std::int32_t rows = 0;
};

Placement next_fit(Lengths lengths, std::int32_t capacity) {
  Placement placed{std::vector<std::int32_t>(lengths.size(), kNowhere)};
  std::int32_t room = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const std::int32_t length = lengths[i];
    if (length == 0) continue;
    if (length > room) {
      ++placed.rows;
      room = capacity;
    }
    placed.row[i] = placed.rows - 1;
    room -= length;
  }
  return placed;
}

// A tree whose nodes hold the largest room below them. Rows that are not open yet are leaves with all their room, so that
// the first leaf with room opens one when it must.
Placement first_fit(Lengths lengths, std::int32_t capacity, std::int64_t most_rows) {
  Placement placed{std::vector<std::int32_t>(lengths.size(), kNowhere)};
  const std::size_t leaves = std::bit_ceil(static_cast<std::size_t>(most_rows));
  std::vector<std::int32_t> room(2 * leaves, capacity);
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const std::int32_t length = lengths[i];
    if (length == 0) continue;
    std::size_t node = 1;
    while (node < leaves) node = 2 * node + (room[2 * node] < length ? 1 : 0);
    placed.row[i] = static_cast<std::int32_t>(node - leaves);
    placed.rows = std::max(placed.rows, placed.row[i] + 1);
    room[node] -= length;
    for (node /= 2; node > 0; node /= 2) {
      const std::int32_t largest = std::max(room[2 * node], room[2 * node + 1]);
      if (room[node] == largest) break;
      room[node] = largest;
    }
  }
  return placed;
}

/// A set of integers in [0, end): bits, above them a bit for each word that is not 0, and so on.
class BitSet {
 public:
  explicit BitSet(std::size_t end) {
    do {
      end = (end + 63) / 64;
      levels_.emplace_back(end, 0);
    } while (end > 1);
  }
  void insert(std::size_t value) {
    for (std::vector<std::uint64_t>& level : levels_) {
      std::uint64_t& word = level[value / 64];
      const bool known = word != 0;
      word |= std::uint64_t{1} << (value % 64);
      if (known) return;
      value /= 64;
    }
  }
  void erase(std::size_t value) {
    for (std::vector<std::uint64_t>& level : levels_) {
      std::uint64_t& word = level[value / 64];
      word &= ~(std::uint64_t{1} << (value % 64));
      if (word != 0) return;
      value /= 64;
    }
  }
  /// The least element that is not below `value`, or npos.
  std::size_t at_least(std::size_t value) const {
    for (std::size_t height = 0; height < levels_.size(); ++height) {
      const std::vector<std::uint64_t>& level = levels_[height];
      if (value / 64 >= level.size()) return npos;
      const std::uint64_t word = level[value / 64] >> (value % 64);
      if (word != 0) {
        value += static_cast<std::size_t>(std::countr_zero(word));
        for (; height > 0; --height)
          value = 64 * value + static_cast<std::size_t>(std::countr_zero(levels_[height - 1][value]));
        return value;
      }
      value = value / 64 + 1;
    }
    return npos;
  }
  static constexpr std::size_t npos = std::numeric_limits<std::size_t>::max();

 private:
  std::vector<std::vector<std::uint64_t>> levels_;
};

/// The items of length > 0 from the longest to the shortest, equal ones as given.
std::vector<std::int32_t> longest_first(Lengths lengths, std::int32_t capacity) {
  const auto slot = [&](std::int32_t length) { return static_cast<std::size_t>(capacity - length); };
  std::vector<std::int32_t> at(static_cast<std::size_t>(capacity) + 1);  // [capacity - length]: where the next one goes
  for (const std::int32_t length : lengths)
    if (length > 0) ++at[slot(length)];
  std::int32_t items = 0;
  for (std::int32_t& place : at) items += std::exchange(place, items);
  std::vector<std::int32_t> order(static_cast<std::size_t>(items));
  for (std::size_t i = 0; i < lengths.size(); ++i)
    if (lengths[i] > 0) order[static_cast<std::size_t>(at[slot(lengths[i])]++)] = static_cast<std::int32_t>(i);
  return order;
}

Placement best_fit(Lengths lengths, std::int32_t capacity) {
  Placement placed{std::vector<std::int32_t>(lengths.size(), kNowhere)};
  const auto rooms = static_cast<std::size_t>(capacity);  // a row with all its room is not open yet
  BitSet open(rooms);
  std::vector<std::int32_t> last(rooms, kNowhere),
      before;  // for each room the row that came to it last; chained by row
  for (const std::int32_t item : longest_first(lengths, capacity)) {
    const auto length = static_cast<std::size_t>(lengths[static_cast<std::size_t>(item)]);
    std::size_t room = open.at_least(length);
    std::int32_t row = placed.rows;
    if (room == BitSet::npos) {
      room = rooms;
      ++placed.rows;
      before.push_back(kNowhere);
    } else {
      row = last[room];
      last[room] = before[static_cast<std::size_t>(row)];
      if (last[room] == kNowhere) open.erase(room);
    }
    placed.row[static_cast<std::size_t>(item)] = row;
    room -= length;
    if (room == 0) continue;
    before[static_cast<std::size_t>(row)] = std::exchange(last[room], row);
    if (before[static_cast<std::size_t>(row)] == kNowhere) open.insert(room);
  }
  return placed;
}

/// Lists the items of each row, in the order given.
Packing by_row(const Placement& placed) {
  Packing packing;
  std::vector<std::int32_t>& offsets = packing.offsets;
  offsets.assign(static_cast<std::size_t>(placed.rows) + 1, 0);
  for (const std::int32_t row : placed.row)
    if (row != kNowhere) ++offsets[static_cast<std::size_t>(row) + 1];
  for (std::size_t r = 1; r < offsets.size(); ++r) offsets[r] += offsets[r - 1];
  packing.items.resize(static_cast<std::size_t>(offsets.back()));
  std::vector<std::int32_t> at(offsets.begin(), offsets.end() - 1);
  for (std::size_t i = 0; i < placed.row.size(); ++i)
    if (placed.row[i] != kNowhere)
      packing.items[static_cast<std::size_t>(at[static_cast<std::size_t>(placed.row[i])]++)] =
          static_cast<std::int32_t>(i);
  return packing;
}

}  // namespace

Packing pack(Lengths lengths, std::int32_t capacity, Packer packer) {
  require<ShapeError>(capacity >= 1, "pack", "a row must have room for at least 1 but has {}", capacity);
  require<ShapeError>(lengths.size() <= std::numeric_limits<std::int32_t>::max(), "pack",
                      "takes fewer than 2^31 items but was given {}", lengths.size());
  std::int64_t sum = 0, items = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    require<ShapeError>(lengths[i] >= 0, "pack", "the length of item {} must be at least 0 but is {}", i, lengths[i]);
    require<ShapeError>(lengths[i] <= capacity, "pack",
                        "item {} has length {} but a row has room for {}: split, truncate or drop it first", i,
                        lengths[i], capacity);
    sum += lengths[i];
    items += lengths[i] > 0 ? 1 : 0;
  }
  if (items == 0) return {};
  capacity =
      static_cast<std::int32_t>(std::min<std::int64_t>(capacity, sum));  // all in one row: the same, with less memory
  switch (packer) {
    case Packer::next_fit: return by_row(next_fit(lengths, capacity));
    case Packer::first_fit: return by_row(first_fit(lengths, capacity, std::min(items, 2 * sum / capacity + 1)));
    case Packer::best_fit: return by_row(best_fit(lengths, capacity));
  }
  fail<OptionError>("pack", "unknown packer {}", static_cast<int>(packer));
}

}  // namespace weft::data
