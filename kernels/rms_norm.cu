// RmsNorm forward. The kernels, and how they keep a row on chip: kernels/common/row_norm.h.
#include "kernels/rms_norm.h"

#include "kernels/common/row_norm.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

RowNormForward rows_of(const RmsNormForward& args) {
  return {.dtype = args.dtype,
          .rows = args.rows,
          .channels = args.channels,
          .eps = args.eps,
          .x = args.x,
          .gamma = args.gamma,
          .beta = nullptr,
          .y = args.y,
          .mean = nullptr,
          .rstd = args.rrms};
}

const Variant<RmsNormForward> kVariants[] = {
    {"registers", "the row in registers: a part of a warp, a warp or a block per row",
     [](const RmsNormForward& args) { return fits_registers<RowNorm::rms>(rows_of(args)); },
     [](const Stream& stream, const RmsNormForward& args) { run_registers<RowNorm::rms>(stream, rows_of(args)); }},
    {"shared", "the row in shared memory, a block per row",
     [](const RmsNormForward& args) { return fits_shared(rows_of(args)); },
     [](const Stream& stream, const RmsNormForward& args) { run_wide<RowNorm::rms, true>(stream, rows_of(args)); }},
    {"reread", "the row read twice, a block per row", [](const RmsNormForward&) { return true; },
     [](const Stream& stream, const RmsNormForward& args) { run_wide<RowNorm::rms, false>(stream, rows_of(args)); }},
};

}  // namespace

std::span<const Variant<RmsNormForward>> rms_norm_forward_variants() { return kVariants; }

void rms_norm_forward(const Stream& stream, const RmsNormForward& args) {
  run_variant("rms_norm", rms_norm_forward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
