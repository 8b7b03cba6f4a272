// CSV. The first byte chooses the options, the rest is the text.
#include "data/csv.h"
#include "fuzz.h"

using namespace weft;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  data::CsvOptions options;
  options.delimiter = ",;\t|"[data[0] & 3];
  options.header = (data[0] & 4) == 0;
  if ((data[0] & 8) != 0) options.empty = data::CsvCells::keep;
  if ((data[0] & 16) != 0) options.not_finite = data::CsvCells::keep;
  if ((data[0] & 32) != 0) options.columns = {"b"};
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  data::CsvTable table;
  if (!fuzz::accepted([&] { table = data::parse_csv("input", text, options); })) return 0;
  fuzz::demand(table.values.rank() == 2 && table.values.size(0) > 0 &&
                   table.values.size(1) == static_cast<std::int64_t>(table.names.size()),
               "a row of numbers per line");
  // Written plainly and read again, bit by bit.
  std::string again;
  for (std::size_t c = 0; c < table.names.size(); ++c) again += (c > 0 ? ",c" : "c") + std::to_string(c);
  const auto values = table.values.to_vector<double>();
  for (std::size_t i = 0; i < values.size(); ++i)
    again += fmt::format("{}{}", i % table.names.size() == 0 ? '\n' : ',', values[i]);
  const data::CsvTable copy = data::parse_csv("copy", again, {.not_finite = data::CsvCells::keep});
  const auto bytes = static_cast<std::size_t>(table.values.nbytes());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double other = copy.values.data<double>()[i];
    fuzz::demand(values[i] == other || (values[i] != values[i] && other != other), "numbers keep their value");
  }
  fuzz::demand(bytes == static_cast<std::size_t>(copy.values.nbytes()), "rows and columns are as many");
  return 0;
}
