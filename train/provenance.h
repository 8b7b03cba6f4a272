#pragma once
// What a result was made with.
#include <cstdint>
#include <string>

#include "nn/module.h"

namespace weft::train {

/// The commit that the library was built from, with "-dirty" behind when files differed; "unknown" outside of git.
std::string commit();
/// Processor, cores, operating system's kernel, compiler.
std::string machine();
/// The choices of this build and machine that can change the bits of a result on the cpu: the instruction set that the
/// kernels were compiled for, who multiplies matrices (oneDNN with its version and the instruction set it uses, or weft's own
/// kernel). The number of threads is none of them.
std::string variants();
/// A hash of a text, of names, shapes, dtypes and contents of tensors. They may lie on any device.
std::uint64_t hash_text(const std::string& text, std::uint64_t before = 0);
/// The hash of names, shapes and elements, from the hash of what came before.
std::uint64_t hash_tensors(const nn::NamedTensors& tensors, std::uint64_t before = 0);
/// 16 hexadecimal digits.
std::string hex(std::uint64_t hash);

}  // namespace weft::train
