// Dropout whose mask is drawn where it is used.
//   Idea:    memory-bound if a draw costs little: one Philox block gives the four numbers of four neighbouring elements
//            of a row, which a thread loads, masks and stores together ("vectorised"; element by element where rows do
//            not begin on a multiple of four elements: "scalar").
//   Mapping: blocks of 256 threads, 1024 groups of four per block. Shared: 8 bytes.
//   The step's key, drawn by a block's first thread, comes from the update's number in device memory: a captured graph
//   draws anew at each replay.
#include "kernels/dropout.h"

#include <algorithm>

#include "kernels/common/launch.h"
#include "kernels/common/philox_gpu.h"
#include "kernels/common/strided_gpu.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

constexpr int kThreads = 256, kUnroll = 4, kPerBlock = kThreads * kUnroll;
constexpr int kGroup = 4;  // elements that share a Philox block

// The rows of a launch, which has at most 2^30 groups.
struct Part {
  std::int64_t first_row, first_sample;
  std::uint32_t first_token;
  std::uint32_t groups;
  Divisor per_row;  // groups of a row
  Divisor tokens;
};

template <class S>
constexpr int kAccess = sizeof(S) == 8 ? 2 : kGroup;  // elements per access: at most 16 bytes

template <class S, bool kVectorised>
WEFT_KERNEL __launch_bounds__(kThreads) dropout_kernel(Dropout args, Part part) {
  using C = compute_t<S>;
  constexpr int kWidth = kVectorised ? kAccess<S> : 1, kAccesses = kGroup / kWidth;
  WEFT_SHARED(std::uint64_t, step_key, 1);
  if (threadIdx.x == 0) {
    const Vec<std::uint32_t, 4> step =
        philox(args.seed, static_cast<std::uint64_t>(load_one(args.update)), kDropoutUse | args.stream);
    step_key[0] = static_cast<std::uint64_t>(step[1]) << 32 | step[0];
  }
  const S* const in = static_cast<const S*>(args.in) + part.first_row * args.channels;
  S* const out = static_cast<S*>(args.out) + part.first_row * args.channels;
  const std::uint32_t first = blockIdx.x * kPerBlock + threadIdx.x;
  Vec<S, kWidth> stored[kUnroll][kAccesses];
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::uint32_t g = first + k * kThreads;
    if (g >= part.groups) continue;
    const std::uint32_t r = part.per_row.quotient(g);
    const std::int64_t column = static_cast<std::int64_t>(g - r * part.per_row.value) * kGroup;
    WEFT_UNROLL
    for (int a = 0; a < kAccesses; ++a)
      if (kVectorised || column + a < args.channels)
        stored[k][a] = load<kWidth, Cache::streaming>(in + r * args.channels + column + a * kWidth);
  }
  __syncthreads();
  const std::uint64_t key = step_key[0];
  const C scale = static_cast<C>(args.scale);
  WEFT_UNROLL
  for (int k = 0; k < kUnroll; ++k) {
    const std::uint32_t g = first + k * kThreads;
    if (g >= part.groups) continue;
    const std::uint32_t r = part.per_row.quotient(g), group = g - r * part.per_row.value;
    const std::int64_t row = part.first_row + r, column = static_cast<std::int64_t>(group) * kGroup;
    const std::uint32_t sample = part.tokens.quotient(part.first_token + r);
    const std::int64_t id =
        load_one<Cache::readonly>(args.sample_ids + (args.tokens_per_id == 1 ? row : part.first_sample + sample));
    const std::uint32_t position = args.positions != nullptr
                                       ? static_cast<std::uint32_t>(load_one<Cache::readonly>(args.positions + row))
                                       : part.first_token + r - sample * part.tokens.value;
    const Vec<std::uint32_t, 4> bits =
        philox(key, static_cast<std::uint64_t>(id), static_cast<std::uint64_t>(position) << 32 | group);
    WEFT_UNROLL
    for (int a = 0; a < kAccesses; ++a) {
      Vec<S, kWidth> result;
      WEFT_UNROLL
      for (int i = 0; i < kWidth; ++i)
        result[i] = bits[a * kWidth + i] >= args.threshold ? narrow<S>(widen(stored[k][a][i]) * scale) : narrow<S>(0);
      if (kVectorised || column + a < args.channels) store(out + r * args.channels + column + a * kWidth, result);
    }
  }
}

bool vectorised_supports(const Dropout& args) {
  const auto bytes = static_cast<std::size_t>(std::min<std::int64_t>(16, kGroup * element_bytes(args.dtype)));
  return args.channels % kGroup == 0 && is_aligned(args.in, bytes) && is_aligned(args.out, bytes);
}
bool scalar_supports(const Dropout&) { return true; }

template <bool kVectorised>
void run(const Stream& stream, const Dropout& args) {
  if (args.rows * args.channels == 0) return;
  const std::int64_t per_row = ceil_div<std::int64_t>(args.channels, kGroup);
  require<ShapeError>(per_row <= kMostPerLaunch, "dropout", "a row of {} elements is longer than a launch allows",
                      args.channels);
  const std::int64_t most_rows = kMostPerLaunch / per_row, ids = args.rows / args.tokens_per_id;
  dispatch_float(args.dtype, "dropout", [&]<class S>(std::type_identity<S>) {
    for (std::int64_t row = 0; row < args.rows; row += most_rows) {
      const std::int64_t rows = std::min(most_rows, args.rows - row);
      const std::int64_t bytes = rows * args.channels * static_cast<std::int64_t>(sizeof(S));
      const Part part{.first_row = row,
                      .first_sample = row / args.tokens,
                      .first_token = static_cast<std::uint32_t>(row % args.tokens),
                      .groups = static_cast<std::uint32_t>(rows * per_row),
                      .per_row = Divisor(per_row),
                      .tokens = Divisor(args.tokens)};
      launch(stream,
             {.name = "dropout",
              .grid = {ceil_div<std::int64_t>(part.groups, kPerBlock)},
              .block = {kThreads},
              .operands = {{"in", static_cast<const S*>(args.in) + row * args.channels, bytes},
                           {"out", static_cast<S*>(args.out) + row * args.channels, bytes},
                           {"sample_ids", args.sample_ids, ids * 8, OperandKind::broadcast},
                           {"positions", args.positions, args.positions != nullptr ? args.rows * 8 : 0,
                            OperandKind::broadcast},
                           {"update", args.update, 8, OperandKind::broadcast}}},
             dropout_kernel<S, kVectorised>, args, part);
    }
  });
}

constexpr Variant<Dropout> kVariants[] = {
    {"vectorised", "four elements and one Philox block at a time", vectorised_supports, run<true>},
    {"scalar", "the same, element by element, for rows off the grid", scalar_supports, run<false>},
};

}  // namespace

std::span<const Variant<Dropout>> dropout_variants() { return kVariants; }
void dropout(const Stream& stream, const Dropout& args) { run_variant("dropout", dropout_variants(), stream, args); }

}  // namespace weft::kernels::WEFT_BACKEND
