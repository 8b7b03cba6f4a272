// AdamW over a whole table of tensors in one launch: a single pass, at the speed of memory.
//   Mapping: four blocks of 256 threads per chunk of 16 Ki elements; a block looks up its tensor, then each thread
//            moves vectors of 16 bytes: two at a time from each of four arrays (f64: one), so that eight loads are on
//            their way.
//   Memory:  28 bytes per f32 element. The moments and the gradient will not be read again before the caches have
//            turned over: they are streamed; the parameter is what the next forward pass reads first.
//   Shared:  16 bytes: the bias corrections, which one thread takes in f64 while the first loads are on their way.
//   Sizes:   any. Arrays that are not aligned to 16 bytes, and the last elements of a tensor, go one by one.
#include "kernels/adamw.h"

#include "kernels/common/update_block.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

struct Hyper {
  double beta1, beta2, eps, weight_decay;
};

// p -= step * m / (sqrt(v) + eps), with the bias corrections taken into step and eps.
template <class T>
struct Coefficients {
  T scale, decay, beta1, rest1, beta2, rest2, step, eps;
};

// What a thread has under way: two vectors of each array in f32, one in f64.
template <class T, int kWidth>
struct Batch {
  static constexpr int kVectors = sizeof(T) == 4 ? 2 : 1;
  Vec<T, kWidth> gradient[kVectors], moment1[kVectors], moment2[kVectors], parameter[kVectors];

  WEFT_DEVICE void load_at(const UpdateBlock<T>& block, const Sweep& sweep, int at) {
    WEFT_UNROLL
    for (int k = 0; k < kVectors; ++k) {
      const int i = at + k * sweep.stride;
      if (i >= sweep.end) break;
      gradient[k] = load<kWidth, Cache::streaming>(block.gradient + i);
      moment1[k] = load<kWidth, Cache::streaming>(block.moment1 + i);
      moment2[k] = load<kWidth, Cache::streaming>(block.moment2 + i);
      parameter[k] = load<kWidth, Cache::streaming>(block.parameter + i);
    }
  }

  WEFT_DEVICE void update_at(const UpdateBlock<T>& block, const Sweep& sweep, int at, const Coefficients<T>& c) {
    WEFT_UNROLL
    for (int k = 0; k < kVectors; ++k) {
      const int i = at + k * sweep.stride;
      if (i >= sweep.end) break;
      WEFT_UNROLL
      for (int j = 0; j < kWidth; ++j) {
        const T g = gradient[k][j] * c.scale;
        const T m = fused(c.beta1, moment1[k][j], c.rest1 * g);
        const T v = fused(c.beta2, moment2[k][j], c.rest2 * g * g);
        moment1[k][j] = m;
        moment2[k][j] = v;
        parameter[k][j] = fused(c.decay, parameter[k][j], -(c.step * m / (square_root(v) + c.eps)));
      }
      store<Cache::streaming>(block.moment1 + i, moment1[k]);
      store<Cache::streaming>(block.moment2 + i, moment2[k]);
      store(block.parameter + i, parameter[k]);
    }
  }

  // The first batch has been loaded.
  WEFT_DEVICE void update_all(const UpdateBlock<T>& block, const Sweep& sweep, const Coefficients<T>& c) {
    WEFT_NO_UNROLL
    for (int at = sweep.first; at < sweep.end; at += kVectors * sweep.stride) {
      update_at(block, sweep, at, c);
      load_at(block, sweep, at + kVectors * sweep.stride);
    }
  }
};

WEFT_KERNEL __launch_bounds__(kUpdateThreads, 3)
    adamw_kernel(DeviceTable table, const StepState* state, const DeviceStatus* status, Hyper hyper) {
  WEFT_SHARED(double, correction, 2);
  with_update_block(table, [&]<class T>(const UpdateBlock<T>& block, const UpdateEntry* entry) {
    const Sweep vectors = vector_sweep(block), elements = element_sweep(block, vectors);
    Batch<T, kVectorWidth<T>> batch;
    batch.load_at(block, vectors, vectors.first);  // on its way while one thread takes the powers

    const double lr = load_one(&state->lr);
    if (threadIdx.x == 0) {
      const auto t = static_cast<double>(load_one(load_one<Cache::readonly>(&entry->applied)));
      const double second = sqrt(1.0 - pow(hyper.beta2, t));
      correction[0] = lr / (1.0 - pow(hyper.beta1, t)) * second;
      correction[1] = hyper.eps * second;
    }
    __syncthreads();
    if (!may_apply(state, status)) return;
    const Coefficients<T> c{.scale = static_cast<T>(load_one(&state->scale)),
                            .decay = static_cast<T>(1.0 - lr * hyper.weight_decay),
                            .beta1 = static_cast<T>(hyper.beta1),
                            .rest1 = static_cast<T>(1.0 - hyper.beta1),
                            .beta2 = static_cast<T>(hyper.beta2),
                            .rest2 = static_cast<T>(1.0 - hyper.beta2),
                            .step = static_cast<T>(static_cast<double>(correction[0])),
                            .eps = static_cast<T>(static_cast<double>(correction[1]))};
    batch.update_all(block, vectors, c);
    Batch<T, 1> single;
    single.load_at(block, elements, elements.first);
    single.update_all(block, elements, c);
  });
}

void run_one_launch(const Stream& stream, const AdamWArgs& args) {
  check_dtypes(*args.table, "adamw");
  const DeviceTable table = args.table->on(stream);
  launch(stream,
         {.name = "adamw",
          .grid = update_grid(table),
          .block = {kUpdateThreads},
          .operands = {entries_operand(table), chunks_operand(table), state_operand(args.state)}},
         adamw_kernel, table, args.state, args.status, Hyper{args.beta1, args.beta2, args.eps, args.weight_decay});
}

constexpr Variant<AdamWArgs> kVariants[] = {
    {"one_launch", "one launch for all tensors, 16-byte accesses", [](const AdamWArgs&) { return true; },
     run_one_launch},
};

}  // namespace

std::span<const Variant<AdamWArgs>> adamw_variants() { return kVariants; }

void adamw(const Stream& stream, const AdamWArgs& args) { run_variant("adamw", adamw_variants(), stream, args); }

}  // namespace weft::kernels::WEFT_BACKEND
