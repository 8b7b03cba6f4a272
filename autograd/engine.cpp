#include "autograd/engine.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "autograd/cast.h"
#include "autograd/factories.h"
#include "autograd/layout.h"

namespace weft {
namespace {

thread_local int anomaly_depth = 0;
std::atomic<std::uint64_t> next_run{1};

// Everything that a backward call visited; forgets the half-done sums even when a node throws.
struct Visit {
  std::vector<std::shared_ptr<Node>> nodes;
  std::vector<std::shared_ptr<AutogradMeta>> hooked_leaves;
  ~Visit() {
    for (auto& node : nodes) std::fill(node->incoming.begin(), node->incoming.end(), Tensor());
    for (auto& leaf : hooked_leaves) leaf->incoming = Tensor();
  }
};

// All nodes that `root` depends on, in the reverse of their recording order: an operation is recorded after its inputs, so
// this is a topological order, and the same one every time.
void collect(const std::shared_ptr<Node>& root, std::uint64_t run, Visit& visit) {
  root->run = run;
  visit.nodes.push_back(root);
  for (std::size_t i = 0; i < visit.nodes.size(); ++i) {
    // By index: the vector grows while it is walked.
    for (std::size_t e = 0; e < visit.nodes[i]->inputs.size(); ++e) {
      const Edge& edge = visit.nodes[i]->inputs[e];
      if (edge.node && edge.node->run != run) {
        edge.node->run = run;
        visit.nodes.push_back(edge.node);
      } else if (edge.leaf && !edge.leaf->hooks.empty()) {
        if (edge.leaf->run != run) {
          edge.leaf->run = run;
          edge.leaf->pending = 0;
          visit.hooked_leaves.push_back(edge.leaf);
        }
        ++edge.leaf->pending;
      }
    }
  }
  std::sort(visit.nodes.begin(), visit.nodes.end(),
            [](const auto& a, const auto& b) { return a->sequence > b->sequence; });
}

void check_window(const AutogradMeta& leaf, std::uint64_t window) {
  if (!leaf.has_gradient || leaf.window == window) return;
  fail<AutogradError>(
      "backward", "a leaf of shape {} holds a gradient of {} but this backward belongs to {}: step or zero_grad first",
      leaf.gradient.shape(), leaf.window == 0 ? "no window" : fmt::format("window {}", leaf.window),
      window == 0 ? "no window" : fmt::format("window {}", window));
}

void accumulate(AutogradMeta& leaf, Tensor gradient, std::uint64_t window) {
  check_window(leaf, window);
  if (leaf.has_gradient) {
    add_(leaf.gradient, gradient);
  } else {
    leaf.gradient = gradient.is_unique() && gradient.is_contiguous() ? std::move(gradient) : clone(gradient);
    leaf.has_gradient = true;
  }
  leaf.window = window;
}

// The leaf has its whole gradient of this call once its last edge has delivered (or turned out to deliver nothing).
void settle_hooked(AutogradMeta& leaf, std::uint64_t window) {
  if (--leaf.pending > 0 || !leaf.incoming.defined()) return;
  Tensor gradient = std::move(leaf.incoming);
  leaf.incoming = Tensor();
  for (const GradientHook& hook : leaf.hooks) {
    const Shape shape = gradient.shape();
    gradient = hook(gradient);
    require<AutogradError>(gradient.defined() && gradient.shape() == shape, "backward",
                           "a gradient hook must return a tensor of the gradient's shape {}", shape);
  }
  accumulate(leaf, std::move(gradient), window);
}

// The gradients that a call without a seed starts from: made once per thread and device, so that a node can know one by
// its identity, without reading a device's memory.
struct UnitSeed {
  Dtype dtype;
  Tensor tensor;
};
thread_local std::vector<UnitSeed> unit_seeds;

Tensor unit_seed(Dtype dtype, Device device) {
  for (const UnitSeed& seed : unit_seeds)
    if (seed.dtype == dtype && seed.tensor.device() == device) return seed.tensor;
  unit_seeds.push_back({dtype, ones({}, dtype, device)});
  return unit_seeds.back().tensor;
}

}  // namespace

namespace detail {

bool is_unit_seed(const Tensor& dy) {
  return std::any_of(unit_seeds.begin(), unit_seeds.end(),
                     [&](const UnitSeed& seed) { return seed.tensor.is_same(dy); });
}

void deliver(AutogradMeta& leaf, Tensor gradient, std::uint64_t window) {
  if (leaf.hooks.empty()) return accumulate(leaf, std::move(gradient), window);
  if (!leaf.incoming.defined()) {
    leaf.incoming = std::move(gradient);
    return;
  }
  leaf.incoming = clone(leaf.incoming);  // the first contribution may share memory with other gradients
  add_(leaf.incoming, gradient);
}

Gradients::Target leaf_target(AutogradMeta& leaf, const Shape& shape, Dtype dtype, Device device,
                              std::uint64_t window) {
  check_window(leaf, window);
  const bool had_gradient = leaf.has_gradient;
  const bool fits = leaf.gradient.defined() && leaf.gradient.shape() == shape && leaf.gradient.dtype() == dtype &&
                    leaf.gradient.device() == device && leaf.gradient.is_contiguous();
  if (!fits) {
    if (had_gradient)
      fail<AutogradError>("backward", "a leaf holds a gradient of shape {} but gets one of shape {}",
                          leaf.gradient.shape(), shape);
    leaf.gradient = Tensor::empty(shape, dtype, device);
  }
  leaf.has_gradient = true;
  leaf.window = window;
  return {leaf.gradient, had_gradient ? Accumulate::add : Accumulate::overwrite};
}

void check_anomaly(const char* op, std::initializer_list<const Tensor*> outputs) {
  if (anomaly_depth == 0) [[likely]]
    return;
  for (const Tensor* output : outputs) {
    if (!output->defined() || !is_floating(output->dtype())) continue;
    const std::vector<double> values = cast(output->alias(), Dtype::f64).to_vector<double>();
    for (std::size_t i = 0; i < values.size(); ++i)
      require<AutogradError>(std::isfinite(values[i]), op, "made {} at element {} of a result of shape {}",
                             std::isnan(values[i]) ? "a NaN" : "an infinity", i, output->shape());
  }
}

}  // namespace detail

AnomalyMode::AnomalyMode() { ++anomaly_depth; }
AnomalyMode::~AnomalyMode() { --anomaly_depth; }

Tensor set_requires_grad(const Tensor& tensor, bool required) {
  require<DtypeError>(!required || is_floating(tensor.dtype()), "set_requires_grad",
                      "needs a floating dtype but has {}", to_string(tensor.dtype()));
  require<AutogradError>(is_leaf(tensor), "set_requires_grad",
                         "the tensor is the result of a recorded operation: detach it first");
  if (!required) {
    tensor.set_autograd_slot(nullptr);
  } else if (autograd_meta(tensor) == nullptr) {
    auto meta = std::make_shared<AutogradMeta>();
    meta->requires_grad = true;
    tensor.set_autograd_slot(std::move(meta));
  }
  return tensor;
}

bool is_leaf(const Tensor& tensor) {
  const AutogradMeta* meta = autograd_meta(tensor);
  return meta == nullptr || meta->node == nullptr;
}

Tensor grad(const Tensor& leaf) {
  const AutogradMeta* meta = autograd_meta(leaf);
  return meta != nullptr && meta->has_gradient ? meta->gradient : Tensor();
}

void zero_grad(const Tensor& leaf) {
  if (AutogradMeta* meta = autograd_meta(leaf)) meta->has_gradient = false;
}

void set_grad(const Tensor& leaf, const Tensor& gradient) {
  AutogradMeta* meta = autograd_meta(leaf);
  require<AutogradError>(meta != nullptr && meta->requires_grad, "set_grad",
                         "the tensor is no leaf that requires a gradient");
  require<ShapeError>(gradient.shape() == leaf.shape() && gradient.dtype() == leaf.dtype(), "set_grad",
                      "the gradient must be {} {} but is {} {}", leaf.shape(), to_string(leaf.dtype()),
                      gradient.shape(), to_string(gradient.dtype()));
  const NoGrad guard;
  meta->gradient = clone(gradient);
  meta->has_gradient = true;
  meta->window = 0;
}

std::uint64_t grad_window(const Tensor& leaf) {
  const AutogradMeta* meta = autograd_meta(leaf);
  return meta != nullptr && meta->has_gradient ? meta->window : 0;
}

Tensor detach(const Tensor& tensor) { return tensor.alias(); }

void add_grad_hook(const Tensor& leaf, GradientHook hook) {
  AutogradMeta* meta = autograd_meta(leaf);
  require<AutogradError>(meta != nullptr && meta->requires_grad, "add_grad_hook",
                         "the tensor is no leaf that requires a gradient");
  meta->hooks.push_back(std::move(hook));
}

void backward(const Tensor& root, const Tensor& seed, BackwardOptions options) {
  require<AutogradError>(requires_grad(root), "backward",
                         "the tensor depends on nothing that requires a gradient (or was computed under NoGrad)");
  Tensor start = seed;
  if (!start.defined()) {
    require<ShapeError>(root.numel() == 1, "backward",
                        "a tensor of shape {} needs a seed: only one element can do without", root.shape());
    start = root.rank() == 0 ? unit_seed(root.dtype(), root.device()) : ones(root.shape(), root.dtype(), root.device());
  }
  require<ShapeError>(start.shape() == root.shape() && start.dtype() == root.dtype(), "backward",
                      "the seed must be {} {} but is {} {}", root.shape(), to_string(root.dtype()), start.shape(),
                      to_string(start.dtype()));
  const NoGrad guard;
  AutogradMeta& meta = *autograd_meta(root);
  if (!meta.node) {  // a leaf is its own gradient's end
    meta.pending = 1;
    detail::deliver(meta, start, options.window);
    if (!meta.hooks.empty()) settle_hooked(meta, options.window);
    return;
  }

  Visit visit;
  collect(meta.node, next_run.fetch_add(1, std::memory_order_relaxed), visit);
  for (const auto& node : visit.nodes)
    require<AutogradError>(
        !node->released || node->reusable(), "backward",
        "the graph of '{}' was released by an earlier backward: give that one retain_graph = true, or run "
        "forward again",
        node->name());
  meta.node->incoming[static_cast<std::size_t>(meta.output)] = start;
  meta.node->incoming_owned[static_cast<std::size_t>(meta.output)] = false;
  for (const auto& node : visit.nodes) {
    const bool reached =
        std::any_of(node->incoming.begin(), node->incoming.end(), [](const Tensor& dy) { return dy.defined(); });
    if (reached) {
      if (anomaly_depth > 0)
        for (const Tensor& dy : node->incoming) detail::check_anomaly(node->name(), {&dy});
      Gradients dx(*node, options.window);
      node->backward(node->incoming, dx);
      dx.finish();
      std::fill(node->incoming.begin(), node->incoming.end(), Tensor());
    }
    for (const Edge& edge : node->inputs)
      if (edge.leaf && !edge.leaf->hooks.empty()) settle_hooked(*edge.leaf, options.window);
    if (!options.retain_graph) {
      node->release();
      node->released = true;
    }
  }
}

}  // namespace weft
