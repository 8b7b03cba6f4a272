#include "simt/fiber.h"

#include <cstdint>
#include <cstdio>
#include <memory>
#include <new>

#include <sys/mman.h>

#include <cxxabi.h>

#ifdef WEFT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef WEFT_TSAN
extern "C" {
void* __tsan_get_current_fiber();                           // NOLINT(bugprone-reserved-identifier)
void* __tsan_create_fiber(unsigned flags);                  // NOLINT(bugprone-reserved-identifier)
void __tsan_destroy_fiber(void* fiber);                     // NOLINT(bugprone-reserved-identifier)
void __tsan_set_fiber_name(void* fiber, const char* name);  // NOLINT(bugprone-reserved-identifier)
void __tsan_switch_to_fiber(void* fiber, unsigned flags);   // NOLINT(bugprone-reserved-identifier)
}
#endif

// --- the switch ------------------------------------------------------------------------------------------------------
//
// weft_simt_switch(save, load) keeps the registers that a function must preserve on the stack that it leaves, stores
// the stack pointer in *save, takes `load` for the new one, and returns on the stack that it enters. The control words
// of the floating-point units (mxcsr, x87, fpcr) need not be kept: all threads of a launch run the same code, which
// under CUDA cannot change them, so they are one and the same on all fibers. The unwinding tables hold at every
// instruction, since every stack that was left has the same frame on top. weft_simt_start is where a new stack
// "returns" to; it has no caller (its return address is declared undefined), so that debuggers and unwinders stop
// there.
#ifndef WEFT_SIMT_USES_UCONTEXT
extern "C" {
void weft_simt_switch(void** save, void* load);
void weft_simt_start();
}
#if defined(__x86_64__)
asm(R"(
  .text
  .p2align 4
  .globl weft_simt_switch
  .hidden weft_simt_switch
  .type weft_simt_switch, @function
weft_simt_switch:
  .cfi_startproc
  pushq %rbp
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %rbp, 0
  pushq %rbx
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %rbx, 0
  pushq %r12
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %r12, 0
  pushq %r13
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %r13, 0
  pushq %r14
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %r14, 0
  pushq %r15
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %r15, 0
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  .cfi_adjust_cfa_offset -8
  .cfi_restore %r15
  popq %r14
  .cfi_adjust_cfa_offset -8
  .cfi_restore %r14
  popq %r13
  .cfi_adjust_cfa_offset -8
  .cfi_restore %r13
  popq %r12
  .cfi_adjust_cfa_offset -8
  .cfi_restore %r12
  popq %rbx
  .cfi_adjust_cfa_offset -8
  .cfi_restore %rbx
  popq %rbp
  .cfi_adjust_cfa_offset -8
  .cfi_restore %rbp
  ret
  .cfi_endproc
  .size weft_simt_switch, . - weft_simt_switch

  .p2align 4
  .globl weft_simt_start
  .hidden weft_simt_start
  .type weft_simt_start, @function
weft_simt_start:
  .cfi_startproc
  .cfi_undefined %rip
  xorl %ebp, %ebp
  movq %r12, %rdi
  call weft_simt_first
  ud2
  .cfi_endproc
  .size weft_simt_start, . - weft_simt_start
)");
#else  // aarch64
asm(R"(
  .text
  .p2align 4
  .globl weft_simt_switch
  .hidden weft_simt_switch
  .type weft_simt_switch, %function
weft_simt_switch:
  .cfi_startproc
  sub sp, sp, #160
  .cfi_adjust_cfa_offset 160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  .cfi_rel_offset x19, 0
  .cfi_rel_offset x20, 8
  .cfi_rel_offset x21, 16
  .cfi_rel_offset x22, 24
  .cfi_rel_offset x23, 32
  .cfi_rel_offset x24, 40
  .cfi_rel_offset x25, 48
  .cfi_rel_offset x26, 56
  .cfi_rel_offset x27, 64
  .cfi_rel_offset x28, 72
  .cfi_rel_offset x29, 80
  .cfi_rel_offset x30, 88
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  .cfi_adjust_cfa_offset -160
  .cfi_restore x19
  .cfi_restore x20
  .cfi_restore x21
  .cfi_restore x22
  .cfi_restore x23
  .cfi_restore x24
  .cfi_restore x25
  .cfi_restore x26
  .cfi_restore x27
  .cfi_restore x28
  .cfi_restore x29
  .cfi_restore x30
  ret
  .cfi_endproc
  .size weft_simt_switch, . - weft_simt_switch

  .p2align 4
  .globl weft_simt_start
  .hidden weft_simt_start
  .type weft_simt_start, %function
weft_simt_start:
  .cfi_startproc
  .cfi_undefined x30
  mov x29, xzr
  mov x0, x19
  bl weft_simt_first
  brk #1
  .cfi_endproc
  .size weft_simt_start, . - weft_simt_start
)");
#endif
#endif

