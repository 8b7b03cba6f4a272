#include "autograd/index.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <gtest/gtest.h>

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/reduce.h"
#include "kernels/copy.h"
#include "kernels/index.h"
#include "nn/embedding.h"
#include "nn/init.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/variants.h"
#include "tensor/status.h"

namespace weft {
namespace {

using test::back;
using test::bitwise_equal;
using test::message_of;
using test::values;
using Ids = std::vector<std::int64_t>;

class IndexOn : public test::DeviceTest {
 protected:
  Tensor ids(const Ids& values, const Shape& shape) const { return here(Tensor::from_vector(values, shape)); }
  Tensor ids(const Ids& values) const { return ids(values, {static_cast<std::int64_t>(values.size())}); }
  // What `call` throws, at once or when the status is looked at.
  template <class F>
  std::string error_of(F&& call) const {
    return message_of<Error>([&] {
      call();
      EXPECT_EQ(device().kind, DeviceKind::cuda) << "must throw at once";
      check_status(device());
    });
  }
};
WEFT_DEVICE_SUITE(IndexOn);

// Small integers: their sums are exact in every order.
Tensor small_integers(const Shape& shape, Dtype dtype = Dtype::f32) {
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>((i * 7919) % 15) - 7;
  return cast(Tensor::from_vector(values, shape), dtype);
}

// --- errors ---------------------------------------------------------------------------------------------------------

TEST_P(IndexOn, ABadIndexIsNamedWhereverItIs) {
  const Tensor table = here(randn({10, 4}, 1)), column = here(randn({10}, 2));
  for (const std::int64_t bad : {std::int64_t{10}, std::int64_t{-1}, std::int64_t{1} << 40})
    for (const std::size_t at : {std::size_t{0}, std::size_t{5}, std::size_t{599}}) {
      Ids list(600, 3);
      list[at] = bad;
      const Tensor indices = ids(list);
      const auto expected = [&](const char* op) {
        return "[" + std::string(op) + "] index " + std::to_string(bad) + " at position " + std::to_string(at) +
               " is outside [0, 10)";
      };
      EXPECT_EQ(error_of([&] { embedding(table, indices); }), expected("embedding"));
      EXPECT_EQ(error_of([&] { index_select(table, 0, indices); }), expected("index_select"));
      EXPECT_EQ(error_of([&] { gather(column, 0, indices); }), expected("gather"));
      EXPECT_EQ(error_of([&] { scatter_add(column, 0, indices, here(ones({600}))); }), expected("scatter_add"));
    }
  check_status(device());  // nothing is left
  EXPECT_EQ(embedding(table, ids({9, 0})).shape(), (Shape{2, 4}));
  // A table without rows has no valid index.
  EXPECT_EQ(error_of([&] {
              embedding(here(zeros({0, 4})), ids({0}));
            }),
            "[embedding] index 0 at position 0 is outside [0, 0)");
}

TEST(Index, TheFirstOfSeveralBadIndicesIsReported) {
  const Tensor indices = Tensor::from_vector<std::int64_t>({1, 7, 2, -3}, {2, 2});
  EXPECT_EQ(message_of<Error>([&] {
              embedding(zeros({5, 2}), indices);
            }),
            "[embedding] index 7 at position 1 is outside [0, 5)");
}

TEST_P(IndexOn, ABadIndexLeavesGradientsWithoutIt) {
  // Only where the error comes later is there a backward to run.
  if (device().kind != DeviceKind::cuda) GTEST_SKIP() << "thrown by the forward pass";
  const Tensor w = set_requires_grad(here(randn({4, 3}, 1)));
  backward(sum(embedding(w, ids({1, 9, 1}))));
  EXPECT_EQ(values(back(grad(w))), (std::vector<double>{0, 0, 0, 2, 2, 2, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(message_of<Error>([&] { check_status(device()); }), "[embedding] index 9 at position 1 is outside [0, 4)");
}

TEST(Index, Errors) {
  const Tensor x = zeros({2, 3}), at = Tensor::from_vector<std::int64_t>({0, 1}, {2});
  EXPECT_EQ(message_of<ShapeError>([&] {
              index_select(x, 0, zeros({2, 3}, Dtype::i64));
            }),
            "[index_select] indices must have shape [N] but have [2, 3]");
  EXPECT_EQ(message_of<DtypeError>([&] { index_select(x, 0, zeros({2})); }),
            "[index_select] indices must be i64 or i32 but are f32: cast them");
  EXPECT_EQ(message_of<DeviceError>([&] {
              index_select(x, 0, to(at, Device{DeviceKind::simt, 0}));
            }),
            "[index_select] indices must be on cpu like x but are on simt");
  EXPECT_EQ(message_of<ShapeError>([&] { embedding(zeros({10}), at); }),
            "[embedding] weight must have shape [V, D] but has [10]");
  EXPECT_EQ(message_of<DtypeError>([&] {
              embedding(zeros({10, 2}, Dtype::i64), at);
            }),
            "[embedding] weight must be f64, f32, f16 or bf16 but is i64");
  for (const std::int64_t padding : {-1, 10})
    EXPECT_EQ(message_of<OptionError>([&] {
                embedding(zeros({10, 2}), at, padding);
              }),
              "[embedding] padding_idx must be in [0, 10) but is " + std::to_string(padding));
  EXPECT_EQ(message_of<ShapeError>([&] {
              gather(x, 1, zeros({4, 1}, Dtype::i64));
            }),
            "[gather] index must not be longer than x of shape [2, 3] but for dimension 1, but has [4, 1]");
  EXPECT_EQ(message_of<ShapeError>([&] {
              scatter_add(x, 1, zeros({2, 4}, Dtype::i64), zeros({2, 3}));
            }),
            "[scatter_add] index must not be longer than source of shape [2, 3] but has [2, 4]");
  EXPECT_EQ(message_of<DtypeError>([&] {
              scatter_add(x, 1, zeros({2, 3}, Dtype::i64), zeros({2, 3}, Dtype::f64));
            }),
            "[scatter_add] source must be f32 like x but is f64");
  EXPECT_EQ(message_of<ShapeError>([&] { nn::Embedding(0, 4); }),
            "[embedding] needs at least one row and one column but has [0, 4]");
  EXPECT_EQ(message_of<OptionError>([&] { nn::Embedding(10, 4, {.padding_idx = 10}); }),
            "[embedding] padding_idx must be in [0, 10) but is 10");
}

// --- special behaviour ----------------------------------------------------------------------------------------------

TEST_P(IndexOn, GivesWhatPyTorchGives) {
  const Tensor x = here(cast(arange(6).reshape({2, 3}), Dtype::f32));
  EXPECT_EQ(values(back(gather(x, 1, ids({0, 0, 2, 1}, {2, 2})))), (std::vector<double>{0, 0, 5, 4}));
  EXPECT_EQ(values(back(gather(x, 0, ids({1, 0, 1}, {1, 3})))), (std::vector<double>{3, 1, 5}));
  EXPECT_EQ(values(back(scatter_add(x, 0, ids({0, 1, 1, 0, 0, 1}, {2, 3}), here(ones({2, 3}))))),
            (std::vector<double>{2, 2, 2, 3, 5, 7}));
  EXPECT_EQ(values(back(index_select(x, 1, ids({2, 0, 2})))), (std::vector<double>{2, 0, 2, 5, 3, 5}));
}

TEST_P(IndexOn, NoIndexGivesNothingAndAZeroGradient) {
  const Tensor w = set_requires_grad(here(randn({3, 4}, 1)));
  const Tensor y = embedding(w, ids({}, {0, 2}));
  EXPECT_EQ(y.shape(), (Shape{0, 2, 4}));
  backward(sum(y));
  EXPECT_EQ(values(back(grad(w))), std::vector<double>(12, 0.0));
}

TEST_P(IndexOn, PaddingIsReadButNotTrained) {
  const Tensor w = set_requires_grad(here(small_integers({4, 3})));
  const Tensor indices = ids({1, 2, 1, 1, 0});
  const Tensor y = embedding(w, indices, 1);
  EXPECT_EQ(values(back(y.select(0, 2))), values(back(w.alias().select(0, 1))));
  backward(sum(y));
  const std::vector<double> once{1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0};
  EXPECT_EQ(values(back(grad(w))), once);
  // A tied use of the same row does train it, and stays when the next gradient is added.
  backward(sum(w.select(0, 1)));
  backward(sum(embedding(w, indices, 1)));
  EXPECT_EQ(values(back(grad(w))), (std::vector<double>{2, 2, 2, 1, 1, 1, 2, 2, 2, 0, 0, 0}));
}

TEST_P(IndexOn, GradientsAreAddedInPlace) {
  const Tensor w = set_requires_grad(here(randn({50, 8}, 1)));
  backward(sum(embedding(w, ids({3, 3, 7}))));
  const auto storage = grad(w).storage();
  backward(sum(embedding(w, ids({7, 49}))));
  EXPECT_EQ(grad(w).storage(), storage);
  const std::vector<double> dw = values(back(grad(w)));
  for (std::int64_t v = 0; v < 50; ++v)
    EXPECT_EQ(dw[static_cast<std::size_t>(v * 8 + 5)], v == 3 || v == 7 ? 2 : v == 49 ? 1 : 0) << v;
}

// One number at a time, in the order of the positions: 1 + 2^-24 - 1 depends on it.
TEST_P(IndexOn, SumsRunInTheOrderOfThePositions) {
  constexpr std::int64_t kCount = 200, kWidth = 5;
  Ids list;
  for (std::int64_t n = 0; n < kCount; ++n) list.push_back(n * n % 3);
  const Tensor dy = randn({kCount, kWidth}, 3);
  const Tensor w = set_requires_grad(here(zeros({3, kWidth})));
  backward(embedding(w, ids(list)), here(dy));
  std::vector<float> expected(3 * kWidth, 0.0f);
  for (std::int64_t n = 0; n < kCount; ++n)
    for (std::int64_t c = 0; c < kWidth; ++c)
      expected[static_cast<std::size_t>(list[static_cast<std::size_t>(n)] * kWidth + c)] +=
          dy.data<float>()[n * kWidth + c];
  EXPECT_TRUE(bitwise_equal(back(grad(w)), Tensor::from_vector(expected, {3, kWidth})));
}

// Lists that begin and end on and beside the bounds of pieces, in every width of team.
TEST_P(IndexOn, LongListsAreWholeWhereverPiecesEnd) {
  constexpr std::int64_t kPiece = kernels::kIndexPiece;
  const std::vector<std::vector<std::int64_t>> lengths = {{kPiece},
                                                          {kPiece + 1},
                                                          {2 * kPiece, 1},
                                                          {1, 2 * kPiece},
                                                          {kPiece - 1, kPiece + 1, kPiece + 1},
                                                          {300, 0, 300, 5, 700},
                                                          {1, 5 * kPiece + 3}};
  for (const std::int64_t width : {1, 3, 4, 8, 60, 140})
    for (const auto& runs : lengths) {
      Ids list;
      for (std::size_t v = 0; v < runs.size(); ++v)
        list.insert(list.end(), static_cast<std::size_t>(runs[v]), static_cast<std::int64_t>(v));
      // Not in order: a stride that has no common divisor with the count.
      Ids mixed(list.size());
      for (std::size_t n = 0; n < list.size(); ++n) mixed[n * 7919 % list.size()] = list[n];
      const auto count = static_cast<std::int64_t>(list.size()), rows = static_cast<std::int64_t>(runs.size()) + 1;
      for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
        const Tensor dy = small_integers({count, width}, dtype);
        const Tensor w = set_requires_grad(here(zeros({rows, width}, dtype)));
        backward(embedding(w, ids(mixed)), here(dy));
        const std::vector<double> source = values(dy);
        std::vector<double> expected(static_cast<std::size_t>(rows * width), 0.0);
        for (std::int64_t n = 0; n < count; ++n)
          for (std::int64_t c = 0; c < width; ++c)
            expected[static_cast<std::size_t>(mixed[static_cast<std::size_t>(n)] * width + c)] +=
                source[static_cast<std::size_t>(n * width + c)];
        EXPECT_EQ(values(back(grad(w))), expected) << "width " << width << ", " << count << " positions";
      }
    }
}

TEST_P(IndexOn, OneIdForAllInOneTable) {
  const Tensor w = set_requires_grad(here(ones({1, 2}, Dtype::bf16)));
  backward(sum(embedding(w, ids(Ids(1000, 0)))));
  // Added in f32 and rounded once: bf16 itself would stop at 256.
  EXPECT_EQ(values(back(grad(w))), (std::vector<double>{1000, 1000}));
}

// --- the sort -------------------------------------------------------------------------------------------------------

TEST_P(IndexOn, TheSortIsStable) {
  struct Case {
    std::int64_t count, extent, skip;
  };
  for (const auto& [count, extent, skip] :
       {Case{0, 5, -1}, Case{1, 1, -1}, Case{700, 1, -1}, Case{2047, 255, 7}, Case{2049, 256, -1}, Case{4096, 257, 256},
        Case{5000, 70000, 3}, Case{70000, 300, 0}, Case{600, 20'000'000, -1}}) {
    Ids list(static_cast<std::size_t>(count));
    std::uint64_t state = 12345;
    for (std::int64_t& v : list) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      v = static_cast<std::int64_t>((state >> 33) % static_cast<std::uint64_t>(extent));
    }
    if (count > 1000) {  // what the forward pass has reported before
      list[0] = -1;
      list[999] = extent;
    }
    std::vector<std::int32_t> keys, order(list.size());
    for (const std::int64_t v : list)
      keys.push_back(static_cast<std::int32_t>(v < 0 || v >= extent || v == skip ? extent : v));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return keys[static_cast<std::size_t>(a)] < keys[static_cast<std::size_t>(b)];
    });
    std::stable_sort(keys.begin(), keys.end());
    const Tensor indices = ids(list);
    const auto ints = [&](std::int64_t n) { return Tensor::empty({n}, Dtype::i32, device()); };
    const Tensor got_keys = ints(count), got_order = ints(count),
                 workspace = ints(kernels::index_sort_workspace(device(), count, extent));
    kernels::index_sort(device(), {.count = count,
                                   .extent = extent,
                                   .skip = skip,
                                   .indices = indices.data<std::int64_t>(),
                                   .unsorted = nullptr,
                                   .keys = got_keys.data<std::int32_t>(),
                                   .order = got_order.data<std::int32_t>(),
                                   .workspace = workspace.data<std::int32_t>()});
    EXPECT_EQ(got_order.to_vector<std::int32_t>(), order) << count << " of " << extent;
    EXPECT_EQ(got_keys.to_vector<std::int32_t>(), keys) << count << " of " << extent;
  }
}

// --- variants of the kernels ----------------------------------------------------------------------------------------

class IndexVariants : public test::GpuTest {};
WEFT_GPU_SUITE(IndexVariants);

TEST_P(IndexVariants, AllReadTheSameRows) {
  const Tensor at = Tensor::from_vector<std::int64_t>({4, 0, 0, 3, 9, 1, 4}, {7});
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::bf16, Dtype::u8})
    for (const std::int64_t width : {1, 2, 6, 16, 70, 4112}) {
      const Tensor x = cast(randn({10, width}, 1, Dtype::f64) * 50.0, dtype), want = index_select(x, 0, at);
      const Tensor in = test::on(device(), x), indices = test::on(device(), at);
      const auto run = [&](const Tensor& from, int least) {
        const Tensor out = test::output(device(), {7, width}, dtype);
        kernels::IndexSelect args{.dtype = dtype,
                                  .outer = 1,
                                  .extent = 10,
                                  .count = 7,
                                  .inner = width,
                                  .in = from.raw_data(),
                                  .indices = indices.data<std::int64_t>(),
                                  .out = out.raw_data(),
                                  .code = StatusCode::index_select,
                                  .status = status_word(device())};
        const int variants =
            test::for_each_variant(WEFT_VARIANTS(index_select, device()), args, [&](const auto& variant) {
              kernels::fill(device(), {dtype, out.raw_data(), out.numel(), 99});
              variant.run(current_stream(device()), args);
              EXPECT_TRUE(bitwise_equal(back(out), want)) << to_string(dtype) << " width " << width;
            });
        EXPECT_GE(variants, least);
      };
      run(in, width * element_bytes(dtype) % 16 == 0 ? 2 : 1);
      // One element off every vector's grid.
      const Tensor shifted =
          Tensor::empty({10 * width + 1}, dtype, device()).slice(0, 1, 10 * width + 1).reshape({10, width});
      copy_(shifted, in);
      run(shifted, 1);
    }
}

