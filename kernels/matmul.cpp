#include "kernels/matmul.h"

#include <algorithm>
#include <utility>

#include "kernels/common/gemm.h"
#include "kernels/common/linear_plan.h"
#include "tensor/parallel.h"

namespace weft::kernels {
namespace {

// Products of a chunk of the thread pool: about 25 µs. A product that has enough work for several threads is cut by
// gemm_cpu itself. Both follow from the shape alone, and the bits from neither.
constexpr std::int64_t kChunkWork = std::int64_t{1} << 20;   // multiply-adds
constexpr std::int64_t kLargeWork = std::int64_t{16} << 20;  // of one product

Gemm product_of(const BatchedMatmul& args) {
  Gemm product{.dtype = args.dtype,
               .m = args.m,
               .n = args.n,
               .k = args.k,
               .a = args.a,
               .a_row = 1,
               .a_col = 1,
               .b = args.b,
               .b_row = 1,
               .b_col = 1,
               .c = args.c,
               .c_row = args.n};
  (args.a_order == Contiguous::k ? product.a_row : product.a_col) = args.a_row;
  (args.b_order == Contiguous::k ? product.b_col : product.b_row) = args.b_row;
  product.mode = args.mode;
  if (args.n > 1 || args.m == 1) return product;
  // A matrix times a vector is the transposed vector times the transposed matrix: one row, for which gemm has a kernel.
  std::swap(product.m, product.n);
  std::swap(product.a, product.b);
  std::swap(product.a_row, product.b_col);
  std::swap(product.a_col, product.b_row);
  product.c_row = product.n;
  return product;
}

}  // namespace

void matmul(Device device, const BatchedMatmul& args) {
  if (WEFT_ON_GPU("matmul", matmul, device, args)) return;
  const std::int64_t work = args.m * args.n * args.k, bytes = element_bytes(args.dtype);
  const Gemm first = product_of(args);
  const bool swapped = first.a != args.a;
  const auto one = [&](std::int64_t index) {
    std::int64_t a = 0, b = 0, rest = index;
    for (int d = args.batch.dims - 1; d >= 0; --d) {
      const std::int64_t at = rest % args.batch.extent[d];
      rest /= args.batch.extent[d];
      a += at * args.batch.a_step[d];
      b += at * args.batch.b_step[d];
    }
    Gemm product = first;
    product.a = static_cast<const std::byte*>(first.a) + (swapped ? b : a) * bytes;
    product.b = static_cast<const std::byte*>(first.b) + (swapped ? a : b) * bytes;
    product.c = static_cast<std::byte*>(first.c) + index * args.m * args.n * bytes;
    gemm_cpu(product);
  };
  if (args.batch.count == 1 || work >= kLargeWork) {
    for (std::int64_t index = 0; index < args.batch.count; ++index) one(index);
    return;
  }
  parallel_ranges(args.batch.count, std::max<std::int64_t>(1, kChunkWork / std::max<std::int64_t>(work, 1)),
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t index = begin; index < end; ++index) one(index);
                  });
}

std::int64_t matmul_workspace(Device device, Dtype dtype, std::int64_t batch, std::int64_t m, std::int64_t n,
                              std::int64_t k) {
  if (device.kind == DeviceKind::cpu) return 0;
  return linear_plan::square_tile_bytes(dtype, m, n, k, batch * m * n, batch);
}

}  // namespace weft::kernels
