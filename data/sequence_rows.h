#pragma once
// How a SequencePlan finds the rows of an update.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "data/feistel.h"
#include "data/fingerprint.h"
#include "data/recent.h"
#include "data/sequence_plan.h"

namespace weft::data::detail {

inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

/// A piece, in 12 bytes: it starts at token part * L of its sample.
struct Item {
  std::int32_t sample, part, length;
};

/// Items in groups: the rows of a window or of an update, or the batches of a window.
struct Groups {
  std::vector<std::int32_t> items;
  std::vector<std::int32_t> offsets{0};  // [groups + 1]

  std::int64_t count() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  std::span<const std::int32_t> operator[](std::int64_t g) const {
    return std::span(items).subspan(at(offsets[at(g)]), at(offsets[at(g) + 1] - offsets[at(g)]));
  }
  void append(std::span<const std::int32_t> group) {
    items.insert(items.end(), group.begin(), group.end());
    offsets.push_back(static_cast<std::int32_t>(items.size()));
  }
};

/// What has to be known of an epoch before one of its updates can be found.
struct Index {
  std::int64_t updates = 0;
  std::vector<std::int64_t> windows;  // [windows + 1]: rows (pack) or batches (tokens) before each window
  // [updates + 1]: before each update the rows (pad, pack) where they are no multiples of its size, the pieces (bucket, tokens)
  std::vector<std::int64_t> starts;
  std::vector<Groups> sorted;  // tokens: the batches of each window, because an epoch's updates come from all over it
};

/// Independent draws from one seed.
enum class Draw : std::uint64_t { rows = 1, batches, windows, direction, buckets };

/// A SequencePlan's options as they came out, and its pieces: who is in which row of which update. Immutable but for what it
/// remembers.
struct SequenceRows {
  SequencePlanOptions options;
  SequenceCounts counts;
  std::uint64_t hash = 0;
  std::vector<Item> items;
  bool full = false;                    // one update
  std::int64_t rows = 0;                // of an update, when it has a fixed number of them
  std::int64_t budget = 0;              // tokens of an update, when it has no fixed number of rows
  std::optional<std::int64_t> updates;  // of every epoch, when that is known beforehand

  // bucket
  std::vector<std::int32_t> bucket_items;    // those of each bucket in turn
  std::vector<std::int64_t> bucket_first;    // [buckets + 1], into bucket_items
  std::vector<std::int64_t> bucket_rows;     // of a batch
  std::vector<std::int64_t> bucket_batches;  // [buckets + 1]: batches before each bucket

  mutable Recent<std::int64_t, Index> indices{3};                            // by epoch
  mutable Recent<std::pair<std::int64_t, std::int64_t>, Groups> windows{8};  // by epoch and window
  mutable std::mutex mutex;
  mutable std::vector<std::int64_t> before{0};  // updates before each epoch

  SequenceRows(std::span<const std::int64_t> lengths, const SequencePlanOptions& given);
  void check_options() const;
  void place(std::span<const std::int64_t> lengths);
  void size_updates();
  void make_buckets();
  void hash_all(std::span<const std::int64_t> lengths);

  std::int64_t count() const { return static_cast<std::int64_t>(items.size()); }
  std::int32_t length(std::int32_t item) const { return items[at(item)].length; }
  bool shuffled() const { return options.order == Order::shuffled; }
  std::uint64_t seed_of(Draw use, std::int64_t which) const {
    return hash_combine(hash_combine(options.seed, static_cast<std::uint64_t>(use)), static_cast<std::uint64_t>(which));
  }
  std::uint64_t draw(Draw use, std::int64_t epoch, std::int64_t which, std::int64_t end) const {
    return hash_combine(seed_of(use, epoch), static_cast<std::uint64_t>(which)) % static_cast<std::uint64_t>(end);
  }
  std::int64_t width(std::int64_t longest) const {
    if (options.batching == Batching::pack || options.pad_to == PadTo::length) return options.length;
    return round_up(longest, options.pad_multiple);
  }
  std::int64_t widest() const { return width(counts.longest); }

  /// Calls f(item) for the items at places [first, first + n) of an epoch's order.
  template <class F>
  void each(std::int64_t epoch, std::int64_t first, std::int64_t n, F&& f) const {
    if (!shuffled()) {
      for (std::int64_t i = 0; i < n; ++i) f(static_cast<std::int32_t>(first + i));
      return;
    }
    const FeistelPermutation order(count(), options.seed, static_cast<std::uint64_t>(epoch));
    for (std::int64_t i = 0; i < n; ++i) f(static_cast<std::int32_t>(order(first + i)));
  }
  /// The place in an epoch's unshuffled batches of its batch number `index`.
  std::int64_t shuffled_batch(std::int64_t epoch, std::int64_t index, std::int64_t batches) const {
    if (!shuffled()) return index;
    return FeistelPermutation(batches, seed_of(Draw::batches, 0), static_cast<std::uint64_t>(epoch))(index);
  }

  std::int64_t window_pieces() const;
  std::int64_t window_shift(std::int64_t epoch) const;
  std::int64_t window_count(std::int64_t epoch) const;
  std::pair<std::int64_t, std::int64_t> window_places(std::int64_t epoch, std::int64_t w) const;
  Groups packed_window(std::int64_t epoch, std::int64_t w) const;
  Groups sorted_window(std::int64_t epoch, std::int64_t w) const;
  Index make_index(std::int64_t epoch) const;
  void index_packed(Index& made, const std::vector<std::int64_t>& sizes) const;
  std::shared_ptr<const Index> index(std::int64_t epoch) const {
    return indices.get(epoch, [&] { return make_index(epoch); });
  }
  std::int64_t updates_per_epoch(std::int64_t epoch) const { return updates ? *updates : index(epoch)->updates; }
  void check_epoch(std::int64_t epoch) const;
  Groups rows_of(std::int64_t epoch, std::int64_t update, std::int64_t& first) const;
  Groups bucket_batch(std::int64_t epoch, std::int64_t batch) const;
  std::shared_ptr<const SequenceLayout> layout(const Groups& all) const;
};

}  // namespace weft::data::detail
