#include "data/csv.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include <fmt/ranges.h>

#include "data/file.h"
#include "tensor/error.h"

namespace weft::data {
namespace {

constexpr const char* kOp = "read_csv";
constexpr std::size_t kMostColumns = 65'536;

/// A text for messages: what cannot be printed escaped, long ones cut.
std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 40))
    if (static_cast<unsigned char>(c) >= ' ' && c != '\x7f')
      out += c;
    else
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return text.size() > 40 ? out + "..." : out;
}

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

enum class Numeral { number, not_finite, out_of_range, none };

/// Reads a number; sets `value` for the first two.
Numeral read_number(std::string_view text, double& value) {
  const bool minus = text.starts_with('-');
  if (minus || text.starts_with('+')) text.remove_prefix(1);
  const auto is_word = [&](std::string_view word) {
    return std::equal(text.begin(), text.end(), word.begin(), word.end(),
                      [](char a, char b) { return (a | 0x20) == b; });
  };
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (is_word("nan") || is_word("inf") || is_word("infinity")) {
    value = is_word("nan") ? std::numeric_limits<double>::quiet_NaN() : minus ? -kInfinity : kInfinity;
    return Numeral::not_finite;
  }
  // Neither a second sign nor from_chars' own words.
  if (text.empty() || text.find_first_not_of("0123456789.eE+-") != std::string_view::npos || text[0] == '-')
    return Numeral::none;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end != text.data() + text.size() || error == std::errc::invalid_argument) return Numeral::none;
  if (error == std::errc::result_out_of_range) return Numeral::out_of_range;
  if (minus) value = -value;
  return Numeral::number;
}

/// Walks over a table's cells; knows line and byte of each.
class Parser {
 public:
  Parser(const std::string& name, std::string_view text, const CsvOptions& options)
      : name_(name), text_(text), options_(options) {}

  CsvTable parse() {
    check_options();
    require<IoError>(!text_.empty(), kOp, "{} is empty: it holds no table", name_);
    require<IoError>(!text_.starts_with("\xFF\xFE") && !text_.starts_with("\xFE\xFF"), kOp,
                     "{} is UTF-16: convert it with iconv -f UTF-16 -t UTF-8", name_);
    if (text_.starts_with("\xEF\xBB\xBF")) text_.remove_prefix(3);
    require<IoError>(!text_.empty(), kOp, "{} is empty: it holds no table", name_);
    read_names();
    choose_columns();
    std::vector<double> values;
    std::size_t rows = 0;
    for (; at_ < text_.size(); ++rows) read_row(values);
    require<IoError>(rows > 0, kOp, "{} names columns but has no rows: it needs at least one", name_);
    const Shape shape{static_cast<std::int64_t>(rows), static_cast<std::int64_t>(table_.names.size())};
    table_.values = Tensor::from_vector(values, shape);
    return std::move(table_);
  }

 private:
  struct Cell {
    std::string_view text;  // without quotes and the blanks around; doubled quotes are still doubled
    std::int64_t line, byte;
    bool quoted, last;  // last: of its row
  };

