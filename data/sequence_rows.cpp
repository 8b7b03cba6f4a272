#include "data/sequence_rows.h"

#include <algorithm>
#include <numeric>

#include "tensor/parallel.h"

namespace weft::data::detail {

// ---- windows ---------------------------------------------------------------------------------------------------------

/// Pieces of a window; of sorted ones a multiple of the batch, so that only an epoch's last batch is short.
std::int64_t SequenceRows::window_pieces() const {
  const std::int64_t pieces = *options.window == 0 ? count() : std::min(*options.window, count());
  return options.batching == Batching::tokens && rows > 0 ? round_up(pieces, rows) : pieces;
}

/// Pieces of the first window of sorted ones, when it is shorter than the others: windows end elsewhere in every epoch.
std::int64_t SequenceRows::window_shift(std::int64_t epoch) const {
  if (options.batching != Batching::tokens || !shuffled()) return 0;
  const std::int64_t unit = std::max<std::int64_t>(rows, 1), units = window_pieces() / unit;
  const std::int64_t shift = static_cast<std::int64_t>(draw(Draw::windows, epoch, 0, units)) * unit;
  return shift < count() ? shift : 0;
}

std::int64_t SequenceRows::window_count(std::int64_t epoch) const {
  const std::int64_t shift = window_shift(epoch);
  return ceil_div(count() - shift, window_pieces()) + (shift > 0 ? 1 : 0);
}

/// The places [first, end) of a window in its epoch's order.
std::pair<std::int64_t, std::int64_t> SequenceRows::window_places(std::int64_t epoch, std::int64_t w) const {
  if (options.batching == Batching::pack) {  // of sizes that differ by at most one: a small rest would pack badly
    const std::int64_t all = window_count(epoch), size = count() / all, larger = count() % all;
    const std::int64_t first = w * size + std::min(w, larger);
    return {first, first + size + (w < larger ? 1 : 0)};
  }
  const std::int64_t shift = window_shift(epoch), size = window_pieces();
  if (shift > 0 && w == 0) return {0, shift};
  const std::int64_t first = shift + (w - (shift > 0 ? 1 : 0)) * size;
  return {first, std::min(first + size, count())};
}

/// The rows of a window, in the order in which the epoch holds them.
Groups SequenceRows::packed_window(std::int64_t epoch, std::int64_t w) const {
  const auto [first, end] = window_places(epoch, w);
  std::vector<std::int32_t> ids, lengths;
  ids.reserve(at(end - first));
  lengths.reserve(at(end - first));
  each(epoch, first, end - first, [&](std::int32_t item) {
    ids.push_back(item);
    lengths.push_back(length(item));
  });
  const Packing packing = pack(lengths, static_cast<std::int32_t>(options.length), options.packer);

  // The first rows to be opened hold the longest pieces: as they come, length would sort the updates.
  std::vector<std::int64_t> order(at(packing.rows()));
  if (shuffled()) {
    const FeistelPermutation shuffle(packing.rows(), seed_of(Draw::rows, epoch), static_cast<std::uint64_t>(w));
    for (std::size_t r = 0; r < order.size(); ++r) order[r] = shuffle(static_cast<std::int64_t>(r));
  } else {
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](std::int64_t a, std::int64_t b) { return packing.row(a).front() < packing.row(b).front(); });
  }
  Groups rows_in_order;
  rows_in_order.items.reserve(ids.size());
  rows_in_order.offsets.reserve(order.size() + 1);
  for (const std::int64_t r : order) {
    for (const std::int32_t place : packing.row(r)) rows_in_order.items.push_back(ids[at(place)]);
    rows_in_order.offsets.push_back(static_cast<std::int32_t>(rows_in_order.items.size()));
  }
  return rows_in_order;
}

/// The batches of a window: its pieces by length, equal ones in the epoch's order. What is left over is a short batch, half the
/// time of the longest pieces and half the time of the shortest.
Groups SequenceRows::sorted_window(std::int64_t epoch, std::int64_t w) const {
  const auto [first, end] = window_places(epoch, w);
  std::vector<std::int32_t> ids;
  std::vector<std::uint64_t> keys;  // length, then place
  ids.reserve(at(end - first));
  keys.reserve(at(end - first));
  each(epoch, first, end - first, [&](std::int32_t item) {
    keys.push_back(static_cast<std::uint64_t>(length(item)) << 32 | ids.size());
    ids.push_back(item);
  });
  std::sort(keys.begin(), keys.end());
  if (shuffled() && draw(Draw::direction, epoch, w, 2) == 1) std::reverse(keys.begin(), keys.end());

  Groups batches;
  batches.items.reserve(ids.size());
  std::int64_t taken = 0, longest = 0;
  for (const std::uint64_t key : keys) {
    const std::int32_t item = ids[at(static_cast<std::int64_t>(key & 0xFFFFFFFFu))];
    const std::int64_t with = std::max<std::int64_t>(longest, length(item));
    const bool fits = full || (budget > 0 ? (taken + 1) * width(with) <= budget : taken < rows);
    if (!fits) batches.offsets.push_back(static_cast<std::int32_t>(batches.items.size()));
    batches.items.push_back(item);
    taken = fits ? taken + 1 : 1;
    longest = fits ? with : length(item);
  }
  if (!options.drop_last || taken == rows) batches.offsets.push_back(static_cast<std::int32_t>(batches.items.size()));
  return batches;
}

