#pragma once
// What a data set of token sequences offers: documents of any length, by id, read in part or whole.
#include <cstdint>
#include <span>
#include <string>

namespace weft::data {

/// A fixed number of token sequences with ids in [0, size()), each of a length of its own, 0 allowed. Immutable once made:
/// any number of threads may read at once.
class SequenceDataset {
 public:
  virtual ~SequenceDataset() = default;

  virtual std::int64_t size() const = 0;
  /// For messages and reports: "fortunes/train".
  virtual std::string name() const = 0;
  /// A hash of the number of sequences, their lengths and their content: what a resumed run compares. May read everything.
  virtual std::uint64_t fingerprint() const = 0;
  /// Token ids are in [0, vocabulary()).
  virtual std::int64_t vocabulary() const = 0;
  /// Tokens of sequence `id`. Errors: ShapeError for an id outside [0, size()).
  virtual std::int64_t length(std::int64_t id) const = 0;
  /// Writes the tokens [offset, offset + out.size()) of sequence `id`.
  /// Errors: ShapeError for an id outside [0, size()) or places outside [0, length(id)].
  virtual void read(std::int64_t id, std::int64_t offset, std::span<std::int64_t> out) const = 0;

 protected:
  SequenceDataset() = default;
  SequenceDataset(const SequenceDataset&) = default;
  SequenceDataset& operator=(const SequenceDataset&) = default;
};

}  // namespace weft::data
