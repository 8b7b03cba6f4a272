#pragma once
// What a kernel moved: 32-byte sectors per operand, coalescing, bank conflicts. Counted per warp instruction: the
// lanes' accesses are matched by line of source and by how often the lane has come by there since the warp last met (at
// a barrier or a shuffle). Lanes that leave out a turn of a loop in between are matched one turn too early; a meeting
// of the warp puts that right.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "simt/site.h"

namespace weft::simt {

namespace detail {
class TrafficCounter;
}

/// streamed: every access counts. broadcast: a small operand that all blocks share and the cache holds (a [C] vector, a
/// table): it counts once per launch. workspace: counted like streamed, but no part of the floor of a one-kernel op.
enum class OperandKind : std::uint8_t { streamed, broadcast, workspace };
const char* to_string(OperandKind kind);

/// A buffer that a launch works on, declared beside the launch. Operands may overlap: an access belongs to the first
/// one that holds all of it; of several with the same range, reads belong to the first and writes (atomics too) to the
/// last.
struct Operand {
  const char* name = "";
  const void* address = nullptr;  // may be null: not given
  std::int64_t bytes = 0;
  OperandKind kind = OperandKind::streamed;
};

struct OperandTraffic {
  std::string name;  // "(other)" for accesses to buffers that the launch did not declare
  OperandKind kind = OperandKind::streamed;
  std::int64_t declared_bytes = 0;  // 0 for an operand that was not given
  // An atomic is a read and a write.
  std::int64_t read_bytes = 0, written_bytes = 0;      // asked for by the lanes
  std::int64_t read_sectors = 0, written_sectors = 0;  // of 32 bytes; broadcast operands: distinct ones in the launch
  std::int64_t requests = 0;                           // warp instructions
  std::int64_t request_sectors = 0;                    // distinct ones of each warp instruction, summed, for every kind
  std::int64_t ideal_sectors = 0;                      // the same if the bytes of each instruction lay densely
  std::int64_t widest_access_bytes = 0;                // of one lane

  std::int64_t sector_bytes() const { return 32 * (read_sectors + written_sectors); }
  /// ideal / actual sectors of its instructions; 1 when there were none.
  double coalescing() const;
};

struct KernelTraffic {
  std::string kernel;
  std::vector<OperandTraffic> operands;  // as declared; "(other)" last, if anything fell to it
  std::int64_t shared_requests = 0;      // warp instructions on shared memory
  std::int64_t shared_wavefronts = 0;    // cycles they take; more than the ideal: bank conflicts
  std::int64_t shared_ideal_wavefronts = 0;

  std::int64_t bank_conflicts() const { return shared_wavefronts - shared_ideal_wavefronts; }
  std::int64_t sector_bytes() const;  // 32 bytes for each sector of all operands
  /// 1 when no lane's bytes are further apart than they need be.
  double coalescing() const;
  const OperandTraffic* find(const char* name) const;
};

/// Counts the launches of this thread while it lives. A launch that ends with a fault is left out: its counts would
/// stand for a part of the work only. Throws std::logic_error when nested.
class TrafficScope {
 public:
  TrafficScope();
  ~TrafficScope();
  TrafficScope(const TrafficScope&) = delete;
  TrafficScope& operator=(const TrafficScope&) = delete;
  const std::vector<KernelTraffic>& launches() const;  // in order
  /// Sum over all launches.
  std::int64_t sector_bytes() const;

 private:
  std::unique_ptr<detail::TrafficCounter> counter_;
};

/// A table of launches for people: one line per operand.
std::string traffic_table(const std::vector<KernelTraffic>& launches);

namespace detail {
// Called by the runtime; thread is the index of the running thread in its block, warp = thread / 32.
bool traffic_on();
void traffic_begin(const char* kernel, const Operand* operands, std::size_t count);
void traffic_global(unsigned thread, const void* address, unsigned bytes, Access access, const Site& site);
void traffic_shared(unsigned thread, std::uint32_t offset_bytes, unsigned bytes, Access access, const Site& site);
/// All lanes of the warp that still run have met: what follows is matched afresh.
void traffic_meet(unsigned warp);
void traffic_end_block();
/// complete = false after a fault: what was counted is dropped.
void traffic_end(bool complete);
}  // namespace detail

}  // namespace weft::simt
