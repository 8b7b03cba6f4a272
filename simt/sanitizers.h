#pragma once
// What the emulator tells TSan. Its files are compiled without -fsanitize, so that neither the switch of stacks nor the
// scheduler's state is instrumented; the build says WEFT_ASAN or WEFT_TSAN for them where the rest of the program is.
// Code that runs on a fiber keeps to plain arrays and structs: of an inline function that an instrumented file uses too
// (std::vector's members, say) the linker may take the instrumented version, and TSan would see races in the
// scheduler's own state. Only for the files of simt/, since the others do not see these two macros.

namespace weft::simt::detail {

#ifdef WEFT_TSAN
/// Each CUDA thread has a fiber of its own, hence a TSan context of its own. Else a fiber whose thread is done runs the
/// next one.
inline constexpr bool kFiberPerThread = true;

extern "C" {
void __tsan_acquire(void* address);  // NOLINT(bugprone-reserved-identifier)
void __tsan_release(void* address);  // NOLINT(bugprone-reserved-identifier)
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
/// What the running fiber did so far happens before what others do after acquire_order() of the same object.
inline void release_order(void* object) { __tsan_release(object); }
inline void acquire_order(void* object) { __tsan_acquire(object); }

/// Hides the emulator's own accesses: the C library's functions (memcpy, strlen) report theirs whoever calls them.
struct HiddenFromTsan {
  HiddenFromTsan() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~HiddenFromTsan() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
  HiddenFromTsan(const HiddenFromTsan&) = delete;
  HiddenFromTsan& operator=(const HiddenFromTsan&) = delete;
};
#else
inline constexpr bool kFiberPerThread = false;
inline void release_order(void* /*object*/) {}
inline void acquire_order(void* /*object*/) {}
struct HiddenFromTsan {
  HiddenFromTsan() {}  // NOLINT(modernize-use-equals-default): no "unused variable"
};
#endif

}  // namespace weft::simt::detail
