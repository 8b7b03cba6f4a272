#pragma once
// IDX, the file format of MNIST and its kin: a 4-byte magic number (0, 0, type code, number of dimensions), each extent as
// a big-endian 32-bit number, then the values in row-major order.
#include <filesystem>

#include "tensor/tensor.h"

namespace weft::data {

/// Reads an IDX file of unsigned bytes, plain or gzip (told apart by content, not by name), and trusts nothing in it.
/// Shapes:  a u8 tensor of the extents in the header, 1 to 4 dimensions; an extent may be 0.
/// Errors:  IoError naming the path, the value found and the remedy, for a file that is missing, cannot be read, is empty,
///          has a wrong magic number, another type than unsigned bytes, no or too many dimensions, more values than 2^63,
///          fewer or more bytes than its header declares; for gzip also a truncated or damaged stream, a wrong checksum,
///          several members, or anything behind the stream. For instance
///          "[read_idx] images.idx is truncated: its header [2, 28, 28] declares 1568 bytes of values but 1000 follow; get
///          the file anew".
/// Cost:    one pass; memory is allocated only after the header was found consistent with the file's size (for gzip, with
///          the most that deflate can expand it to).
/// Source:  Y. LeCun, C. Cortes, C. Burges, "The MNIST database", section "File formats"; gzip: RFC 1952.
Tensor read_idx(const std::filesystem::path& path);

}  // namespace weft::data
