#include "autograd/step_context.h"

namespace weft {
namespace {

thread_local const StepContext* innermost = nullptr;

}  // namespace

const StepContext* StepContext::current() { return innermost; }

const StepContext& StepContext::require(const char* op) {
  weft::require(innermost != nullptr, op,
                "needs a StepContext for its randomness: open one with `auto scope = micro.scope();` or StepScope");
  return *innermost;
}

StepScope::StepScope(StepContext context) : context_(std::move(context)), before_(innermost) { innermost = &context_; }
StepScope::~StepScope() { innermost = before_; }

}  // namespace weft
