#include "data/csv.h"

#include <clocale>
#include <cmath>

#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/idx_files.h"
#include "tensor/error.h"
#include "tensor/philox.h"

namespace weft::data {
namespace {

using test::message_of;
using Strings = std::vector<std::string>;
using Values = std::vector<double>;

CsvTable parse(std::string_view text, const CsvOptions& options = {}) { return parse_csv("FILE", text, options); }
std::string error_of(std::string_view text, const CsvOptions& options = {}) {
  return message_of<IoError>([&] { parse(text, options); });
}
Values values_of(std::string_view text, const CsvOptions& options = {}) {
  return parse(text, options).values.to_vector<double>();
}

TEST(Csv, ReadsATable) {
  const CsvTable table = parse("day,co2,\"a, b\"\n1,315.5,-2\n2,316.25,+1e-3\n3,.5,5.\n");
  EXPECT_EQ(table.names, (Strings{"day", "co2", "a, b"}));
  EXPECT_EQ(table.values.shape(), Shape({3, 3}));
  EXPECT_EQ(table.values.to_vector<double>(), (Values{1, 315.5, -2, 2, 316.25, 1e-3, 3, .5, 5}));
  EXPECT_EQ(table.column("co2").to_vector<double>(), (Values{315.5, 316.25, .5}));
  EXPECT_EQ(message_of<ShapeError>([&] { (void)table.column("x"); }),
            "[csv] there is no column 'x' among day, co2, a, b");
}

TEST(Csv, ReadsEveryEndOfLine) {
  const Values want{1, 2, 3, 4};
  for (const char* text :
       {"a,b\n1,2\n3,4\n", "a,b\n1,2\n3,4", "a,b\r\n1,2\r\n3,4\r\n", "a,b\r\n1,2\n3,4",
        "\xEF\xBB\xBF\x61,b\n1,2\n3,4\n", " a\t, b \n 1 ,2\t\n\"3\", \"4\" \n", "a,b\n\" 1\t\",2\n3,\" 4\"\n"})
    EXPECT_EQ(values_of(text), want) << testing::PrintToString(text);
  EXPECT_EQ(parse("\xEF\xBB\xBF"
                  "a\n1")
                .names,
            (Strings{"a"}));
}

TEST(Csv, ReadsWithoutHeaderAndOtherDelimiters) {
  const CsvTable table = parse("1;2\n3;4\n", {.delimiter = ';', .header = false});
  EXPECT_EQ(table.names, (Strings{"0", "1"}));
  EXPECT_EQ(table.values.to_vector<double>(), (Values{1, 2, 3, 4}));
  EXPECT_EQ(values_of("a\tb\n1\t 2\n", {.delimiter = '\t'}), (Values{1, 2}));
  for (const char bad : {'"', '\n', '1', '.', '-', 'e', ' ', '\0', '\x80'})
    EXPECT_NE(message_of<OptionError>([&] { parse("a\n1\n", {.delimiter = bad}); }).find("the delimiter must be"),
              std::string::npos);
}

TEST(Csv, ReadsWantedColumnsInTheirOrder) {
  const std::string text = "date,open,\"the \"\"close\"\"\"\n1958-03-29,1,2\n\"April, or\n\"\"later\"\"\",3,4\n";
  const CsvTable table = parse(text, {.columns = {"the \"close\"", "open"}});
  EXPECT_EQ(table.values.to_vector<double>(), (Values{2, 1, 4, 3}));
  EXPECT_EQ(error_of(text), "[read_csv] FILE:2:1: '1958-03-29' in column 1 (date) is no number");
  EXPECT_EQ(error_of(text, {.columns = {"low"}}),
            "[read_csv] FILE has no column 'low': it has date, open, the \"close\"");
  EXPECT_EQ(message_of<OptionError>([&] {
              parse(text, {.columns = {"open", "open"}});
            }),
            "[read_csv] column 'open' is asked for twice");
  // An empty cell of a column that is not wanted is no error; the structure is checked all the same.
  EXPECT_EQ(values_of("a,b\n1,\n2,x\n", {.columns = {"a"}}), (Values{1, 2}));
  EXPECT_EQ(error_of("a,b\n1,x\"\n", {.columns = {"a"}}),
            "[read_csv] FILE:2:4: a quote inside a cell that does not start with one: quote the whole cell");
}

TEST(Csv, HasAPolicyForEmptyCells) {
  EXPECT_EQ(error_of("a,b\n1,2\n3,\n"),
            "[read_csv] FILE:3:3: an empty cell in column 2 (b): fill it, or take it as NaN with CsvCells::keep");
  EXPECT_EQ(error_of("a,b\n1,2\n3,\"  \"\n").find("[read_csv] FILE:3:3: an empty cell"), 0u);
  const Values values = values_of("a,b\n,2\n3,  \n", {.empty = CsvCells::keep});
  EXPECT_TRUE(std::isnan(values[0]) && std::isnan(values[3]));
  EXPECT_EQ(values[1] + values[2], 5);
  EXPECT_EQ(values_of("a\n1\n\n2\n", {.empty = CsvCells::keep}).size(),
            3u);  // one column: an empty line is an empty cell
}

TEST(Csv, HasAPolicyForWhatIsNotFinite) {
  for (const char* word : {"nan", "NaN", "inf", "-Infinity", "+INF"})
    EXPECT_EQ(error_of(std::string("a\n") + word), std::string("[read_csv] FILE:2:1: '") + word +
                                                       "' in column 1 (a): remove it, or take it with CsvCells::keep");
  const Values values = values_of("a\nNaN\ninf\n-inf\n+infinity\n", {.not_finite = CsvCells::keep});
  EXPECT_TRUE(std::isnan(values[0]));
  EXPECT_EQ(values[1], HUGE_VAL);
  EXPECT_EQ(values[2], -HUGE_VAL);
  EXPECT_EQ(values[3], HUGE_VAL);
}

TEST(Csv, RefusesWhatIsNoNumber) {
  for (const char* text : {"abc", "1x", "1 2", "1,5e", "0x10", "1e", "--1", "+-1", "-", ".", "e5", "1.2.3", "nan(1)",
                           "1_000", "\xC2\xBD", "1e5e", "infinit"})
    EXPECT_EQ(error_of(std::string("a;b\n7;") + text, {.delimiter = ';'}),
              std::string("[read_csv] FILE:2:3: '") + text + "' in column 2 (b) is no number");
  EXPECT_EQ(error_of("a\n1e999"), "[read_csv] FILE:2:1: '1e999' in column 1 (a) is too large or too small for 64 bits");
  EXPECT_EQ(error_of("a\n-1e-999"),
            "[read_csv] FILE:2:1: '-1e-999' in column 1 (a) is too large or too small for 64 bits");
  EXPECT_EQ(values_of("a\n1.7976931348623157e308\n5e-324\n-0\n"), (Values{1.7976931348623157e308, 5e-324, 0}));
  EXPECT_EQ(error_of("a\n" + std::string(100, 'x')).size(), error_of("a\n" + std::string(1000, 'x')).size());  // cut
}

TEST(Csv, RefusesRaggedRows) {
  EXPECT_EQ(error_of("a,b\n1,2\n3\n"), "[read_csv] FILE:3:1: a line of 1 cells but the first line has 2");
  EXPECT_EQ(error_of("a,b\n1,2,3\n"), "[read_csv] FILE:2:5: this is cell 3 but the first line has 2");
  EXPECT_EQ(error_of("a,b\n1,2,\n"), "[read_csv] FILE:2:5: this is cell 3 but the first line has 2");
  EXPECT_EQ(error_of("a,b\n1,2,"), "[read_csv] FILE:2:5: this is cell 3 but the first line has 2");
  EXPECT_EQ(error_of("a,b\n1,2\n\n3,4\n"), "[read_csv] FILE:3:1: an empty line: remove it");
  EXPECT_EQ(error_of("a,b\n1,2\r\n\r\n"), "[read_csv] FILE:3:1: an empty line: remove it");
}

TEST(Csv, RefusesBrokenQuotes) {
  EXPECT_EQ(error_of("a,b\n1,\"2\n3,4\n"), "[read_csv] FILE:2:3: the quote that starts here is never closed");
  EXPECT_EQ(error_of("a,b\n1,\"2\"3\n"),
            "[read_csv] FILE:2:6: '3' behind a closing quote: a quote within a cell is written twice");
  EXPECT_EQ(error_of("a,b\n1,2\"\n"),
            "[read_csv] FILE:2:4: a quote inside a cell that does not start with one: quote the whole cell");
  EXPECT_EQ(error_of("a\n\""), "[read_csv] FILE:2:1: the quote that starts here is never closed");
  EXPECT_EQ(error_of("a\n\"\"\"\""), "[read_csv] FILE:2:1: '\"\"' in column 1 (a) is no number");
}

TEST(Csv, CountsLinesWithinQuotes) {
  EXPECT_EQ(error_of("a,\"b\nc\"\n\"\n\r\n2\",1\n3,x\n", {.columns = {"b\nc"}}),
            "[read_csv] FILE:6:3: 'x' in column 2 (b\\x0ac) is no number");
  EXPECT_EQ(error_of("a\n\"1\n\"\n"), "[read_csv] FILE:2:1: '1\\x0a' in column 1 (a) is no number");
}

TEST(Csv, RefusesWhatIsNoText) {
  EXPECT_EQ(error_of(""), "[read_csv] FILE is empty: it holds no table");
  EXPECT_EQ(error_of("\xEF\xBB\xBF"), "[read_csv] FILE is empty: it holds no table");
  EXPECT_EQ(error_of("\xFF\xFE"
                     "a"),
            "[read_csv] FILE is UTF-16: convert it with iconv -f UTF-16 -t UTF-8");
  EXPECT_EQ(error_of(std::string_view("a,b\n1,\0\n", 8)),
            "[read_csv] FILE:2:3: a NUL byte, which no text holds: give a text file");
  EXPECT_EQ(error_of(std::string_view("a,b\n1,\"\0\"\n", 10)),
            "[read_csv] FILE:2:4: a NUL byte, which no text holds: give a text file");
  EXPECT_EQ(error_of("a,b\r1,2\r"),
            "[read_csv] FILE:1:4: a carriage return without a line feed: lines end in \\n or \\r\\n");
  EXPECT_EQ(error_of("a\n1\r"),
            "[read_csv] FILE:2:2: a carriage return without a line feed: lines end in \\n or \\r\\n");
}

TEST(Csv, RefusesWrongHeaders) {
  EXPECT_EQ(error_of("a,b"), "[read_csv] FILE names columns but has no rows: it needs at least one");
  EXPECT_EQ(error_of("1,2\n3,4\n"),
            "[read_csv] FILE:1:1: the first line must name the columns but holds numbers only: set header to false if "
            "it is a "
            "row");
  EXPECT_EQ(error_of("a,\n1,2\n"), "[read_csv] FILE:1:3: column 2 has no name");
  EXPECT_EQ(error_of("a, a\n1,2\n"), "[read_csv] FILE:1:1: two columns are called 'a'");
  EXPECT_EQ(error_of("\n1\n"), "[read_csv] FILE:1:1: column 1 has no name");
  EXPECT_EQ(error_of(std::string(70'000, ',')), "[read_csv] FILE:1:1: column 1 has no name");
  EXPECT_EQ(error_of(std::string(70'000, ','), {.header = false}),
            "[read_csv] FILE:1:65537: more than 65536 cells in the first line: is ',' the delimiter?");
}

TEST(Csv, ReadsALineOfAnyLength) {
  std::string row = "1";
  for (int i = 1; i < 65'536; ++i) row += ", " + std::string(40, '0') + "1";
  EXPECT_EQ(values_of(row + "\n" + row, {.header = false}), Values(2 * 65'536, 1));
  std::string zeros;
  zeros.assign(30'000'000, '0');
  EXPECT_EQ(values_of("a,b\n" + zeros + "1," + std::string(1'000'000, ' ') + "2"), (Values{1, 2}));
}

TEST(Csv, ReadsFilesStrictly) {
  const test::TemporaryFolder folder;
  const std::filesystem::path path = folder.write("co2.csv", "year,co2\n1958,315.5\n1959,x\n");
  EXPECT_EQ(message_of<IoError>([&] { read_csv(path); }),
            "[read_csv] " + path.string() + ":3:6: 'x' in column 2 (co2) is no number");
  EXPECT_EQ(message_of<IoError>([&] { read_csv(folder.path() / "absent"); }),
            "[read_csv] there is no file " + (folder.path() / "absent").string() + ": check the path");
  EXPECT_NE(message_of<IoError>([&] { read_csv(folder.path()); }).find("is not a regular file"), std::string::npos);
  EXPECT_NE(message_of<IoError>([&] { read_csv("/dev/zero"); }).find("is not a regular file"), std::string::npos);
}

// The decimal point is a point, wherever the program runs.
TEST(Csv, DoesNotDependOnTheLocale) {
  const std::string before = std::setlocale(LC_ALL, nullptr);
  if (std::setlocale(LC_ALL, "de_DE.UTF-8") == nullptr) GTEST_SKIP() << "the locale de_DE.UTF-8 is not installed";
  EXPECT_EQ(values_of("a\n1.5\n"), (Values{1.5}));
  std::setlocale(LC_ALL, before.c_str());
}

// Whatever is written is read back bit by bit, quoted or not.
TEST(Csv, ReadsBackWhatIsWritten) {
  const std::uint64_t seed = 20261126;
  SCOPED_TRACE(seed);
  Philox random(seed);
  for (int round = 0; round < 200; ++round) {
    const std::size_t rows = 1 + random.next_u32() % 9, columns = 1 + random.next_u32() % 6;
    std::string text;
    for (std::size_t c = 0; c < columns; ++c) text += (c > 0 ? ",c" : "c") + std::to_string(c);
    Values want;
    for (std::size_t r = 0; r < rows; ++r) {
      text += random.next_u32() % 2 == 0 ? "\n" : "\r\n";
      for (std::size_t c = 0; c < columns; ++c) {
        want.push_back(random.normal() * std::pow(10, random.next_u32() % 600 - 300.0));
        const std::string number = fmt::format("{}", want.back());
        text += std::string(c > 0 ? "," : "") + (random.next_u32() % 3 == 0 ? '"' + number + '"' : number);
      }
    }
    EXPECT_EQ(values_of(text), want) << text;
  }
}

// A cut table is an error, or what stands before the cut.
TEST(Csv, SurvivesEveryTruncation) {
  const std::string text = "\"a\",b\r\n1.5,\"2\"\r\n-3e2,4\r\n";
  for (std::size_t length = 0; length < text.size(); ++length) {
    const std::string message = error_of(text.substr(0, length));
    EXPECT_TRUE(message == "no exception" || message.find("[read_csv] FILE") == 0) << message;
  }
}

}  // namespace
}  // namespace weft::data
