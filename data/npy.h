#pragma once
// NumPy's file format for one array: a magic number, a version, a header that is a Python dictionary literal, the values.
#include <filesystem>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace weft::data {

/// Reads an array that NumPy (or save_npy) wrote, and trusts nothing in it: the header is read by a parser that knows three
/// keys and no Python.
/// Shapes:  those of the header, at most 8 dimensions; an extent may be 0.
/// Types:   <f2 <f4 <f8 <i4 <i8 |u1 |b1 give f16, f32, f64, i32, i64, u8, bool, on the cpu.
/// Layout:  an array in Fortran's order comes as a transposed view; everything else is contiguous.
/// Errors:  IoError naming the path, what was wrong, the value found and the remedy, for a file that is missing, cannot be
///          read, has a wrong magic number, a version other than 1.0, 2.0 and 3.0, a header of more than 64 KiB or beyond the
///          file's end or with anything but the keys descr, fortran_order and shape, another dtype (big-endian numbers,
///          Python objects, records, strings, ...), more values than any memory holds, fewer or more bytes than declared, or a
///          bool that is neither 0 nor 1. For instance "[load_npy] w.npy is truncated: its header [2, 3] <f4 declares 24 bytes
///          of values but 20 follow; get the file anew".
/// Cost:    one pass; memory is allocated only after the header was found consistent with the file's size.
/// Source:  numpy.lib.format, versions 1.0 to 3.0 (NEP 1).
Tensor load_npy(const std::filesystem::path& path);

/// Writes a tensor so that numpy.load and load_npy read it back bit by bit: version 1.0 (with at most 8 extents the header
/// always fits), values at a multiple of 64 bytes, C order, little-endian.
/// Layout:  any; from another device the values are copied to the cpu first, and what the device has reported is thrown.
/// Grad:    none: the values are written.
/// Errors:  DtypeError for bf16, which NumPy has not: cast it to f32, which holds every bf16 exactly; IoError when the file
///          cannot be written. An existing file is replaced as a whole or, when anything fails, not at all.
void save_npy(const std::filesystem::path& path, const Tensor& tensor);

/// What load_npz shares with load_npy.
namespace npy {

/// The bytes of one npy file, wherever they lie.
class Source {
 public:
  /// `op` and `name` go into messages; `bytes` is how many there are.
  Source(const char* op, std::string name, std::int64_t bytes) : op(op), name(std::move(name)), bytes(bytes) {}
  virtual ~Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  /// The next `count` bytes; fewer only at the end.
  virtual std::int64_t read(void* out, std::int64_t count) = 0;

  const char* const op;
  const std::string name;
  const std::int64_t bytes;
};

/// The tensor in `source`, which must hold nothing else.
Tensor read(Source& source);
/// The dense values of `tensor` on the cpu. Errors: as save_npy, in the name of `op`.
Tensor values_to_save(const char* op, const Tensor& tensor);
/// The bytes before the values.
std::string header(const Tensor& tensor);

}  // namespace npy
}  // namespace weft::data
