#include "data/text_documents.h"

#include <filesystem>
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/idx_files.h"
#include "tensor/error.h"
#include "tensor/philox.h"

namespace weft::data {
namespace {

using test::message_of;
using Strings = std::vector<std::string>;

Strings texts_of(const TextDocuments& texts) {
  Strings result;
  for (std::int64_t id = 0; id < texts.size(); ++id) result.emplace_back(texts.text(id));
  return result;
}
std::vector<std::int64_t> tokens_of(const SequenceDataset& texts, std::int64_t id) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(texts.length(id)), -1);
  texts.read(id, 0, tokens);
  return tokens;
}
Strings cut(std::string_view text, DocumentSplit split) {
  return texts_of(TextDocuments::from_text("text", text, {.split = split}));
}
std::string error_of(std::string_view text, const TextOptions& options = {}) {
  return message_of<IoError>([&] { TextDocuments::from_text("FILE", text, options); });
}

TEST(TextDocuments, CutsAtLinesThatAreExactlyAPercentSign) {
  EXPECT_EQ(cut("one\n%\ntwo\nlines\n%\nthree\n", DocumentSplit::fortune),
            (Strings{"one\n", "two\nlines\n", "three\n"}));
  // No separator: a blank before or behind it, more than one sign, or no line of its own.
  EXPECT_EQ(cut(" %\n% \n%%\na%\n", DocumentSplit::fortune), (Strings{" %\n% \n%%\na%\n"}));
  // The last text need not be closed, may be, and need not end in a line feed.
  EXPECT_EQ(cut("a\n%\nb", DocumentSplit::fortune), (Strings{"a\n", "b"}));
  EXPECT_EQ(cut("a\n%\nb\n%\n", DocumentSplit::fortune), (Strings{"a\n", "b\n"}));
  EXPECT_EQ(cut("a\n%\nb\n%", DocumentSplit::fortune), (Strings{"a\n", "b\n"}));
  // Blank texts are passed over, and counted.
  const TextDocuments texts = TextDocuments::from_text("t", "%\n%\na\n%\n \n\t\n%\nb\n%\n", {DocumentSplit::fortune});
  EXPECT_EQ(texts_of(texts), (Strings{"a\n", "b\n"}));
  EXPECT_EQ(texts.blank(), 3);
}

TEST(TextDocuments, CutsAtLinesParagraphsAndFiles) {
  const std::string text = "\na\nb c\n\n \t\n\nd\ne";
  EXPECT_EQ(cut(text, DocumentSplit::file), (Strings{text}));
  EXPECT_EQ(cut(text, DocumentSplit::line), (Strings{"a", "b c", "d", "e"}));
  EXPECT_EQ(cut(text, DocumentSplit::paragraph), (Strings{"a\nb c\n", "d\ne"}));
  EXPECT_EQ(cut("a\n\n", DocumentSplit::paragraph), (Strings{"a\n"}));
}

TEST(TextDocuments, DropsTheByteOrderMarkAndCarriageReturns) {
  EXPECT_EQ(cut("\xEF\xBB\xBFone\r\n%\r\ntwo\r\nlines\r\n", DocumentSplit::fortune),
            (Strings{"one\n", "two\nlines\n"}));
  EXPECT_EQ(cut("a\r\r\nb\rc\r", DocumentSplit::file), (Strings{"a\r\nb\rc\r"}));    // a lone one stays
  EXPECT_EQ(cut("a\xEF\xBB\xBF", DocumentSplit::file), (Strings{"a\xEF\xBB\xBF"}));  // not at the start
  EXPECT_EQ(error_of("\xEF\xBB\xBF"), "[text_documents] FILE is blank: it holds no text");
}

