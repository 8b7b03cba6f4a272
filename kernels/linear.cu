// The products of a linear layer, with what surrounds them fused in: y = act(x W^T + b), dx = dz W, dW = dz^T x and db.
//   rows      few rows (R <= 4, single samples): the weights are read once, at the speed of memory, and all else
//             stays in the cache. Forward: a warp for two outputs, lanes along K, 8 warps per block; shared: 16 sums
//             per row. dx: a lane for 16 bytes of a row of W, the 8 warps of a block take turns down N; shared: 4 to
//             36 KiB.
//   narrow    N <= 16 (a classifier's last layer): tiles of 128 x 16, so that the few outputs waste little.
//   tile_128  tiles of 128 x 128, 8 x 8 sums per thread: large products.
//   tile_64   tiles of 64 x 64, 8 x 4 sums per thread (f64: 4 x 4): everything else; takes every shape and dtype.
//   cublas    the library's kernels (tensor cores for 16-bit types), where it is found.
// The tiles' mapping, shared memory and conditions: kernels/common/matmul.h. A product with too few tiles to fill a
// GPU is also cut along its sum; the partial sums go to the workspace, and a second kernel adds them in order. The
// gradient of the bias comes out of the weight gradient's own pass over dz. The shape says which variant runs:
// linear_plan.h.
#include "kernels/linear.h"

#include "kernels/common/block.h"
#include "kernels/common/linear_plan.h"
#include "kernels/common/matmul_launch.h"
#if defined(__CUDACC__) && defined(WEFT_CUBLASLT)
#include "kernels/common/cublas.h"
#define WEFT_LINEAR_CUBLAS
#endif

