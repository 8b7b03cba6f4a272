#pragma once
#include "tensor/parallel.h"

namespace weft::test {

/// Sets the number of threads for the lifetime of the object.
class Threads {
 public:
  explicit Threads(int n) : before_(num_threads()) { set_num_threads(n); }
  ~Threads() { set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

}  // namespace weft::test