TEST_P(IndexVariants, AllAddTheSameSums) {
  Ids list(900, 2);  // a long list, and short ones
  for (std::size_t n = 0; n < 50; ++n) list[n * 17] = static_cast<std::int64_t>(n % 5);
  const Tensor at = Tensor::from_vector(list, {900});
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16})
    for (const std::int64_t width : {8, 24, 136})
      for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
        const Tensor dy = cast(small_integers({900, width}) * 0.125, dtype), before = small_integers({6, width}, dtype);
        std::vector<double> want =
            mode == Accumulate::add ? values(before) : std::vector<double>(static_cast<std::size_t>(6 * width));
        const std::vector<double> added = values(dy);
        for (std::size_t n = 0; n < list.size(); ++n)
          for (std::size_t c = 0; c < static_cast<std::size_t>(width); ++c)
            want[static_cast<std::size_t>(list[n] * width) + c] += added[n * static_cast<std::size_t>(width) + c];
        want = values(cast(Tensor::from_vector(want, {6, width}), dtype));  // exact but for the last rounding
        const Tensor indices = test::on(device(), at), source = test::on(device(), dy);
        const auto ints = [&](std::int64_t n) { return Tensor::empty({n}, Dtype::i32, device()); };
        const Tensor keys = ints(900), order = ints(900),
                     workspace = ints(kernels::index_sort_workspace(device(), 900, 6));
        kernels::index_sort(device(), {.count = 900,
                                       .extent = 6,
                                       .skip = -1,
                                       .indices = indices.data<std::int64_t>(),
                                       .unsorted = nullptr,
                                       .keys = keys.data<std::int32_t>(),
                                       .order = order.data<std::int32_t>(),
                                       .workspace = workspace.data<std::int32_t>()});
        const Tensor partials = Tensor::empty({kernels::index_add_partials(1, 900, width)},
                                              dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32, device());
        const Tensor out = test::on(device(), before);
        const kernels::IndexAdd args{.dtype = dtype,
                                     .mode = mode,
                                     .outer = 1,
                                     .extent = 6,
                                     .count = 900,
                                     .inner = width,
                                     .keys = keys.data<std::int32_t>(),
                                     .order = order.data<std::int32_t>(),
                                     .source = source.raw_data(),
                                     .out = out.raw_data(),
                                     .partials = partials.raw_data()};
        EXPECT_EQ(test::for_each_variant(WEFT_VARIANTS(index_add, device()), args,
                                         [&](const auto& variant) {
                                           out.copy_bytes_from(before);
                                           variant.run(current_stream(device()), args);
                                           EXPECT_EQ(values(back(out)), want) << to_string(dtype) << " width " << width;
                                         }),
                  2);
      }
}

// --- the module -----------------------------------------------------------------------------------------------------

TEST(Embedding, StartsNormalWithAZeroRowForPadding) {
  nn::manual_seed(5);
  nn::Embedding table(200, 100, {.padding_idx = 3});
  EXPECT_EQ(nn::named_parameters(table)[0].first, "weight");
  const std::vector<double> w = values(table.weight);
  double sum = 0, squares = 0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    ASSERT_EQ(w[i] == 0, i / 100 == 3) << i;
    sum += w[i];
    squares += w[i] * w[i];
  }
  EXPECT_NEAR(sum / 19900, 0, 5 / std::sqrt(19900.0));
  EXPECT_NEAR(squares / 19900, 1, 5 * std::sqrt(2 / 19900.0));
  const Tensor y = table(Tensor::from_vector<std::int32_t>({3, 199}, {1, 2}));
  EXPECT_EQ(y.shape(), (Shape{1, 2, 100}));
  EXPECT_TRUE(requires_grad(y));
}

}  // namespace
}  // namespace weft
