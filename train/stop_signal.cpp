#include "train/stop_signal.h"

#include <array>
#include <csignal>

#include <signal.h>
#include <unistd.h>

namespace weft::train {
namespace {

constexpr std::array kSignals{SIGINT, SIGTERM};
volatile std::sig_atomic_t first_signal = 0;
struct sigaction before[kSignals.size()];

extern "C" void on_signal(int signal) {
  if (first_signal != 0) ::_exit(128 + signal);
  first_signal = signal;
}

}  // namespace

StopSignal::StopSignal() {
  first_signal = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // a write of the metrics is not to fail
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &action, &before[i]);
}

StopSignal::~StopSignal() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &before[i], nullptr);
}

int StopSignal::received() { return first_signal; }

}  // namespace weft::train
