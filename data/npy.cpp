#include "data/npy.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <optional>
#include <utility>

#include "autograd/cast.h"
#include "autograd/layout.h"
#include "data/file.h"
#include "tensor/status.h"

namespace weft::data {
namespace {

static_assert(std::endian::native == std::endian::little, "values are read and written as they lie in memory");

constexpr std::string_view kMagic{"\x93NUMPY", 6};
constexpr std::int64_t kMostHeaderBytes = 1 << 16, kAlignment = 64;

struct Header {
  std::string descr;
  Dtype dtype = Dtype::f32;
  bool fortran_order = false;
  Shape shape;
};

constexpr std::pair<Dtype, std::string_view> kDescr[] = {
    {Dtype::f16, "<f2"}, {Dtype::f32, "<f4"}, {Dtype::f64, "<f8"},     {Dtype::i32, "<i4"},
    {Dtype::i64, "<i8"}, {Dtype::u8, "|u1"},  {Dtype::boolean, "|b1"},
};

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 40))
    if (c >= ' ' && c <= '~')
      out += c;
    else
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return text.size() > 40 ? out + "..." : out;
}

/// Reads "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }" and not one thing more: no expression, no escape, no
/// nested value. Positions in messages count from the start of the header text.
class HeaderParser {
 public:
  HeaderParser(const npy::Source& source, std::string_view text) : source_(source), text_(text) {}

  Header parse() {
    expect('{');
    while (!take('}')) {
      const std::string_view key = string("a key");
      expect(':');
      if (key == "descr")
        once(descr_, key, [&] { return descr(); });
      else if (key == "fortran_order")
        once(fortran_order_, key, [&] { return boolean(); });
      else if (key == "shape")
        once(shape_, key, [&] { return shape(); });
      else
        refuse("has the key '{}' in its header but may have only descr, fortran_order and shape", printable(key));
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    skip_blanks();
    if (at_ + 1 != text_.size() || text_[at_] != '\n')
      refuse("has a header that must end in blanks and one line feed after its '}}' but goes on with '{}'",
             printable(text_.substr(at_)));
    require_key(descr_.has_value(), "descr");
    require_key(fortran_order_.has_value(), "fortran_order");
    require_key(shape_.has_value(), "shape");
    Header header{std::string(*descr_), Dtype::f32, *fortran_order_, *shape_};
    for (const auto& [dtype, name] : kDescr)
      if (name == header.descr) {
        header.dtype = dtype;
        return header;
      }
    refuse_descr(header.descr);
  }

 private:
  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail<IoError>(source_.op, "{} {}", source_.name, fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void refuse_descr(const std::string& descr) const {
    const std::string_view kind = descr.size() >= 2 ? std::string_view(descr).substr(1, 1) : std::string_view{};
    if (kind == "O")
      refuse("holds Python objects (descr '{}'), which can carry code: save numbers instead", printable(descr));
    if (descr[0] == '>')
      refuse("holds big-endian numbers (descr '{}'): save a.astype(a.dtype.newbyteorder('<'))", printable(descr));
    refuse("has the dtype '{}' but must have one of <f2 <f4 <f8 <i4 <i8 |u1 |b1: convert it with a.astype(...)",
           printable(descr));
  }
  void require_key(bool there, std::string_view key) const {
    if (!there) refuse("has no '{}' in its header; get the file anew", key);
  }
  template <class T, class F>
  void once(std::optional<T>& value, std::string_view key, F&& parse_value) {
    if (value) refuse("has '{}' twice in its header; get the file anew", key);
    value = parse_value();
  }

  void skip_blanks() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  bool take(char c) {
    skip_blanks();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  [[noreturn]] void unexpected(std::string_view wanted) const {
    if (at_ == text_.size()) refuse("has a header that breaks off where {} should be", wanted);
    refuse("has a header with '{}' at {} where {} should be", printable(text_.substr(at_, 12)), at_, wanted);
  }
  void expect(char c) {
    if (!take(c)) unexpected(std::string{'\'', c, '\''});
  }
  std::string_view string(std::string_view wanted) {
    skip_blanks();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') unexpected(std::string(wanted) + " in quotes");
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) unexpected(std::string(wanted) + " in quotes");
    const std::string_view value = text_.substr(at_ + 1, end - at_ - 1);
    if (value.empty() || value.find('\\') != std::string_view::npos)
      unexpected(std::string(wanted) + " without escapes");
    at_ = end + 1;
    return value;
  }
  std::string_view descr() {
    skip_blanks();
    if (at_ < text_.size() && text_[at_] == '[')
      refuse("holds records (descr '{}'): save each field as an array of its own", printable(text_.substr(at_)));
    return string("a dtype");
  }
  bool boolean() {
    skip_blanks();
    for (const auto& [word, value] : {std::pair{std::string_view("True"), true}, {std::string_view("False"), false}})
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return value;
      }
    unexpected("True or False");
  }
  std::int64_t extent() {
    skip_blanks();
    const std::size_t start = at_;
    const auto digit = [&] { return at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; };
    if (at_ < text_.size() && text_[at_] == '-')
      refuse("has a negative extent in its shape {}", printable(text_.substr(at_, 12)));
    if (!digit()) unexpected("an extent");
    std::int64_t value = 0;
    while (digit())
      if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, text_[at_++] - '0', &value))
        refuse("has an extent of more than 2^63 - 1 in its shape: '{}'", printable(text_.substr(start, 24)));
    if (at_ - start > 1 && text_[start] == '0') {  // no Python number
      at_ = start;
      unexpected("an extent");
    }
    return value;
  }
  Shape shape() {
    Shape result;
    skip_blanks();
    const std::size_t start = at_;
    expect('(');
    while (!take(')')) {
      const std::int64_t value = extent();
      if (result.rank() == Shape::kMaxRank) refuse("has more than {} dimensions", Shape::kMaxRank);
      result.push_back(value);
      if (take(',')) continue;
      expect(')');
      if (result.rank() == 1)
        refuse("has the shape '{}', which is a number in Python: a tuple of one extent needs a comma",
               printable(text_.substr(start, at_ - start)));
      break;
    }
    return result;
  }

  const npy::Source& source_;
  std::string_view text_;
  std::size_t at_ = 0;
  std::optional<std::string_view> descr_;
  std::optional<bool> fortran_order_;
  std::optional<Shape> shape_;
};

