#include "support/op_checks.h"

#include <cmath>
#include <map>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/gradcheck.h"
#include "autograd/layout.h"
#include "simt/traffic.h"
#include "support/compare.h"
#include "support/gpu.h"
#include "support/guarded.h"
#include "support/threads.h"
#include "tensor/allocator.h"

namespace weft::test {
namespace {

using cases::Call;
using cases::Family;
using cases::Input;
using cases::Kind;
using cases::OpCase;
using cases::Sample;
using cases::Tensors;
using cases::Workload;

bool asks_for_gradient(const Input& input, const Tensor& x) { return input.differentiable && is_floating(x.dtype()); }

// The result of a call, and the gradients of its inputs for a random dy; on the cpu.
struct Outcome {
  Tensor y;
  std::vector<Tensor> dx;  // undefined for inputs that ask for none
  Dtype dtype = Dtype::f32;
  std::vector<Tensor> all() const {
    std::vector<Tensor> tensors{y};
    for (const Tensor& gradient : dx)
      if (gradient.defined()) tensors.push_back(gradient);
    return tensors;
  }
};

// dy is drawn in f64 and rounded to `rounded`, the dtype of the result that is compared: both sides see the same numbers.
Outcome evaluate(const Sample& sample, const Call& call, const Tensors& inputs, bool gradients,
                 std::optional<Dtype> rounded = {}, int backwards = 1) {
  Tensors x;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    x.push_back(inputs[i].alias());
    if (gradients && asks_for_gradient(sample.inputs[i], inputs[i])) set_requires_grad(x.back());
  }
  Outcome outcome;
  for (int run = 0; run < backwards; ++run) {
    const Tensor y = call(x);
    outcome.y = back(y.alias());
    if (!outcome.y.is_contiguous()) outcome.y = clone(outcome.y);
    outcome.dtype = y.dtype();
    outcome.dx.assign(inputs.size(), Tensor());
    if (gradients && requires_grad(y)) {
      const Tensor dy = cast(cast(randn(y.shape(), 99, Dtype::f64), rounded.value_or(y.dtype())), y.dtype());
      backward(y, to(dy, y.device()));
    }
  }
  for (std::size_t i = 0; gradients && i < inputs.size(); ++i) {
    if (!asks_for_gradient(sample.inputs[i], inputs[i])) continue;
    const Tensor gradient = grad(x[i]);
    outcome.dx[i] = gradient.defined() ? clone(back(gradient)) : zeros(inputs[i].shape(), inputs[i].dtype());
  }
  return outcome;
}

Tensors on_device(const Tensors& inputs, Device device) {
  Tensors moved;
  moved.reserve(inputs.size());
  for (const Tensor& x : inputs) moved.push_back(on(device, x));
  return moved;
}
// Floats in f64, so that the oracle sees the very numbers that the smaller dtype holds.
Tensors widened(const Tensors& inputs) {
  Tensors wide;
  wide.reserve(inputs.size());
  for (const Tensor& x : inputs) wide.push_back(is_floating(x.dtype()) ? cast(x, Dtype::f64) : x);
  return wide;
}

bool has_gradients(const OpCase& c, const Sample& sample) { return c.differentiable && sample.gradients; }

// Norm-wise within `allowed`; element by element within 16 times that of the element and of the root mean square, which
// finds a single wrong element in a large result; infinities and NaN must stand where they are expected.
void compare(const char* what, const Tensor& got_, const Tensor& want_, double allowed, double least_scale = 0) {
  if (!got_.defined() && !want_.defined()) return;
  ASSERT_TRUE(got_.defined() && want_.defined()) << what << ": one side is missing";
  ASSERT_EQ(got_.shape().str(), want_.shape().str()) << what;
  const std::vector<double> got = values(got_), want = values(want_);
  double difference = 0, norm = 0;
  std::size_t finite = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(want[i]) || !std::isfinite(got[i])) {
      const bool same = std::isnan(want[i]) ? std::isnan(got[i]) : want[i] == got[i];
      ASSERT_TRUE(same) << what << " element " << i << ": " << got[i] << " instead of " << want[i];
      continue;
    }
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
    ++finite;
  }
  norm = std::max(norm, least_scale * least_scale * static_cast<double>(finite));
  const double error = norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
  ASSERT_LE(error, allowed) << what << ": relative error, " << 100 * error / allowed << " % of what is allowed\n"
                            << got_.str() << "\n instead of\n"
                            << want_.str();
  const double scale = std::sqrt(norm / static_cast<double>(std::max<std::size_t>(finite, 1)));
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(want[i])) continue;
    ASSERT_LE(std::fabs(got[i] - want[i]), 16 * allowed * (std::fabs(want[i]) + scale))
        << what << " element " << i << ": " << got[i] << " instead of " << want[i];
  }
}

