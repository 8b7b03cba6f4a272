#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "autograd/factories.h"
#include "autograd/layout.h"
#include "kernels/common/strided_gpu.h"
#include "kernels/copy.h"
#include "support/gpu.h"
#include "support/variants.h"

namespace weft {
namespace {

using test::back;
using test::on;
using test::output;
using test::values;

constexpr Dtype kAllDtypes[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16,
                                Dtype::i64, Dtype::i32, Dtype::u8,  Dtype::boolean};

class CopyGpu : public test::GpuTest {};
WEFT_GPU_SUITE(CopyGpu);
class FillGpu : public test::GpuTest {};
WEFT_GPU_SUITE(FillGpu);

// Distinct values, as far as the dtype holds them.
Tensor counted(const Shape& shape, Dtype dtype) { return cast(arange(shape.numel()).reshape(shape), dtype); }

using View = std::function<Tensor(const Tensor&)>;
Tensor whole(const Tensor& x) { return x; }

kernels::Copy copy_of(const Tensor& out, const Tensor& in) {
  return {out.dtype(), in.dtype(), out.raw_data(), in.raw_data(), out.shape(), out.strides(), in.strides()};
}

// Where a copy reads and writes: a view of a tensor of `in_shape`, into a view of one of `out_shape`.
struct Case {
  const char* name;
  const char* chosen;  // the variant that runs; null where it depends on the dtype
  Shape in_shape, out_shape;
  View in_view = whole, out_view = whole;
};

View transposed(int a, int b) {
  return [a, b](const Tensor& x) { return x.transpose(a, b); };
}
View sliced(int dim, std::int64_t start, std::int64_t stop, std::int64_t step = 1) {
  return [=](const Tensor& x) { return x.slice(dim, start, stop, step); };
}
View expanded(const Shape& shape) {
  return [shape](const Tensor& x) { return x.expand(shape); };
}

const std::vector<Case>& cases() {
  static const std::vector<Case> kCases = {
      {"one element", "dense", {1}, {1}},
      {"scalar", "dense", {}, {}},
      {"below a vector", "dense", {3}, {3}},
      {"a vector and a rest", "dense", {17}, {17}},
      {"dense of any rank", "dense", {3, 5, 7}, {3, 5, 7}},
      {"several blocks and a rest", "dense", {4099}, {4099}},
      {"two transposed alike are dense", "dense", {6, 40}, {6, 40}, transposed(0, 1), transposed(0, 1)},
      {"off the 16-byte grid", nullptr, {100}, {99}, sliced(0, 1, 100)},
      {"off the grid on both sides", nullptr, {1042}, {1042}, sliced(0, 1, 1040), sliced(0, 2, 1041)},
      {"part of each row", "strided", {9, 48}, {9, 32}, sliced(1, 0, 32)},
      {"odd part of each row", "strided", {9, 48}, {9, 31}, sliced(1, 3, 34)},
      {"into part of each row", "strided", {9, 32}, {9, 48}, whole, sliced(1, 16, 48)},
      {"every second element", "strided", {70}, {35}, sliced(0, 0, 70, 2)},
      {"into every third element", "strided", {50}, {150}, whole, sliced(0, 0, 150, 3)},
      {"row over rows", "strided", {1, 48}, {5, 48}, expanded({5, 48})},
      {"column over columns", "strided", {5, 1}, {5, 48}, expanded({5, 48})},
      {"column over odd columns", "strided", {5, 1}, {5, 33}, expanded({5, 33})},
      {"scalar over all", "strided", {1, 1}, {7, 144}, expanded({7, 144})},
      {"middle stretched", "strided", {3, 1, 32}, {3, 4, 32}, expanded({3, 4, 32})},
      {"transpose, one tile", "transpose", {32, 32}, {32, 32}, transposed(0, 1)},
      {"transpose, ragged tiles", "transpose", {37, 67}, {67, 37}, transposed(0, 1)},
      {"transpose, many ragged tiles", "transpose", {129, 65}, {65, 129}, transposed(0, 1)},
      {"transpose, batches", "transpose", {3, 33, 40}, {3, 40, 33}, transposed(1, 2)},
      {"transpose, outer and inner", "transpose", {33, 2, 35}, {35, 2, 33}, transposed(0, 2)},
      {"transpose into a part", "transpose", {40, 36}, {36, 50}, transposed(0, 1), sliced(1, 4, 44)},
      {"transpose of a part", "transpose", {40, 50}, {36, 40}, [](const Tensor& x) { return x.slice(1, 7, 43).t(); }},
      {"transpose, thin", "strided", {3, 200}, {200, 3}, transposed(0, 1)},
      {"heads", "strided", {2, 5, 3, 16}, {2, 3, 5, 16}, transposed(1, 2)},
      {"five dimensions",
       nullptr,
       {2, 3, 2, 3, 4},
       {4, 3, 2, 3, 2},
       [](const Tensor& x) { return x.transpose(0, 4).transpose(1, 3); }},
  };
  return kCases;
}

// Runs every variant that supports the case and compares all of the output's memory, so that a write beside the view
// shows. Returns the names of those that ran.
std::set<std::string> check(Device device, const Case& c, Dtype out_dtype, Dtype in_dtype) {
  SCOPED_TRACE(std::string(c.name) + ", " + std::string(to_string(in_dtype)) + " -> " +
               std::string(to_string(out_dtype)));
  const Tensor in = counted(c.in_shape, in_dtype), sentinel = full(c.out_shape, 77, out_dtype);
  const Tensor expected = clone(sentinel);
  kernels::copy(Device{}, copy_of(c.out_view(expected), c.in_view(in)));
  const Tensor there = on(device, in);
  std::set<std::string> names;
  const Tensor first = on(device, sentinel);
  const kernels::Copy example = copy_of(c.out_view(first), c.in_view(there));
  if (c.chosen != nullptr && out_dtype == in_dtype) {
    EXPECT_EQ(test::chosen(WEFT_VARIANTS(copy, device), example), c.chosen);
  }
  test::for_each_variant(WEFT_VARIANTS(copy, device), example, [&](const kernels::Variant<kernels::Copy>& variant) {
    const auto got = test::in_every_order(device, [&] {
      const Tensor out = on(device, sentinel);
      variant.run(current_stream(device), copy_of(c.out_view(out), c.in_view(there)));
      return std::vector<Tensor>{back(out)};
    });
    EXPECT_TRUE(test::bitwise_equal(got[0], expected)) << got[0].str() << "\n instead of\n" << expected.str();
    names.insert(variant.name);
  });
  return names;
}

TEST_P(CopyGpu, EveryLayoutInEverySize) {
  std::set<std::string> ran;
  for (const Case& c : cases())
    for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::bf16, Dtype::u8})
      ran.merge(check(device(), c, dtype, dtype));
  EXPECT_EQ(ran, (std::set<std::string>{"dense", "transpose", "strided", "scalar"}));
}