namespace weft::simt::detail {
namespace {

#if defined(WEFT_ASAN) || defined(WEFT_TSAN)
constexpr std::size_t kStackBytes = 256 * 1024;  // instrumented frames are several times as large
#else
constexpr std::size_t kStackBytes = 64 * 1024;
#endif
constexpr std::size_t kStride = FiberPool::kGuardBytes + kStackBytes;

/// The other half of a switch, on the fiber that goes on.
void arrived(Fiber& fiber) {
#ifdef WEFT_ASAN
  // Says where the stack lies that was left: this is how the bounds of the OS thread's own stack become known.
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fiber.asan_fake_stack, &bottom, &bytes);
  fiber.came_from->stack = static_cast<char*>(const_cast<void*>(bottom));
  fiber.came_from->stack_bytes = bytes;
#else
  static_cast<void>(fiber);
#endif
}

/// Where a new fiber begins.
extern "C" [[noreturn]] __attribute__((used)) void weft_simt_first(Fiber* fiber) {
  arrived(*fiber);
  fiber->entry(fiber->argument);
  __builtin_trap();
}

#ifdef WEFT_SIMT_USES_UCONTEXT
// makecontext passes ints only: a pointer goes in two halves.
void start_from_halves(unsigned high, unsigned low) {
  const std::uint64_t bits = static_cast<std::uint64_t>(high) << 32 | low;
  weft_simt_first(reinterpret_cast<Fiber*>(static_cast<std::uintptr_t>(bits)));
}

void prepare(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = fiber.stack_bytes;
  fiber.context.uc_link = nullptr;
  const std::uint64_t bits = reinterpret_cast<std::uintptr_t>(&fiber);
  makecontext(&fiber.context, reinterpret_cast<void (*)()>(&start_from_halves), 2, static_cast<unsigned>(bits >> 32),
              static_cast<unsigned>(bits));
}
#else
/// Lays out the frame that weft_simt_switch will pop: it "returns" into weft_simt_start, the fiber in a kept register.
void prepare(Fiber& fiber) {
  auto** top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes);
  *--top = nullptr;  // what unwinders by frame pointer find: no caller, no frame
  *--top = nullptr;
#if defined(__x86_64__)
  *--top = reinterpret_cast<void*>(&weft_simt_start);
  *--top = nullptr;  // rbp
  *--top = nullptr;  // rbx
  *--top = &fiber;   // r12
  for (int i = 0; i < 3; ++i) *--top = nullptr;
#else
  top -= 20;
  for (int i = 0; i < 20; ++i) top[i] = nullptr;
  top[0] = &fiber;                                      // x19
  top[11] = reinterpret_cast<void*>(&weft_simt_start);  // x30
#endif
  fiber.stack_pointer = top;
}
#endif

Fiber::Exceptions* thread_exceptions() { return reinterpret_cast<Fiber::Exceptions*>(abi::__cxa_get_globals()); }

}  // namespace

