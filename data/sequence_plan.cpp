#include "data/sequence_plan.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "data/sequence_rows.h"

namespace weft::data {
namespace {

constexpr const char* kName = "sequence_plan";
constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();

}  // namespace

namespace detail {

// ---- what the options mean -------------------------------------------------------------------------------------------

SequenceRows::SequenceRows(std::span<const std::int64_t> lengths, const SequencePlanOptions& given) : options(given) {
  check_options();
  full = std::holds_alternative<FullBatch>(options.batch);
  if (full) options.order = Order::sequential;
  place(lengths);
  if (options.batching == Batching::bucket) make_buckets();
  size_updates();
  hash_all(lengths);
}

void SequenceRows::check_options() const {
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

void SequenceRows::place(std::span<const std::int64_t> lengths) {
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

void SequenceRows::size_updates() {
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

void SequenceRows::make_buckets() {
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

void SequenceRows::hash_all(std::span<const std::int64_t> lengths) {
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
  if (options.batching == Batching::pack) add(options.packer);
  if (options.batching == Batching::pack || options.batching == Batching::tokens) add(*options.window);
  add(options.drop_last);
  add(options.order);
  add(options.seed);
}

void SequenceRows::check_epoch(std::int64_t epoch) const {
  const std::int64_t epochs = std::numeric_limits<std::int64_t>::max() / count();  // no update is without a piece
  require<ShapeError>(epoch >= 0 && epoch < epochs, kName, "the epoch must be in [0, {}) but is {}", epochs, epoch);
}

}  // namespace detail

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

// ---- the plan --------------------------------------------------------------------------------------------------------

SequencePlan::SequencePlan(std::span<const std::int64_t> lengths, const SequencePlanOptions& options)
    : rows_(std::make_shared<const detail::SequenceRows>(lengths, options)) {}

const SequencePlanOptions& SequencePlan::options() const { return rows_->options; }
const SequenceCounts& SequencePlan::counts() const { return rows_->counts; }
std::uint64_t SequencePlan::hash() const { return rows_->hash; }

std::int64_t SequencePlan::updates_per_epoch(std::int64_t epoch) const {
  rows_->check_epoch(epoch);
  return rows_->updates_per_epoch(epoch);
}

std::int64_t SequencePlan::updates_before(std::int64_t epoch) const {
  rows_->check_epoch(epoch);
  if (rows_->updates) return epoch * *rows_->updates;
  const std::lock_guard lock(rows_->mutex);
  std::vector<std::int64_t>& before = rows_->before;
  while (static_cast<std::int64_t>(before.size()) <= epoch)
    before.push_back(before.back() + rows_->updates_per_epoch(static_cast<std::int64_t>(before.size()) - 1));
  return before[detail::at(epoch)];
}

PlannedUpdate SequencePlan::update(std::int64_t epoch, std::int64_t index) const {
  const std::int64_t updates = updates_per_epoch(epoch);
  require<ShapeError>(index >= 0 && index < updates, kName, "the update must be in [0, {}) within its epoch but is {}",
                      updates, index);
  PlannedUpdate update;
  update.number = updates_before(epoch) + index + 1;
  update.epoch = epoch;
  update.index = index;
  update.rank = rows_->options.rank;
  update.ranks = rows_->options.ranks;
  const detail::Groups rows = rows_->rows_of(epoch, index, update.first);
  for (const std::int32_t item : rows.items) update.tokens += rows_->length(item);
  update.samples = static_cast<std::int64_t>(rows.items.size());
  update.layout = rows_->layout(rows);
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
