// GroupNorm forward. A group of a sample is a row of D·S elements, which the kernels of kernels/common/row_norm.h keep on
// chip up to 96 KiB; gamma and beta are found by the channel of a vector: 16 bytes where every channel starts on 16 bytes,
// else one element.
//   parts      larger groups, however few, are cut over many blocks: 256 threads take a part in registers and find its
//              mean and the sum of its squared differences, each in two passes (32 KiB; 2048 elements one by one); a
//              block per group combines them in order (Chan, Golub, LeVeque 1979); then every part is read again and
//              normalised. Reads x twice.
#include "kernels/group_norm.h"

#include "kernels/common/row_norm.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr RowNorm kGroup = RowNorm::group;

template <int kWidth>
constexpr std::int64_t kPartElems = std::int64_t{kBlockThreads} * kMaxVectors* kWidth;
static_assert(kPartElems<1> == kGroupNormPart);

RowNormForward rows_of(const GroupNormForward& args) {
  return {.dtype = args.dtype,
          .rows = args.shape.rows(),
          .channels = args.shape.row_elems(),
          .eps = args.eps,
          .x = args.x,
          .gamma = args.gamma,
          .beta = args.beta,
          .y = args.y,
          .mean = args.mean,
          .rstd = args.rstd,
          .groups = args.shape.groups,
          .planes = args.shape.planes(),
          .spatial = args.shape.spatial};
}

/// A part of a row, in the registers of a block.
template <class T, int kWidth>
struct Part {
  Vec<T, kWidth> x[kMaxVectors];
  std::int64_t row, begin;  // of the part, in its row
  int count;                // of elements
  static WEFT_DEVICE int column(int v) { return (v * kBlockThreads + static_cast<int>(threadIdx.x)) * kWidth; }
};

template <class T, int kWidth, Cache kCache>
WEFT_DEVICE Part<T, kWidth> load_part(const RowNormForward& args, std::int64_t parts) {
  Part<T, kWidth> part{};
  part.row = blockIdx.x / parts;
  part.begin = blockIdx.x % parts * kPartElems<kWidth>;
  part.count = static_cast<int>(smaller(args.channels - part.begin, kPartElems<kWidth>));
  const T* const from = static_cast<const T*>(args.x) + part.row * args.channels + part.begin;
  WEFT_UNROLL
  for (int v = 0; v < kMaxVectors; ++v)
    if (part.column(v) < part.count) part.x[v] = load<kWidth, kCache>(from + part.column(v));
  return part;
}

/// The workspace: three numbers for every row (Statistics), then three for every part: its mean as rounded, what that
/// lost, and the sum of the squared differences from the true mean.
template <class C>
WEFT_DEVICE C* numbers(C* workspace, std::int64_t rows, std::int64_t parts, int which) {
  return workspace + 3 * rows + which * rows * parts;
}

template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kBlockThreads, 2)
    part_moments_kernel(const RowNormForward args, compute_t<T>* workspace, std::int64_t parts) {
  using C = compute_t<T>;
  WEFT_SHARED(C, first_scratch, kBlockThreads / kWarpSize);
  WEFT_SHARED(C, second_scratch, 2 * kBlockThreads / kWarpSize);
  const Part<T, kWidth> part = load_part<T, kWidth, Cache::normal>(args, parts);
  const T* const from = static_cast<const T*>(args.x) + part.row * args.channels + part.begin;
  const C count = static_cast<C>(part.count);
  const auto [mean, sums] = row_moments<kGroup, T, kWidth, kBlockThreads, kMaxVectors>(
      part.x, from, part.count, C(1) / count, first_scratch, second_scratch);
  if (threadIdx.x != 0) return;
  const C rest = sums[0] / count;
  store_one(numbers(workspace, args.rows, parts, 0) + blockIdx.x, mean);
  store_one(numbers(workspace, args.rows, parts, 1) + blockIdx.x, rest);
  store_one(numbers(workspace, args.rows, parts, 2) + blockIdx.x, sums[1] - rest * sums[0]);
}

