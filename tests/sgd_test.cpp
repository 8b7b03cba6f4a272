#include "kernels/sgd.h"

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
  double lr = 1e-1, momentum = 0, weight_decay = 0, scale = 1;
  bool nesterov = false;
};

template <class T>
void run(UpdateCase<T>& c, const Hyper& hyper, bool apply = true) {
  c.state.lr = hyper.lr;
  c.state.scale = hyper.scale;
  c.state.apply = apply ? 1 : 0;
  const UpdateTable table = c.table();
  kernels::sgd({}, {.table = &table,
                    .state = &c.state,
                    .momentum = hyper.momentum,
                    .nesterov = hyper.nesterov,
                    .weight_decay = hyper.weight_decay});
}

// torch.optim.SGD as its documentation writes it, in f64.
struct Reference {
  std::vector<double> p, b;
  void step(const auto& gradient, const Hyper& hyper, int t) {
    for (std::size_t i = 0; i < p.size(); ++i) {
      double g = static_cast<double>(gradient[static_cast<std::int64_t>(i)]) * hyper.scale;
      if (hyper.weight_decay != 0) g += hyper.weight_decay * p[i];
      if (hyper.momentum != 0) {
        b[i] = t > 1 ? hyper.momentum * b[i] + g : g;
        g = hyper.nesterov ? g + hyper.momentum * b[i] : b[i];
      }
      p[i] -= hyper.lr * g;
    }
  }
};

template <class T>
std::vector<double> doubles(const test::Guarded<T>& values) {
  return {values.data(), values.data() + values.size()};
}

template <class T>
void check_ten_steps(double tolerance) {
  for (const Hyper& hyper : {Hyper{}, Hyper{.momentum = 0.9}, Hyper{.momentum = 0.9, .nesterov = true},
                             Hyper{.weight_decay = 0.1, .scale = 0.3}, Hyper{.momentum = 0.5, .weight_decay = 0.1},
                             Hyper{.momentum = 0.9, .weight_decay = 0.01, .scale = 0.01, .nesterov = true}}) {
    UpdateCase<T> c(test::update_sizes());
    std::vector<Reference> references;
    for (const auto& p : c.parameter)
      references.push_back({doubles(p), std::vector<double>(static_cast<std::size_t>(p.size()))});
    for (int t = 1; t <= 10; ++t) {
      c.new_gradients(static_cast<std::uint64_t>(t));
      for (std::size_t p = 0; p < references.size(); ++p) references[p].step(c.gradient[p], hyper, t);
      run(c, hyper);
    }
    for (std::size_t p = 0; p < references.size(); ++p) {
      EXPECT_LE(test::relative_error(doubles(c.parameter[p]), references[p].p), tolerance) << c.parameter[p].size();
      EXPECT_LE(test::relative_error(doubles(c.moment1[p]), references[p].b), tolerance) << c.parameter[p].size();
    }
    EXPECT_TRUE(c.intact());
  }
}

// Ten updates with at most six roundings each; errors of the momentum and of p add up.
TEST(Sgd, TenStepsMatchTheReferenceF32) { check_ten_steps<float>(32 * 0x1p-24); }
TEST(Sgd, TenStepsMatchTheReferenceF64) { check_ten_steps<double>(32 * 0x1p-53); }

// With a constant gradient the buffer is a geometric series: 1, 1 + mu, 1 + mu + mu², ... times the gradient.
TEST(Sgd, MomentumIsAGeometricSeries) {
  UpdateCase<double> plain({1}), nesterov({1});
  for (auto* c : {&plain, &nesterov}) {
    c->parameter[0][0] = 0;
    c->gradient[0][0] = 1;
  }
  const double series[] = {1, 1.5, 1.75, 1.875};
  double want = 0, want_nesterov = 0;
  for (const double b : series) {
    run(plain, {.lr = 1, .momentum = 0.5});
    run(nesterov, {.lr = 1, .momentum = 0.5, .nesterov = true});
    want -= b;
    want_nesterov -= 1 + 0.5 * b;
    EXPECT_EQ(plain.parameter[0][0], want);
    EXPECT_EQ(nesterov.parameter[0][0], want_nesterov);
    EXPECT_EQ(plain.moment1[0][0], b);
  }
}

TEST(Sgd, WithoutMomentumThereIsNoBuffer) {
  UpdateCase<float> c({100});
  c.state.lr = 0.5;
  c.state.apply = 1;
  UpdateTable table;
  kernels::UpdateEntry entry = c.table().entries()[0];
  entry.moment1 = nullptr;
  table.add(entry);
  const auto before = c.parameter[0];
  kernels::sgd({}, {.table = &table, .state = &c.state});
  for (int i = 0; i < 100; ++i) EXPECT_EQ(c.parameter[0][i], before[i] - 0.5f * c.gradient[0][i]);
}

TEST(Sgd, NotAppliedChangesNothing) {
  UpdateCase<float> c(test::update_sizes());
  run(c, {.momentum = 0.9});
  const UpdateCase<float> before = c;
  c.gradient[3][0] = std::numeric_limits<float>::infinity();
  run(c, {.momentum = 0.9}, false);
  EXPECT_TRUE(c.parameter == before.parameter);
  EXPECT_TRUE(c.moment1 == before.moment1);
}

TEST(Sgd, SameBitsForAnyNumberOfThreads) {
  const std::vector<std::int64_t> sizes{40, 100000, 3, 77777};
  const ThreadsGuard one(1);
  UpdateCase<float> want(sizes);
  for (int t = 0; t < 3; ++t) run(want, {.momentum = 0.9, .weight_decay = 0.1});
  for (const int threads : {2, 7}) {
    const ThreadsGuard guard(threads);
    UpdateCase<float> c(sizes);
    for (int t = 0; t < 3; ++t) run(c, {.momentum = 0.9, .weight_decay = 0.1});
    EXPECT_TRUE(c.parameter == want.parameter && c.moment1 == want.moment1) << threads;
  }
}

TEST(Sgd, RefusesOtherDtypesAndDevices) {
  UpdateCase<float> c({4});
  c.state.apply = 1;
  UpdateTable table;
  kernels::UpdateEntry entry = c.table().entries()[0];
  entry.dtype = Dtype::i32;
  table.add(entry);
  const kernels::SgdArgs args{.table = &table, .state = &c.state};
  EXPECT_THROW(kernels::sgd({}, args), DtypeError);
  if (!cuda_status().usable) { EXPECT_THROW(kernels::sgd({DeviceKind::cuda, 0}, args), DeviceError); }
}

}  // namespace
}  // namespace weft
