#include "autograd/pointwise.h"

#include "autograd/elementwise.h"
#include "autograd/function.h"
#include "autograd/layout.h"
#include "kernels/elementwise.h"

namespace weft {
namespace {

using kernels::UnaryOp;

Tensor run_unary(const char* name, UnaryOp op, const Tensor& x) {
  require<DtypeError>(is_floating(x.dtype()), name, "needs f64, f32, f16 or bf16 but has {}", to_string(x.dtype()));
  const Tensor dense = contiguous(x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels::unary(x.device(), {op, x.dtype(), dense.raw_data(), y.raw_data(), x.numel()});
  return y;
}

struct Exp : Function<Exp> {
  static constexpr const char* kName = "exp";
  static Tensor forward(FunctionContext& context, const Tensor& x) {
    Tensor y = run_unary(kName, UnaryOp::exp, x);
    context.save(y);
    return y;
  }
  static std::vector<Tensor> backward(FunctionContext& context, const Tensor& dy) { return {dy * context.saved(0)}; }
};

struct Log : Function<Log> {
  static constexpr const char* kName = "log";
  static Tensor forward(FunctionContext& context, const Tensor& x) {
    context.save(x);
    return run_unary(kName, UnaryOp::log, x);
  }
  static std::vector<Tensor> backward(FunctionContext& context, const Tensor& dy) { return {dy / context.saved(0)}; }
};

struct Rsqrt : Function<Rsqrt> {
  static constexpr const char* kName = "rsqrt";
  static Tensor forward(FunctionContext& context, const Tensor& x) {
    Tensor y = run_unary(kName, UnaryOp::rsqrt, x);
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
