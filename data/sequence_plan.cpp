#include "data/sequence_plan.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <numeric>
#include <utility>

#include "data/feistel.h"
#include "data/fingerprint.h"
#include "data/recent.h"
#include "tensor/parallel.h"

namespace weft::data {
namespace {

constexpr const char* kName = "sequence_plan";
constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

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

// Independent draws from one seed.
enum class Draw : std::uint64_t { rows = 1, batches, windows, direction, buckets };

}  // namespace

std::int64_t SequenceLayout::tokens() const {
  std::int64_t sum = 0;
  for (const Piece& piece : pieces) sum += piece.length;
  return sum;
}

std::int64_t SequenceLayout::places() const {
  std::int64_t sum = 0;
  for (const Part& part : parts) sum += part.rows * part.width;
  return sum;
}

struct SequencePlan::State {
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

  State(std::span<const std::int64_t> lengths, const SequencePlanOptions& given);
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
  void check_epoch(std::int64_t epoch) const {
    const std::int64_t epochs = std::numeric_limits<std::int64_t>::max() / count();  // no update is without a piece
    require<ShapeError>(epoch >= 0 && epoch < epochs, kName, "the epoch must be in [0, {}) but is {}", epochs, epoch);
  }
  Groups rows_of(std::int64_t epoch, std::int64_t update, std::int64_t& first) const;
  Groups bucket_batch(std::int64_t epoch, std::int64_t batch) const;
  std::shared_ptr<const SequenceLayout> layout(const Groups& rows) const;
};

// ---- what the options mean -------------------------------------------------------------------------------------------

SequencePlan::State::State(std::span<const std::int64_t> lengths, const SequencePlanOptions& given) : options(given) {
  check_options();
  full = std::holds_alternative<FullBatch>(options.batch);
  if (full) options.order = Order::sequential;
  place(lengths);
  if (options.batching == Batching::bucket) make_buckets();
  size_updates();
  hash_all(lengths);
}

void SequencePlan::State::check_options() const {
  const auto at_least = [](const char* what, std::int64_t value, std::int64_t least) {
    require<OptionError>(value >= least, kName, "{} must be at least {} but is {}", what, least, value);
  };
  if (const auto* batch = std::get_if<MiniBatch>(&options.batch)) at_least("the batch size", batch->samples, 1);
  at_least("length", options.length, 0);
  at_least("pad_multiple", options.pad_multiple, 1);
  at_least("window", options.window.value_or(0), 0);
  at_least("accumulate", options.accumulate, 1);
  at_least("micro_tokens", options.micro_tokens, 0);
  at_least("ranks", options.ranks, 1);
  if (options.separator) at_least("the separator's id", options.separator->id, 0);
  require<OptionError>(options.rank >= 0 && options.rank < options.ranks, kName, "rank must be in [0, {}) but is {}",
                       options.ranks, options.rank);
  require<OptionError>(options.length % options.pad_multiple == 0, kName,
                       "length {} is no multiple of pad_multiple {}: use {}", options.length, options.pad_multiple,
                       round_up(options.length, options.pad_multiple));
  require<OptionError>(options.accumulate == 1 || options.micro_tokens == 0, kName,
                       "accumulate {} and micro_tokens {} both say how an update is cut: give one of them",
                       options.accumulate, options.micro_tokens);
  const bool pack = options.batching == Batching::pack, tokens = std::holds_alternative<TokenBatch>(options.batch);
  require<OptionError>(options.unit == RowUnit::rows || (pack && std::holds_alternative<MiniBatch>(options.batch)),
                       kName, "RowUnit::samples is for a MiniBatch of packed rows: elsewhere a row is a sample");
  require<OptionError>(!options.drop_last || !tokens || pack, kName,
                       "drop_last needs updates of a fixed number of rows: a batch of tokens is never short");
  require<OptionError>(options.boundaries.empty() || options.batching == Batching::bucket, kName,
                       "boundaries are for the batching bucket");
  for (std::size_t i = 0; i < options.boundaries.size(); ++i)
    require<OptionError>(options.boundaries[i] > (i == 0 ? 0 : options.boundaries[i - 1]), kName,
                         "boundaries must increase from 1 up but number {} is {}", i, options.boundaries[i]);
}

void SequencePlan::State::place(std::span<const std::int64_t> lengths) {
  counts.sequences = static_cast<std::int64_t>(lengths.size());
  require<OptionError>(counts.sequences <= kMost, kName, "takes fewer than 2^31 samples but was given {}",
                       counts.sequences);
  std::int64_t longest = 0;
  for (std::int64_t s = 0; s < counts.sequences; ++s) {
    const std::int64_t length = lengths[at(s)];
    require<OptionError>(length >= 0 && length < kMost, kName, "the length of sample {} must be in [0, {}) but is {}",
                         s, kMost, length);
    counts.tokens += length;
    counts.empty += length == 0 ? 1 : 0;
    longest = std::max(longest, length);
  }
  require<OptionError>(counts.tokens > 0, kName, "the data set has no token ({} samples): a plan needs at least one",
                       counts.sequences);
  if (options.length == 0) options.length = round_up(longest + (options.separator ? 1 : 0), options.pad_multiple);
  require<OptionError>(options.length <= kMost, kName, "a row must have fewer than 2^31 places but has {}",
                       options.length);
  const std::int64_t most = options.length;

  items.reserve(lengths.size());
  for (std::int64_t s = 0; s < counts.sequences; ++s) {
    std::int64_t kept = lengths[at(s)];
    if (kept == 0) continue;
    bool separated = options.separator.has_value();
    if (kept > most) {
      require<OptionError>(options.overlong != Overlong::error, kName,
                           "sample {} has {} tokens but a row has {} places: choose to truncate, split or drop it", s,
                           kept, most);
      if (options.overlong == Overlong::drop) {
        ++counts.dropped;
        counts.dropped_tokens += kept;
        continue;
      }
      if (options.overlong == Overlong::truncate) {
        ++counts.truncated;
        counts.dropped_tokens += kept - most;
        kept = most;
        separated = false;
      } else {
        ++counts.split;
      }
    }
    const std::int64_t parts = ceil_div(kept, most), rest = kept - (parts - 1) * most;
    separated = separated && rest < most;
    require<OptionError>(count() + parts <= kMost, kName, "{} places in a row cut the samples into 2^31 pieces or more",
                         most);
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t length = part + 1 < parts ? most : rest + (separated ? 1 : 0);
      items.push_back(
          {static_cast<std::int32_t>(s), static_cast<std::int32_t>(part), static_cast<std::int32_t>(length)});
      counts.longest = std::max(counts.longest, length);
    }
    counts.separators += separated ? 1 : 0;
    counts.placed_tokens += kept + (separated ? 1 : 0);
  }
  require<OptionError>(count() > 0, kName, "all {} samples are longer than a row of {} places and dropped",
                       counts.sequences, most);
  counts.pieces = count();
}

