#include "autograd/node.h"

#include <atomic>

#include "autograd/layout.h"

namespace weft {
namespace {

thread_local bool recording = true;

std::atomic<std::uint64_t> next_sequence{1};

}  // namespace

bool grad_mode() { return recording; }
GradModeGuard::GradModeGuard(bool enabled) : before_(recording) { recording = enabled; }
GradModeGuard::~GradModeGuard() { recording = before_; }

bool requires_grad(const Tensor& tensor) {
  if (!tensor.defined()) return false;
  const AutogradMeta* meta = autograd_meta(tensor);
  return meta != nullptr && (meta->node != nullptr || meta->requires_grad);
}

// A chain of 100 000 nodes must not be destroyed recursively: nodes hand their inputs to one loop.
Node::~Node() {
  thread_local std::vector<std::shared_ptr<Node>> orphans;
  thread_local bool draining = false;
  for (Edge& edge : inputs)
    if (edge.node) orphans.push_back(std::move(edge.node));
  if (draining) return;
  draining = true;
  while (!orphans.empty()) {
    const std::shared_ptr<Node> node = std::move(orphans.back());
    orphans.pop_back();
  }
  draining = false;
}

void Saved::operator=(const Tensor& tensor) {
  tensor_ = tensor.defined() ? tensor.alias() : Tensor();
  version_ = tensor_.defined() ? tensor_.version() : 0;
}

const Tensor& Saved::get(const char* op) const {
  if (tensor_.defined())
    require<AutogradError>(
        tensor_.version() == version_, op,
        "a tensor of shape {} that backward needs was modified in place after it was used (version {}, "
        "saved at {}): clone it first, or modify it after backward",
        tensor_.shape(), tensor_.version(), version_);
  return tensor_;
}

void Gradients::set(int input, Tensor gradient) {
  Edge& edge = node_.inputs[static_cast<std::size_t>(input)];
  if (edge.leaf) {
    detail::deliver(*edge.leaf, std::move(gradient), window_);
    return;
  }
  if (!edge.node) return;
  const auto slot = static_cast<std::size_t>(edge.output);
  Tensor& sum = edge.node->incoming[slot];
  if (!sum.defined()) {
    edge.node->incoming_owned[slot] = gradient.is_unique();
    sum = std::move(gradient);
    return;
  }
  if (!edge.node->incoming_owned[slot] || !sum.is_contiguous()) {
    sum = clone(sum);
    edge.node->incoming_owned[slot] = true;
  }
  add_(sum, gradient);
}

Gradients::Target Gradients::target(int input, const Shape& shape, Dtype dtype, Device device) {
  Edge& edge = node_.inputs[static_cast<std::size_t>(input)];
  if (edge.leaf && edge.leaf->hooks.empty()) return detail::leaf_target(*edge.leaf, shape, dtype, device, window_);
  written_.emplace_back(input, Tensor::empty(shape, dtype, device));
  return {written_.back().second, Accumulate::overwrite};
}

void Gradients::finish() {
  for (auto& [input, gradient] : written_) set(input, std::move(gradient));
  written_.clear();
}

std::shared_ptr<AutogradSlot> AutogradMeta::view(const Tensor& base, const Tensor& view, const ViewRecord& record) {
  return detail::record_view(base, view, record);
}

namespace detail {

void connect(const std::shared_ptr<Node>& node, TensorRefs inputs) {
  node->sequence = next_sequence.fetch_add(1, std::memory_order_relaxed);
  node->inputs.reserve(inputs.size());
  for (const Tensor* input : inputs) {
    Edge& edge = node->inputs.emplace_back();
    if (!input->defined()) continue;
    AutogradMeta* meta = autograd_meta(*input);
    if (meta == nullptr) continue;
    if (meta->node) {
      edge.node = meta->node;
      edge.output = meta->output;
    } else if (meta->requires_grad) {
      edge.leaf = std::static_pointer_cast<AutogradMeta>(input->autograd_slot());
    }
  }
}

void attach(const std::shared_ptr<Node>& node, TensorRefs outputs) {
  node->incoming.resize(outputs.size());
  node->incoming_owned.resize(outputs.size());
  int index = 0;
  for (const Tensor* output : outputs) {
    auto meta = std::make_shared<AutogradMeta>();
    meta->node = node;
    meta->output = index++;
    output->set_autograd_slot(std::move(meta));
  }
}

bool should_record(TensorRefs inputs) {
  if (!recording) return false;
  for (const Tensor* input : inputs)
    if (requires_grad(*input)) return true;
  return false;
}

}  // namespace detail
}  // namespace weft