TEST(TextDocuments, RefusesWhatIsNoText) {
  EXPECT_EQ(error_of(""), "[text_documents] FILE is empty: it holds no text");
  EXPECT_EQ(error_of(" \n\r\n\t"), "[text_documents] FILE is blank: it holds no text");
  EXPECT_EQ(error_of("%\n%\n", {.split = DocumentSplit::fortune}), "[text_documents] FILE is blank: it holds no text");
  EXPECT_EQ(error_of(std::string_view("a\nb\0c", 5)),
            "[text_documents] FILE holds a NUL byte at line 2, byte 2, which no text does: give a text file");
  EXPECT_EQ(error_of(std::string_view("\xFF\xFE"
                                      "a\0",
                                      4)),
            "[text_documents] FILE is UTF-16 (its first bytes are ff fe): convert it with iconv -f UTF-16 -t UTF-8");
  EXPECT_EQ(
      error_of("a\nb\ncaf\xE9 au lait\n"),
      "[text_documents] FILE holds bytes that are no UTF-8 at line 3, byte 4 (0xe9): convert it with iconv -f LATIN1 "
      "-t UTF-8, or keep them with InvalidUtf8::keep");
  const TextDocuments kept = TextDocuments::from_text("t", "caf\xE9\n", {.invalid_utf8 = InvalidUtf8::keep});
  EXPECT_EQ(tokens_of(kept, 0), (std::vector<std::int64_t>{'c', 'a', 'f', 0xE9, '\n'}));
}

