#pragma once
// What the emulator's parts share: places in source code, three-dimensional indices, kinds of access.
#include <concepts>
#include <cstdint>
#include <source_location>

namespace weft::simt {

/// A place in a kernel's source. Functions that kernels call take it as a last, defaulted argument.
#ifdef __cpp_lib_source_location
using Site = std::source_location;
#else
// clang before 16 has no std::source_location with libstdc++.
class Site {
 public:
  static constexpr Site current(const char* file = __builtin_FILE(), const char* function = __builtin_FUNCTION(),
                                unsigned line = __builtin_LINE(), unsigned column = __builtin_COLUMN()) {
    Site site;
    site.file_ = file;
    site.function_ = function;
    site.line_ = line;
    site.column_ = column;
    return site;
  }
  constexpr const char* file_name() const { return file_; }
  constexpr const char* function_name() const { return function_; }
  constexpr unsigned line() const { return line_; }
  constexpr unsigned column() const { return column_; }

 private:
  const char* file_ = "";
  const char* function_ = "";
  unsigned line_ = 0, column_ = 0;
};
#endif

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  friend bool operator==(const Dim3&, const Dim3&) = default;
};

enum class Access : std::uint8_t { read, write, atomic };

/// An index that remembers where it was written down: what lets `tile[i]` name its line.
struct Index {
  template <std::integral I>
  Index(I index, Site where = Site::current())
      : value(static_cast<std::int64_t>(index)), site(where) {}  // NOLINT(google-explicit-constructor)
  std::int64_t value;
  Site site;
};

}  // namespace weft::simt