TEST_P(CopyGpu, EveryLayoutWhereItConverts) {
  std::set<std::string> ran;
  for (const Case& c : cases())
    for (const auto& [to, from] : {std::pair{Dtype::bf16, Dtype::f32},
                                   {Dtype::f32, Dtype::f16},
                                   {Dtype::f32, Dtype::u8},
                                   {Dtype::f64, Dtype::i32}})
      ran.merge(check(device(), c, to, from));
  EXPECT_EQ(ran, (std::set<std::string>{"dense", "transpose", "scalar"}));
}

TEST_P(CopyGpu, EveryPairOfDtypesConvertsAsTheCpuDoes) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const std::vector<double> numbers = {0,       -0.0, 1,        1.9,  -1.9,  100,   255,    256,         -1,   3e9,
                                       -3e9,    1e19, -1e19,    kInf, -kInf, 65504, 65520,  1e-7,        6e-8, 2.5e-8,
                                       1.00049, 3.14, 16777217, 0.5,  -255,  1e300, 1e-300, std::nan("")};
  const Tensor x = Tensor::from_vector<double>(numbers, {static_cast<std::int64_t>(numbers.size())});
  for (const Dtype from : kAllDtypes)
    for (const Dtype to : kAllDtypes) {
      SCOPED_TRACE(std::string(to_string(from)) + " -> " + std::string(to_string(to)));
      const Tensor in = cast(x, from), want = cast(clone(in), to), there = on(device(), in);
      const Tensor first = output(device(), in.shape(), to);
      const int variants = test::for_each_variant(
          WEFT_VARIANTS(copy, device()), copy_of(first, there), [&](const kernels::Variant<kernels::Copy>& variant) {
            const Tensor out = output(device(), in.shape(), to);
            variant.run(current_stream(device()), copy_of(out, there));
            const std::vector<double> got = values(back(out)), expected = values(want);
            for (std::size_t i = 0; i < got.size(); ++i) {
              EXPECT_TRUE(got[i] == expected[i] || (got[i] != got[i] && expected[i] != expected[i]))
                  << numbers[i] << ": " << got[i] << " instead of " << expected[i];
              EXPECT_EQ(std::signbit(got[i]), std::signbit(expected[i])) << numbers[i];
            }
          });
      EXPECT_GE(variants, from == to ? 3 : 1);
    }
}

