#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "autograd/cross_entropy.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "kernels/cross_entropy.h"
#include "support/gpu.h"
#include "support/guarded.h"
#include "tensor/gpu.h"
#include "tensor/status.h"

namespace weft {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)
using kernels::CrossEntropyBackward;
using kernels::CrossEntropyForward;
using kernels::Variant;

class CrossEntropyGpu : public GpuTest {};
WEFT_GPU_SUITE(CrossEntropyGpu);

constexpr Dtype kDtypes[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::span<const Variant<CrossEntropyForward>> forward_variants([[maybe_unused]] Device device) {
#if defined(WEFT_CUDA)
  if (device.kind == DeviceKind::cuda) return kernels::cuda::cross_entropy_forward_variants();
#endif
  return kernels::simt::cross_entropy_forward_variants();
}
std::span<const Variant<CrossEntropyBackward>> backward_variants([[maybe_unused]] Device device) {
#if defined(WEFT_CUDA)
  if (device.kind == DeviceKind::cuda) return kernels::cuda::cross_entropy_backward_variants();
#endif
  return kernels::simt::cross_entropy_backward_variants();
}

std::vector<std::int64_t> labels(std::int64_t rows, std::int64_t classes, bool ignore) {
  std::vector<std::int64_t> result;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t near_the_end = classes - 1 - r % classes, anywhere = (r * 7 + 3) % classes,
                       near_the_start = r % classes;
    const std::int64_t counts[] = {near_the_end, near_the_start, anywhere};
    result.push_back(ignore && r % 4 == 1 ? -100 : counts[r % 3]);
  }
  return result;
}

// Inputs on the cpu; where logits and gradient begin relative to an aligned address, in elements.
struct Case {
  Tensor logits;  // [R, V]
  std::vector<std::int64_t> target;
  Tensor mask = {};  // u8 [R]
  std::int64_t logits_offset = 0, gradient_offset = 0;
  bool wants_gradient = true;
  std::int64_t ignore_index = -100;
  Tensor probabilities = {};               // [R, V], as logits; instead of labels
  std::vector<double> class_weights = {};  // [V]
  std::vector<float> token_weights = {};   // [R]
  double label_smoothing = 0, z_loss = 0;

  std::int64_t rows() const { return logits.size(0); }
  std::int64_t classes() const { return logits.size(1); }
};

struct Result {
  Tensor sum, denominator, gradient;  // on the cpu
};

// The arguments on a device, and the tensors they point into. What surrounds the logits is an infinity that no sum
// survives, what surrounds the gradient is a mark that must stay.
class OnDevice {
 public:
  OnDevice(Device device, const Case& c) : device_(device), case_(c) {
    const std::int64_t count = c.logits.numel(), before = c.logits_offset;
    Tensor padded = cast(full({before + count + 8}, kInfinity), c.logits.dtype());
    padded.slice(0, before, before + count).copy_bytes_from(c.logits.reshape({count}));
    logits_ = on(device, padded).slice(0, before, before + count);
    target_ = on(device, Tensor::from_vector(c.target, {c.rows()}));
    if (c.mask.defined()) mask_ = on(device, c.mask);
    if (c.probabilities.defined()) {  // at the logits' offset
      Tensor around = cast(full({before + count + 8}, kInfinity), c.logits.dtype());
      around.slice(0, before, before + count).copy_bytes_from(c.probabilities.reshape({count}));
      probabilities_ = on(device, around).slice(0, before, before + count);
    }
    if (!c.class_weights.empty())
      class_weights_ = on(device, cast(Tensor::from_vector(c.class_weights, {c.classes()}),
                                       c.logits.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32));
    if (!c.token_weights.empty()) token_weights_ = on(device, Tensor::from_vector(c.token_weights, {c.rows()}));
    if (c.wants_gradient) gradient_ = on(device, marked());
    sum_ = output(device, {1}, Dtype::f64);
    denominator_ = output(device, {1}, Dtype::f64);
    partials_ = output(device, {kernels::cross_entropy_partials(device, c.rows(), c.classes())}, Dtype::f64);
  }

