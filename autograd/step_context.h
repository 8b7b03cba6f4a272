#pragma once
// What an operation may need to know about the training step and a plain call does not carry: the source of its randomness.
#include <cstdint>
#include <optional>

#include "tensor/tensor.h"

namespace weft {

/// The step that operations on this thread belong to. Randomness is keyed by (seed, update, sample id, position, op), so that
/// masks do not depend on how a batch was cut. A node that needs the context copies it at forward: backward and
/// recomputation never read the thread's.
struct StepContext {
  std::uint64_t seed = 0;
  Tensor update{};      // i64 [], in device memory (a captured graph reads it anew at each replay); numbered from 1
  Tensor sample_ids{};  // i64 [B], the dataset's index of each row of the micro-batch; [B, T] where rows hold several
  Tensor positions{};   // i64 [B, T], position of each token in its sample; undefined when rows are whole samples
  int micro_batch = 0;  // [0, K) within the update

  /// The innermost open context of this thread, or null.
  static const StepContext* current();
  /// The same; throws Error "[op] needs a StepContext ..." when there is none.
  static const StepContext& require(const char* op);
};

/// Opens a context for its lifetime: `auto scope = micro.scope();`
class StepScope {
 public:
  explicit StepScope(StepContext context);
  ~StepScope();
  StepScope(const StepScope&) = delete;
  StepScope& operator=(const StepScope&) = delete;

 private:
  StepContext context_;
  const StepContext* before_;
};

}  // namespace weft
