#pragma once
// Ending a training run from outside without losing what it has.
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, struct sigaction is not in <csignal>

namespace weft::train {

/// While one lives, the first SIGINT or SIGTERM only asks the run to stop; a second one ends the process at once, with
/// status 128 + signal. What was there before (handlers, alternate signal stack) comes back afterwards. At most one lives at
/// a time, in the thread that trains.
///   The handler runs on a stack of its own. It has to: oneDNN's generated matrix products keep a pointer into their
///   workspace in the stack pointer (jit_avx512_common_gemm_f32 and its kin, "buffer_in_ws"), and a handler that is called
///   there on the ordinary stack overwrites heap memory.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// The signal that asked to stop, or 0.
  static int received();

 private:
  static constexpr int kSignals[] = {SIGINT, SIGTERM};
  struct sigaction before_[2];
  stack_t stack_before_;
};

}  // namespace weft::train