  CrossEntropyForward args() const {
    return {.dtype = case_.logits.dtype(),
            .rows = case_.rows(),
            .classes = case_.classes(),
            .ignore_index = case_.ignore_index,
            .logits = logits_.raw_data(),
            .targets = probabilities_.defined() ? nullptr : target_.data<std::int64_t>(),
            .mask = mask_.defined() ? mask_.data<std::uint8_t>() : nullptr,
            .gradient = case_.wants_gradient ? gradient_.slice(0, case_.gradient_offset, gradient_.numel()).raw_data()
                                             : nullptr,
            .sum = sum_.data<double>(),
            .denominator = denominator_.data<double>(),
            .partials = partials_.data<double>(),
            .status = device_.kind == DeviceKind::cpu ? nullptr : status_word(device_),
            .probabilities = probabilities_.defined() ? probabilities_.raw_data() : nullptr,
            .class_weights = class_weights_.defined() ? class_weights_.raw_data() : nullptr,
            .token_weights = token_weights_.defined() ? token_weights_.data<float>() : nullptr,
            .label_smoothing = case_.label_smoothing,
            .z_loss = case_.z_loss};
  }

  Result read() const {
    Result result{back(sum_), back(denominator_), {}};
    if (!case_.wants_gradient) return result;
    const Tensor all = back(gradient_), mark = marked();
    const std::int64_t begin = case_.gradient_offset, end = begin + case_.logits.numel();
    EXPECT_TRUE(bitwise_equal(all.slice(0, 0, begin), mark.slice(0, 0, begin)));
    EXPECT_TRUE(bitwise_equal(all.slice(0, end, all.numel()), mark.slice(0, end, all.numel())));
    result.gradient = clone(all.slice(0, begin, end)).reshape(case_.logits.shape());
    return result;
  }

 private:
  Tensor marked() const {
    return cast(full({case_.gradient_offset + case_.logits.numel() + 8}, NAN), case_.logits.dtype());
  }
  Device device_;
  const Case& case_;
  Tensor logits_, target_, mask_, probabilities_, class_weights_, token_weights_, gradient_, sum_, denominator_,
      partials_;
};

Result run(Device device, const Variant<CrossEntropyForward>& variant, const Case& c) {
  const OnDevice buffers(device, c);
  variant.run(current_stream(device), buffers.args());
  return buffers.read();
}

// The cpu op in f64, on the values as stored.
Result reference(Case c) {
  c.logits = cast(c.logits, Dtype::f64);
  if (c.probabilities.defined()) c.probabilities = cast(c.probabilities, Dtype::f64);
  for (double& weight : c.class_weights) weight = static_cast<float>(weight);  // as for any dtype but f64
  c.logits_offset = c.gradient_offset = 0;
  c.wants_gradient = true;
  const OnDevice buffers({}, c);
  kernels::cross_entropy_forward({}, buffers.args());
  return buffers.read();
}

void expect_close(const Result& got, const Case& c, double spread) {
  const Result want = reference(c);
  const Dtype dtype = c.logits.dtype();
  const double counted = want.denominator.item<double>(), classes = static_cast<double>(c.classes());
  EXPECT_EQ(got.denominator.item<double>(), counted);
  // An exponential is good to 2 roundings, a thread adds up V/32 of them at the most and each sum of two threads' adds
  // one rounding; a row's term is rounded relative to the largest of its parts, of which `spread` bounds the size.
  const double term = rounding(dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32) * (8 + std::sqrt(classes / 8));
  EXPECT_NEAR(got.sum.item<double>(), want.sum.item<double>(), term * counted * (std::log(classes) + 6 * spread + 1));
  if (!c.wants_gradient) return;
  // 16 bits: the exponentials of the gradient are within 2^-16.
  const double stored = dtype == Dtype::f64 || dtype == Dtype::f32 ? 0 : rounding(dtype) + 0x1p-16;
  std::vector<double> values_got = values(got.gradient), values_want = values(want.gradient);
  for (std::int64_t r = 0; r < c.rows(); ++r) {
    const std::int64_t target = c.target[static_cast<std::size_t>(r)];
    if (target < 0 || target >= c.classes()) continue;
    // At the target p - 1, which cancels.
    const auto at = static_cast<std::size_t>(r * c.classes() + target);
    EXPECT_NEAR(values_got[at], values_want[at], term + stored);
    values_got[at] = values_want[at] = 0;
  }
  EXPECT_LE(relative_error(values_got, values_want), 2 * term + stored);
}