double gradient_terms(const Sample& sample, std::size_t input) {
  return sample.inputs[input].terms > 0 ? sample.inputs[input].terms : sample.terms;
}

void compare_gradients(const Sample& sample, const Outcome& got, const Outcome& want, Dtype dtype, double factor = 1) {
  for (std::size_t i = 0; i < got.dx.size(); ++i)
    compare(("gradient of input " + std::to_string(i)).c_str(), got.dx[i], want.dx[i],
            factor * tolerance(sample, dtype, gradient_terms(sample, i)), sample.inputs[i].scale);
}

void expect_same(const Outcome& got, const Outcome& want, const std::string& what) {
  const std::vector<Tensor> a = got.all(), b = want.all();
  ASSERT_EQ(a.size(), b.size()) << what;
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(bitwise_equal(a[i], b[i])) << what << ": " << (i == 0 ? "the result" : "a gradient") << " differs\n"
                                           << a[i].str() << "\n instead of\n"
                                           << b[i].str();
}

// --- the checks ----------------------------------------------------------------------------------------------------

// f64 on the cpu against simple operations or plain loops.
void check_reference(const Sample& sample) {
  const Tensors inputs = cases::make_inputs(sample.inputs, Dtype::f64);
  const Outcome got = evaluate(sample, sample.call, inputs, false);
  const Outcome want = evaluate(sample, sample.reference, inputs, false);
  compare("result", got.y, want.y, 2 * sample.reference_amplification * tolerance(sample, Dtype::f64, sample.terms),
          sample.scale);
}

void check_composite(const Sample& sample) {
  const Tensors inputs = cases::make_inputs(sample.inputs, Dtype::f64);
  Tensors leaves;
  for (const Tensor& x : inputs) leaves.push_back(x.alias());
  for (std::size_t i = 0; i < leaves.size(); ++i)
    if (asks_for_gradient(sample.inputs[i], leaves[i])) set_requires_grad(leaves[i]);
  if (!requires_grad(sample.reference(leaves))) return;  // plain loops
  // Twice the usual: the composite rounds as well, and at every one of its operations.
  compare_gradients(sample, evaluate(sample, sample.call, inputs, true),
                    evaluate(sample, sample.reference, inputs, true), Dtype::f64, 4 * sample.reference_amplification);
}

void check_gradcheck(const Sample& sample) {
  const Tensors inputs = cases::make_inputs(sample.inputs, Dtype::f64);
  std::vector<Tensor> differentiable;
  std::int64_t elements = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (asks_for_gradient(sample.inputs[i], inputs[i])) {
      differentiable.push_back(inputs[i]);
      elements += inputs[i].numel();
    }
  const auto f = [&](const std::vector<Tensor>& leaves) {
    Tensors x = inputs;
    std::size_t next = 0;
    for (std::size_t i = 0; i < x.size(); ++i)
      if (asks_for_gradient(sample.inputs[i], inputs[i])) x[i] = leaves[next++];
    return sample.call(x);
  };
  Tensor y;
  {
    const NoGrad guard;
    y = f(differentiable);
  }
  GradcheckOptions options;
  options.jacobian = y.numel() <= 32 && elements <= 64;
  const GradcheckResult result = gradcheck(f, differentiable, options);
  EXPECT_TRUE(result.passed) << result.message;
}

