// Figures of one launch, and the table of them.
#include <algorithm>
#include <array>

#include <fmt/core.h>

#include "simt/traffic.h"

namespace weft::simt {

const char* to_string(OperandKind kind) {
  switch (kind) {
    case OperandKind::streamed: return "streamed";
    case OperandKind::broadcast: return "broadcast";
    case OperandKind::workspace: return "workspace";
  }
  return "?";
}

double OperandTraffic::coalescing() const {
  return request_sectors == 0 ? 1.0 : static_cast<double>(ideal_sectors) / static_cast<double>(request_sectors);
}

std::int64_t KernelTraffic::sector_bytes() const {
  std::int64_t total = 0;
  for (const OperandTraffic& operand : operands) total += operand.sector_bytes();
  return total;
}

double KernelTraffic::coalescing() const {
  std::int64_t ideal = 0, actual = 0;
  for (const OperandTraffic& operand : operands) {
    ideal += operand.ideal_sectors;
    actual += operand.request_sectors;
  }
  return actual == 0 ? 1.0 : static_cast<double>(ideal) / static_cast<double>(actual);
}

const OperandTraffic* KernelTraffic::find(const char* name) const {
  const auto found = std::find_if(operands.begin(), operands.end(), [&](const auto& o) { return o.name == name; });
  return found == operands.end() ? nullptr : &*found;
}

namespace {

constexpr std::size_t kColumns = 11;
using Row = std::array<std::string, kColumns>;
// The first columns are words, the others numbers.
constexpr std::size_t kWordColumns = 3;

Row operand_row(const OperandTraffic& operand) {
  Row row;
  row[1] = operand.name;
  row[2] = to_string(operand.kind);
  row[3] = fmt::format("{}", operand.declared_bytes);
  row[4] = fmt::format("{}", operand.read_bytes);
  row[5] = fmt::format("{}", operand.written_bytes);
  row[6] = fmt::format("{}", operand.sector_bytes());
  row[7] = operand.declared_bytes == 0 ? "-"
                                       : fmt::format("{:.2f}", static_cast<double>(operand.sector_bytes()) /
                                                                   static_cast<double>(operand.declared_bytes));
  row[8] = operand.requests == 0 ? "-" : fmt::format("{:.1f}", 100 * operand.coalescing());
  row[9] = operand.requests == 0 ? "-" : fmt::format("{}", operand.widest_access_bytes);
  row[10] = "-";
  return row;
}

}  // namespace

std::string traffic_table(const std::vector<KernelTraffic>& launches) {
  std::vector<Row> rows{{"kernel", "operand", "kind", "declared B", "read B", "written B", "moved B", "moved/declared",
                         "coalesced %", "widest B", "bank conflicts"}};
  for (const KernelTraffic& launch : launches) {
    const std::size_t first = rows.size();
    for (const OperandTraffic& operand : launch.operands) rows.push_back(operand_row(operand));
    if (launch.shared_requests > 0) {
      Row row;
      row.fill("-");
      row[0].clear();
      row[1] = "(shared)";
      row[2] = "shared";
      row[10] = fmt::format("{} in {} wavefronts", launch.bank_conflicts(), launch.shared_wavefronts);
      rows.push_back(row);
    }
    if (rows.size() == first) rows.emplace_back();
    rows[first][0] = launch.kernel;
  }
  std::array<std::size_t, kColumns> widths{};
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < kColumns; ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < kColumns; ++i) {
      if (i > 0) line += "  ";
      line += i < kWordColumns ? fmt::format("{:<{}}", row[i], widths[i]) : fmt::format("{:>{}}", row[i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  }
  return text;
}

}  // namespace weft::simt
