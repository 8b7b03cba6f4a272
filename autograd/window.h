#pragma once
// A loss is a sum and a denominator, and an update is a window of micro-batches: both are added up over the window, and the
// optimizer divides the gradient of the sum by the denominator of the whole window, once. Any split of a batch into
// micro-batches, ragged or with a short last one, then gives the same gradient.
#include <cstdint>

#include "tensor/tensor.h"

namespace weft {

/// What a loss function returns. Both are f64 scalars on the device of the operands.
struct Loss {
  Tensor sum;          // [], sum of the (weighted) terms; carries the graph
  Tensor denominator;  // [], number (or weight) of the terms; no graph
  /// sum / denominator, as a differentiable scalar, for `backward(loss.mean())`. 0/0 when nothing was counted: NaN.
  Tensor mean() const;
};

/// One optimizer update's accumulation: loss sum, denominator, number of micro-batches. Gradients are tagged with the
/// window's id, and mixing two windows (or a window and a plain backward) in one gradient throws AutogradError.
class Window {
 public:
  Window();

  /// backward(loss.sum) with this window's tag; adds loss.sum and loss.denominator to the totals, on the device.
  void backward(const Loss& loss);

  std::uint64_t id() const { return id_; }
  int micro_batches() const { return micro_batches_; }
  const Tensor& sum() const { return sum_; }                  // f64 [], total over the micro-batches so far
  const Tensor& denominator() const { return denominator_; }  // f64 []
  /// sum / denominator of the window, read back to the host. NaN when the denominator is 0.
  double mean_loss() const;

 private:
  std::uint64_t id_;
  int micro_batches_ = 0;
  Tensor sum_;
  Tensor denominator_;
};

}  // namespace weft
