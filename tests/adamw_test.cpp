#include "kernels/adamw.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/update_case.h"

namespace weft {
namespace {

using kernels::UpdateTable;
using test::ThreadsGuard;
using test::UpdateCase;

struct Hyper {
  double lr = 1e-2, beta1 = 0.9, beta2 = 0.99, eps = 1e-8, weight_decay = 0.1, scale = 1;
};

// As grad_norm leaves the state of an update that is made.
template <class T>
void run(UpdateCase<T>& c, const Hyper& hyper, bool apply = true) {
  c.state.lr = hyper.lr;
  c.state.scale = hyper.scale;
  c.state.apply = apply ? 1 : 0;
  if (apply) {
    c.state.applied += 1;
    for (auto& t : c.applied) t += 1;
  }
  const UpdateTable table = c.table();
  kernels::adamw({}, {.table = &table,
                      .state = &c.state,
                      .beta1 = hyper.beta1,
                      .beta2 = hyper.beta2,
                      .eps = hyper.eps,
                      .weight_decay = hyper.weight_decay});
}

// Algorithm 2 of Loshchilov and Hutter as written there, in f64.
struct Reference {
  std::vector<double> p, m, v;
  void step(const auto& gradient, const Hyper& hyper, int t) {
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double g = static_cast<double>(gradient[static_cast<std::int64_t>(i)]) * hyper.scale;
      m[i] = hyper.beta1 * m[i] + (1 - hyper.beta1) * g;
      v[i] = hyper.beta2 * v[i] + (1 - hyper.beta2) * g * g;
      const double m_hat = m[i] / (1 - std::pow(hyper.beta1, t)), v_hat = v[i] / (1 - std::pow(hyper.beta2, t));
      p[i] -= hyper.lr * (m_hat / (std::sqrt(v_hat) + hyper.eps) + hyper.weight_decay * p[i]);
    }
  }
};

template <class T>
std::vector<double> doubles(const test::Guarded<T>& values) {
  return {values.data(), values.data() + values.size()};
}

template <class T>
void check_ten_steps(double tolerance) {
  for (const Hyper& hyper :
       {Hyper{}, Hyper{.lr = 0.1, .beta1 = 0, .beta2 = 0, .eps = 1e-3, .weight_decay = 0, .scale = 0.125},
        Hyper{.eps = 1, .weight_decay = 2, .scale = 1e-3}}) {
    UpdateCase<T> c(test::update_sizes());
    std::vector<Reference> references;
    for (const auto& p : c.parameter) {
      const std::vector<double> zeros(static_cast<std::size_t>(p.size()));
      references.push_back({doubles(p), zeros, zeros});
    }
    for (int t = 1; t <= 10; ++t) {
      c.new_gradients(static_cast<std::uint64_t>(t));
      for (std::size_t p = 0; p < references.size(); ++p) references[p].step(c.gradient[p], hyper, t);
      run(c, hyper);
    }
    for (std::size_t p = 0; p < references.size(); ++p) {
      EXPECT_LE(test::relative_error(doubles(c.parameter[p]), references[p].p), tolerance) << c.parameter[p].size();
      EXPECT_LE(test::relative_error(doubles(c.moment1[p]), references[p].m), tolerance) << c.parameter[p].size();
      EXPECT_LE(test::relative_error(doubles(c.moment2[p]), references[p].v), tolerance) << c.parameter[p].size();
    }
    EXPECT_TRUE(c.intact());
  }
}

// Ten updates with about ten roundings each, of which the errors of m and of p add up: 10 sqrt(10) half ulps at most.
TEST(AdamW, TenStepsMatchTheReferenceF32) { check_ten_steps<float>(32 * 0x1p-24); }
TEST(AdamW, TenStepsMatchTheReferenceF64) { check_ten_steps<double>(32 * 0x1p-53); }

// Bias correction: the first step is lr in the direction of the sign, whatever the size of the gradient.
TEST(AdamW, FirstStepHasTheLengthOfTheLearningRate) {
  for (const double size : {1e-6, 1.0, 1e6}) {
    UpdateCase<double> c({3});
    for (int i = 0; i < 3; ++i) {
      c.parameter[0][i] = 0;
      c.gradient[0][i] = i == 1 ? -size : size;
    }
    run(c, {.lr = 0.5, .eps = 0, .weight_decay = 0});
    for (int i = 0; i < 3; ++i) EXPECT_NEAR(c.parameter[0][i], i == 1 ? 0.5 : -0.5, 1e-14);
  }
}

// Decoupled: without a gradient the parameter shrinks by lr * weight_decay and the moments see nothing of it.
TEST(AdamW, DecayDoesNotGoThroughTheMoments) {
  UpdateCase<double> c({40});
  const auto before = c.parameter[0];
  for (int i = 0; i < 40; ++i) c.gradient[0][i] = 0;
  run(c, {.lr = 0.5, .weight_decay = 0.25});
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(c.parameter[0][i], before[i] * 0.875);
    EXPECT_EQ(c.moment1[0][i], 0);
    EXPECT_EQ(c.moment2[0][i], 0);
  }
}

