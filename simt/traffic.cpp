#include "simt/traffic.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "simt/sanitizers.h"

namespace weft::simt {
namespace detail {
namespace {

constexpr unsigned kWarpLanes = 32;
constexpr std::uint64_t kSectorBytes = 32;
constexpr std::uint64_t kBanks = 32, kWordBytes = 4;

// Lanes that come by the same place in the same way execute the same instruction.
struct Place {
  const char* file;
  unsigned line, column;
  unsigned bytes;
  Access access;
  bool shared;
  bool operator==(const Place&) const = default;
};

struct PlaceHash {
  std::size_t operator()(const Place& place) const {
    std::uint64_t hash = std::hash<const void*>{}(place.file);
    const auto mix = [&hash](std::uint64_t value) { hash = (hash ^ value) * 0x9E3779B97F4A7C15u; };
    mix((std::uint64_t{place.line} << 32) | place.column);
    mix((std::uint64_t{place.bytes} << 8) | (static_cast<unsigned>(place.access) << 1) | (place.shared ? 1u : 0u));
    return static_cast<std::size_t>(hash ^ (hash >> 32));
  }
};

// One warp instruction: where its lanes went, global address or offset in shared memory.
struct Instruction {
  std::array<std::uint64_t, kWarpLanes> where;
  std::uint32_t lanes = 0;  // bit per lane that has come
};

// The instructions of one place for one warp, from the oldest that still misses a lane.
struct Sequence {
  std::array<std::uint32_t, kWarpLanes> passed{};  // how often each lane has come by
  std::uint32_t first = 0;                         // number of instructions[0]
  std::uint32_t incomplete = 0;
  std::vector<Instruction> instructions;
};

struct Target {
  OperandTraffic traffic;
  std::uint64_t begin = 0, end = 0;
  std::size_t write_index = 0;                    // the target that writes to this range belong to
  std::vector<bool> read_before, written_before;  // broadcast: per sector of the operand

  bool holds(std::uint64_t address, unsigned bytes) const { return address >= begin && address + bytes <= end; }
};

template <class F>
void for_each_lane(std::uint32_t lanes, F&& f) {
  for (; lanes != 0; lanes &= lanes - 1) f(static_cast<unsigned>(std::countr_zero(lanes)));
}

std::int64_t ceil_div(std::uint64_t a, std::uint64_t b) { return static_cast<std::int64_t>((a + b - 1) / b); }

// Sectors that were not in the set before.
std::int64_t add_new(std::vector<bool>& before, std::uint64_t first_sector, const std::vector<std::uint64_t>& sectors) {
  std::int64_t added = 0;
  for (const std::uint64_t sector : sectors) {
    if (before[sector - first_sector]) continue;
    before[sector - first_sector] = true;
    ++added;
  }
  return added;
}

}  // namespace

class TrafficCounter {
 public:
  void begin(const char* kernel, const Operand* operands, std::size_t count);
  void access(unsigned thread, const Place& place, std::uint64_t where);
  void meet(unsigned warp);
  void end_block();
  void end(bool complete);

  std::vector<KernelTraffic> launches;

 private:
  using Sequences = std::unordered_map<Place, Sequence, PlaceHash>;

  void finish(Sequences& warp);
  void evaluate(const Place& place, const Instruction& instruction);
  void evaluate_global(const Place& place, const Instruction& instruction);
  void evaluate_shared(const Place& place, const Instruction& instruction);
  void count_request(Target& target, const Place& place, const Instruction& instruction, std::uint32_t lanes);
  std::size_t find_target(std::uint64_t address, const Place& place) const;