// Every variant that takes the case, in every thread order; how many there were.
int check_variants(Device device, const Case& c, double spread = 3) {
  int variants = 0;
  for (const auto& variant : forward_variants(device)) {
    if (!variant.supports(OnDevice(device, c).args())) continue;
    SCOPED_TRACE(fmt::format("{} {} {}", variant.name, c.logits.shape(), to_string(c.logits.dtype())));
    ++variants;
    Result first;
    in_every_order(device, [&] {
      const Result result = run(device, variant, c);
      if (!first.sum.defined()) first = result;
      std::vector<Tensor> tensors = {result.sum, result.denominator};
      if (c.wants_gradient) tensors.push_back(result.gradient);
      return tensors;
    });
    expect_close(first, c, spread);
    if (!c.wants_gradient) continue;
    Case without = c;
    without.wants_gradient = false;
    without.gradient_offset = 0;
    if (variant.supports(OnDevice(device, without).args())) {
      EXPECT_TRUE(bitwise_equal(run(device, variant, without).sum, first.sum));
    }
  }
  return variants;
}

Case make(std::int64_t rows, std::int64_t classes, Dtype dtype, double spread = 3) {
  return {.logits = cast(randn({rows, classes}, 1, Dtype::f64) * spread, dtype), .target = labels(rows, classes, true)};
}

// Around the numbers of lanes.
TEST_P(CrossEntropyGpu, FewClasses) {
  for (std::int64_t classes : {1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 31, 32, 33})
    for (std::int64_t rows : {1, 7})
      for (Dtype dtype : {Dtype::f32, Dtype::bf16}) EXPECT_GE(check_variants(device(), make(rows, classes, dtype)), 5);
  for (Dtype dtype : {Dtype::f64, Dtype::f16}) EXPECT_GE(check_variants(device(), make(5, 10, dtype)), 5);
}

// Several blocks, the last one not full.
TEST_P(CrossEntropyGpu, MoreRowsThanABlockTakes) {
  check_variants(device(), make(70, 3, Dtype::f32));
  check_variants(device(), make(33, 10, Dtype::f32));
  check_variants(device(), make(17, 40, Dtype::bf16));
}

// Below, at and above what 1, 2, 4 and 8 vectors per lane hold.
TEST_P(CrossEntropyGpu, AWarpPerRow) {
  for (std::int64_t classes : {127, 128, 129, 132, 255, 256, 260, 511, 513, 1023, 1024, 1027})
    check_variants(device(), make(3, classes, Dtype::f32));
  for (std::int64_t classes : {255, 256, 264, 512, 520, 1024, 1031})
    check_variants(device(), make(2, classes, Dtype::bf16));
  for (std::int64_t classes : {63, 64, 66, 128, 130, 256, 258, 512, 513})
    check_variants(device(), make(2, classes, Dtype::f64));
  check_variants(device(), make(9, 777, Dtype::f16));
}

TEST_P(CrossEntropyGpu, ABlockPerRow) {
  for (std::int64_t classes : {1028, 4095, 4096, 4097, 4100, 8192, 8193})
    check_variants(device(), make(2, classes, Dtype::f32));
  for (Dtype dtype : {Dtype::f64, Dtype::f16, Dtype::bf16}) check_variants(device(), make(3, 2051, dtype));
}

TEST_P(CrossEntropyGpu, LargeVocabularies) {
  check_variants(device(), make(2, 50257, Dtype::bf16));
  const Case beyond = make(2, 60001, Dtype::f32);  // 234 KiB
  EXPECT_EQ(check_variants(device(), beyond), 2);
}

// More rows than blocks take at once: a block walks over several.
TEST_P(CrossEntropyGpu, ManyRows) {
  const struct {
    const char* variant;
    std::int64_t rows_at_once, classes;
    Dtype dtype;
  } cases[] = {{"lanes", 64, 2, Dtype::f32}, {"warp", 8, 33, Dtype::f32}, {"shared", 1, 3, Dtype::bf16}};
  for (const auto& [name, rows_at_once, classes, dtype] : cases) {
    const Case c = make(kernels::kCrossEntropyBlocks * rows_at_once + rows_at_once + 1, classes, dtype);
    int found = 0;
    for (const auto& variant : forward_variants(device())) {
      if (std::string_view(variant.name) != name) continue;
      SCOPED_TRACE(name);
      expect_close(run(device(), variant, c), c, 3);
      ++found;
    }
    EXPECT_EQ(found, 1);
  }
}