void SequencePlan::State::size_updates() {
  const bool pack = options.batching == Batching::pack;
  const auto holds_a_row = [&](std::int64_t tokens, const char* what) {
    require<OptionError>(tokens >= widest(), kName,
                         "{} of {} tokens cannot hold a row of {} places: use at least {}, or shorter rows", what,
                         tokens, widest(), widest());
  };
  if (options.micro_tokens > 0) holds_a_row(options.micro_tokens, "a micro-batch");
  if (!options.window) {
    constexpr std::int64_t kPieces = 1024, kBatches = 64;
    const auto* mini = std::get_if<MiniBatch>(&options.batch);
    const auto* tokens = std::get_if<TokenBatch>(&options.batch);
    const std::int64_t mean = ceil_div(counts.placed_tokens, count());
    const std::int64_t batch = mini != nullptr ? mini->samples : tokens != nullptr ? ceil_div(tokens->tokens, mean) : 1;
    const std::int64_t most = std::min(batch, ceil_div(count(), kBatches)) * kBatches;
    options.window = pack ? kPieces : std::max(kPieces, most);
  }
  if (full) {
    updates = 1;
    return;
  }
  if (const auto* batch = std::get_if<TokenBatch>(&options.batch)) {
    holds_a_row(batch->tokens, "a batch");
    if (pack)
      rows = batch->tokens / options.length;
    else
      budget = batch->tokens;
  } else {
    const auto* mini = std::get_if<MiniBatch>(&options.batch);
    rows = mini != nullptr ? mini->samples : 1;
    const bool samples = options.unit == RowUnit::samples;
    require<OptionError>(rows <= count(), kName,
                         "batch size {0} is larger than the {1} pieces of an epoch: use at most {1}, or full", rows,
                         count());
    require<OptionError>(samples || options.accumulate <= ceil_div(rows, options.ranks), kName,
                         "accumulate {} is larger than the {} rows of an update: a micro-batch needs a row",
                         options.accumulate, ceil_div(rows, options.ranks));
    if (pack && !samples) {
      const std::int64_t all = index(0)->windows.back();
      require<OptionError>(rows <= all, kName,
                           "batch size {0} is larger than the {1} packed rows of an epoch: use at most {1}, or full",
                           rows, all);
    }
  }
  if (options.batching == Batching::bucket) {
    const std::size_t buckets = options.boundaries.size();
    bucket_batches.assign(1, 0);
    for (std::size_t b = 0; b < buckets; ++b) {
      const std::int64_t size = bucket_first[b + 1] - bucket_first[b];
      bucket_rows.push_back(budget > 0 ? budget / width(options.boundaries[b]) : rows);
      const std::int64_t batches = size / bucket_rows[b] + (size % bucket_rows[b] != 0 && !options.drop_last ? 1 : 0);
      bucket_batches.push_back(bucket_batches.back() + batches);
    }
    updates = bucket_batches.back();
    require<OptionError>(*updates > 0, kName, "drop_last leaves nothing: no bucket holds a whole batch of {} rows",
                         rows);
  } else if (!pack && budget == 0) {
    updates = count() / rows + (count() % rows != 0 && !options.drop_last ? 1 : 0);
  }
}

