#include "data/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <unordered_set>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "autograd/cast.h"
#include "autograd/layout.h"
#include "data/file.h"
#include "tensor/status.h"

namespace weft::data {
namespace {

static_assert(std::endian::native == std::endian::little, "values are read and written as they lie in memory");

using Json = nlohmann::json;

constexpr const char* kLoad = "load_safetensors";
constexpr std::string_view kMetadata = "__metadata__";
constexpr std::int64_t kMostHeaderBytes = 100'000'000, kMostNames = 1'000'000, kAlignment = 8;
constexpr std::size_t kMostNameBytes = 4096;

/// A dtype, the format's word for it, and its place among others in a file, widest first.
struct DtypeName {
  Dtype dtype;
  std::string_view name;
};
constexpr DtypeName kDtypes[] = {{Dtype::i64, "I64"}, {Dtype::f64, "F64"},     {Dtype::f32, "F32"},
                                 {Dtype::i32, "I32"}, {Dtype::bf16, "BF16"},   {Dtype::f16, "F16"},
                                 {Dtype::u8, "U8"},   {Dtype::boolean, "BOOL"}};

const DtypeName* find(Dtype dtype) {
  return std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const DtypeName& d) { return d.dtype == dtype; });
}

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 60))
    if (c >= ' ' && c <= '~')
      out += c;
    else
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return text.size() > 60 ? out + "..." : out;
}

/// The bytes of one file, wherever they lie.
class Source {
 public:
  Source(std::string name, std::int64_t bytes) : name(std::move(name)), bytes(bytes) {}
  virtual ~Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  /// Copies `count` bytes from offset `at`, which lie inside. Fewer only when the file shrank.
  virtual std::int64_t read_at(std::int64_t at, void* out, std::int64_t count) const = 0;

  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail<IoError>(kLoad, "{}: {}", name, fmt::format(format, std::forward<Args>(args)...));
  }
  void read(std::int64_t at, void* out, std::int64_t count) const {
    const std::int64_t got = read_at(at, out, count);
    if (got != count) refuse("it had {} bytes but ends at {}: it was changed while it was read", bytes, at + got);
  }

  const std::string name;
  const std::int64_t bytes;
};

class FileSource final : public Source {
 public:
  explicit FileSource(const InputFile& file) : Source(file.name(), file.bytes()), file_(file) {}
  std::int64_t read_at(std::int64_t at, void* out, std::int64_t count) const override {
    return file_.read_at(at, out, count);
  }

 private:
  const InputFile& file_;
};

class MemorySource final : public Source {
 public:
  MemorySource(const std::string& name, std::string_view bytes)
      : Source(name, static_cast<std::int64_t>(bytes.size())), bytes_(bytes) {}
  std::int64_t read_at(std::int64_t at, void* out, std::int64_t count) const override {
    if (count > 0) std::memcpy(out, bytes_.data() + at, static_cast<std::size_t>(count));
    return count;
  }

 private:
  std::string_view bytes_;
};

struct Entry {
  std::string name;
  Dtype dtype = Dtype::f32;
  Shape shape;
  std::int64_t begin = 0, end = 0;  // places of the values, from the end of the header
};

struct Header {
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
  std::int64_t values = 0;  // offset of the first value in the file
};

/// Takes the header's JSON as a stream of events and refuses, at the event, whatever the format does not have there: a tree
/// built first would keep only the last of two equal keys, and could be made as deep as the header is long.
class HeaderEvents final : public nlohmann::json_sax<Json> {
 public:
  HeaderEvents(const Source& source, Header& header) : source_(source), header_(header) {}

