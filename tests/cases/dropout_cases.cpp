#include <cmath>

#include "autograd/cast.h"
#include "autograd/dropout.h"
#include "autograd/elementwise.h"
#include "autograd/step_context.h"
#include "cases/op_case.h"
#include "tensor/philox.h"

namespace weft::cases {
namespace {

using Ids = std::vector<std::int64_t>;

constexpr std::uint64_t kSeed = 0x123456789abcdefull;
constexpr std::int64_t kUpdate = 41;

// What a step says about a batch: ids per row or per token, positions per token or none.
struct Step {
  Ids ids;
  Shape ids_shape;
  Ids positions = {};
  Shape positions_shape = {};

  StepContext on(Device device) const {
    return {.seed = kSeed,
            .update = to(Tensor::from_vector<std::int64_t>({kUpdate}, {}), device),
            .sample_ids = to(Tensor::from_vector(ids, ids_shape), device),
            .positions = positions.empty() ? Tensor() : to(Tensor::from_vector(positions, positions_shape), device)};
  }
};

// The definition of kernels/dropout.h, element by element: 0 or 1 / (1 - p).
Tensor mask(const Step& step, const Shape& shape, bool tokens, double p, std::uint32_t stream) {
  const std::int64_t length = tokens ? shape[1] : 1, rows = shape[0] * length,
                     channels = shape.numel() / std::max<std::int64_t>(rows, 1);
  const PhiloxBlock key = philox4x32(kSeed, kUpdate, 6ull << 32 | stream);
  std::vector<double> values;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < channels; ++c) {
      const std::size_t row = static_cast<std::size_t>(r), sample = static_cast<std::size_t>(r / length);
      const std::int64_t id = step.ids[step.ids_shape.rank() == 2 ? row : sample];
      const std::int64_t position = step.positions.empty() ? r % length : step.positions[row];
      const PhiloxBlock bits =
          philox4x32(static_cast<std::uint64_t>(key[1]) << 32 | key[0], static_cast<std::uint64_t>(id),
                     static_cast<std::uint64_t>(position) << 32 | static_cast<std::uint64_t>(c / 4));
      values.push_back(bits[static_cast<std::size_t>(c % 4)] >= std::nearbyint(p * 0x1p32) ? 1 / (1 - p) : 0);
    }
  return Tensor::from_vector(values, shape);
}

Sample sample(const std::string& name, Kind kind, const Shape& shape, double p, const Step& step,
              std::uint32_t stream = 3) {
  const bool tokens = shape.rank() >= 3 || !step.positions.empty() || step.ids_shape.rank() == 2;
  return {.name = name,
          .kind = kind,
          .inputs = {normal(shape, 1)},
          .call =
              [=](const Tensors& x) {
                const StepScope scope(step.on(x[0].device()));
                return dropout(x[0], p, stream);
              },
          .reference = [=](const Tensors& x) { return x[0] * mask(step, shape, tokens, p, stream); }};
}

Step samples(Ids ids) {
  const auto count = static_cast<std::int64_t>(ids.size());
  return {.ids = std::move(ids), .ids_shape = {count}};
}

}  // namespace

std::vector<OpCase> dropout_cases() {
  OpCase c{.op = "dropout", .stem = "dropout", .functions = {"dropout"}, .exact = true};
  const Ids seventy = [] {
    Ids ids;
    for (std::int64_t i = 0; i < 70; ++i) ids.push_back((i * 37) % 1000);
    return ids;
  }();
  c.samples = {
      sample("B=3 C=8", Kind::usual, {3, 8}, 0.5, samples({7, 0, 123456789012})),
      sample("p=0.1", Kind::usual, {3, 8}, 0.1, samples({7, 0, 5})),
      sample("p near 1", Kind::usual, {2, 16}, 0.9, samples({7, 8})),
      sample("a vector", Kind::usual, {6}, 0.5, samples({1, 2, 3, 4, 5, 6})),
      sample("tokens", Kind::usual, {2, 3, 5}, 0.3, samples({4, 9})),
      sample("positions", Kind::usual, {2, 3, 4}, 0.3,
             {.ids = {4, 9}, .ids_shape = {2}, .positions = {5, 6, 7, 0, 1, 2}, .positions_shape = {2, 3}}),
      sample("packed", Kind::usual, {1, 5, 4}, 0.3,
             {.ids = {4, 4, 9, 9, 9}, .ids_shape = {1, 5}, .positions = {0, 1, 0, 1, 2}, .positions_shape = {1, 5}}),
      sample("images", Kind::odd, {2, 3, 5, 3}, 0.5, samples({4, 9})),
      sample("B=5 C=33", Kind::odd, {5, 33}, 0.5, samples({1, 2, 3, 4, 5})),
      sample("one", Kind::one, {1, 1}, 0.5, samples({3})),
      sample("B=0", Kind::empty, {0, 8}, 0.5, samples({})),
      sample("large", Kind::large, {70, 260}, 0.25, samples(seventy)),
      sample("long rows", Kind::large, {2, 20001}, 0.25, samples({1, 2})),
  };
  c.families = {{.extents = {"B", "C"},
                 .make =
                     [](const Extents& e, double bytes) {
                       const double moved =
                           static_cast<double>(e[0] * e[1]) * 2 * bytes + static_cast<double>(e[0]) * 8;
                       Ids ids;
                       for (std::int64_t i = 0; i < e[0]; ++i) ids.push_back(i);
                       return Workload{.inputs = {normal({e[0], e[1]})},
                                       .call =
                                           [step = samples(std::move(ids))](const Tensors& x) {
                                             const StepScope scope(step.on(x[0].device()));
                                             return dropout(x[0], 0.1);
                                           },
                                       .forward = {.bytes = moved},
                                       .backward = {.bytes = moved}};
                     },
                 .timed = {{2048, 768}, {8192, 1024}},
                 .counted = {{64, 1024}},
                 .dtypes = {Dtype::f32, Dtype::bf16}}};
  return {c};
}

}  // namespace weft::cases
