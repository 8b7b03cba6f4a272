// LayerNorm backward. The kernels, and how they read x and dy once: kernels/common/row_norm_backward.h.
#include "kernels/common/row_norm_backward.h"
#include "kernels/layer_norm.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

RowNormBackward rows_of(const LayerNormBackward& args) {
  return {.dtype = args.dtype,
          .rows = args.rows,
          .channels = args.channels,
          .x = args.x,
          .gamma = args.gamma,
          .dy = args.dy,
          .mean = args.mean,
          .rstd = args.rstd,
          .dx = args.dx,
          .dgamma = args.dgamma,
          .dbeta = args.dbeta,
          .dgamma_mode = args.dgamma_mode,
          .dbeta_mode = args.dbeta_mode,
          .partials = args.partials};
}

const Variant<LayerNormBackward> kVariants[] = {
    {"registers", "rows and their columns' sums in registers",
     [](const LayerNormBackward& args) { return fits_registers(rows_of(args)); },
     [](const Stream& stream, const LayerNormBackward& args) { run_registers<RowNorm::layer>(stream, rows_of(args)); }},
    {"wide", "rows in registers, the columns' sums in shared memory",
     [](const LayerNormBackward& args) { return fits_wide<RowNorm::layer>(rows_of(args)); },
     [](const Stream& stream, const LayerNormBackward& args) { run_wide<RowNorm::layer>(stream, rows_of(args)); }},
    {"reread", "two passes: sums of the rows, then dx and sums of the columns",
     [](const LayerNormBackward&) { return true; },
     [](const Stream& stream, const LayerNormBackward& args) { run_reread<RowNorm::layer>(stream, rows_of(args)); }},
};

}  // namespace

std::span<const Variant<LayerNormBackward>> layer_norm_backward_variants() { return kVariants; }

void layer_norm_backward(const Stream& stream, const LayerNormBackward& args) {
  run_variant("layer_norm", layer_norm_backward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
