// The workloads of every operation's declarative case (tests/cases/): forward alone, and forward with backward.
//   <op>_forward/R:2048/C:768, <op>_forward_backward/R:2048/C:768
#include <string>

#include "autograd/factories.h"
#include "cases/op_case.h"
#include "support/measure.h"

namespace weft {
namespace {

using cases::Extents;
using cases::Family;

struct Operands {
  cases::Workload workload;
  cases::Tensors x;
  explicit Operands(const Family& family, const Extents& extents)
      : workload(family.make(extents, 4)), x(cases::make_inputs(workload.inputs, Dtype::f32)) {}
};

void run_forward(benchmark::State& state, const Family& family, const Extents& extents) {
  const Operands in(family, extents);
  bench::forward(state, {in.workload.forward.bytes, in.workload.forward.flops}, [&] { return in.workload.call(in.x); });
}

void run_forward_backward(benchmark::State& state, const Family& family, const Extents& extents) {
  const Operands in(family, extents);
  const cases::Cost forward = in.workload.forward, backward = in.workload.backward;
  cases::Tensors leaves;
  for (std::size_t i = 0; i < in.x.size(); ++i)
    if (in.workload.inputs[i].differentiable && is_floating(in.x[i].dtype())) leaves.push_back(in.x[i]);
  Tensor y;
  {
    const NoGrad guard;
    y = in.workload.call(in.x);
  }
  const Tensor dy = y.rank() == 0 ? Tensor() : randn(y.shape(), 99, y.dtype());
  bench::forward_backward(state, {forward.bytes + backward.bytes, forward.flops + backward.flops}, leaves, dy,
                          [&] { return in.workload.call(in.x); });
}

// Registered before main() reads the command line.
const bool kRegistered = [] {
  for (const cases::OpCase& op : cases::all_cases())
    for (const Family& family : op.families)
      for (const Extents& extents : family.timed) {
        std::string at;
        for (std::size_t i = 0; i < extents.size(); ++i)
          at += "/" + family.extents.at(i) + ":" + std::to_string(extents[i]);
        const auto add = [&](const char* pass, auto run) {
          benchmark::RegisterBenchmark((op.op + family.suffix + pass + at).c_str(), [&family, extents,
                                                                                     run](benchmark::State& state) {
            run(state, family, extents);
          })->UseRealTime();
        };
        add("_forward", run_forward);
        if (family.make(extents, 4).backward.bytes > 0 || family.make(extents, 4).backward.flops > 0)
          add("_forward_backward", run_forward_backward);
      }
  return true;
}();

}  // namespace
}  // namespace weft
