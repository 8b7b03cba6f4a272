#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "kernels/grad_norm.h"
#include "support/gpu.h"
#include "support/update_case.h"
#include "support/update_tensors.h"

namespace weft {
namespace {

using kernels::GradNormArgs;
using kernels::StepState;
using kernels::UpdateTable;
using test::UpdateInputs;
using test::UpdateTensors;

class GradNormGpu : public test::GpuTest {};
WEFT_GPU_SUITE(GradNormGpu);

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

GradNormArgs arguments(const UpdateTensors& tensors) {
  return {.table = &tensors.table,
          .state = reinterpret_cast<StepState*>(tensors.state.raw_data()),
          .partial = tensors.partial.data<double>()};
}

StepState run(Device device, const UpdateTensors& tensors, double max_norm = 0, const double* denominator = nullptr) {
  Tensor there;
  GradNormArgs args = arguments(tensors);
  args.max_norm = max_norm;
  if (denominator != nullptr) {
    there = to(Tensor::from_vector(std::vector<double>{*denominator}, {1}), device);
    args.denominator = there.data<double>();
  }
  kernels::grad_norm(device, args);
  return tensors.read_state();
}

double reference_norm(const UpdateInputs& inputs) {
  long double sum = 0;
  for (const Tensor& gradient : inputs.gradient)
    for (const double g : test::values(gradient)) sum += static_cast<long double>(g) * g;
  return static_cast<double>(std::sqrt(sum));
}

// A thread adds at most 16 Ki / 512 = 32 squares of like size one after the other, and ten sums of two follow; the
// square root halves a relative error.
TEST_P(GradNormGpu, MatchesTheReference) {
  for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
    const double tolerance = 8 * (dtype == Dtype::f32 ? 0x1p-24 : 0x1p-53);
    for (const std::int64_t size : test::update_sizes()) {
      const UpdateInputs inputs = UpdateInputs::random({size}, {dtype});
      const UpdateTensors tensors(device(), inputs);
      const double want = reference_norm(inputs);
      EXPECT_NEAR(run(device(), tensors).norm, want, tolerance * want) << size;
    }
  }
  const UpdateInputs inputs = UpdateInputs::random(test::update_sizes(), {Dtype::f32, Dtype::f64, Dtype::f32});
  const double want = reference_norm(inputs);
  StepState aligned{};
  for (const std::int64_t offset : {0, 1, 2, 4}) {
    StepState state{};
    test::in_every_order(device(), [&] {
      const UpdateTensors tensors(device(), inputs, offset);
      state = run(device(), tensors);
      EXPECT_TRUE(tensors.intact());
      EXPECT_EQ(tensors.read_applied(), std::vector<std::int64_t>(inputs.parameter.size(), 1));
      return tensors.bits();
    });
    EXPECT_NEAR(state.norm, want, 8 * 0x1p-24 * want);
    EXPECT_EQ(state.scale, 1);
    EXPECT_EQ(state.apply, 1);
    if (offset == 0) aligned = state;
    EXPECT_EQ(state.sum_of_squares, aligned.sum_of_squares) << offset;  // the same bits
  }
}

// More tensors, and so chunks, than the deciding block has threads.
TEST_P(GradNormGpu, ManyTinyTensors) {
  std::vector<std::int64_t> sizes(1100);
  for (std::size_t i = 0; i < sizes.size(); ++i) sizes[i] = static_cast<std::int64_t>(i % 5);
  sizes.resize(1700, 2);
  const UpdateInputs inputs = UpdateInputs::random(sizes, {Dtype::f32});
  const UpdateTensors tensors(device(), inputs);
  const double want = reference_norm(inputs);
  EXPECT_NEAR(run(device(), tensors).norm, want, 1e-6 * want);
  EXPECT_EQ(tensors.read_applied(), std::vector<std::int64_t>(sizes.size(), 1));
  run(device(), tensors);
  EXPECT_EQ(tensors.read_applied(), std::vector<std::int64_t>(sizes.size(), 2));
}

TEST_P(GradNormGpu, NothingToUpdateIsAnUpdate) {
  for (const std::vector<std::int64_t>& sizes : {std::vector<std::int64_t>{}, std::vector<std::int64_t>{0}}) {
    const UpdateTensors tensors(device(), UpdateInputs::random(sizes, {Dtype::f32}));
    const StepState state = run(device(), tensors);
    EXPECT_EQ(state.norm, 0);
    EXPECT_EQ(state.apply, 1);
    EXPECT_EQ(state.scale, 1);
    EXPECT_EQ(state.applied, 1);
    EXPECT_EQ(tensors.read_applied(), std::vector<std::int64_t>(sizes.size(), 1));
  }
}

TEST_P(GradNormGpu, ClipsAfterScaling) {
  UpdateInputs inputs = UpdateInputs::random({2}, {Dtype::f64});
  inputs.gradient[0] = Tensor::from_vector(std::vector<double>{30, 40}, {2});
  const UpdateTensors tensors(device(), inputs);
  double denominator = 10;  // norm 5 after scaling, 50 before
  StepState state = run(device(), tensors, 1, &denominator);
  EXPECT_DOUBLE_EQ(state.norm, 5);
  EXPECT_DOUBLE_EQ(state.sum_of_squares, 2500);
  EXPECT_DOUBLE_EQ(state.scale, 1.0 / (5 + 1e-6) / 10);
  EXPECT_DOUBLE_EQ(run(device(), tensors, 6, &denominator).scale, 0.1);  // within the limit: only scaled
  EXPECT_DOUBLE_EQ(run(device(), tensors, 0, &denominator).scale, 0.1);  // no clipping
  denominator = -10;
  state = run(device(), tensors, 1, &denominator);
  EXPECT_DOUBLE_EQ(state.norm, 5);
  EXPECT_DOUBLE_EQ(state.scale, -1.0 / (5 + 1e-6) / 10);
}

// Step by step the same decisions and counters as on the cpu.
TEST_P(GradNormGpu, DecidesAsTheCpu) {
  const UpdateInputs inputs = UpdateInputs::random({20, 30}, {Dtype::f64});
  const UpdateTensors tensors(device(), inputs), want({}, inputs);
  for (const double denominator : {4.0, 0.0, kNan, kInf, 2.0, -kInf, 1e-300, 1e300, -0.0, 1.0}) {
    const StepState got = run(device(), tensors, 1.5, &denominator), expected = run({}, want, 1.5, &denominator);
    SCOPED_TRACE(denominator);
    EXPECT_EQ(got.apply, expected.apply);
    EXPECT_EQ(got.updates, expected.updates);
    EXPECT_EQ(got.applied, expected.applied);
    EXPECT_EQ(got.skipped_zero_denominator, expected.skipped_zero_denominator);
    EXPECT_EQ(got.skipped_not_finite, expected.skipped_not_finite);
    EXPECT_EQ(got.skipped_in_a_row, expected.skipped_in_a_row);
    EXPECT_EQ(tensors.read_applied(), want.read_applied());
    if (expected.apply != 0) { EXPECT_NEAR(got.scale, expected.scale, 1e-14 * std::fabs(expected.scale)); }
  }
  EXPECT_EQ(tensors.read_state().skipped_zero_denominator, 2);
  EXPECT_EQ(tensors.read_state().lr, 0);  // the host's
}

TEST_P(GradNormGpu, FindsNanAndInfinityAnywhere) {
  const std::vector<std::int64_t> sizes{5, 1000, UpdateTable::kChunkElements + 3};
  for (const Dtype dtype : {Dtype::f32, Dtype::f64})
    for (const double bad : {kNan, kInf, -kInf})
      for (std::size_t p = 0; p < sizes.size(); ++p)
        for (const std::int64_t at : {std::int64_t{0}, sizes[p] / 2, sizes[p] - 1}) {
          UpdateInputs inputs = UpdateInputs::random(sizes, {dtype});
          inputs.gradient[p].slice(0, at, at + 1).copy_bytes_from(cast(full({1}, bad), dtype));
          const UpdateTensors tensors(device(), inputs);
          const StepState state = run(device(), tensors, 1);
          EXPECT_EQ(state.apply, 0) << bad << " in tensor " << p << " at " << at;
          EXPECT_EQ(state.skipped_not_finite, 1);
          EXPECT_FALSE(std::isfinite(state.norm));
          EXPECT_EQ(tensors.read_applied(), (std::vector<std::int64_t>{0, 0, 0}));
        }
}

TEST_P(GradNormGpu, LargeAndSmallGradients) {
  UpdateInputs inputs = UpdateInputs::random({64}, {Dtype::f32});
  const auto with = [&](double value, const double* denominator = nullptr) {
    inputs.gradient[0] = full({64}, value);
    return run(device(), UpdateTensors(device(), inputs), 0, denominator);
  };
  EXPECT_NEAR(with(1e18).norm, 8e18, 1e12);
  EXPECT_EQ(with(1e18).apply, 1);
  EXPECT_EQ(with(1e20).apply, 0);  // its square is no f32
  const double tiny = 1e-300;      // 1/denominator is no f32 either: nothing is multiplied by an infinite scale
  EXPECT_EQ(with(0, &tiny).apply, 0);
}

// While something else has gone wrong on the device, an update is neither made nor counted.
TEST_P(GradNormGpu, ASetStatusWordHoldsTheUpdate) {
  const UpdateTensors tensors(device(), UpdateInputs::random({100, 3}, {Dtype::f32}));
  const StepState before = run(device(), tensors);
  EXPECT_EQ(before.apply, 1);
  const Tensor status = test::set_status(device());
  GradNormArgs args = arguments(tensors);
  args.status = reinterpret_cast<const DeviceStatus*>(status.raw_data());
  kernels::grad_norm(device(), args);
  const StepState after = tensors.read_state();
  EXPECT_EQ(after.apply, 0);
  EXPECT_EQ(after.updates, before.updates);
  EXPECT_EQ(after.applied, before.applied);
  EXPECT_EQ(after.skipped_not_finite + after.skipped_zero_denominator + after.skipped_in_a_row, 0);
  EXPECT_EQ(tensors.read_applied(), (std::vector<std::int64_t>{1, 1}));
  const Tensor clear = test::on(device(), zeros({4}, Dtype::i64));
  args.status = reinterpret_cast<const DeviceStatus*>(clear.raw_data());
  kernels::grad_norm(device(), args);
  EXPECT_EQ(tensors.read_state().applied, 2);
}

TEST_P(GradNormGpu, Traffic) {
  const std::vector<std::int64_t> sizes{40'000, 16'384, 16'384, 9000};
  const UpdateTensors tensors(device(), UpdateInputs::random(sizes, {Dtype::f32}));
  test::expect_traffic(device(), 4.0 * (40'000 + 2 * 16'384 + 9000),
                       [&] { kernels::grad_norm(device(), arguments(tensors)); });
}

TEST_P(GradNormGpu, RefusesOtherDtypes) {
  UpdateTensors tensors(device(), UpdateInputs::random({4}, {Dtype::f32}));
  kernels::UpdateEntry entry = tensors.table.entries()[0];
  entry.dtype = Dtype::bf16;
  tensors.table.add(entry);
  EXPECT_EQ(test::message_of<DtypeError>([&] { kernels::grad_norm(device(), arguments(tensors)); }),
            "[grad_norm] parameters must be f32 or f64 but one is bf16; keep them in f32 and cast where they are used");
  EXPECT_EQ(tensors.read_state().updates, 0);
}

}  // namespace
}  // namespace weft