// ---- updates ---------------------------------------------------------------------------------------------------------

Index SequenceRows::make_index(std::int64_t epoch) const {
  Index made;
  if (options.batching == Batching::pad) {  // rows in order, as many as the budget allows
    std::vector<std::int32_t> lengths(items.size());
    parallel_ranges(count(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
      each(epoch, begin, end - begin, [&, i = at(begin)](std::int32_t item) mutable { lengths[i++] = length(item); });
    });
    std::int64_t longest = 0;
    made.starts.push_back(0);
    for (std::int64_t i = 0; i < count(); ++i) {
      longest = std::max<std::int64_t>(longest, lengths[at(i)]);
      if ((i + 1 - made.starts.back()) * width(longest) <= budget) continue;
      made.starts.push_back(i);
      longest = lengths[at(i)];
    }
    made.starts.push_back(count());
    made.updates = static_cast<std::int64_t>(made.starts.size()) - 1;
    return made;
  }

  // Batches that are shuffled whole: the pieces of each, as they lie before that.
  std::vector<std::int64_t> sizes;
  if (options.batching == Batching::bucket) {
    for (std::size_t b = 0; b < bucket_rows.size(); ++b)
      for (std::int64_t rest = bucket_first[b + 1] - bucket_first[b], n = bucket_batches[b + 1] - bucket_batches[b];
           n > 0; rest -= bucket_rows[b], --n)
        sizes.push_back(std::min(rest, bucket_rows[b]));
  } else {
    made.windows.assign(at(window_count(epoch)) + 1, 0);
    std::vector<Groups> groups(made.windows.size() - 1);
    const bool keep = options.batching == Batching::tokens, sized = keep || options.unit == RowUnit::samples;
    parallel_chunks(static_cast<std::int64_t>(groups.size()), [&](std::int64_t w) {
      Groups& here = groups[at(w)];
      here = keep ? sorted_window(epoch, w) : packed_window(epoch, w);
      made.windows[at(w) + 1] = here.count();
      if (!keep) here.items = {};
      if (!sized) here = {};
    });
    std::partial_sum(made.windows.begin(), made.windows.end(), made.windows.begin());
    for (const Groups& here : groups)
      for (std::int64_t g = 0; sized && g < here.count(); ++g)
        sizes.push_back(here.offsets[at(g) + 1] - here.offsets[at(g)]);
    if (keep) made.sorted = std::move(groups);
  }
  if (options.batching == Batching::pack) {
    index_packed(made, sizes);
  } else {
    made.updates = full ? 1 : static_cast<std::int64_t>(sizes.size());
    made.starts.push_back(0);
    for (std::int64_t u = 0; u < made.updates && !full; ++u)
      made.starts.push_back(made.starts.back() + sizes[at(shuffled_batch(epoch, u, made.updates))]);
  }
  return made;
}

/// The updates over packed rows; `sizes` are the pieces of each row, where samples are counted.
void SequenceRows::index_packed(Index& made, const std::vector<std::int64_t>& sizes) const {
  const std::int64_t all = made.windows.back();
  if (full) {
    made.updates = 1;
  } else if (options.unit == RowUnit::rows) {
    made.updates = all / rows + (all % rows != 0 && (!options.drop_last || all < rows) ? 1 : 0);
  } else {  // a row is of the update in whose share of the pieces its first piece lies
    std::int64_t before = 0, share = -1;
    for (std::int64_t row = 0; row < all; before += sizes[at(row)], ++row) {
      if (before / rows != share) made.starts.push_back(row);
      share = before / rows;
    }
    if (!options.drop_last || count() % rows == 0 || made.starts.size() == 1) made.starts.push_back(all);
    made.updates = static_cast<std::int64_t>(made.starts.size()) - 1;
  }
}

Groups SequenceRows::bucket_batch(std::int64_t epoch, std::int64_t batch) const {
  const std::int64_t bucket =
      std::upper_bound(bucket_batches.begin(), bucket_batches.end(), batch) - bucket_batches.begin() - 1;
  const std::int64_t size = bucket_first[at(bucket) + 1] - bucket_first[at(bucket)];
  const std::int64_t first = (batch - bucket_batches[at(bucket)]) * bucket_rows[at(bucket)];
  const std::int64_t last = std::min(first + bucket_rows[at(bucket)], size);
  Groups made;
  const FeistelPermutation order(size, seed_of(Draw::buckets, bucket), static_cast<std::uint64_t>(epoch));
  for (std::int64_t i = first; i < last; ++i) {
    const std::int64_t place = shuffled() ? order(i) : i;
    made.append({&bucket_items[at(bucket_first[at(bucket)] + place)], 1});
  }
  return made;
}