void adopt_current(Fiber& fiber) {
  fiber.thread_exceptions = thread_exceptions();
#ifdef WEFT_TSAN
  fiber.tsan_context = __tsan_get_current_fiber();
#endif
}

void switch_fiber(Fiber& from, Fiber& to) {
  from.exceptions = *from.thread_exceptions;
  *to.thread_exceptions = to.exceptions;
  to.came_from = &from;
#ifdef WEFT_ASAN
  __sanitizer_start_switch_fiber(&from.asan_fake_stack, to.stack, to.stack_bytes);
#endif
#ifdef WEFT_TSAN
  __tsan_switch_to_fiber(to.tsan_context, 1);  // 1: the switch orders nothing
#endif
#ifdef WEFT_SIMT_USES_UCONTEXT
  swapcontext(&from.context, &to.context);
#else
  weft_simt_switch(&from.stack_pointer, to.stack_pointer);
#endif
  arrived(from);
}

void clean_stack(Fiber& running) {
#ifdef WEFT_ASAN
  auto* here = static_cast<char*>(__builtin_frame_address(0));
  __asan_unpoison_memory_region(running.stack, static_cast<std::size_t>(here - running.stack));
#else
  static_cast<void>(running);
#endif
}

FiberPool::~FiberPool() {
  for (Slab* slab : slabs_) {
    if (!slab) continue;
#ifdef WEFT_TSAN
    for (Fiber& fiber : slab->fibers)
      if (fiber.tsan_context) __tsan_destroy_fiber(fiber.tsan_context);
#endif
#ifdef WEFT_ASAN
    __asan_unpoison_memory_region(slab->memory, kPerSlab * kStride);
#endif
    munmap(slab->memory, kPerSlab * kStride);
    delete slab;
  }
}

Fiber& FiberPool::get(std::size_t number) {
  Slab*& slab = slabs_[number / kPerSlab];
  if (!slab) {
    auto made = std::make_unique<Slab>();
    void* memory = mmap(nullptr, kPerSlab * kStride, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    auto* stacks = static_cast<char*>(memory);
    for (std::size_t i = 0; i < kPerSlab; ++i) {
      // Without its guard a stack would still work, but an overflow would go unseen.
      if (mprotect(stacks + i * kStride, kGuardBytes, PROT_NONE) != 0) {
        munmap(memory, kPerSlab * kStride);
        throw std::bad_alloc();
      }
    }
    made->memory = stacks;
    slab = made.release();
  }
  const std::size_t place = number % kPerSlab;
  Fiber& fiber = slab->fibers[place];
  if (!fiber.entry) {
    fiber.stack = slab->memory + place * kStride + kGuardBytes;
    fiber.stack_bytes = kStackBytes;
    fiber.entry = entry_;
    fiber.argument = argument_;
    fiber.thread_exceptions = thread_exceptions();
    prepare(fiber);
#ifdef WEFT_TSAN
    fiber.tsan_context = __tsan_create_fiber(0);
    char name[32];  // see Executor::fiber_for
    std::snprintf(name, sizeof name, "thread %zu of a block", number % (kCapacity / 2));
    __tsan_set_fiber_name(fiber.tsan_context, name);
#endif
  }
  return fiber;
}

void FiberPool::restart(Fiber& fiber) {
#ifdef WEFT_ASAN
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
#endif
  fiber.exceptions = {};
  fiber.asan_fake_stack = nullptr;
  prepare(fiber);
}

bool FiberPool::is_guard(const void* address) const {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  for (const Slab* slab : slabs_) {
    if (!slab) continue;
    const auto start = reinterpret_cast<std::uintptr_t>(slab->memory);
    if (at >= start && at < start + kPerSlab * kStride) return (at - start) % kStride < kGuardBytes;
  }
  return false;
}

}  // namespace weft::simt::detail