TEST_P(CrossEntropyGpu, RowsThatBeginAnywhere) {
  for (Dtype dtype : kDtypes)
    for (std::int64_t offset : {1, 3}) {
      Case c = make(4, 101, dtype);
      c.logits_offset = c.gradient_offset = offset;
      EXPECT_GE(check_variants(device(), c), 5);
      c.gradient_offset = 0;  // no vector fits both, unless two elements of f64 do
      EXPECT_GE(check_variants(device(), c), 2);
    }
  Case c = make(3, 1500, Dtype::f16);
  c.logits_offset = c.gradient_offset = 7;
  check_variants(device(), c);
}

// Every variant with every option, for rows that begin anywhere; each row at its own height, so that nothing of another
// row or of an earlier maximum is left where it does not belong.
TEST_P(CrossEntropyGpu, Options) {
  for (const std::int64_t classes : {1, 3, 31, 33, 200, 1030, 2100})
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64})
      for (const int which : {0, 1, 2, 3}) {
        const std::int64_t rows = 9;
        Case c = make(rows, classes, dtype);
        const Tensor height = Tensor::from_vector(std::vector<double>{8, -8, NAN, 16, 0, -16, 2, 1, -4}, {rows, 1});
        c.logits = cast(cast(c.logits, Dtype::f64) + height, dtype);
        c.logits_offset = c.gradient_offset = classes % 4;
        c.z_loss = 0.01;
        c.token_weights = {1, 0.5, 0, 2, 0.25, 1.5, 1, 1, 3};  // the NaN are not read
        if (which != 1)
          for (std::int64_t v = 0; v < classes; ++v) c.class_weights.push_back(0.25F * static_cast<float>(1 + v % 7));
        if (which >= 1) c.label_smoothing = 0.3;
        if (which == 3)
          c.probabilities = cast(rand({rows, classes}, 9, Dtype::f64) * (2.0 / static_cast<double>(classes)), dtype);
        const Result want = reference(c);
        int variants = 0;
        for (const auto& variant : forward_variants(device())) {
          if (!variant.supports(OnDevice(device(), c).args())) continue;
          SCOPED_TRACE(fmt::format("{} V={} {} {}", variant.name, classes, to_string(dtype), which));
          ++variants;
          const Result got = run(device(), variant, c);
          // As in expect_close; a term has parts of up to z_loss L² = 0.01 * 24².
          const double term = rounding(dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32) *
                              (8 + std::sqrt(static_cast<double>(classes) / 8));
          EXPECT_NEAR(got.sum.item<double>(), want.sum.item<double>(), term * static_cast<double>(rows) * 40);
          EXPECT_NEAR(got.denominator.item<double>(), want.denominator.item<double>(), 1e-14 * 40);
          const double stored = dtype == Dtype::bf16 ? rounding(dtype) + 0x1p-16 : 0;
          const std::vector<double> values_got = values(got.gradient), values_want = values(want.gradient);
          for (std::size_t i = 0; i < values_got.size(); ++i) {
            const double at_target =
                which < 3 && static_cast<std::int64_t>(i) % classes == c.target[i / static_cast<std::size_t>(classes)]
                    ? 8
                    : 0;
            // A difference of a softmax and a mass: 1 / V each but for the target's.
            const double size = std::fabs(values_want[i]) + 8 * (at_target + 1 / static_cast<double>(classes));
            ASSERT_NEAR(values_got[i], values_want[i], 4 * term * size + stored * std::fabs(values_want[i])) << i;
          }
          Case without = c;
          without.wants_gradient = false;
          EXPECT_TRUE(bitwise_equal(run(device(), variant, without).sum, got.sum));
        }
        EXPECT_GE(variants, 2);
      }
}

// -inf where a class has a part of the target makes the loss infinite, elsewhere nothing; for every variant, and threads
// that meet nothing else.
TEST_P(CrossEntropyGpu, RuledOutClassesWithMass) {
  for (const std::int64_t classes : {5, 130, 5000})
    for (const auto& variant : forward_variants(device()))
      for (const bool has_mass : {false, true}) {
        Case c{.logits = full({1, classes}, -kInfinity), .target = {0}};
        c.logits.data<float>()[classes / 2] = 3;
        c.probabilities = zeros({1, classes});
        c.probabilities.data<float>()[classes / 2] = 1;
        if (has_mass) c.label_smoothing = 0.1;
        if (!variant.supports(OnDevice(device(), c).args())) continue;
        SCOPED_TRACE(fmt::format("{} V={} {}", variant.name, classes, has_mass));
        const Result result = run(device(), variant, c);
        EXPECT_EQ(result.sum.item<double>(), has_mass ? kInfinity : 0.0);
        for (const double v : values(result.gradient)) EXPECT_TRUE(std::isfinite(v));
      }
}

