#pragma once
// Fibers: stacks of their own, between which the emulator switches by hand.
#include <cstddef>
#include <cstdint>

#if defined(WEFT_SIMT_UCONTEXT) || !(defined(__x86_64__) || defined(__aarch64__))
#define WEFT_SIMT_USES_UCONTEXT 1
#include <ucontext.h>
#endif

namespace weft::simt::detail {

/// A place where execution was left: on a stack of the pool, or on that of the OS thread. It never moves to another OS
/// thread, since compilers keep addresses of thread_local variables across calls.
struct Fiber {
  /// What the C++ runtime keeps per OS thread (__cxa_eh_globals in its ABI) and a fiber needs for itself: which
  /// exceptions are being handled, and how many are on their way.
  struct Exceptions {
    void* caught = nullptr;
    unsigned int uncaught = 0;
  };

#ifdef WEFT_SIMT_USES_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
  char* stack = nullptr;  // lowest usable byte; known for the OS thread's own stack only where ASan says it
  std::size_t stack_bytes = 0;
  void (*entry)(void*) = nullptr;  // never returns
  void* argument = nullptr;
  Fiber* came_from = nullptr;
  std::uint16_t number = 0;  // in its pool
  Exceptions exceptions;
  Exceptions* thread_exceptions = nullptr;  // where the C++ runtime keeps those of the running fiber
  void* asan_fake_stack = nullptr;
  void* tsan_context = nullptr;
};

/// Makes `fiber` stand for the code that is running now, on the OS thread's own stack.
void adopt_current(Fiber& fiber);
/// Leaves `from`, which is running, and goes on where `to` was left. Returns when somebody switches back.
void switch_fiber(Fiber& from, Fiber& to);
/// Forgets what ASan knows of the part of the running fiber's stack that is no longer in use. After exceptions: frames
/// that they passed may have left their marks, which would be taken for overflows when the stack is used again.
void clean_stack(Fiber& running);

/// Fibers of one OS thread, made when first asked for and kept until the thread ends.
class FiberPool {
 public:
  static constexpr std::size_t kCapacity = 2048;
  // Below each stack. Address space only, hence generous: a function whose locals are larger than the guard could
  // jump over it.
  static constexpr std::size_t kGuardBytes = 64 * 1024;

  /// Every fiber starts in entry(argument), which must not return.
  FiberPool(void (*entry)(void*), void* argument) : entry_(entry), argument_(argument) {}
  ~FiberPool();
  FiberPool(const FiberPool&) = delete;
  FiberPool& operator=(const FiberPool&) = delete;

  /// The fiber of this number, [0, kCapacity). Throws std::bad_alloc when there is no memory for its stack.
  Fiber& get(std::size_t number);
  /// Lets a fiber that is not running start anew; what is on its stack is forgotten, destructors are not run.
  void restart(Fiber& fiber);
  /// Whether the address is in the guard of one of the stacks. Safe in a signal handler.
  bool is_guard(const void* address) const;

 private:
  static constexpr std::size_t kPerSlab = 32;  // stacks of one mapping
  struct Slab {
    char* memory = nullptr;
    Fiber fibers[kPerSlab];
  };
  void (*entry_)(void*);
  void* argument_;
  Slab* slabs_[kCapacity / kPerSlab] = {};
};

}  // namespace weft::simt::detail
