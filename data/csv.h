#pragma once
// Numbers in tables of text: comma-separated values, read strictly.
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace weft::data {

/// What to do with an empty cell, and with one that says nan or inf.
///   refuse  an error that names the place
///   keep    NaN for an empty cell, NaN or infinity for the words
enum class CsvCells { refuse, keep };

/// How a table is written, and what is wanted of it.
struct CsvOptions {
  char delimiter = ',';
  bool header = true;                     // the first line names the columns; without, they are "0", "1", ...
  std::vector<std::string> columns = {};  // those to read, in this order; none: all. The others may hold any text
  CsvCells empty = CsvCells::refuse;
  CsvCells not_finite = CsvCells::refuse;
};

/// The numbers of a table.
struct CsvTable {
  std::vector<std::string> names;  // of the columns
  Tensor values;                   // f64 [rows, columns]

  /// One column, [rows], a view. Errors: ShapeError naming the columns that there are.
  Tensor column(std::string_view name) const;
};

/// Reads a table of numbers, and trusts nothing in it.
///   const data::CsvTable co2 = data::read_csv("co2.csv", {.columns = {"co2"}, .empty = data::CsvCells::keep});
/// Format:  RFC 4180: one row per line, cells parted by the delimiter; a cell may stand in double quotes, a quote in it doubled,
///          and then hold delimiters and line ends. Lines end in "\n" or "\r\n", the last one also in nothing. A byte order mark
///          at the start is dropped; blanks around a cell are no part of it. Lines may be of any length, columns at most 65 536.
/// Numbers: decimal, with a point, exponent and sign as they like, whatever the locale: 12, -0.5, +1e-3, .5, 5.
/// Errors:  IoError "[read_csv] co2.csv:17:9: '3,5' in column 2 (co2) is no number": file, line and byte of the cell, each
///          counted from 1 (lines within quotes too), for a cell of a wanted column that is empty, no number, not finite or
///          beyond f64 (1e999, 1e-999); for lines with more or fewer cells than the first, or none; a quote inside a cell,
///          text behind a closing quote, a quote that is never closed; "\r" without "\n"; a NUL byte; UTF-16; columns without a
///          name, with the same one, or all named by numbers (the header is missing, then); a wanted column that is not
///          there; a table without rows; a file that is missing, empty or cannot be read. OptionError for a delimiter that
///          may be part of a cell.
/// Memory:  the file, and 8 bytes per number.
CsvTable read_csv(const std::filesystem::path& path, const CsvOptions& options = {});

/// The same of a text in memory; `name` stands for the file in messages.
CsvTable parse_csv(const std::string& name, std::string_view text, const CsvOptions& options = {});

}  // namespace weft::data
