#pragma once
// The graph: a Node per recorded operation, edges from each of its inputs to the node (or leaf) that made the input.
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/common/contract.h"
#include "tensor/tensor.h"

namespace weft {

class Gradients;
class Node;

/// Called with a leaf's whole gradient of one backward call; returns what to accumulate (the same tensor to leave it).
using GradientHook = std::function<Tensor(const Tensor& gradient)>;

/// What autograd keeps for a tensor: for a leaf its gradient, for a result the node that made it.
class AutogradMeta final : public AutogradSlot {
 public:
  std::shared_ptr<AutogradSlot> view(const Tensor& base, const Tensor& view, const ViewRecord& record) override;

  // Results:
  std::shared_ptr<Node> node;  // null for a leaf
  int output = 0;              // which output of the node
  // Leaves:
  bool requires_grad = false;
  Tensor gradient;  // memory is kept between updates; its content counts only while has_gradient
  bool has_gradient = false;
  std::uint64_t window = 0;  // the window that the gradient belongs to, 0 for none
  std::vector<GradientHook> hooks;
  // During one backward call:
  std::uint64_t run = 0;  // the call that `pending` belongs to
  int pending = 0;        // edges of that call that have not delivered yet
  Tensor incoming;        // sum so far, for a leaf with hooks
};

/// The meta of a tensor, or null when nothing is attached.
inline AutogradMeta* autograd_meta(const Tensor& tensor) {
  return static_cast<AutogradMeta*>(tensor.autograd_slot().get());
}

/// Where the gradient of one input goes.
struct Edge {
  std::shared_ptr<AutogradMeta> leaf;  // a leaf that requires a gradient, or
  std::shared_ptr<Node> node;          // the node that made the input, or neither: no gradient is wanted
  int output = 0;
  bool wanted() const { return leaf || node; }
};

/// A tensor kept for backward. It holds the data, not the graph, and notices when the data was modified meanwhile.
class Saved {
 public:
  Saved() = default;
  void operator=(const Tensor& tensor);
  /// The tensor. Errors: AutogradError when it was modified in place after it was saved.
  const Tensor& get(const char* op) const;
  bool defined() const { return tensor_.defined(); }
  void reset() { tensor_ = Tensor(); }

 private:
  Tensor tensor_;
  std::uint64_t version_ = 0;
};

/// One recorded operation. A subclass names its saved tensors as members and computes the inputs' gradients.
class Node {
 public:
  virtual ~Node();
  /// The operation's name, for errors and traces.
  virtual const char* name() const = 0;
  /// Computes the gradients that `dx` wants. dy has one entry per output; an entry is undefined when nothing that was
  /// differentiated used that output (never all of them).
  virtual void backward(std::span<const Tensor> dy, Gradients& dx) = 0;
  /// Drops what was saved; called after backward unless the graph is retained.
  virtual void release() {}
  /// True for a node that saves nothing: backward may run through it again although the graph was released.
  virtual bool reusable() const { return false; }

  std::vector<Edge> inputs;
  std::vector<Tensor> incoming;      // gradients of the outputs, collected during a backward call
  std::vector<bool> incoming_owned;  // whether an entry may be added to in place
  std::uint64_t sequence = 0;        // order of recording: inputs always come before their users
  std::uint64_t run = 0;             // the backward call that visited the node last
  bool released = false;
};

/// What Node::backward fills: one slot per input of the node.
class Gradients {
 public:
  Gradients(Node& node, std::uint64_t window) : node_(node), window_(window) {}

  bool wanted(int input) const { return node_.inputs[static_cast<std::size_t>(input)].wanted(); }
  /// Hands over the gradient of an input: same shape and dtype as the input was.
  void set(int input, Tensor gradient);

  /// Memory to write or add the gradient of an input to, for kernels that can do both (weights, biases, scales).
  struct Target {
    Tensor tensor;  // contiguous
    Accumulate mode;
  };
  /// For a leaf without hooks this is its gradient itself, so that nothing is copied; call only if wanted(input), once, and
  /// then write all of it.
  Target target(int input, const Shape& shape, Dtype dtype, Device device);
  /// Hands over what target() made for inputs that are not leaves; the engine calls it after Node::backward.
  void finish();

 private:
  Node& node_;
  std::uint64_t window_;
  std::vector<std::pair<int, Tensor>> written_;
};

/// Whether operations on this thread record a graph. Starts true on every thread.
bool grad_mode();
/// Switches recording for the lifetime of the object: `NoGrad guard;` in evaluation.
class GradModeGuard {
 public:
  explicit GradModeGuard(bool enabled);
  ~GradModeGuard();
  GradModeGuard(const GradModeGuard&) = delete;
  GradModeGuard& operator=(const GradModeGuard&) = delete;

 private:
  bool before_;
};
/// Records nothing while it lives: for evaluation.
class NoGrad : public GradModeGuard {
 public:
  NoGrad() : GradModeGuard(false) {}
};

/// Whether a gradient flows to this tensor: a leaf that asks for one, or a result of such.
bool requires_grad(const Tensor& tensor);

namespace detail {
using TensorRefs = std::span<const Tensor* const>;
void connect(const std::shared_ptr<Node>& node, TensorRefs inputs);
void attach(const std::shared_ptr<Node>& node, TensorRefs outputs);
bool should_record(TensorRefs inputs);
inline bool should_record(std::initializer_list<const Tensor*> inputs) {
  return should_record(TensorRefs(inputs.begin(), inputs.size()));
}
/// In anomaly mode: throws AutogradError when an output holds a NaN or an infinity.
void check_anomaly(const char* op, std::initializer_list<const Tensor*> outputs);
std::shared_ptr<AutogradSlot> record_view(const Tensor& base, const Tensor& view, const ViewRecord& record);
/// Whether dy is the 1 that a backward call without a seed starts from: known without reading a device's memory.
bool is_unit_seed(const Tensor& dy);
// Adds a gradient to a leaf's, or keeps it until the leaf's hooks can see the sum.
void deliver(AutogradMeta& leaf, Tensor gradient, std::uint64_t window);
// A leaf's own gradient memory, to be written or added to.
Gradients::Target leaf_target(AutogradMeta& leaf, const Shape& shape, Dtype dtype, Device device, std::uint64_t window);
}  // namespace detail

/// Records an operation of type N when grad mode is on and an input requires a gradient: makes the node, ties it to its
/// inputs and outputs, and returns it for its saved tensors to be set. Null when nothing is to be recorded.
/// Inputs may be undefined (an absent bias).
template <class N>
std::shared_ptr<N> record(detail::TensorRefs outputs, detail::TensorRefs inputs) {
  if (!detail::should_record(inputs)) return nullptr;
  auto node = std::make_shared<N>();
  detail::connect(node, inputs);
  detail::attach(node, outputs);
  return node;
}
/// The same for lists in braces.
template <class N>
std::shared_ptr<N> record(std::initializer_list<const Tensor*> outputs, std::initializer_list<const Tensor*> inputs) {
  return record<N>(detail::TensorRefs(outputs.begin(), outputs.size()),
                   detail::TensorRefs(inputs.begin(), inputs.size()));
}

}  // namespace weft
