#pragma once
// Between the emulator's own files: which thread runs, and how it reports.
#include <string>

#include "simt/fault.h"
#include "simt/site.h"

namespace weft::simt::detail {

/// Index of the running CUDA thread within its block, x fastest; only while in_kernel().
unsigned current_thread();
/// Ends the launch: thrown in the running thread and carried out of its fiber. Only while in_kernel().
[[noreturn]] void raise(FaultKind kind, const Site& site, std::string what);
/// Keeps the fault (once per kind and line) and lets the launch go on; run() throws at its end.
void note(FaultKind kind, const Site& site, std::string what);
/// "kernel layer_norm_forward, block 2,0,0, thread 7,0,0", or "no kernel": for the signal handler, which may not
/// allocate; returns how many characters it wrote.
std::size_t describe_running(char* out, std::size_t capacity);
/// Whether the address is in the guard page of a fiber's stack.
bool is_stack_guard(const void* address);

}  // namespace weft::simt::detail
