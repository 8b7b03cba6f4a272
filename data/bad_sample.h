#pragma once
// What becomes of a sample that its data set cannot give.
#include <cstdint>
#include <exception>
#include <string>
#include <utility>

#include "tensor/error.h"

namespace weft::data {

/// What a loader does about one. fail: the error reaches whoever walks over the loader. skip: its row is left out of the
/// micro-batch, which is then shorter (empty, where all are bad): nothing takes its place, so that no sample counts twice,
/// and denominators, which count rows, stay exact.
enum class OnError : std::uint8_t { fail, skip };

/// A sample that was left out, and why.
struct SkippedSample {
  std::int64_t sample = 0;  // its id in the data set
  std::int64_t update = 0;  // number of the update that lacks it
  std::string reason;       // what the data set said
  friend bool operator==(const SkippedSample&, const SkippedSample&) = default;
};

/// A sample cannot be made: "[loader] sample 17 of photos (update 5, micro-batch 0): [photos] cannot read /data/17.png".
class SampleError : public Error {
 public:
  SampleError(const std::string& what, std::int64_t sample, std::exception_ptr cause = nullptr)
      : Error(what), sample(sample), cause(std::move(cause)) {}
  std::int64_t sample;       // its id in the data set
  std::exception_ptr cause;  // what the data set threw; null when the loader itself gave up
};

}  // namespace weft::data
