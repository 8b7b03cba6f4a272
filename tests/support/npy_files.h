#pragma once
// Npy files made by hand, NumPy's values (tests/golden/make_numpy.py), and NumPy itself where it is installed.
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "autograd/cast.h"
#include "support/compare.h"
#include "support/idx_files.h"
#include "tensor/tensor.h"

namespace weft::test {

/// An npy file of version `major`.0 with this header text, a line feed behind it, and these values.
inline std::string npy_bytes(const std::string& header, const std::string& values, char major = 1) {
  std::string bytes = std::string("\x93NUMPY") + major + '\0';
  const std::size_t length = header.size() + 1;
  for (int i = 0; i < (major == 1 ? 2 : 4); ++i) bytes += static_cast<char>(length >> (8 * i) & 0xff);
  return bytes + header + '\n' + values;
}

inline std::string file_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// What make_numpy.py writes: element i is (i - 3) / 4 for floats, 3 i - 4 for integers, 37 i mod 256 for u8, i mod 3 == 0.
inline Tensor numpy_values(const Shape& shape, Dtype dtype) {
  std::vector<double> numbers;
  for (std::int64_t i = 0; i < shape.numel(); ++i)
    numbers.push_back(dtype == Dtype::boolean ? static_cast<double>(i % 3 == 0)
                      : dtype == Dtype::u8    ? static_cast<double>(37 * i % 256)
                      : is_floating(dtype)    ? static_cast<double>(i - 3) / 4
                                              : static_cast<double>(3 * i - 4));
  return cast(Tensor::from_vector(numbers, shape), dtype);
}

/// The python that has NumPy, or empty.
inline std::string python_with_numpy() {
  for (const char* python : {"python3", "/usr/bin/python3"})
    if (std::system((std::string(python) + " -c 'import numpy' >/dev/null 2>&1").c_str()) == 0) return python;
  return "";
}

}  // namespace weft::test
