#include "data/npz.h"

#include <unordered_set>

#include "data/npy.h"
#include "data/zip.h"

namespace weft::data {
namespace {

constexpr std::string_view kEnding = ".npy";

class EntrySource final : public npy::Source {
 public:
  EntrySource(const char* op, const InputFile& file, const ZipEntry& entry)
      : Source(op, file.name() + ": entry '" + entry.name + "'", entry.bytes), reader_(op, file, entry) {}
  std::int64_t read(void* out, std::int64_t count) override { return reader_.read(out, count); }
  void check_end() { reader_.check_end(); }

 private:
  ZipEntryReader reader_;
};

}  // namespace

NamedTensors load_npz(const std::filesystem::path& path, std::int64_t most_bytes) {
  constexpr const char* kOp = "load_npz";
  const ZipReader zip(kOp, path);
  std::int64_t left = most_bytes;
  for (const ZipEntry& entry : zip.entries()) {
    require<IoError>(entry.name.size() > kEnding.size() && entry.name.ends_with(kEnding), kOp,
                     "{}: entry '{}' is no array: names must end in .npy", path.string(), entry.name);
    require<IoError>(entry.bytes <= left, kOp, "{} unpacks to more than the {} bytes allowed: give a higher most_bytes",
                     path.string(), most_bytes);
    left -= entry.bytes;
  }
  NamedTensors tensors;
  for (const ZipEntry& entry : zip.entries()) {
    EntrySource source(kOp, zip.file(), entry);
    Tensor values = npy::read(source);
    source.check_end();
    tensors.emplace_back(entry.name.substr(0, entry.name.size() - kEnding.size()), std::move(values));
  }
  return tensors;
}

void save_npz(const std::filesystem::path& path, const NamedTensors& tensors, NpzCompression compression) {
  constexpr const char* kOp = "save_npz";
  std::unordered_set<std::string_view> names;
  for (const auto& [name, tensor] : tensors) {
    const std::string problem = zip_name_problem(name);
    require<OptionError>(problem.empty(), kOp, "the name '{}' {}: give another", name, problem);
    require<OptionError>(names.insert(name).second, kOp, "the name '{}' appears twice: give each tensor its own", name);
  }
  ZipWriter zip(kOp, path);
  for (const auto& [name, tensor] : tensors) {
    const Tensor values = npy::values_to_save(kOp, tensor);
    zip.add(name + std::string(kEnding), compression == NpzCompression::none ? ZipMethod::stored : ZipMethod::deflate,
            npy::header(values),
            {reinterpret_cast<const char*>(values.raw_data()), static_cast<std::size_t>(values.nbytes())});
  }
  zip.commit();
}

}  // namespace weft::data