TEST(AdamW, EpsOfZeroWithZeroGradientOnlyInTheMissingLanes) {
  UpdateCase<float> c({1, 17});
  run(c, {.eps = 0});
  for (const auto& p : c.parameter)
    for (std::int64_t i = 0; i < p.size(); ++i) EXPECT_TRUE(std::isfinite(p[i]));
}

TEST(AdamW, ScaleIsThatOfAScaledGradient) {
  UpdateCase<float> c({1000}), scaled({1000});
  for (int i = 0; i < 1000; ++i) scaled.gradient[0][i] *= 0.25f;
  run(c, {.scale = 0.25});
  run(scaled, {});
  EXPECT_TRUE(c.parameter == scaled.parameter);
  EXPECT_TRUE(c.moment1 == scaled.moment1);
  EXPECT_TRUE(c.moment2 == scaled.moment2);
}

// A parameter that joins late is corrected for its own updates: its first step has the length of lr too.
TEST(AdamW, EveryParameterHasItsOwnCount) {
  UpdateCase<double> c({2, 2});
  c.state.applied = 100;
  c.applied = {100, 0};
  for (int p = 0; p < 2; ++p)
    for (int i = 0; i < 2; ++i) c.parameter[p][i] = 0, c.gradient[p][i] = 1;
  run(c, {.lr = 0.5, .eps = 0, .weight_decay = 0});
  EXPECT_NEAR(c.parameter[1][0], -0.5, 1e-14);
  const double m = 0.1 / (1 - std::pow(0.9, 101)), v = 0.01 / (1 - std::pow(0.99, 101));
  EXPECT_NEAR(c.parameter[0][0], -0.5 * m / std::sqrt(v), 1e-14);
}

TEST(AdamW, NotAppliedChangesNothing) {
  UpdateCase<float> c(test::update_sizes());
  run(c, {});
  const UpdateCase<float> before = c;
  c.gradient[3][0] = std::numeric_limits<float>::quiet_NaN();
  run(c, {}, false);
  EXPECT_TRUE(c.parameter == before.parameter);
  EXPECT_TRUE(c.moment1 == before.moment1);
  EXPECT_TRUE(c.moment2 == before.moment2);
  EXPECT_EQ(c.applied, before.applied);
}

TEST(AdamW, SameBitsForAnyNumberOfThreadsAndAnyNeighbours) {
  const std::vector<std::int64_t> sizes{40, 100000, 3, 77777};
  const ThreadsGuard one(1);
  UpdateCase<float> want(sizes);
  for (int t = 0; t < 3; ++t) run(want, {});
  for (const int threads : {2, 7}) {
    const ThreadsGuard guard(threads);
    UpdateCase<float> c(sizes);
    for (int t = 0; t < 3; ++t) run(c, {});
    EXPECT_TRUE(c.parameter == want.parameter && c.moment1 == want.moment1 && c.moment2 == want.moment2) << threads;
  }
  UpdateCase<float> alone({sizes[3]});
  alone.parameter[0] = UpdateCase<float>(sizes).parameter[3];
  alone.gradient[0] = want.gradient[3];
  for (int t = 0; t < 3; ++t) run(alone, {});
  EXPECT_TRUE(alone.parameter[0] == want.parameter[3]);
}

TEST(AdamW, RefusesOtherDtypesAndDevices) {
  UpdateCase<float> c({4});
  c.state.apply = 1;
  UpdateTable table;
  kernels::UpdateEntry entry = c.table().entries()[0];
  entry.dtype = Dtype::f16;
  table.add(entry);
  const kernels::AdamWArgs args{.table = &table, .state = &c.state};
  EXPECT_THROW(kernels::adamw({}, args), DtypeError);
  if (!cuda_status().usable) { EXPECT_THROW(kernels::adamw({DeviceKind::cuda, 0}, args), DeviceError); }
}

}  // namespace
}  // namespace weft
