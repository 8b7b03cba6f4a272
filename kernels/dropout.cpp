// CPU kernel: sixteen Philox blocks at a time, side by side in the 64-bit lanes of two vectors for each of the four
// words.
#include "kernels/dropout.h"

#include <algorithm>

#include "kernels/common/simd.h"
#include "tensor/parallel.h"

namespace weft::kernels {
namespace {

constexpr std::int64_t kChunkElems = 16384;  // work of one chunk

typedef std::uint64_t Words __attribute__((vector_size(64)));  // numbers in the lower halves of 64-bit lanes
typedef std::uint32_t Bits __attribute__((vector_size(64)));
constexpr int kBlocks = 8;  // lanes of Words

// The product of the lower halves of the lanes; the upper ones may hold anything.
Words multiply(Words a, std::uint32_t b) {
#if defined(__AVX512F__)
  const __m512i factor = _mm512_set1_epi64(b);
  return std::bit_cast<Words>(_mm512_maskz_mul_epu32(0xff, std::bit_cast<__m512i>(a), factor));
#elif defined(__AVX2__)
  struct Halves {
    __m256i low, high;
  };
  const __m256i factor = _mm256_set1_epi64x(b);
  const auto x = std::bit_cast<Halves>(a);
  return std::bit_cast<Words>(Halves{_mm256_mul_epu32(x.low, factor), _mm256_mul_epu32(x.high, factor)});
#else
  return (a & 0xffffffffu) * (Words{} + b);
#endif
}

// The even-numbered pair of blocks' words, interleaved: a0 b0 a1 b1 ...
Words interleave_low(Words a, Words b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return __builtin_shuffle(a, b, Words{0, 8, 1, 9, 2, 10, 3, 11});
#endif
}
Words interleave_high(Words a, Words b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  return __builtin_shuffle(a, b, Words{4, 12, 5, 13, 6, 14, 7, 15});
#endif
}

// What is the same for a row: philox4x32's key, and its counter but for the lowest word of the second half.
struct RowKey {
  std::uint64_t key;
  std::uint64_t id;
  std::uint32_t position;
};

// Eight blocks on their way through the rounds.
struct Set {
  Words c0, c1, c2, c3;

  Set(const RowKey& row, std::uint32_t block) {
    constexpr Words kLane = {0, 1, 2, 3, 4, 5, 6, 7};
    c0 = Words{} + row.id;
    c1 = Words{} + (row.id >> 32);
    c2 = kLane + block;
    c3 = Words{} + std::uint64_t{row.position};
  }
  void round(Words key0, Words key1) {
    const Words p0 = multiply(c0, kPhiloxM0), p1 = multiply(c2, kPhiloxM1);
    c0 = (p1 >> 32) ^ c1 ^ key0;
    c1 = p1;
    c2 = (p0 >> 32) ^ c3 ^ key1;
    c3 = p0;
  }
  void finish(Bits& low, Bits& high) const {
    constexpr std::uint64_t kLow = 0xffffffffu;
    const Words first = (c0 & kLow) | (c1 << 32), second = (c2 & kLow) | (c3 << 32);
    low = std::bit_cast<Bits>(interleave_low(first, second));
    high = std::bit_cast<Bits>(interleave_high(first, second));
  }
};

// The numbers of elements 4 * block ... 4 * block + 63 of a row, in order. Two sets at a time: a round waits for a
// product, which takes longer than everything else in it.
void draw(const RowKey& row, std::uint32_t block, Bits (&bits)[4]) {
  Set a(row, block), b(row, block + kBlocks);
  std::uint32_t k0 = static_cast<std::uint32_t>(row.key), k1 = static_cast<std::uint32_t>(row.key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const Words key0 = Words{} + std::uint64_t{k0}, key1 = Words{} + std::uint64_t{k1};
    a.round(key0, key1);
    b.round(key0, key1);
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  a.finish(bits[0], bits[1]);
  b.finish(bits[2], bits[3]);
}

// Elements [begin, end) of a row; begin is a multiple of kDrawn.
constexpr std::int64_t kDrawn = 8 * kBlocks;
template <class S>
void mask_row(const Dropout& args, const RowKey& row, const S* in, S* out, std::int64_t begin, std::int64_t end) {
  using C = compute_t<S>;
  const C scale = static_cast<C>(args.scale);
  for (std::int64_t c = begin; c < end; c += kDrawn) {
    Bits bits[4];
    draw(row, static_cast<std::uint32_t>(c / 4), bits);
    const std::int64_t count = std::min(end - c, kDrawn);
    if constexpr (std::is_same_v<C, float>) {
      const simd::Vec<float> factor = simd::broadcast(scale);
      simd::for_each_vector<float>(count, [&](std::int64_t i, auto width) {
        const auto kept = bits[i / 16] >= args.threshold;
        const auto x = simd::load_width<S>(in + c + i, width);
        simd::store_width<S>(out + c + i, kept ? x * factor : simd::Vec<float>{}, width);
      });
    } else {
      for (std::int64_t i = 0; i < count; ++i)
        out[c + i] = bits[i / 16][i % 16] >= args.threshold ? in[c + i] * scale : C(0);
    }
  }
}

}  // namespace

void dropout(Device device, const Dropout& args) {
  if (WEFT_ON_GPU("dropout", dropout, device, args)) return;
  if (args.rows * args.channels == 0) return;
  const PhiloxBlock step = philox4x32(args.seed, static_cast<std::uint64_t>(*args.update), kDropoutUse | args.stream);
  const std::uint64_t key = static_cast<std::uint64_t>(step[1]) << 32 | step[0];
  // Chunks of several rows, or of a part of a row.
  const std::int64_t per_chunk = std::max<std::int64_t>(1, kChunkElems / args.channels);
  const std::int64_t parts = (args.channels + kChunkElems - 1) / kChunkElems;
  dispatch_float(args.dtype, "dropout", [&]<class S>(std::type_identity<S>) {
    parallel_ranges(args.rows * parts, per_chunk, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t part = first; part < last; ++part) {
        const std::int64_t row = part / parts, begin = (part - row * parts) * kChunkElems;
        const auto position =
            static_cast<std::uint32_t>(args.positions != nullptr ? args.positions[row] : row % args.tokens);
        const RowKey row_key{key, static_cast<std::uint64_t>(args.sample_ids[row / args.tokens_per_id]), position};
        mask_row<S>(args, row_key, static_cast<const S*>(args.in) + row * args.channels,
                    static_cast<S*>(args.out) + row * args.channels, begin,
                    std::min(begin + kChunkElems, args.channels));
      }
    });
  });
}

}  // namespace weft::kernels
