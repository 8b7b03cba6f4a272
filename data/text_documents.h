#pragma once
// Texts as sequences of bytes: the files of the Debian package fortunes, or any text files.
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/sequence_dataset.h"

namespace weft::data {

/// The tokenizer of TextDocuments: a token is a byte, its id the byte's value. Any text can be written, in any language, and
/// nothing has to be trained or downloaded.
struct ByteTokenizer {
  static constexpr std::int64_t kVocabulary = 256;
  /// The id that ends a text, where one is asked for: not a byte, so that no text can contain it.
  static constexpr std::int64_t kEndOfText = 256;

  /// The text of these tokens; kEndOfText stands for no byte. Errors: ShapeError for any other id outside [0, 256).
  static std::string decode(std::span<const std::int64_t> tokens);
};

/// What one text is.
///   file       a whole file
///   line       a line, without its line feed; empty lines are passed over
///   paragraph  what stands between blank lines (of spaces and tabs at most)
///   fortune    what stands between lines that are exactly "%"
enum class DocumentSplit { file, line, paragraph, fortune };

/// What to do with bytes that are no UTF-8: refuse them, so that a file of Latin-1 or a damaged one is noticed, or keep
/// them: a byte tokenizer can.
enum class InvalidUtf8 { refuse, keep };

/// How files become texts.
struct TextOptions {
  DocumentSplit split = DocumentSplit::file;
  /// Every text ends in ByteTokenizer::kEndOfText, and the vocabulary is 257.
  bool end_of_text = false;
  InvalidUtf8 invalid_utf8 = InvalidUtf8::refuse;
};

/// Texts whose tokens are their bytes.
///   auto texts = data::TextDocuments::fortunes();                       // 15 217 texts, 2 546 242 bytes
///   auto [train, validation] = texts.split();                           // 14 453 and 764
/// Text:    read as text files are: a byte order mark at the start is dropped, "\r\n" becomes "\n" (a lone "\r" stays),
///          everything else stays as it is. A text keeps the line feeds of its lines (but not with DocumentSplit::line); a
///          last line without one gets none. Blank texts, of nothing but white space, are passed over and counted.
///          A line may be of any length.
/// Errors:  IoError naming the file, the line, the value and the remedy for a file that is missing, cannot be read, is empty
///          or blank, holds a NUL byte (which no text file does; UTF-16 is full of them) or is no UTF-8 (see TextOptions).
///          For instance "[text_documents] notes.txt holds bytes that are no UTF-8 at line 3, byte 17 (0xe9): convert it with
///          iconv -f LATIN1 -t UTF-8, or keep them with InvalidUtf8::keep".
/// Memory:  the bytes of all files, and 16 bytes per text; the parts of a split share the bytes.
class TextDocuments final : public SequenceDataset {
 public:
  /// The texts of the files in `folder` (empty: where the Debian package fortunes installs them, 43 files), in the files' byte
  /// order of names: those that fortune(6) reads, so no *.dat and *.u8, nor anything else with a dot in its name. Version
  /// 1:1.99.1-7.3 of the package holds 15 217 texts, of which 15 134 differ; together 2 546 242 bytes, median 98, at most 2435.
  /// Errors: as below; IoError naming folder and package when there is no such folder or no such file in it.
  static TextDocuments fortunes(const std::filesystem::path& folder = {}, bool end_of_text = false);
  /// The texts of these files, in this order.
  static TextDocuments from_files(std::string name, std::span<const std::filesystem::path> files,
                                  const TextOptions& options = {});
  static TextDocuments from_file(const std::filesystem::path& file, const TextOptions& options = {});
  /// The texts in a text that is in memory already; `name` stands for the file in messages.
  static TextDocuments from_text(std::string name, std::string_view text, const TextOptions& options = {});

  /// Training and validation part, named "<name>/train" and "<name>/validation": about one text in `every` goes into the
  /// validation part, decided by a hash of its bytes and of `seed`. So equal texts always land in the same part (of the
  /// fortunes' texts, 83 repeat others), and a text stays in its part when files are added, removed or reordered.
  /// Errors: OptionError for every < 2; ShapeError when a part would be empty.
  std::pair<TextDocuments, TextDocuments> split(std::int64_t every = 20, std::uint64_t seed = 0) const;

  std::int64_t size() const override { return static_cast<std::int64_t>(documents_.size()); }
  std::string name() const override { return name_; }
  std::uint64_t fingerprint() const override;
  std::int64_t vocabulary() const override { return ByteTokenizer::kVocabulary + (end_of_text_ ? 1 : 0); }
  std::int64_t length(std::int64_t id) const override;
  void read(std::int64_t id, std::int64_t offset, std::span<std::int64_t> out) const override;

  /// The bytes of text `id`. Errors: as length().
  std::string_view text(std::int64_t id) const;
  /// Where text `id` starts, for messages: "/usr/share/games/fortunes/cookie:57".
  std::string place(std::int64_t id) const;
  /// Tokens of all texts.
  std::int64_t tokens() const;
  /// Blank texts passed over while reading.
  std::int64_t blank() const { return blank_; }

 private:
  struct File {
    std::string name;
    std::size_t begin;  // of its bytes in Content::bytes
  };
  struct Content {
    std::string bytes;
    std::vector<File> files;
  };
  struct Document {
    std::int64_t begin, bytes;
  };

  class Reader;
  TextDocuments() = default;

  std::string name_;
  std::shared_ptr<const Content> content_;
  std::vector<Document> documents_;
  std::int64_t blank_ = 0;
  bool end_of_text_ = false;
};

}  // namespace weft::data
