#include "kernels/grad_norm.h"

#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/update_case.h"

namespace weft {
namespace {

using kernels::StepState;
using kernels::UpdateTable;
using test::ThreadsGuard;
using test::UpdateCase;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

struct Call {
  double max_norm = 0;
  const double* denominator = nullptr;
};
template <class T>
void run(UpdateCase<T>& c, Call call = {}) {
  const UpdateTable table = c.table();
  kernels::grad_norm({}, {.table = &table,
                          .denominator = call.denominator,
                          .max_norm = call.max_norm,
                          .state = &c.state,
                          .partial = c.partial.data()});
}

template <class T>
double reference_norm(const UpdateCase<T>& c) {
  long double sum = 0;
  for (const auto& g : c.gradient)
    for (std::int64_t i = 0; i < g.size(); ++i) sum += static_cast<long double>(g[i]) * g[i];
  return static_cast<double>(std::sqrt(sum));
}

template <class T>
void check_norms(double tolerance) {
  for (const std::int64_t size : test::update_sizes()) {
    UpdateCase<T> c({size});
    run(c);
    const double want = reference_norm(c);
    EXPECT_NEAR(c.state.norm, want, tolerance * want) << size;
    EXPECT_TRUE(c.intact());
  }
  UpdateCase<T> all(test::update_sizes());
  run(all);
  const double want = reference_norm(all);
  EXPECT_NEAR(all.state.norm, want, tolerance * want);
  EXPECT_EQ(all.state.scale, 1);
  EXPECT_EQ(all.state.apply, 1);
}

// A lane adds at most 16 Ki / 64 = 256 squares of like size one after the other (error about sqrt(256) rounding
// errors), and the square root halves a relative error.
TEST(GradNorm, MatchesTheReferenceF32) { check_norms<float>(8 * 0x1p-24); }
TEST(GradNorm, MatchesTheReferenceF64) { check_norms<double>(8 * 0x1p-53); }

TEST(GradNorm, TakesF32AndF64Together) {
  UpdateCase<float> narrow({100});
  UpdateCase<double> wide({200});
  UpdateTable table = narrow.table();
  const UpdateTable wide_table = wide.table();
  table.add(wide_table.entries()[0]);
  std::vector<double> partial(2);
  StepState state;
  kernels::grad_norm({}, {.table = &table, .state = &state, .partial = partial.data()});
  EXPECT_NEAR(state.norm, std::hypot(reference_norm(narrow), reference_norm(wide)), 1e-6 * state.norm);
  EXPECT_EQ(narrow.applied[0], 1);
  EXPECT_EQ(wide.applied[0], 1);
}

TEST(GradNorm, ManyTinyTensorsAreFewPiecesOfWork) {
  std::vector<std::int64_t> sizes(3000);
  for (std::size_t i = 0; i < sizes.size(); ++i) sizes[i] = static_cast<std::int64_t>(i % 8);
  UpdateCase<float> c(sizes);
  run(c);
  const double want = reference_norm(c);
  EXPECT_NEAR(c.state.norm, want, 1e-6 * want);
  // All 10 500 elements fit in one chunk's worth: no other thread is called.
  const UpdateTable table = c.table();
  EXPECT_EQ(table.chunks().size(), 3000u * 7 / 8);
  const auto caller = std::this_thread::get_id();
  table.for_each_chunk([&](const auto&, const auto&, std::size_t) { EXPECT_EQ(std::this_thread::get_id(), caller); });
}

TEST(GradNorm, NothingToUpdateIsAnUpdate) {
  UpdateCase<float> c({0});
  run(c);
  EXPECT_EQ(c.state.norm, 0);
  EXPECT_EQ(c.state.apply, 1);
  EXPECT_EQ(c.state.scale, 1);
}

TEST(GradNorm, ClipsAfterScaling) {
  UpdateCase<double> c({2});
  c.gradient[0][0] = 30;
  c.gradient[0][1] = 40;
  double denominator = 10;  // norm 5 after scaling, 50 before
  run(c, {.max_norm = 1, .denominator = &denominator});
  EXPECT_DOUBLE_EQ(c.state.norm, 5);
  EXPECT_DOUBLE_EQ(c.state.scale, 1.0 / (5 + 1e-6) / 10);
  run(c, {.max_norm = 6, .denominator = &denominator});  // within the limit: only scaled
  EXPECT_DOUBLE_EQ(c.state.scale, 0.1);
  run(c, {.max_norm = 0, .denominator = &denominator});  // no clipping
  EXPECT_DOUBLE_EQ(c.state.scale, 0.1);
  denominator = -10;
  run(c, {.max_norm = 1, .denominator = &denominator});
  EXPECT_DOUBLE_EQ(c.state.norm, 5);
  EXPECT_DOUBLE_EQ(c.state.scale, -1.0 / (5 + 1e-6) / 10);
}

TEST(GradNorm, CountsWhatItDecides) {
  UpdateCase<float> c({20, 30});
  double denominator = 4;
  run(c, {.denominator = &denominator});
  denominator = 0;
  run(c, {.denominator = &denominator});
  EXPECT_EQ(c.state.apply, 0);
  denominator = kNan;
  run(c, {.denominator = &denominator});
  EXPECT_EQ(c.state.apply, 0);
  EXPECT_EQ(c.state.skipped_in_a_row, 2);
  denominator = kInf;
  run(c, {.denominator = &denominator});
  EXPECT_EQ(c.state.apply, 0);
  EXPECT_EQ(c.state.skipped_in_a_row, 3);
  denominator = 2;
  run(c, {.denominator = &denominator});
  EXPECT_EQ(c.state.apply, 1);
  EXPECT_EQ(c.state.updates, 5);
  EXPECT_EQ(c.state.applied, 2);
  EXPECT_EQ(c.state.skipped_zero_denominator, 1);
  EXPECT_EQ(c.state.skipped_not_finite, 2);
  EXPECT_EQ(c.state.skipped_in_a_row, 0);
  EXPECT_EQ(c.applied, (std::vector<std::int64_t>{2, 2}));
}

// 0/0 of a masked window must count as masked, not as a broken gradient.
TEST(GradNorm, AllMaskedWithZeroGradient) {
  UpdateCase<float> c({3});
  for (int i = 0; i < 3; ++i) c.gradient[0][i] = 0;
  const double denominator = 0;
  run(c, {.denominator = &denominator});
  EXPECT_EQ(c.state.apply, 0);
  EXPECT_EQ(c.state.skipped_zero_denominator, 1);
  EXPECT_EQ(c.state.skipped_not_finite, 0);
}

template <class T>
void check_not_finite() {
  const std::vector<std::int64_t> sizes{5, 1000, UpdateTable::kChunkElements + 3};
  for (const double bad : {kNan, kInf, -kInf})
    for (std::size_t p = 0; p < sizes.size(); ++p)
      for (const std::int64_t at : {std::int64_t{0}, sizes[p] / 2, sizes[p] - 1}) {
        UpdateCase<T> c(sizes);
        c.gradient[p][at] = static_cast<T>(bad);
        run(c, {.max_norm = 1});
        EXPECT_EQ(c.state.apply, 0) << bad << " in tensor " << p << " at " << at;
        EXPECT_EQ(c.state.skipped_not_finite, 1);
        EXPECT_FALSE(std::isfinite(c.state.norm));
        EXPECT_EQ(c.applied, (std::vector<std::int64_t>{0, 0, 0}));
      }
}
TEST(GradNorm, FindsNanAndInfinityAnywhere) {
  check_not_finite<float>();
  check_not_finite<double>();
}

TEST(GradNorm, LargeAndSmallGradients) {
  UpdateCase<float> c({64});
  for (int i = 0; i < 64; ++i) c.gradient[0][i] = 1e18f;
  run(c);
  EXPECT_EQ(c.state.apply, 1);
  EXPECT_NEAR(c.state.norm, 8e18, 1e12);
  for (int i = 0; i < 64; ++i) c.gradient[0][i] = 1e20f;  // its square is no f32
  run(c);
  EXPECT_EQ(c.state.apply, 0);
  const double tiny = 1e-300;  // 1/denominator is no f32 either: nothing is multiplied by an infinite scale
  for (int i = 0; i < 64; ++i) c.gradient[0][i] = 0;
  run(c, {.denominator = &tiny});
  EXPECT_EQ(c.state.apply, 0);
}

TEST(GradNorm, SameBitsForAnyNumberOfThreads) {
  std::vector<double> sums;
  for (const int threads : {1, 2, 7}) {
    const ThreadsGuard guard(threads);
    UpdateCase<float> c({40, 100000, 3, 77777});
    run(c);
    sums.push_back(c.state.sum_of_squares);
  }
  EXPECT_EQ(sums[0], sums[1]);
  EXPECT_EQ(sums[0], sums[2]);
}

TEST(GradNorm, RefusesOtherDtypesAndDevices) {
  UpdateCase<float> c({4});
  UpdateTable table;
  kernels::UpdateEntry entry = c.table().entries()[0];
  entry.dtype = Dtype::bf16;
  table.add(entry);
  const kernels::GradNormArgs args{.table = &table, .state = &c.state, .partial = c.partial.data()};
  EXPECT_EQ(test::message_of<DtypeError>([&] { kernels::grad_norm({}, args); }),
            "[grad_norm] parameters must be f32 or f64 but one is bf16; keep them in f32 and cast where they are used");
  EXPECT_EQ(c.state.updates, 0);
  if (!cuda_status().usable) { EXPECT_THROW(kernels::grad_norm({DeviceKind::cuda, 0}, args), DeviceError); }
}

}  // namespace
}  // namespace weft
