#include "train/provenance.h"

#include <fstream>
#include <thread>

#include <sys/utsname.h>

#include "commit.h"
#include "data/fingerprint.h"

#if defined(WEFT_ONEDNN)
#include <dnnl.h>
#endif

namespace weft::train {
namespace {

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const auto colon = line.find(':');
    if (colon != std::string::npos && line.compare(0, 10, "model name") == 0 && colon + 2 < line.size())
      return line.substr(colon + 2);
  }
  return "unknown processor";
}

const char* instruction_set() {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  return "x86-64-v4";
#elif defined(__AVX2__) && defined(__FMA__)
  return "x86-64-v3";
#elif defined(__SSE4_2__)
  return "x86-64-v2";
#else
  return "default";
#endif
}

}  // namespace

std::string commit() { return WEFT_COMMIT; }

std::string machine() {
  utsname system{};
  const bool known = ::uname(&system) == 0;
  return fmt::format("{}, {} cores, {} {}, {}", processor(), std::thread::hardware_concurrency(),
                     known ? system.sysname : "unknown system", known ? system.release : "",
#if defined(__clang__)
                     "clang " __clang_version__
#else
                     "g++ " __VERSION__
#endif
  );
}

std::string variants() {
  std::string text = fmt::format("isa {}", instruction_set());
#if defined(WEFT_ONEDNN)
  const dnnl_version_t* version = dnnl_version();
  text += fmt::format(", matmul oneDNN {}.{}.{} isa {:#x}", version->major, version->minor, version->patch,
                      static_cast<unsigned>(dnnl_get_effective_cpu_isa()));
#else
  text += ", matmul own";
#endif
  return text;
}

std::uint64_t hash_text(const std::string& text, std::uint64_t before) {
  std::uint64_t hash = data::hash_combine(before, text.size());
  for (const char c : text) hash = data::hash_combine(hash, static_cast<unsigned char>(c));
  return hash;
}

std::uint64_t hash_tensors(const nn::NamedTensors& tensors, std::uint64_t before) {
  std::uint64_t hash = data::hash_combine(before, tensors.size());
  for (const auto& [name, tensor] : tensors) {
    hash = hash_text(name, hash);
    Tensor copy = tensor;
    if (tensor.device() != Device{}) {
      copy = Tensor::empty(tensor.shape(), tensor.dtype());
      copy.copy_bytes_from(tensor);
    }
    hash = data::hash_combine(hash, data::hash_tensor(copy));
  }
  return hash;
}

std::string hex(std::uint64_t hash) { return fmt::format("{:016x}", hash); }

}  // namespace weft::train