  bool start_object(std::size_t /*elements*/) override {
    if (level_ == Level::outside)
      level_ = Level::top;
    else if (level_ == Level::top && in_metadata_)
      level_ = Level::metadata;
    else if (level_ == Level::top)
      level_ = Level::entry;
    else
      unexpected("an object");
    return true;
  }
  bool key(std::string& text) override {
    if (level_ == Level::top) {
      if (text.size() > kMostNameBytes)
        source_.refuse("the name '{}' has {} bytes but at most {} are read", printable(text), text.size(),
                       kMostNameBytes);
      if (!names_.insert(text).second)
        source_.refuse(
            "the name '{}' appears twice in its header, so that readers differ in what they see; get the file anew",
            printable(text));
      if (static_cast<std::int64_t>(names_.size()) > kMostNames)
        source_.refuse("it has more than {} names in its header", kMostNames);
      in_metadata_ = text == kMetadata;
      name_ = std::move(text);
      dtype_.reset();
      shape_.reset();
      offsets_.reset();
    } else if (level_ == Level::metadata) {
      if (header_.metadata.contains(text))
        source_.refuse("the name '{}' appears twice in its metadata; get the file anew", printable(text));
      key_ = std::move(text);
    } else {
      const bool again =
          (text == "dtype" && dtype_) || (text == "shape" && shape_) || (text == "data_offsets" && offsets_);
      if (again) source_.refuse("the tensor '{}' has '{}' twice; get the file anew", printable(name_), text);
      if (text != "dtype" && text != "shape" && text != "data_offsets")
        source_.refuse("the tensor '{}' has the key '{}' but must have dtype, shape and data_offsets only",
                       printable(name_), printable(text));
      key_ = std::move(text);
    }
    return true;
  }
  bool end_object() override {
    if (level_ == Level::entry) finish_entry();
    level_ = level_ == Level::top ? Level::outside : Level::top;
    in_metadata_ = false;
    return true;
  }
  bool start_array(std::size_t /*elements*/) override {
    if (level_ != Level::entry || key_ == "dtype") unexpected("a list");
    level_ = Level::list;
    numbers_.clear();
    return true;
  }
  bool end_array() override {
    level_ = Level::entry;
    if (key_ == "shape") {
      shape_.emplace();
      for (const std::int64_t extent : numbers_) shape_->push_back(extent);
    } else {
      if (numbers_.size() != 2)
        source_.refuse("the tensor '{}' has {} data_offsets but must have 2; get the file anew", printable(name_),
                       numbers_.size());
      offsets_ = {numbers_[0], numbers_[1]};
    }
    return true;
  }
  bool string(std::string& text) override {
    if (level_ == Level::metadata) {
      header_.metadata.emplace(std::move(key_), std::move(text));
    } else if (level_ == Level::entry && key_ == "dtype") {
      const auto* const known =
          std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const DtypeName& d) { return d.name == text; });
      if (known == std::end(kDtypes))
        source_.refuse(
            "the tensor '{}' has the dtype '{}' but must have one of F64 F32 F16 BF16 I64 I32 U8 BOOL: convert it",
            printable(name_), printable(text));
      dtype_ = known->dtype;
    } else {
      unexpected("the text '" + printable(text) + "'");
    }
    return true;
  }
  bool number_unsigned(std::uint64_t value) override {
    if (level_ != Level::list) unexpected(fmt::format("the number {}", value));
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      source_.refuse("the tensor '{}' has the number {} in its {} but at most 2^63 - 1 is read; get the file anew",
                     printable(name_), value, key_);
    const std::size_t most = key_ == "shape" ? static_cast<std::size_t>(Shape::kMaxRank) : 2;
    if (numbers_.size() == most) {
      if (key_ == "shape") source_.refuse("the tensor '{}' has more than {} dimensions", printable(name_), most);
      source_.refuse("the tensor '{}' has more than 2 data_offsets; get the file anew", printable(name_));
    }
    numbers_.push_back(static_cast<std::int64_t>(value));
    return true;
  }
  bool number_integer(std::int64_t value) override {
    unexpected(fmt::format("the number {}", value));
  }  // negative, or -0
  bool number_float(double /*value*/, const std::string& text) override { unexpected("the number " + printable(text)); }
  bool null() override { unexpected("null"); }
  bool boolean(bool value) override { unexpected(value ? "true" : "false"); }
  bool binary(Json::binary_t& /*value*/) override { unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& error) override {
    // nlohmann's text in front of what it found: "[json.exception.parse_error.101] parse error at line 1, column 9: ..."
    const std::string what = error.what();
    const std::size_t at = what.find(": ");
    source_.refuse("its header is no valid JSON at byte {}: {}; get the file anew", position,
                   printable(at == std::string::npos ? what : what.substr(at + 2)));
  }

 private:
  enum class Level : std::uint8_t { outside, top, metadata, entry, list };

  [[noreturn]] void unexpected(const std::string& found) const {
    switch (level_) {
      case Level::outside: source_.refuse("its header must be an object but is {}; get the file anew", found);
      case Level::top:
        source_.refuse("'{}' must be an object in its header but is {}; get the file anew", printable(name_), found);
      case Level::metadata: source_.refuse("the metadata '{}' must be a string but is {}", printable(key_), found);
      case Level::entry:
        source_.refuse("the tensor '{}' must have {} as its {} but has {}; get the file anew", printable(name_),
                       key_ == "dtype" ? "a word" : "a list", key_, found);
      default:
        source_.refuse("the tensor '{}' must have whole numbers from 0 up in its {} but has {}; get the file anew",
                       printable(name_), key_, found);
    }
  }
  void finish_entry() {
    const auto there = [&](bool found, std::string_view key) {
      if (!found) source_.refuse("the tensor '{}' has no '{}'; get the file anew", printable(name_), key);
    };
    there(dtype_.has_value(), "dtype");
    there(shape_.has_value(), "shape");
    there(offsets_.has_value(), "data_offsets");
    header_.entries.push_back({std::move(name_), *dtype_, *shape_, (*offsets_)[0], (*offsets_)[1]});
  }

  const Source& source_;
  Header& header_;
  Level level_ = Level::outside;
  bool in_metadata_ = false;
  std::unordered_set<std::string> names_;
  std::string name_, key_;
  std::optional<Dtype> dtype_;
  std::optional<Shape> shape_;
  std::optional<std::array<std::int64_t, 2>> offsets_;
  std::vector<std::int64_t> numbers_;
};