std::int64_t little_endian(std::string_view bytes) {
  std::int64_t value = 0;
  for (auto byte = bytes.rbegin(); byte != bytes.rend(); ++byte) value = value << 8 | static_cast<unsigned char>(*byte);
  return value;
}

/// The next `count` bytes of a part that must be there whole.
std::string read_part(npy::Source& source, std::int64_t count, std::string_view part) {
  std::string bytes(static_cast<std::size_t>(count), '\0');
  const std::int64_t got = source.read(bytes.data(), count);
  require<IoError>(got == count, source.op, "{} is truncated: its {} needs {} bytes but {} follow; get the file anew",
                   source.name, part, count, got);
  return bytes;
}

/// The bytes of values that the header declares; refuses what overflows.
std::int64_t declared_bytes(const npy::Source& source, const Header& header) {
  std::int64_t count = 1, bytes = 0;
  bool has_values = true;
  for (const std::int64_t extent : header.shape) {
    has_values = has_values && extent > 0;
    // An extent of 0 does not excuse the others: strides are products of them.
    require<IoError>(!__builtin_mul_overflow(count, std::max<std::int64_t>(extent, 1), &count), source.op,
                     "{} declares {} in its header: more values than any memory holds; get the file anew", source.name,
                     header.shape);
  }
  require<IoError>(!__builtin_mul_overflow(count, element_bytes(header.dtype), &bytes), source.op,
                   "{} declares {} in its header: more values than any memory holds; get the file anew", source.name,
                   header.shape);
  return has_values ? bytes : 0;
}

class FileSource final : public npy::Source {
 public:
  explicit FileSource(const InputFile& file) : Source("load_npy", file.name(), file.bytes()), file_(file) {}
  std::int64_t read(void* out, std::int64_t count) override {
    const std::int64_t got = file_.read_at(at_, out, count);
    at_ += got;
    return got;
  }

 private:
  const InputFile& file_;
  std::int64_t at_ = 0;
};

}  // namespace

