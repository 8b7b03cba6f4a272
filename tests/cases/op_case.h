#pragma once
// One declarative case per operation: what it is called with, what it must compute, and the extents worth measuring.
//   tests/ops_test.cpp   turns every case into the checks of docs/ops.md, on every dtype and device
//   bench/op_bench.cpp   times its workloads; bench/traffic.cpp counts what they move on the emulator
// A file <stem>_cases.cpp in this folder defines `std::vector<OpCase> <stem>_cases()`; CMake collects them all.
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace weft::cases {

using Tensors = std::vector<Tensor>;
using Extents = std::vector<std::int64_t>;

/// The operation under test, or its reference, as a function of the sample's inputs. An operation with several results
/// joins them; one that returns a Loss gives its sum. Pure: options are captured, constants are made on x[0]'s device,
/// random numbers come from a StepScope that the call opens itself.
using Call = std::function<Tensor(const Tensors& x)>;

/// How an input's elements are made: drawn in f64 from a seed and the position, then rounded to the dtype under test.
struct Input {
  enum class Fill : std::uint8_t {
    normal,    // mean a, standard deviation b
    uniform,   // [a, b)
    integers,  // a, a + 1, ..., b - 1, drawn
    listed,    // `values`, row-major, repeated until all is filled
  };
  Shape shape;
  Fill fill = Fill::normal;
  double a = 0, b = 1;
  std::vector<double> values = {};
  std::optional<Dtype> dtype = {};  // none: the dtype under test
  bool differentiable = true;       // asks for a gradient, where the dtype has one
  double terms = 0;                 // of the sum behind one element of its gradient; 0: the sample's
  double scale = 0;                 // size of the terms that its gradient is a difference of, where they may cancel:
                                    // errors are relative to at least that
};

Input normal(const Shape& shape, double mean = 0, double spread = 1);
Input uniform(const Shape& shape, double low, double high);
/// Class labels, indices: integers in [low, high), not differentiable.
Input integers(const Shape& shape, std::int64_t low, std::int64_t high, Dtype dtype = Dtype::i64);
Input listed(const Shape& shape, std::vector<double> values);
/// The same input, but its dtype is fixed / it asks for no gradient / its gradient sums so many terms.
Input with_dtype(Input input, Dtype dtype);
Input constant(Input input);
Input with_terms(Input input, double terms);
Input with_scale(Input input, double scale);

/// What a sample is there for; a check demands that a case has each kind that applies to it.
enum class Kind : std::uint8_t {
  usual,
  empty,      // no elements
  one,        // extents of 1
  odd,        // no multiple of any vector width
  large,      // several blocks of a kernel, several chunks of the thread pool
  huge_mean,  // mean 10⁶, spread 1: what one-pass statistics get wrong
  extreme,    // infinities, ±1e4, constant rows, all masked: not gradchecked
};

struct Sample {
  std::string name;  // "R=5 C=33", unique within the case
  Kind kind = Kind::usual;
  std::vector<Input> inputs = {};
  Call call = {};
  /// The same result from simple operations (or plain loops) in f64 on the cpu, independent of the kernel under test. One
  /// that records a graph is also what the gradients are compared with. May be empty where the case is exact by nature.
  Call reference = {};
  double terms = 1;  // of the longest sum behind one element of the result
  double scale = 0;  // size of the terms that the result is a difference of, as Input::scale
  /// How much larger than roundings of the operands and sums the error may be: the condition of the problem. State why.
  double amplification = 1;
  double reference_amplification = 1;  // the same for what the reference loses itself: x - mean where the mean is large
  double roundings = 1;   // roundings to the storage type between the inputs and a result, backward included
  bool gradcheck = true;  // smooth at these inputs, and small
  bool gradients = true;  // false: differentiable in general, but not here (an infinity)
};

/// The least that a call moves and computes.
struct Cost {
  double bytes = 0;
  double flops = 0;
};

/// A call worth measuring.
struct Workload {
  std::vector<Input> inputs;
  Call call;
  Cost forward;
  Cost backward = {};  // of the backward pass alone; no bytes: not measured
};

/// Workloads of one kind at several extents. Benchmarks are called <op><suffix>/<extents>, traffic rows
/// <op><suffix>_forward and <op><suffix>_backward, with _bf16 behind where that dtype is counted.
struct Family {
  std::string suffix = "";                // "", "_columns"
  std::vector<std::string> extents = {};  // {"R", "C"}
  /// The workload at these extents, for elements of so many bytes. Every input is read once, every output written once;
  /// small operands that all blocks share count once.
  std::function<Workload(const Extents& e, double element_bytes)> make = {};
  std::vector<Extents> timed = {};    // for the benchmark
  std::vector<Extents> counted = {};  // for the emulator: at most a few 10⁵ elements. The first is the table's
  Extents small = {};                 // for a debugger: a few blocks with a ragged end; default: 30 x 70 ...
  std::vector<Dtype> dtypes = {Dtype::f32};
  bool memory_bound = true;  // else only bank conflicts are judged
  enum class Passes : std::uint8_t { both, forward, backward } passes = Passes::both;  // those that are counted
};

enum class Tier : std::uint8_t {
  mission,      // linear, the norms, softmax, cross-entropy, matmul: every check, mutants, counted workloads
  elementwise,  // one templated case: kernels/elementwise.*
  other,        // reductions, movement of elements, losses
};

/// A check that a case does not pass through, and why. An empty field stands for all.
struct Skip {
  std::string check;
  std::optional<Dtype> dtype = {};
  std::optional<DeviceKind> device = {};
  std::string reason;
};

struct OpCase {
  std::string op;    // its name in tests and tables: "layer_norm"
  std::string stem;  // of its kernels, and so of its mutants: "layer_norm", "elementwise"
  Tier tier = Tier::other;
  std::vector<std::string> functions;  // the public functions of autograd/ that it proves: {"layer_norm"}
  std::vector<Sample> samples = {};
  std::vector<Family> families = {};
  std::vector<Dtype> dtypes = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};
  bool differentiable = true;
  bool exact = false;  // moves elements, or rounds once: bit for bit the same on every device
  bool view = false;   // the result shares the input's memory
  std::vector<Skip> skips = {};
};

/// The inputs of a sample on the cpu, rounded to `dtype`. Input i of a given seed is the same for every dtype up to
/// rounding.
Tensors make_inputs(const std::vector<Input>& inputs, Dtype dtype, std::uint64_t seed = 1);

/// Every case of this folder, in the order of their files. Made once.
const std::vector<OpCase>& all_cases();
/// Forces a look at all names: throws Error naming a duplicate.
const OpCase& find_case(const std::string& op);

}  // namespace weft::cases
