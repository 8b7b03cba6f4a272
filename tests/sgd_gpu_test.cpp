#include <gtest/gtest.h>

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/reduce.h"
#include "kernels/sgd.h"
#include "optim/sgd.h"
#include "support/gpu.h"
#include "support/update_case.h"
#include "support/update_tensors.h"

namespace weft {
namespace {

using kernels::SgdArgs;
using kernels::StepState;
using test::UpdateInputs;
using test::UpdateTensors;

class SgdGpu : public test::GpuTest {};
WEFT_GPU_SUITE(SgdGpu);

struct Hyper {
  double momentum = 0;
  bool nesterov = false;
  double weight_decay = 0;
  double lr = 0.1, scale = 0.25;
};

SgdArgs arguments(const UpdateTensors& tensors, const Hyper& hyper) {
  return {.table = &tensors.table,
          .state = reinterpret_cast<const StepState*>(tensors.state.raw_data()),
          .momentum = hyper.momentum,
          .nesterov = hyper.nesterov,
          .weight_decay = hyper.weight_decay};
}

// One update as grad_norm leaves the state for it.
void step(Device device, const UpdateTensors& tensors, const Hyper& hyper, const DeviceStatus* status = nullptr,
          bool apply = true) {
  tensors.write_state({.lr = hyper.lr, .scale = hyper.scale, .apply = apply ? 1 : 0});
  SgdArgs args = arguments(tensors, hyper);
  args.status = status;
  kernels::sgd(device, args);
}

void expect_close(const UpdateInputs& got, const UpdateInputs& want) {
  for (std::size_t p = 0; p < got.parameter.size(); ++p) {
    // Three updates with about five roundings each, of which those of a lone element do not average out.
    const double tolerance = 16 * (got.parameter[p].dtype() == Dtype::f32 ? 0x1p-24 : 0x1p-53);
    SCOPED_TRACE(got.parameter[p].numel());
    EXPECT_LE(test::relative_error(got.parameter[p], want.parameter[p]), tolerance);
    EXPECT_LE(test::relative_error(got.moment1[p], want.moment1[p]), tolerance);
  }
}

TEST_P(SgdGpu, MatchesTheCpuInF64) {
  const std::vector<std::int64_t> sizes = test::update_sizes();
  const Hyper hypers[] = {{},
                          {.weight_decay = 0.3},
                          {.momentum = 0.9},
                          {.momentum = 0.9, .weight_decay = 0.3},
                          {.momentum = 0.8, .nesterov = true, .weight_decay = 0.1}};
  for (const Hyper& hyper : hypers)
    for (const std::int64_t offset : {0, 1}) {
      SCOPED_TRACE(fmt::format("momentum {} nesterov {} decay {} offset {}", hyper.momentum, hyper.nesterov,
                               hyper.weight_decay, offset));
      const std::vector<Dtype> dtypes = {Dtype::f32, Dtype::f32, Dtype::f64};
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
      expect_close(first, want.read());
      if (hyper.momentum == 0) {  // what else lies there is not looked at
        for (std::size_t p = 0; p < sizes.size(); ++p)
          EXPECT_TRUE(test::bitwise_equal(first.moment1[p], inputs.moment1[p]));
      }
    }
}

// No array is made for a momentum of 0.
TEST_P(SgdGpu, WithoutMoments) {
  const UpdateInputs inputs = UpdateInputs::random({1000, 7}, {Dtype::f32});
  UpdateTensors tensors(device(), inputs), want({}, inputs.in_f64());
  const std::vector<kernels::UpdateEntry> entries(tensors.table.entries().begin(), tensors.table.entries().end());
  tensors.table.clear();
  for (kernels::UpdateEntry entry : entries) {
    entry.moment1 = entry.moment2 = nullptr;
    tensors.table.add(entry);
  }
  step(device(), tensors, {.weight_decay = 0.5});
  step({}, want, {.weight_decay = 0.5});
  expect_close(tensors.read(), want.read());
}

TEST_P(SgdGpu, NotAppliedChangesNothing) {
  const UpdateInputs inputs = UpdateInputs::random({7, 5000}, {Dtype::f32, Dtype::f64});
  UpdateTensors tensors(device(), inputs);
  const Hyper hyper{.momentum = 0.9};
  step(device(), tensors, hyper, nullptr, false);
  const Tensor status = test::set_status(device());
  step(device(), tensors, hyper, reinterpret_cast<const DeviceStatus*>(status.raw_data()));
  const UpdateInputs after = tensors.read();
  for (std::size_t p = 0; p < 2; ++p) {
    EXPECT_TRUE(test::bitwise_equal(after.parameter[p], inputs.parameter[p]));
    EXPECT_TRUE(test::bitwise_equal(after.moment1[p], inputs.moment1[p]));
  }
}

TEST_P(SgdGpu, OneLaunchAndTwelveOrTwentyBytesPerElement) {
  if (!emulated()) GTEST_SKIP() << "sectors are counted by the emulator";
  UpdateTensors tensors(device(), UpdateInputs::random({30'000, 4096, 16'384, 1024}, {Dtype::f32}));
  const double elements = 30'000 + 4096 + 16'384 + 1024;
  for (const Hyper& hyper : {Hyper{}, Hyper{.momentum = 0.9, .nesterov = true}}) {
    step(device(), tensors, hyper);
    test::expect_traffic(device(), (hyper.momentum > 0 ? 20 : 12) * elements,
                         [&] { kernels::sgd(device(), arguments(tensors, hyper)); });
    const simt::TrafficScope scope;
    kernels::sgd(device(), arguments(tensors, hyper));
    EXPECT_EQ(scope.launches().size(), 1u);
  }
}

TEST_P(SgdGpu, NothingToUpdate) {
  UpdateTensors tensors(device(), UpdateInputs::random({0, 0}, {Dtype::f32}));
  step(device(), tensors, {});
}

TEST_P(SgdGpu, RefusesOtherDtypes) {
  UpdateTensors tensors(device(), UpdateInputs::random({4}, {Dtype::f32}));
  kernels::UpdateEntry entry = tensors.table.entries()[0];
  entry.dtype = Dtype::bf16;
  tensors.table.add(entry);
  EXPECT_THROW(kernels::sgd(device(), arguments(tensors, {})), DtypeError);
}

// The optimizer on the device against the one on the cpu.
TEST_P(SgdGpu, Optimizer) {
  const auto train = [](Device where) {
    const Tensor w = set_requires_grad(test::on(where, randn({33, 7}, 1)));
    optim::SGD sgd({w}, {.lr = 0.05, .momentum = 0.9, .nesterov = true, .weight_decay = 0.01});
    for (int t = 0; t < 3; ++t) {
      backward(sum(w * w));
      sgd.step();
      sgd.zero_grad();
    }
    EXPECT_EQ(sgd.applied(), 3);
    return test::back(w.alias());
  };
  EXPECT_LE(test::relative_error(train(device()), train({})), 32 * 0x1p-24);
}

}  // namespace
}  // namespace weft