namespace npy {

Tensor read(Source& source) {
  const char* const op = source.op;
  require<IoError>(source.bytes > 0, op, "{} is empty; get the file anew", source.name);
  const std::string start = read_part(source, 8, "magic number");
  require<IoError>(std::string_view(start).substr(0, 6) == kMagic, op,
                   "{} is not an npy file: it must start with \\x93NUMPY but starts with '{}'", source.name,
                   printable(std::string_view(start).substr(0, 6)));
  const int major = static_cast<unsigned char>(start[6]), minor = static_cast<unsigned char>(start[7]);
  require<IoError>(major >= 1 && major <= 3 && minor == 0, op,
                   "{} has the npy version {}.{} but must have 1.0, 2.0 or 3.0: save it again with numpy.save",
                   source.name, major, minor);
  const std::int64_t length_bytes = major == 1 ? 2 : 4;
  const std::int64_t header_bytes = little_endian(read_part(source, length_bytes, "header length"));
  require<IoError>(header_bytes <= kMostHeaderBytes, op, "{} has a header of {} bytes but at most {} are read",
                   source.name, header_bytes, kMostHeaderBytes);
  const std::int64_t following = source.bytes - 8 - length_bytes - header_bytes;
  require<IoError>(following >= 0, op, "{} is truncated: its header needs {} bytes but {} follow; get the file anew",
                   source.name, header_bytes, following + header_bytes);
  const std::string text = read_part(source, header_bytes, "header");
  const Header header = HeaderParser(source, text).parse();

  const std::int64_t declared = declared_bytes(source, header);
  require<IoError>(declared <= following, op,
                   "{} is truncated: its header {} {} declares {} bytes of values but {} follow; get the file anew",
                   source.name, header.shape, header.descr, declared, following);
  require<IoError>(
      declared == following, op,
      "{} has trailing bytes: its header {} {} declares {} bytes of values but {} follow; get the file anew",
      source.name, header.shape, header.descr, declared, following);

  Shape stored = header.shape;
  const int rank = stored.rank();
  if (header.fortran_order)
    for (int i = 0; i < rank; ++i) stored[i] = header.shape[rank - 1 - i];
  Tensor values = Tensor::empty(stored, header.dtype);
  const std::int64_t got = source.read(values.raw_data(), declared);
  require<IoError>(got == declared, op,
                   "{} is truncated: its header {} {} declares {} bytes of values but {} follow; get the file anew",
                   source.name, header.shape, header.descr, declared, got);
  if (header.dtype == Dtype::boolean) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.raw_data());
    const auto* bad = std::find_if(bytes, bytes + declared, [](unsigned char byte) { return byte > 1; });
    require<IoError>(bad == bytes + declared, op, "{} has the byte 0x{:02x} as bool number {}: must be 0 or 1",
                     source.name, bad == bytes + declared ? 0 : *bad, bad - bytes);
  }
  if (header.fortran_order)
    for (int i = 0; i < rank / 2; ++i) values = values.transpose(i, rank - 1 - i);
  return values;
}

Tensor values_to_save(const char* op, const Tensor& tensor) {
  require(tensor.defined(), op, "needs a tensor but got an undefined one");
  require<DtypeError>(tensor.dtype() != Dtype::bf16, op,
                      "NumPy has no bf16: save cast(tensor, Dtype::f32), which holds every bf16 exactly");
  check_status(tensor.device());
  return contiguous(to(tensor.alias(), Device{}));
}

std::string header(const Tensor& tensor) {
  const auto* const descr = std::find_if(std::begin(kDescr), std::end(kDescr),
                                         [&](const auto& entry) { return entry.first == tensor.dtype(); });
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': (", descr->second);
  for (int i = 0; i < tensor.rank(); ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", tensor.size(i));
  text += tensor.rank() == 1 ? ",), }" : "), }";
  constexpr std::size_t kStart = 10;  // magic number, version, length
  const std::size_t total = (kStart + text.size() + 1 + kAlignment - 1) / kAlignment * kAlignment;
  text.resize(total - kStart - 1, ' ');
  text += '\n';
  std::string bytes(kMagic);
  bytes += {'\x01', '\x00', static_cast<char>(text.size() & 0xff), static_cast<char>(text.size() >> 8)};
  return bytes + text;
}

}  // namespace npy

Tensor load_npy(const std::filesystem::path& path) {
  const InputFile file("load_npy", path);
  FileSource source(file);
  return npy::read(source);
}

void save_npy(const std::filesystem::path& path, const Tensor& tensor) {
  const Tensor values = npy::values_to_save("save_npy", tensor);
  const std::string header = npy::header(values);
  AtomicFile file("save_npy", path);
  file.write(header.data(), static_cast<std::int64_t>(header.size()));
  file.write(values.raw_data(), values.nbytes());
  file.commit();
}

}  // namespace weft::data