Outcome oracle(const Sample& sample, const Tensors& inputs, bool gradients, Dtype rounded) {
  return evaluate(sample, sample.call, widened(inputs), gradients, rounded);
}

void check_forward(const Sample& sample, Device device, Dtype dtype) {
  const Tensors inputs = cases::make_inputs(sample.inputs, dtype);
  const Outcome got = evaluate(sample, sample.call, on_device(inputs, device), false);
  const Outcome want = oracle(sample, inputs, false, got.dtype);
  compare("result", got.y, want.y, tolerance(sample, dtype, sample.terms), sample.scale);
}

void check_backward(const Sample& sample, Device device, Dtype dtype) {
  const Tensors inputs = cases::make_inputs(sample.inputs, dtype);
  const Outcome got = evaluate(sample, sample.call, on_device(inputs, device), true);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!got.dx[i].defined()) continue;
    EXPECT_EQ(got.dx[i].dtype(), inputs[i].dtype()) << "gradient of input " << i;
  }
  compare_gradients(sample, got, oracle(sample, inputs, true, got.dtype), dtype);
}

// The cpu in the same dtype: bit for bit where the case says so.
void check_parity(const OpCase& c, const Sample& sample, Device device, Dtype dtype) {
  const Tensors inputs = cases::make_inputs(sample.inputs, dtype);
  const bool gradients = has_gradients(c, sample);
  const Outcome got = evaluate(sample, sample.call, on_device(inputs, device), gradients);
  const Outcome want = evaluate(sample, sample.call, inputs, gradients);
  EXPECT_EQ(got.dtype, want.dtype);
  if (c.exact) return expect_same(got, want, "against the cpu");
  compare("result", got.y, want.y, 2 * tolerance(sample, dtype, sample.terms), sample.scale);
  compare_gradients(sample, got, want, dtype, 2);
}

// The same numbers lying in memory in another way.
Tensor transposed_storage(const Tensor& x) { return clone(x.transpose(-2, -1)).transpose(-2, -1); }
Tensor every_second(const Tensor& x) {
  Shape wide = x.shape();
  wide[wide.rank() - 1] *= 2;
  const Tensor padded = full(wide, 7, x.dtype(), x.device());
  Tensor view = padded.slice(-1, 0, wide.back(), 2);
  copy_(view, x);
  return view;
}
Tensor shifted(const Tensor& x) {  // off every vector's grid
  const Tensor padded = full({x.numel() + 1}, 7, x.dtype(), x.device());
  Tensor view = padded.slice(0, 1, x.numel() + 1).reshape(x.shape());
  copy_(view, x);
  return view;
}

void check_layouts(const OpCase& c, const Sample& sample, Device device, Dtype dtype) {
  const Tensors inputs = cases::make_inputs(sample.inputs, dtype);
  const bool gradients = has_gradients(c, sample);
  const Outcome want = evaluate(sample, sample.call, on_device(inputs, device), gradients);
  using Change = Tensor (*)(const Tensor&);
  const std::pair<const char*, Change> changes[] = {
      {"transposed", transposed_storage}, {"every second element", every_second}, {"one element further", shifted}};
  for (const auto& [name, change] : changes)
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i].rank() < (change == &transposed_storage ? 2 : 1)) continue;
      SCOPED_TRACE(std::string(name) + ", input " + std::to_string(i));
      Tensors x = on_device(inputs, device);
      x[i] = change(x[i]);
      const Outcome got = evaluate(sample, sample.call, x, gradients);
      // Another variant of the kernel may serve it, which adds in another order.
      compare("result", got.y, want.y, 2 * tolerance(sample, dtype, sample.terms), sample.scale);
      compare_gradients(sample, got, want, dtype, 2);
    }
}

