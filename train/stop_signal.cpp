#include "train/stop_signal.h"

#include <csignal>

#include <unistd.h>

namespace weft::train {
namespace {

volatile std::sig_atomic_t first_signal = 0;
// The kernel puts all vector registers there: with AVX-512 and AMX more than 11 KiB.
alignas(64) char handler_stack[1 << 16];

extern "C" void on_signal(int signal) {
  if (first_signal != 0) ::_exit(128 + signal);
  first_signal = signal;
}

}  // namespace

StopSignal::StopSignal() {
  first_signal = 0;
  stack_t stack{};
  stack.ss_sp = handler_stack;
  stack.ss_size = sizeof handler_stack;
  ::sigaltstack(&stack, &stack_before_);
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK | SA_RESTART;  // restart: a write of the metrics is not to fail
  sigemptyset(&action.sa_mask);
  for (const int signal : kSignals) sigaddset(&action.sa_mask, signal);
  for (int i = 0; i < 2; ++i) ::sigaction(kSignals[i], &action, &before_[i]);
}

StopSignal::~StopSignal() {
  for (int i = 0; i < 2; ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
  ::sigaltstack(&stack_before_, nullptr);
}

int StopSignal::received() { return first_signal; }

}  // namespace weft::train
