#pragma once
// What goes wrong is an exception with a typed class and a message that reads "[op] rule, with the value at hand".
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/core.h>

namespace weft {

/// Base of everything that weft throws. A failed call leaves its objects as they were before the call.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A shape, index, stride or element count that does not fit the operation.
class ShapeError : public Error {
 public:
  using Error::Error;
};

/// A dtype that the operation does not take.
class DtypeError : public Error {
 public:
  using Error::Error;
};

/// A device that is absent, not built in, or not the one the other operands live on.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// A wrong use of the graph: backward through a released graph, a saved tensor that was modified in place, mixed windows.
class AutogradError : public Error {
 public:
  using Error::Error;
};

/// A value that a user gave (option, configuration, hyper-parameter) and that cannot be used.
class OptionError : public Error {
 public:
  using Error::Error;
};

/// A file that is missing, unreadable, or not what its format promises.
class IoError : public Error {
 public:
  using Error::Error;
};

/// Memory ran out. The numbers are those at the moment of the failure; nothing was changed by the failed call.
class OutOfMemory : public Error {
 public:
  OutOfMemory(const std::string& what, std::int64_t requested_bytes, std::int64_t current_bytes,
              std::int64_t cached_bytes)
      : Error(what), requested_bytes(requested_bytes), current_bytes(current_bytes), cached_bytes(cached_bytes) {}
  std::int64_t requested_bytes;
  std::int64_t current_bytes;  // handed out and still in use
  std::int64_t cached_bytes;   // held by the allocator for reuse (0 after the flush that precedes this error)
};

/// Throws E with the message "[op] <formatted>".
template <class E = Error, class... Args>
[[noreturn]] void fail(std::string_view op, fmt::format_string<Args...> format, Args&&... args) {
  throw E(fmt::format("[{}] {}", op, fmt::format(format, std::forward<Args>(args)...)));
}

/// Throws E with the message "[op] <formatted>" unless `ok`. Arguments are formatted only on failure.
template <class E = Error, class... Args>
void require(bool ok, std::string_view op, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) [[unlikely]]
    fail<E>(op, format, std::forward<Args>(args)...);
}

}  // namespace weft