// Inputs stay as they were, the result has memory of its own, and one tensor may stand in two places.
void check_aliasing(const OpCase& c, const Sample& sample, Device device, Dtype dtype) {
  const Tensors inputs = cases::make_inputs(sample.inputs, dtype);
  const Tensors x = on_device(inputs, device);
  const bool gradients = has_gradients(c, sample);
  evaluate(sample, sample.call, x, gradients);
  for (std::size_t i = 0; i < x.size(); ++i)
    EXPECT_TRUE(bitwise_equal(back(x[i]), inputs[i])) << "input " << i << " was changed";
  if (!c.view) {
    const Tensor y = sample.call(x);
    for (std::size_t i = 0; i < x.size(); ++i)
      EXPECT_FALSE(y.numel() > 0 && y.storage() == x[i].storage()) << "the result shares the memory of input " << i;
  }
  for (std::size_t i = 0; i + 1 < x.size(); ++i) {
    const Input &first = sample.inputs[i], &second = sample.inputs[i + 1];
    if (!(first.shape == second.shape) || x[i].dtype() != x[i + 1].dtype() || first.fill != second.fill ||
        first.differentiable != second.differentiable || first.a != second.a || first.b != second.b)
      continue;
    Tensors apart = x, shared = x;
    apart[i + 1] = clone(x[i]);
    shared[i + 1] = x[i];
    const Tensor want = sample.call(apart), got = sample.call(shared);
    EXPECT_TRUE(bitwise_equal(clone(back(got)), clone(back(want))))
        << "inputs " << i << " and " << i + 1 << " being one tensor";
  }
}

// Bit for bit the same for any number of threads, in any order of a block's threads, in any run.
void check_repeat(const OpCase& c, const Sample& sample, Device device, Dtype dtype) {
  const Tensors inputs = cases::make_inputs(sample.inputs, dtype);
  const bool gradients = has_gradients(c, sample);
  const auto run = [&] { return evaluate(sample, sample.call, on_device(inputs, device), gradients); };
  if (device.kind == DeviceKind::simt) {
    in_every_order(device, [&] { return run().all(); });
    return;
  }
  Outcome first;
  for (const int threads : {1, 2, 7}) {
    const Threads setting(device.kind == DeviceKind::cpu ? threads : num_threads());
    const Outcome now = run();
    if (!first.y.defined()) first = now;
    expect_same(now, first, std::to_string(threads) + " threads");
  }
}

// A second backward pass adds to the gradients of the first.
void check_accumulate(const Sample& sample, Device device, Dtype dtype) {
  const Tensors inputs = cases::make_inputs(sample.inputs, dtype);
  const Outcome once = evaluate(sample, sample.call, on_device(inputs, device), true);
  Outcome twice = evaluate(sample, sample.call, on_device(inputs, device), true, {}, 2);
  for (Tensor& gradient : twice.dx)
    if (gradient.defined()) {
      const Tensor wide = cast(gradient, Dtype::f64);
      for (std::int64_t i = 0; i < wide.numel(); ++i) wide.data<double>()[i] /= 2;
      gradient = wide;
    }
  compare_gradients(sample, twice, once, dtype);
}

void check_traffic(const Family& family, Device device, Dtype dtype) {
  for (const cases::Extents& extents : family.counted) {
    const Workload workload = family.make(extents, static_cast<double>(element_bytes(dtype)));
    const Tensors x = on_device(cases::make_inputs(workload.inputs, dtype), device);
    const auto judge = [&](const char* pass, double floor, const simt::TrafficScope& scope) {
      EXPECT_FALSE(scope.launches().empty()) << pass;
      if (family.memory_bound) {
        EXPECT_LE(static_cast<double>(scope.sector_bytes()), 1.05 * floor) << pass << ", floor " << floor << "\n"
                                                                           << simt::traffic_table(scope.launches());
        EXPECT_GE(static_cast<double>(scope.sector_bytes()), 0.95 * floor)
            << pass << " moves less than a floor of " << floor << ": the floor is wrong\n"
            << simt::traffic_table(scope.launches());
      }
      for (const simt::KernelTraffic& launch : scope.launches())
        EXPECT_EQ(0, launch.bank_conflicts()) << pass << "\n" << simt::traffic_table(scope.launches());
    };
    for (std::size_t i = 0; i < x.size(); ++i)
      if (asks_for_gradient(workload.inputs[i], x[i])) set_requires_grad(x[i]);
    Tensor y;
    {
      const simt::TrafficScope scope;
      y = workload.call(x);
      if (family.passes != Family::Passes::backward) judge("forward", workload.forward.bytes, scope);
    }
    if (workload.backward.bytes <= 0 || family.passes == Family::Passes::forward) continue;
    const Tensor dy = y.rank() == 0 ? Tensor() : to(randn(y.shape(), 99, y.dtype()), device);
    const simt::TrafficScope scope;
    backward(y, dy);
    judge("backward", workload.backward.bytes, scope);
  }
}