TEST_P(CopyGpu, EqualDtypesMoveBits) {
  // A signalling NaN with a payload, which arithmetic would change.
  const Tensor x = Tensor::from_vector<std::int32_t>({0x7f800123, -1, 0x7fc00001, 5}, {4});
  const Tensor as_floats = Tensor::from_blob(reinterpret_cast<float*>(x.raw_data()), {4});
  for (const char* variant : {"dense", "strided"}) {
    const Tensor there = on(device(), as_floats), out = output(device(), {4}, Dtype::f32);
    for (const auto& v : WEFT_VARIANTS(copy, device()))
      if (v.name == std::string(variant)) v.run(current_stream(device()), copy_of(out, there));
    EXPECT_TRUE(test::bitwise_equal(back(out), as_floats)) << variant;
  }
}

TEST_P(CopyGpu, InPlaceAndEmpty) {
  const Tensor x = counted({5, 40}, Dtype::f32), there = on(device(), x);
  for (const View& view : {View(whole), transposed(0, 1), sliced(1, 0, 40, 3)}) {
    kernels::copy(device(), copy_of(view(there), view(there)));
    EXPECT_TRUE(test::bitwise_equal(back(there), x));
  }
  for (const Shape& shape : {Shape{0}, Shape{3, 0}, Shape{0, 3}}) {
    const Tensor in = output(device(), shape, Dtype::f32), out = output(device(), shape, Dtype::f32);
    test::for_each_variant(WEFT_VARIANTS(copy, device()), copy_of(out, in),
                           [&](const auto& variant) { variant.run(current_stream(device()), copy_of(out, in)); });
  }
}

// Through the public functions, from view to view.
TEST_P(CopyGpu, PublicFunctionsOnTheDevice) {
  const Tensor x = counted({6, 35}, Dtype::f32), there = on(device(), x);
  EXPECT_TRUE(test::bitwise_equal(back(contiguous(there.t())), contiguous(x.t())));
  EXPECT_TRUE(test::bitwise_equal(back(cast(there, Dtype::bf16)), cast(x, Dtype::bf16)));
  const Tensor target = clone(x), target_there = on(device(), x);
  copy_(target.slice(0, 1, 6, 2), x.slice(0, 0, 3));
  copy_(target_there.slice(0, 1, 6, 2), there.slice(0, 0, 3));
  EXPECT_TRUE(test::bitwise_equal(back(target_there), target));
  fill_(target.select(1, 3), -2);
  fill_(target_there.select(1, 3), -2);
  EXPECT_TRUE(test::bitwise_equal(back(target_there), target));
}

TEST_P(CopyGpu, TrafficIsOneReadAndOneWrite) {
  const auto traffic = [&](const Tensor& out, const Tensor& in) {
    const double floor = static_cast<double>(out.nbytes() + in.nbytes());
    test::expect_traffic(device(), floor, [&] { kernels::copy(device(), copy_of(out, in)); });
  };
  const Tensor f32 = on(device(), counted({128, 192}, Dtype::f32)),
               bf16 = on(device(), counted({128, 192}, Dtype::bf16));
  traffic(output(device(), {128, 192}, Dtype::f32), f32);
  traffic(output(device(), {128, 192}, Dtype::bf16), f32);
  traffic(output(device(), {192, 128}, Dtype::f32), f32.t());
  traffic(output(device(), {192, 128}, Dtype::bf16), bf16.t());
  traffic(output(device(), {192, 128}, Dtype::u8), on(device(), counted({128, 192}, Dtype::u8)).t());
  traffic(output(device(), {192, 128}, Dtype::f64), on(device(), counted({128, 192}, Dtype::f64)).t());
  traffic(output(device(), {192, 128}, Dtype::bf16), f32.t());
  traffic(output(device(), {128, 64}, Dtype::bf16), bf16.slice(1, 64, 128));
}

