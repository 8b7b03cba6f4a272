#include "data/micro_batch.h"

namespace weft::data {

StepScope MicroBatch::scope() const {
  return StepScope(StepContext{.seed = seed,
                               .update = update,
                               .sample_ids = sample_ids,
                               .positions = positions,
                               .micro_batch = static_cast<int>(index)});
}

}  // namespace weft::data
