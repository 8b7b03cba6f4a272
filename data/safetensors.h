#pragma once
// The safetensors format: named tensors and a few strings in one file. Eight bytes say how long the header is, the header is
// a JSON object {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}, the values follow without gaps.
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "data/npz.h"

namespace weft::data {

/// What a safetensors file holds.
struct SafeTensors {
  NamedTensors tensors;  // in the order in which their values lie in the file
  std::map<std::string, std::string> metadata;
};

/// Reads a safetensors file and trusts nothing in it.
/// Shapes:  at most 8 dimensions; an extent may be 0.
/// Types:   F64 F32 F16 BF16 I64 I32 U8 BOOL give f64, f32, f16, bf16, i64, i32, u8, bool, on the cpu.
/// Errors:  IoError naming the path, what was wrong, the value found and the remedy, for a file that is missing, cannot be
///          read or has fewer than 8 bytes; a header of more than 100 MB, beyond the file's end, that does not start with '{',
///          is no valid UTF-8 or JSON, or has anything but blanks behind its '}'; a name that appears twice, in the header
///          or in an entry; more than a million names, or one of more than 4096 bytes; metadata that are not strings; an entry
///          with other keys than dtype, shape and data_offsets, each once; another dtype; extents and offsets that are not
///          whole numbers in [0, 2^63); values whose size is not that of their shape, that overlap, leave a gap, or do not
///          fill the file to its end; a bool that is neither 0 nor 1. For instance "[load_safetensors] w.safetensors: the
///          tensor 'a' F32 [2, 3] needs 24 bytes but its data_offsets [0, 20] give 20; get the file anew". NaN is a value
///          like any other.
/// Cost:    one pass; memory for the values is allocated only after the whole header was found consistent with the file's
///          size. 100 000 entries take about a tenth of a second.
/// Source:  github.com/huggingface/safetensors, README and safetensors/src/tensor.rs. Stricter in this: blanks in front of
///          the header are refused, as the format's text has it.
SafeTensors load_safetensors(const std::filesystem::path& path);

/// The metadata alone. The header is checked as in load_safetensors; no value is read. Errors: as there.
std::map<std::string, std::string> load_safetensors_metadata(const std::filesystem::path& path);

/// Writes a file that load_safetensors and every other reader of the format reads back bit by bit: wide types first, then by
/// name, the header padded with blanks to a multiple of 8 bytes. The bytes do not depend on the order of `tensors`.
/// Layout:  any; from another device the values are copied to the cpu first, and what the device has reported is thrown.
/// Grad:    none: the values are written.
/// Errors:  OptionError for a name that appears twice, is "__metadata__", is no valid UTF-8 or has more than 4096 bytes;
///          IoError when the file cannot be written. An existing file is replaced as a whole or, when anything fails, not at
///          all.
void save_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                      const std::map<std::string, std::string>& metadata = {});

/// A safetensors file that lies in memory; `name` stands in messages for its path. Errors: as load_safetensors.
SafeTensors parse_safetensors(const std::string& name, std::string_view bytes);

}  // namespace weft::data
