#pragma once
// What every optimizer shares: which gradients an update takes, scaling and clipping, updates that must not be made,
// state.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "autograd/window.h"
#include "kernels/common/step_state.h"
#include "kernels/common/update_table.h"
#include "tensor/tensor.h"

namespace weft::optim {

/// Base of the optimizers. Two forms of one update:
///
///   window.backward(loss);  ...  optimizer.step(window);                          // any number of micro-batches
///   backward(loss.mean());       optimizer.step(); optimizer.zero_grad();         // the plain form
///
/// Both divide the gradient by a denominator (the window's, or 1), clip its norm to `max_norm`, and update, in this
/// order, in two passes over one table of all parameters. Parameters without a gradient are left alone: value, state
/// and count.
///
/// An update is skipped when the denominator is 0 (all targets of the window are masked) or the gradient is not finite:
/// parameters, moments and counts keep their bits, a line on stderr says why, and `max_skipped` skipped updates in a
/// row are an Error. The decision is made on the device.
///
/// Parameters are handles: load_state_dict and to() on the model are seen by the next step, which moves the optimizer's own
/// state after them.
/// Types:    parameters f32 and f64, also mixed; their state has their dtype.
/// Errors:   at construction OptionError "[adamw] lr must be finite and at least 0 but is nan"; DtypeError for another
///           dtype; AutogradError for a parameter that asks for no gradient.
/// Numerics: bitwise the same for any thread count.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;  // a copy would share the moments
  Optimizer& operator=(const Optimizer&) = delete;

  /// Updates from the gradients that plain backward calls left. They stay: call zero_grad() before the next backward.
  /// Errors: AutogradError when a gradient belongs to a window (then nothing is changed); Error for the
  ///         `max_skipped`-th skipped update in a row.
  void step();
  /// Updates from the gradients that this window's micro-batches left, divided by the window's denominator, and zeroes
  /// the optimizer's own gradients. The window itself is not touched: another optimizer may step with it too.
  /// Errors: as step(); AutogradError also when a gradient belongs to no window or another, or the window is empty.
  void step(const Window& window);
  /// Forgets the gradients of all parameters. The next backward overwrites them, which is cheaper than writing zeros
  /// here and adding there.
  void zero_grad();

  /// The learning rate of the next updates. Errors: OptionError unless finite and at least 0.
  void set_lr(double lr);
  double lr() const { return lr_; }

  /// Warns of updates that were skipped since the last call, and throws what went wrong on the device. On cpu and simt
  /// every step() does it; on cuda, where it waits for the device, call it where the loss is read.
  /// Errors: as step(); what the device's status word holds (tensor/status.h).
  void check();
  // On a GPU, reading any of these waits for the update.
  /// Norm of the last step's gradient, after scaling and before clipping; NaN or infinite when that was why it was
  /// skipped.
  double grad_norm() const { return read_scalars().norm; }
  std::int64_t updates() const { return read_scalars().updates; }  // steps asked for
  std::int64_t applied() const { return read_scalars().applied; }
  std::int64_t skipped() const {
    const kernels::StepState state = read_scalars();
    return state.updates - state.applied;
  }

  const std::vector<Tensor>& parameters() const { return parameters_; }
  /// Everything that the next update depends on besides parameters and options, by name: the moments in the order of
  /// the parameters ("0.m", "0.v", "1.m", ...), "step" i64 [P] (updates made to each parameter: AdamW's t), and
  /// "counters" i64 [5] (updates, applied, skipped for a zero denominator, skipped as not finite, skipped in a row).
  /// The tensors are the optimizer's own, not copies.
  std::vector<std::pair<std::string, Tensor>> state() const;
  /// Goes on from what state() of an optimizer like this one was, on whatever device. Skipped updates that it counts were
  /// told before and are not told again.
  /// Errors: Error naming the first entry that is missing, unknown, of another shape or dtype, or cannot be: a count below
  ///         0, more updates applied than made, or more to a parameter than applied. Nothing is changed then.
  void load_state(const std::vector<std::pair<std::string, Tensor>>& state);

 protected:
  /// What bounds an update.
  struct Limits {
    double lr;
    double max_norm;  // 0: no clipping
    int max_skipped;
  };
  /// `moments` names the state tensors of each parameter, at most two; they start as zeros.
  Optimizer(const char* name, std::vector<Tensor> parameters, const Limits& limits, std::vector<const char*> moments);
  Optimizer(Optimizer&&) = default;
  Optimizer& operator=(Optimizer&&) = default;

 private:
  /// Runs the optimizer's kernel.
  virtual void update(Device device, const kernels::UpdateTable& table, const kernels::StepState* state) = 0;

  void gather(std::uint64_t window);
  void run(const double* denominator);
  void follow_parameters();
  kernels::StepState* scalars() const { return reinterpret_cast<kernels::StepState*>(scalars_.raw_data()); }
  kernels::StepState read_scalars() const;
  void write_lr();

  const char* name_;
  std::vector<Tensor> parameters_;
  std::vector<const char*> moment_names_;
  std::vector<Tensor> moments_;  // those of parameter p at p * moment_names_.size()
  Tensor steps_;                 // i64 [P]
  Tensor scalars_;               // i64 [kStepStateWords], a kernels::StepState
  double lr_;
  double max_norm_;
  int max_skipped_;
  std::int64_t skipped_reported_ = 0;
  // Reused by every update, so that none allocates:
  kernels::UpdateTable table_;
  std::vector<std::size_t> updated_;  // the parameters in the table
  Tensor partial_;                    // f64, workspace of grad_norm
};

/// Throws OptionError "[name] option must be finite and at least 0 but is ..." unless it is.
void require_non_negative(const char* name, const char* option, double value);
/// Throws OptionError "[name] option must be in [0, 1) but is ..." unless it is.
void require_fraction(const char* name, const char* option, double value);

}  // namespace weft::optim
