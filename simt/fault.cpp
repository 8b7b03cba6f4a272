#include "simt/fault.h"

#include <utility>

namespace weft::simt {
namespace {

std::string coordinates(const Dim3& at) {
  return std::to_string(at.x) + "," + std::to_string(at.y) + "," + std::to_string(at.z);
}

std::string joined(const std::vector<Fault>& faults) {
  std::string text;
  for (const Fault& fault : faults) {
    if (!text.empty()) text += '\n';
    text += fault.str();
  }
  return text;
}

}  // namespace

const char* to_string(FaultKind kind) {
  switch (kind) {
    case FaultKind::divergent_barrier: return "divergent_barrier";
    case FaultKind::exit_at_barrier: return "exit_at_barrier";
    case FaultKind::warp_mask: return "warp_mask";
    case FaultKind::warp_source: return "warp_source";
    case FaultKind::warp_width: return "warp_width";
    case FaultKind::shared_bounds: return "shared_bounds";
    case FaultKind::shared_misaligned: return "shared_misaligned";
    case FaultKind::shared_unwritten: return "shared_unwritten";
    case FaultKind::shared_race: return "shared_race";
    case FaultKind::shared_redeclared: return "shared_redeclared";
    case FaultKind::shared_limit: return "shared_limit";
    case FaultKind::shared_red_zone: return "shared_red_zone";
    case FaultKind::global_bounds: return "global_bounds";
    case FaultKind::global_freed: return "global_freed";
    case FaultKind::global_host_pointer: return "global_host_pointer";
    case FaultKind::global_misaligned: return "global_misaligned";
    case FaultKind::stack_overflow: return "stack_overflow";
    case FaultKind::exception: return "exception";
    case FaultKind::assertion: return "assertion";
  }
  return "unknown";
}

std::string Fault::str() const {
  std::string text = "[simt] " + kernel + ": " + what;
  if (!file.empty()) text += " at " + file + ":" + std::to_string(line);
  return text + " (block " + coordinates(block) + " thread " + coordinates(thread) + ")";
}

KernelError::KernelError(std::vector<Fault> faults) : std::runtime_error(joined(faults)), faults_(std::move(faults)) {}

bool KernelError::has(FaultKind kind) const {
  for (const Fault& fault : faults_)
    if (fault.kind == kind) return true;
  return false;
}

}  // namespace weft::simt
