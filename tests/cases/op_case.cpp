#include "cases/op_case.h"

#include <algorithm>

#include "autograd/cast.h"
#include "tensor/philox.h"

namespace weft::cases {

Input normal(const Shape& shape, double mean, double spread) {
  return {.shape = shape, .fill = Input::Fill::normal, .a = mean, .b = spread};
}
Input uniform(const Shape& shape, double low, double high) {
  return {.shape = shape, .fill = Input::Fill::uniform, .a = low, .b = high};
}
Input integers(const Shape& shape, std::int64_t low, std::int64_t high, Dtype dtype) {
  return {.shape = shape,
          .fill = Input::Fill::integers,
          .a = static_cast<double>(low),
          .b = static_cast<double>(high),
          .dtype = dtype,
          .differentiable = false};
}
Input listed(const Shape& shape, std::vector<double> values) {
  return {.shape = shape, .fill = Input::Fill::listed, .values = std::move(values)};
}
Input with_dtype(Input input, Dtype dtype) {
  input.dtype = dtype;
  return input;
}
Input constant(Input input) {
  input.differentiable = false;
  return input;
}
Input with_terms(Input input, double terms) {
  input.terms = terms;
  return input;
}

Input with_scale(Input input, double scale) {
  input.scale = scale;
  return input;
}

Tensors make_inputs(const std::vector<Input>& inputs, Dtype dtype, std::uint64_t seed) {
  Tensors tensors;
  tensors.reserve(inputs.size());
  for (std::size_t n = 0; n < inputs.size(); ++n) {
    const Input& input = inputs[n];
    // Streams that randn() does not draw from: what gradients are projected on must not be the input itself.
    Philox random(seed, RandomUse::user, static_cast<std::uint32_t>(n + 1000));
    std::vector<double> values(static_cast<std::size_t>(input.shape.numel()));
    for (std::size_t i = 0; i < values.size(); ++i) switch (input.fill) {
        case Input::Fill::normal: values[i] = input.a + input.b * random.normal(); break;
        case Input::Fill::uniform: values[i] = input.a + (input.b - input.a) * random.uniform(); break;
        case Input::Fill::integers: values[i] = std::floor(input.a + (input.b - input.a) * random.uniform()); break;
        case Input::Fill::listed: values[i] = input.values[i % input.values.size()]; break;
      }
    tensors.push_back(cast(Tensor::from_vector(values, input.shape), input.dtype.value_or(dtype)));
  }
  return tensors;
}

std::vector<OpCase> collect_cases();  // generated from the names of the files

const std::vector<OpCase>& all_cases() {
  static const std::vector<OpCase> kCases = [] {
    std::vector<OpCase> all = collect_cases();
    std::vector<std::string> names;
    for (const OpCase& c : all) {
      require(std::find(names.begin(), names.end(), c.op) == names.end(), "cases", "two cases are called '{}'", c.op);
      names.push_back(c.op);
    }
    return all;
  }();
  return kCases;
}

const OpCase& find_case(const std::string& op) {
  for (const OpCase& c : all_cases())
    if (c.op == op) return c;
  fail("cases", "no case is called '{}'", op);
}

}  // namespace weft::cases
