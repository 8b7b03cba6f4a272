// Batches of matrix products, of all four orientations, by the tiles of kernels/common/matmul.h: a block per tile of C, the
// products of a batch along blockIdx.y, the chunks of a long sum along blockIdx.z. Transposed operands are read as they lie.
//   tile_128  tiles of 128 x 128, 8 x 8 sums per thread: large products, and many of them.
//   tile_64   tiles of 64 x 64, 8 x 4 sums per thread (f64: 4 x 4): everything else; takes every shape and dtype.
//   cublas    the library's kernels, where it is found: single products without gaps, to be measured against.
// Shared memory, conflicts and alignment: kernels/common/matmul.h. The shape says which variant runs: linear_plan.h.
#include "kernels/matmul.h"

#include "kernels/common/linear_plan.h"
#include "kernels/common/matmul_launch.h"
#if defined(__CUDACC__) && defined(WEFT_CUBLASLT)
#include "kernels/common/cublas.h"
#define WEFT_MATMUL_CUBLAS
#endif

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr Names kNames{"matmul", "matmul_combine", "a", "b", "c", "sums"};

Matmul product(const BatchedMatmul& args) {
  return {.m = args.m,
          .n = args.n,
          .k = args.k,
          .a = args.a,
          .b = args.b,
          .c = args.c,
          .mode = args.mode,
          .partial = args.workspace,
          .a_row = args.a_row,
          .b_row = args.b_row,
          .batch = args.batch};
}

template <template <class> class Shape>
void tiles(const Stream& stream, const BatchedMatmul& args, const MatmulPlan& plan) {
  constexpr Contiguous kK = Contiguous::k, kOuter = Contiguous::outer;
  const bool a_outer = args.a_order == kOuter, b_outer = args.b_order == kOuter;
  dispatch_float(args.dtype, "matmul", [&]<class T>(std::type_identity<T>) {
    constexpr Products kMany = Products::batch;
    using Tile = Shape<T>;
    if (!a_outer && b_outer) return multiply<T, Tile, kK, kOuter, kMany>(stream, kNames, product(args), plan);
    if (!a_outer) return multiply<T, Tile, kK, kK, kMany>(stream, kNames, product(args), plan);
    if (b_outer) return multiply<T, Tile, kOuter, kOuter, kMany>(stream, kNames, product(args), plan);
    multiply<T, Tile, kOuter, kK, kMany>(stream, kNames, product(args), plan);
  });
}

}  // namespace

std::span<const Variant<BatchedMatmul>> matmul_variants() {
  using Args = BatchedMatmul;
  static const Variant<Args> variants[] = {
    {"tile_128", "128 x 128 tiles, 8 x 8 sums per thread, two tiles in flight",
     [](const Args& args) { return args.dtype != Dtype::f64; },
     [](const Stream& stream, const Args& args) {
       tiles<Tile128>(stream, args, linear_plan::tile_128_plan(args.m, args.n, args.k, args.batch.count));
     }},
    {"tile_64", "64 x 64 tiles, 8 x 4 sums per thread, two tiles in flight", [](const Args&) { return true; },
     [](const Stream& stream, const Args& args) {
       tiles<Tile64>(stream, args, linear_plan::tile_64_plan(args.m, args.n, args.k, args.batch.count));
     }},
#if defined(WEFT_MATMUL_CUBLAS)
    {"cublas", "cuBLASLt: tensor cores for 16-bit types, true f32",
     [](const Args& args) {
       const bool dense = args.a_row == (args.a_order == Contiguous::k ? args.k : args.m) &&
                          args.b_row == (args.b_order == Contiguous::k ? args.k : args.n);
       return args.batch.count == 1 && dense && cublas_supports(args.dtype, product(args), args.a_order, args.b_order);
     },
     [](const Stream& stream, const Args& args) {
       cublas_matmul(stream, args.dtype, product(args), args.a_order, args.b_order);
     }},
#endif
  };
  return variants;
}

void matmul(const Stream& stream, const BatchedMatmul& args) {
  run_named("matmul", matmul_variants(), linear_plan::square_tile(args.dtype, args.m, args.n, args.k, args.batch.count),
            stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