bool is_small(const Sample& sample) {
  return sample.kind != Kind::large && sample.kind != Kind::empty && sample.kind != Kind::extreme;
}

}  // namespace

double tolerance(const Sample& sample, Dtype dtype, double terms) {
  // Sums: random errors grow like the root of the number of terms. 4: an elementary function of 2 ulp. Then what is
  // rounded to the type that is stored.
  const double compute = rounding(dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32);
  return sample.amplification * (compute * (4 + std::sqrt(terms)) + sample.roundings * rounding(dtype));
}

const std::vector<CheckName>& check_names() {
  static const std::vector<CheckName> kNames = {
      {"reference", "the cpu in f64 against simple operations or plain loops"},
      {"composite", "gradients in f64 against those of the simple operations"},
      {"gradcheck", "gradients in f64 against central differences, at most 1e-6 apart"},
      {"forward", "the result against f64, between fences, in memory that was NaN before"},
      {"backward", "the gradients against f64, likewise"},
      {"parity", "the result and the gradients against the cpu's in the same dtype"},
      {"layouts", "transposed, strided and misaligned inputs give the same"},
      {"aliasing", "inputs are left alone; the result has its own memory; one tensor may be two inputs"},
      {"repeat", "bitwise equal for 1, 2 and 7 threads (cpu), for three thread orders (simt), for three runs (cuda)"},
      {"accumulate", "a second backward pass adds"},
      {"traffic", "between 0.95 and 1.05 of the floor in 32-byte sectors, no bank conflicts (simt)"},
  };
  return kNames;
}

std::vector<Planned> planned_checks(const OpCase& c, DeviceKind device) {
  std::vector<Planned> all;
  const auto add = [&](const char* check, Dtype dtype, std::size_t index) {
    Planned planned{check, dtype, index, ""};
    for (const cases::Skip& skip : c.skips)
      if ((skip.check.empty() || skip.check == check) && (!skip.dtype || *skip.dtype == dtype) &&
          (!skip.device || *skip.device == device))
        planned.skip_reason = skip.reason.empty() ? "(no reason given)" : skip.reason;
    all.push_back(std::move(planned));
  };
  for (const Dtype dtype : c.dtypes)
    for (std::size_t i = 0; i < c.samples.size(); ++i) {
      const Sample& sample = c.samples[i];
      const bool gradients = has_gradients(c, sample);
      if (device == DeviceKind::cpu && dtype == Dtype::f64) {
        if (sample.reference) add("reference", dtype, i);
        if (sample.reference && gradients && sample.kind != Kind::extreme) add("composite", dtype, i);
        if (gradients && sample.gradcheck && is_small(sample) && sample.kind != Kind::huge_mean)
          add("gradcheck", dtype, i);
      }
      add("forward", dtype, i);
      if (gradients) add("backward", dtype, i);
      if (device != DeviceKind::cpu) add("parity", dtype, i);
      if (is_small(sample)) {
        add("layouts", dtype, i);
        add("aliasing", dtype, i);
        if (gradients) add("accumulate", dtype, i);
      }
      // On the emulator three orders of a large case take long; the cpu needs one to have several chunks.
      if (sample.kind != Kind::empty && (sample.kind != Kind::large || device != DeviceKind::simt))
        add("repeat", dtype, i);
    }
  if (device == DeviceKind::simt)
    for (std::size_t f = 0; f < c.families.size(); ++f)
      if (!c.families[f].counted.empty())
        for (const Dtype dtype : c.families[f].dtypes) add("traffic", dtype, f);
  return all;
}

