#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/gradcheck.h"
#include "autograd/layout.h"
#include "support/compare.h"

namespace weft {
namespace {

using test::message_of;

TEST(Cast, FloatsToIntegersTruncateSaturateAndDropNan) {
  const float inf = std::numeric_limits<float>::infinity();
  const Tensor x = Tensor::from_vector<float>({1.9f, -1.9f, 3e9f, -3e9f, inf, -inf, std::nanf(""), 300.0f}, {8});
  EXPECT_EQ(cast(x, Dtype::i32).to_vector<std::int32_t>(),
            (std::vector<std::int32_t>{1, -1, 2147483647, -2147483647 - 1, 2147483647, -2147483647 - 1, 0, 300}));
  EXPECT_EQ(cast(x, Dtype::u8).to_vector<std::uint8_t>(), (std::vector<std::uint8_t>{1, 0, 255, 0, 255, 0, 0, 255}));
  EXPECT_EQ(cast(x, Dtype::i64).to_vector<std::int64_t>()[4], std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(cast(x, Dtype::boolean).to_vector<bool>()[6], true);  // NaN is not 0
}

TEST(Cast, EveryPairOfDtypesKeepsSmallIntegers) {
  constexpr Dtype all[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16,
                           Dtype::i64, Dtype::i32, Dtype::u8,  Dtype::boolean};
  const Tensor x = Tensor::from_vector<std::int64_t>({0, 1, 2, 100}, {4});
  for (Dtype from : all)
    for (Dtype to : all) {
      const std::vector<double> got = test::values(cast(cast(x, from), to));
      const bool through_bool = from == Dtype::boolean || to == Dtype::boolean;
      EXPECT_EQ(got, through_bool ? (std::vector<double>{0, 1, 1, 1}) : (std::vector<double>{0, 1, 2, 100}))
          << to_string(from) << " -> " << to_string(to);
    }
}

TEST(Cast, GradientComesBackInTheSourceDtype) {
  const Tensor x = set_requires_grad(ones({2}, Dtype::f16));
  backward(cast(x, Dtype::f32), Tensor::from_vector<float>({2, 3}, {2}));
  EXPECT_EQ(grad(x).dtype(), Dtype::f16);
  EXPECT_EQ(test::values(grad(x)), (std::vector<double>{2, 3}));
}

TEST(Layout, ContiguousCopiesOnlyWhenNeeded) {
  const Tensor x = randn({3, 5}, 1);
  EXPECT_TRUE(contiguous(x).is_same(x));
  const Tensor y = contiguous(x.t());
  EXPECT_TRUE(y.is_contiguous());
  EXPECT_EQ(y.to_vector<float>(), x.t().to_vector<float>());
  EXPECT_NE(clone(x).raw_data(), x.raw_data());
}

TEST(Layout, CopyIntoBroadcastsCastsAndCountsAsModification) {
  const Tensor x = zeros({2, 3}, Dtype::f64);
  const std::uint64_t before = x.version();
  copy_(x, Tensor::from_vector<std::int64_t>({1, 2, 3}, {3}));
  EXPECT_EQ(x.to_vector<double>(), (std::vector<double>{1, 2, 3, 1, 2, 3}));
  EXPECT_GT(x.version(), before);
  fill_(x.select(1, 1), 7);
  EXPECT_EQ(x.to_vector<double>(), (std::vector<double>{1, 7, 3, 1, 7, 3}));
}

TEST(Layout, InPlaceWritesIntoAGraphAreRefused) {
  const Tensor leaf = set_requires_grad(ones({2}));
  EXPECT_EQ(message_of<AutogradError>([&] { fill_(leaf, 0); }),
            "[fill_] the tensor takes part in a graph: wrap the write in NoGrad, or compute a new tensor");
  const NoGrad guard;
  EXPECT_NO_THROW(fill_(leaf, 0));
}

TEST(Layout, ViewsCarryGradientsBack) {
  const Tensor x = randn({3, 4}, 2, Dtype::f64);
  const auto check = [&](const char* what, auto f) {
    const auto result = gradcheck([&](const std::vector<Tensor>& in) { return f(in[0]); }, {x});
    EXPECT_TRUE(result.passed) << what << ": " << result.message;
  };
  check("reshape", [](const Tensor& t) { return t.reshape({2, 6}) * t.reshape({2, 6}); });
  check("transpose", [](const Tensor& t) { return contiguous(t.t()) * t.t(); });
  check("slice", [](const Tensor& t) { return t.slice(1, 0, 4, 2) * t.slice(1, 1, 4, 2); });
  check("select", [](const Tensor& t) { return t[1] * t.select(1, 2).slice(0, 0, 1); });
  check("expand", [](const Tensor& t) { return t.unsqueeze(0).expand({5, 3, 4}) * t; });
  check("copying reshape", [](const Tensor& t) { return reshape(t.t(), {2, 6}); });
}

}  // namespace
}  // namespace weft
