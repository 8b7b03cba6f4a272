// RmsNorm backward. The kernels, and how they read x and dy once: kernels/common/row_norm_backward.h.
#include "kernels/common/row_norm_backward.h"
#include "kernels/rms_norm.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

RowNormBackward rows_of(const RmsNormBackward& args) {
  return {.dtype = args.dtype,
          .rows = args.rows,
          .channels = args.channels,
          .x = args.x,
          .gamma = args.gamma,
          .dy = args.dy,
          .mean = nullptr,
          .rstd = args.rrms,
          .dx = args.dx,
          .dgamma = args.dgamma,
          .dbeta = nullptr,
          .dgamma_mode = args.dgamma_mode,
          .dbeta_mode = Accumulate::overwrite,
          .partials = args.partials};
}

const Variant<RmsNormBackward> kVariants[] = {
    {"registers", "rows and their columns' sums in registers",
     [](const RmsNormBackward& args) { return fits_registers(rows_of(args)); },
     [](const Stream& stream, const RmsNormBackward& args) { run_registers<RowNorm::rms>(stream, rows_of(args)); }},
    {"wide", "rows in registers, the columns' sums in shared memory",
     [](const RmsNormBackward& args) { return fits_wide<RowNorm::rms>(rows_of(args)); },
     [](const Stream& stream, const RmsNormBackward& args) { run_wide<RowNorm::rms>(stream, rows_of(args)); }},
    {"reread", "two passes: sums of the rows, then dx and sums of the columns",
     [](const RmsNormBackward&) { return true; },
     [](const Stream& stream, const RmsNormBackward& args) { run_reread<RowNorm::rms>(stream, rows_of(args)); }},
};

}  // namespace

std::span<const Variant<RmsNormBackward>> rms_norm_backward_variants() { return kVariants; }

void rms_norm_backward(const Stream& stream, const RmsNormBackward& args) {
  run_variant("rms_norm", rms_norm_backward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