  KernelTraffic kernel_;
  std::vector<Target> targets_;  // the operands, then "(other)"
  std::vector<Sequences> warps_;
  // Scratch of one evaluation.
  std::vector<std::uint64_t> addresses_, sectors_;
};

namespace {
constinit thread_local TrafficCounter* open_counter = nullptr;
}

void TrafficCounter::begin(const char* kernel, const Operand* operands, std::size_t count) {
  kernel_ = KernelTraffic{};
  kernel_.kernel = kernel;
  targets_.assign(count + 1, Target{});
  warps_.clear();  // of a launch that ended with a fault
  for (std::size_t i = 0; i < count; ++i) {
    const Operand& operand = operands[i];
    Target& target = targets_[i];
    target.traffic.name = operand.name;
    target.traffic.kind = operand.kind;
    target.write_index = i;
    if (operand.address == nullptr || operand.bytes <= 0) continue;
    target.traffic.declared_bytes = operand.bytes;
    target.begin = reinterpret_cast<std::uintptr_t>(operand.address);
    target.end = target.begin + static_cast<std::uint64_t>(operand.bytes);
    for (std::size_t j = 0; j < i; ++j) {
      if (targets_[j].begin == target.begin && targets_[j].end == target.end) targets_[j].write_index = i;
    }
    if (operand.kind == OperandKind::broadcast) {
      const std::uint64_t sectors = (target.end - 1) / kSectorBytes - target.begin / kSectorBytes + 1;
      target.read_before.assign(sectors, false);
      target.written_before.assign(sectors, false);
    }
  }
  targets_[count].traffic.name = "(other)";
  targets_[count].write_index = count;
}

void TrafficCounter::access(unsigned thread, const Place& place, std::uint64_t where) {
  const unsigned warp = thread / kWarpLanes, lane = thread % kWarpLanes;
  if (warp >= warps_.size()) warps_.resize(warp + 1);
  Sequence& sequence = warps_[warp][place];
  const std::uint32_t index = sequence.passed[lane]++ - sequence.first;
  if (index >= sequence.instructions.size()) {
    sequence.instructions.emplace_back();
    ++sequence.incomplete;
  }
  Instruction& instruction = sequence.instructions[index];
  instruction.where[lane] = where;
  instruction.lanes |= 1u << lane;
  if (instruction.lanes != 0xffffffffu) return;
  // Complete: evaluated at once, and the room given back once all before and behind it are, so that long loops of whole
  // warps need little memory.
  evaluate(place, instruction);
  instruction.lanes = 0;
  if (--sequence.incomplete == 0) {
    sequence.first += static_cast<std::uint32_t>(sequence.instructions.size());
    sequence.instructions.clear();
  }
}

// Evaluates what still misses lanes: they do not come any more.
void TrafficCounter::finish(Sequences& warp) {
  for (auto& [place, sequence] : warp) {
    for (const Instruction& instruction : sequence.instructions) {
      if (instruction.lanes != 0) evaluate(place, instruction);
    }
    sequence.instructions.clear();
    sequence.passed.fill(0);
    sequence.first = 0;
    sequence.incomplete = 0;
  }
}

void TrafficCounter::meet(unsigned warp) {
  if (warp < warps_.size()) finish(warps_[warp]);
}

void TrafficCounter::end_block() {
  for (Sequences& warp : warps_) finish(warp);
}

void TrafficCounter::end(bool complete) {
  end_block();
  warps_.clear();
  if (!complete) return;
  if (targets_.back().traffic.requests == 0) targets_.pop_back();
  for (Target& target : targets_) kernel_.operands.push_back(std::move(target.traffic));
  launches.push_back(std::move(kernel_));
}

void TrafficCounter::evaluate(const Place& place, const Instruction& instruction) {
  if (place.shared) {
    evaluate_shared(place, instruction);
  } else {
    evaluate_global(place, instruction);
  }
}

std::size_t TrafficCounter::find_target(std::uint64_t address, const Place& place) const {
  for (std::size_t i = 0; i + 1 < targets_.size(); ++i) {
    if (targets_[i].holds(address, place.bytes)) return place.access == Access::read ? i : targets_[i].write_index;
  }
  return targets_.size() - 1;
}

// Lanes of one instruction may go to different operands.
void TrafficCounter::evaluate_global(const Place& place, const Instruction& instruction) {
  std::uint32_t left = instruction.lanes;
  while (left != 0) {
    const std::size_t target = find_target(instruction.where[std::countr_zero(left)], place);
    std::uint32_t together = 0;
    for_each_lane(left, [&](unsigned lane) {
      if (find_target(instruction.where[lane], place) == target) together |= 1u << lane;
    });
    count_request(targets_[target], place, instruction, together);
    left &= ~together;
  }
}

void TrafficCounter::count_request(Target& target, const Place& place, const Instruction& instruction,
                                   std::uint32_t lanes) {
  addresses_.clear();
  for_each_lane(lanes, [&](unsigned lane) { addresses_.push_back(instruction.where[lane]); });
  std::sort(addresses_.begin(), addresses_.end());
  sectors_.clear();
  std::uint64_t distinct_bytes = 0, covered_end = 0;
  for (const std::uint64_t address : addresses_) {
    const std::uint64_t end = address + place.bytes;
    distinct_bytes += end - std::min(end, std::max(address, covered_end));
    covered_end = std::max(covered_end, end);
    for (std::uint64_t sector = address / kSectorBytes; sector <= (end - 1) / kSectorBytes; ++sector) {
      if (sectors_.empty() || sectors_.back() < sector) sectors_.push_back(sector);
    }
  }

  OperandTraffic& traffic = target.traffic;
  const auto sector_count = static_cast<std::int64_t>(sectors_.size());
  const std::int64_t asked_bytes = std::int64_t{place.bytes} * std::popcount(lanes);
  const bool once = traffic.kind == OperandKind::broadcast;
  const std::uint64_t first_sector = target.begin / kSectorBytes;
  ++traffic.requests;
  traffic.request_sectors += sector_count;
  traffic.ideal_sectors += ceil_div(distinct_bytes, kSectorBytes);
  traffic.widest_access_bytes = std::max(traffic.widest_access_bytes, std::int64_t{place.bytes});
  if (place.access != Access::write) {
    traffic.read_bytes += asked_bytes;
    traffic.read_sectors += once ? add_new(target.read_before, first_sector, sectors_) : sector_count;
  }
  if (place.access != Access::read) {
    traffic.written_bytes += asked_bytes;
    traffic.written_sectors += once ? add_new(target.written_before, first_sector, sectors_) : sector_count;
  }
}

// Shared memory serves one 4-byte word per bank and cycle, to as many lanes as want that word. An instruction that asks
// for more than 128 bytes is split: half-warps at 8 bytes per lane, quarter-warps at 16.
void TrafficCounter::evaluate_shared(const Place& place, const Instruction& instruction) {
  ++kernel_.shared_requests;
  const unsigned pass_lanes = std::clamp(128u / std::bit_ceil(place.bytes), 1u, kWarpLanes);
  std::vector<std::uint64_t>& words = sectors_;
  for (unsigned first = 0; first < kWarpLanes; first += pass_lanes) {
    words.clear();
    for (unsigned lane = first; lane < first + pass_lanes; ++lane) {
      if ((instruction.lanes >> lane & 1u) == 0) continue;
      const std::uint64_t begin = instruction.where[lane], last = begin + place.bytes - 1;
      for (std::uint64_t word = begin / kWordBytes; word <= last / kWordBytes; ++word) words.push_back(word);
    }
    if (words.empty()) continue;
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    std::array<std::int64_t, kBanks> per_bank{};
    for (const std::uint64_t word : words) ++per_bank[word % kBanks];
    kernel_.shared_wavefronts += *std::max_element(per_bank.begin(), per_bank.end());
    kernel_.shared_ideal_wavefronts += ceil_div(words.size(), kBanks);
  }
}

// The counter belongs to the OS thread and is used by all its fibers, which TSan takes for threads: hence hidden below.

bool traffic_on() { return open_counter != nullptr; }

void traffic_begin(const char* kernel, const Operand* operands, std::size_t count) {
  const HiddenFromTsan hidden;
  if (open_counter != nullptr) open_counter->begin(kernel, operands, count);
}

void traffic_global(unsigned thread, const void* address, unsigned bytes, Access access, const Site& site) {
  const HiddenFromTsan hidden;
  if (open_counter == nullptr || bytes == 0) return;
  open_counter->access(thread, {site.file_name(), site.line(), site.column(), bytes, access, false},
                       reinterpret_cast<std::uintptr_t>(address));
}

void traffic_shared(unsigned thread, std::uint32_t offset_bytes, unsigned bytes, Access access, const Site& site) {
  const HiddenFromTsan hidden;
  if (open_counter == nullptr || bytes == 0) return;
  open_counter->access(thread, {site.file_name(), site.line(), site.column(), bytes, access, true}, offset_bytes);
}

void traffic_meet(unsigned warp) {
  const HiddenFromTsan hidden;
  if (open_counter != nullptr) open_counter->meet(warp);
}

void traffic_end_block() {
  const HiddenFromTsan hidden;
  if (open_counter != nullptr) open_counter->end_block();
}

void traffic_end(bool complete) {
  const HiddenFromTsan hidden;
  if (open_counter != nullptr) open_counter->end(complete);
}

}  // namespace detail

TrafficScope::TrafficScope() : counter_(std::make_unique<detail::TrafficCounter>()) {
  if (detail::open_counter != nullptr) throw std::logic_error("[TrafficScope] one is open on this thread already");
  detail::open_counter = counter_.get();
}

TrafficScope::~TrafficScope() { detail::open_counter = nullptr; }

const std::vector<KernelTraffic>& TrafficScope::launches() const { return counter_->launches; }

std::int64_t TrafficScope::sector_bytes() const {
  std::int64_t total = 0;
  for (const KernelTraffic& launch : launches()) total += launch.sector_bytes();
  return total;
}

}  // namespace weft::simt