/// A block per row. Means are taken from the first part's: their differences are exact where they are small.
template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kBlockThreads)
    merge_kernel(const RowNormForward args, compute_t<T>* workspace, std::int64_t parts) {
  using C = compute_t<T>;
  WEFT_SHARED(C, first_scratch, kBlockThreads / kWarpSize);
  WEFT_SHARED(C, second_scratch, kBlockThreads / kWarpSize);
  const std::int64_t row = blockIdx.x;
  const C* const means = numbers(workspace, args.rows, parts, 0) + row * parts;
  const C* const rests = numbers(workspace, args.rows, parts, 1) + row * parts;
  const C* const squares = numbers(workspace, args.rows, parts, 2) + row * parts;
  const C base = load_one(means), inverse = C(1) / static_cast<C>(args.channels);
  const auto count = [&](std::int64_t p) {
    return static_cast<C>(smaller(args.channels - p * kPartElems<kWidth>, kPartElems<kWidth>));
  };
  const auto difference = [&](std::int64_t p) { return (load_one(means + p) - base) + load_one(rests + p); };
  C sum = C(0);
  WEFT_NO_UNROLL
  for (std::int64_t p = threadIdx.x; p < parts; p += kBlockThreads) sum = fused(count(p), difference(p), sum);
  const C shift = block_sum<kBlockThreads>(sum, first_scratch) * inverse;  // true mean - base
  C total = C(0);
  WEFT_NO_UNROLL
  for (std::int64_t p = threadIdx.x; p < parts; p += kBlockThreads) {
    const C apart = difference(p) - shift;
    total += fused(count(p), apart * apart, load_one(squares + p));
  }
  total = block_sum<kBlockThreads>(total, second_scratch);
  if (threadIdx.x != 0) return;
  const Statistics<C> of{base, shift, C(1) / square_root(total * inverse + static_cast<C>(args.eps))};
  store_statistics(args, row, of);
  store_one(workspace + 3 * row, of.mean);
  store_one(workspace + 3 * row + 1, of.rest);
  store_one(workspace + 3 * row + 2, of.rstd);
}

template <class T, int kWidth>
WEFT_KERNEL __launch_bounds__(kBlockThreads, 2)
    apply_kernel(const RowNormForward args, const compute_t<T>* workspace, std::int64_t parts) {
  using C = compute_t<T>;
  const Part<T, kWidth> part = load_part<T, kWidth, Cache::streaming>(args, parts);
  const C* const own = workspace + 3 * part.row;
  const Statistics<C> of{load_one(own), load_one(own + 1), load_one(own + 2)};
  WEFT_UNROLL
  for (int v = 0; v < kMaxVectors; ++v)
    if (part.column(v) < part.count)
      normalise<kGroup, T, kWidth>(args, part.row, part.begin + part.column(v), part.x[v], of);
}

template <class T, int kWidth>
void run_parts(const Stream& stream, const RowNormForward& args, compute_t<T>* workspace) {
  using C = compute_t<T>;
  const RowNormBytes<kGroup, T> bytes(args);
  const std::int64_t parts = ceil_div<std::int64_t>(args.channels, kPartElems<kWidth>);
  const std::int64_t workspace_bytes = 3 * args.rows * (1 + parts) * static_cast<std::int64_t>(sizeof(C));
  launch(stream,
         {.name = "group_norm_forward_moments",
          .grid = {args.rows * parts},
          .block = {kBlockThreads},
          .operands = {{"x", args.x, bytes.matrix}, {"partials", workspace, workspace_bytes, OperandKind::workspace}}},
         part_moments_kernel<T, kWidth>, args, workspace, parts);
  launch(stream,
         {.name = "group_norm_forward_merge",
          .grid = {args.rows},
          .block = {kBlockThreads},
          .operands = {{"partials", workspace, workspace_bytes, OperandKind::workspace},
                       {"mean", args.mean, bytes.statistics},
                       {"rstd", args.rstd, bytes.statistics}}},
         merge_kernel<T, kWidth>, args, workspace, parts);
  launch(stream,
         {.name = "group_norm_forward_apply",
          .grid = {args.rows * parts},
          .block = {kBlockThreads},
          .operands = {{"x", args.x, bytes.matrix},
                       {"gamma", args.gamma, bytes.affine, OperandKind::broadcast},
                       {"beta", args.beta, bytes.affine, OperandKind::broadcast},
                       {"y", args.y, bytes.matrix},
                       {"partials", workspace, workspace_bytes, OperandKind::broadcast}}},
         apply_kernel<T, kWidth>, args, static_cast<const C*>(workspace), parts);
}

const Variant<GroupNormForward> kVariants[] = {
    {"registers", "the group in registers: a part of a warp, a warp or a block per group",
     [](const GroupNormForward& args) { return fits_registers<kGroup>(rows_of(args)); },
     [](const Stream& stream, const GroupNormForward& args) { run_registers<kGroup>(stream, rows_of(args)); }},
    {"shared", "the group in shared memory, a block per group",
     [](const GroupNormForward& args) { return fits_shared(rows_of(args)); },
     [](const Stream& stream, const GroupNormForward& args) { run_wide<kGroup, true>(stream, rows_of(args)); }},
    {"parts", "a group over many blocks: moments of its parts, then the result",
     [](const GroupNormForward& args) { return args.partials != nullptr; },
     [](const Stream& stream, const GroupNormForward& args) {
       const RowNormForward rows = rows_of(args);
       dispatch_row_norm<kGroup>(rows,
                                 [&]<class T, int kWidth>(std::type_identity<T>, std::integral_constant<int, kWidth>) {
                                   run_parts<T, kWidth>(stream, rows, static_cast<compute_t<T>*>(args.partials));
                                 });
     }},
};

}  // namespace

std::span<const Variant<GroupNormForward>> group_norm_forward_variants() { return kVariants; }

void group_norm_forward(const Stream& stream, const GroupNormForward& args) {
  if (args.shape.rows() == 0) return;
  run_variant("group_norm", group_norm_forward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