  void check_options() const {
    const char c = options_.delimiter;
    const bool good = c == '\t' || (c > ' ' && c <= '~' && c != '"' && c != '.' && c != '+' && c != '-' &&
                                    !(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z'));
    require<OptionError>(good, kOp,
                         "the delimiter must be a tab or a sign that is no part of numbers or words but is '{}'",
                         printable({&c, 1}));
  }

  template <class... Args>
  [[noreturn]] void refuse(std::int64_t line, std::int64_t byte, fmt::format_string<Args...> format,
                           Args&&... args) const {
    fail<IoError>(kOp, "{}:{}:{}: {}", name_, line, byte, fmt::format(format, std::forward<Args>(args)...));
  }
  std::int64_t byte_at(std::size_t at) const { return static_cast<std::int64_t>(at - line_start_) + 1; }

  /// The next cell; the place is behind it and its delimiter or line end afterwards.
  Cell next_cell() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t') && text_[at_] != options_.delimiter) ++at_;
    Cell cell{{}, line_, byte_at(at_), at_ < text_.size() && text_[at_] == '"', false};
    if (cell.quoted)
      read_quoted(cell);
    else
      read_plain(cell);
    cell.last = at_ == text_.size() || text_[at_] != options_.delimiter;
    if (at_ < text_.size() && text_[at_] == '\r') ++at_;
    if (at_ == text_.size()) return cell;
    if (text_[at_] == '\n') {
      ++line_;
      line_start_ = at_ + 1;
    }
    ++at_;
    return cell;
  }
  void read_plain(Cell& cell) {
    const std::size_t begin = at_;
    for (; at_ < text_.size() && text_[at_] != options_.delimiter && text_[at_] != '\n'; ++at_) {
      if (text_[at_] == '\r' && at_end_of_line()) break;
      if (text_[at_] == '"')
        refuse(line_, byte_at(at_), "a quote inside a cell that does not start with one: quote the whole cell");
      check_byte();
    }
    cell.text = trimmed(text_.substr(begin, at_ - begin));
  }
  void read_quoted(Cell& cell) {
    const std::size_t begin = ++at_;
    for (;; ++at_) {
      if (at_ == text_.size()) refuse(cell.line, cell.byte, "the quote that starts here is never closed");
      if (text_[at_] == '"') {
        if (at_ + 1 == text_.size() || text_[at_ + 1] != '"') break;
        ++at_;
      } else if (text_[at_] == '\n') {
        ++line_;
        line_start_ = at_ + 1;
      } else if (text_[at_] != '\r' || !at_end_of_line()) {
        check_byte();
      }
    }
    cell.text = text_.substr(begin, at_ - begin);
    ++at_;
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t') && text_[at_] != options_.delimiter) ++at_;
    if (at_ == text_.size() || text_[at_] == options_.delimiter || text_[at_] == '\n' ||
        (text_[at_] == '\r' && at_end_of_line()))
      return;
    refuse(line_, byte_at(at_), "'{}' behind a closing quote: a quote within a cell is written twice",
           printable(text_.substr(at_, 1)));
  }
  bool at_end_of_line() const { return at_ + 1 < text_.size() && text_[at_ + 1] == '\n'; }
  void check_byte() const {
    if (text_[at_] == '\0') refuse(line_, byte_at(at_), "a NUL byte, which no text holds: give a text file");
    if (text_[at_] == '\r')
      refuse(line_, byte_at(at_), "a carriage return without a line feed: lines end in \\n or \\r\\n");
  }

  static std::string unescaped(const Cell& cell) {
    std::string text(cell.text);
    for (std::size_t at = 0; cell.quoted && (at = text.find("\"\"", at)) != std::string::npos; ++at) text.erase(at, 1);
    return text;
  }

  /// The names of all columns; without a header as many numbers as the first line has cells.
  void read_names() {
    bool numbers_only = true;
    for (bool last = false; !last;) {
      const Cell cell = next_cell();
      last = cell.last;
      if (all_names_.size() == kMostColumns)
        refuse(cell.line, cell.byte, "more than {} cells in the first line: is '{}' the delimiter?", kMostColumns,
               options_.delimiter);
      std::string name = options_.header ? unescaped(cell) : std::to_string(all_names_.size());
      if (name.empty()) refuse(cell.line, cell.byte, "column {} has no name", all_names_.size() + 1);
      double ignored = 0;
      numbers_only = numbers_only && read_number(name, ignored) == Numeral::number;
      all_names_.push_back(std::move(name));
    }
    if (!options_.header) {
      at_ = line_start_ = 0;
      line_ = 1;
      return;
    }
    if (numbers_only)
      refuse(1, 1, "the first line must name the columns but holds numbers only: set header to false if it is a row");
    auto sorted = all_names_;
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end()) refuse(1, 1, "two columns are called '{}'", printable(*twice));
  }

  std::string list_names() const {
    std::string list;
    for (std::size_t i = 0; i < std::min<std::size_t>(all_names_.size(), 12); ++i)
      list += (i > 0 ? ", " : "") + printable(all_names_[i]);
    return all_names_.size() > 12 ? list + ", ..." : list;
  }