void SequencePlan::State::make_buckets() {
  std::vector<std::int64_t>& boundaries = options.boundaries;
  if (boundaries.empty()) {  // the eighths of the pieces, by length
    std::vector<std::int64_t> having(at(counts.longest) + 1);
    for (const Item& item : items) ++having[at(item.length)];
    std::int64_t seen = 0;
    for (std::int64_t length = 1, eighth = 1; length < counts.longest && eighth < 8; ++length) {
      seen += having[at(length)];
      if (8 * seen < eighth * count()) continue;
      boundaries.push_back(length);
      while (8 * seen >= eighth * count()) ++eighth;
    }
  }
  while (!boundaries.empty() && boundaries.back() >= counts.longest) boundaries.pop_back();
  boundaries.push_back(counts.longest);

  const auto bucket = [&](const Item& item) {
    return std::lower_bound(boundaries.begin(), boundaries.end(), item.length) - boundaries.begin();
  };
  bucket_first.assign(boundaries.size() + 1, 0);
  for (const Item& item : items) ++bucket_first[at(bucket(item)) + 1];
  std::partial_sum(bucket_first.begin(), bucket_first.end(), bucket_first.begin());
  bucket_items.resize(items.size());
  std::vector<std::int64_t> place(bucket_first.begin(), bucket_first.end() - 1);
  for (std::int64_t i = 0; i < count(); ++i)
    bucket_items[at(place[at(bucket(items[at(i)]))]++)] = static_cast<std::int32_t>(i);
}

void SequencePlan::State::hash_all(std::span<const std::int64_t> lengths) {
  constexpr std::uint64_t kVersion = 1;  // raise it when the rows for the same options change
  hash = kVersion;
  const auto add = [&](auto value) { hash = hash_combine(hash, static_cast<std::uint64_t>(value)); };
  for (const std::int64_t length : lengths) add(length);
  add(lengths.size());
  for (const std::int64_t boundary : options.boundaries) add(boundary);
  add(options.boundaries.size());
  add(options.batching);
  add(full ? -1 : rows);
  add(budget);
  add(options.unit);
  add(options.length);
  add(options.overlong);
  add(options.separator ? options.separator->id : -1);
  add(options.separator && options.separator->predicted);
  add(options.pad_to);
  add(options.pad_multiple);
  add(options.packer);
  add(*options.window);
  add(options.drop_last);
  add(options.order);
  add(options.seed);
}

// ---- windows ---------------------------------------------------------------------------------------------------------

/// Pieces of a window; of sorted ones a multiple of the batch, so that only an epoch's last batch is short.
std::int64_t SequencePlan::State::window_pieces() const {
  const std::int64_t pieces = *options.window == 0 ? count() : std::min(*options.window, count());
  return options.batching == Batching::tokens && rows > 0 ? round_up(pieces, rows) : pieces;
}

