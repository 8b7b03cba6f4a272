#include "autograd/window.h"

#include <atomic>

#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"

namespace weft {
namespace {

std::atomic<std::uint64_t> next_window{1};

}  // namespace

Tensor Loss::mean() const { return div(sum, denominator); }

Window::Window() : id_(next_window.fetch_add(1, std::memory_order_relaxed)) {}

void Window::backward(const Loss& loss) {
  weft::backward(loss.sum, {}, {.window = id_});
  const NoGrad guard;
  if (micro_batches_ == 0) {
    sum_ = clone(detach(loss.sum));
    denominator_ = clone(detach(loss.denominator));
  } else {
    add_(sum_, detach(loss.sum));
    add_(denominator_, detach(loss.denominator));
  }
  ++micro_batches_;
}

double Window::mean_loss() const {
  require<AutogradError>(micro_batches_ > 0, "window", "no micro-batch has been added yet");
  return sum_.item<double>() / denominator_.item<double>();
}

}  // namespace weft