  /// Where each column's number goes.
  void choose_columns() {
    place_.assign(all_names_.size(), -1);
    table_.names = options_.columns.empty() ? all_names_ : options_.columns;
    if (options_.columns.empty()) {
      for (std::size_t i = 0; i < place_.size(); ++i) place_[i] = static_cast<std::int64_t>(i);
      return;
    }
    for (std::size_t i = 0; i < table_.names.size(); ++i) {
      const auto found = std::find(all_names_.begin(), all_names_.end(), table_.names[i]);
      require<IoError>(found != all_names_.end(), kOp, "{} has no column '{}': it has {}", name_,
                       printable(table_.names[i]), list_names());
      std::int64_t& place = place_[static_cast<std::size_t>(found - all_names_.begin())];
      require<OptionError>(place < 0, kOp, "column '{}' is asked for twice", printable(table_.names[i]));
      place = static_cast<std::int64_t>(i);
    }
  }

  void read_row(std::vector<double>& values) {
    const std::int64_t line = line_;
    if (all_names_.size() > 1 && (text_[at_] == '\n' || text_.substr(at_).starts_with("\r\n")))
      refuse(line, 1, "an empty line: remove it");
    const std::size_t begin = values.size();
    values.resize(begin + table_.names.size());
    std::size_t cells = 0;
    for (bool last = false; !last; ++cells) {
      const Cell cell = next_cell();
      last = cell.last;
      if (cells == all_names_.size()) refuse(cell.line, cell.byte, "this is cell {} but {}", cells + 1, first_line());
      if (place_[cells] >= 0) values[begin + static_cast<std::size_t>(place_[cells])] = number(cell, cells);
    }
    if (cells < all_names_.size()) refuse(line, 1, "a line of {} cells but {}", cells, first_line());
  }
  std::string first_line() const { return fmt::format("the first line has {}", all_names_.size()); }

  double number(const Cell& cell, std::size_t column) const {
    double value = std::numeric_limits<double>::quiet_NaN();
    const auto in_column = [&] { return fmt::format("in column {} ({})", column + 1, printable(all_names_[column])); };
    const std::string_view text = trimmed(cell.text);
    if (text.empty()) {
      if (options_.empty == CsvCells::keep) return value;
      refuse(cell.line, cell.byte, "an empty cell {}: fill it, or take it as NaN with CsvCells::keep", in_column());
    }
    switch (read_number(text, value)) {
      case Numeral::number: return value;
      case Numeral::not_finite:
        if (options_.not_finite == CsvCells::keep) return value;
        refuse(cell.line, cell.byte, "'{}' {}: remove it, or take it with CsvCells::keep", printable(text),
               in_column());
      case Numeral::out_of_range:
        refuse(cell.line, cell.byte, "'{}' {} is too large or too small for 64 bits", printable(text), in_column());
      case Numeral::none: break;
    }
    refuse(cell.line, cell.byte, "'{}' {} is no number", printable(text), in_column());
  }

  const std::string& name_;
  std::string_view text_;
  const CsvOptions& options_;
  std::size_t at_ = 0, line_start_ = 0;
  std::int64_t line_ = 1;
  std::vector<std::string> all_names_;
  std::vector<std::int64_t> place_;  // of a column's number in its row; -1: not wanted
  CsvTable table_;
};

}  // namespace

Tensor CsvTable::column(std::string_view name) const {
  const auto found = std::find(names.begin(), names.end(), name);
  require<ShapeError>(found != names.end(), "csv", "there is no column '{}' among {}", name, fmt::join(names, ", "));
  return values.select(1, found - names.begin());
}

CsvTable parse_csv(const std::string& name, std::string_view text, const CsvOptions& options) {
  return Parser(name, text, options).parse();
}

CsvTable read_csv(const std::filesystem::path& path, const CsvOptions& options) {
  const InputFile file(kOp, path);
  std::string text(static_cast<std::size_t>(file.bytes()), '\0');
  const std::int64_t got = file.read_at(0, text.data(), file.bytes());
  require<IoError>(got == file.bytes(), kOp, "{} became shorter while it was read ({} of {} bytes): read it again",
                   file.name(), got, file.bytes());
  return parse_csv(file.name(), text, options);
}

}  // namespace weft::data
