#include <map>
#include <memory>
#include <numeric>

#include "autograd/causal_window.h"
#include "cases/op_case.h"

namespace weft::cases {
namespace {

const std::vector<Dtype> kMoved = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i64, Dtype::u8};

Segments table_of(const std::vector<std::int32_t>& lengths) {
  std::vector<std::int32_t> offsets{0};
  for (const std::int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return Segments(offsets);
}

// The table on the device of a call's tensor, copied once per device.
class Table {
 public:
  explicit Table(const Segments& table) : host_(table) {}
  const Segments& on(Device device) const {
    auto& made = (*copies_)[device.kind];
    if (!made.defined()) made = host_.to(device);
    return made;
  }
  std::int64_t count() const { return host_.count(); }

 private:
  Segments host_;
  std::shared_ptr<std::map<DeviceKind, Segments>> copies_ = std::make_shared<std::map<DeviceKind, Segments>>();
};

Sample sample(std::string name, Kind kind, const Shape& shape, std::int64_t width,
              const std::vector<std::int32_t>& lengths) {
  const Table table(table_of(lengths));
  return {.name = std::move(name),
          .kind = kind,
          .inputs = {with_terms(normal(shape), static_cast<double>(width))},
          .call = [=](const Tensors& x) { return causal_window(x[0], table.on(x[0].device()), width); },
          .reference = [=](const Tensors& x) { return causal_window_composite(x[0], table.on(x[0].device()), width); }};
}

// Lengths as documents have them: a few short ones, some beyond the window; always the same.
std::vector<std::int32_t> ragged(std::int64_t places) {
  std::vector<std::int32_t> lengths;
  for (std::int64_t left = places, i = 0; left > 0; ++i) {
    const std::int64_t length = std::min<std::int64_t>(left, 1 + i * 7919 % 61);
    lengths.push_back(static_cast<std::int32_t>(length));
    left -= length;
  }
  return lengths;
}

// One segment: all places but the first W - 1 have full windows, and backward reads all but those that stand for a 0.
Workload workload(const Extents& e, double bytes) {
  const auto n = static_cast<double>(e[0]), c = static_cast<double>(e[1]), w = static_cast<double>(e[2]);
  const Table table(table_of({static_cast<std::int32_t>(e[0])}));
  const std::int64_t width = e[2];
  const double moved = n * c * (w + 1) * bytes + n * 4 + 8;
  return {.inputs = {normal({e[0], e[1]})},
          .call = [=](const Tensors& x) { return causal_window(x[0], table.on(x[0].device()), width); },
          .forward = {.bytes = moved},
          .backward = {.bytes = moved - c * w * (w - 1) / 2 * bytes, .flops = n * c * w}};
}

// The same of ragged documents: backward leaves out what stands for a 0 before each of them.
Workload packed_workload(const Extents& e, double bytes) {
  const std::vector<std::int32_t> lengths = ragged(e[0]);
  const Table table(table_of(lengths));
  const std::int64_t width = e[2];
  double zeros = 0;  // parts of windows
  for (const std::int64_t length : lengths)
    for (std::int64_t i = 0; i < std::min(length, width - 1); ++i) zeros += static_cast<double>(width - 1 - i);
  const auto n = static_cast<double>(e[0]), c = static_cast<double>(e[1]), w = static_cast<double>(e[2]);
  const double moved = n * c * (w + 1) * bytes + n * 4 + static_cast<double>(lengths.size() + 1) * 4;
  return {.inputs = {normal({e[0], e[1]})},
          .call = [=](const Tensors& x) { return causal_window(x[0], table.on(x[0].device()), width); },
          .forward = {.bytes = moved},
          .backward = {.bytes = moved - zeros * c * bytes, .flops = n * c * w - zeros * c}};
}

}  // namespace

std::vector<OpCase> causal_window_cases() {
  OpCase c{
      .op = "causal_window", .stem = "causal_window", .functions = {"causal_window"}, .dtypes = kMoved, .exact = true};
  c.samples = {
      sample("N=9 C=4 W=3", Kind::usual, {9, 4}, 3, {4, 1, 2, 2}),
      sample("B=2 T=5 C=8 W=2", Kind::usual, {2, 5, 8}, 2, {3, 2, 5}),
      sample("a segment across rows", Kind::usual, {2, 4, 4}, 3, {3, 4, 1}),
      sample("W=1 copies", Kind::usual, {6, 4}, 1, {2, 4}),
      sample("a window longer than all", Kind::odd, {7, 3}, 9, {2, 4, 1}),
      sample("places alone", Kind::odd, {5, 5}, 4, {1, 1, 1, 1, 1}),
      sample("N=13 C=7 W=5", Kind::odd, {13, 7}, 5, {6, 7}),
      sample("B=3 T=7 C=33 W=3", Kind::odd, {3, 7, 33}, 3, {9, 12}),
      sample("one", Kind::one, {1, 1}, 1, {1}),
      sample("one place, a longer window", Kind::one, {1, 1}, 3, {1}),
      sample("no channels", Kind::empty, {4, 0}, 3, {3, 1}),
      sample("N=700 C=32 W=8", Kind::large, {700, 32}, 8, ragged(700)),
      sample("rows of several blocks", Kind::large, {5, 5000}, 3, {2, 3}),
      sample("rows of several blocks, odd", Kind::large, {3, 4099}, 2, {2, 1}),
      sample("one channel", Kind::large, {2500, 1}, 4, ragged(2500)),
  };
  c.families = {{.extents = {"N", "C", "W"},
                 .make = workload,
                 .timed = {{8192, 32, 8}, {8192, 256, 4}},
                 .counted = {{1024, 32, 8}, {96, 1024, 4}},
                 .small = {37, 20, 3},
                 .dtypes = {Dtype::f32, Dtype::bf16}},
                {.suffix = "_packed",
                 .extents = {"N", "C", "W"},
                 .make = packed_workload,
                 .timed = {{8192, 32, 8}},
                 .counted = {{1024, 32, 8}},
                 .small = {37, 20, 3},
                 .dtypes = {Dtype::f32, Dtype::bf16}}};
  return {c};
}

}  // namespace weft::cases