namespace weft::kernels::WEFT_BACKEND {
namespace {

// --- few rows: y = x W^T --------------------------------------------------------------------------------------------

constexpr int kRowsThreads = 256, kRowsWarps = kRowsThreads / kWarpSize;
constexpr int kRowsOutputs = 2;  // of a warp: two rows of weights on their way at a time

template <class T, int kRows>
WEFT_KERNEL __launch_bounds__(kRowsThreads) rows_forward_kernel(LinearForward args, bool aligned) {
  using C = compute_t<T>;
  constexpr int kWidth = kVectorWidth<T>;
  WEFT_SHARED(C, sums, kRows * kRowsWarps * kRowsOutputs);
  const T* const x = static_cast<const T*>(args.x);
  const T* const weight = static_cast<const T*>(args.weight);
  const std::int64_t first =
      static_cast<std::int64_t>(blockIdx.x) * (kRowsWarps * kRowsOutputs);  // output of the block
  C total[kRows][kRowsOutputs] = {};
  for (std::int64_t k = lane_index() * kWidth; k < args.in; k += kWarpSize * kWidth) {
    Vec<T, kWidth> w[kRowsOutputs];
    WEFT_UNROLL
    for (int o = 0; o < kRowsOutputs; ++o) {
      const std::int64_t n = first + warp_index() * kRowsOutputs + o;
      w[o] = load_clipped(weight + n * args.in + k, n < args.out ? args.in - k : 0, aligned);
    }
    WEFT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec<T, kWidth> v = load_clipped(x + r * args.in + k, r < args.rows ? args.in - k : 0, aligned);
      WEFT_UNROLL
      for (int o = 0; o < kRowsOutputs; ++o) WEFT_UNROLL
      for (int e = 0; e < kWidth; ++e) total[r][o] = fused(widen(v[e]), widen(w[o][e]), total[r][o]);
    }
  }
  WEFT_UNROLL
  for (int r = 0; r < kRows; ++r) WEFT_UNROLL
  for (int o = 0; o < kRowsOutputs; ++o) {
    const C sum = warp_sum(total[r][o]);
    if (lane_index() == 0) sums[(r * kRowsWarps + warp_index()) * kRowsOutputs + o] = sum;
  }
  __syncthreads();  // so that neighbouring threads can write neighbouring outputs
  const int thread = static_cast<int>(threadIdx.x), row = thread / (kRowsWarps * kRowsOutputs);
  const std::int64_t n = first + thread % (kRowsWarps * kRowsOutputs);
  if (row >= kRows || row >= args.rows || n >= args.out) return;
  C sum = sums[thread];
  if (args.bias != nullptr) sum += widen(load_one(static_cast<const T*>(args.bias) + n));
  finish_one(static_cast<T*>(args.y) + row * args.out + n, sum, args.activation == LinearActivation::relu,
             Accumulate::overwrite);
}

template <class T, int kRows>
void start_rows_forward(const Stream& stream, const LinearForward& args) {
  constexpr auto kSize = static_cast<std::int64_t>(sizeof(T));
  if (args.rows == 0) return;
  launch(stream,
         {.name = "linear_forward_rows",
          .grid = {ceil_div<std::int64_t>(args.out, kRowsWarps * kRowsOutputs)},
          .block = {kRowsThreads},
          .operands = {{"x", args.x, args.rows * args.in * kSize, OperandKind::broadcast},
                       {"weight", args.weight, args.out * args.in * kSize},
                       {"bias", args.bias, args.out * kSize, OperandKind::broadcast},
                       {"y", args.y, args.rows * args.out * kSize}}},
         rows_forward_kernel<T, kRows>, args,
         rows_aligned<T>(args.x, args.in) && rows_aligned<T>(args.weight, args.in));
}

// --- few rows: dx = dz W; and the sums of columns -------------------------------------------------------------------

// out[r,c] = sum over j of coefficient[r,j] * matrix[j,c]; coefficients that are not given are 1.
struct Columns {
  std::int64_t rows, count, columns;
  const void* coefficient;  // in, [rows, count] or null
  const void* matrix;       // in, [count, columns]
  void* out;                // out or inout, [rows, columns]
  Accumulate mode;
  void* partial;  // workspace, [chunks, rows, columns] in compute type
};

// A lane owns 16 bytes of columns; the block's warps take turns down j and are added up at the end.
// Grid: (strips, chunks).
template <class T, int kRows>
WEFT_KERNEL __launch_bounds__(kRowsThreads) columns_kernel(Columns args, MatmulPlan plan, bool aligned) {
  using C = compute_t<T>;
  constexpr int kWidth = kVectorWidth<T>, kGroup = 16 / sizeof(C), kGroups = kWidth / kGroup;
  constexpr int kStrip = kWarpSize * kWidth;  // columns of a block
  // [warp][row][group][lane * kGroup]; the second group of a 16-bit vector half a turn of the banks further on.
  constexpr int kPlane = kWarpSize * kGroup + (kGroups > 1 ? 64 / static_cast<int>(sizeof(C)) : 0);
  constexpr int kPlanes = kRows * kGroups;
  constexpr int kAhead = 4;  // vectors on their way at a time
  WEFT_SHARED(C, sums, kRowsWarps * kPlanes * kPlane);

  const T* const coefficient = static_cast<const T*>(args.coefficient);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kStrip, column = first + lane_index() * kWidth;
  const std::int64_t begin = blockIdx.y * plan.chunk, end = smaller(begin + plan.chunk, args.count);
  const T* const matrix = static_cast<const T*>(args.matrix) + column;
  C total[kRows][kWidth] = {};
  for (std::int64_t j = begin + warp_index(); j < end; j += kAhead * kRowsWarps) {
    Vec<T, kWidth> value[kAhead];
    WEFT_UNROLL
    for (int a = 0; a < kAhead; ++a) {
      const std::int64_t at = j + a * kRowsWarps;
      value[a] = load_clipped(matrix + at * args.columns, at < end ? args.columns - column : 0, aligned);
    }
    WEFT_UNROLL
    for (int a = 0; a < kAhead; ++a) {
      const std::int64_t at = j + a * kRowsWarps;
      WEFT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        C factor = C(1);
        if (coefficient != nullptr)
          factor =
              at < end && r < args.rows ? widen(load_one<Cache::readonly>(coefficient + r * args.count + at)) : C(0);
        WEFT_UNROLL
        for (int e = 0; e < kWidth; ++e) total[r][e] = fused(factor, widen(value[a][e]), total[r][e]);
      }
    }
  }
  WEFT_UNROLL
  for (int r = 0; r < kRows; ++r) WEFT_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    Vec<C, kGroup> part;
    WEFT_UNROLL
    for (int e = 0; e < kGroup; ++e) part[e] = total[r][g * kGroup + e];
    store_shared(sums, (warp_index() * kPlanes + r * kGroups + g) * kPlane + lane_index() * kGroup, part);
  }
  __syncthreads();
  for (int item = static_cast<int>(threadIdx.x); item < kRows * kStrip; item += kRowsThreads) {
    const int row = item / kStrip, offset = item % kStrip;
    const std::int64_t c = first + offset;
    if (row >= args.rows || c >= args.columns) continue;
    const int place = (row * kGroups + offset % kWidth / kGroup) * kPlane + offset / kWidth * kGroup + offset % kGroup;
    C sum = sums[place];
    for (int warp = 1; warp < kRowsWarps; ++warp) sum += sums[warp * kPlanes * kPlane + place];
    if (plan.chunks == 1)
      finish_one(static_cast<T*>(args.out) + row * args.columns + c, sum, false, args.mode);
    else
      store_one(static_cast<C*>(args.partial) + (blockIdx.y * args.rows + row) * args.columns + c, sum);
  }
}

