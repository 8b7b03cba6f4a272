#pragma once
// The kernels' side of tensor/status.h.
#include "kernels/common/device.h"
#include "tensor/status.h"

namespace weft::kernels::WEFT_BACKEND {

/// Whether something went wrong on the device and the host has not thrown it yet. Null: nobody reports. One thread of a
/// block asks and tells the others: another stream may set the word at any time.
WEFT_DEVICE bool is_set(const DeviceStatus* status WEFT_SITE) {
  return status != nullptr && load_one(&status->code WEFT_PASS_SITE) != 0;
}

/// Notes what went wrong, unless something else was noted before.
WEFT_DEVICE void report(DeviceStatus* status, StatusCode code, std::int64_t row, std::int64_t value,
                        std::int64_t bound WEFT_SITE) {
  if (status == nullptr) return;
  if (atomic_compare_and_swap(&status->code, 0, static_cast<std::int32_t>(code) WEFT_PASS_SITE) != 0) return;
  store_one(&status->row, row WEFT_PASS_SITE);
  store_one(&status->value, value WEFT_PASS_SITE);
  store_one(&status->bound, bound WEFT_PASS_SITE);
}

}  // namespace weft::kernels::WEFT_BACKEND
