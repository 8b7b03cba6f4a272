// Gradients of Tensor's view members: a view is recorded as an operation like any other.
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/node.h"
#include "autograd/reduce.h"

namespace weft {
namespace {

struct ViewNode final : Node {
  const char* name() const override {
    switch (record.kind) {
      case ViewRecord::Kind::reshape: return "reshape";
      case ViewRecord::Kind::transpose: return "transpose";
      case ViewRecord::Kind::permute: return "permute";
      case ViewRecord::Kind::slice: return "slice";
      case ViewRecord::Kind::select: return "select";
      case ViewRecord::Kind::expand: return "expand";
    }
    return "view";
  }
  void backward(std::span<const Tensor> dy, Gradients& dx) override {
    switch (record.kind) {
      case ViewRecord::Kind::reshape: return dx.set(0, weft::reshape(dy[0], base));
      case ViewRecord::Kind::transpose: return dx.set(0, dy[0].transpose(record.a, record.b));
      case ViewRecord::Kind::permute: {
        Dims inverse = record.order;
        for (int d = 0; d < record.order.rank(); ++d) inverse[static_cast<int>(record.order[d])] = d;
        return dx.set(0, dy[0].permute(inverse));
      }
      case ViewRecord::Kind::expand: return dx.set(0, sum_to(dy[0], base));
      case ViewRecord::Kind::slice: {
        Tensor whole = zeros(base, dy[0].dtype(), dy[0].device());
        copy_(whole.slice(record.a, record.start, record.stop, record.step), dy[0]);
        return dx.set(0, std::move(whole));
      }
      case ViewRecord::Kind::select: {
        Tensor whole = zeros(base, dy[0].dtype(), dy[0].device());
        copy_(whole.select(record.a, record.start), dy[0]);
        return dx.set(0, std::move(whole));
      }
    }
  }
  bool reusable() const override { return true; }

  ViewRecord record{};
  Shape base;
};

}  // namespace

std::shared_ptr<AutogradSlot> detail::record_view(const Tensor& base, const Tensor& view, const ViewRecord& record) {
  if (auto node = weft::record<ViewNode>({&view}, {&base})) {
    node->record = record;
    node->base = base.shape();
  }
  return view.autograd_slot();
}

}  // namespace weft