template <class T, int kRows>
void sum_columns(const Stream& stream, const Names& names, const Columns& args) {
  constexpr auto kSize = static_cast<std::int64_t>(sizeof(T));
  const std::int64_t elements = args.rows * args.columns;
  if (elements == 0) return;
  const MatmulPlan plan = linear_plan::columns_plan(dtype_of<T>, args.count, args.columns);
  require(plan.chunks == 1 || args.partial != nullptr, "linear", "{} needs its workspace", names.kernel);
  launch(stream,
         {.name = names.kernel,
          .grid = {plan.tiles_n, plan.chunks},
          .block = {kRowsThreads},
          .operands = {{names.a, args.coefficient, args.rows * args.count * kSize, OperandKind::broadcast},
                       {names.b, args.matrix, args.count * args.columns * kSize},
                       {names.c, args.out, elements * kSize},
                       {"partial", args.partial, partial_bytes(plan, elements, dtype_of<T>), OperandKind::workspace}}},
         columns_kernel<T, kRows>, args, plan, rows_aligned<T>(args.matrix, args.columns));
  if (plan.chunks > 1)
    combine<T>(stream, names.combine, {args.partial, elements, 1, nullptr, false, args.out, args.mode}, {},
               plan.chunks);
}

// --- the ops as products --------------------------------------------------------------------------------------------

Matmul product(const LinearForward& args) {
  return {.m = args.rows,
          .n = args.out,
          .k = args.in,
          .a = args.x,
          .b = args.weight,
          .c = args.y,
          .bias = args.bias,
          .relu = args.activation == LinearActivation::relu,
          .partial = args.workspace};
}
Matmul product(const LinearBackwardInput& args) {
  return {.m = args.rows,
          .n = args.in,
          .k = args.out,
          .a = args.dz,
          .b = args.weight,
          .c = args.dx,
          .partial = args.workspace};
}
Matmul product(const LinearBackwardWeight& args) {
  return {.m = args.out,
          .n = args.in,
          .k = args.rows,
          .a = args.dz,
          .b = args.x,
          .c = args.dweight,
          .mode = args.mode,
          .sums = args.dbias,
          .sums_mode = args.dbias_mode,
          .partial = args.workspace};
}

constexpr Names kForward{"linear_forward", "linear_forward_combine", "x", "weight", "y", "sums"};
constexpr Names kBackwardInput{"linear_backward_input", "linear_backward_input_combine", "dz", "weight", "dx", "sums"};
constexpr Names kBackwardWeight{
    "linear_backward_weight", "linear_backward_weight_combine", "dz", "x", "dweight", "dbias"};
constexpr Names kBackwardBias{"linear_backward_bias", "linear_backward_bias_combine", "ones", "dz", "dbias", "sums"};

