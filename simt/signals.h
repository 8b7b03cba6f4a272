#pragma once
// What turns a touch of device memory, or an emulated thread's stack overflow, into a sentence before the process dies.

namespace weft::simt::detail {

/// For every OS thread that allocates device memory or launches; cheap when called again. Sets the handler for SIGSEGV
/// and SIGBUS, once per process, and gives the thread a stack for signal handlers unless it has one: without, nobody
/// could report that a stack ran over. Faults that mean nothing to the emulator go to the handler before it untouched;
/// so do those that do, once their line is written: sanitizers, debuggers and core dumps work as ever.
void watch_for_faults();

}  // namespace weft::simt::detail
