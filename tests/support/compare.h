#pragma once
// Comparing numbers so that a NaN, a wrong shape or a stale buffer cannot pass.
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "autograd/cast.h"
#include "tensor/tensor.h"

namespace weft::test {

/// The elements of a tensor of any dtype as doubles, row-major.
inline std::vector<double> values(const Tensor& tensor) { return cast(tensor.alias(), Dtype::f64).to_vector<double>(); }

/// ||got - want|| / ||want|| (absolute when want is 0); infinity when the counts differ or anything is not finite.
inline double relative_error(std::span<const double> got, std::span<const double> want) {
  if (got.size() != want.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  const double error = norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}
inline double relative_error(const Tensor& got, const Tensor& want) {
  if (!(got.shape() == want.shape())) return std::numeric_limits<double>::infinity();
  return relative_error(values(got), values(want));
}
/// Largest |got - want|; infinity when the counts differ or anything is not finite.
inline double max_error(std::span<const double> got, std::span<const double> want) {
  if (got.size() != want.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::fabs(got[i] - want[i]);
    if (!(error <= std::numeric_limits<double>::max())) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, error);
  }
  return worst;
}

/// Whether two tensors hold the same bits, NaN included.
inline bool bitwise_equal(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape()) || a.dtype() != b.dtype()) return false;
  const auto bytes = static_cast<std::size_t>(a.nbytes());
  return a.is_contiguous() && b.is_contiguous() && std::equal(a.raw_data(), a.raw_data() + bytes, b.raw_data());
}

/// The message of the E that f throws, or a text that says that it threw nothing (or something else).
template <class E, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const E& error) { return error.what(); } catch (const std::exception& error) {
    return std::string("another exception: ") + error.what();
  }
  return "no exception";
}

}  // namespace weft::test
