#pragma once
// Ending a training run from outside without losing what it has.

namespace weft::train {

/// While one lives, the first SIGINT or SIGTERM only asks the run to stop; a second one ends the process at once, with
/// status 128 + signal. The handlers that were there before come back afterwards. At most one lives at a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// The signal that asked to stop, or 0.
  static int received();
};

}  // namespace weft::train