TEST_P(CrossEntropyGpu, LargeLogits) {
  for (std::int64_t classes : {10, 500, 1500}) {
    check_variants(device(), make(4, classes, Dtype::f32, 1e4), 1e4);
    check_variants(device(), make(4, classes, Dtype::bf16, 1e4), 1e4);
  }
}

// Neighbouring rows far apart: relative to the wrong row's maximum nothing would be left of an exponential.
TEST_P(CrossEntropyGpu, EveryRowHasItsOwnMaximum) {
  for (std::int64_t classes : {3, 8, 10, 32, 100}) {
    Case c = make(9, classes, Dtype::f32);
    for (std::int64_t r = 0; r < 9; ++r)
      for (std::int64_t v = 0; v < classes; ++v)
        c.logits.data<float>()[r * classes + v] += static_cast<float>(1000 * (r * 5 % 9 - 4));
    check_variants(device(), c, 4000);
  }
}

// Rows that do not count: their logits are not read, NaN there does no harm, and their gradient is 0.
TEST_P(CrossEntropyGpu, MaskAndIgnoreIndexSelectRows) {
  for (std::int64_t classes : {10, 200, 1200}) {
    Case c = make(12, classes, Dtype::f32);
    c.ignore_index = 5;
    std::vector<std::uint8_t> mask(12, 1);
    std::vector<bool> counts(12, true);
    for (std::size_t r = 0; r < 12; ++r) {
      c.target[r] = static_cast<std::int64_t>(r % 5 == 2 ? 5 : (r == 1 ? 4 : r % 4));
      if (r % 4 == 1) mask[r] = 0, c.target[r] = 1'000'000;  // must not be looked at
      counts[r] = mask[r] != 0 && c.target[r] != 5;
      if (counts[r]) continue;
      for (std::int64_t v = 0; v < classes; ++v)
        c.logits.data<float>()[static_cast<std::int64_t>(r) * classes + v] = NAN;
    }
    c.mask = Tensor::from_vector(mask, {12});
    for (const auto& variant : forward_variants(device())) {
      if (!variant.supports(OnDevice(device(), c).args())) continue;
      SCOPED_TRACE(fmt::format("{} {}", variant.name, classes));
      const Result result = run(device(), variant, c);
      expect_close(result, c, 3);
      for (std::size_t r = 0; r < 12; ++r)
        for (double v :
             values(result.gradient.slice(0, static_cast<std::int64_t>(r), static_cast<std::int64_t>(r) + 1)))
          EXPECT_EQ(!counts[r], v == 0.0) << r;
      if (!emulated()) continue;
      Case lone = c;
      lone.wants_gradient = false;
      const OnDevice buffers(device(), lone);
      const simt::TrafficScope scope;
      variant.run(current_stream(device()), buffers.args());
      const auto* logits = scope.launches()[0].find("logits");
      ASSERT_NE(logits, nullptr);
      const std::int64_t row = classes * 4, extra = 4;  // the target's logit may be read again
      const auto counted = static_cast<std::int64_t>(std::count(counts.begin(), counts.end(), true));
      EXPECT_LE(logits->read_bytes, counted * (row + extra));
      EXPECT_GE(logits->read_bytes, counted * row);
    }
  }
  check_status(device());  // the labels of masked rows are no errors
}

TEST_P(CrossEntropyGpu, NoRowsAndNoneThatCounts) {
  for (std::int64_t classes : {4, 100, 2000}) {
    Case none = make(0, classes, Dtype::f32);
    Case masked = make(3, classes, Dtype::f32);
    masked.target = {-100, -100, -100};
    for (const Case& c : {none, masked})
      for (const auto& variant : forward_variants(device())) {
        if (!variant.supports(OnDevice(device(), c).args())) continue;
        const Result result = run(device(), variant, c);
        EXPECT_EQ(result.sum.item<double>(), 0.0) << variant.name;
        EXPECT_EQ(result.denominator.item<double>(), 0.0);
        for (double v : values(result.gradient)) EXPECT_EQ(v, 0.0);
      }
  }
}

