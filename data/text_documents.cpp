#include "data/text_documents.h"

#include <algorithm>
#include <system_error>

#include "data/file.h"
#include "data/fingerprint.h"
#include "tensor/error.h"

namespace weft::data {
namespace {

constexpr const char* kOp = "text_documents";
constexpr const char* kFortunes = "/usr/share/games/fortunes";

std::int64_t as_i64(std::size_t value) { return static_cast<std::int64_t>(value); }

std::string_view without_end_of_line(std::string_view line) {
  if (line.ends_with('\n')) line.remove_suffix(1);
  return line;
}
bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\n\v\f\r") == std::string_view::npos; }

/// How many bytes of valid UTF-8 `text` starts with (RFC 3629: no surrogates, nothing overlong, at most U+10FFFF).
std::size_t valid_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto follows = [&](std::size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  for (std::size_t at = 0; at < text.size();) {
    const unsigned first = byte(at), second = byte(at + 1);
    if (first < 0x80) {
      ++at;
    } else if (first >= 0xC2 && first <= 0xDF && follows(at + 1)) {
      at += 2;
    } else if (first >= 0xE0 && first <= 0xEF && follows(at + 1) && follows(at + 2) &&
               (first != 0xE0 || second >= 0xA0) && (first != 0xED || second < 0xA0)) {
      at += 3;
    } else if (first >= 0xF0 && first <= 0xF4 && follows(at + 1) && follows(at + 2) && follows(at + 3) &&
               (first != 0xF0 || second >= 0x90) && (first != 0xF4 || second < 0x90)) {
      at += 4;
    } else {
      return at;
    }
  }
  return text.size();
}

/// The line of a place, from 1, and the byte in it, from 1.
std::pair<std::int64_t, std::int64_t> line_and_byte(std::string_view text, std::size_t at) {
  const std::string_view before = text.substr(0, at);
  const std::size_t last = before.rfind('\n');
  return {1 + std::count(before.begin(), before.end(), '\n'),
          as_i64(last == std::string_view::npos ? at + 1 : at - last)};
}

}  // namespace

std::string ByteTokenizer::decode(std::span<const std::int64_t> tokens) {
  std::string text;
  text.reserve(tokens.size());
  for (const std::int64_t token : tokens) {
    if (token == kEndOfText) continue;
    require<ShapeError>(token >= 0 && token < kVocabulary, kOp, "a token must be a byte in [0, {}) or {} but is {}",
                        kVocabulary, kEndOfText, token);
    text += static_cast<char>(token);
  }
  return text;
}

/// Files on their way to become texts.
class TextDocuments::Reader {
 public:
  Reader(std::string name, const TextOptions& options) : options_(options) { texts_.name_ = std::move(name); }

  void add_file(const std::filesystem::path& path) {
    const InputFile file(kOp, path);
    std::string text(static_cast<std::size_t>(file.bytes()), '\0');
    const std::int64_t got = file.read_at(0, text.data(), file.bytes());
    require<IoError>(got == file.bytes(), kOp, "{} became shorter while it was read ({} of {} bytes): read it again",
                     file.name(), got, file.bytes());
    add(file.name(), std::move(text));
  }

  void add(std::string name, std::string text) {
    check(name, text);
    clean(text);
    const std::size_t begin = content_->bytes.size();
    content_->files.push_back({std::move(name), begin});
    if (begin == 0)
      content_->bytes = std::move(text);  // one large file is in memory once
    else
      content_->bytes += text;
    // Views into bytes that grow no more before the next file.
    const std::size_t before = texts_.documents_.size();
    cut(begin);
    require<IoError>(texts_.documents_.size() > before, kOp, "{} is blank: it holds no text",
                     content_->files.back().name);
  }

  TextDocuments finish() && {
    content_->bytes.shrink_to_fit();
    texts_.content_ = std::move(content_);
    texts_.end_of_text_ = options_.end_of_text;
    return std::move(texts_);
  }

