#pragma once
// What a kernel did wrong, found by the emulator.
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "simt/site.h"

namespace weft::simt {

enum class FaultKind : std::uint8_t {
  divergent_barrier,    // the threads of a block wait at different barriers
  exit_at_barrier,      // some left the kernel while others wait
  warp_mask,            // a lane outside its own mask, or a lane of the mask that never comes
  warp_source,          // a shuffle from a lane outside the mask or beyond the block
  warp_width,           // a shuffle width that is no power of two up to 32
  shared_bounds,        // index outside a shared array
  shared_misaligned,    // a vector access at no multiple of its own size
  shared_unwritten,     // a shared element read before anything wrote it
  shared_race,          // two threads meet at a shared element without a barrier between them
  shared_redeclared,    // one declaration, different sizes
  shared_limit,         // more shared memory than the launch allows
  shared_red_zone,      // the fence behind a shared array was written
  global_bounds,        // outside every device allocation, or across the end of one
  global_freed,         // in an allocation that was given back
  global_host_pointer,  // not device memory at all
  global_misaligned,    // not a multiple of the access's size
  stack_overflow,       // a thread's stack is used up
  exception,            // thrown by the kernel's code
  assertion,            // assert() in a kernel
};
const char* to_string(FaultKind kind);

struct Fault {
  FaultKind kind;
  std::string kernel;  // name given at the launch
  std::string file;
  unsigned line = 0;
  Dim3 block;   // blockIdx
  Dim3 thread;  // threadIdx
  std::string what;
  /// "[simt] layer_norm_forward: read of shared 'partial' element 3 that nothing wrote at kernels/layer_norm.cu:41
  /// (block 2,0,0 thread 7,0,0)"
  std::string str() const;
};

/// Everything found in one launch, in the order in which it was found, at most kMaxFaults.
class KernelError : public std::runtime_error {
 public:
  static constexpr std::size_t kMaxFaults = 16;
  explicit KernelError(std::vector<Fault> faults);
  const std::vector<Fault>& faults() const { return faults_; }
  bool has(FaultKind kind) const;

 private:
  std::vector<Fault> faults_;
};

}  // namespace weft::simt