// The orientation of the operands is the op's, the tile the variant's.
template <template <class> class Shape>
void forward_tiles(const Stream& stream, const LinearForward& args, const MatmulPlan& plan) {
  dispatch_float(args.dtype, "linear", [&]<class T>(std::type_identity<T>) {
    multiply<T, Shape<T>, Contiguous::k, Contiguous::k>(stream, kForward, product(args), plan);
  });
}
template <template <class> class Shape>
void backward_input_tiles(const Stream& stream, const LinearBackwardInput& args, const MatmulPlan& plan) {
  dispatch_float(args.dtype, "linear", [&]<class T>(std::type_identity<T>) {
    multiply<T, Shape<T>, Contiguous::k, Contiguous::outer>(stream, kBackwardInput, product(args), plan);
  });
}
void sum_rows(const Stream& stream, const LinearBackwardBias& args) {
  dispatch_float(args.dtype, "linear", [&]<class T>(std::type_identity<T>) {
    sum_columns<T, 1>(stream, kBackwardBias,
                      {1, args.rows, args.out, nullptr, args.dz, args.dbias, args.mode, args.workspace});
  });
}
LinearBackwardBias bias_of(const LinearBackwardWeight& args) {
  return {args.dtype, args.dz, args.dbias, args.rows, args.out, args.dbias_mode, args.workspace};
}
template <template <class> class Shape>
void backward_weight_tiles(const Stream& stream, const LinearBackwardWeight& args, const MatmulPlan& plan) {
  if (args.in == 0) {  // no tile that could sum up dz on its way
    if (args.dbias != nullptr) sum_rows(stream, bias_of(args));
    return;
  }
  dispatch_float(args.dtype, "linear", [&]<class T>(std::type_identity<T>) {
    multiply<T, Shape<T>, Contiguous::outer, Contiguous::outer>(stream, kBackwardWeight, product(args), plan);
  });
}

void forward_rows(const Stream& stream, const LinearForward& args) {
  dispatch_float(args.dtype, "linear", [&]<class T>(std::type_identity<T>) {
    if (args.rows == 1) return start_rows_forward<T, 1>(stream, args);
    start_rows_forward<T, linear_plan::kFewRows>(stream, args);
  });
}
void backward_input_rows(const Stream& stream, const LinearBackwardInput& args) {
  dispatch_float(args.dtype, "linear", [&]<class T>(std::type_identity<T>) {
    const Columns sums{args.rows,     args.out, args.in, args.dz, args.weight, args.dx, Accumulate::overwrite,
                       args.workspace};
    if (args.rows == 1) return sum_columns<T, 1>(stream, kBackwardInput, sums);
    sum_columns<T, linear_plan::kFewRows>(stream, kBackwardInput, sums);
  });
}

constexpr const char* kRowsIdea = "at most 4 rows: weights read once in wide loads, no tiles";
constexpr const char* kNarrowIdea = "at most 16 outputs: tiles that waste little on them";
constexpr const char* kTile128Idea = "128 x 128 tiles, 8 x 8 sums per thread, two tiles in flight";
constexpr const char* kTile64Idea = "64 x 64 tiles, 8 x 4 sums per thread, two tiles in flight";
#if defined(WEFT_LINEAR_CUBLAS)
constexpr const char* kCublasIdea = "cuBLASLt: tensor cores for 16-bit types, true f32";
#endif

}  // namespace

// The lists say what can run; linear_plan says which one does. cublas is there to be measured against.
std::span<const Variant<LinearForward>> linear_forward_variants() {
  using Args = LinearForward;
  static const Variant<Args> variants[] = {
    {"rows", kRowsIdea, [](const Args& args) { return args.rows <= linear_plan::kFewRows; }, forward_rows},
    {"narrow", kNarrowIdea, [](const Args& args) { return args.out <= linear_plan::kNarrow; },
     [](const Stream& stream, const Args& args) {
       forward_tiles<NarrowN>(stream, args, linear_plan::narrow_n_plan(args.rows, args.out, args.in));
     }},
    {"tile_128", kTile128Idea, [](const Args& args) { return args.dtype != Dtype::f64; },
     [](const Stream& stream, const Args& args) {
       forward_tiles<Tile128>(stream, args, linear_plan::tile_128_plan(args.rows, args.out, args.in));
     }},
#if defined(WEFT_LINEAR_CUBLAS)
    {"cublas", kCublasIdea,
     [](const Args& args) { return cublas_supports(args.dtype, product(args), Contiguous::k, Contiguous::k); },
     [](const Stream& stream, const Args& args) {
       cublas_matmul(stream, args.dtype, product(args), Contiguous::k, Contiguous::k);
     }},
#endif
    {"tile_64", kTile64Idea, [](const Args&) { return true; },
     [](const Stream& stream, const Args& args) {
       forward_tiles<Tile64>(stream, args, linear_plan::tile_64_plan(args.rows, args.out, args.in));
     }}
  };
  return variants;
}