void run_check(const OpCase& c, Device device, const Planned& planned) {
  const std::string check = planned.check;
  const std::string what = check == "traffic" ? c.families[planned.index].suffix : c.samples[planned.index].name;
  SCOPED_TRACE(c.op + " " + check + " " + std::string(to_string(planned.dtype)) + " on " + device.str() + ": " + what);
  const std::int64_t overruns = MemoryGuard::overruns();
  try {
    if (check == "traffic") return check_traffic(c.families[planned.index], device, planned.dtype);
    const Sample& sample = c.samples[planned.index];
    const MemoryGuard guard;
    if (check == "reference") check_reference(sample);
    if (check == "composite") check_composite(sample);
    if (check == "gradcheck") check_gradcheck(sample);
    if (check == "forward") check_forward(sample, device, planned.dtype);
    if (check == "backward") check_backward(sample, device, planned.dtype);
    if (check == "parity") check_parity(c, sample, device, planned.dtype);
    if (check == "layouts") check_layouts(c, sample, device, planned.dtype);
    if (check == "aliasing") check_aliasing(c, sample, device, planned.dtype);
    if (check == "repeat") check_repeat(c, sample, device, planned.dtype);
    if (check == "accumulate") check_accumulate(sample, device, planned.dtype);
  } catch (const std::exception& error) { ADD_FAILURE() << "exception: " << error.what(); }
  EXPECT_EQ(MemoryGuard::overruns(), overruns) << "something was written beyond the end of a tensor";
}

std::string matrix() {
  std::string text =
      "# Every operation, and what is checked\n\n"
      "Each operation has one declarative case in `tests/cases/`; `tests/ops_test.cpp` puts it through the checks\n"
      "below on every device, the benchmarks and the traffic table measure its workloads. Written by\n"
      "`./run matrix > docs/ops.md`, compared by the tests. A number is how many samples go through the check on\n"
      "`cpu` / `simt` (and as many on `cuda` where there is one); `-` is a check that does not apply.\n\n";
  for (const CheckName& name : check_names()) text += fmt::format("- **{}**: {}\n", name.name, name.meaning);
  std::string header = "\n| operation | dtype |", line = "|---|---|";
  for (const CheckName& name : check_names()) {
    header += fmt::format(" {} |", name.name);
    line += "---|";
  }
  text += header + "\n" + line + "\n";
  std::int64_t total[2] = {0, 0}, skipped = 0;
  std::map<std::string, std::string> skips;
  for (const OpCase& c : cases::all_cases()) {
    std::map<std::pair<Dtype, std::string>, std::int64_t> counts[2];
    for (int d = 0; d < 2; ++d)
      for (const Planned& planned : planned_checks(c, d == 0 ? DeviceKind::cpu : DeviceKind::simt)) {
        if (!planned.skip_reason.empty()) {
          ++skipped;
          skips[c.op + ", " + planned.check] = planned.skip_reason;
          continue;
        }
        ++counts[d][{planned.dtype, planned.check}];
        ++total[d];
      }
    for (const Dtype dtype :
         {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i64, Dtype::i32, Dtype::u8, Dtype::boolean}) {
      std::string row = fmt::format("| {} | {} |", c.op, to_string(dtype));
      bool any = false;
      for (const CheckName& name : check_names()) {
        const std::int64_t cpu = counts[0][{dtype, name.name}], simt = counts[1][{dtype, name.name}];
        any = any || cpu + simt > 0;
        row += cpu + simt == 0 ? " - |" : fmt::format(" {}/{} |", cpu, simt);
      }
      if (any) text += row + "\n";
    }
  }
  text += fmt::format("\n{} operations; {} checks on the cpu, {} on simt.\n", cases::all_cases().size(), total[0],
                      total[1]);
  if (skipped > 0) {
    text += fmt::format("\n## What is left out\n\n{} checks, each with its reason:\n\n", skipped);
    for (const auto& [what, reason] : skips) text += fmt::format("- {}: {}\n", what, reason);
  }
  return text;
}

}  // namespace weft::test