TEST_P(CrossEntropyGpu, BadLabelsGoToTheStatusWord) {
  for (std::int64_t classes : {10, 100, 2000})
    for (const auto& variant : forward_variants(device())) {
      Case c = make(40, classes, Dtype::f32);
      if (!variant.supports(OnDevice(device(), c).args())) continue;
      SCOPED_TRACE(variant.name);
      for (std::int64_t bad : {classes, std::int64_t{-1}}) {
        Case ignored = c;
        c.target[6] = bad;
        c.target[35] = 99'999;
        ignored.target[6] = ignored.target[35] = -100;
        in_every_order(device(), [&] {  // always the first of them
          const Result result = run(device(), variant, c), want = run(device(), variant, ignored);
          EXPECT_TRUE(bitwise_equal(result.sum, want.sum));
          EXPECT_TRUE(bitwise_equal(result.denominator, want.denominator));
          EXPECT_TRUE(bitwise_equal(result.gradient, want.gradient));
          EXPECT_EQ(message_of<Error>([&] {
                      check_status(device());
                    }).find(fmt::format("[cross_entropy] target {} at row 6 is outside [0, {})", bad, classes)),
                    0u);
          check_status(device());  // cleared
          return std::vector<Tensor>{result.sum};
        });
      }
    }
}

// Also of more blocks than the last launch has threads.
TEST_P(CrossEntropyGpu, TheFirstBadLabelOfManyRows) {
  Case c = make(1100, 3, Dtype::f32);
  c.target[20] = 3;
  c.target[20 + 512] = c.target[20 + 1024] = 4;
  for (const auto& variant : forward_variants(device())) {
    if (std::string_view(variant.name) != "shared") continue;
    run(device(), variant, c);
    EXPECT_NE(message_of<Error>([&] { check_status(device()); }).find("target 3 at row 20 "), std::string::npos);
  }
}

TEST_P(CrossEntropyGpu, NonFiniteLogits) {
  for (std::int64_t classes : {5, 130, 5000})
    for (const auto& variant : forward_variants(device())) {
      const auto row = [&](std::int64_t at, float value, float others = 0) {
        Case c{.logits = full({1, classes}, others), .target = {0}};
        c.logits.data<float>()[at] = value;
        return run(device(), variant, c);
      };
      if (!variant.supports(OnDevice(device(), make(1, classes, Dtype::f32)).args())) continue;
      SCOPED_TRACE(fmt::format("{} {}", variant.name, classes));
      for (std::int64_t at : {std::int64_t{0}, classes / 2, classes - 1})
        for (const float bad : {kInfinity, NAN}) {
          const Result result = row(at, bad);
          EXPECT_TRUE(std::isnan(result.sum.item<double>())) << at << " " << bad;
          for (double v : values(result.gradient)) EXPECT_TRUE(std::isnan(v)) << at << " " << bad;
        }
      EXPECT_TRUE(std::isnan(row(0, -kInfinity, -kInfinity).sum.item<double>()));
      const Result ruled_out = row(classes - 1, -kInfinity);
      EXPECT_NEAR(ruled_out.sum.item<double>(), std::log(static_cast<double>(classes - 1)), 1e-5);
      EXPECT_EQ(values(ruled_out.gradient).back(), 0.0);
      EXPECT_EQ(row(0, -kInfinity).sum.item<double>(), std::numeric_limits<double>::infinity());
      // One finite logit: most threads have none.
      const Result certain = row(0, 3, -kInfinity);
      EXPECT_EQ(certain.sum.item<double>(), 0.0);
      for (double v : values(certain.gradient)) EXPECT_EQ(v, 0.0);
    }
}

// One read and one write of the logits' size; labels and partials come on top.
TEST_P(CrossEntropyGpu, Traffic) {
  if (!emulated()) GTEST_SKIP() << "sectors are counted by the emulator";
  const struct {
    std::int64_t rows, classes;
    Dtype dtype;
    const char* variant;
    double passes;
  } rows[] = {{64, 1024, Dtype::f32, "warp", 2},
              {64, 1000, Dtype::bf16, "warp", 2},
              {4, 8192, Dtype::f32, "shared", 2},
              {5, 50257, Dtype::bf16, "shared", 2},
              {2, 60032, Dtype::f32, "reread", 3}};
  for (const auto& [count, classes, dtype, name, passes] : rows) {
    SCOPED_TRACE(fmt::format("{} {} {}", count, classes, to_string(dtype)));
    Case c = make(count, classes, dtype);
    c.target = labels(count, classes, false);
    const OnDevice buffers(device(), c);
    const auto variants = forward_variants(device());
    const auto chosen = std::find_if(variants.begin(), variants.end(),
                                     [&](const auto& variant) { return variant.supports(buffers.args()); });
    EXPECT_STREQ(chosen->name, name);
    const double floor = passes * static_cast<double>(c.logits.nbytes()) + 9.0 * static_cast<double>(count);
    expect_traffic(device(), floor, [&] { kernels::cross_entropy_forward(device(), buffers.args()); });
  }
}

