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
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "autograd/batch_norm.h"
#include "autograd/cast.h"
#include "autograd/cross_entropy.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layer_norm.h"
#include "autograd/layout.h"
#include "autograd/linear.h"
#include "autograd/node.h"
#include "autograd/reduce.h"
#include "nn/module.h"
#include "optim/adamw.h"
#include "optim/sgd.h"
#include "simt/runtime.h"

namespace {

using namespace weft;
constexpr Device kSimt{DeviceKind::simt, 0};

/// A call to measure, made ready for a matrix [R, C].
struct Prepared {
  double floor_bytes = 0;  // each input read once, each output written once, small operands that all blocks share once
  std::function<void()> call;
};

struct Case {
  const char* name;
  bool memory_bound;  // else only bank conflicts count
  std::int64_t rows, channels;
  Prepared (*prepare)(std::int64_t rows, std::int64_t channels);
};

Tensor random(const Shape& shape, Dtype dtype = Dtype::f32) {
  static std::uint64_t seed = 0;
  return to(randn(shape, ++seed, dtype), kSimt);
}
Tensor trained(const Shape& shape, Dtype dtype = Dtype::f32) { return nn::parameter(random(shape, dtype)); }
Tensor labels(std::int64_t rows, std::int64_t classes) {
  const Tensor y = Tensor::empty({rows}, Dtype::i64);
  for (std::int64_t r = 0; r < rows; ++r) y.data<std::int64_t>()[r] = r * 31 % classes;
  return to(y, kSimt);
}
double product(std::int64_t a, std::int64_t b, double bytes) {
  return static_cast<double>(a) * static_cast<double>(b) * bytes;
}

/// Backward of y = f(leaves), everything but the leaves' gradients made beforehand.
Prepared backward_of(const Tensor& y, double floor_bytes) {
  const Tensor dy = random(y.shape(), y.dtype());
  return {floor_bytes, [=] { backward(y, dy); }};
}

template <Dtype kDtype>
Prepared layer_norm_forward(std::int64_t rows, std::int64_t channels) {
  const double bytes = static_cast<double>(element_bytes(kDtype));
  const Tensor x = trained({rows, channels}, kDtype), gamma = trained({channels}, kDtype),
               beta = trained({channels}, kDtype);
  return {
      product(rows, channels, 2 * bytes) + static_cast<double>(rows) * 8 + static_cast<double>(channels) * 2 * bytes,
      [=] { layer_norm(x, gamma, beta); }};
}
template <Dtype kDtype>
Prepared layer_norm_backward(std::int64_t rows, std::int64_t channels) {
  const double bytes = static_cast<double>(element_bytes(kDtype));
  const Tensor x = trained({rows, channels}, kDtype), gamma = trained({channels}, kDtype),
               beta = trained({channels}, kDtype);
  return backward_of(layer_norm(x, gamma, beta), product(rows, channels, 3 * bytes) + static_cast<double>(rows) * 8 +
                                                     static_cast<double>(channels) * 3 * bytes);
}

// Per row that counts: its logits, target and gradient; the sums are a few bytes.
template <Dtype kDtype>
Prepared cross_entropy_with_gradient(std::int64_t rows, std::int64_t classes) {
  const double bytes = static_cast<double>(element_bytes(kDtype));
  const Tensor x = trained({rows, classes}, kDtype), y = labels(rows, classes);
  return {product(rows, classes, 2 * bytes) + static_cast<double>(rows) * 8, [=] { cross_entropy(x, y); }};
}

// A model of R tensors of C elements; the update includes the norm of the gradient, which reads it once more.
template <class Optimizer, class Options>
Prepared update(std::int64_t tensors, std::int64_t elements, Options options, double bytes_per_element) {
  std::vector<Tensor> parameters;
  for (std::int64_t i = 0; i < tensors; ++i) {
    parameters.push_back(trained({elements}));
    set_grad(parameters.back(), random({elements}));
  }
  auto optimizer = std::make_shared<Optimizer>(parameters, options);
  optimizer->step();  // the table is uploaded when it changed
  return {product(tensors, elements, bytes_per_element + 4), [=] { optimizer->step(); }};
}

Prepared batch_norm_case(std::int64_t rows, std::int64_t channels, bool backwards) {
  const Tensor x = trained({rows, channels}), gamma = trained({channels}), beta = trained({channels});
  const Tensor mean = zeros({channels}, Dtype::f32, kSimt), var = ones({channels}, Dtype::f32, kSimt);
  const auto forward = [=] { return batch_norm(x, gamma, beta, mean, var); };
  const double c = static_cast<double>(channels);
  // Small enough to stay on the chip between the two passes over a column: read once. See kernels/batch_norm.h.
  if (!backwards) return {product(rows, channels, 8) + c * 4 * 8, [=] { forward(); }};
  return backward_of(forward(), product(rows, channels, 12) + c * 4 * 5);
}

const Case kCases[] = {
    {"fill", true, 64, 4096,
     [](std::int64_t r, std::int64_t c) {
       const Tensor x = random({r, c});
       return Prepared{product(r, c, 4), [=] { fill_(x, 1.5); }};
     }},
    {"copy", true, 64, 4096,
     [](std::int64_t r, std::int64_t c) {
       const Tensor x = random({r, c});
       return Prepared{product(r, c, 8), [=] { clone(x); }};
     }},
    {"copy_transposed", true, 256, 512,
     [](std::int64_t r, std::int64_t c) {
       const Tensor x = random({r, c});
       return Prepared{product(r, c, 8), [=] { clone(x.t()); }};
     }},
    {"cast_f32_to_bf16", true, 64, 4096,
     [](std::int64_t r, std::int64_t c) {
       const Tensor x = random({r, c});
       return Prepared{product(r, c, 6), [=] { cast(x, Dtype::bf16); }};
     }},
    {"add", true, 64, 4096,
     [](std::int64_t r, std::int64_t c) {
       const Tensor a = random({r, c}), b = random({r, c});
       return Prepared{product(r, c, 12), [=] { add(a, b); }};
     }},
    {"add_broadcast", true, 256, 1024,
     [](std::int64_t r, std::int64_t c) {
       const Tensor a = random({r, c}), b = random({c});
       return Prepared{product(r, c, 8) + static_cast<double>(c) * 4, [=] { add(a, b); }};
     }},
    {"relu_forward", true, 64, 4096,
     [](std::int64_t r, std::int64_t c) {
       const Tensor x = random({r, c});
       return Prepared{product(r, c, 8), [=] { relu(x); }};
     }},
    {"relu_backward", true, 64, 4096,
     [](std::int64_t r, std::int64_t c) {
       return backward_of(relu(trained({r, c})), product(r, c, 12));
     }},
    {"sum_rows", true, 256, 1024,
     [](std::int64_t r, std::int64_t c) {
       const Tensor x = random({r, c});
       return Prepared{product(r, c, 4) + static_cast<double>(r) * 4, [=] { sum(x, 1); }};
     }},
    {"sum_columns", true, 1024, 256,
     [](std::int64_t r, std::int64_t c) {
       const Tensor x = random({r, c});
       return Prepared{product(r, c, 4) + static_cast<double>(c) * 4, [=] { sum(x, 0); }};
     }},
    {"argmax_rows", true, 256, 1024,
     [](std::int64_t r, std::int64_t c) {
       const Tensor x = random({r, c});
       return Prepared{product(r, c, 4) + static_cast<double>(r) * 8, [=] { argmax(x, 1); }};
     }},
    {"linear_forward", false, 128, 256,
     [](std::int64_t r, std::int64_t c) {
       const Tensor x = random({r, c}), w = random({c, c}), b = random({c});
       return Prepared{product(r, c, 8) + product(c, c, 4) + static_cast<double>(c) * 4,
                       [=] { linear(x, w, b, Activation::relu); }};
     }},
    {"linear_backward", false, 128, 256,
     [](std::int64_t r, std::int64_t c) {
       return backward_of(linear(trained({r, c}), trained({c, c}), trained({c})), product(r, c, 12) + product(c, c, 8));
     }},
    {"batch_norm_forward", true, 128, 512, [](std::int64_t r, std::int64_t c) { return batch_norm_case(r, c, false); }},
    {"batch_norm_backward", true, 128, 512, [](std::int64_t r, std::int64_t c) { return batch_norm_case(r, c, true); }},
    {"layer_norm_forward", true, 256, 1024, &layer_norm_forward<Dtype::f32>},
    {"layer_norm_forward_bf16", true, 256, 1024, &layer_norm_forward<Dtype::bf16>},
    {"layer_norm_backward", true, 16384, 256, &layer_norm_backward<Dtype::f32>},
    {"layer_norm_backward_bf16", true, 32768, 256, &layer_norm_backward<Dtype::bf16>},
    {"cross_entropy", true, 128, 2048, &cross_entropy_with_gradient<Dtype::f32>},
    {"cross_entropy_bf16", true, 128, 2048, &cross_entropy_with_gradient<Dtype::bf16>},
    {"adamw", true, 12, 16384,
     [](std::int64_t r, std::int64_t c) { return update<optim::AdamW>(r, c, optim::AdamWOptions{.lr = 1e-3}, 28); }},
    {"sgd", true, 12, 16384,
     [](std::int64_t r, std::int64_t c) { return update<optim::SGD>(r, c, optim::SGDOptions{.lr = 1e-3}, 12); }},
    {"sgd_momentum", true, 12, 16384,
     [](std::int64_t r, std::int64_t c) {
       return update<optim::SGD>(r, c, optim::SGDOptions{.lr = 1e-3, .momentum = 0.9}, 20);
     }},
};

struct Measured {
  double floor = 0, moved = 0, coalescing = 1;
  std::int64_t conflicts = 0;
  std::vector<simt::KernelTraffic> launches;
};

Measured measure(const Case& c) {
  const Prepared prepared = c.prepare(c.rows, c.channels);
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
  for (const Case& c : kCases) {
    if (std::string(c.name).find(filter) == std::string::npos) continue;
    ++shown;
    const Measured m = measure(c);
    const bool bad = m.conflicts > 0 || (c.memory_bound && m.moved > kMostOverFloor * m.floor);
    failures += bad ? 1 : 0;
    const std::string shape = fmt::format("{} x {}", c.rows, c.channels);
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

int run_one(const std::string& name, std::int64_t rows, std::int64_t channels, const std::string& place) {
  for (const Case& c : kCases)
    if (name == c.name) {
      // Small, but several blocks and a ragged end.
      const Prepared prepared = c.prepare(rows > 0 ? rows : 30, channels > 0 ? channels : 70);
      if (!place.empty()) simt::break_at(":" + place);
      prepared.call();
      return 0;
    }
  fmt::print(stderr, "error: no case is called '{}'; --list names them\n", name);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  std::string filter, name, place;
  bool markdown = false, check = false;
  long long rows = 0, channels = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--markdown") {
      markdown = true;
    } else if (word == "--check") {
      check = true;
    } else if (word == "--list") {
      for (const Case& c : kCases) fmt::print("{}\n", c.name);
      return 0;
    } else if (word == "--run" && i + 1 < argc) {
      name = argv[++i];
    } else if (word == "--break" && i + 1 < argc) {
      place = argv[++i];
    } else if (word == "--shape" && i + 1 < argc) {
      char rest = 0;
      if (std::sscanf(argv[++i], "%lld,%lld%c", &rows, &channels, &rest) != 2 || rows < 1 || channels < 1) {
        fmt::print(stderr, "error: --shape must be two numbers from 1 up such as 6,70 but is '{}'\n", argv[i]);
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
    return name.empty() ? table(filter, markdown, check) : run_one(name, rows, channels, place);
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
