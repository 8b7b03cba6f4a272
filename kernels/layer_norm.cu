// LayerNorm forward. The kernels, and how they keep a row on chip: kernels/common/row_norm.h.
#include "kernels/layer_norm.h"

#include "kernels/common/row_norm.h"

namespace weft::kernels::WEFT_BACKEND {
namespace {

RowNormForward rows_of(const LayerNormForward& args) {
  return {.dtype = args.dtype,
          .rows = args.rows,
          .channels = args.channels,
          .eps = args.eps,
          .x = args.x,
          .gamma = args.gamma,
          .beta = args.beta,
          .y = args.y,
          .mean = args.mean,
          .rstd = args.rstd};
}

const Variant<LayerNormForward> kVariants[] = {
    {"registers", "the row in registers: a part of a warp, a warp or a block per row",
     [](const LayerNormForward& args) { return fits_registers<RowNorm::layer>(rows_of(args)); },
     [](const Stream& stream, const LayerNormForward& args) { run_registers<RowNorm::layer>(stream, rows_of(args)); }},
    {"shared", "the row in shared memory, a block per row",
     [](const LayerNormForward& args) { return fits_shared(rows_of(args)); },
     [](const Stream& stream, const LayerNormForward& args) { run_wide<RowNorm::layer, true>(stream, rows_of(args)); }},
    {"reread", "the row read three times, a block per row", [](const LayerNormForward&) { return true; },
     [](const Stream& stream, const LayerNormForward& args) {
       run_wide<RowNorm::layer, false>(stream, rows_of(args));
     }},
};

}  // namespace

std::span<const Variant<LayerNormForward>> layer_norm_forward_variants() { return kVariants; }

void layer_norm_forward(const Stream& stream, const LayerNormForward& args) {
  run_variant("layer_norm", layer_norm_forward_variants(), stream, args);
}

}  // namespace weft::kernels::WEFT_BACKEND
