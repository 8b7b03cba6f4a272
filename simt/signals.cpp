#include "simt/signals.h"

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>

#include <sys/mman.h>
#include <unistd.h>

#include "simt/execution.h"
#include "simt/memory.h"
#include "simt/runtime.h"

namespace weft::simt::detail {
namespace {

// Written with write(2) alone: a handler may neither allocate nor lock.
class Line {
 public:
  Line& text(const char* s) {
    while (*s != 0) put(*s++);
    return *this;
  }
  Line& number(std::uint64_t value) { return digits(value, 10); }
  Line& address(std::uintptr_t value) { return text("0x").digits(value, 16); }
  Line& running() {
    length_ += describe_running(buffer_ + length_, kCapacity - length_);
    if (length_ > kCapacity) length_ = kCapacity;
    return *this;
  }
  void write_out() {
    put('\n');
    const char* rest = buffer_;
    while (length_ > 0) {
      const ssize_t written = ::write(STDERR_FILENO, rest, length_);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return;
      rest += written;
      length_ -= static_cast<std::size_t>(written);
    }
  }

 private:
  static constexpr std::size_t kCapacity = 1000;
  void put(char c) {
    if (length_ < kCapacity || (c == '\n' && length_ == kCapacity)) buffer_[length_++] = c;
  }
  Line& digits(std::uint64_t value, unsigned base) {
    char reversed[20];
    int count = 0;
    do {
      reversed[count++] = "0123456789abcdef"[value % base];
      value /= base;
    } while (value > 0);
    while (count > 0) put(reversed[--count]);
    return *this;
  }

  char buffer_[kCapacity + 1];
  std::size_t length_ = 0;
};

void explain(const void* address) {
  const int saved_errno = errno;
  if (is_device_address(address)) {
    Line line;
    if (in_kernel()) {
      line.text("[simt] ").running().text(": device memory was accessed without load()/store()");
    } else {
      line.text("[simt] host code touched device memory");
    }
    line.text(" at ").address(reinterpret_cast<std::uintptr_t>(address)).text(": ");
    const NearestAllocation near = nearest_allocation(address);
    if (near.allocation.address == nullptr) {
      line.text("no allocation is there");
    } else {
      line.text("byte ").number(near.offset_bytes).text(" of allocation ").number(near.allocation.number).text(" (");
      line.number(near.allocation.bytes).text(near.allocation.live ? " bytes)" : " bytes, freed)");
      if (!in_kernel()) line.text("; copy it with to(cpu) first");
    }
    line.write_out();
  } else if (is_device_view(address)) {
    Line().text("[simt] the machine has no memory left for the emulated device").write_out();
  } else if (is_stack_guard(address)) {
    Line().text("[simt] ").running().text(": stack overflow").write_out();
  }
  errno = saved_errno;
}

struct sigaction previous_segv, previous_bus;

void on_fault(int signal, siginfo_t* info, void* context) {
  const bool from_hardware = info->si_code > 0;  // and not sent by somebody with kill()
  if (from_hardware) explain(info->si_addr);

  const struct sigaction& previous = signal == SIGBUS ? previous_bus : previous_segv;
  const bool has_handler =
      (previous.sa_flags & SA_SIGINFO) != 0 || (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN);
  if (has_handler) {
    sigset_t before;
    pthread_sigmask(SIG_BLOCK, &previous.sa_mask, &before);
    if ((previous.sa_flags & SA_SIGINFO) != 0) {
      previous.sa_sigaction(signal, info, context);
    } else {
      previous.sa_handler(signal);
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return;
  }
  if (!from_hardware && previous.sa_handler == SIG_IGN) return;
  // Back to the default action: the instruction faults again right away, and the core dump shows it.
  sigaction(signal, &previous, nullptr);
  if (!from_hardware) ::raise(signal);
}

// A thread's own signal stack, given back when the thread ends.
class SignalStack {
 public:
  SignalStack() {
    stack_t present{};
    if (sigaltstack(nullptr, &present) != 0 || (present.ss_flags & SS_DISABLE) == 0)
      return;  // it has one: a sanitizer's
    void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return;
    const stack_t mine{.ss_sp = memory, .ss_flags = 0, .ss_size = kBytes};
    if (sigaltstack(&mine, nullptr) == 0) {
      memory_ = memory;
    } else {
      munmap(memory, kBytes);
    }
  }
  ~SignalStack() {
    if (memory_ == nullptr) return;
    stack_t present{};
    if (sigaltstack(nullptr, &present) == 0 && present.ss_sp == memory_) {
      const stack_t none{.ss_sp = nullptr, .ss_flags = SS_DISABLE, .ss_size = 0};
      sigaltstack(&none, nullptr);
    }
    munmap(memory_, kBytes);
  }
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;

 private:
  static constexpr std::size_t kBytes = 64 * 1024;
  void* memory_ = nullptr;
};

}  // namespace

void watch_for_faults() {
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, nullptr, &previous_segv);  // before on_fault can run and read it
    sigaction(SIGBUS, nullptr, &previous_bus);
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
    return true;
  }();
  static_cast<void>(installed);
  static thread_local const SignalStack stack;
  static_cast<void>(stack);
}

}  // namespace weft::simt::detail
