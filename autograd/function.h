#pragma once
// A user's own differentiable operation.
#include <span>
#include <string>
#include <vector>

#include "autograd/node.h"

namespace weft {

/// Passed to a Function's forward and backward: what forward saves, backward finds again.
class FunctionContext {
 public:
  void save(const Tensor& tensor) { saved_.emplace_back() = tensor; }
  /// The i-th saved tensor. Errors: AutogradError when it was modified in place since.
  const Tensor& saved(std::size_t i) const { return saved_.at(i).get(name_); }
  /// Whether the i-th input asks for a gradient: backward may return an undefined tensor where it does not.
  bool needs_gradient(std::size_t i) const { return i < needed_.size() && needed_[i]; }

 private:
  template <class>
  friend class Function;
  const char* name_ = "function";
  std::vector<Saved> saved_;
  std::vector<bool> needed_;
};

/// Base of a user's operation: F provides
///   static constexpr const char* kName = "square";
///   static Tensor forward(FunctionContext& context, const Tensor& x, ...);          // any number of tensors
///   static std::vector<Tensor> backward(FunctionContext& context, const Tensor& dy);  // one gradient per input
/// and is called as F::apply(x, ...). forward runs without recording.
template <class F>
class Function {
 public:
  template <class... Inputs>
  static Tensor apply(const Inputs&... inputs) {
    FunctionContext context;
    context.name_ = F::kName;
    context.needed_ = {requires_grad(inputs)...};
    Tensor output;
    {
      const NoGrad guard;
      output = F::forward(context, inputs...);
    }
    // An output that is one of the inputs would be tied to itself: give it a handle of its own.
    if ((output.is_same(inputs) || ...)) output = output.alias();
    detail::check_anomaly(F::kName, {&output});
    if (auto node = record<FunctionNode>({&output}, {&inputs...})) {
      node->context = std::move(context);
      node->shapes = {(inputs.defined() ? inputs.shape() : Shape{})...};
    }
    return output;
  }

 private:
  struct FunctionNode final : Node {
    const char* name() const override { return F::kName; }
    void backward(std::span<const Tensor> dy, Gradients& dx) override {
      std::vector<Tensor> gradients = F::backward(context, dy[0]);
      require<AutogradError>(gradients.size() == inputs.size(), F::kName,
                             "backward must return {} gradients but returned {}", inputs.size(), gradients.size());
      for (std::size_t i = 0; i < gradients.size(); ++i) {
        if (!dx.wanted(static_cast<int>(i)) || !gradients[i].defined()) continue;
        require<AutogradError>(gradients[i].shape() == shapes[i], F::kName,
                               "backward must return a gradient of shape {} for input {} but returned {}", shapes[i], i,
                               gradients[i].shape());
        dx.set(static_cast<int>(i), std::move(gradients[i]));
      }
    }
    void release() override { context.saved_.clear(); }
    FunctionContext context;
    std::vector<Shape> shapes;  // of the inputs
  };
};

}  // namespace weft
