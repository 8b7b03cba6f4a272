#include <cmath>

#include <gtest/gtest.h>

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/reduce.h"
#include "kernels/adamw.h"
#include "optim/adamw.h"
#include "support/gpu.h"
#include "support/update_case.h"
#include "support/update_tensors.h"
#include "tensor/gpu.h"

namespace weft {
namespace {

using kernels::AdamWArgs;
using kernels::StepState;
using kernels::UpdateTable;
using test::UpdateInputs;
using test::UpdateTensors;

class AdamWGpu : public test::GpuTest {};
WEFT_GPU_SUITE(AdamWGpu);

struct Hyper {
  double lr = 1e-2, beta1 = 0.9, beta2 = 0.99, eps = 1e-8, weight_decay = 0.1, scale = 1;
};

AdamWArgs arguments(const UpdateTensors& tensors, const Hyper& hyper) {
  return {.table = &tensors.table,
          .state = reinterpret_cast<const StepState*>(tensors.state.raw_data()),
          .beta1 = hyper.beta1,
          .beta2 = hyper.beta2,
          .eps = hyper.eps,
          .weight_decay = hyper.weight_decay};
}

// One update as grad_norm leaves the state for it.
void step(Device device, const UpdateTensors& tensors, const Hyper& hyper, const DeviceStatus* status = nullptr,
          bool apply = true) {
  StepState state = tensors.read_state();
  state.lr = hyper.lr;
  state.scale = hyper.scale;
  state.apply = apply ? 1 : 0;
  if (apply) {
    ++state.applied;
    std::vector<std::int64_t> applied = tensors.read_applied();
    for (auto& t : applied) ++t;
    tensors.write_applied(applied);
  }
  tensors.write_state(state);
  AdamWArgs args = arguments(tensors, hyper);
  args.status = status;
  kernels::adamw(device, args);
}

void expect_close(const UpdateInputs& got, const UpdateInputs& want, double roundings) {
  for (std::size_t p = 0; p < got.parameter.size(); ++p) {
    const double tolerance = roundings * (got.parameter[p].dtype() == Dtype::f32 ? 0x1p-24 : 0x1p-53);
    SCOPED_TRACE(got.parameter[p].numel());
    EXPECT_LE(test::relative_error(got.parameter[p], want.parameter[p]), tolerance);
    EXPECT_LE(test::relative_error(got.moment1[p], want.moment1[p]), tolerance);
    EXPECT_LE(test::relative_error(got.moment2[p], want.moment2[p]), tolerance);
  }
}

// Three updates with about ten roundings each, of which those of a lone element do not average out.
constexpr double kRoundings = 32;

TEST_P(AdamWGpu, MatchesTheCpuInF64) {
  const std::vector<std::int64_t> sizes = test::update_sizes();
  const Hyper hypers[] = {{},
                          {.lr = 0.1, .beta1 = 0, .beta2 = 0, .eps = 1e-3, .weight_decay = 0, .scale = 0.125},
                          {.eps = 1, .weight_decay = 2, .scale = 1e-3}};
  for (const auto& dtypes : {std::vector{Dtype::f32}, std::vector{Dtype::f64, Dtype::f32}})
    for (const std::int64_t offset : {0, 1, 4}) {
      const Hyper& hyper = hypers[offset % 3 == 1 ? offset / 4 + 1 : 0];
      const UpdateInputs inputs = UpdateInputs::random(sizes, dtypes);
      UpdateTensors want({}, inputs.in_f64());
      UpdateInputs first;
      test::in_every_order(device(), [&] {
        UpdateTensors tensors(device(), inputs, offset);
        for (int t = 0; t < 3; ++t) {
          tensors.write_gradients(UpdateInputs::random(sizes, dtypes, 100 + t).gradient);
          step(device(), tensors, hyper);
        }
        EXPECT_TRUE(tensors.intact());
        first = tensors.read();
        return tensors.bits();
      });
      for (int t = 0; t < 3; ++t) {
        want.write_gradients(UpdateInputs::random(sizes, dtypes, 100 + t).in_f64().gradient);
        step({}, want, hyper);
      }
      expect_close(first, want.read(), kRoundings);
    }
}

// The same elements, however the tensor lies in memory and whatever else is in the table.
TEST_P(AdamWGpu, SameBitsForAnyAlignmentAndNeighbours) {
  const UpdateInputs inputs = UpdateInputs::random({5, 1003, 4099}, {Dtype::f32, Dtype::f64});
  const auto result = [&](const UpdateInputs& which, std::int64_t offset) {
    UpdateTensors tensors(device(), which, offset);
    step(device(), tensors, {});
    return tensors.read();
  };
  const UpdateInputs want = result(inputs, 0), moved = result(inputs, 3);
  const UpdateInputs last{{inputs.parameter[2]}, {inputs.gradient[2]}, {inputs.moment1[2]}, {inputs.moment2[2]}};
  const UpdateInputs alone = result(last, 0);
  for (std::size_t p = 0; p < 3; ++p) EXPECT_TRUE(test::bitwise_equal(want.parameter[p], moved.parameter[p])) << p;
  EXPECT_TRUE(test::bitwise_equal(want.parameter[2], alone.parameter[0]));
}

// A parameter that joins late is corrected for its own updates.
TEST_P(AdamWGpu, EveryParameterHasItsOwnCount) {
  const UpdateInputs inputs = UpdateInputs::random({300, 5000, 40}, {Dtype::f32, Dtype::f64});
  UpdateTensors tensors(device(), inputs), want({}, inputs.in_f64());
  tensors.write_applied({99, 0, 1'000'000});
  want.write_applied({99, 0, 1'000'000});
  step(device(), tensors, {});
  step({}, want, {});
  expect_close(tensors.read(), want.read(), kRoundings);
}

TEST_P(AdamWGpu, NotAppliedChangesNothing) {
  const UpdateInputs inputs = UpdateInputs::random({7, 5000}, {Dtype::f32, Dtype::f64});
  UpdateTensors tensors(device(), inputs);
  step(device(), tensors, {}, nullptr, false);
  const Tensor status = test::set_status(device());
  step(device(), tensors, {}, reinterpret_cast<const DeviceStatus*>(status.raw_data()));
  const UpdateInputs after = tensors.read();
  for (std::size_t p = 0; p < 2; ++p) {
    EXPECT_TRUE(test::bitwise_equal(after.parameter[p], inputs.parameter[p]));
    EXPECT_TRUE(test::bitwise_equal(after.moment1[p], inputs.moment1[p]));
    EXPECT_TRUE(test::bitwise_equal(after.moment2[p], inputs.moment2[p]));
  }
  const Tensor clear = test::on(device(), zeros({4}, Dtype::i64));
  step(device(), tensors, {}, reinterpret_cast<const DeviceStatus*>(clear.raw_data()));
  EXPECT_FALSE(test::bitwise_equal(tensors.read().parameter[0], inputs.parameter[0]));
}

// The copy in device memory follows the table: other gradients, other tensors, more of them, another table.
TEST_P(AdamWGpu, TheDeviceTableFollows) {
  const UpdateInputs inputs = UpdateInputs::random({100, 3000}, {Dtype::f32});
  UpdateTensors tensors(device(), inputs), other(device(), UpdateInputs::random({100, 3000}, {Dtype::f32}, 50));
  const Stream& stream = current_stream(device());
  const kernels::DeviceTable first = tensors.table.on(stream);
  EXPECT_EQ(tensors.table.on(stream).entries, first.entries);  // kept

  const auto expect_table = [&](const UpdateTable& table) {
    const kernels::DeviceTable there = table.on(stream);
    ASSERT_EQ(there.entry_count, static_cast<std::int64_t>(table.entries().size()));
    ASSERT_EQ(there.chunk_count, static_cast<std::int64_t>(table.chunks().size()));
    std::vector<kernels::UpdateEntry> entries(table.entries().size());
    std::vector<kernels::UpdateChunk> chunks(table.chunks().size());
    gpu::copy_out(device(), entries.data(), there.entries, there.entry_count * std::int64_t{sizeof(entries[0])});
    gpu::copy_out(device(), chunks.data(), there.chunks, there.chunk_count * std::int64_t{sizeof(chunks[0])});
    EXPECT_TRUE(std::equal(entries.begin(), entries.end(), table.entries().begin()));
    EXPECT_TRUE(std::equal(chunks.begin(), chunks.end(), table.chunks().begin()));
  };
  const auto rebuild = [&](const std::vector<kernels::UpdateEntry>& entries) {
    tensors.table.clear();
    for (const auto& entry : entries) tensors.table.add(entry);
    expect_table(tensors.table);
  };
  const std::vector<kernels::UpdateEntry> before(tensors.table.entries().begin(), tensors.table.entries().end());
  const std::vector<kernels::UpdateEntry> others(other.table.entries().begin(), other.table.entries().end());
  expect_table(tensors.table);
  std::vector<kernels::UpdateEntry> entries = before;
  entries[1].gradient = others[1].gradient;
  rebuild(entries);
  EXPECT_EQ(tensors.table.on(stream).entries, first.entries);  // in the same memory
  entries[0].elements = 20'000;                                // one chunk more
  rebuild(entries);
  rebuild({before[1]});
  rebuild({before[1], before[0], others[0], others[1], before[0]});
  const UpdateTable copy = tensors.table;
  expect_table(copy);
  EXPECT_NE(copy.on(stream).entries, tensors.table.on(stream).entries);
  expect_table(tensors.table);
  const Stream second(device());
  EXPECT_NE(copy.on(second).entries, nullptr);
  rebuild({});
}

TEST_P(AdamWGpu, OneLaunchAndTwentyEightBytesPerElement) {
  if (!emulated()) GTEST_SKIP() << "sectors are counted by the emulator";
  const std::vector<std::int64_t> sizes{30'000, 4096, 16'384, 1024};
  UpdateTensors tensors(device(), UpdateInputs::random(sizes, {Dtype::f32}));
  step(device(), tensors, {});
  double elements = 0;
  for (const std::int64_t size : sizes) elements += static_cast<double>(size);
  test::expect_traffic(device(), 28 * elements, [&] { kernels::adamw(device(), arguments(tensors, {})); });
  const simt::TrafficScope scope;
  kernels::adamw(device(), arguments(tensors, {}));
  EXPECT_EQ(scope.launches().size(), 1u);
}

TEST_P(AdamWGpu, NothingToUpdate) {
  UpdateTensors tensors(device(), UpdateInputs::random({0, 0}, {Dtype::f32}));
  step(device(), tensors, {});
  const UpdateTensors none(device(), UpdateInputs{});
  step(device(), none, {});
}

TEST_P(AdamWGpu, RefusesOtherDtypes) {
  UpdateTensors tensors(device(), UpdateInputs::random({4}, {Dtype::f32}));
  kernels::UpdateEntry entry = tensors.table.entries()[0];
  entry.dtype = Dtype::f16;
  tensors.table.add(entry);
  EXPECT_EQ(test::message_of<DtypeError>([&] { kernels::adamw(device(), arguments(tensors, {})); }),
            "[adamw] parameters must be f32 or f64 but one is f16; keep them in f32 and cast where they are used");
}

// The optimizer on the device against the one on the cpu, clipping included.
TEST_P(AdamWGpu, Optimizer) {
  const auto train = [](Device where) {
    const Tensor w = set_requires_grad(test::on(where, randn({33, 7}, 1))),
                 b = set_requires_grad(test::on(where, randn({5}, 2)));
    optim::AdamW adamw({w, b}, {.lr = 0.05, .max_norm = 0.5});
    for (int t = 0; t < 3; ++t) {
      backward(sum(w * w));
      backward(sum(b * b));
      adamw.step();
      adamw.zero_grad();
    }
    EXPECT_EQ(adamw.applied(), 3);
    return std::vector<Tensor>{test::back(w.alias()), test::back(b.alias())};
  };
  const std::vector<Tensor> want = train({}), got = train(device());
  for (std::size_t i = 0; i < 2; ++i) EXPECT_LE(test::relative_error(got[i], want[i]), kRoundings * 0x1p-24);
}

}  // namespace
}  // namespace weft