std::string_view word(Dtype dtype) { return find(dtype)->name; }

/// Each tensor's values have the size of its shape, and together they fill the file from the header's end to its own.
void check_places(const Source& source, Header& header) {
  std::sort(header.entries.begin(), header.entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  std::int64_t at = 0;
  for (const Entry& e : header.entries) {
    std::int64_t count = 1, bytes = 0;
    bool empty = false;
    for (const std::int64_t extent : e.shape) {
      empty = empty || extent == 0;
      // An extent of 0 does not excuse the others: strides are products of them.
      if (__builtin_mul_overflow(count, std::max<std::int64_t>(extent, 1), &count))
        source.refuse("the tensor '{}' has the shape {}: more values than any memory holds; get the file anew",
                      printable(e.name), e.shape);
    }
    if (__builtin_mul_overflow(count, element_bytes(e.dtype), &bytes))
      source.refuse("the tensor '{}' has the shape {}: more values than any memory holds; get the file anew",
                    printable(e.name), e.shape);
    if (empty) bytes = 0;
    if (e.end < e.begin)
      source.refuse("the tensor '{}' has data_offsets [{}, {}] that run backwards; get the file anew",
                    printable(e.name), e.begin, e.end);
    if (e.end - e.begin != bytes)
      source.refuse("the tensor '{}' {} {} needs {} bytes but its data_offsets [{}, {}] give {}; get the file anew",
                    printable(e.name), word(e.dtype), e.shape, bytes, e.begin, e.end, e.end - e.begin);
    if (e.begin != at)
      source.refuse("the tensor '{}' begins at {} but the values before it end at {}: {}; get the file anew",
                    printable(e.name), e.begin, at, e.begin < at ? "they overlap" : "there is a gap");
    at = e.end;
  }
  const std::int64_t following = source.bytes - header.values;
  if (at > following)
    source.refuse("it is truncated: its header declares {} bytes of values but {} follow; get the file anew", at,
                  following);
  if (at < following)
    source.refuse("it has trailing bytes: its header declares {} bytes of values but {} follow; get the file anew", at,
                  following);
}

Header read_header(const Source& source) {
  if (source.bytes < 8)
    source.refuse("it has {} bytes but needs 8 for the header's length; get the file anew", source.bytes);
  std::uint64_t length = 0;
  source.read(0, &length, 8);
  if (length > static_cast<std::uint64_t>(kMostHeaderBytes))
    source.refuse("its header has {} bytes but at most {} are read; it may be no safetensors file", length,
                  kMostHeaderBytes);
  Header header;
  header.values = 8 + static_cast<std::int64_t>(length);
  if (header.values > source.bytes)
    source.refuse("it is truncated: its header needs {} bytes but {} follow; get the file anew", length,
                  source.bytes - 8);
  std::string text(length, '\0');
  source.read(8, text.data(), static_cast<std::int64_t>(length));

  if (text.empty() || text[0] != '{')
    source.refuse("its header must start with '{{' but starts with '{}'; get the file anew",
                  printable(std::string_view(text).substr(0, 1)));
  const std::size_t last = text.find_last_not_of(' ');
  if (text[last] != '}')
    source.refuse("its header must end with '}}' and blanks but ends with '{}'; get the file anew",
                  printable(std::string_view(text).substr(last, 1)));
  const std::size_t zero = text.find('\0');  // for the parser the end of the text
  if (zero != std::string::npos)
    source.refuse("its header is no valid JSON at byte {}: a zero byte; get the file anew", zero + 1);
  HeaderEvents events(source, header);
  Json::sax_parse(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(last) + 1, &events);
  check_places(source, header);
  return header;
}

SafeTensors read(const Source& source) {
  Header header = read_header(source);
  SafeTensors result;
  result.metadata = std::move(header.metadata);
  result.tensors.reserve(header.entries.size());
  for (Entry& e : header.entries) {
    Tensor values = Tensor::empty(e.shape, e.dtype);
    source.read(header.values + e.begin, values.raw_data(), e.end - e.begin);
    if (e.dtype == Dtype::boolean) {
      const auto* bytes = reinterpret_cast<const unsigned char*>(values.raw_data());
      for (std::int64_t i = 0; i < e.end - e.begin; ++i)
        if (bytes[i] > 1)
          source.refuse("the tensor '{}' has the byte 0x{:02x} as bool number {}: must be 0 or 1", printable(e.name),
                        bytes[i], i);
    }
    result.tensors.emplace_back(std::move(e.name), std::move(values));
  }
  return result;
}

/// A JSON string. Errors: OptionError for what is no UTF-8.
std::string quoted(const char* op, const std::string& text, std::string_view what) {
  try {
    return Json(text).dump();
  } catch (const Json::type_error&) {
    fail<OptionError>(op, "the {} '{}' is no valid UTF-8: give another", what, printable(text));
  }
}

}  // namespace

