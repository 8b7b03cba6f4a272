#pragma once
// Parameters with gradients and moments for the tests of the optimizers' kernels.
#include <cstdint>
#include <vector>

#include "kernels/common/step_state.h"
#include "kernels/common/update_table.h"
#include "tensor/parallel.h"
#include "tensor/philox.h"

namespace weft::test {

/// Sizes around the vector width, the unrolled block and the chunk.
inline std::vector<std::int64_t> update_sizes() {
  constexpr std::int64_t chunk = kernels::UpdateTable::kChunkElements;
  return {0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 1000, chunk - 1, chunk, chunk + 1, 2 * chunk + 77};
}

/// One array with sentinels on both sides: a kernel that writes past an end is found.
template <class T>
class Guarded {
 public:
  explicit Guarded(std::int64_t elements) : values_(static_cast<std::size_t>(elements) + 2 * kGuard, kSentinel) {}
  T* data() { return values_.data() + kGuard; }
  const T* data() const { return values_.data() + kGuard; }
  std::int64_t size() const { return static_cast<std::int64_t>(values_.size()) - 2 * kGuard; }
  T& operator[](std::int64_t i) { return data()[i]; }
  T operator[](std::int64_t i) const { return data()[i]; }
  bool intact() const {
    for (std::size_t i = 0; i < kGuard; ++i)
      if (values_[i] != kSentinel || values_[values_.size() - 1 - i] != kSentinel) return false;
    return true;
  }
  friend bool operator==(const Guarded&, const Guarded&) = default;

 private:
  static constexpr int kGuard = 16;
  static constexpr T kSentinel = T(-12345);
  std::vector<T> values_;
};

/// Tensors of the given sizes: values and gradients in [-1, 1), moments zero.
template <class T>
struct UpdateCase {
  explicit UpdateCase(const std::vector<std::int64_t>& sizes, std::uint64_t seed = 1) : applied(sizes.size(), 0) {
    for (const std::int64_t size : sizes) {
      parameter.emplace_back(size);
      gradient.emplace_back(size);
      moment1.emplace_back(size);
      moment2.emplace_back(size);
      for (std::int64_t i = 0; i < size; ++i) {
        parameter.back()[i] = random(seed, 0);
        moment1.back()[i] = moment2.back()[i] = 0;
      }
    }
    new_gradients(seed);
    partial.resize(table().chunks().size());
  }

  void new_gradients(std::uint64_t seed) {
    for (Guarded<T>& g : gradient)
      for (std::int64_t i = 0; i < g.size(); ++i) g[i] = random(seed, 1);
  }
  kernels::UpdateTable table() {
    kernels::UpdateTable table;
    for (std::size_t p = 0; p < parameter.size(); ++p)
      table.add({.parameter = parameter[p].data(),
                 .gradient = gradient[p].data(),
                 .moment1 = moment1[p].data(),
                 .moment2 = moment2[p].data(),
                 .applied = &applied[p],
                 .elements = parameter[p].size(),
                 .dtype = dtype_of<T>});
    return table;
  }
  bool intact() const {
    bool all = true;
    for (std::size_t p = 0; p < parameter.size(); ++p)
      all = all && parameter[p].intact() && gradient[p].intact() && moment1[p].intact() && moment2[p].intact();
    return all;
  }

  std::vector<Guarded<T>> parameter, gradient, moment1, moment2;
  std::vector<std::int64_t> applied;
  std::vector<double> partial;
  kernels::StepState state;

 private:
  T random(std::uint64_t seed, std::uint64_t what) {
    return static_cast<T>(static_cast<double>(philox4x32(seed, count_++, what)[0]) * 0x1p-31 - 1.0);
  }
  std::uint64_t count_ = 0;
};

/// Sets the number of threads for its lifetime.
class ThreadsGuard {
 public:
  explicit ThreadsGuard(int threads) : before_(num_threads()) { set_num_threads(threads); }
  ~ThreadsGuard() { set_num_threads(before_); }
  ThreadsGuard(const ThreadsGuard&) = delete;
  ThreadsGuard& operator=(const ThreadsGuard&) = delete;

 private:
  int before_;
};

}  // namespace weft::test
