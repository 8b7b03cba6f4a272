#pragma once
// Which tokens each optimizer update sees when samples have lengths of their own, in rows of which shape: padded, bucketed,
// to a token budget, or packed. Like data::Plan a pure function, computed when asked.
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "data/packing.h"
#include "data/plan.h"

namespace weft::data {

namespace detail {
struct SequenceRows;
}  // namespace detail

/// How rows are made, and which rows share an update.
///   pad:    a row is a piece, in the epoch's order.
///   bucket: pieces of like length meet: each boundary is a bucket of the lengths up to it, above the last one is one more
///           bucket. Batches are formed inside a bucket, then shuffled whole over the epoch. With a TokenBatch a bucket has
///           as many rows as its boundary allows.
///   tokens: the epoch's order is cut into windows, each sorted by length and cut into batches, which are then shuffled whole.
///           In every epoch windows and ties fall elsewhere, and half of the windows are cut from the other end.
///   pack:   the epoch's order is cut into windows, and the pieces of each are packed into rows of `length` places. The rows
///           of a window are shuffled.
enum class Batching : std::uint8_t { pad, bucket, tokens, pack };

/// What becomes of a sample that is longer than a row.
///   error: an OptionError that names it. truncate: its end is cut off, and not predicted either. split: it becomes pieces of
///   a full row and a rest, the last token of a piece still predicts the first one of the next. drop: it is left out.
enum class Overlong : std::uint8_t { error, truncate, split, drop };

/// To what a row is padded, rounded up to `pad_multiple`: the longest row of its micro-batch, or `length`.
enum class PadTo : std::uint8_t { longest, length };

/// What MiniBatch counts when rows are packed.
///   rows:    an update has n rows, and several times as many pieces (BiasReport says how many).
///   samples: an update has the rows that begin with one of the pieces [u n, (u + 1) n) of the epoch, n pieces on average: as
///            many updates as without packing, so that learning rate and schedule keep their meaning.
enum class RowUnit : std::uint8_t { rows, samples };

/// A token id of the vocabulary behind each sample, where its last row has room for it: it makes no sample overlong and opens
/// no row. It has no label of its own; `predicted` says whether the last token of each sample has it as label, room or
/// not. Not behind a truncated sample, whose end was not seen.
struct Separator {
  std::int64_t id = 0;
  bool predicted = true;
};

/// How an epoch is cut into updates, rows and micro-batches.
struct SequencePlanOptions {
  Batching batching = Batching::pack;
  Regime batch = MiniBatch{};    // rows of an update, or tokens with padding; pack fills rows of `length`
  RowUnit unit = RowUnit::rows;  // pack only
  std::int64_t length = 0;       // most places of a row; 0: the longest sample's, its separator included
  Overlong overlong = Overlong::split;
  std::optional<Separator> separator = {};
  PadTo pad_to = PadTo::longest;              // not of pack, whose rows have `length` places
  std::int64_t pad_multiple = 1;              // divides `length` when both are given
  std::vector<std::int64_t> boundaries = {};  // bucket: increasing; empty: 7, with about as many pieces in each bucket
  Packer packer = Packer::best_fit;           // pack
  // tokens, pack: pieces that are sorted or packed together; 0: all; none: 1024, when sorting as many as make 64 batches
  std::optional<std::int64_t> window = {};
  std::int64_t accumulate = 1;    // micro-batches of an update, of numbers of rows that differ by at most one, or
  std::int64_t micro_tokens = 0;  // as many as it takes to have at most so many tokens in each, padding counted
  bool drop_last = false;         // leave out updates that are short of rows or samples
  Order order = Order::shuffled;
  std::uint64_t seed = 0;
  std::int64_t rank = 0, ranks = 1;  // this process takes rows rank, rank + ranks, ... of each update
};

/// Tokens of one sample that lie side by side in a row.
struct Piece {
  std::int64_t sample = 0;
  std::int64_t offset = 0;  // of its first token, within the sample
  std::int64_t length = 0;  // places; the last one is the separator's when it lies behind the sample's end
  bool operator==(const Piece&) const = default;
};

/// The rows of one update and how they are cut into micro-batches.
struct SequenceLayout {
  /// The rows [first, first + rows), of `width` places each.
  struct Part {
    std::int64_t first = 0;
    std::int64_t rows = 0;
    std::int64_t width = 0;
    bool operator==(const Part&) const = default;
  };
  std::vector<Piece> pieces;                 // of all rows, one row after the other
  std::vector<std::int64_t> row_offsets{0};  // [rows + 1], into pieces; a row without pieces is all padding
  std::vector<Part> parts;                   // the micro-batches

