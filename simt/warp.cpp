// Shuffles, votes, reductions and __syncwarp: the lanes of a mask wait for each other, and the last to come computes
// what every one of them takes away. Several masks of one warp may be on their way at different places at once.
#include <stdexcept>
#include <string>

#include "simt/executor.h"
#include "simt/runtime.h"

namespace weft::simt {
namespace detail {
namespace {

Executor& executor(const Site& site) {
  if (!running) throw std::logic_error("[simt] a warp operation outside a kernel at " + place(site));
  return *running;
}

struct Reduction {
  Reduce kind = Reduce::add;
  bool is_signed = false;
};

std::uint64_t combine(const Reduction& how, std::uint64_t a, std::uint64_t b) {
  const bool less = how.is_signed ? static_cast<std::int64_t>(a) < static_cast<std::int64_t>(b) : a < b;
  switch (how.kind) {
    case Reduce::add: return a + b;
    case Reduce::minimum: return less ? a : b;
    case Reduce::maximum: return less ? b : a;
    case Reduce::bit_and: return a & b;
    case Reduce::bit_or: return a | b;
    case Reduce::bit_xor: return a ^ b;
  }
  return 0;
}

/// After __syncwarp what any lane of the mask did, or knows to come before, comes before what each of them does next.
void order_lanes(Executor& e, unsigned w, unsigned mask) {
  Warp& warp = e.warps[w];
  Thread* lanes = e.threads + std::size_t{w} * kWarpLanes;
  if (mask == warp.lanes) {
    warp.before_all = ++e.time;
  } else {
    std::uint64_t known[kWarpLanes] = {};
    for (unsigned rest = mask; rest; rest &= rest - 1) {
      const unsigned lane = __builtin_ctz(rest);
      const std::uint64_t* row = warp.before[lane];
      for (unsigned j = 0; j < kWarpLanes; ++j) known[j] = row[j] > known[j] ? row[j] : known[j];
    }
    for (unsigned rest = mask; rest; rest &= rest - 1) {
      const unsigned lane = __builtin_ctz(rest);
      known[lane] = lanes[lane].clock;
    }
    for (unsigned rest = mask; rest; rest &= rest - 1) {
      std::uint64_t* row = warp.before[__builtin_ctz(rest)];
      for (unsigned j = 0; j < kWarpLanes; ++j) row[j] = known[j];
    }
    ++e.time;
  }
  for (unsigned rest = mask; rest; rest &= rest - 1) lanes[__builtin_ctz(rest)].clock = e.time;
}

void compute(Executor& e, unsigned w, const Meeting& meeting, const Reduction& how) {
  Thread* lanes = e.threads + std::size_t{w} * kWarpLanes;
  const unsigned mask = meeting.mask;
  const auto for_each = [&](auto&& f) {
    for (unsigned rest = mask; rest; rest &= rest - 1) f(lanes[__builtin_ctz(rest)], __builtin_ctz(rest));
  };
  switch (meeting.op) {
    case WarpOp::sync: order_lanes(e, w, mask); break;
    case WarpOp::shuffle: for_each([&](Thread& t, int) { t.result = lanes[t.source_lane].value; }); break;
    case WarpOp::ballot: {
      std::uint64_t votes = 0;
      for_each([&](Thread& t, int lane) { votes |= t.value << lane; });
      for_each([&](Thread& t, int) { t.result = votes; });
      break;
    }
    case WarpOp::match:
      for_each([&](Thread& t, int) {
        t.result = 0;
        for_each([&](Thread& other, int lane) { t.result |= std::uint64_t{other.value == t.value} << lane; });
      });
      break;
    case WarpOp::reduce: {
      std::uint64_t all = lanes[__builtin_ctz(mask)].value;
      for (unsigned rest = mask & (mask - 1); rest; rest &= rest - 1)
        all = combine(how, all, lanes[__builtin_ctz(rest)].value);
      for_each([&](Thread& t, int) { t.result = all; });
      break;
    }
  }
}

/// An object for a meeting of this mask that is not the one of its last meeting.
void* next_order_object(Executor& e, unsigned w, unsigned mask) {
  Warp& warp = e.warps[w];
  unsigned slot = 0;
  while (slot < Warp::kMasks && slot < warp.mask_count && warp.masks[slot] != mask) ++slot;
  if (slot == Warp::kMasks) slot = warp.mask_count++ % Warp::kMasks;
  if (slot == warp.mask_count) ++warp.mask_count;
  warp.masks[slot] = mask;
  return e.shared.order_object_of_warp(w, slot, warp.mask_turn[slot] ^= 1);
}

/// The running lane comes to `op`, with the mask as the kernel gave it. Its Thread holds what it brings.
std::uint64_t meet(Executor& e, WarpOp op, unsigned given_mask, const Site& site, const Reduction& how = {}) {
  if (e.leaving()) return 0;
  const unsigned w = e.warp_of_current(), lane = e.lane_of_current();
  Warp& warp = e.warps[w];
  if (!(given_mask >> lane & 1u))
    e.fail(FaultKind::warp_mask, site,
           "lane " + std::to_string(lane) + " is not in its own mask " + hexadecimal(given_mask));
  const unsigned mask = given_mask & warp.lanes;  // lanes that the block does not have count as gone, as in hardware
  Thread& me = e.threads[e.current];
  me.site = site;

  unsigned slot = 0;
  while (slot < warp.meeting_count && warp.meetings[slot].mask != mask) ++slot;
  Meeting& meeting = warp.meetings[slot];
  if (slot == warp.meeting_count) {
    ++warp.meeting_count;
    meeting.mask = mask;
    meeting.arrived = 0;
    meeting.op = op;
    meeting.site = site;
    if (kFiberPerThread && op == WarpOp::sync) meeting.order_object = next_order_object(e, w, mask);
  } else if (meeting.op != op || (op != WarpOp::sync && !same_site(meeting.site, site))) {
    // Only __syncwarp() may be called from different places.
    const Thread& other = e.threads[w * kWarpLanes + __builtin_ctz(meeting.arrived)];
    e.fail(FaultKind::warp_mask, site,
           "lanes of mask " + hexadecimal(mask) + " are at different operations: lane " +
               std::to_string(__builtin_ctz(meeting.arrived)) + " at " + place(other.site) + ", lane " +
               std::to_string(lane));
  }
  void* const order_object = meeting.order_object;
  if (op == WarpOp::sync) release_order(order_object);
  meeting.arrived |= 1u << lane;
  me.state = ThreadState::at_warp;
  if (meeting.arrived == mask) {
    compute(e, w, meeting, how);
    if (e.counts_traffic && mask == warp.lanes) traffic_meet(w);
    meeting = warp.meetings[--warp.meeting_count];
    for (unsigned i = e.order_end[w]; i-- > e.order_begin[w];)
      if (mask >> e.order[i] % kWarpLanes & 1u) e.make_ready(e.order[i]);
  }
  e.wait();
  if (op == WarpOp::sync) acquire_order(order_object);
  return me.result;
}

}  // namespace

std::uint64_t shuffle(Shuffle kind, unsigned mask, std::uint64_t bits, int operand, int width, const Site& site) {
  Executor& e = executor(site);
  if (e.leaving()) return bits;
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    e.fail(FaultKind::warp_width, site, "shuffle width " + std::to_string(width) + " is not 1, 2, 4, 8, 16 or 32");
  // As PTX defines shfl.sync: the operand counts modulo 32, and a lane whose source lies outside its segment of `width`
  // lanes keeps its own value; but exclusive-or may reach into segments before its own.
  const unsigned lane = e.lane_of_current();
  const unsigned operand_bits = static_cast<unsigned>(operand) & (kWarpLanes - 1);
  const unsigned within = static_cast<unsigned>(width) - 1;
  const unsigned first = lane & ~within, last = lane | within;
  unsigned source = lane;
  switch (kind) {
    case Shuffle::index: source = first | (operand_bits & within); break;
    case Shuffle::up: source = lane >= first + operand_bits ? lane - operand_bits : lane; break;
    case Shuffle::down: source = lane + operand_bits <= last ? lane + operand_bits : lane; break;
    case Shuffle::exclusive_or: source = (lane ^ operand_bits) <= last ? lane ^ operand_bits : lane; break;
  }
  if (!(e.warps[e.warp_of_current()].lanes >> source & 1u))
    e.fail(FaultKind::warp_source, site,
           "lane " + std::to_string(lane) + " reads from lane " + std::to_string(source) + ", beyond the block's " +
               std::to_string(e.thread_count) + " threads");
  if ((mask >> lane & 1u) && !(mask >> source & 1u))
    e.fail(FaultKind::warp_source, site,
           "lane " + std::to_string(lane) + " reads from lane " + std::to_string(source) + ", which is not in mask " +
               hexadecimal(mask));
  Thread& me = e.threads[e.current];
  me.value = bits;
  me.source_lane = source;
  return meet(e, WarpOp::shuffle, mask, site);
}

unsigned ballot(unsigned mask, bool predicate, const Site& site) {
  Executor& e = executor(site);
  e.threads[e.current].value = predicate;
  return static_cast<unsigned>(meet(e, WarpOp::ballot, mask, site));
}

std::uint64_t reduce(Reduce kind, bool is_signed, unsigned mask, std::uint64_t value, const Site& site) {
  Executor& e = executor(site);
  e.threads[e.current].value = value;
  return meet(e, WarpOp::reduce, mask, site, {kind, is_signed});
}

unsigned match_any(unsigned mask, std::uint64_t bits, const Site& site) {
  Executor& e = executor(site);
  e.threads[e.current].value = bits;
  return static_cast<unsigned>(meet(e, WarpOp::match, mask, site));
}

}  // namespace detail

void __syncwarp(unsigned mask, Site site) { detail::meet(detail::executor(site), detail::WarpOp::sync, mask, site); }

}  // namespace weft::simt
