#pragma once
// Differentiation: which tensors ask for gradients, running backward, reading what it left.
#include "autograd/node.h"

namespace weft {

/// Makes a tensor a leaf that collects (or no longer collects) a gradient; returns it.
/// Errors: DtypeError unless floating; AutogradError for a result of a recorded operation (detach it first).
Tensor set_requires_grad(const Tensor& tensor, bool required = true);
/// Whether the tensor is no result of a recorded operation.
bool is_leaf(const Tensor& tensor);
/// The gradient that backward accumulated for a leaf, or an undefined tensor when there is none (never computed, or zeroed).
Tensor grad(const Tensor& leaf);
/// Forgets the gradient: grad(leaf) is undefined and the next backward overwrites instead of adding. The memory is kept.
void zero_grad(const Tensor& leaf);
/// Replaces the gradient of a leaf (same shape and dtype), outside of any window.
void set_grad(const Tensor& leaf, const Tensor& gradient);
/// The window that the gradient of a leaf belongs to (see Window), 0 for none.
std::uint64_t grad_window(const Tensor& leaf);
/// The same data without history.
Tensor detach(const Tensor& tensor);
/// Calls `hook` with the leaf's whole gradient of each backward call, before it is accumulated.
void add_grad_hook(const Tensor& leaf, GradientHook hook);

/// What one backward call does beyond the gradients.
struct BackwardOptions {
  bool retain_graph = false;  // keep the saved tensors, so that backward can run through the same graph again
  std::uint64_t window = 0;   // tag of the gradients; set by Window
};

/// Computes the gradient of `root` with respect to every leaf that it depends on and ADDS it to the leaf's gradient.
///   Calling it twice: on two graphs, gradients accumulate (that is how micro-batches work). On the same graph, the second
///   call is an AutogradError unless the first retained it, for the saved tensors are gone.
/// Shapes:  root any; seed the same shape, may be left out when root has one element (1 is taken).
/// Errors:  AutogradError when root requires no gradient, its graph was released, a saved tensor was modified in place,
///          or a leaf holds a gradient of another window; ShapeError for a wrong seed. Leaves that were not reached yet keep
///          their gradient.
/// Numerics: nodes run in the reverse of their recording order: bitwise repeatable. Iterative: depth is bounded by memory.
void backward(const Tensor& root, const Tensor& seed = {}, BackwardOptions options = {});

/// While one lives, every operation on this thread checks its results, and backward its gradients, for NaN and infinity and
/// throws AutogradError naming the first operation that made one. Slow: for finding, not for training.
class AnomalyMode {
 public:
  AnomalyMode();
  ~AnomalyMode();
  AnomalyMode(const AnomalyMode&) = delete;
  AnomalyMode& operator=(const AnomalyMode&) = delete;
};

}  // namespace weft
