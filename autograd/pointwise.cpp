#include "autograd/pointwise.h"

#include <cmath>

#include "autograd/elementwise.h"
#include "autograd/function.h"
#include "autograd/layout.h"
#include "kernels/common/contract.h"

namespace weft {
namespace {

template <class F>
Tensor map(const char* op, const Tensor& x, F&& f) {
  kernels::require_cpu(op, x.device());
  const Tensor dense = contiguous(x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), op, [&]<class S>(std::type_identity<S>) {
    const S* from = dense.data<S>();
    S* to = y.data<S>();
    for (std::int64_t i = 0; i < x.numel(); ++i) to[i] = static_cast<S>(f(static_cast<compute_t<S>>(from[i])));
  });
  return y;
}

struct Exp : Function<Exp> {
  static constexpr const char* kName = "exp";
  static Tensor forward(FunctionContext& context, const Tensor& x) {
    Tensor y = map(kName, x, [](auto v) { return std::exp(v); });
    context.save(y);
    return y;
  }
  static std::vector<Tensor> backward(FunctionContext& context, const Tensor& dy) { return {dy * context.saved(0)}; }
};

struct Log : Function<Log> {
  static constexpr const char* kName = "log";
  static Tensor forward(FunctionContext& context, const Tensor& x) {
    context.save(x);
    return map(kName, x, [](auto v) { return std::log(v); });
  }
  static std::vector<Tensor> backward(FunctionContext& context, const Tensor& dy) { return {dy / context.saved(0)}; }
};

struct Rsqrt : Function<Rsqrt> {
  static constexpr const char* kName = "rsqrt";
  static Tensor forward(FunctionContext& context, const Tensor& x) {
    Tensor y = map(kName, x, [](auto v) { return 1 / std::sqrt(v); });
    context.save(y);
    return y;
  }
  static std::vector<Tensor> backward(FunctionContext& context, const Tensor& dy) {
    const Tensor& y = context.saved(0);
    return {dy * (y * y * y) * -0.5};
  }
};

}  // namespace

Tensor exp(const Tensor& x) { return Exp::apply(x); }
Tensor log(const Tensor& x) { return Log::apply(x); }
Tensor rsqrt(const Tensor& x) { return Rsqrt::apply(x); }

}  // namespace weft