SafeTensors load_safetensors(const std::filesystem::path& path) {
  const InputFile file(kLoad, path);
  return read(FileSource(file));
}

std::map<std::string, std::string> load_safetensors_metadata(const std::filesystem::path& path) {
  const InputFile file(kLoad, path);
  return read_header(FileSource(file)).metadata;
}

SafeTensors parse_safetensors(const std::string& name, std::string_view bytes) {
  return read(MemorySource(name, bytes));
}

void save_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                      const std::map<std::string, std::string>& metadata) {
  constexpr const char* kOp = "save_safetensors";
  std::vector<const NamedTensors::value_type*> order;
  for (const auto& named : tensors) {
    const auto& [name, tensor] = named;
    require(tensor.defined(), kOp, "the tensor '{}' is undefined", printable(name));
    require<OptionError>(name != kMetadata && name.size() <= kMostNameBytes, kOp,
                         "a name must have at most {} bytes and not be {} but is '{}': give another", kMostNameBytes,
                         kMetadata, printable(name));
    order.push_back(&named);
  }
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(find(a->second.dtype()), std::string_view(a->first)) <
           std::pair(find(b->second.dtype()), std::string_view(b->first));
  });

  std::string header = "{";
  if (!metadata.empty()) {
    header += fmt::format("\"{}\":{{", kMetadata);
    for (const auto& [key, value] : metadata)
      header +=
          fmt::format("{}{}:{}", header.back() == '{' ? "" : ",", quoted(kOp, key, "name"), quoted(kOp, value, "text"));
    header += '}';
  }
  std::unordered_set<std::string_view> names;
  std::int64_t at = 0;
  for (const auto* named : order) {
    const auto& [name, tensor] = *named;
    require<OptionError>(names.insert(name).second, kOp, "the name '{}' appears twice: give each tensor its own",
                         printable(name));
    std::string extents;
    for (const std::int64_t extent : tensor.shape()) extents += fmt::format("{}{}", extents.empty() ? "" : ",", extent);
    header += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", header == "{" ? "" : ",",
                          quoted(kOp, name, "name"), word(tensor.dtype()), extents, at, at + tensor.nbytes());
    at += tensor.nbytes();
  }
  header += '}';
  while (header.size() % kAlignment != 0) header += ' ';
  require<OptionError>(static_cast<std::int64_t>(header.size()) <= kMostHeaderBytes, kOp,
                       "the names and metadata make a header of {} bytes but at most {} can be read: use shorter ones",
                       header.size(), kMostHeaderBytes);

  AtomicFile file(kOp, path);
  const auto length = static_cast<std::uint64_t>(header.size());
  file.write(&length, 8);
  file.write(header.data(), static_cast<std::int64_t>(header.size()));
  for (const auto* named : order) {
    check_status(named->second.device());
    const Tensor values = contiguous(to(named->second.alias(), Device{}));
    file.write(values.raw_data(), values.nbytes());
  }
  file.commit();
}

}  // namespace weft::data
