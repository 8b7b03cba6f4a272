// What every kernel moves, counted by the emulator, beside the fewest bytes it could move.
//
//   weft_traffic                the table, for people
//   weft_traffic --markdown     the same as docs/traffic.md holds it
//   weft_traffic --check        exit status 1 when a memory-bound kernel moves over 1.05 times its floor, or banks conflict
//   weft_traffic layer_norm     only the cases whose name contains this, with a line for every operand
//   weft_traffic --list         the names
//   weft_traffic --run NAME [--shape R,C] [--break X,Y,Z:X,Y,Z]
//                               runs one case once, on a small problem; stops a debugger in that block and thread
#include "simt/traffic.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include "autograd/cast.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "cases/op_case.h"
#include "nn/module.h"
#include "optim/adamw.h"
#include "optim/sgd.h"
#include "simt/runtime.h"

namespace {

using namespace weft;
constexpr Device kSimt{DeviceKind::simt, 0};

using cases::Extents;
using cases::Family;

/// A call to measure, made ready.
struct Prepared {
  double floor_bytes = 0;  // each input read once, each output written once, small operands that all blocks share once
  std::function<void()> call;
};

struct Case {
  std::string name;
  bool memory_bound = true;  // else only bank conflicts count
  Extents extents = {};      // of the table
  Extents small = {};        // for a debugger: several blocks and a ragged end
  std::function<Prepared(const Extents&)> prepare = {};
};

Tensor random(const Shape& shape, Dtype dtype = Dtype::f32) {
  static std::uint64_t seed = 0;
  return to(randn(shape, ++seed, dtype), kSimt);
}
double product(std::int64_t a, std::int64_t b, double bytes) {
  return static_cast<double>(a) * static_cast<double>(b) * bytes;
}

/// One pass of an operation's workload; for the backward pass everything but the gradients is made beforehand.
Prepared prepare_pass(const Family& family, const Extents& extents, Dtype dtype, bool backwards) {
  const cases::Workload workload = family.make(extents, static_cast<double>(element_bytes(dtype)));
  cases::Tensors x;
  for (const Tensor& input : cases::make_inputs(workload.inputs, dtype)) x.push_back(to(input, kSimt));
  for (std::size_t i = 0; i < x.size(); ++i)  // as in training: losses make their gradient in the forward pass
    if (workload.inputs[i].differentiable && is_floating(x[i].dtype())) set_requires_grad(x[i]);
  if (!backwards) return {workload.forward.bytes, [=] { workload.call(x); }};
  const Tensor y = workload.call(x);
  const Tensor dy = y.rank() == 0 ? Tensor() : random(y.shape(), y.dtype());
  return {workload.backward.bytes, [=] { backward(y, dy); }};
}

// A model of R tensors of C elements; the update includes the norm of the gradient, which reads it once more.
template <class Optimizer, class Options>
Prepared update(const Extents& extents, Options options, double bytes_per_element) {
  const std::int64_t tensors = extents[0], elements = extents[1];
  std::vector<Tensor> parameters;
  for (std::int64_t i = 0; i < tensors; ++i) {
    parameters.push_back(nn::parameter(random({elements})));
    set_grad(parameters.back(), random({elements}));
  }
  auto optimizer = std::make_shared<Optimizer>(parameters, options);
  optimizer->step();  // the table is uploaded when it changed
  return {product(tensors, elements, bytes_per_element + 4), [=] { optimizer->step(); }};
}

/// The workloads of every operation's case, then the updates of the optimizers, which are no operations of a graph.
const std::vector<Case>& all() {
  static const std::vector<Case> kAll = [] {
    std::vector<Case> list;
    const Extents matrix{30, 70};
    list.push_back({.name = "fill", .extents = {64, 4096}, .small = matrix, .prepare = [](const Extents& e) {
                      const Tensor x = random({e[0], e[1]});
                      return Prepared{product(e[0], e[1], 4), [=] { fill_(x, 1.5); }};
                    }});
    for (const cases::OpCase& op : cases::all_cases())
      for (const Family& family : op.families)
        for (const Dtype dtype : family.dtypes) {
          if (family.counted.empty()) continue;
          const std::string type = dtype == Dtype::f32 ? "" : "_" + std::string(to_string(dtype));
          const auto add = [&](const char* pass, bool backwards) {
            list.push_back({.name = op.op + family.suffix + pass + type,
                            .memory_bound = family.memory_bound,
                            .extents = family.counted[0],
                            .small = !family.small.empty()           ? family.small
                                     : family.counted[0].size() == 2 ? matrix
                                                                     : family.counted[0],
                            .prepare = [&family, dtype, backwards](const Extents& e) {
                              return prepare_pass(family, e, dtype, backwards);
                            }});
          };
          if (family.passes != Family::Passes::backward) add("_forward", false);
          if (family.passes != Family::Passes::forward &&
              family.make(family.counted[0], static_cast<double>(element_bytes(dtype))).backward.bytes > 0)
            add("_backward", true);
        }
    const auto add_update = [&](const char* name, auto prepare) {
      list.push_back({.name = name, .extents = {12, 16384}, .small = {3, 70}, .prepare = prepare});
    };
    add_update("adamw", [](const Extents& e) { return update<optim::AdamW>(e, optim::AdamWOptions{.lr = 1e-3}, 28); });
    add_update("sgd", [](const Extents& e) { return update<optim::SGD>(e, optim::SGDOptions{.lr = 1e-3}, 12); });
    add_update("sgd_momentum", [](const Extents& e) {
      return update<optim::SGD>(e, optim::SGDOptions{.lr = 1e-3, .momentum = 0.9}, 20);
    });
    return list;
  }();
  return kAll;
}

std::string text(const Extents& extents) { return fmt::format("{}", fmt::join(extents, " x ")); }

struct Measured {
  double floor = 0, moved = 0, coalescing = 1;
  std::int64_t conflicts = 0;
  std::vector<simt::KernelTraffic> launches;
};

Measured measure(const Case& c) {
  const Prepared prepared = c.prepare(c.extents);
  const simt::TrafficScope scope;
  prepared.call();
  Measured m{
      .floor = prepared.floor_bytes, .moved = static_cast<double>(scope.sector_bytes()), .launches = scope.launches()};
  std::int64_t ideal = 0, touched = 0;
  for (const simt::KernelTraffic& launch : m.launches) {
    m.conflicts += launch.bank_conflicts();
    for (const simt::OperandTraffic& operand : launch.operands) {
      ideal += operand.ideal_sectors;
      touched += operand.request_sectors;
    }
  }
  m.coalescing = touched > 0 ? static_cast<double>(ideal) / static_cast<double>(touched) : 1.0;
  return m;
}

constexpr double kMostOverFloor = 1.05;

int table(const std::string& filter, bool markdown, bool check) {
  int failures = 0, shown = 0;
  if (markdown)
    fmt::print(
        "# What the kernels move\n\n"
        "Counted by the emulator in sectors of 32 bytes, beside the fewest bytes the case could move: every input "
        "read\n"
        "once, every output written once, operands that all blocks share (gamma, tables) once. Written by\n"
        "`./run traffic --markdown > docs/traffic.md`, compared by the tests. Cases bound by memory may move 1.05 "
        "times\n"
        "the floor; those marked \"compute\" are matrix products, whose tiles are read again by design. \"coalescing\" "
        "is\n"
        "how many sectors the warps' accesses would touch if their bytes lay densely, over how many they do.\n\n"
        "| case | shape | floor bytes | moved bytes | moved / floor | coalescing | bank conflicts | launches |\n"
        "|---|---|---|---|---|---|---|---|\n");
  else
    fmt::print("{:<26}{:>12}{:>14}{:>14}{:>9}{:>12}{:>11}{:>10}\n", "case", "shape", "floor bytes", "moved bytes",
               "ratio", "coalescing", "conflicts", "launches");
  for (const Case& c : all()) {
    if (c.name.find(filter) == std::string::npos) continue;
    ++shown;
    const Measured m = measure(c);
    const bool bad = m.conflicts > 0 || (c.memory_bound && m.moved > kMostOverFloor * m.floor);
    failures += bad ? 1 : 0;
    const std::string shape = text(c.extents);
    const std::string ratio = c.memory_bound ? fmt::format("{:.3f}", m.moved / m.floor) : "compute";
    if (markdown)
      fmt::print("| {} | {} | {:.0f} | {:.0f} | {} | {:.0f} % | {} | {} |\n", c.name, shape, m.floor, m.moved, ratio,
                 100 * m.coalescing, m.conflicts, m.launches.size());
    else
      fmt::print("{:<26}{:>12}{:>14.0f}{:>14.0f}{:>9}{:>11.0f}%{:>11}{:>10}{}\n", c.name, shape, m.floor, m.moved,
                 ratio, 100 * m.coalescing, m.conflicts, m.launches.size(), bad ? "  <-- over" : "");
    if (!filter.empty()) fmt::print("{}\n", simt::traffic_table(m.launches));
  }
  if (shown == 0) {
    fmt::print(stderr, "error: no case is called like '{}'; --list names them\n", filter);
    return 2;
  }
  return check && failures > 0 ? 1 : 0;
}

int run_one(const std::string& name, const Extents& extents, const std::string& place) {
  for (const Case& c : all())
    if (name == c.name) {
      if (!extents.empty() && extents.size() != c.small.size()) {
        fmt::print(stderr, "error: --shape of {} must be {} numbers, such as {}\n", name, c.small.size(),
                   fmt::join(c.small, ","));
        return 2;
      }
      const Prepared prepared = c.prepare(extents.empty() ? c.small : extents);
      if (!place.empty()) simt::break_at(":" + place);
      prepared.call();
      return 0;
    }
  fmt::print(stderr, "error: no case is called '{}'; --list names them\n", name);
  return 2;
}

/// "6,70": numbers from 1 up; empty when it is anything else.
Extents parse_extents(const char* text) {
  Extents extents;
  for (const char* at = text;; ++at) {
    char* end = nullptr;
    const long long value = std::strtoll(at, &end, 10);
    if (end == at || value < 1 || value > 1'000'000'000) return {};
    extents.push_back(value);
    if (*end == '\0') return extents;
    if (*end != ',') return {};
    at = end;
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string filter, name, place;
  bool markdown = false, check = false;
  Extents extents;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--markdown") {
      markdown = true;
    } else if (word == "--check") {
      check = true;
    } else if (word == "--list") {
      for (const Case& c : all()) fmt::print("{}\n", c.name);
      return 0;
    } else if (word == "--run" && i + 1 < argc) {
      name = argv[++i];
    } else if (word == "--break" && i + 1 < argc) {
      place = argv[++i];
    } else if (word == "--shape" && i + 1 < argc) {
      extents = parse_extents(argv[++i]);
      if (extents.empty()) {
        fmt::print(stderr, "error: --shape must be numbers from 1 up such as 6,70 but is '{}'\n", argv[i]);
        return 2;
      }
    } else if (!word.empty() && word[0] != '-' && filter.empty()) {
      filter = word;
    } else {
      fmt::print(stderr,
                 "error: unexpected '{}'; usage: [NAME] [--markdown] [--check] [--list] [--run NAME [--shape R,C]]\n",
                 word);
      return 2;
    }
  }
  try {
    return name.empty() ? table(filter, markdown, check) : run_one(name, extents, place);
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
