#pragma once
// DLPack: tensors handed to and taken from other libraries without a copy. The structs are those of the ABI, version 1.x.
#include <cstdint>

#include "tensor/tensor.h"

namespace weft::dlpack {

/// Where memory lies (DLDeviceType). What is not listed is refused by name of its number.
enum class DeviceType : std::int32_t { cpu = 1, cuda = 2, cuda_host = 3, cuda_managed = 13 };
/// What an element is (DLDataTypeCode); `bits` says how wide.
enum class TypeCode : std::uint8_t { integer = 0, unsigned_integer = 1, floating = 2, bfloat = 4, boolean = 6 };

/// DLDevice.
struct DLDevice {
  DeviceType type;
  std::int32_t id;
};
/// DLDataType.
struct DLDataType {
  TypeCode code;
  std::uint8_t bits;
  std::uint16_t lanes;  // 1; more is a vector per element, which is refused
};
/// DLTensor.
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; nullptr: row-major without gaps
  std::uint64_t byte_offset;
};
/// DLManagedTensor, the form before version 1.
struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);
};
/// DLPackVersion.
struct DLPackVersion {
  std::uint32_t major;
  std::uint32_t minor;
};
/// Flag of DLManagedTensorVersioned: the memory must not be written.
inline constexpr std::uint64_t kReadOnly = 1;
/// The producer made a copy for this consumer.
inline constexpr std::uint64_t kIsCopied = 2;
/// DLManagedTensorVersioned. Another major version may have another layout behind `deleter`.
struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned* self);
  std::uint64_t flags;
  DLTensor dl_tensor;
};

/// What is done with memory that its producer marked as read-only.
enum class ReadOnly : std::uint8_t { refuse, copy };

/// Hands a tensor out, without a copy: version 1.0, no flags. The storage lives until the consumer has called the deleter, which
/// it must do exactly once.
/// Layout:  any, strided and expanded views too; byte_offset is 0, `data` points at the first element.
/// Types:   all; bf16 as bfloat 16, bool as boolean 8.
/// Errors:  AutogradError for a tensor that autograd follows, whose values would change unseen: hand out detach(tensor).
///          DeviceError for simt, whose memory no other library can use: copy it to the cpu.
/// Note:    on cuda the work enqueued so far in the current stream must be waited for before the consumer reads, by an event or
///          a synchronisation: DLPack's structs carry no stream.
/// Source:  https://dmlc.github.io/dlpack/latest, c_api and python_spec.
DLManagedTensorVersioned* to_dlpack(const Tensor& tensor);
/// The same in the form before version 1.
DLManagedTensor* to_dlpack_legacy(const Tensor& tensor);

/// Takes a tensor over, without a copy; the deleter is called once, when the last tensor lets go of the memory, or before this
/// throws.
/// Types:   floats of 16, 32, 64 bits, bfloat 16, integers of 32 and 64, unsigned of 8, boolean 8; one lane.
/// Layout:  any strides from 0 up.
/// Devices: cpu and pinned host memory (cuda_host) are cpu; cuda is cuda. Managed memory is refused, as it would be ambiguous.
/// Params:  read_only: weft's tensors can all be written, so that memory marked as read-only is refused or copied (cpu only).
/// Errors:  OptionError for a null pointer, another major version (of which nothing but the deleter is touched) or read-only memory;
///          DtypeError, DeviceError, ShapeError for what weft has no match for: more than 8 dimensions, negative extents or
///          strides, sizes beyond 2^63 bytes, misaligned elements.
Tensor from_dlpack(DLManagedTensorVersioned* managed, ReadOnly read_only = ReadOnly::refuse);
/// The same from the form before version 1, which knows no flags.
Tensor from_dlpack(DLManagedTensor* managed);

}  // namespace weft::dlpack
