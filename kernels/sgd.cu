// SGD over a whole table of tensors in one launch: a single pass, at the speed of memory.
//   Mapping: four blocks of 256 threads per chunk of 16 Ki elements; a block looks up its tensor, then each thread
//            moves vectors of 16 bytes, two at a time from each array (f64: one).
//   Memory:  12 bytes per f32 element, 20 with momentum. Gradient and momentum are streamed; the parameter is what the
//            next forward pass reads first.
//   Sizes:   any. Arrays that are not aligned to 16 bytes, and the last elements of a tensor, go one by one.
#include "kernels/sgd.h"

#include "kernels/common/update_block.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

struct Hyper {
  double momentum, weight_decay;
  bool nesterov;
};

template <class T>
struct Coefficients {
  T scale, step, momentum, decay;
  bool decays, nesterov;
};

// What a thread has under way: two vectors of each array in f32, one in f64.
template <class T, int kWidth>
struct Batch {
  static constexpr int kVectors = sizeof(T) == 4 ? 2 : 1;
  Vec<T, kWidth> gradient[kVectors], moment[kVectors] = {}, parameter[kVectors];

  WEFT_DEVICE void load_at(const UpdateBlock<T>& block, const Sweep& sweep, int at) {
    WEFT_UNROLL
    for (int k = 0; k < kVectors; ++k) {
      const int i = at + k * sweep.stride;
      if (i >= sweep.end) break;
      gradient[k] = load<kWidth, Cache::streaming>(block.gradient + i);
      parameter[k] = load<kWidth, Cache::streaming>(block.parameter + i);
      if (block.moment1 != nullptr) moment[k] = load<kWidth, Cache::streaming>(block.moment1 + i);
    }
  }

  WEFT_DEVICE void update_at(const UpdateBlock<T>& block, const Sweep& sweep, int at, const Coefficients<T>& c) {
    WEFT_UNROLL
    for (int k = 0; k < kVectors; ++k) {
      const int i = at + k * sweep.stride;
      if (i >= sweep.end) break;
      WEFT_UNROLL
      for (int j = 0; j < kWidth; ++j) {
        const T p = parameter[k][j];
        T d = gradient[k][j] * c.scale;
        if (c.decays) d = fused(c.decay, p, d);
        if (block.moment1 != nullptr) {
          const T b = fused(c.momentum, moment[k][j], d);
          moment[k][j] = b;
          d = c.nesterov ? fused(c.momentum, b, d) : b;
        }
        parameter[k][j] = fused(-c.step, d, p);
      }
      if (block.moment1 != nullptr) store<Cache::streaming>(block.moment1 + i, moment[k]);
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

WEFT_KERNEL __launch_bounds__(kUpdateThreads)
    sgd_kernel(DeviceTable table, const StepState* state, const DeviceStatus* status, Hyper hyper) {
  with_update_block(table, [&]<class T>(UpdateBlock<T> block, const UpdateEntry*) {
    if (hyper.momentum == 0) block.moment1 = nullptr;
    const Sweep vectors = vector_sweep(block), elements = element_sweep(block, vectors);
    Batch<T, kVectorWidth<T>> batch;
    batch.load_at(block, vectors, vectors.first);  // on its way while the state is read
    if (!may_apply(state, status)) return;
    const Coefficients<T> c{.scale = static_cast<T>(load_one(&state->scale)),
                            .step = static_cast<T>(load_one(&state->lr)),
                            .momentum = static_cast<T>(hyper.momentum),
                            .decay = static_cast<T>(hyper.weight_decay),
                            .decays = hyper.weight_decay != 0,
                            .nesterov = hyper.nesterov};
    batch.update_all(block, vectors, c);
    Batch<T, 1> single;
    single.load_at(block, elements, elements.first);
    single.update_all(block, elements, c);
  });
}

void run_one_launch(const Stream& stream, const SgdArgs& args) {
  check_dtypes(*args.table, "sgd");
  const DeviceTable table = args.table->on(stream);
  launch(stream,
         {.name = "sgd",
          .grid = update_grid(table),
          .block = {kUpdateThreads},
          .operands = {entries_operand(table), chunks_operand(table), state_operand(args.state)}},
         sgd_kernel, table, args.state, args.status, Hyper{args.momentum, args.weight_decay, args.nesterov});
}

constexpr Variant<SgdArgs> kVariants[] = {
    {"one_launch", "one launch for all tensors, 16-byte accesses", [](const SgdArgs&) { return true; }, run_one_launch},
};

}  // namespace

std::span<const Variant<SgdArgs>> sgd_variants() { return kVariants; }

void sgd(const Stream& stream, const SgdArgs& args) { run_variant("sgd", sgd_variants(), stream, args); }

}  // namespace weft::kernels::WEFT_BACKEND