TEST(TextDocuments, KnowsUtf8) {
  for (const char* good : {"\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xF0\x90\x80\x80",
                           "\xF4\x8F\xBF\xBF", "stra\xC3\x9F\x65 \xE2\x82\xAC"})
    EXPECT_EQ(error_of(good), "no exception") << good;
  // A lone continuation, overlong forms, surrogates, beyond U+10FFFF, what UTF-8 never holds, and every truncation.
  for (const char* bad :
       {"\x80", "\xC0\xAF", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80", "\xFF", "\xC2", "\xE2\x82", "\xF0\x90\x80", "\xC2\x61"})
    EXPECT_NE(error_of(bad).find("no UTF-8 at line 1, byte 1 "), std::string::npos) << error_of(bad);
}

TEST(TextDocuments, ReadsPathsStrictly) {
  const test::TemporaryFolder folder;
  const std::string missing = (folder.path() / "absent").string();
  EXPECT_EQ(message_of<IoError>([&] { TextDocuments::from_file(missing); }),
            "[text_documents] there is no file " + missing + ": check the path");
  EXPECT_EQ(message_of<IoError>([&] { TextDocuments::from_file(folder.path()); }),
            "[text_documents] " + folder.path().string() + " is not a regular file: give the path of one");
  EXPECT_EQ(message_of<OptionError>([&] { TextDocuments::from_files("none", {}); }),
            "[text_documents] none needs at least one file");
}

TEST(TextDocuments, ReadsAnyPartOfEveryText) {
  for (const bool end_of_text : {false, true}) {
    const TextDocuments texts = TextDocuments::from_text("t", "\xC3\xA9t\xC3\xA9\nb\n",
                                                         {.split = DocumentSplit::line, .end_of_text = end_of_text});
    EXPECT_EQ(texts.vocabulary(), end_of_text ? 257 : 256);
    EXPECT_EQ(texts.tokens(), end_of_text ? 8 : 6);
    std::vector<std::int64_t> whole{0xC3, 0xA9, 't', 0xC3, 0xA9};
    if (end_of_text) whole.push_back(ByteTokenizer::kEndOfText);
    EXPECT_EQ(tokens_of(texts, 0), whole);
    EXPECT_EQ(ByteTokenizer::decode(whole), "\xC3\xA9t\xC3\xA9");
    for (std::size_t begin = 0; begin <= whole.size(); ++begin)
      for (std::size_t end = begin; end <= whole.size(); ++end) {
        std::vector<std::int64_t> part(end - begin + 1, -7);
        texts.read(0, static_cast<std::int64_t>(begin), std::span(part).first(end - begin));
        EXPECT_TRUE(std::equal(part.begin(), part.end() - 1, whole.begin() + static_cast<std::ptrdiff_t>(begin)));
        EXPECT_EQ(part.back(), -7);  // nothing is written behind it
      }
  }
}

TEST(TextDocuments, RefusesPlacesThatAreNone) {
  const TextDocuments texts = TextDocuments::from_text("t", "abc");
  std::vector<std::int64_t> out(3);
  EXPECT_EQ(message_of<ShapeError>([&] { texts.read(0, 1, out); }),
            "[text_documents] text 0 of t has 3 tokens: [1, 4) is not within it");
  EXPECT_NE(message_of<ShapeError>([&] { texts.read(0, -1, out); }).find("[-1, 2)"), std::string::npos);
  EXPECT_EQ(message_of<ShapeError>([&] { texts.length(1); }),
            "[text_documents] the id of a text of t must be in [0, 1) but is 1");
  EXPECT_EQ(message_of<ShapeError>([&] { ByteTokenizer::decode(std::vector<std::int64_t>{257}); }),
            "[text_documents] a token must be a byte in [0, 256) or 256 but is 257");
}

TEST(TextDocuments, NamesThePlaceOfAText) {
  const test::TemporaryFolder folder;
  const std::vector<std::filesystem::path> files{folder.write("b", "one\r\n%\r\ntwo\nlines\n%\nthree\n"),
                                                 folder.write("a",
                                                              "\xEF\xBB\xBF"
                                                              "four\n%\nfive")};
  const TextDocuments texts = TextDocuments::from_files("two files", files, {.split = DocumentSplit::fortune});
  const Strings want{":1", ":3", ":6", ":1", ":3"};
  ASSERT_EQ(texts.size(), 5);
  for (std::size_t id = 0; id < want.size(); ++id)
    EXPECT_EQ(texts.place(static_cast<std::int64_t>(id)), files[id / 3].string() + want[id]);
}

// What is cut is put together again: nothing of a text is lost, doubled or moved, whatever it looks like.
TEST(TextDocuments, LosesNothing) {
  const std::uint64_t seed = 20261126;
  SCOPED_TRACE(seed);
  Philox random(seed);
  for (int round = 0; round < 500; ++round) {
    const Strings pieces{"a", "%", "\n", "%\n", "\n%\n", " ", "\xC3\xA9", "\r\n", "\r"};
    std::string text = "x";
    for (auto count = random.next_u32() % 40; count-- > 0;) text += pieces[random.next_u32() % pieces.size()];
    std::string unix_text;
    for (std::size_t i = 0; i < text.size(); ++i)
      if (text[i] != '\r' || i + 1 == text.size() || text[i + 1] != '\n') unix_text += text[i];
    Strings lines{""};
    for (const char c : unix_text) {
      lines.back() += c;
      if (c == '\n') lines.emplace_back();
    }
    if (lines.back().empty()) lines.pop_back();
    Strings want{""};
    for (const std::string& line : lines)
      if (line == "%\n" || line == "%")
        want.emplace_back();
      else
        want.back() += line;
    std::erase_if(want, [](const std::string& t) { return t.find_first_not_of(" \n\r") == std::string::npos; });
    EXPECT_EQ(cut(text, DocumentSplit::fortune), want) << "round " << round << ": " << testing::PrintToString(text);
    EXPECT_EQ(cut(text, DocumentSplit::file), (Strings{unix_text}));
  }
}

TEST(TextDocuments, ReadsALineOfAnyLength) {
  const test::TemporaryFolder folder;
  const std::string line(std::size_t{48} << 20, 'x');
  const TextDocuments texts = TextDocuments::from_file(folder.write("long", line), {.split = DocumentSplit::line});
  ASSERT_EQ(texts.size(), 1);
  EXPECT_EQ(texts.length(0), static_cast<std::int64_t>(line.size()));
}

TEST(TextDocuments, SplitsByContent) {
  std::string lines;
  for (int i = 0; i < 2000; ++i) lines += std::to_string(i % 1900) + " is a number\n";  // the last 100 repeat others
  const auto make = [](const std::string& text) {
    return TextDocuments::from_text("numbers", text, {.split = DocumentSplit::line});
  };
  const TextDocuments all = make(lines);
  const auto [train, validation] = all.split(10, 3);
  EXPECT_EQ(train.name(), "numbers/train");
  EXPECT_EQ(validation.name(), "numbers/validation");
  EXPECT_EQ(train.size() + validation.size(), 2000);
  EXPECT_NEAR(static_cast<double>(validation.size()), 200, 60);  // 4.5 standard deviations
  const Strings a = texts_of(train), b = texts_of(validation);
  std::multiset<std::string> together(a.begin(), a.end());
  together.insert(b.begin(), b.end());
  const Strings whole = texts_of(all);
  EXPECT_EQ(together, std::multiset<std::string>(whole.begin(), whole.end()));
  const std::set<std::string> trained(a.begin(), a.end());
  for (const std::string& text : b) EXPECT_EQ(trained.count(text), 0u) << text << " is in both parts";
  // Another seed, another split; more texts in front move none of the old ones.
  EXPECT_NE(texts_of(all.split(10, 4).second), b);
  const Strings later = texts_of(make("first\n" + lines).split(10, 3).second);
  for (const std::string& text : b) EXPECT_NE(std::find(later.begin(), later.end(), text), later.end());

  EXPECT_EQ(message_of<OptionError>([&] { all.split(1); }),
            "[text_documents] one text in `every` is held back for validation: it must be at least 2 but is 1");
  EXPECT_NE(message_of<ShapeError>([&] { make("a\n").split(2); }).find("would be empty: one text in 2 of 1"),
            std::string::npos);
}

TEST(TextDocuments, TheFingerprintIsThatOfTheTexts) {
  const auto of = [](std::string_view text, TextOptions options = {.split = DocumentSplit::line}) {
    return TextDocuments::from_text("t", text, options).fingerprint();
  };
  EXPECT_EQ(of("a\nb\n"), of("a\r\n\r\nb"));  // the same texts
  std::set<std::uint64_t> all{of("a\nb\n"),    of("b\na\n"),
                              of("ab\n"),      of("a\nb\nc\n"),
                              of("a\nc\n"),    of("a\nb\n", {.split = DocumentSplit::line, .end_of_text = true}),
                              of("a\nb\n", {})};
  EXPECT_EQ(all.size(), 7u);
}

TEST(Fortunes, ReadsTheFilesThatFortuneReads) {
  const test::TemporaryFolder folder;
  folder.write("b", "two\n%\nthree\n");
  folder.write("a", "one\n");
  folder.write("a.dat", std::string(24, '\0'));
  folder.write("c.txt", "no\n");
  std::filesystem::create_symlink("a", folder.path() / "a.u8");
  std::filesystem::create_symlink("nowhere", folder.path() / "dangling");
  std::filesystem::create_directory(folder.path() / "off");
  EXPECT_EQ(texts_of(TextDocuments::fortunes(folder.path())), (Strings{"one\n", "two\n", "three\n"}));
  folder.write("d", "");
  EXPECT_EQ(message_of<IoError>([&] { TextDocuments::fortunes(folder.path()); }),
            "[text_documents] " + (folder.path() / "d").string() + " is empty: it holds no text");
}

TEST(Fortunes, NamesFolderAndPackageWhenThereAreNone) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(
      message_of<IoError>([&] { TextDocuments::fortunes(folder.path()); }),
      "[text_documents] there are no fortunes in " + folder.path().string() +
          " (it holds no file without a dot in its name): install the Debian package fortunes, or name the folder that "
          "holds such files");
  EXPECT_NE(
      message_of<IoError>([&] { TextDocuments::fortunes(folder.path() / "x"); }).find("No such file or directory"),
      std::string::npos);
}

TEST(Fortunes, TheRealDataSetIsWhatItIsSaidToBe) {
  if (!std::filesystem::exists("/usr/share/games/fortunes/art"))
    GTEST_SKIP() << "the package fortunes is not installed";
  const TextDocuments texts = TextDocuments::fortunes();
  EXPECT_EQ(texts.name(), "fortunes");
  EXPECT_EQ(texts.size(), 15'217);
  EXPECT_EQ(texts.tokens(), 2'546'242);
  EXPECT_EQ(texts.blank(), 4);
  std::vector<std::int64_t> lengths;
  std::set<std::string_view> distinct;
  for (std::int64_t id = 0; id < texts.size(); ++id) {
    lengths.push_back(texts.length(id));
    distinct.insert(texts.text(id));
  }
  std::sort(lengths.begin(), lengths.end());
  EXPECT_EQ(lengths.front(), 3);
  EXPECT_EQ(lengths[lengths.size() / 2], 98);
  EXPECT_EQ(lengths.back(), 2435);
  EXPECT_EQ(distinct.size(), 15'134u);
  const auto [train, validation] = texts.split();
  EXPECT_EQ(train.size() + validation.size(), texts.size());
  EXPECT_EQ(validation.size(), 764);
}

}  // namespace
}  // namespace weft::data