TEST_P(CrossEntropyGpu, Backward) {
  for (Dtype dtype : kDtypes)
    for (std::int64_t count : {0, 1, 7, 8, 9, 1023, 1024, 1025, 8192, 8195})
      for (std::int64_t offset : {0, 1})
        for (bool in_place : {false, true}) {
          const Tensor x = randn({count + offset + 1}, 3, dtype);
          const Tensor scale = on(device(), full({1}, -0.37, Dtype::f64));
          for (const auto& variant : backward_variants(device())) {
            const Tensor buffer = on(device(), x), gradient = buffer.slice(0, offset, offset + count);
            const Tensor out = in_place ? buffer : output(device(), {count + offset + 1}, dtype);
            const CrossEntropyBackward args{dtype, count, gradient.raw_data(), scale.data<double>(),
                                            out.slice(0, offset, offset + count).raw_data()};
            if (!variant.supports(args)) continue;
            variant.run(current_stream(device()), args);
            // As on the cpu: the product in f32 (f64 for f64), rounded once.
            const Tensor product = Tensor::empty({count}, dtype);
            const Tensor dense = clone(x.slice(0, offset, offset + count)), cpu_scale = full({1}, -0.37, Dtype::f64);
            kernels::cross_entropy_backward(
                {}, {dtype, count, dense.raw_data(), cpu_scale.data<double>(), product.raw_data()});
            const Tensor all = back(out);
            EXPECT_TRUE(bitwise_equal(clone(all.slice(0, offset, offset + count)), product))
                << variant.name << " " << to_string(dtype) << " " << count << " " << offset;
            if (in_place) {  // the neighbours are untouched
              EXPECT_TRUE(bitwise_equal(clone(all.slice(0, offset + count, count + offset + 1)),
                                        clone(x.slice(0, offset + count, count + offset + 1))));
              EXPECT_TRUE(bitwise_equal(clone(all.slice(0, 0, offset)), clone(x.slice(0, 0, offset))));
            }
          }
        }
}

TEST_P(CrossEntropyGpu, BackwardTraffic) {
  const std::int64_t count = 64 * 1024;
  const Tensor gradient = on(device(), randn({count}, 1)), dlogits = output(device(), {count}, Dtype::f32);
  const Tensor scale = on(device(), full({1}, 0.5, Dtype::f64));
  expect_traffic(device(), 8.0 * count, [&] {
    kernels::cross_entropy_backward(device(),
                                    {Dtype::f32, count, gradient.raw_data(), scale.data<double>(), dlogits.raw_data()});
  });
}

// Through autograd, with an upstream gradient that is not 1.
TEST_P(CrossEntropyGpu, Autograd) {
  const Tensor x = randn({9, 21}, 1), target = Tensor::from_vector(labels(9, 21, true), {9});
  const auto run_on = [&](Device where) {
    const Tensor leaf = set_requires_grad(on(where, x));
    const Loss loss = cross_entropy(leaf, on(where, target));
    backward(loss.sum, on(where, full({}, -0.25, Dtype::f64)));
    return std::vector<Tensor>{back(loss.sum.alias()), back(loss.denominator), back(grad(leaf))};
  };
  const std::vector<Tensor> want = run_on({}), got = in_every_order(device(), [&] { return run_on(device()); });
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_LE(relative_error(got[i], want[i]), 16 * 0x1p-24) << i;
  EXPECT_TRUE(bitwise_equal(got[1], want[1]));

  const Tensor bad = Tensor::from_vector(std::vector<std::int64_t>{0, 21, 0, 0, 0, 0, 0, 0, 0}, {9});
  const auto message = message_of<Error>([&] {
    cross_entropy(on(device(), x), on(device(), bad));
    check_status(device());  // on simt it has been thrown before
  });
  EXPECT_EQ(message.find("[cross_entropy] target 21 at row 1 is outside [0, 21)"), 0u) << message;
  check_status(device());
}

}  // namespace
}  // namespace weft