 private:
  void check(const std::string& name, std::string_view text) const {
    require<IoError>(!text.empty(), kOp, "{} is empty: it holds no text", name);
    if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF"))
      fail<IoError>(kOp, "{} is UTF-16 (its first bytes are {:02x} {:02x}): convert it with iconv -f UTF-16 -t UTF-8",
                    name, static_cast<unsigned char>(text[0]), static_cast<unsigned char>(text[1]));
    if (const std::size_t at = text.find('\0'); at != std::string_view::npos) {
      const auto [line, byte] = line_and_byte(text, at);
      fail<IoError>(kOp, "{} holds a NUL byte at line {}, byte {}, which no text does: give a text file", name, line,
                    byte);
    }
    if (options_.invalid_utf8 == InvalidUtf8::keep) return;
    if (const std::size_t at = valid_utf8(text); at != text.size()) {
      const auto [line, byte] = line_and_byte(text, at);
      fail<IoError>(
          kOp,
          "{} holds bytes that are no UTF-8 at line {}, byte {} (0x{:02x}): convert it with iconv -f LATIN1 -t "
          "UTF-8, or keep them with InvalidUtf8::keep",
          name, line, byte, static_cast<unsigned char>(text[at]));
    }
  }

  /// Takes out the byte order mark and the carriage returns before line feeds, in place.
  static void clean(std::string& text) {
    const std::size_t begin = text.starts_with("\xEF\xBB\xBF") ? 3 : 0;
    std::size_t to = 0;
    for (std::size_t at = begin; at < text.size();) {
      const std::size_t end = std::min(text.find("\r\n", at), text.size());
      if (to != at) std::copy(text.begin() + as_i64(at), text.begin() + as_i64(end), text.begin() + as_i64(to));
      to += end - at;
      at = end == text.size() ? end : end + 1;
    }
    text.resize(to);
  }

  /// Calls f(begin, end) for every line from `begin` on, the line feed included.
  template <class F>
  void for_each_line(std::size_t begin, F&& f) const {
    const std::string& bytes = content_->bytes;
    while (begin < bytes.size()) {
      const std::size_t feed = bytes.find('\n', begin);
      const std::size_t end = feed == std::string::npos ? bytes.size() : feed + 1;
      f(begin, end);
      begin = end;
    }
  }
  std::string_view view(std::size_t begin, std::size_t end) const {
    return std::string_view(content_->bytes).substr(begin, end - begin);
  }

  void cut(std::size_t begin) {
    const std::size_t all = content_->bytes.size();
    if (options_.split == DocumentSplit::file) return take(begin, all);
    if (options_.split == DocumentSplit::line)
      return for_each_line(begin, [&](std::size_t from, std::size_t to) {
        const auto bytes = without_end_of_line(view(from, to)).size();
        if (bytes > 0) take(from, from + bytes);
      });
    const bool fortune = options_.split == DocumentSplit::fortune;
    std::size_t start = begin;
    for_each_line(begin, [&](std::size_t from, std::size_t to) {
      const std::string_view line = without_end_of_line(view(from, to));
      if (fortune ? line != "%" : !is_blank(line)) return;
      if (fortune || from > start) take(start, from);  // blank lines in a row part nothing
      start = to;
    });
    if (start < all) take(start, all);
  }

  void take(std::size_t begin, std::size_t end) {
    if (is_blank(view(begin, end)))
      ++texts_.blank_;
    else
      texts_.documents_.push_back({as_i64(begin), as_i64(end - begin)});
  }

  TextOptions options_;
  TextDocuments texts_;
  std::shared_ptr<Content> content_ = std::make_shared<Content>();
};

TextDocuments TextDocuments::fortunes(const std::filesystem::path& folder, bool end_of_text) {
  const std::filesystem::path where = folder.empty() ? kFortunes : folder;
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(where, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;  // a link that leads nowhere is no file
    if (entry->is_regular_file(ignored) && entry->path().filename().native().find('.') == std::string::npos)
      files.push_back(entry->path());
  }
  const std::string reason = error ? error.message() : "it holds no file without a dot in its name";
  require<IoError>(
      !files.empty(), kOp,
      "there are no fortunes in {} ({}): install the Debian package fortunes, or name the folder that holds "
      "such files",
      where.string(), reason);
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.native() < b.native(); });
  return from_files("fortunes", files, {.split = DocumentSplit::fortune, .end_of_text = end_of_text});
}