TEST_P(FillGpu, EveryDtypeLengthAndAlignment) {
  for (const Dtype dtype : kAllDtypes)
    for (const std::int64_t count : {0, 1, 3, 15, 16, 17, 1023, 4100, 16400})
      for (const std::int64_t offset : {0, 1, 5, 15}) {
        if (count > 4100 && element_bytes(dtype) > 1) continue;  // several blocks already
        const Tensor expected = full({count + offset + 3}, 7, dtype);
        fill_(expected.slice(0, offset, offset + count), -2.5);
        const auto got = test::in_every_order(device(), [&] {
          const Tensor out = on(device(), full({count + offset + 3}, 7, dtype));
          const Tensor part = out.slice(0, offset, offset + count);
          kernels::fill(device(), {dtype, part.raw_data(), count, -2.5});
          return std::vector<Tensor>{back(out)};
        });
        EXPECT_TRUE(test::bitwise_equal(got[0], expected)) << to_string(dtype) << " " << count << " at " << offset;
      }
}

TEST_P(FillGpu, TrafficIsOneWrite) {
  const Tensor out = output(device(), {40000}, Dtype::bf16);
  test::expect_traffic(device(), 80000, [&] { kernels::fill(device(), {Dtype::bf16, out.raw_data(), 40000, 1.5}); });
}

// --- the walk itself, which needs no device ------------------------------------------------------------------------

TEST(StridedGpu, DivisorsAgreeWithDivision) {
  using kernels::simt::Divisor;
  for (const std::int64_t d : {1, 2, 3, 5, 7, 10, 32, 33, 641, 65535, 65536, 65537, 1 << 30, (1 << 30) + 1, 2147483647})
    for (const std::int64_t n : {0, 1, 2, 3, 31, 32, 640, 641, 642, 65535, 65536, 1 << 30, 2147483646, 2147483647}) {
      EXPECT_EQ(Divisor(d).quotient(static_cast<std::uint32_t>(n)), n / d) << n << " / " << d;
      const std::int64_t below = n / d * d - 1;  // where a rounded quotient goes wrong first
      if (below < 0) continue;
      EXPECT_EQ(Divisor(d).quotient(static_cast<std::uint32_t>(below)), below / d) << below << " / " << d;
    }
}

TEST(StridedGpu, PiecesCoverEveryElementOnce) {
  using kernels::simt::for_each_piece;
  using kernels::simt::StridedIndex;
  using kernels::simt::StridedLayout;
  for (const auto& [shape, strides] :
       std::vector<std::pair<Shape, Strides>>{{{1000}, {1}},
                                              {{1000}, {3}},
                                              {{7, 11, 13}, {143, 13, 1}},
                                              {{7, 11, 13}, {1, 7, 77}},
                                              {{3, 2, 5, 7, 4}, {1000, 400, 60, 8, 1}}}) {
    const Strides dense = contiguous_strides(shape);
    const StridedLayout<2> layout(shape, {&strides, &dense});
    std::vector<std::int64_t> where(static_cast<std::size_t>(shape.numel()), -1);  // by dense position
    int pieces = 0;
    for_each_piece(
        layout,
        [&](const StridedLayout<2>& piece) {
          ++pieces;
          EXPECT_LE(piece.count, 64);
          const StridedIndex<2> index(piece, 1);
          for (std::uint32_t i = 0; i < piece.count; ++i) {
            std::int64_t at[2];
            index.offsets(i, at);
            std::int64_t& slot = where.at(static_cast<std::size_t>(piece.starts[1] + at[1]));
            EXPECT_EQ(slot, -1);
            slot = piece.starts[0] + at[0];
          }
        },
        64);
    EXPECT_GT(pieces, 1);
    for (std::int64_t i = 0; i < shape.numel(); ++i) {
      std::int64_t rest = i, expected = 0;
      for (int d = shape.rank() - 1; d >= 0; --d) {
        expected += rest % shape[d] * strides[d];
        rest /= shape[d];
      }
      EXPECT_EQ(where[static_cast<std::size_t>(i)], expected) << shape.str() << " at " << i;
    }
  }
}

}  // namespace
}  // namespace weft
