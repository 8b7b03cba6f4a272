#include "kernels/sgd.h"

#include "kernels/common/simd.h"

namespace weft::kernels {
namespace {

template <class T>
void update(const SgdArgs& args, const UpdateEntry& entry, const UpdateTable::Chunk& chunk) {
  using V = simd::Vec<T>;
  const auto constant = [](double value) { return simd::broadcast(static_cast<T>(value)); };
  const V scale = constant(args.state->scale), step = constant(-args.state->lr);
  const V momentum = constant(args.momentum), decay = constant(args.weight_decay);
  const bool decays = args.weight_decay != 0, nesterov = args.nesterov;
  T* parameter = static_cast<T*>(entry.parameter) + chunk.begin;
  const T* gradient = static_cast<const T*>(entry.gradient) + chunk.begin;
  T* moment = args.momentum != 0 ? static_cast<T*>(entry.moment1) + chunk.begin : nullptr;
  simd::for_each_vector<T>(chunk.end - chunk.begin, [&](std::int64_t i, auto width) {
    prefetch_ahead(parameter + i);
    prefetch_ahead(gradient + i);
    if (moment != nullptr) prefetch_ahead(moment + i);
    const V p = simd::load_width(parameter + i, width);
    V d = simd::load_width(gradient + i, width) * scale;
    if (decays) d = d + decay * p;
    if (moment != nullptr) {
      const V b = simd::load_width(moment + i, width) * momentum + d;
      simd::store_width<T, T>(moment + i, b, width);
      d = nesterov ? d + momentum * b : b;
    }
    simd::store_width<T, T>(parameter + i, p + step * d, width);
  });
}

}  // namespace

void sgd(Device device, const SgdArgs& args) {
  if (WEFT_ON_GPU("sgd", sgd, device, args)) return;
  if (args.state->apply == 0) return;
  args.table->for_each_chunk([&](const UpdateEntry& entry, const UpdateTable::Chunk& chunk, std::size_t) {
    dispatch_parameter(entry.dtype, "sgd", [&]<class T>(std::type_identity<T>) { update<T>(args, entry, chunk); });
  });
}

}  // namespace weft::kernels