TextDocuments TextDocuments::from_files(std::string name, std::span<const std::filesystem::path> files,
                                        const TextOptions& options) {
  require<OptionError>(!files.empty(), kOp, "{} needs at least one file", name);
  Reader reader(std::move(name), options);
  for (const std::filesystem::path& file : files) reader.add_file(file);
  return std::move(reader).finish();
}

TextDocuments TextDocuments::from_file(const std::filesystem::path& file, const TextOptions& options) {
  return from_files(file.filename().string(), {&file, 1}, options);
}

TextDocuments TextDocuments::from_text(std::string name, std::string_view text, const TextOptions& options) {
  Reader reader(name, options);
  reader.add(std::move(name), std::string(text));
  return std::move(reader).finish();
}

std::pair<TextDocuments, TextDocuments> TextDocuments::split(std::int64_t every, std::uint64_t seed) const {
  require<OptionError>(every >= 2, kOp,
                       "one text in `every` is held back for validation: it must be at least 2 but is {}", every);
  std::pair<TextDocuments, TextDocuments> parts{*this, *this};
  auto& [train, validation] = parts;
  train.name_ += "/train";
  validation.name_ += "/validation";
  train.documents_.clear();
  validation.documents_.clear();
  for (std::int64_t id = 0; id < size(); ++id) {
    const std::uint64_t hash = hash_combine(seed, hash_bytes(text(id)));
    TextDocuments& part = hash % static_cast<std::uint64_t>(every) == 0 ? validation : train;
    part.documents_.push_back(documents_[static_cast<std::size_t>(id)]);
  }
  for (const TextDocuments* part : {&train, &validation})
    require<ShapeError>(
        part->size() > 0, kOp,
        "{} would be empty: one text in {} of {} is held back for validation; take another seed, or more texts",
        part->name_, every, size());
  return parts;
}

std::uint64_t TextDocuments::fingerprint() const {
  std::uint64_t hash = hash_combine(static_cast<std::uint64_t>(size()), static_cast<std::uint64_t>(vocabulary()));
  for (std::int64_t id = 0; id < size(); ++id) hash = hash_combine(hash, hash_bytes(text(id)));
  return hash;
}

std::string_view TextDocuments::text(std::int64_t id) const {
  require<ShapeError>(id >= 0 && id < size(), kOp, "the id of a text of {} must be in [0, {}) but is {}", name_, size(),
                      id);
  const Document& document = documents_[static_cast<std::size_t>(id)];
  return {content_->bytes.data() + document.begin, static_cast<std::size_t>(document.bytes)};
}

std::int64_t TextDocuments::length(std::int64_t id) const { return as_i64(text(id).size()) + (end_of_text_ ? 1 : 0); }

void TextDocuments::read(std::int64_t id, std::int64_t offset, std::span<std::int64_t> out) const {
  const std::string_view bytes = text(id);
  const std::int64_t all = length(id), count = as_i64(out.size());
  require<ShapeError>(offset >= 0 && offset <= all && count <= all - offset, kOp,
                      "text {} of {} has {} tokens: [{}, {}) is not within it", id, name_, all, offset, offset + count);
  const std::int64_t plain = std::clamp<std::int64_t>(as_i64(bytes.size()) - offset, 0, count);
  const auto* from = reinterpret_cast<const unsigned char*>(bytes.data()) + std::min(offset, as_i64(bytes.size()));
  std::copy_n(from, plain, out.data());
  if (plain < count) out[static_cast<std::size_t>(plain)] = ByteTokenizer::kEndOfText;
}

std::string TextDocuments::place(std::int64_t id) const {
  const auto begin = static_cast<std::size_t>(text(id).data() - content_->bytes.data());
  const auto after = std::upper_bound(content_->files.begin(), content_->files.end(), begin,
                                      [](std::size_t at, const File& file) { return at < file.begin; });
  const File& file = *std::prev(after);
  const auto lines =
      std::count(content_->bytes.begin() + as_i64(file.begin), content_->bytes.begin() + as_i64(begin), '\n');
  return fmt::format("{}:{}", file.name, lines + 1);
}

std::int64_t TextDocuments::tokens() const {
  std::int64_t total = 0;
  for (std::int64_t id = 0; id < size(); ++id) total += length(id);
  return total;
}

}  // namespace weft::data