/// Pieces of the first window of sorted ones, when it is shorter than the others: windows end elsewhere in every epoch.
std::int64_t SequencePlan::State::window_shift(std::int64_t epoch) const {
  if (options.batching != Batching::tokens || !shuffled()) return 0;
  const std::int64_t unit = std::max<std::int64_t>(rows, 1), units = window_pieces() / unit;
  const std::int64_t shift = static_cast<std::int64_t>(draw(Draw::windows, epoch, 0, units)) * unit;
  return shift < count() ? shift : 0;
}

std::int64_t SequencePlan::State::window_count(std::int64_t epoch) const {
  const std::int64_t shift = window_shift(epoch);
  return ceil_div(count() - shift, window_pieces()) + (shift > 0 ? 1 : 0);
}

/// The places [first, end) of a window in its epoch's order.
std::pair<std::int64_t, std::int64_t> SequencePlan::State::window_places(std::int64_t epoch, std::int64_t w) const {
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
Groups SequencePlan::State::packed_window(std::int64_t epoch, std::int64_t w) const {
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
Groups SequencePlan::State::sorted_window(std::int64_t epoch, std::int64_t w) const {
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

Index SequencePlan::State::make_index(std::int64_t epoch) const {
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
void SequencePlan::State::index_packed(Index& made, const std::vector<std::int64_t>& sizes) const {
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

Groups SequencePlan::State::bucket_batch(std::int64_t epoch, std::int64_t batch) const {
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
Groups SequencePlan::State::rows_of(std::int64_t epoch, std::int64_t update, std::int64_t& first) const {
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
std::shared_ptr<const SequenceLayout> SequencePlan::State::layout(const Groups& all) const {
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

// ---- the plan --------------------------------------------------------------------------------------------------------

SequencePlan::SequencePlan(std::span<const std::int64_t> lengths, const SequencePlanOptions& options)
    : state_(std::make_shared<const State>(lengths, options)) {}

const SequencePlanOptions& SequencePlan::options() const { return state_->options; }
const SequenceCounts& SequencePlan::counts() const { return state_->counts; }
std::uint64_t SequencePlan::hash() const { return state_->hash; }

std::int64_t SequencePlan::updates_per_epoch(std::int64_t epoch) const {
  state_->check_epoch(epoch);
  return state_->updates_per_epoch(epoch);
}

std::int64_t SequencePlan::updates_before(std::int64_t epoch) const {
  state_->check_epoch(epoch);
  if (state_->updates) return epoch * *state_->updates;
  const std::lock_guard lock(state_->mutex);
  std::vector<std::int64_t>& before = state_->before;
  while (static_cast<std::int64_t>(before.size()) <= epoch)
    before.push_back(before.back() + state_->updates_per_epoch(static_cast<std::int64_t>(before.size()) - 1));
  return before[at(epoch)];
}

PlannedUpdate SequencePlan::update(std::int64_t epoch, std::int64_t index) const {
  const std::int64_t updates = updates_per_epoch(epoch);
  require<ShapeError>(index >= 0 && index < updates, kName, "the update must be in [0, {}) within its epoch but is {}",
                      updates, index);
  PlannedUpdate update;
  update.number = updates_before(epoch) + index + 1;
  update.epoch = epoch;
  update.index = index;
  const Groups rows = state_->rows_of(epoch, index, update.first);
  for (const std::int32_t item : rows.items) update.tokens += state_->length(item);
  update.samples = static_cast<std::int64_t>(rows.items.size());
  update.layout = state_->layout(rows);
  update.parts = static_cast<std::int64_t>(update.layout->parts.size());
  return update;
}

std::int64_t SequencePlan::kept(std::int64_t length) const {
  const SequencePlanOptions& o = options();
  if (length <= o.length) return length;
  return o.overlong == Overlong::truncate ? o.length : o.overlong == Overlong::drop ? 0 : length;
}

bool SequencePlan::predicts_separator(std::int64_t length) const {
  const SequencePlanOptions& o = options();
  return o.separator && o.separator->predicted && length > 0 && kept(length) == length;
}

std::int64_t SequencePlan::labels(std::int64_t length) const {
  const std::int64_t tokens = kept(length);
  return tokens == 0 ? 0 : tokens - 1 + (predicts_separator(length) ? 1 : 0);
}

}  // namespace weft::data