/// The rows of an update, over all ranks; `first` becomes the number of pieces in the updates before it.
Groups SequenceRows::rows_of(std::int64_t epoch, std::int64_t update, std::int64_t& first) const {
  Groups made;
  const auto add_rows = [&](std::span<const std::int32_t> pieces) {
    for (const std::int32_t& piece : pieces) made.append({&piece, 1});
  };
  const bool indexed = !full && (options.batching != Batching::pad || budget > 0);
  const std::shared_ptr<const Index> known =
      indexed || options.batching == Batching::tokens || options.batching == Batching::pack ? index(epoch) : nullptr;
  first = full ? 0 : indexed && !known->starts.empty() ? known->starts[at(update)] : update * rows;
  std::int64_t end = count();
  if (!full) end = indexed && !known->starts.empty() ? known->starts[at(update) + 1] : std::min(first + rows, end);

  const auto window_of = [&](std::int64_t group) {
    return std::upper_bound(known->windows.begin(), known->windows.end(), group) - known->windows.begin() - 1;
  };
  switch (options.batching) {
    case Batching::pad: each(epoch, first, end - first, [&](std::int32_t item) { add_rows({&item, 1}); }); break;
    case Batching::bucket:
      if (full)
        add_rows(bucket_items);
      else
        made = bucket_batch(epoch, shuffled_batch(epoch, update, known->updates));
      break;
    case Batching::tokens: {
      const std::int64_t batch = full ? 0 : shuffled_batch(epoch, update, known->updates);
      for (std::int64_t b = batch; b < (full ? known->windows.back() : batch + 1); ++b) {
        const std::int64_t w = window_of(b);
        add_rows(known->sorted[at(w)][b - known->windows[at(w)]]);
      }
      break;
    }
    case Batching::pack: {
      end = std::min(end, known->windows.back());
      std::int64_t row = first, w = window_of(first);
      for (first = 0; row < end; ++w) {
        const auto packed = windows.get({epoch, w}, [&] { return packed_window(epoch, w); });
        const std::int64_t begin = known->windows[at(w)];
        if (made.count() == 0) first = window_places(epoch, w).first + packed->offsets[at(row - begin)];
        for (; row < std::min(end, known->windows[at(w) + 1]); ++row) made.append((*packed)[row - begin]);
      }
      break;
    }
  }
  return made;
}

/// This rank's share of an update's rows, cut into micro-batches. Ranks stand side by side in stripes of `ranks` rows, and all
/// cuts and widths are those of stripes: the same on every rank.
std::shared_ptr<const SequenceLayout> SequenceRows::layout(const Groups& all) const {
  auto made = std::make_shared<SequenceLayout>();
  const std::int64_t ranks = options.ranks, stripes = ceil_div(all.count(), ranks);
  std::vector<std::int64_t> longest(at(stripes));
  for (std::int64_t row = 0; row < all.count(); ++row) {
    std::int64_t sum = 0;
    for (const std::int32_t item : all[row]) sum += length(item);
    longest[at(row / ranks)] = std::max(longest[at(row / ranks)], sum);
  }
  made->row_offsets.reserve(at(stripes) + 1);
  for (std::int64_t stripe = 0; stripe < stripes; ++stripe) {
    const std::int64_t row = stripe * ranks + options.rank;
    if (row < all.count())
      for (const std::int32_t id : all[row]) {
        const Item& item = items[at(id)];
        made->pieces.push_back({item.sample, item.part * options.length, item.length});
      }
    made->row_offsets.push_back(static_cast<std::int64_t>(made->pieces.size()));
  }

  const auto add = [&](std::int64_t first, std::int64_t end) {
    made->parts.push_back(
        {first, end - first, width(*std::max_element(longest.begin() + first, longest.begin() + end))});
  };
  if (options.micro_tokens > 0) {
    std::int64_t first = 0, widest_row = 0;
    for (std::int64_t stripe = 0; stripe < stripes; ++stripe) {
      widest_row = std::max(widest_row, longest[at(stripe)]);
      if ((stripe + 1 - first) * width(widest_row) <= options.micro_tokens) continue;
      add(first, stripe);
      first = stripe;
      widest_row = longest[at(stripe)];
    }
    add(first, stripes);
  } else {
    const std::int64_t parts = std::min(options.accumulate, stripes), size = stripes / parts, larger = stripes % parts;
    for (std::int64_t k = 0, first = 0; k < parts; ++k) {
      const std::int64_t end = first + size + (k < larger ? 1 : 0);
      add(first, end);
      first = end;
    }
  }
  return made;
}

}  // namespace weft::data::detail
