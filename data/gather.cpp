#include "data/gather.h"

#include <cstring>

namespace weft::data {

void check_ids(std::span<const std::int64_t> ids, std::int64_t samples) {
  for (std::size_t row = 0; row < ids.size(); ++row)
    require<ShapeError>(ids[row] >= 0 && ids[row] < samples, "collate",
                        "sample ids must be in [0, {}) but row {} asks for {}", samples, row, ids[row]);
}

Tensor gather_rows(const Tensor& x, std::span<const std::int64_t> ids) {
  check_ids(ids, x.size(0));
  const auto rows = static_cast<std::int64_t>(ids.size());
  Shape shape = x.shape();
  shape[0] = rows;
  Tensor y = Tensor::empty(shape, x.dtype());
  if (y.numel() == 0) return y;

  const std::int64_t row_bytes = y.nbytes() / rows;
  const std::byte* from = x.raw_data();
  std::byte* to = y.raw_data();
  parallel_rows(rows, row_bytes, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end;) {
      const std::int64_t first = ids[static_cast<std::size_t>(row)];
      std::int64_t count = 1;
      while (row + count < end && ids[static_cast<std::size_t>(row + count)] == first + count) ++count;
      std::memcpy(to + row * row_bytes, from + first * row_bytes, static_cast<std::size_t>(count * row_bytes));
      row += count;
      if (row + kPrefetchRows < end)
        prefetch_row(from + ids[static_cast<std::size_t>(row + kPrefetchRows)] * row_bytes, row_bytes);
    }
  });
  return y;
}

}  // namespace weft::data