std::span<const Variant<LinearBackwardInput>> linear_backward_input_variants() {
  using Args = LinearBackwardInput;
  static const Variant<Args> variants[] = {
    {"rows", kRowsIdea, [](const Args& args) { return args.rows <= linear_plan::kFewRows; }, backward_input_rows},
    {"tile_128", kTile128Idea, [](const Args& args) { return args.dtype != Dtype::f64; },
     [](const Stream& stream, const Args& args) {
       backward_input_tiles<Tile128>(stream, args, linear_plan::tile_128_plan(args.rows, args.in, args.out));
     }},
#if defined(WEFT_LINEAR_CUBLAS)
    {"cublas", kCublasIdea,
     [](const Args& args) { return cublas_supports(args.dtype, product(args), Contiguous::k, Contiguous::outer); },
     [](const Stream& stream, const Args& args) {
       cublas_matmul(stream, args.dtype, product(args), Contiguous::k, Contiguous::outer);
     }},
#endif
    {"tile_64", kTile64Idea, [](const Args&) { return true; },
     [](const Stream& stream, const Args& args) {
       backward_input_tiles<Tile64>(stream, args, linear_plan::tile_64_plan(args.rows, args.in, args.out));
     }}
  };
  return variants;
}

std::span<const Variant<LinearBackwardWeight>> linear_backward_weight_variants() {
  using Args = LinearBackwardWeight;
  static const Variant<Args> variants[] = {
    {"narrow", kNarrowIdea, [](const Args& args) { return args.out <= linear_plan::kNarrow; },
     [](const Stream& stream, const Args& args) {
       backward_weight_tiles<NarrowM>(stream, args, linear_plan::narrow_m_plan(args.out, args.in, args.rows));
     }},
    {"tile_128", kTile128Idea, [](const Args& args) { return args.dtype != Dtype::f64; },
     [](const Stream& stream, const Args& args) {
       backward_weight_tiles<Tile128>(stream, args, linear_plan::tile_128_plan(args.out, args.in, args.rows));
     }},
#if defined(WEFT_LINEAR_CUBLAS)
    {"cublas", kCublasIdea,
     [](const Args& args) { return cublas_supports(args.dtype, product(args), Contiguous::outer, Contiguous::outer); },
     [](const Stream& stream, const Args& args) {
       cublas_matmul(stream, args.dtype, product(args), Contiguous::outer, Contiguous::outer);
       if (args.dbias != nullptr) sum_rows(stream, bias_of(args));
     }},
#endif
    {"tile_64", kTile64Idea, [](const Args&) { return true; },
     [](const Stream& stream, const Args& args) {
       backward_weight_tiles<Tile64>(stream, args, linear_plan::tile_64_plan(args.out, args.in, args.rows));
     }}
  };
  return variants;
}

std::span<const Variant<LinearBackwardBias>> linear_backward_bias_variants() {
  using Args = LinearBackwardBias;
  static const Variant<Args> variants[] = {
      {"columns", "a lane per 16 bytes of columns, warps down the rows", [](const Args&) { return true; }, sum_rows}};
  return variants;
}

void linear_forward(const Stream& stream, const LinearForward& args) {
  run_named("linear", linear_forward_variants(), linear_plan::forward_variant(args.dtype, args.rows, args.in, args.out),
            stream, args);
}
void linear_backward_input(const Stream& stream, const LinearBackwardInput& args) {
  run_named("linear", linear_backward_input_variants(),
            linear_plan::backward_input_variant(args.dtype, args.rows, args.in, args.out), stream, args);
}
void linear_backward_weight(const Stream& stream, const LinearBackwardWeight& args) {
  run_named("linear", linear_backward_weight_variants(),
            linear_plan::backward_weight_variant(args.dtype, args.rows, args.in, args.out), stream, args);
}
void linear_backward_bias(const Stream& stream, const LinearBackwardBias& args) {
  run_variant("linear", linear_backward_bias_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