  std::int64_t rows() const { return static_cast<std::int64_t>(row_offsets.size()) - 1; }
  std::span<const Piece> row(std::int64_t r) const {  // r in [0, rows)
    const auto begin = static_cast<std::size_t>(row_offsets[static_cast<std::size_t>(r)]);
    return {pieces.data() + begin, static_cast<std::size_t>(row_offsets[static_cast<std::size_t>(r) + 1]) - begin};
  }
  std::int64_t tokens() const;  // without padding
  std::int64_t places() const;  // with padding
  bool operator==(const SequenceLayout&) const = default;
};

/// What the overlong policy did. tokens = placed_tokens - separators + dropped_tokens.
struct SequenceCounts {
  std::int64_t sequences = 0;  // samples of the data set
  std::int64_t tokens = 0;     // of the data set
  std::int64_t longest = 0;    // piece, its separator included
  std::int64_t empty = 0;      // samples without a token: they get no place
  std::int64_t pieces = 0;
  std::int64_t placed_tokens = 0;   // in every epoch that drops no update, separators included
  std::int64_t separators = 0;      // that got a place
  std::int64_t split = 0;           // samples in more than one piece
  std::int64_t truncated = 0;       // samples without their end
  std::int64_t dropped = 0;         // samples left out
  std::int64_t dropped_tokens = 0;  // of truncated and dropped samples
};

/// The updates of every epoch over sequences of given lengths.
///   What an update holds is a function of (lengths, options, epoch, index): not of the number of threads, of what was asked
///   before, nor of accumulate, micro_tokens, rank and ranks, which only cut it. Each epoch holds every token that counts()
///   calls placed exactly once (without the updates that drop_last leaves out). All ranks have the same number of updates, of
///   micro-batches in each and of rows in those, of the same width: where rows run out, rows of padding stand in.
///   FullBatch is one update, in the order of the data set. Sgd is MiniBatch{1}. A TokenBatch holds as many rows as their
///   number times their width allows, as one micro-batch; pack then has floor(tokens / length) rows.
///   pad_to and pad_multiple widen micro-batches only. Of an update, `samples` counts pieces, `tokens` places without padding, and
///   `first` the pieces in the epoch's earlier updates, all over all ranks; `layout` holds this rank's rows.
/// Params:   lengths in [0, 2^31 - 2]; fewer than 2^31 pieces.
/// Errors:   OptionError "[sequence_plan] sample 17 has 3000 tokens but a row has 2048 places: choose to truncate, split or drop
///           it"; "batch size 512 is larger than the 40 rows of an epoch"; "a batch of 256 tokens cannot hold a row of 512
///           places"; and for options that exclude each other. ShapeError for an epoch or an index out of range.
/// Cost:     12 bytes per piece (bucket: 16). pad answers in O(rows of the update). The others, and pad to a token budget, make an
///           index on an epoch's first use: all pieces once, in parallel; 8 bytes per window and, unless rows are counted, per
///           update; tokens 4 bytes per piece. pack then packs the windows that an update lies in, the others answer in
///           O(rows). The indices of three epochs and the last few windows are kept; any number of threads may ask.
///           updates_before(e) needs the indices of all epochs before e once, where epochs differ in their number of updates
///           (tokens and pad to a token budget, pack).
class SequencePlan {
 public:
  explicit SequencePlan(std::span<const std::int64_t> lengths, const SequencePlanOptions& options = {});

  /// As given, with length, window, boundaries (one for each bucket, the last the longest piece's) and order as they came out.
  const SequencePlanOptions& options() const;
  const SequenceCounts& counts() const;
  std::int64_t length() const { return options().length; }  // most places of a row

  std::int64_t updates_per_epoch(std::int64_t epoch) const;
  /// The number of updates of all epochs before this one.
  std::int64_t updates_before(std::int64_t epoch) const;
  /// The update at place `index` of an epoch, with its layout.
  PlannedUpdate update(std::int64_t epoch, std::int64_t index) const;

  /// A hash of all that decides what an update holds, lengths included. Not of accumulate, micro_tokens, rank, ranks, which
  /// a resumed run may change.
  std::uint64_t hash() const;

  /// Tokens of a sample of this length that the plan uses: fewer than there are when it is truncated or dropped.
  std::int64_t kept(std::int64_t length) const;
  /// Whether the last token of a sample of this length has the separator as its label.
  bool predicts_separator(std::int64_t length) const;
  /// Labels of a sample of this length: each token that is used but the first, and the separator where it is predicted.
  std::int64_t labels(std::int64_t length) const;

 private:
  std::shared_ptr<const detail::SequenceRows> rows_;
};

}  // namespace weft::data
