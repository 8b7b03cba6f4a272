#pragma once
// What a data set offers: samples by id, and batches of them.
#include <cstdint>
#include <span>
#include <string>

#include "tensor/tensor.h"

namespace weft::data {

/// Samples made into one tensor each for the model's input and the loss's target: row r belongs to the r-th id.
struct Batch {
  Tensor input;   // [B, ...]
  Tensor target;  // [B, ...]
};

/// A fixed number of samples with ids in [0, size()). Immutable once made: any number of threads may collate at once.
class Dataset {
 public:
  virtual ~Dataset() = default;

  virtual std::int64_t size() const = 0;
  /// For messages and reports: "fashion_mnist/train".
  virtual std::string name() const = 0;
  /// A hash of the number of samples, their shapes and their content: what a resumed run compares. May read everything.
  virtual std::uint64_t fingerprint() const = 0;
  /// The batch of these samples, in this order, repeats allowed, on the cpu; a pure function of the ids.
  /// Errors: ShapeError for an id outside [0, size()).
  virtual Batch collate(std::span<const std::int64_t> ids) const = 0;

 protected:
  Dataset() = default;
  Dataset(const Dataset&) = default;
  Dataset& operator=(const Dataset&) = default;
};

}  // namespace weft::data
