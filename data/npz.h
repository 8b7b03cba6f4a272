#pragma once
// NumPy's file format for several named arrays: a zip archive with one npy file per array.
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace weft::data {

/// Tensors with names, in the order of a file.
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// Reads what numpy.savez, numpy.savez_compressed or save_npz wrote, and trusts nothing in it. Of zip it reads what these write:
/// entries that are stored or deflated, with zip64 sizes or without. The entries and the directory must fill the file without
/// a gap or an overlap, so that there is one way only to understand it.
/// Types:   as load_npy.
/// Params:  most_bytes: refuses a file whose arrays take more than that in all, unpacked, before any is read. A small file can
///          unpack to the 1032-fold, hence give a limit for files from strangers.
/// Errors:  IoError naming the path and the entry, for all that load_npy refuses, and for: no zip or a truncated one; an archive
///          comment; encryption; a method other than stored and deflate; data descriptors; sizes, offsets or a number of
///          entries that do not fit the file, each other, or zip64's fields; names that appear twice, do not end in .npy, are
///          absolute or have "..", a backslash or control characters in them; more bytes than deflate can pack; wrong CRC-32;
///          damaged deflate data.
/// Cost:    one pass; memory is allocated only after an entry's npy header was found consistent with the entry's size, and that
///          with its packed size.
/// Source:  PKWARE APPNOTE.TXT 6.3.10; deflate: RFC 1951.
NamedTensors load_npz(const std::filesystem::path& path,
                      std::int64_t most_bytes = std::numeric_limits<std::int64_t>::max());

/// Whether save_npz packs: none as numpy.savez, deflate as numpy.savez_compressed.
enum class NpzCompression : std::uint8_t { none, deflate };

/// Writes tensors so that numpy.load and load_npz read them back bit by bit; the same tensors give the same bytes (entries
/// carry no time). Layout, Grad, Errors as save_npy; also OptionError for a name that load_npz would refuse or that appears
/// twice. Entries of 4 GiB and more get zip64 sizes.
void save_npz(const std::filesystem::path& path, const NamedTensors& tensors,
              NpzCompression compression = NpzCompression::none);

}  // namespace weft::data
